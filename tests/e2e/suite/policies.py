"""Who may do what: the three admission policies and the roles of install.yaml."""

import contextlib
import json

from cluster import ADMIN
from harness import SYSTEM, container, test
from kube import APPLY
from service_principals import principal

CONTROLLER = f"system:serviceaccount:{SYSTEM}:imdslet-controller"
WEBHOOK = f"system:serviceaccount:{SYSTEM}:imdslet-webhook"
OURS = ("imdslet.dev/identities", "imdslet.dev/version")


@contextlib.contextmanager
def every_right(t, user):
    """For as long as it lasts only the policies keep an account from anything."""
    _, _, namespace, name = user.split(":")
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    t.api.create({
        "kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": t.namespace}, "roleRef": role,
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
    })
    try:
        t.eventually("the right is there", lambda: may(t, user, "delete", "pods"), 20)
        yield
    finally:
        t.api.delete("ClusterRoleBinding", None, t.namespace)


def may(t, user, verb, resource, group="", namespace=None, name=None, sub=None):
    """What the API server's authorizer says."""
    attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name,
                  "subresource": sub}
    # As the authenticator does it for an account.
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}", "system:authenticated"]
    review = {
        "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
        "spec": {"user": user, "groups": groups,
                 "resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    return t.api.create(review)["status"]["allowed"]


def annotate(t, user, annotations, sub=None):
    return t.api.patch("Pod", t.namespace, "app", {"metadata": {"annotations": annotations}}, sub, user)


@test
def policies_are_well_typed(t):
    for name in ("imdslet-controller-pods", "imdslet-annotations", "imdslet-ephemeral-containers"):
        checked = lambda: t.api.get("ValidatingAdmissionPolicy", None, name).get("status", {}).get("typeChecking")
        result = t.eventually(f"{name} is type checked", lambda: checked() is not None and [checked()], 30)[0]
        assert not result.get("expressionWarnings"), result


@test
def the_controller_changes_its_own_two_annotations_and_nothing_else_of_a_pod(t):
    t.make_namespace()
    t.pod(opted_in=False)
    denied = lambda change, words, sub=None: t.cluster.is_denied(
        lambda: t.api.patch("Pod", t.namespace, "app", change, sub, CONTROLLER), words)
    for key in OURS:
        annotate(t, CONTROLLER, {key: "1"})
    assert denied({"metadata": {"annotations": {"other": "1"}}}, "its own two annotations")
    assert denied({"metadata": {"annotations": {"imdslet.dev/port": "3000"}}}, "its own two annotations")
    assert denied({"metadata": {"labels": {"other": "1"}}}, "labels")
    assert denied({"metadata": {"finalizers": ["example.com/x"]}}, "finalizers")
    assert denied({"spec": {"containers": [{"name": "app", "image": "other"}]}}, "spec")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}
    assert denied({"metadata": {"ownerReferences": [owner]}}, "owners")
    with every_right(t, CONTROLLER):
        ready = {"status": {"message": "x"}}
        assert denied(ready, "may only patch pods", "status")
        delete = lambda: t.api.delete("Pod", t.namespace, "app", user=CONTROLLER)
        assert t.cluster.is_denied(delete, "may only patch pods")
    # And it may take its annotations away.
    annotate(t, CONTROLLER, dict.fromkeys(OURS))


def account(t, name, verbs, *resources):
    """An account that may do this with these resources of the test's namespace, and nothing else."""
    t.create("ServiceAccount", name)
    t.create("Role", name, rules=[{"apiGroups": [""], "resources": resources, "verbs": verbs}])
    t.create("RoleBinding", name,
             roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
             subjects=[{"kind": "ServiceAccount", "namespace": t.namespace, "name": name}])
    user = f"system:serviceaccount:{t.namespace}:{name}"
    resource, _, sub = resources[0].partition("/")
    right = lambda: may(t, user, verbs[0], resource, namespace=t.namespace, sub=sub)
    t.eventually("the right is there", right, 20)
    return user


def pod_patcher(t, *subs):
    """An account that may patch the pods of the test's namespace and these parts of them, and nothing else."""
    return account(t, "patcher", ["patch", "get", "update"], "pods", *(f"pods/{sub}" for sub in subs))


@test
def somebody_who_may_patch_pods_changes_all_but_what_a_sidecar_reads(t):
    t.bound()
    t.pod()
    t.verified()
    user = pod_patcher(t, "status")
    for sub in (None, "status"):
        annotate(t, user, {f"example.com/{sub}": "1"}, sub)
        for change in ({OURS[0]: "{}"}, {OURS[0]: None}, {OURS[1]: "2"}):
            denied = t.cluster.is_denied(lambda: annotate(t, user, change, sub), "are written by imdslet alone")
            assert denied, f"{user} has changed {change} by {sub or 'the pod'}"


def give_node(t, user, pod, annotations, by_pod=True):
    """Binds a pod to the node as a scheduler does, by either of the two paths that the API server has for it."""
    node = {"apiVersion": "v1", "kind": "Node", "name": t.cluster.netns}
    metadata = {"name": pod, "namespace": t.namespace, "annotations": annotations}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": node}
    path = t.api.path("Pod", t.namespace, pod, "binding") if by_pod else t.api.path("Binding", t.namespace)
    t.api.json("POST", path, body=binding, user=user)


@test
def somebody_who_may_give_pods_a_node_gives_them_nothing_that_a_sidecar_reads(t):
    t.bound()
    user = account(t, "scheduler", ["create"], "pods/binding", "bindings")
    for by_pod in (True, False):
        pod = f"by-pod-{by_pod}".lower()
        t.pod(pod, schedulerName="nobody")
        told = t.api.get("Pod", t.namespace, pod)["metadata"]["annotations"]
        for who in (user, CONTROLLER):
            # The controller's rights would not let it either.
            with every_right(t, who) if who == CONTROLLER else contextlib.nullcontext():
                words = "may only patch pods" if who == CONTROLLER else "are written by imdslet alone"
                for forged in ({OURS[0]: "{}"}, {OURS[1]: "2"}, {OURS[0]: told[OURS[0]], "other": "1"}):
                    denied = t.cluster.is_denied(lambda: give_node(t, who, pod, forged, by_pod), words)
                    assert denied, f"{who} has given {pod} {forged}"
        # What other schedulers say of a pod is theirs to say.
        give_node(t, user, pod, {"example.com/device": "1"}, by_pod)
        t.verified(pod)
        has = t.api.get("Pod", t.namespace, pod)["metadata"]["annotations"]
        assert {key: has[key] for key in OURS} == {key: told[key] for key in OURS}, has
        assert has["example.com/device"] == "1", has


@test
def a_scheduler_of_the_whole_cluster_may_copy_a_pods_annotations_and_what_it_forges_is_mended(t):
    t.bound()
    user = account(t, "scheduler", ["create"], "pods/binding", "bindings")
    ours = lambda pod: {key: t.api.get("Pod", t.namespace, pod)["metadata"]["annotations"][key] for key in OURS}
    for by_pod in (True, False):
        copied, forged = f"copied-{by_pod}".lower(), f"forged-{by_pod}".lower()
        for pod in (copied, forged):
            t.pod(pod, schedulerName="nobody")
        told = ours(copied)
        with every_right(t, user):
            give_node(t, user, copied, told, by_pod)
            give_node(t, user, forged, {OURS[0]: '{"version":1,"hold":false,"identities":[]}'}, by_pod)
        t.eventually("what was forged is mended", lambda: ours(forged) == told, 20)
        t.verified(copied)
        t.verified(forged)
        assert ours(copied) == told


def debug(t, user, name, *volumes, pod="app"):
    """Adds an ephemeral container that mounts these volumes to those that a pod has."""
    mounts = [{"name": volume, "mountPath": f"/mnt/{volume}"} for volume in volumes]
    has = t.api.get("Pod", t.namespace, pod)["spec"].get("ephemeralContainers", [])
    one = container("serve", name) | ({"volumeMounts": mounts} if mounts else {})
    t.api.patch("Pod", t.namespace, pod, {"spec": {"ephemeralContainers": [*has, one]}}, "ephemeralcontainers", user)


@test
def somebody_who_may_add_ephemeral_containers_mounts_nothing_that_the_sidecar_alone_may(t):
    principal(t, 1, clientSecret=b"s3cret")
    t.cluster.entra.know(t.client_id, secrets=["s3cret"])
    scratch = {"name": "scratch", "emptyDir": {}}
    t.pod(volumes=[scratch])
    t.pod("plain", volumes=[scratch], annotations={"imdslet.dev/sidecar": "container"})
    t.verified(proof="1")
    user = pod_patcher(t, "ephemeralcontainers")
    ours = [one["name"] for one in t.api.get("Pod", t.namespace, "app")["spec"]["volumes"] if "imdslet" in one["name"]]
    assert len(ours) == 2 and "imdslet" in ours, ours

    def all_are_refused(when):
        for pod in ("app", "plain"):
            for volumes in (*([one] for one in ours), ["scratch", *ours]):
                denied = t.cluster.is_denied(lambda: debug(t, user, "thief", *volumes, pod=pod),
                                             "spec.ephemeralContainers[thief].volumeMounts", "remove the mount")
                assert denied, f"{pod} {when}: an ephemeral container mounts {volumes}"

    all_are_refused("as it was created")
    debug(t, user, "debugger")
    debug(t, user, "another", "scratch")
    t.verified(container="debugger", proof="1")
    all_are_refused("beside other ephemeral containers")
    # Whose pods these are is not ours to say: the names are reserved beside a sidecar alone.
    t.pod("other", opted_in=False, volumes=[{"name": "imdslet", "emptyDir": {}}])
    debug(t, user, "debugger", "imdslet", pod="other")
    t.cluster.scale("imdslet-webhook", 0)
    try:
        t.eventually("the webhook is gone", lambda: not t.cluster.pods_of("imdslet-webhook"), 60)
        all_are_refused("without the webhook")
        debug(t, user, "late", "scratch")
    finally:
        t.cluster.scale("imdslet-webhook", 2)
        t.cluster.wait_for_rollout("imdslet-webhook")


@test
def nobody_else_changes_the_annotations_that_a_sidecar_reads(t):
    t.bound()
    t.pod()
    t.verified()
    told = json.loads(t.api.get("Pod", t.namespace, "app")["metadata"]["annotations"][OURS[0]])
    changes = [{OURS[0]: json.dumps(told | {"identities": []})}, {OURS[0]: None}, {OURS[1]: "2"}]
    for user in (ADMIN, WEBHOOK):
        # Their rights are not what refuses here.
        with every_right(t, user) if user != ADMIN else contextlib.nullcontext():
            for change in changes:
                for sub in (None, "status"):
                    denied = t.cluster.is_denied(
                        lambda: annotate(t, user if user != ADMIN else None, change, sub),
                        "are written by imdslet alone")
                    assert denied, f"{user} has changed {change} by {sub or 'the pod'}"
    annotate(t, None, {"other": "1"})


@test
def the_account_of_the_admission_replicas_writes_nothing_but_their_certificate(t):
    tls = {"namespace": SYSTEM, "name": "imdslet-webhook-tls"}
    hooks = {"group": "admissionregistration.k8s.io", "resource": "mutatingwebhookconfigurations"}
    assert may(t, WEBHOOK, "update", "secrets", **tls)
    assert may(t, WEBHOOK, "patch", name="imdslet", **hooks)
    for verb in ("create", "update", "patch", "delete", "deletecollection"):
        for resource in ("pods", "configmaps", "events", "serviceaccounts", "namespaces"):
            assert not may(t, WEBHOOK, verb, resource), f"{verb} {resource}"
            assert not may(t, WEBHOOK, verb, resource, namespace=SYSTEM), f"{verb} {resource}"
        for name in ("other", None):
            assert not may(t, WEBHOOK, verb, name=name, **hooks), f"{verb} webhook configuration {name}"
            assert not may(t, WEBHOOK, verb, "secrets", namespace=SYSTEM, name=name), f"{verb} secret {name}"
    for sub in ("exec", "status", "ephemeralcontainers"):
        assert not may(t, WEBHOOK, "create", "pods", sub=sub)
    assert not may(t, WEBHOOK, "create", "serviceaccounts", sub="token")


@test
def the_admission_replicas_make_their_own_secret_and_no_other(t):
    def apply(namespace, name):
        path = t.api.path("Secret", namespace, name, fieldManager="e2e", dryRun="All")
        thing = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name, "labels": {"e2e": "1"}}}
        return t.api.json("PATCH", path, body=thing, content_type=APPLY, user=WEBHOOK)

    t.make_namespace()
    apply(SYSTEM, "imdslet-webhook-tls")
    for namespace, name in ((SYSTEM, "other"), (t.namespace, "imdslet-webhook-tls")):
        assert t.cluster.is_denied(lambda: apply(namespace, name), "cannot patch resource"), f"{namespace}/{name}"
        for made in (name, "imdslet-webhook-tls"):
            secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": made, "namespace": namespace}}
            create = lambda: t.api.create(secret, user=WEBHOOK)
            assert t.cluster.is_denied(create, "cannot create resource"), f"{namespace}/{made}"


@test
def neither_account_reads_secrets_or_impersonates(t):
    for user in (WEBHOOK, CONTROLLER):
        for verb in ("get", "list", "watch"):
            assert not may(t, user, verb, "secrets"), f"{user} may {verb} secrets"
            for namespace in (SYSTEM, "default", "kube-system"):
                assert not may(t, user, verb, "secrets", namespace=namespace), f"{user} may {verb} secrets"
        for resource in ("users", "groups", "serviceaccounts"):
            assert not may(t, user, "impersonate", resource)
    assert not may(t, CONTROLLER, "update", "secrets", namespace=SYSTEM, name="imdslet-webhook-tls")
    for verb in ("create", "delete", "update"):
        assert not may(t, CONTROLLER, verb, "pods"), f"the controller may {verb} pods"
