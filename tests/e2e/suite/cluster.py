"""The cluster that `run` has started: imdslet is installed in it as an operator would."""

import contextlib
import csv
import json
import os
import pathlib
import subprocess
import time

from entra import TENANT, Entra
from harness import SYSTEM
from kube import MERGE, Api, Refused

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEPLOYMENTS = ("imdslet-webhook", "imdslet-controller")
ADMIN = "admin"


def selector(deployment):
    return ",".join(f"{key}={value}" for key, value in deployment["spec"]["selector"]["matchLabels"].items())


class Cluster:
    """What `run` has told in the environment, and what stands on it."""

    def __init__(self):
        env = os.environ
        self.state = pathlib.Path(env["K8S_STATE"])
        self.kubectl = [f"{env['K8S_BIN']}/kubectl", "--kubeconfig", env["K8S_KUBECONFIG"]]
        self.link, self.netns = env["K8S_LINK"], env["K8S_NAME"]
        self.host = f"{self.link}.2"
        with (self.state / "pki/tokens.csv").open() as file:
            token = next(row[0] for row in csv.reader(file) if row[1] == ADMIN)
        self.api = Api(f"https://{env['K8S_NET']}.1:{env['K8S_PORT']}", self.state / "pki/ca.crt", token)
        jwks = self.api.text("GET", "openid/v1/jwks")
        self.folder = pathlib.Path(env["E2E_WORK"])
        self.entra = Entra(env["IMDSLET"], self.folder, self.host, env["K8S_ISSUER"], jwks)

    def ctr(self, *words):
        """Asks the node's containerd."""
        command = ["ctr", "-a", f"{self.state}/run/containerd.sock", "-n", "k8s.io", *words]
        subprocess.run(command, check=True, capture_output=True)

    def load(self, *archives):
        """Gives images to the node."""
        for archive in archives:
            self.ctr("images", "import", archive)

    def run(self, *words):
        """What kubectl says."""
        return subprocess.run([*self.kubectl, *words], check=True, capture_output=True, text=True).stdout

    def read(self, manifest):
        """The objects of a YAML file."""
        text = self.run("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", manifest)
        decoder, things, at = json.JSONDecoder(), [], 0
        while at < len(text.rstrip()):
            thing, at = decoder.raw_decode(text, at)
            at += len(text[at:]) - len(text[at:].lstrip())
            things += thing["items"] if thing["kind"] == "List" else [thing]
        return things

    def apply(self, things, *flags, check=True):
        return self.feed(things, "apply", *flags, check=check)

    def remove(self, things):
        """Deletes them, and comes back when they are gone."""
        self.feed(things, "delete", "--ignore-not-found")

    def feed(self, things, *words, check=True):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
        return subprocess.run([*self.kubectl, *words, "-f", "-"], input=text, text=True, check=check,
                              capture_output=True)

    def settings(self):
        """What an operator writes into the ConfigMap imdslet-config."""
        return {
            "AZURE_TENANT_ID": TENANT,
            "AZURE_AUTHORITY_HOST": self.entra.url,
            "IMDSLET_EXTRA_CA": "/etc/imdslet/extra-ca/ca.crt",
        }

    def manifest(self, path=ROOT / "manifests/install.yaml"):
        """The objects of an install.yaml, with the settings of this cluster."""
        things = self.read(path)
        for thing in things:
            if thing["kind"] == "ConfigMap":
                thing["data"] |= self.settings()
        extra_ca = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": self.entra.ca},
                    "metadata": {"name": "imdslet-extra-ca", "namespace": SYSTEM}}
        # After the namespace, and before those who wait for it.
        return [things[0], extra_ca, *things[1:]]

    def install(self):
        """install.yaml, with the settings of this cluster; everything is ready afterwards."""
        done = self.apply(self.manifest(), check=False)
        assert done.returncode == 0, f"install.yaml is not accepted: {done.stderr}"
        assert not done.stderr, f"install.yaml is accepted with warnings: {done.stderr}"
        for name in DEPLOYMENTS:
            self.wait_for_rollout(name)

    def set(self, **settings):
        """Changes settings and restarts the programs with them."""
        self.api.patch("ConfigMap", SYSTEM, "imdslet-config", {"data": settings})
        for name in DEPLOYMENTS:
            self.restart(name)
        for name in DEPLOYMENTS:
            self.wait_for_rollout(name)

    def restart(self, name):
        annotations = {"e2e/restarted": str(time.time())}
        change = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
        self.api.patch("Deployment", SYSTEM, name, change)

    def scale(self, name, replicas):
        path = self.api.path("Deployment", SYSTEM, name, "scale")
        self.api.json("PATCH", path, body={"spec": {"replicas": replicas}}, content_type=MERGE)

    def wait_for_rollout(self, name, namespace=SYSTEM, seconds=120):
        deadline = time.monotonic() + seconds
        while True:
            thing = self.api.get("Deployment", namespace, name)
            status, wanted = thing.get("status", {}), thing["spec"]["replicas"]
            counts = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
            is_done = status.get("observedGeneration") == thing["metadata"]["generation"] and counts == [wanted] * 3
            # Replicas that are told to end answer for some seconds more, with the settings they have.
            if is_done and len(self.api.list("Pod", namespace, labelSelector=selector(thing))) == wanted:
                return
            assert time.monotonic() < deadline, (
                f"{namespace}/{name} is not ready within {seconds} s: {status.get('conditions')}\n{self.logs(name)}"
            )
            time.sleep(0.1)

    def pods_of(self, name):
        return self.api.list("Pod", SYSTEM, labelSelector=f"app.kubernetes.io/name={name}")

    def logs(self, name, since=None):
        """What the replicas of a Deployment have said, as text; since a time, if given."""
        texts = []
        for pod in self.pods_of(name):
            query = {"sinceSeconds": max(1, int(time.time() - since) + 1)} if since else {}
            container = pod["spec"]["containers"][0]["name"]
            texts.append(self.api.logs(SYSTEM, pod["metadata"]["name"], container, **query))
        return "".join(texts)

    def events_logged(self, name, reason, since):
        """The logged events with a reason."""
        events = []
        for line in self.logs(name, since).splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("reason") == reason:
                events.append(event)
        return events

    def stop(self, component):
        """Kills one of Kubernetes' own programs, which stays away until `start`."""
        (self.state / "stopped" / component).touch()
        init = int((self.state / "init.pid").read_text())
        first = pathlib.Path(f"/proc/{init}/task/{init}/children").read_text().split()[0]
        number = (self.state / "pids" / component).read_text().strip()
        subprocess.run(["nsenter", f"--target={first}", "--pid", "kill", "-KILL", number], check=True)

    def start(self, component):
        (self.state / "stopped" / component).unlink()

    @contextlib.contextmanager
    def without(self, component):
        """While it lasts the kubelet or the container runtime is not there; afterwards it answers again."""
        self.stop(component)
        try:
            yield
        finally:
            self.start(component)
            deadline = time.monotonic() + 60
            while not self.answers(component):
                assert time.monotonic() < deadline, f"{component} is not back within 60 s"
                time.sleep(0.1)

    def answers(self, component):
        try:
            if component == "kubelet":
                self.api.text("GET", f"api/v1/nodes/{self.netns}/proxy/healthz")
            else:
                self.ctr("version")
        except (Refused, subprocess.CalledProcessError):
            return False
        return True

    def cut_off_entra(self):
        """From now on no pod can reach Entra ID."""
        self.iptables("-I")

    def reach_entra(self):
        self.iptables("-D", check=False)

    def iptables(self, what, check=True):
        rule = ["FORWARD", "-p", "tcp", "-d", self.host, "--dport", self.entra.url.rpartition(":")[2],
                "-j", "REJECT", "--reject-with", "tcp-reset"]
        command = ["nsenter", f"--net=/run/netns/{self.netns}", "iptables", "-w", what, *rule]
        subprocess.run(command, check=check, capture_output=True)

    def is_denied(self, action, *words):
        """Whether an action is refused with all these words."""
        try:
            action()
        except Refused as error:
            missing = [word for word in words if word not in error.message]
            assert not missing, f"refused without saying {missing}: {error}"
            return True
        return False
