"""Runs the programs of another architecture under qemu: `qemu.py QEMU SIDECAR WEBHOOK`, in a network of its own.

The sidecar gives a token of the emulator of Entra ID, which is verified; the webhook admits a pod over TLS. Called by `run`.
"""

import base64
import http.client
import json
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/clients/suite"), str(ROOT / "tests/bench")]
from pod import TENANT, Pod, identity  # noqa: E402
from process import until  # noqa: E402
from report import Report  # noqa: E402
from tokens import verify  # noqa: E402

QEMU, SIDECAR, WEBHOOK = sys.argv[1:4]
VAULT = "https://vault.azure.net"
# An emulated program is slow to start beside others.
PATIENCE = 60


class Program:
    """A program under qemu, which is ended with the block."""

    def __init__(self, log, program, *args, environment=None):
        self.log = log
        self.process = subprocess.Popen([QEMU, program, *args], env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def events(self):
        assert self.process.poll() is None, f"it has ended: {self.log.read_text()}"
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]

    def listening(self):
        return [event for event in self.events() if event.get("message") == "listening"]

    def end(self):
        """Asks it to end; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def the_sidecar_gives_a_token(folder):
    pod = Pod(folder / "pod", {})
    try:
        args = [re.sub("^--dir=.*", f"--dir={pod.volume}", arg) for arg in pod.container("imdslet")["args"]]
        with Program(folder / "sidecar.log", SIDECAR, *args, environment=pod.environment("imdslet")) as sidecar:
            until("the sidecar listens", sidecar.listening, PATIENCE)
            port = next(arg.partition("=")[2] for arg in args if arg.startswith("--port="))
            probe = subprocess.run([QEMU, SIDECAR, "probe", f"--port={port}"], capture_output=True, text=True, timeout=PATIENCE)
            assert probe.returncode == 0, probe
            for name in ("first", "second"):
                client = identity(name)["client_id"]
                url = f"http://127.0.0.1:{port}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={VAULT}&client_id={client}"
                status, answer = pod.ask(url, Metadata="true")
                assert status == 200, answer
                verify(answer["access_token"], pod.entra.keys(), TENANT, VAULT, client)
            assert sidecar.end() == 0, sidecar.log.read_text()
    finally:
        pod.close()


def the_webhook_admits_a_pod(folder):
    pod = Pod(folder / "pod", {})
    try:
        things = pod.objects["items"]
        manifests, ca = folder / "objects.json", folder / "webhook.pem"
        manifests.write_text(json.dumps(pod.objects | {"items": [one for one in things if one["kind"] != "Pod"]}))
        args = [f"--manifests={manifests}", "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0", f"--ca-out={ca}", f"--tenant-id={TENANT}"]
        with Program(folder / "webhook.log", WEBHOOK, *args) as webhook:
            admission = lambda: next((one["addr"] for one in webhook.listening() if one.get("server") == "admission"), None)
            patch = admitted(until("the webhook listens", admission, PATIENCE), ca, next(one for one in things if one["kind"] == "Pod"))
            assert '"name":"imdslet"' in patch and identity("first")["client_id"] in patch, patch
            assert webhook.end() == 0, webhook.log.read_text()
    finally:
        pod.close()


def admitted(address, ca, pod):
    """The patch that the webhook answers, as the text that it is."""
    request = {"uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "web",
               "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    connection = http.client.HTTPSConnection(address, timeout=PATIENCE, context=ssl.create_default_context(cafile=ca))
    connection.request("POST", "/mutate", json.dumps(review), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())["response"]
    assert answer["allowed"] and answer["patchType"] == "JSONPatch", answer
    return base64.b64decode(answer["patch"]).decode()


def main():
    report = Report([])
    for test in (the_sidecar_gives_a_token, the_webhook_admits_a_pod):
        with tempfile.TemporaryDirectory() as folder:
            report.check(f"{pathlib.Path(QEMU).name}: {test.__name__}", test, pathlib.Path(folder))
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
