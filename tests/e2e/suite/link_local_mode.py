"""Pods whose applications know nothing but the address of Azure's metadata service."""

import json
import subprocess

from harness import container, restricted, test
from network import OF_THE_NODE, ask_metadata, is_nodes, metadata_service, network_of, node

ANNOTATIONS = {"imdslet.dev/endpoint": "link-local"}
CLIENT = "serve --link-local"


def addresses(t):
    """The IPv4 addresses of the node, and those of the machine that it runs on."""
    command = ["ip", "-4", "-oneline", "address"]
    node = ["nsenter", f"--net=/run/netns/{t.cluster.netns}", *command]
    lists = [subprocess.run(one, check=True, capture_output=True, text=True).stdout for one in (node, command)]
    return [[tuple(line.split()[1:4]) for line in text.splitlines()] for text in lists]


def rehearsed(t, namespace=None, **spec):
    """What a pod in link-local mode would be."""
    return t.rehearsed(annotations=ANNOTATIONS, namespace=namespace, **spec)


@test
def clients_that_know_only_azures_own_address_get_tokens_and_the_node_keeps_its_addresses(t):
    before = addresses(t)
    t.bound()
    # An author who lets nobody be root, and an application as confined as can be.
    t.pod(
        annotations=ANNOTATIONS,
        securityContext={"runAsNonRoot": True, "runAsUser": 1000},
        initContainers=[container("once --link-local", "first")],
        containers=[container(CLIENT), container(CLIENT, "confined", securityContext=restricted())],
    )
    for name in ("app", "confined", "first"):
        t.verified("app", name)
    pod = t.api.get("Pod", t.namespace, "app")
    spec = pod["spec"]
    names = [one["name"] for one in spec["initContainers"]]
    assert names == ["imdslet-address", "imdslet", "first"], names
    variables = [one["name"] for each in spec["containers"] for one in each.get("env", [])]
    assert not variables, f"the applications have {variables}"
    ended = pod["status"]["initContainerStatuses"][0]["state"].get("terminated", {})
    assert ended.get("exitCode") == 0, pod["status"]["initContainerStatuses"][0]

    # A pod in the other mode, on the same node, meets nobody at that address.
    t.pod("neighbour", containers=[container(CLIENT)])
    answer = t.first_answer("neighbour")
    assert answer["status"] == 0, answer
    assert addresses(t) == before, f"{addresses(t)} and before {before}"


@test
def where_azures_metadata_service_answers_only_pods_in_link_local_mode_meet_their_own(t):
    with metadata_service(t):
        before = addresses(t)
        t.bound()
        t.pod(annotations=ANNOTATIONS, containers=[container(CLIENT)])
        t.pod("variables")
        t.pod("plain", opted_in=False, containers=[container(CLIENT)])
        t.verified()
        # By its variables a pod is served too, and at the address it meets whom it met before.
        t.verified("variables")
        assert t.first_answer("plain")["body"] == json.loads(OF_THE_NODE), t.first_answer("plain")
        networks = {name: network_of(t, name) for name in ("variables", "plain")} | {"the node": node(t)}
        for who, network in networks.items():
            assert is_nodes(ask_metadata(network)), f"{who} is answered {ask_metadata(network)}"
        code, status, body = ask_metadata(network_of(t))
        assert (code, status) == (0, 200) and not is_nodes((code, status, body)), f"{code} {status} {body}"
        assert addresses(t) == before, f"{addresses(t)} and before {before}"


@test
def in_link_local_mode_one_container_has_one_capability_and_ends(t):
    t.bound()
    spec = rehearsed(t)["spec"]
    address, sidecar = spec["initContainers"]
    asked = lambda one: {key: one["securityContext"].get(key) for key in ("runAsUser", "capabilities", "privileged")}
    assert asked(address) == {
        "runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "privileged": None}, address
    assert asked(sidecar) == {"runAsUser": 2579, "capabilities": {"drop": ["ALL"]}, "privileged": None}, sidecar
    assert "restartPolicy" not in address and sidecar["restartPolicy"] == "Always"
    assert "volumeMounts" not in address or not any(
        mount["name"] == "imdslet" for mount in address["volumeMounts"]), address
    sysctls = spec["securityContext"]["sysctls"]
    assert sysctls == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}], sysctls


@test
def link_local_mode_is_refused_where_pod_security_asks_for_the_baseline(t):
    t.bound()
    for level in ("baseline", "restricted"):
        namespace = t.make_namespace({"pod-security.kubernetes.io/enforce": level}, f"{t.namespace}-{level}")
        denied = t.cluster.is_denied(
            lambda: rehearsed(t, namespace, containers=[container(securityContext=restricted())]),
            "imdslet-address", "NET_ADMIN")
        assert denied, f"admitted where {level} is enforced"


@test
def on_the_network_of_a_node_the_address_is_not_added(t):
    before = addresses(t)
    t.bound()
    # The webhook adds nothing to such a pod; somebody may do so by hand.
    spec = rehearsed(t, hostNetwork=True)["spec"]
    assert "initContainers" not in spec, spec["initContainers"]
    address = rehearsed(t)["spec"]["initContainers"][0]
    address = {key: value for key, value in address.items() if key not in ("volumeMounts", "terminationMessagePath")}
    t.pod(opted_in=False, hostNetwork=True, restartPolicy="Never", containers=[address])

    def ended():
        statuses = t.api.get("Pod", t.namespace, "app").get("status", {}).get("containerStatuses", [])
        return [one["state"]["terminated"] for one in statuses if "terminated" in one["state"]]

    end = t.eventually("imdslet-address ends", ended)[0]
    log = t.api.logs(t.namespace, "app", address["name"])
    assert end["exitCode"] == 1 and "a node's network" in log, f"{end} {log}"
    assert addresses(t) == before, f"{addresses(t)} and before {before}"
