"""Measures the webhook. Called by `webhook`, which builds the programs."""

import concurrent.futures
import contextlib
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "e2e/suite"))
from kube import Api, Refused  # noqa: E402
from process import cpu, memory, table, until  # noqa: E402

CLUSTER = HERE.parent / "e2e/cluster"
MANIFESTS = HERE.parents[1] / "manifests"
WEBHOOK, LOAD = sys.argv[1:3]
GROUP = "aadpodidentity.k8s.io/v1"
MANY = 10_000
# As install.yaml has it.
ALLOCATOR = {"MIMALLOC_PURGE_DELAY": "0"}
SECONDS = 5
ROUNDS = 3


def objects(count):
    """As many identities, each with a binding; the pod of `review` is of the last one."""
    for number in range(count):
        name = f"identity-{number}"
        resource = (
            "/subscriptions/5b000000-0000-4000-8000-000000000000/resourcegroups/rg"
            f"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
        )
        spec = {"type": 0, "resourceID": resource, "clientID": f"c0000000-0000-4000-8000-{number:012}"}
        selector = "app" if number == count - 1 else name
        for kind, spec in (("AzureIdentity", spec),
                           ("AzureIdentityBinding", {"azureIdentity": name, "selector": selector})):
            yield {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def review():
    """An AdmissionReview of 6 KB, as the API server sends it for a pod of a Deployment."""
    env = [{"name": f"SETTING_{number}", "value": f"the value of setting {number}"} for number in range(12)]
    probe = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10}
    mount = {"name": "kube-api-access-x7k2p", "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    container = lambda name: {
        "name": name, "image": f"registry.example.com/team/{name}:1.2.3", "env": env, "livenessProbe": probe,
        "readinessProbe": probe, "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [mount], "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
    }
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "app-7d9f8b6c5-", "labels": {"app": "app", "aadpodidbinding": "app"}},
        "spec": {"containers": [container("app"), container("proxy")], "serviceAccountName": "default",
                 "initContainers": [container("migrate")], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"},
    }
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "default",
        "operation": "CREATE", "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod, "oldObject": None, "dryRun": False, "options": {},
    }
    text = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
    padding = 6 * 1024 - len(text) - len(', "annotations": {"note": ""}')
    pod["metadata"]["annotations"] = {"note": "x" * max(0, padding)}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})


class Server:
    """A server with its address, the CA that it is known by, and its process."""

    def __init__(self, folder, name, command, **environment):
        self.log = folder / f"{name}.log"
        self.began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ALLOCATOR | environment)
        self.ca = folder / f"{name}.pem"
        self.pid = self.process.pid

    def address(self, server="admission"):
        def found():
            for line in self.log.read_text().splitlines():
                if not line.startswith("{"):
                    return line
                event = json.loads(line)
                if event.get("message") == "listening" and event.get("server") == server:
                    return event["addr"]
            return None
        return until(f"{self.log} says where it listens", found, 60)

    def ask(self, body, seconds=SECONDS, clients=1, connections="keep"):
        """Answers, seconds, and what of the processor the server had."""
        before = cpu(self.pid)
        command = [LOAD, "ask", self.address(), self.ca, body, str(seconds), str(clients), connections]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        answers, took = text.split()
        return int(answers), float(took), cpu(self.pid).since(before)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def webhook(folder, name, count):
    """Admission by a file with so many identities and bindings."""
    manifests = folder / f"{name}.json"
    manifests.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": list(objects(count))}))
    command = [WEBHOOK, f"--manifests={manifests}", "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0",
               f"--ca-out={folder / name}.pem", "--tenant-id=contoso.example"]
    server = Server(folder, name, command)
    health = server.address("health")
    until("it is ready", lambda: is_ready(health), 60)
    return server


def is_ready(health):
    with contextlib.suppress(urllib.error.URLError, OSError):
        return urllib.request.urlopen(f"http://{health}/readyz", timeout=5).status == 200
    return False


def per_request(folder, body, rows):
    echo = lambda: Server(folder, "echo", [LOAD, "echo", folder / "echo.pem"])
    with echo() as plain, webhook(folder, "few", 10) as few, webhook(folder, "many", MANY) as many:
        servers = {"echo": plain, "few": few, "many": many}
        figures = {name: [] for name in servers}
        # In turns, so that all meet the same machine.
        for _ in range(ROUNDS):
            for name, server in servers.items():
                answers, _, used = server.ask(body)
                figures[name].append(used.each(answers))
        median = {name: sorted(values)[len(values) // 2] for name, values in figures.items()}
    of = lambda figure: f"{figure.all:.1f} µs, {figure.kernel:.1f} of it the kernel's"
    rows += [
        ("CPU of an admission of 6 KB, TLS kept alive, 10 bindings", of(median["few"]), "30 µs"),
        ("the same, of an echo of 6 KB over the same stack", of(median["echo"]), ""),
        ("admission ÷ echo", f"{median['few'].all / median['echo'].all:.2f}", "3"),
        (f"CPU of an admission, {MANY:,} identities and bindings", of(median["many"]), ""),
        (f"{MANY:,} bindings ÷ 10 bindings", f"{median['many'].all / median['few'].all:.2f}", "1.2"),
    ]


@contextlib.contextmanager
def limited(pid):
    """A tenth of a processor for a process, as `cpu: 100m` gives it."""
    v1 = pathlib.Path("/sys/fs/cgroup/cpu")
    group = (v1 if v1.is_dir() else pathlib.Path("/sys/fs/cgroup")) / f"imdslet-bench-{pid}"
    group.mkdir()
    try:
        if v1.is_dir():
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("10000")
        else:
            (group / "cpu.max").write_text("10000 100000")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def under_limit(folder, body, rows):
    for connections, what, goal in (("keep", "kept connections", "at least 2,000"), ("new", "a new TLS connection each", "at least 300")):
        with webhook(folder, "limited", 10) as server:
            with limited(server.pid):
                answers, took, _ = server.ask(body, 2 * SECONDS, 4, connections)
        rows.append((f"pods per second under a CPU limit of 100m, {what}", f"{answers / took:,.0f}", goal))


class ControlPlane:
    """An API server without a node, and imdslet's objects in it."""

    def __init__(self, folder):
        self.state = folder / "k8s"
        self.env = os.environ | {"K8S_NODE": "0", "K8S_STATE": str(self.state), "K8S_NAME": "imdsletbench",
                                 "K8S_PORT": "16443", "ETCD_PORT": "22379"}
        self.config = str(self.state / "admin.kubeconfig")

    def __enter__(self):
        subprocess.run([CLUSTER / "up.sh"], check=True, env=self.env, stdout=subprocess.DEVNULL)
        with (self.state / "pki/tokens.csv").open() as file:
            token = next(row[0] for row in csv.reader(file) if row[1] == "admin")
        self.api = Api("https://127.0.0.1:16443", self.state / "pki/ca.crt", token)
        self.install()
        return self

    def __exit__(self, *_):
        subprocess.run([CLUSTER / "down.sh"], check=False, env=self.env)

    def install(self):
        text = f". {CLUSTER}/env.sh; $K8S_BIN/kubectl --kubeconfig {self.config} apply --server-side -f {MANIFESTS}/install.yaml"
        subprocess.run(["bash", "-c", text], check=True, env=self.env, stdout=subprocess.DEVNULL)

    def fill(self):
        # Nobody is there to give advice.
        self.api.delete("ValidatingWebhookConfiguration", None, "imdslet")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for _ in pool.map(self.api.create, objects(MANY)):
                pass
        self.install()

    def webhook(self, folder, name):
        command = [WEBHOOK, "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0", "--tenant-id=contoso.example",
                   f"--ca-out={folder / name}.pem"]
        server = Server(folder, name, command, KUBECONFIG=self.config, POD_NAMESPACE="imdslet-system")
        health = server.address("health")
        until("it is ready", lambda: is_ready(health), 120)
        server.ready = time.monotonic() - server.began
        return server


def in_cluster(folder, body, rows):
    with ControlPlane(folder) as cluster:
        with cluster.webhook(folder, "first"):
            pass  # Makes the certificate.
        times = []
        for number in range(2 * ROUNDS):
            with cluster.webhook(folder, f"start-{number}") as server:
                times.append(server.ready * 1000)
                empty = memory(server.pid)
        rows.append(("start → ready, API server there, certificate in its Secret, no objects",
                     f"{statistics.median(times):.0f} ms (from {min(times):.0f})", "100 ms"))
        rows.append(("RSS when ready, no objects", f"{empty['VmRSS']:.1f} MiB, {empty['RssAnon']:.1f} of it its own", ""))
        cluster.fill()
        with cluster.webhook(folder, "filled") as server:
            server.ask(body)
            full = memory(server.pid)
        rows.append((f"RSS with {MANY:,} identities and {MANY:,} bindings, after a load",
                     f"{full['VmRSS']:.1f} MiB, {full['RssAnon']:.1f} of it its own; at most {full['VmHWM']:.1f}", "16 MiB"))


def main():
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o711)
        body = folder / "review.json"
        body.write_text(review())
        for part in (per_request, under_limit, in_cluster):
            try:
                part(folder, body, rows)
            except (AssertionError, OSError, Refused, subprocess.CalledProcessError) as error:
                rows.append((part.__name__.replace("_", " "), f"not measured: {error}", ""))
    print(f"load {os.getloadavg()[0]:.1f} at the end; review of {len(review()):,} bytes\n")
    table(rows)


if __name__ == "__main__":
    main()
