"""Has the real az log in and get a token: `az.py PYTHON SELECTOR…`, output as in ../node/client.js.

`az login --identity` goes on to ask Azure Resource Manager for subscriptions. A stand-in answers,
since there is no network, and sees the token that az presents.
"""

import http.server
import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import threading

TENANT = "7e000000-0000-4000-8000-000000000001"
SUBSCRIPTION = "5b000000-0000-4000-8000-000000000000"
FLAGS = {"client_id": "--client-id", "object_id": "--object-id", "resource_id": "--resource-id"}


class ResourceManager(http.server.BaseHTTPRequestHandler):
    """One tenant with one subscription."""

    seen = []

    def do_GET(self):
        self.seen.append(self.headers.get("Authorization", ""))
        path = self.path.partition("?")[0].rstrip("/")
        thing = {"id": f"/subscriptions/{SUBSCRIPTION}", "subscriptionId": SUBSCRIPTION, "tenantId": TENANT,
                 "displayName": "test", "state": "Enabled"}
        body = json.dumps({"value": [thing]} if path.endswith(("/subscriptions", "/tenants")) else thing).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(folder):
    certificate, key = folder / "arm.crt", folder / "arm.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=arm",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ResourceManager)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://127.0.0.1:{server.server_port}", certificate


def main():
    python, *selectors = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        url, certificate = serve(pathlib.Path(folder))
        own = {"AZURE_CONFIG_DIR": f"{folder}/az", "REQUESTS_CA_BUNDLE": str(certificate), "AZURE_CORE_COLLECT_TELEMETRY": "0"}
        environment = os.environ | own

        def az(*args):
            ended = subprocess.run([python, "-m", "azure.cli", *args], env=environment, text=True, capture_output=True)
            if ended.returncode:
                raise RuntimeError(f"az {args[0]} {args[1]} ends with {ended.returncode}: {ended.stderr.strip()[-400:]}")
            return ended.stdout

        az("cloud", "register", "--name=test", "--skip-endpoint-discovery",
           f"--endpoint-resource-manager={url}", f"--endpoint-active-directory={url}",
           "--endpoint-active-directory-resource-id=https://management.core.windows.net/")
        az("cloud", "set", "--name=test")
        for selector in selectors:
            name, _, value = selector.partition("=")
            try:
                ResourceManager.seen.clear()
                az("login", "--identity", *([FLAGS[name], value] if value else []))
                presented = {seen.removeprefix("Bearer ") for seen in ResourceManager.seen}
                resource = os.environ["SCOPE"].removesuffix("/.default")
                got = json.loads(az("account", "get-access-token", f"--resource={resource}"))
                line = {"token": got["accessToken"], "expires_on": got["expires_on"], "presented": sorted(presented)}
            except RuntimeError as error:
                line = {"error": str(error)}
            print(json.dumps({"selector": name, **line}), flush=True)


main()
