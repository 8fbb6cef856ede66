"""Azure Storage: the real Azurite, and before it what Azurite leaves out, a check of each token's signature."""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import time

from entra import TENANT
from machine import TESTS, install
from stand_ins import Authority, Server, as_json, door
from tokens import verify

AUDIENCE = "https://storage.azure.com"
SUFFIX = "blob.core.windows.net"
# What a proxy decides for each of its two connections by itself: RFC 9110, section 7.6.1.
OWN_HEADERS = {"connection", "keep-alive", "transfer-encoding"}


def installed():
    """The folder with Azurite in `node_modules` and `bin/azcopy`."""
    pinned = [TESTS / "e2e/storage" / name for name in ("package.json", "package-lock.json")]

    def make(folder):
        for path in pinned:
            shutil.copy(path, folder)
        install.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        program = folder / "node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64"
        # Packed without the right to run it.
        program.chmod(0o755)
        (folder / "bin").mkdir()
        os.link(program, folder / "bin/azcopy")

    return install.cached("storage", pinned, make)


class Azurite:
    """Runs on the loopback until `close`, with what it keeps in memory."""

    def __init__(self, account, authority, log):
        certificate, key = authority.issue("127.0.0.1")
        main = installed() / "node_modules/azurite/dist/src/blob/main.js"
        command = ["node", main, "--blobHost=127.0.0.1", "--blobPort=0", "--oauth=basic", f"--cert={certificate}",
                   f"--key={key}", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
        accounts = {"AZURITE_ACCOUNTS": f"{account}:{base64.b64encode(b'nobody uses this key').decode()}"}
        with log.open("w") as file:
            self.process = subprocess.Popen(command, env=os.environ | accounts, stdout=file, stderr=file)
        self.host, self.tls = f"{account}.{SUFFIX}", ssl.create_default_context(cafile=authority.ca)
        try:
            self.port = self.told_port(log)
        except AssertionError:
            self.close()
            raise

    def told_port(self, log):
        """The port of its own choice, once it says that it listens there."""
        deadline = time.monotonic() + 60
        while not (found := re.search(r"listens on https://127\.0\.0\.1:(\d+)", log.read_text())):
            assert self.process.poll() is None, f"Azurite has ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"Azurite does not listen: {log.read_text()}"
            time.sleep(0.05)
        return int(found[1])

    def ask(self, method, path, headers, body):
        """Status, headers and body of an answer to the account's host."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=20)
        with contextlib.closing(connection):
            kept = {name: value for name, value in headers.items() if name.lower() not in OWN_HEADERS | {"host"}}
            connection.request(method, path, body or None, kept | {"Host": self.host})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def put(self, path, token, content=b"", **headers):
        """Makes a container, or a blob with this content, as whoever a token says."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        own = {"Authorization": f"Bearer {token}", "x-ms-version": "2021-12-02", "Content-Length": str(len(content))}
        return self.ask("PUT", path, own | headers, content)

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=10)


class Gate:
    """Lets through to Azurite whoever has a token of an identity that is allowed."""

    def __init__(self, azurite, keys, allowed):
        self.azurite, self.keys, self.allowed = azurite, keys, set(allowed)
        # The claims of the tokens that were let through, and why others were not.
        self.taken, self.refused = [], []

    def answer(self, method, path, headers, body):
        if "Authorization" not in headers:
            # azcopy tries first whether the blobs are for everybody.
            return as_json(401, {"error": {"code": "NoAuthenticationInformation"}}, WWW_Authenticate="Bearer")
        try:
            token = headers["Authorization"].removeprefix("Bearer ")
            claims = verify(token, self.keys(), TENANT, AUDIENCE)
            assert claims["appid"] in self.allowed, f"{claims['appid']} is not allowed"
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            self.refused.append(str(error))
            return as_json(403, {"error": {"code": "AuthorizationFailure", "message": str(error)}})
        self.taken.append(claims)
        status, found, content = self.azurite.ask(method, path, headers, body)
        return status, {name: value for name, value in found.items() if name.lower() not in OWN_HEADERS}, content


def unsigned(**claims):
    """A token that says who one is, and proves nothing."""
    now = int(time.time())
    times = {"iat": now, "nbf": now, "exp": now + 600}
    claims = {"aud": AUDIENCE, "iss": f"https://sts.windows.net/{TENANT}/"} | times | claims
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    return ".".join([base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts] + [""])


@contextlib.contextmanager
def account(t, name, allowed, blobs):
    """A storage account that has these blobs ("container/name" to content), behind its gate."""
    authority = Authority(t.cluster.folder / "stand-ins")
    with contextlib.ExitStack() as open_things:
        azurite = Azurite(name, authority, t.cluster.folder / f"{name}.log")
        open_things.callback(azurite.close)
        for blob, content in blobs.items():
            # Azurite takes it: this is what the gate is for.
            azurite.put(f"/{blob.partition('/')[0]}?restype=container", unsigned())
            status, _, text = azurite.put(f"/{blob}", unsigned(), content, x_ms_blob_type="BlockBlob")
            assert status == 201, f"Azurite answers {status} {text}"
        gate = Gate(azurite, t.cluster.entra.keys, allowed)
        server = Server(t.cluster.host, authority, [azurite.host], gate.answer)
        open_things.callback(server.close)
        gate.host, gate.address, gate.port, gate.ca = azurite.host, door(t, name, server.port), server.port, authority.ca
        yield gate
