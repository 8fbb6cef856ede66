"""What happens to running pods when bindings come, change and go."""

import contextlib
import time

from cluster import DEPLOYMENTS
from harness import SYSTEM, container, scenario, test
from kube import Refused
from policies import CONTROLLER


def held(t, pod="app"):
    """Whether the pod's sidecar runs and keeps the application from starting."""
    status = t.api.get("Pod", t.namespace, pod).get("status", {})
    sidecars = [one for one in status.get("initContainerStatuses", []) if one["name"] == "imdslet"]
    return bool(sidecars) and "running" in sidecars[0].get("state", {}) and not sidecars[0].get("started")


def refusal_after(t, moment, seconds=20, pod="app"):
    """The first answer after a moment that is no token."""
    return t.eventually("the next request is refused", lambda: t.refused(pod, moment), seconds)[0]


@test
def a_pod_that_is_made_first_waits_for_its_binding_and_then_starts(t):
    t.make_namespace()
    t.cluster.entra.trust(t.client_id, t.namespace)
    t.identity()
    t.pod()
    t.eventually("the sidecar holds the pod", lambda: held(t), 30)

    def told():
        events = t.api.list("Event", t.namespace, fieldSelector="involvedObject.name=app")
        return [event for event in events if "Startup probe failed: imdslet" in event.get("message", "")]

    message = t.eventually("the pod's events say why it waits", told, 30)[0]["message"]
    assert "AzureIdentityBinding" in message, message
    assert held(t) and not t.lines(), "the application has started without a binding"

    t.bind()
    bound = time.time()
    after = t.started_at() - bound
    t.note(f"started {after:.2f} s after its binding")
    t.verified()
    assert after < 5, "too late"


@scenario(4)
@test
def the_next_request_is_refused_once_the_binding_is_gone(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    gone = time.time()
    refusal = refusal_after(t, gone)
    after = refusal["at"] / 1000 - gone
    t.note(f"refused {after:.2f} s after")
    assert refusal["status"] == 400, refusal
    assert "AzureIdentityBinding" in str(refusal["body"]), refusal
    assert after < 5, "too late"


@test
def a_pod_of_a_newer_release_is_revoked_after_a_rollback(t):
    """Its sidecar reads a newer format, which says nothing against the older one."""
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    newer = {"metadata": {"annotations": {"imdslet.dev/version": "2"}}}
    t.api.patch("Pod", t.namespace, "app", newer, None, CONTROLLER)
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    assert refusal_after(t, time.time())["status"] == 400


@test
def a_pod_follows_its_binding_to_another_identity(t):
    t.bound()
    other = t.other_client_id
    t.cluster.entra.trust(other, t.namespace)
    t.identity("other", other)
    t.pod(containers=[container("loop")])
    t.verified()
    t.api.patch("AzureIdentityBinding", t.namespace, "binding", {"spec": {"azureIdentity": "other"}})
    changed = time.time()
    t.note(f"followed {t.follows(other) - changed:.2f} s after")


@test
def a_pod_whose_label_is_removed_or_emptied_has_no_identity_until_the_label_is_back(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    for label in (None, ""):
        t.api.patch("Pod", t.namespace, "app", {"metadata": {"labels": {"aadpodidbinding": label}}})
        gone = time.time()
        refusal = refusal_after(t, gone)
        after = refusal["at"] / 1000 - gone
        t.note(f"refused {after:.2f} s after the label was {'removed' if label is None else 'emptied'}")
        assert refusal["status"] == 400, refusal
        assert after < 5, "too late"
        t.api.patch("Pod", t.namespace, "app", {"metadata": {"labels": {"aadpodidbinding": t.label}}})
        back = time.time()
        t.note(f"served {t.follows(t.client_id, since=back) - back:.2f} s after it was back")


@test
def a_label_that_is_removed_while_no_controller_runs_is_noticed_by_the_next_one(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    replicas = t.api.get("Deployment", SYSTEM, "imdslet-controller")["spec"]["replicas"]
    t.cluster.scale("imdslet-controller", 0)
    try:
        t.eventually("no controller runs", lambda: not t.cluster.pods_of("imdslet-controller"), 60)
        t.api.patch("Pod", t.namespace, "app", {"metadata": {"labels": {"aadpodidbinding": None}}})
        t.api.delete("AzureIdentityBinding", t.namespace, "binding")
        gone = time.time()
        t.eventually("answers three seconds later", lambda: t.answers_since(gone + 3), 30)
        assert not t.refused(since=gone), t.refused(since=gone)[0]
    finally:
        t.cluster.scale("imdslet-controller", replicas)
        t.cluster.wait_for_rollout("imdslet-controller")
    began = time.time()
    refusal = refusal_after(t, began, 60)
    t.note(f"refused {refusal['at'] / 1000 - began:.1f} s after a controller was there again")


@scenario(17)
@test
def another_replica_of_the_controller_takes_over_when_the_leader_is_gone(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    lease = t.api.get("Lease", SYSTEM, "imdslet-controller")["spec"]["holderIdentity"]
    pods = [pod["metadata"]["name"] for pod in t.cluster.pods_of("imdslet-controller")]
    leader = [name for name in pods if name in lease]
    assert len(leader) == 1, f"the Lease is held by `{lease}`; the replicas are {pods}"
    # At once, so that it cannot give the Lease back.
    t.api.delete("Pod", SYSTEM, leader[0], grace=0)
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    gone = time.time()
    refusal = refusal_after(t, gone, 60)
    t.note(f"refused {refusal['at'] / 1000 - gone:.1f} s after leader and binding were gone")
    t.cluster.wait_for_rollout("imdslet-controller")


@contextlib.contextmanager
def without_kinds(t, *kinds):
    """While it lasts the CRDs of these kinds are not there; afterwards they are back, with their objects."""
    names = [f"{t.api.path(kind).rpartition('/')[2]}.aadpodidentity.k8s.io" for kind in kinds]
    definitions = [t.api.get("CustomResourceDefinition", None, name) for name in names]
    # What goes with its namespace meanwhile could not be made again below.
    staying = lambda: not any("deletionTimestamp" in one["metadata"] for one in t.api.list("Namespace"))
    t.eventually("no namespace of another test is on its way out", staying, 60)
    # The controller makes its own again.
    lost = [one for kind in kinds if kind != "AzureAssignedIdentity" for one in t.api.list(kind)]
    for name in names:
        t.api.delete("CustomResourceDefinition", None, name)
    try:
        gone = lambda: not any(t.api.find("CustomResourceDefinition", None, name) for name in names)
        t.eventually("the CRDs are gone", gone, 60)
        yield
    finally:
        for one in definitions:
            one["metadata"] = {key: one["metadata"].get(key) for key in ("name", "labels", "annotations")}
            one.pop("status", None)
            t.api.create(one)
        for kind in kinds:
            t.eventually(f"{kind} is served again", lambda: is_served(t, kind), 60)
        for one in lost:
            metadata = {key: one["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations")}
            t.api.create({key: one[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": metadata})


def is_served(t, kind):
    try:
        return t.api.list(kind) is not None
    except Refused:
        return False


def nothing_is_refused_for_seconds(t, since):
    """Longer than it takes to revoke."""
    moment = time.time()
    t.eventually("answers eight seconds later", lambda: t.answers_since(moment + 8), 30)
    assert not t.refused(since=since), t.refused(since=since)[0]


def held_anywhere(t):
    """What each replica says that it holds; whichever leads, what one was blind for would stay held by it."""
    pods = [pod["metadata"]["name"] for name in DEPLOYMENTS for pod in t.cluster.pods_of(name)]
    bodies = {pod: t.api.text("GET", t.api.path("Pod", SYSTEM, f"{pod}:8080", "proxy/readyz")) for pod in pods}
    return {pod: body for pod, body in bodies.items() if " held, " in body}


def all_hold(t, since):
    for program in DEPLOYMENTS:
        told = lambda: t.cluster.events_logged(program, "SnapshotHeld", since)
        t.eventually(f"{program} says what it holds", told, 30)


def a_deletion_is_a_deletion(t):
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    refusal_after(t, time.time())


@test
def a_crd_that_is_deleted_takes_nothing_from_a_running_pod(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    since = time.time()
    with without_kinds(t, "AzureIdentityBinding"):
        all_hold(t, since)
        assert held_anywhere(t), "the body of /readyz does not say so"

        def event():
            events = t.api.list("Event", SYSTEM, fieldSelector="involvedObject.name=imdslet-controller")
            return [one for one in events if one["reason"] == "SnapshotHeld"]

        t.eventually("an Event says how to go on", event, 30)
        nothing_is_refused_for_seconds(t, since)
    t.eventually("nothing is held any more", lambda: not held_anywhere(t), 90)
    assert not t.refused(since=since), t.refused(since=since)[0]
    a_deletion_is_a_deletion(t)


@test
def all_crds_that_are_deleted_and_restored_take_nothing_and_a_pod_that_comes_meanwhile_is_served(t):
    t.bound()
    t.create("AzurePodIdentityException", "exception", {"podLabels": {"app": "excepted"}})
    t.pod(containers=[container("loop")])
    t.verified()
    shown = lambda: t.api.list("AzureAssignedIdentity", t.namespace)
    t.eventually("what it has is shown", shown, 20)
    since = time.time()
    kinds = ("AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException", "AzureAssignedIdentity")
    with without_kinds(t, *kinds):
        all_hold(t, since)
        nothing_is_refused_for_seconds(t, since)
        t.pod("meanwhile")
        t.verified("meanwhile")
        t.pod("excepted", labels={"app": "excepted"})
        assert "initContainers" not in t.api.get("Pod", t.namespace, "excepted")["spec"], "its exception is forgotten"
    t.eventually("nothing is held any more", lambda: not held_anywhere(t), 90)
    nothing_is_refused_for_seconds(t, since)
    t.eventually("what both have is shown again", lambda: len(shown()) == 2, 60)
    a_deletion_is_a_deletion(t)


@scenario(2)
@test
def what_a_pod_is_assigned_is_shown_and_goes_with_its_binding_and_with_the_pod(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    name = f"app-{t.namespace}-{t.api.list('AzureIdentity', t.namespace)[0]['metadata']['name']}"
    find = lambda: t.api.find("AzureAssignedIdentity", t.namespace, name)
    shown = t.eventually("the assigned identity is shown", find, 20)
    pod = t.api.get("Pod", t.namespace, "app")
    assert shown["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"], shown
    assert not shown["metadata"].get("finalizers"), shown
    assert shown["status"]["status"] == "Assigned", shown
    spec = shown["spec"]
    assert spec["azureIdentityRef"]["spec"]["clientID"] == t.client_id, spec
    assert (spec["pod"], spec["nodename"]) == ("app", pod["spec"]["nodeName"]), spec
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    t.eventually("it goes with the binding", lambda: find() is None, 20)
    t.bind()
    t.eventually("and comes with a new one", find, 20)
    t.api.delete("Pod", t.namespace, "app", grace=0)
    t.eventually("it goes with the pod", lambda: find() is None, 30)


@test
def a_labelled_pod_that_was_not_asked_about_is_told_what_to_do(t):
    t.bound()
    labels = t.api.get("Namespace", None, t.namespace)["metadata"].get("labels", {})
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "late", "namespace": t.namespace},
        "spec": {"containers": [container("loop")]},
    }
    t.api.create(pod)
    t.api.patch("Pod", t.namespace, "late", {"metadata": {"labels": {"aadpodidbinding": "late"}}})

    def told():
        events = t.api.list("Event", t.namespace, fieldSelector="involvedObject.name=late")
        return [one for one in events if one["reason"] == "NotInjected"]

    message = t.eventually("the pod's events say what to do", told, 30)[0]["message"]
    assert "recreate the pod" in message, (message, labels)
