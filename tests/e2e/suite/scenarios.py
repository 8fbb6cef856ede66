"""What aad-pod-identity's own end-to-end tests did, where no other module does it.

docs/compatibility.md lists all of them, by the numbers that stand here.
"""

import random
import time

from harness import container, resource_id, scenario, test

ASK = "serve --resource=https://vault.azure.net"
MANY = 40
# What the old project gave its 40 pods, in seconds.
OLD_LIMIT = 150
# How many times as long pods with sidecars may take as the same number without. A pod of two containers takes the
# kubelet twice as long and a little more, whatever else the machine does.
TIMES_AS_LONG = 3
SEVERAL = 5


def another(t, number):
    """The client id of one more identity of a test."""
    return f"{t.client_id[:9]}{number:04}{t.client_id[13:]}"


def add_identity(t, name, number, **options):
    """One more identity that Entra ID trusts; its client id."""
    client_id = another(t, number)
    t.cluster.entra.trust(client_id, options.get("namespace", t.namespace))
    t.identity(name, client_id, **options)
    return client_id


@scenario(1, 6)
@test
def each_of_a_pods_identities_is_had_by_client_id_and_by_resource_id_and_one_without_rights_fails_alone(t):
    t.bound()
    second = add_identity(t, "second", 2)
    t.bind(name="second", identity="second")
    # Entra ID knows it, and no federated credential of it.
    stranger = another(t, 3)
    t.cluster.entra.know(stranger)
    t.identity("stranger", stranger)
    t.bind(name="stranger", identity="stranger")
    t.pod(containers=[
        container(),
        container(f"{ASK}&client_id={t.client_id}", "first-by-client"),
        container(f"{ASK}&mi_res_id={resource_id('identity')}", "first-by-resource"),
        container(f"{ASK}&client_id={second}", "second-by-client"),
        container(f"{ASK}&mi_res_id={resource_id('second')}", "second-by-resource"),
        container(f"{ASK}&client_id={stranger}", "stranger"),
    ])
    for name in ("app", "first-by-client", "first-by-resource"):
        t.verified("app", name)
    for name in ("second-by-client", "second-by-resource"):
        t.verified("app", name, client_id=second)
    answer = t.first_answer("app", "stranger")
    assert answer["status"] == 400 and "federated-credential" in str(answer["body"]), answer


@scenario(3)
@test
def the_next_request_is_refused_once_the_identity_is_gone(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    t.api.delete("AzureIdentity", t.namespace, "identity")
    gone = time.time()
    refusal = t.eventually("the next request is refused", lambda: t.refused(since=gone), 20)[0]
    t.note(f"refused {refusal['at'] / 1000 - gone:.2f} s after")
    assert refusal["status"] == 400 and "the pod's events say why" in str(refusal["body"]), refusal

    def told():
        events = t.api.list("Event", t.namespace, fieldSelector="involvedObject.name=app")
        return [one["message"] for one in events if one["reason"] == "IdentityLost"]

    message = t.eventually("an Event on the pod", told, 20)[0]
    assert f"AzureIdentity {t.namespace}/identity does not exist" in message, message


@scenario(5)
@test
def a_running_pod_has_the_token_of_its_identity_as_it_is_edited(t):
    t.bound()
    edited = another(t, 2)
    t.cluster.entra.trust(edited, t.namespace)
    t.pod(containers=[container("loop")])
    t.verified()
    t.api.patch("AzureIdentity", t.namespace, "identity", {"spec": {"clientID": edited}})
    changed = time.time()
    after = t.follows(edited) - changed
    t.note(f"the new identity's token {after:.2f} s after")
    assert not t.refused(), t.refused()[0]
    assert after < 5, "too late"


@scenario(7)
@test
def identities_that_go_one_by_one_in_any_order_leave_the_others_alone(t):
    t.make_namespace()
    names = [f"several-{number}" for number in range(SEVERAL)]
    for number, name in enumerate(names):
        add_identity(t, name, number)
        t.bind(name, name, name)
        t.pod(name, name, containers=[container("loop")])
    for number, name in enumerate(names):
        t.verified(name, client_id=another(t, number))
    began = time.time()
    seed = random.randrange(1000)
    random.Random(seed).shuffle(names)
    t.note(f"order {seed}")
    while names:
        name = names.pop()
        t.api.delete("AzureIdentity", t.namespace, name)
        gone = time.time()
        t.eventually(f"{name} is refused", lambda: t.refused(name, gone), 20)
        for other in names:
            assert not t.refused(other, began), f"{other} after {name} was deleted: {t.refused(other, began)[0]}"


def come_at_once(t, kind, opted_in):
    """Creates many pods and waits until each has asked for a token: their names, and when it began and was done."""
    pods = [f"{kind}-{number}" for number in range(MANY)]
    began = time.time()
    for name in pods:
        t.pod(name, opted_in=opted_in)
    # Each is waited for, in whatever order they start.
    waiting = set(pods)
    while waiting:
        waiting = {name for name in waiting if not t.answers(name)}
        assert time.time() - began < OLD_LIMIT, f"still without an answer: {sorted(waiting)}"
    return pods, began, max(t.first_answer(name)["at"] for name in pods) / 1000


@scenario(8)
@test
def forty_pods_that_come_at_once_all_have_a_token_that_verifies(t):
    t.bound()
    pods, began, done = come_at_once(t, "plain", opted_in=False)
    plain = done - began
    for name in pods:
        t.api.delete("Pod", t.namespace, name, grace=0)
    t.eventually("they are gone", lambda: not t.api.list("Pod", t.namespace), OLD_LIMIT)
    pods, began, done = come_at_once(t, "many", opted_in=True)
    for name in pods:
        t.verified(name)
    took, last = time.time() - began, done - began
    t.note(f"last token at {last:.1f} s, all verified at {took:.1f} s; without sidecars the last asked at {plain:.1f} s")
    assert last < TIMES_AS_LONG * plain, f"{last:.1f} s with sidecars, {plain:.1f} s without"


@scenario(9)
@test
def a_label_that_is_changed_on_a_running_pod_gives_it_the_other_identity(t):
    t.bound()
    other = add_identity(t, "other", 2)
    t.bind(f"{t.label}-other", "other", "other")
    t.pod(containers=[container("loop")])
    t.verified()
    t.api.patch("Pod", t.namespace, "app", {"metadata": {"labels": {"aadpodidbinding": f"{t.label}-other"}}})
    changed = time.time()
    t.note(f"the other identity's token {t.follows(other) - changed:.2f} s after")
    assert not t.refused(), t.refused()[0]


@scenario(10)
@test
def one_name_in_two_namespaces_is_two_identities_and_each_pod_has_that_of_its_own(t):
    t.bound()
    # Before the first one by name: the pod's own namespace comes first, not the first of the alphabet.
    before = t.make_namespace(name=f"a-{t.namespace}")
    client_id = add_identity(t, "identity", 2, namespace=before)
    t.bind(namespace=before)
    t.pod()
    t.pod(namespace=before)
    t.verified()
    t.verified(namespace=before, client_id=client_id)


@scenario(13)
@test
def a_pod_of_an_exception_is_left_alone(t):
    t.bound()
    t.create("AzurePodIdentityException", "exception", {"podLabels": {"app": "Excepted"}})

    def admitted(labels):
        metadata = {"name": "probe", "namespace": t.namespace, "labels": labels | {"aadpodidbinding": t.label}}
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": [container()]}}
        return t.api.json("POST", t.api.path("Pod", t.namespace, dryRun="All"), body=pod)

    excepted = lambda: "initContainers" not in admitted({"app": "excepted"})["spec"]
    t.eventually("the exception counts, in any letter case", excepted, 20)
    t.pod(labels={"app": "excepted"})
    pod = t.api.get("Pod", t.namespace, "app")
    assert "env" not in pod["spec"]["containers"][0] and not pod["metadata"].get("annotations"), pod
    assert t.first_answer()["error"] == "IDENTITY_ENDPOINT is not set"
    t.pod("other", labels={"app": "other"})
    t.verified("other")


@scenario(14)
@test
def nothing_but_tokens_is_served_at_azures_own_address(t):
    """NMI passed the rest on to the node's IMDS; the sidecar passes on nothing."""
    t.bound()
    ask = "serve --link-local"
    t.pod(annotations={"imdslet.dev/endpoint": "link-local"}, containers=[
        container(f"{ask} --path=doesnotexist", "unknown"),
        container(f"{ask} --path=metadata/instance", "instance"),
        container(f"{ask} --no-header", "bare"),
        container(f"{ask} --path=doesnotexist --no-header", "bare-unknown"),
        container(ask),
    ])
    t.verified()
    expected = {"unknown": (404, "not_found"), "instance": (404, "not_found"), "bare-unknown": (404, "not_found"),
                "bare": (400, "invalid_request")}
    answers = {name: t.first_answer("app", name) for name in expected}
    found = {name: (answer["status"], answer["body"]["error"]) for name, answer in answers.items()}
    assert found == expected, answers
    assert answers["bare"]["body"]["error_description"] == "Required metadata header not specified", answers["bare"]


@scenario(15)
@test
def who_asks_too_early_is_told_when_to_ask_again_and_then_has_a_token(t):
    t.make_namespace()
    t.cluster.entra.trust(t.client_id, t.namespace)
    t.identity()
    # In plain mode nobody is held back, so that the application meets the time before its binding, and
    # before that the one before its sidecar.
    t.pod(annotations={"imdslet.dev/sidecar": "container"}, containers=[container("loop")])
    answered = lambda: [one for one in t.answers() if one["status"]]
    first = t.eventually("the sidecar answers", answered, 30)[0]
    assert first["status"] == 503 and 0 < first["retryAfter"] <= 10, first
    t.bind()
    t.follows(t.client_id)


@scenario(16)
@test
def invalid_identities_beside_a_valid_one_take_nothing_from_it_also_where_it_is_in_use(t):
    t.bound()
    t.pod("early", containers=[container("loop")])
    t.verified("early")
    began = time.time()
    broken = {
        "no-client": {"clientID": ""},
        "no-guid": {"clientID": "not-a-guid"},
        "odd-type": {"type": 9},
        "odd-resource": {"resourceID": "/subscriptions/none"},
    }
    for name, spec in broken.items():
        # Names before `binding`, so that they are looked at first.
        valid = {"type": 0, "resourceID": resource_id(name), "clientID": t.client_id}
        t.create("AzureIdentity", name, valid | spec)
        t.bind(name=f"a-{name}", identity=name)
    t.bind(name="a-dangling", identity="nobody")
    told = lambda: {one["involvedObject"]["name"] for one in t.api.list("Event", t.namespace)
                    if one["involvedObject"]["kind"] == "AzureIdentity" and one["reason"] == "InvalidObject"}
    t.eventually("each is named", lambda: told() >= set(broken), 40)
    t.pod("late")
    t.verified("late")
    assert not t.refused("early", began), t.refused("early", began)[0]
