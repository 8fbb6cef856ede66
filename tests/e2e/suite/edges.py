"""The edges of pods: odd users, quotas, shared namespaces, what other webhooks do, what is left alone."""

import pathlib

from admission import adds
from harness import CLIENT_IMAGE, container, restricted, test
from second_webhook import second_webhook

SIDECAR = "imdslet"


def sidecar_of(pod):
    return next(one for one in pod["spec"]["initContainers"] if one["name"] == SIDECAR)


def amounts(cpu, memory):
    return {"cpu": cpu, "memory": memory}


@test
def a_limit_range_and_a_quota_admit_the_sidecar_within_their_bounds(t):
    t.bound()
    own = {"requests": amounts("100m", "64Mi"), "limits": amounts("100m", "64Mi")}
    limits = [{"type": "Container", "min": amounts("60m", "48Mi"), "max": amounts("1", "256Mi"),
               "maxLimitRequestRatio": {"memory": "1"}}]
    t.create("LimitRange", "range", {"limits": limits})
    is_within = lambda: sidecar_of(
        t.rehearsed(containers=[container(resources=own)]))["resources"]["requests"] == amounts("60m", "48Mi")
    t.eventually("the sidecar has the least that is allowed", is_within, 20)
    t.pod(containers=[container(resources=own)])
    t.verified()

    quota = t.make_namespace(name=f"{t.namespace}-quota")
    hard = {"requests.cpu": "1", "limits.cpu": "1", "requests.memory": "256Mi", "limits.memory": "256Mi", "pods": "3"}
    t.create("ResourceQuota", "quota", {"hard": hard}, quota)
    counted = lambda: t.api.get("ResourceQuota", quota, "quota").get("status", {}).get("used")
    t.eventually("the quota counts", counted, 20)
    t.cluster.entra.trust(t.client_id, quota)
    # Less than limits asked for, so that the pod is no Guaranteed one.
    burst = {"requests": amounts("50m", "32Mi"), "limits": amounts("200m", "64Mi")}
    t.pod(namespace=quota, containers=[container(resources=burst)])
    t.verified(namespace=quota)
    assert counted()["limits.cpu"] == "300m" and counted()["limits.memory"] == "80Mi", counted()


@test
def the_quality_of_service_of_a_pod_stays_unless_it_had_none(t):
    t.bound()
    classes = {
        "Guaranteed": ({"requests": amounts("100m", "32Mi"), "limits": amounts("100m", "32Mi")}, "Guaranteed"),
        "Burstable": ({"requests": amounts("10m", "16Mi")}, "Burstable"),
        # A sidecar without a request would be the first one that a full node ends.
        "BestEffort": ({}, "Burstable"),
    }
    found = {}
    for name, (resources, _) in classes.items():
        plain = t.api.json("POST", t.api.path("Pod", t.namespace, dryRun="All"), body={
            "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "plain", "namespace": t.namespace},
            "spec": {"containers": [container(resources=resources)]}})
        assert plain["status"]["qosClass"] == name, plain["status"]
        found[name] = t.rehearsed(containers=[container(resources=resources)])["status"]["qosClass"]
    assert found == {name: expected for name, (_, expected) in classes.items()}, found
    t.pod(containers=[container(resources=classes["Guaranteed"][0])])
    t.verified()


@test
def whatever_user_a_pod_runs_as_its_sidecar_reads_its_files_and_gives_a_token(t):
    t.bound()
    highest = 2**31 - 1
    pods = {
        "high": {"securityContext": {"runAsUser": highest, "runAsGroup": highest, "fsGroup": highest}},
        "root": {"securityContext": {"runAsUser": 0, "runAsGroup": 0}},
        "same-as-the-sidecar": {"securityContext": {"runAsUser": 2579, "runAsGroup": 2579}},
        "groups": {"securityContext": {"fsGroup": 2000, "supplementalGroups": [3000], "runAsNonRoot": True}},
        "read-only-root": {"containers": [container(securityContext={"readOnlyRootFilesystem": True})]},
        "no-kubernetes-token": {"automountServiceAccountToken": False},
    }
    for name, spec in pods.items():
        t.pod(name, **spec)
    for name in pods:
        t.verified(name)
    for name, spec in pods.items():
        found = t.api.get("Pod", t.namespace, name)["spec"]
        assert found["securityContext"] == spec.get("securityContext", {}), f"{name}: {found['securityContext']}"
    volumes = [one["name"] for one in found["volumes"]]
    assert volumes == [SIDECAR], f"no token of Kubernetes was asked for, and the volumes are {volumes}"


@test
def a_neighbour_in_a_shared_process_namespace_reads_nothing_of_the_sidecar(t):
    t.bound()
    users = {
        # Whoever may say whom he runs as may run as the sidecar's user.
        "same-user": {"runAsUser": 2579, "runAsGroup": 2579},
        "another-user": {"runAsUser": 1000},
        "root": {"runAsUser": 0},
        "confined": restricted(),
    }
    spies = [container("spy", name, securityContext=context) for name, context in users.items()]
    t.pod(shareProcessNamespace=True, restartPolicy="Never", containers=[container(), *spies])
    t.verified()
    for name in users:
        found = lambda: [one for one in t.lines("app", name) if "found" in one]
        told = t.eventually(f"{name} has looked", found, 60)[0]
        assert told.pop("found"), f"{name} has not seen the sidecar"
        # So that the others mean something.
        assert told.pop("own") == "read", told
        tried = {key: value for key, value in told.items() if key != "at"}
        assert set(tried) == {"environ", "maps", "mem", "fd", "root", "token"}, tried
        assert set(tried.values()) == {"PermissionDenied"}, f"{name}: {tried}"


@test
def a_pod_with_users_of_its_own_is_admitted_as_it_is(t):
    """The tests' container runtime cannot run such a pod, so this says nothing of its kubelet."""
    t.bound()
    pod = t.rehearsed(hostUsers=False)
    assert pod["spec"]["hostUsers"] is False, pod["spec"]
    assert sidecar_of(pod)["securityContext"]["runAsUser"] == 2579, pod["spec"]


@test
def a_container_that_another_webhook_adds_before_gets_a_token_too(t):
    t.bound()
    early = {"name": "early", "image": CLIENT_IMAGE, "args": ["serve"]}
    with second_webhook(t.cluster, early, name="aa-e2e-first"):
        t.eventually("the API server knows the other webhook", lambda: adds(t, "early"), 20)
        t.pod(labels={"e2e": "second"})
    t.verified("app", "app")
    t.verified("app", "early")


@test
def an_init_container_that_another_webhook_puts_before_the_sidecar_is_reported(t):
    t.bound()
    mesh = {"name": "mesh", "image": CLIENT_IMAGE, "args": ["once"]}
    with second_webhook(t.cluster, mesh, place="/spec/initContainers/0"):
        metadata = {"name": "app", "namespace": t.namespace, "labels": {"aadpodidbinding": t.label, "e2e": "second"}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container()]}}
        told = lambda: t.cluster.apply([pod], "--dry-run=server").stderr
        words = "init container `mesh` runs before imdslet and finds no token endpoint"
        t.eventually("whoever applies it is warned", lambda: words in told(), 20)
        names = [one["name"] for one in t.rehearsed({"e2e": "second"})["spec"]["initContainers"]]
    assert names == ["mesh", SIDECAR], names


@test
def host_network_and_windows_pods_are_left_alone_with_a_warning_and_an_event(t):
    t.bound()
    # Nobody schedules it: there is no such node.
    specs = {"host": {"hostNetwork": True}, "windows": {"os": {"name": "windows"}, "schedulerName": "nobody"}}
    pods = [{"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container()], **spec},
             "metadata": {"name": name, "namespace": t.namespace, "labels": {"aadpodidbinding": t.label}}}
            for name, spec in specs.items()]
    warnings = t.cluster.apply(pods).stderr
    for words in ("imdslet leaves this pod alone: it uses the node's network", "imdslet leaves this pod alone: it runs on Windows"):
        assert words in warnings, warnings
    for name in specs:
        pod = t.api.get("Pod", t.namespace, name)
        assert "initContainers" not in pod["spec"] and "env" not in pod["spec"]["containers"][0], pod["spec"]

        def told():
            events = t.api.list("Event", t.namespace, fieldSelector=f"involvedObject.name={name}")
            return [one for one in events if one["reason"] == "NotInjected"]

        t.eventually(f"an Event on {name}", told, 30)
    assert t.first_answer("host")["error"] == "IDENTITY_ENDPOINT is not set"


@test
def a_pod_without_ipv6_gets_its_token(t):
    """An unsafe sysctl takes IPv6 away, which the tests' kubelet allows (cluster/inner.sh)."""
    t.bound()
    off = {"sysctls": [{"name": "net.ipv6.conf.all.disable_ipv6", "value": "1"}]}
    t.pod("with")
    t.pod("without", securityContext=off)
    for name in ("with", "without"):
        t.verified(name)
    addresses = lambda name: pathlib.Path(f"/proc/{t.processes('app', name)[0]}/net/if_inet6").read_text()
    assert " lo\n" in addresses("with"), "this machine has no IPv6 at all"
    assert not addresses("without"), addresses("without")
