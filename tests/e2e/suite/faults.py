"""Bad input and outages: each is named, in the place where somebody looks."""

import base64
import time

from entra import TENANT
from harness import SYSTEM, container, test

TLS = "imdslet-webhook-tls"


@test
def an_entra_id_that_cannot_be_reached_is_named_in_the_answer(t):
    t.bound()
    t.cluster.cut_off_entra()
    try:
        t.pod(containers=[container("loop")])
        answer = t.first_answer()
        assert answer["status"] == 503, answer
        text = answer["body"]["error_description"]
        assert t.cluster.entra.url in text and "egress" in text, text
    finally:
        t.cluster.reach_entra()
    back = time.time()
    tokens = lambda: [one for one in t.answers() if one["status"] == 200]
    after = t.eventually("a token once it is back", tokens, 60)[0]["at"] / 1000 - back
    t.note(f"a token {after:.1f} s after it was back")


def tells_what_would_mend_it(t):
    t.identity()
    t.bind()
    t.pod()
    answer = t.first_answer()
    assert answer["status"] == 400, answer
    text = answer["body"]["error_description"]
    for word in ("az identity federated-credential create", f"system:serviceaccount:{t.namespace}:default",
                 t.cluster.entra.issuer):
        assert word in text, text


@test
def a_missing_federated_credential_is_answered_with_what_would_mend_it(t):
    t.make_namespace()
    t.cluster.entra.trust(t.client_id, t.namespace, "another-account")
    tells_what_would_mend_it(t)


@test
def an_identity_without_any_federated_credential_is_answered_with_what_would_mend_it(t):
    t.make_namespace()
    t.cluster.entra.know(t.client_id)
    tells_what_would_mend_it(t)


@test
def a_binding_to_an_identity_that_is_not_there_is_told(t):
    t.make_namespace()
    t.bind(identity="missing")
    since = time.time()
    t.pod()

    def told():
        events = t.api.list("Event", t.namespace, fieldSelector="involvedObject.name=app")
        return [one["message"] for one in events if "missing" in one["message"]]

    t.eventually("the pod's events name the identity", told, 30)
    logged = [one for one in t.cluster.events_logged("imdslet-webhook", "Injected", since)
              if one["namespace"] == t.namespace]
    assert logged and any("NoIdentity" in str(one) or "Unbound" in str(one) for one in logged), logged


@test
def a_tenant_that_nobody_has_set_is_told_in_the_log_and_on_the_pod(t):
    t.bound()
    since = time.time()
    t.cluster.set(AZURE_TENANT_ID="")
    try:
        logs = lambda: t.cluster.events_logged("imdslet-webhook", "NoTenant", since)
        t.eventually("reason NoTenant in the log", logs, 20)
        t.pod()

        def told():
            events = t.api.list("Event", t.namespace, fieldSelector="involvedObject.name=app")
            return [one["message"] for one in events if "names no tenant" in one["message"]]

        t.eventually("the pod's events say what to set", told, 30)
    finally:
        t.cluster.set(AZURE_TENANT_ID=TENANT)
    # The pod that waits is bound by the restarted controller.
    t.verified()


@test
def rubbish_in_the_secret_of_the_certificate_is_named_and_does_not_stop_admission(t):
    t.bound()
    since = time.time()
    good = t.api.get("Secret", SYSTEM, TLS)["data"]
    rubbish = base64.b64encode(b"rubbish").decode()
    t.api.patch("Secret", SYSTEM, TLS, {"data": dict.fromkeys(good, rubbish)})
    named = lambda: [line for line in t.cluster.logs("imdslet-webhook", since).splitlines()
                     if TLS in line and ('"WARN"' in line or '"ERROR"' in line)]
    t.eventually("the log names the Secret", named, 60)
    t.pod("before")
    t.verified("before")
    # New replicas find the same rubbish, or what was made of it.
    t.cluster.restart("imdslet-webhook")
    t.cluster.wait_for_rollout("imdslet-webhook")
    t.pod("after")
    t.verified("after")


@test
def the_ca_bundle_is_restored_when_somebody_empties_it(t):
    t.bound()
    path = t.api.path("MutatingWebhookConfiguration", None, "imdslet")
    patch = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    t.api.json("PATCH", path, body=patch, content_type="application/json-patch+json")
    gone = time.time()

    def restored():
        hooks = t.api.get("MutatingWebhookConfiguration", None, "imdslet")["webhooks"]
        return all(hook["clientConfig"].get("caBundle") for hook in hooks)

    t.eventually("the CA is back", restored, 30)
    t.note(f"restored within {time.time() - gone:.2f} s")
    t.pod()
    t.verified()


def events_on(t, kind, uid, reason):
    """What `kubectl describe` shows of an object, by its uid."""
    events = t.api.list("Event", t.namespace, fieldSelector=f"involvedObject.uid={uid}")
    return [one["message"] for one in events if (one["involvedObject"]["kind"], one["reason"]) == (kind, reason)]


@test
def a_deployment_whose_pods_wait_says_so(t):
    t.make_namespace()
    template = {
        "metadata": {"labels": {"app": "waiting", "aadpodidbinding": t.label}},
        "spec": {"containers": [container()], "terminationGracePeriodSeconds": 2},
    }
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "waiting"}}, "template": template}
    uid = t.create("Deployment", "waiting", spec)["metadata"]["uid"]
    message = t.eventually("an Event on the Deployment", lambda: events_on(t, "Deployment", uid, "StillUnbound"), 40)[0]
    assert "of its pods" in message and "AzureIdentityBinding" in message, message


@test
def an_object_that_cannot_be_used_is_named_and_disturbs_no_other(t):
    t.bound()
    since = time.time()
    t.create("AzureIdentity", "broken", {"type": 7, "clientID": t.client_id})
    named = lambda: [one for one in t.cluster.events_logged("imdslet-webhook", "InvalidObject", since)
                     if one.get("object") == f"{t.namespace}/broken"]
    t.eventually("the log names the object", named, 20)
    uid = t.api.get("AzureIdentity", t.namespace, "broken")["metadata"]["uid"]
    message = t.eventually("an Event on the object", lambda: events_on(t, "AzureIdentity", uid, "InvalidObject"), 30)[0]
    assert "spec.type" in message, message
    t.pod()
    t.verified()
