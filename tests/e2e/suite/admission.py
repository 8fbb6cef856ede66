"""What the webhook does to pods, and what it leaves alone."""

import time

from harness import CLIENT_IMAGE, container, test
from kube import Refused
from second_webhook import second_webhook


def survives(before, after, path="spec"):
    """Everything that is in `before` is in `after`; lists may have more, in the same order."""
    if isinstance(before, dict):
        for key, value in before.items():
            assert key in after, f"{path}.{key} is gone"
            survives(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and before and isinstance(before[0], dict) and "name" in before[0]:
        names = [one["name"] for one in after]
        for one in before:
            assert one["name"] in names, f"{path}[{one['name']}] is gone"
            survives(one, after[names.index(one["name"])], f"{path}[{one['name']}]")
    else:
        assert before == after, f"{path} is {after} and was {before}"


def without_names_of_its_own(pod):
    """The spec without the volume for Kubernetes' token, which has another name in each pod."""
    spec = pod["spec"]
    spec["volumes"] = [one for one in spec["volumes"] if not one["name"].startswith("kube-api-access")]
    for one in spec["containers"]:
        mounts = one.get("volumeMounts", [])
        one["volumeMounts"] = [mount for mount in mounts if not mount["name"].startswith("kube-api-access")]
    return spec


@test
def a_pod_without_the_label_is_left_alone(t):
    t.bound()
    t.pod(opted_in=False)
    pod = t.api.get("Pod", t.namespace, "app")
    assert "initContainers" not in pod["spec"], pod["spec"]
    assert "env" not in pod["spec"]["containers"][0], pod["spec"]
    assert not pod["metadata"].get("annotations"), pod["metadata"]
    answer = t.first_answer()
    assert answer["error"] == "IDENTITY_ENDPOINT is not set", answer


@test
def a_namespace_that_wants_no_injection_gets_none(t):
    t.bound({"imdslet.dev/injection": "disabled"})
    t.pod()
    assert "initContainers" not in t.api.get("Pod", t.namespace, "app")["spec"]


@test
def pull_secrets_of_the_sidecar_come_after_those_of_the_service_account(t):
    t.bound()
    t.cluster.set(IMDSLET_SIDECAR_PULL_SECRET="ours, theirs")
    try:
        # Of an account that is seen with its pull secrets or not at all: the API server looks at what it watches.
        t.create("ServiceAccount", "pulls", imagePullSecrets=[{"name": "theirs"}])
        t.eventually("the account is there", lambda: t.rehearsed(serviceAccountName="pulls"))
        t.pod(serviceAccountName="pulls")
    finally:
        t.cluster.set(IMDSLET_SIDECAR_PULL_SECRET=None)
    names = [one["name"] for one in t.api.get("Pod", t.namespace, "app")["spec"]["imagePullSecrets"]]
    assert names == ["theirs", "ours"], names
    # Neither Secret is there, and the images are: the kubelet tells of the former and starts them.
    t.eventually("the pod runs", lambda: t.api.get("Pod", t.namespace, "app")["status"]["phase"] == "Running")


@test
def what_the_author_wrote_survives_also_fields_that_are_newer_than_the_webhook(t):
    t.bound()
    spec = {
        # Resources of the whole pod: beta in 1.34.
        "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "1", "memory": "128Mi"}},
        # Alpha in 1.34, and on in the tests' API server (cluster/env.sh).
        "hostnameOverride": "override",
        "setHostnameAsFQDN": False,
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "readinessGates": [{"conditionType": "example.com/gate"}],
        "securityContext": {"fsGroup": 2000, "supplementalGroups": [3000]},
        "volumes": [{"name": "own", "emptyDir": {"sizeLimit": "1Mi"}}],
        "containers": [container(
            env=[{"name": "OWN", "value": "1"}],
            resizePolicy=[{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
            volumeMounts=[{"name": "own", "mountPath": "/own"}],
        )],
    }
    t.pod("plain", opted_in=False, **spec)
    t.pod("app", **spec)
    plain, injected = (t.api.get("Pod", t.namespace, name) for name in ("plain", "app"))
    for field in ("resources", "hostnameOverride"):
        assert field in plain["spec"], f"this API server drops spec.{field}: compare a newer field"
    survives(without_names_of_its_own(plain), without_names_of_its_own(injected))
    t.verified()


@test
def a_container_that_another_webhook_adds_afterwards_gets_a_token_too(t):
    t.bound()
    late = {"name": "late", "image": CLIENT_IMAGE, "args": ["serve"]}
    with second_webhook(t.cluster, late):
        t.eventually("the API server knows the other webhook", lambda: adds(t, "late"), 20)
        t.pod(labels={"e2e": "second"})
    spec = t.api.get("Pod", t.namespace, "app")["spec"]
    assert [one["name"] for one in spec["containers"]] == ["app", "late"], spec["containers"]
    assert [one["name"] for one in spec["initContainers"]] == ["imdslet"], spec["initContainers"]
    t.verified("app", "app")
    t.verified("app", "late")


def adds(t, name):
    """Whether pods of the other webhook get its container; a dry run tells."""
    body = {
        "kind": "Pod", "apiVersion": "v1", "spec": {"containers": [container()]},
        "metadata": {"name": "probe", "namespace": t.namespace, "labels": {"e2e": "second"}},
    }
    pod = t.api.json("POST", t.api.path("Pod", t.namespace, dryRun="All"), body=body)
    return any(one["name"] == name for one in pod["spec"]["containers"])


@test
def whoever_applies_a_workload_a_binding_or_an_identity_is_told_what_is_wrong_with_it(t):
    t.make_namespace()
    template = {
        "metadata": {"labels": {"app": "told", "aadpodidbinding": t.label}},
        "spec": {"containers": [container()]},
    }
    metadata = {"name": "told", "namespace": t.namespace}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "told"}}, "template": template},
    }
    binding = {
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding", "metadata": metadata,
        "spec": {"azureIdentity": "gone", "selector": f"{t.label}-other"},
    }
    # In a spelling that the old project's rule for Gatekeeper does not read.
    identity = {
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity", "metadata": metadata,
        "spec": {"type": 0, "ClientID": t.client_id, "ResourceID": "/subscriptions/x"},
    }
    told = t.cluster.apply([deployment, binding, identity]).stderr
    for words in (f"Warning: imdslet: no AzureIdentityBinding has spec.selector `{t.label}`",
                  f"Warning: imdslet gives no pod a token by this object: AzureIdentity {t.namespace}/gone does not exist",
                  "Warning: imdslet cannot use this object: spec.resourceID is `/subscriptions/x`"):
        assert words in told, told


@test
def an_ephemeral_container_gets_a_token(t):
    t.bound()
    t.pod()
    t.verified()
    debugger = container("serve", "debugger")
    t.api.patch("Pod", t.namespace, "app", {"spec": {"ephemeralContainers": [debugger]}}, "ephemeralcontainers")
    t.verified("app", "debugger")


@test
def only_labelled_pods_wait_while_the_webhook_is_down(t):
    t.bound()
    ignoring = t.make_namespace({"imdslet.dev/failure-policy": "ignore"}, f"{t.namespace}-ignore")
    t.cluster.scale("imdslet-webhook", 0)
    try:
        t.eventually("the webhook is gone", lambda: not t.cluster.pods_of("imdslet-webhook"), 60)
        template = {
            "metadata": {"labels": {"app": "waiting", "aadpodidbinding": t.label}},
            "spec": {"containers": [container()], "terminationGracePeriodSeconds": 2},
        }
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": "waiting"}}, "template": template}
        t.create("Deployment", "waiting", spec)

        def refused():
            events = t.api.list("Event", t.namespace, fieldSelector="reason=FailedCreate")
            return [event for event in events if "pods.imdslet.dev" in event["message"]]

        t.eventually("the ReplicaSet's events name the webhook", refused, 30)
        t.pod("plain", opted_in=False)
        assert t.first_answer("plain")["error"] == "IDENTITY_ENDPOINT is not set"
        t.pod("ignoring", namespace=ignoring)
        t.first_answer("ignoring", namespace=ignoring)
        assert not t.api.list("Pod", t.namespace, labelSelector="app=waiting"), "a labelled pod was made"
    finally:
        t.cluster.scale("imdslet-webhook", 2)
        back = time.time()
        t.cluster.wait_for_rollout("imdslet-webhook")
    t.note(f"webhook back after {time.time() - back:.1f} s")
    waiting = lambda: t.api.list("Pod", t.namespace, labelSelector="app=waiting")
    pod = t.eventually("the ReplicaSet's pod is made", waiting, 90)[0]["metadata"]["name"]
    t.note(f"waiting pod made after {time.time() - back:.1f} s")
    t.verified(pod)


@test
def no_pod_is_refused_while_the_webhook_is_rolled_out(t):
    t.bound()
    before = {pod["metadata"]["name"] for pod in t.cluster.pods_of("imdslet-webhook")}
    t.cluster.restart("imdslet-webhook")
    refused, made, until = [], 0, time.monotonic() + 120
    rolled_out = False
    # Dry runs, since a pod is asked about in the same way and costs nothing.
    pod = {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "app", "namespace": t.namespace, "labels": {"aadpodidbinding": t.label}},
        "spec": {"containers": [container()]},
    }
    path = t.api.path("Pod", t.namespace, dryRun="All")
    while not rolled_out:
        assert time.monotonic() < until, "not rolled out within 120 s"
        for _ in range(20):
            try:
                injected = t.api.json("POST", path, body=pod)
                assert injected["spec"]["initContainers"][0]["name"] == "imdslet"
                made += 1
            except Refused as error:
                refused.append(str(error))
        after = {pod["metadata"]["name"] for pod in t.cluster.pods_of("imdslet-webhook")}
        rolled_out = len(after) == 2 and not after & before
    t.note(f"{made} admitted, {len(refused)} refused")
    assert not refused, refused[0]
