"""A made-up pod in the network namespace of this process: what `imdslet inject` gives it, its
folder, its sidecar, and an Entra ID beside it."""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
# The stand-in for Entra ID and the check of a token are those of the tests on a cluster.
sys.path.insert(0, str(ROOT / "tests/e2e/suite"))
from entra import AUDIENCE, TENANT, Entra  # noqa: E402

PROGRAMS = pathlib.Path(os.environ.get("IMDSLET_PROGRAMS", ROOT / "target/release"))
ISSUER = "https://issuer.example"
UID = "d0000000-0000-4000-8000-000000000001"
NUMBERS = {"first": 1, "second": 2}
SIDECAR_USER = "2579"


def identity(name):
    """The ids of an identity, by selector."""
    number = NUMBERS[name]
    return {
        "client_id": f"c0000000-0000-4000-8000-{number:012}",
        "object_id": f"b0000000-0000-4000-8000-{number:012}",
        "resource_id": "/subscriptions/5b000000-0000-4000-8000-000000000000/resourcegroups/rg"
        f"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}",
    }


def manifest(annotations):
    """A pod with two identities; the one that is named `first` is its default."""
    things = []
    for name in NUMBERS:
        ids = identity(name)
        metadata = {"name": name, "namespace": "web"}
        own = metadata | {"annotations": {"imdslet.dev/object-id": ids["object_id"]}}
        group = {"apiVersion": "aadpodidentity.k8s.io/v1"}
        spec = {"type": 0, "clientID": ids["client_id"], "resourceID": ids["resource_id"]}
        things.append(group | {"kind": "AzureIdentity", "metadata": own, "spec": spec})
        spec = {"azureIdentity": name, "selector": "app"}
        things.append(group | {"kind": "AzureIdentityBinding", "metadata": metadata, "spec": spec})
    metadata = {"name": "app", "namespace": "web", "labels": {"aadpodidbinding": "app"}, "annotations": annotations}
    spec = {"containers": [{"name": "app", "image": "app:1"}]}
    things.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return {"apiVersion": "v1", "kind": "List", "items": things}


def injected(authority, ca_file, annotations):
    """The pod as the webhook would make it."""
    command = [PROGRAMS / "imdslet", "inject", "-o=json", "-f=-", f"--tenant-id={TENANT}"]
    command += [f"--authority={authority}", f"--extra-ca={ca_file}"]
    ended = subprocess.run(command, input=json.dumps(manifest(annotations)), text=True, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    items = json.loads(ended.stdout)["items"]
    return next(thing for thing in items if thing["kind"] == "Pod")


class Issuer:
    """Signs service account tokens as a cluster does."""

    def __init__(self, folder):
        self.key = folder / "issuer.pem"
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.key)
        modulus = openssl("rsa", "-in", self.key, "-noout", "-modulus").decode().strip().partition("=")[2]
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "e": "AQAB", "n": encode(bytes.fromhex(modulus))}
        self.jwks = json.dumps({"keys": [key]})

    def token(self):
        now = int(time.time())
        subject = "system:serviceaccount:web:default"
        claims = {"iss": ISSUER, "sub": subject, "aud": [AUDIENCE], "iat": now, "nbf": now, "exp": now + 3600}
        parts = ({"alg": "RS256", "typ": "JWT", "kid": "1"}, claims)
        signed = ".".join(encode(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{encode(openssl('dgst', '-sha256', '-sign', self.key, data=signed.encode()))}"


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*args, data=None):
    ended = subprocess.run(["openssl", *map(str, args)], input=data, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


def run(*command, **options):
    return subprocess.run([str(part) for part in command], text=True, capture_output=True, timeout=60, **options)


class Pod:
    """A pod that runs, with its own Entra ID beside it: no route leads out of its network."""

    def __init__(self, folder, annotations):
        folder.mkdir()
        self.folder = folder
        self.processes = []
        issuer = Issuer(folder)
        self.entra = Entra(PROGRAMS / "imdslet", folder, "127.0.0.1", ISSUER, issuer.jwks)
        for name in NUMBERS:
            self.entra.trust(identity(name)["client_id"], "web")
        self.objects = manifest(annotations)
        self.spec = injected(self.entra.url, folder / "entra-ca.crt", annotations)
        self.lay_folder(issuer.token())

    def lay_folder(self, token):
        """The projected volume as the kubelet lays it out."""
        self.volume = self.folder / "volume"
        (self.volume / "..1").mkdir(parents=True)
        (self.volume / "..data").symlink_to("..1")
        content = {"identities.json": self.spec["metadata"]["annotations"]["imdslet.dev/identities"], "token": token}
        for name, text in content.items():
            (self.volume / "..1" / name).write_text(text)
            (self.volume / name).symlink_to(f"..data/{name}")
        # The sidecar is somebody else.
        for path in (self.folder, self.folder.parent):
            path.chmod(0o755)

    def container(self, name):
        spec = self.spec["spec"]
        return next(one for one in spec["initContainers"] + spec["containers"] if one["name"] == name)

    def environment(self, name):
        """A container's variables, with the pod's own uid where they refer to it."""
        return {one["name"]: one.get("value", UID) for one in self.container(name).get("env", [])}

    def set_sysctls(self):
        for one in self.spec["spec"].get("securityContext", {}).get("sysctls", []):
            done = run("sysctl", "-qw", f"{one['name']}={one['value']}")
            assert done.returncode == 0, done.stderr

    def add_address(self):
        """Runs `imdslet-address` with what its security context leaves it: NET_ADMIN alone."""
        context = self.container("imdslet-address")["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}, context
        return self.run_address("-all,+net_admin")

    def run_address(self, capabilities):
        keep = ["setpriv", f"--bounding-set={capabilities}", "--inh-caps=-all", "--no-new-privs"]
        return run(*keep, PROGRAMS / "imdslet-sidecar", *self.container("imdslet-address")["args"])

    def start_sidecar(self, user=SIDECAR_USER):
        """Starts it with the arguments of its container, and without a single capability."""
        args = [re.sub("^--dir=.*", f"--dir={self.volume}", arg) for arg in self.container("imdslet")["args"]]
        drop = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--clear-groups"]
        who = ["setpriv", "--pdeathsig=KILL", f"--reuid={user}", f"--regid={user}", *drop]
        command = [*who, str(PROGRAMS / "imdslet-sidecar"), *args]
        self.log = self.folder / "sidecar.log"
        with self.log.open("w") as log:
            self.sidecar = subprocess.Popen(command, env=self.environment("imdslet"), stdout=log, stderr=log)
        self.processes.append(self.sidecar)
        deadline = time.monotonic() + 20
        expected = 3 if "--link-local" in args else 2
        while self.log.read_text().count('"message":"listening"') < expected:
            assert self.sidecar.poll() is None, f"the sidecar has ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"the sidecar does not listen: {self.log.read_text()}"
            time.sleep(0.02)

    def ask(self, url, **headers):
        """Status and body of a GET from inside the pod."""
        lines = [part for name, value in headers.items() for part in ("-H", f"{name.replace('_', '-')}: {value}")]
        done = run("curl", "-s", "-w", "\n%{http_code}", *lines, url)
        assert done.returncode == 0, f"{url}: curl ends with {done.returncode} {done.stderr}"
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    def close(self):
        for process in self.processes:
            process.terminate()
            process.wait(timeout=10)
        self.entra.stop()
