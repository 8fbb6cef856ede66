"""The NetworkPolicies of the chart, where they hold: the node's network enforces them for as long as a test lasts."""

import contextlib
import json
import os
import subprocess
import urllib.parse

from cluster import DEPLOYMENTS, ROOT
from entra import TENANT
from harness import SYSTEM, container, shows, test
from link_local_mode import ANNOTATIONS, CLIENT
from network import REFUSED, ask, ask_metadata, is_nodes, metadata_service, network_of, node, policies_hold, running

HTTPS, HEALTH, METRICS = 8443, 8080, 9464
# A port of the programs' pods that no program of ours has: somebody listens there for the test.
OTHER = 9999


def rendered(**values):
    """The NetworkPolicies that the chart makes of these values, and nothing else of it."""
    command = [os.environ["HELM"], "template", "imdslet", ROOT / "manifests/chart", f"--namespace={SYSTEM}",
               f"--kube-version={os.environ['K8S_VERSION']}", "--show-only=templates/network.yaml", "--values=-"]
    done = subprocess.run(command, input=json.dumps({"tenantId": TENANT} | values), capture_output=True, text=True)
    assert done.returncode == 0, f"helm template: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def chart_policies(t, **policies):
    """While it lasts they are in force, by what is set below `networkPolicies`."""
    with applied(t, rendered(networkPolicies=policies)):
        yield


def of_namespace(name):
    """A peer of a NetworkPolicy: the pods of a namespace."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


@contextlib.contextmanager
def applied(t, text):
    """NetworkPolicies, as YAML, while it lasts."""
    path = t.cluster.folder / "network.yaml"
    path.write_text(text)
    things = t.cluster.read(path)
    assert {one["kind"] for one in things} == {"NetworkPolicy"}, things
    t.cluster.apply(things)
    try:
        yield
    finally:
        t.cluster.remove(things)


@contextlib.contextmanager
def listening(t, network):
    """Somebody answers at the port OTHER of a pod."""
    empty = t.cluster.folder / "empty"
    empty.mkdir(exist_ok=True)
    command = ["python3", "-m", "http.server", str(OTHER), "--directory", empty]
    with running(command, t.cluster.folder / "listening.log", network):
        t.eventually("somebody listens", lambda: ask(network, f"http://127.0.0.1:{OTHER}/")[1] == 200, 20)
        yield


def replicas(t):
    """Address and network of one pod of each program of imdslet."""
    for name in DEPLOYMENTS:
        pod = t.cluster.pods_of(name)[0]
        one = pod["spec"]["containers"][0]["name"]
        yield name, pod["status"]["podIP"], network_of(t, pod["metadata"]["name"], one, SYSTEM)


@shows("NetworkPolicy")
@test
def behind_the_charts_policy_admission_probes_and_metrics_go_on_and_no_other_port_is_reached(t):
    t.bound()
    t.pod("asker", opted_in=False)
    # This machine stands for an API server that runs elsewhere; the cluster's own is on the node, which no policy
    # keeps from the node's pods.
    askers = {"a pod": network_of(t, "asker"), "another machine": None}
    pods = {name: (address, network) for name, address, network in replicas(t)}
    others = lambda: {(who, name): ask(network, f"http://{address}:{OTHER}/")[:2]
                      for who, network in askers.items() for name, (address, _) in pods.items()}
    everybody = lambda answer: set(others().values()) == {answer}
    with policies_hold(t), contextlib.ExitStack() as listeners:
        for _, network in pods.values():
            listeners.enter_context(listening(t, network))
        assert everybody((0, 200)), f"without a policy: {others()}"
        with chart_policies(t, create=True):
            t.eventually(f"nobody reaches port {OTHER}", lambda: everybody((REFUSED, 0)), 30)
            for who, network in askers.items():
                for name, (address, _) in pods.items():
                    code, status, _ = ask(network, f"http://{address}:{HEALTH}/readyz")
                    assert (code, status) == (0, 200), f"{who} asks {name} for its health: {code} {status}"
                    code, status, text = ask(network, f"http://{address}:{HEALTH}/metrics")
                    assert status == 200 and "imdslet_" in text, f"{who} asks {name} for metrics: {code} {status}"
                code, status, _ = ask(network, f"https://{pods['imdslet-webhook'][0]}:{HTTPS}/mutate")
                # A GET: whoever is told so has reached the program.
                assert (code, status) == (0, 405), f"{who} asks the webhook: {code} {status}"
            t.pod()
            t.verified()
            probes_go_on(t)


def probes_go_on(t):
    """The kubelet's probes decide whether new replicas are ready."""
    for name in DEPLOYMENTS:
        t.cluster.restart(name)
    for name in DEPLOYMENTS:
        t.cluster.wait_for_rollout(name)
    t.pod("after")
    t.verified("after")


@shows("NetworkPolicy")
@test
def metrics_of_the_programs_are_for_whom_the_chart_names_and_probes_and_admissions_go_on(t):
    t.bound()
    monitoring = t.make_namespace(name=f"{t.namespace}-monitoring")
    t.pod("asker", opted_in=False)
    t.pod("asker", opted_in=False, namespace=monitoring)
    named = network_of(t, "asker", namespace=monitoring)
    others = {"a pod": network_of(t, "asker"), "another machine": None}
    pods = {name: address for name, address, _ in replicas(t)}

    def metrics(network):
        return {name: ask(network, f"http://{address}:{HEALTH}/metrics")[:2] for name, address in pods.items()}

    with policies_hold(t), chart_policies(t, create=True, metricsFrom=[of_namespace(monitoring)]):
        refused = dict.fromkeys(pods, (REFUSED, 0))
        t.eventually("others do not read them", lambda: all(metrics(one) == refused for one in others.values()), 30)
        assert metrics(named) == dict.fromkeys(pods, (0, 200)), metrics(named)
        # A GET: whoever is told so has reached the program.
        for who, network in others.items():
            code, status, _ = ask(network, f"https://{pods['imdslet-webhook']}:{HTTPS}/mutate")
            assert (code, status) == (0, 405), f"{who} asks the webhook: {code} {status}"
        probes_go_on(t)


@shows("NetworkPolicy")
@test
def pods_that_are_kept_from_their_nodes_identities_have_their_own_in_both_modes(t):
    t.bound()
    elsewhere = t.make_namespace(name=f"{t.namespace}-elsewhere")
    t.pod("plain", opted_in=False)
    t.pod("plain", opted_in=False, namespace=elsewhere)
    kept, free = network_of(t, "plain"), network_of(t, "plain", namespace=elsewhere)
    with metadata_service(t), policies_hold(t):
        assert is_nodes(ask_metadata(kept)) and is_nodes(ask_metadata(free)), "without a policy"
        with chart_policies(t, denyNodeIdentity=[t.namespace]):
            t.eventually("the pod is kept from it", lambda: ask_metadata(kept)[0] == REFUSED, 30)
            for who, network in {"the node": node(t), "a pod elsewhere": free}.items():
                assert is_nodes(ask_metadata(network)), f"{who} is kept from it too: {ask_metadata(network)}"
            # All else is open: Entra ID beyond the node, and other pods.
            port = urllib.parse.urlsplit(t.cluster.entra.url).port
            assert ask(kept, f"https://{t.cluster.host}:{port}/")[0] == 0, "the pod is kept from Entra ID"
            health = t.cluster.pods_of("imdslet-webhook")[0]["status"]["podIP"]
            assert ask(kept, f"http://{health}:{HEALTH}/readyz")[1] == 200, "the pod is kept from another pod"
            # Nothing of that concerns what a pod serves itself on its own loopback, also at that address.
            t.pod("by-variables")
            t.pod("by-address", annotations=ANNOTATIONS, containers=[container(CLIENT)])
            t.verified("by-variables")
            t.verified("by-address")
            assert ask_metadata(network_of(t, "by-variables"))[0] == REFUSED, "a pod with a sidecar is not kept from it"
        t.eventually("the pod reaches it again", lambda: is_nodes(ask_metadata(kept)), 30)


def documented():
    """The policy for the metrics of sidecars that docs/operations.md gives."""
    blocks = (ROOT / "docs/operations.md").read_text().split("```")[1::2]
    (found,) = [block for block in blocks if "kind: NetworkPolicy" in block]
    return found


@shows("NetworkPolicy")
@test
def metrics_of_sidecars_are_for_the_namespace_that_the_policy_of_page_or_chart_names(t):
    t.bound()
    monitoring = t.make_namespace(name=f"{t.namespace}-monitoring")
    t.pod("asker", opted_in=False)
    t.pod("asker", opted_in=False, namespace=monitoring)
    other, named = network_of(t, "asker"), network_of(t, "asker", namespace=monitoring)
    t.cluster.set(IMDSLET_SIDECAR_METRICS_PORT=str(METRICS))
    try:
        t.pod()
        t.verified()
    finally:
        t.cluster.set(IMDSLET_SIDECAR_METRICS_PORT=None)
    address, own = t.api.get("Pod", t.namespace, "app")["status"]["podIP"], network_of(t)
    metrics = lambda network: ask(network, f"http://{address}:{METRICS}/metrics")[:2]
    page = documented().replace("NAMESPACE", t.namespace).replace("monitoring", monitoring)
    policies = {"sidecarMetrics": [t.namespace], "metricsFrom": [of_namespace(monitoring)]}
    with policies_hold(t), listening(t, own):
        for whose, policy in {"page": page, "chart": rendered(networkPolicies=policies, sidecar={"metricsPort": METRICS})}.items():
            t.eventually("without a policy all do", lambda: metrics(other) == metrics(named) == (0, 200), 30)
            with applied(t, policy):
                t.eventually(f"{whose}: others do not read them", lambda: metrics(other) == (REFUSED, 0), 30)
                assert metrics(named) == (0, 200), f"{whose}: nor does {monitoring}: {metrics(named)}"
                application = ask(other, f"http://{address}:{OTHER}/")
                assert application[:2] == (0, 200), f"{whose}: the application's own port: {application}"
                # The application itself, on its own loopback, and with the token that it is there for.
                assert ask(own, f"http://127.0.0.1:{METRICS}/metrics")[:2] == (0, 200), whose
                t.pod(f"after-{whose}")
                t.verified(f"after-{whose}")
