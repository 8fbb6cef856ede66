"""What a network has around pods: NetworkPolicies that hold, and Azure's metadata service beyond the node.

Neither is there but while a test wants it.
"""

import contextlib
import os
import subprocess

from machine import TESTS, install

METADATA = "169.254.169.254"
# Of both sides of the way to the metadata service: nobody else has it.
GATEWAY = "169.254.1.1"
TOKEN_PATH = "metadata/identity/oauth2/token"
# What Azure's own metadata service would give: a token of the node's identity.
OF_THE_NODE = '{"access_token": "of the node"}'
# curl's exit code where nobody listens, and where a policy says no.
REFUSED = 7


def enforcer():
    """The program that has the node hold NetworkPolicies."""
    source = TESTS / "e2e/network-policies"
    files = [source / name for name in ("go.mod", "go.sum", "main.go")]

    def make(folder):
        build = ["go", "build", "-mod=readonly", "-trimpath", "-o", folder / "network-policies", "."]
        install.run(*build, cwd=source, env=os.environ | {"CGO_ENABLED": "0"})

    return install.cached("network-policies", files, make) / "network-policies"


@contextlib.contextmanager
def running(command, log, netns):
    """A program in a network namespace; it ends with this one at the latest."""
    command = ["setpriv", "--pdeathsig=KILL", "nsenter", f"--net={netns}", *map(str, command)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
        assert process.poll() is None, f"{command[4]} has ended: {log.read_text()[-500:]}"
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def policies_hold(t):
    """While it lasts the node holds NetworkPolicies."""
    first = t.api.get("Service", "default", "kubernetes")["spec"]["clusterIP"]
    command = [enforcer(), f"--kubeconfig={os.environ['K8S_KUBECONFIG']}", f"--node={t.cluster.netns}",
               f"--services={first.rpartition('.')[0]}.0/24"]
    log = t.cluster.folder / "network-policies.log"
    with running(command, log, node(t)):
        yield
    # It takes its rules away as it ends.
    rules = subprocess.run(["nsenter", f"--net={node(t)}", "iptables-save"], check=True, capture_output=True, text=True)
    left = [line for line in rules.stdout.splitlines() if "KUBE-POD-FW" in line or "KUBE-NWPLCY" in line]
    assert not left, f"rules of network-policies are left: {left[:3]}"


@contextlib.contextmanager
def metadata_service(t):
    """While it lasts Azure's metadata service answers the node and its pods, as it would for an identity of the node.

    It stands beyond the node, as Azure's does, so that its address is none of the node's.
    """
    name, inside = f"{t.cluster.netns}-azure", f"/run/netns/{t.cluster.netns}-azure"
    folder = t.cluster.folder / "metadata"
    file = folder / TOKEN_PATH
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(OF_THE_NODE)
    ip = lambda *words: subprocess.run(["ip", *words], check=True, capture_output=True)
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "add", "azure1", "type", "veth", "peer", "name", "azure0", "netns", t.cluster.netns)
        for netns, link, address in ((t.cluster.netns, "azure0", GATEWAY), (name, "azure1", METADATA)):
            ip("-n", netns, "address", "add", f"{address}/32", "dev", link)
            ip("-n", netns, "link", "set", link, "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "route", "add", GATEWAY, "dev", "azure1")
        ip("-n", name, "route", "add", "default", "via", GATEWAY)
        ip("-n", t.cluster.netns, "route", "add", METADATA, "dev", "azure0")
        command = ["python3", "-m", "http.server", "80", "--bind", METADATA, "--directory", folder]
        with running(command, t.cluster.folder / "metadata.log", inside):
            t.eventually("the metadata service answers the node", lambda: is_nodes(ask_metadata(node(t))), 20)
            yield
    finally:
        # The other end of its link goes with it, and so does the route.
        ip("netns", "delete", name)


def node(t):
    """The network of the node."""
    return f"/run/netns/{t.cluster.netns}"


def network_of(t, pod="app", container="app", namespace=None):
    """The network of a pod, once it runs."""
    t.eventually(f"{pod} runs", lambda: t.api.find("Pod", namespace or t.namespace, pod)["status"].get("podIP"), 60)
    found = lambda: t.processes(container, pod, namespace)
    return f"/proc/{t.eventually(f'{pod} has a process', found, 60)[0]}/ns/net"


def ask(netns, url, *more):
    """Exit code of curl, status and body of a GET from a network; from this machine's own without one."""
    enter = ["nsenter", f"--net={netns}"] if netns else []
    curl = ["curl", "--silent", "--insecure", "--max-time", "5", "--write-out", "\n%{http_code}", *more, url]
    done = subprocess.run([*enter, *curl], capture_output=True, text=True)
    body, _, status = done.stdout.rpartition("\n")
    return done.returncode, int(status or 0), body


def ask_metadata(netns):
    """What somebody gets who asks the address of Azure's metadata service for a token."""
    query = "api-version=2018-02-01&resource=https://management.azure.com/"
    return ask(netns, f"http://{METADATA}/{TOKEN_PATH}?{query}", "--header", "Metadata: true")


def is_nodes(answer):
    """Whether the metadata service beyond the node has answered."""
    return answer == (0, 200, OF_THE_NODE)
