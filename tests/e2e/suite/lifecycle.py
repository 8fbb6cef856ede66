"""What restarts, is upgraded and goes: running pods keep their tokens. The last test takes imdslet away."""

import json
import subprocess
import tempfile
import time

from cluster import DEPLOYMENTS, ROOT
from entra import FRESH
from harness import SYSTEM, container, scenario, test
from outages import Stream
from switch import guide, shell

ENDPOINT = "http://127.0.0.1:2579/metadata/identity/oauth2/token?api-version=2018-02-01&resource="
# A tag of the same program: what is tried is how one takes the place of another.
NEXT = "next"


def ask_inside(process, resource="https://vault.azure.net"):
    """The answer of a pod's sidecar, asked in the network of one of the pod's processes: no kubelet is needed."""
    command = ["nsenter", f"--net=/proc/{process}/ns/net", "curl", "-sS", "--max-time", "10", "-H", "Metadata: true",
               "-w", "\n%{http_code}", ENDPOINT + resource]
    body, _, status = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rpartition("\n")
    return int(status), json.loads(body)


def restarts(t, pod="app"):
    """How often each container of a pod was started again."""
    status = t.api.get("Pod", t.namespace, pod)["status"]
    statuses = status.get("initContainerStatuses", []) + status["containerStatuses"]
    return {one["name"]: one["restartCount"] for one in statuses}


@test
def a_sidecar_that_is_killed_is_back_for_the_next_request_and_the_application_stays(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    for process in t.processes("imdslet"):
        subprocess.run(["kill", "-KILL", str(process)], check=True)
    killed = time.time()
    t.eventually("the kubelet starts it again", lambda: restarts(t) == {"imdslet": 1, "app": 0}, 60)
    after = t.eventually("a token of the new one", lambda: t.answers_since(killed + 0.2, status=200), 20)[0]["at"] / 1000 - killed
    t.note(f"a token {after:.2f} s after it was killed")
    # It follows its binding as the first one did.
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    gone = time.time()
    told = lambda: t.answers_since(gone, status=400)
    t.eventually("the next request is refused", told, 20)


@test
def pods_keep_their_tokens_while_kubelet_and_container_runtime_restart(t):
    t.bound()
    t.pod()
    t.verified()
    process = t.processes("app")[0]
    counts = restarts(t)
    fresh = iter(FRESH)
    for component in ("kubelet", "containerd"):
        with t.cluster.without(component):
            for _ in range(5):
                # Another resource each time: none of these tokens is held yet.
                status, body = ask_inside(process, next(fresh))
                assert status == 200, f"without {component}: {status} {body}"
                time.sleep(0.2)
        back = time.time()
        name = f"after-{component}"
        t.pod(name)
        t.verified(name)
        t.note(f"{component}: a new pod has a token {t.first_answer(name)['at'] / 1000 - back:.1f} s after it was back")
    assert restarts(t) == counts, f"{restarts(t)} and before {counts}"
    assert t.processes("app") == [process], "the application was started again"


@test
def a_binding_that_goes_while_the_kubelet_is_away_is_followed_when_it_is_back(t):
    t.bound()
    t.pod()
    t.verified()
    process = t.processes("app")[0]
    with t.cluster.without("kubelet"):
        t.api.delete("AzureIdentityBinding", t.namespace, "binding")
        annotation = lambda: json.loads(
            t.api.get("Pod", t.namespace, "app")["metadata"]["annotations"]["imdslet.dev/identities"])
        t.eventually("the annotation is written", lambda: not annotation()["identities"], 20)
        assert ask_inside(process)[0] == 200, "nobody has told the sidecar yet"
    back = time.time()
    t.eventually("the sidecar refuses", lambda: ask_inside(process)[0] == 400, 60)
    t.note(f"refused {time.time() - back:.1f} s after the kubelet was back")


def images():
    """The programs' images by name, and what they are called under the tag NEXT."""
    lines = (ROOT / "manifests/install.yaml").read_text().splitlines()
    words = [word for line in lines if not line.lstrip().startswith("#") for word in line.split()]
    now = sorted({word for word in words if word.startswith(("imdslet-webhook:", "imdslet-sidecar:"))})
    assert len(now) == 2, f"install.yaml names {now}"
    return {name.partition(":")[0]: (name, f"{name.partition(':')[0]}:{NEXT}") for name in now}


def run_version(t, webhook, sidecar):
    """Rolls out other images, as an operator who has edited install.yaml."""
    t.api.patch("ConfigMap", SYSTEM, "imdslet-config", {"data": {"IMDSLET_SIDECAR_IMAGE": sidecar}})
    for name in DEPLOYMENTS:
        patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": webhook}]
        path = t.api.path("Deployment", SYSTEM, name)
        t.api.json("PATCH", path, body=patch, content_type="application/json-patch+json")
    for name in DEPLOYMENTS:
        t.cluster.wait_for_rollout(name)


@scenario(17)
@test
def an_upgrade_and_the_way_back_while_pods_are_created_fail_none_and_leave_running_pods_alone(t):
    t.bound()
    t.pod("before", containers=[container("loop")])
    t.verified("before")
    versions = images()
    for now, later in versions.values():
        t.cluster.ctr("images", "tag", "--force", f"docker.io/library/{now}", f"docker.io/library/{later}")
    began = time.time()
    sidecar_of = lambda pod: t.api.get("Pod", t.namespace, pod)["spec"]["initContainers"][0]["image"]
    try:
        with Stream(t):
            run_version(t, versions["imdslet-webhook"][1], versions["imdslet-sidecar"][1])
            t.pod("upgraded", containers=[container("loop")])
            t.verified("upgraded")
            assert sidecar_of("upgraded") == versions["imdslet-sidecar"][1], sidecar_of("upgraded")
            run_version(t, versions["imdslet-webhook"][0], versions["imdslet-sidecar"][0])
    finally:
        run_version(t, versions["imdslet-webhook"][0], versions["imdslet-sidecar"][0])
    t.pod("after")
    t.verified("after")
    assert sidecar_of("before") == sidecar_of("after") == versions["imdslet-sidecar"][0]
    for pod in ("before", "upgraded"):
        assert not t.refused(pod, began), t.refused(pod, began)[0]
        assert set(restarts(t, pod).values()) == {0}, restarts(t, pod)
    # Both follow what the controller writes now.
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    gone = time.time()
    for pod in ("before", "upgraded"):
        t.eventually(f"{pod} is refused", lambda: t.refused(pod, gone), 30)


def leftovers(t):
    """What is in the cluster and has imdslet's name or was made by it, but for Events."""
    kinds = t.cluster.run("api-resources", "--verbs=list", "--output=name").split()
    kinds = ",".join(kind for kind in kinds if not kind.startswith("events"))
    get = lambda *more: t.cluster.run(
        "get", kinds, "--all-namespaces", "--output=name", "--ignore-not-found", *more).split()
    return [name for name in get() if "imdslet" in name] + get("--selector=app.kubernetes.io/managed-by=imdslet")


@test
def uninstalled_as_documented_it_leaves_nothing_and_takes_no_token_from_a_running_pod(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    process = t.processes("app")[0]
    t.eventually("what it has is shown", lambda: t.api.list("AzureAssignedIdentity", t.namespace), 20)
    things = t.cluster.read(ROOT / "manifests/install.yaml")
    definitions = [one for one in things if one["kind"] == "CustomResourceDefinition"]
    began = time.time()
    try:
        t.api.delete("MutatingWebhookConfiguration", None, "imdslet")
        t.cluster.remove([one for one in things if one not in definitions])
        # They only show, and would go with their pods.
        t.cluster.run("delete", "azureassignedidentity", "--all-namespaces", "-l", "app.kubernetes.io/managed-by=imdslet")
        t.note(f"gone within {time.time() - began:.1f} s")
        left = leftovers(t)
        assert not left, left
        t.pod("plain")
        assert "initContainers" not in t.api.get("Pod", t.namespace, "plain")["spec"]
        status, body = ask_inside(process, FRESH[0])
        assert status == 200, f"a token that was not held: {status} {body}"
        assert t.api.list("AzureIdentity", t.namespace), "the identities are kept"
        t.cluster.remove(definitions)
        assert not leftovers(t), leftovers(t)
        kinds = t.cluster.run("api-resources", "--output=name").split()
        assert not [kind for kind in kinds if "aadpodidentity" in kind], kinds
        assert not t.refused(since=began), t.refused(since=began)[0]
    finally:
        t.cluster.install()
    # And whoever installs it again finds it as new.
    t.identity()
    t.bind()
    t.pod("again")
    t.verified("again")


@test
def uninstalled_as_the_guide_has_it_everything_is_gone_but_the_custom_resources(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    kinds = ("CustomResourceDefinition", "AzureIdentity", "AzureIdentityBinding")
    # Those of other tests' namespaces may be on their way out.
    kept = lambda: [one["metadata"]["uid"] for kind in kinds for one in t.api.list(kind, t.namespace)]
    before, began = kept(), time.time()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for commands in guide(uninstalled_as_the_guide_has_it_everything_is_gone_but_the_custom_resources):
                shell(commands, folder)
        assert kept() == before, "custom resources are gone"
        assert not leftovers(t), leftovers(t)
        gone = time.time()
        t.eventually("a token after that", lambda: t.answers_since(gone, status=200), 20)
        assert not t.refused(since=began), t.refused(since=began)[0]
    finally:
        t.cluster.install()
