"""What docs/security.md says that nobody can do, tried."""

import urllib.parse

from entra import TENANT
from harness import container, test
from network import REFUSED, ask, network_of, node
from service_principals import encoded

PORT, METRICS = 2579, 9464
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"


def asked(netns, url, **headers):
    """A GET from a network: the node's, or that of another pod."""
    lines = [part for name, value in headers.items() for part in ("--header", f"{name.replace('_', '-')}: {value}")]
    return ask(netns, url, *lines)


@test
def nobody_outside_a_pod_reaches_its_sidecar_but_for_metrics_that_were_asked_for(t):
    t.bound()
    t.pod()
    t.verified()
    t.pod("asker", opted_in=False)
    address = t.api.get("Pod", t.namespace, "app")["status"]["podIP"]
    places = {"the node": node(t), "another pod": network_of(t, "asker")}
    for place, netns in places.items():
        for path in (TOKEN, "/state", "/metrics"):
            code, _, _ = asked(netns, f"http://{address}:{PORT}{path}", Metadata="true", Host="127.0.0.1")
            assert code == REFUSED, f"{path} at {address} from {place}: curl ends with {code}"
    t.cluster.set(IMDSLET_SIDECAR_METRICS_PORT=str(METRICS))
    try:
        t.pod("shown")
        t.verified("shown")
        shown = t.api.get("Pod", t.namespace, "shown")
        address, uid = shown["status"]["podIP"], shown["metadata"]["uid"]
        token = t.first_answer("shown")["body"]["access_token"]
        for place, netns in places.items():
            code, status, text = asked(netns, f"http://{address}:{METRICS}/metrics")
            assert (code, status) == (0, 200), (place, code, status, text)
            for secret in (t.client_id, uid, token):
                assert secret not in text, f"the metrics have {secret}"
            for path in (TOKEN, "/state"):
                _, status, body = asked(netns, f"http://{address}:{METRICS}{path}", Metadata="true", Host="127.0.0.1",
                                        X_IDENTITY_HEADER=uid)
                assert status == 404 and "access_token" not in body, f"{path} from {place}: {status} {body}"
            code, _, _ = asked(netns, f"http://{address}:{PORT}{TOKEN}", Metadata="true", Host="127.0.0.1")
            assert code == REFUSED, (place, code)
    finally:
        t.cluster.set(IMDSLET_SIDECAR_METRICS_PORT=None)


# Whoever sent it would percent-encode it, so that a log could have it in either spelling.
CLIENT_SECRET = "s3cret~of/a+client"


@test
def whoever_may_read_all_logs_finds_no_token_and_no_secret_in_them(t):
    t.bound()
    t.pod(containers=[container(), container("serve --resource=https://nowhere.example", "refused")])
    t.verified()
    assert t.first_answer(container="refused")["status"] == 400
    # A service principal that Entra ID refuses first, which is when a program says most.
    principal_id, proof = f"c1{t.client_id[2:]}", {"name": "proof", "namespace": t.namespace}
    t.cluster.entra.know(principal_id, secrets=["another"])
    t.create("Secret", "proof", data=encoded(clientSecret=CLIENT_SECRET.encode()))
    t.identity("principal", principal_id, type=1, tenantID=TENANT, clientPassword=proof)
    t.bind(f"{t.label}-principal", "principal", "principal")
    t.pod("principal", f"{t.label}-principal", containers=[container("loop")])
    logs = lambda pod: t.api.logs(t.namespace, pod, "imdslet")
    t.eventually("the secret is refused", lambda: '"WrongSecret"' in logs("principal"), 60)
    t.cluster.entra.know(principal_id, secrets=[CLIENT_SECRET])
    t.follows(principal_id, "principal", seconds=90)
    # The sidecar tells of both, by the names of the identities.
    for pod, identity in {"app": "identity", "principal": "principal"}.items():
        t.eventually("the audit line", lambda: f"{t.namespace}/{identity}" in logs(pod), 20)

    texts = {pod: logs(pod) for pod in ("app", "principal")}
    texts |= {name: t.cluster.logs(name) for name in ("imdslet-webhook", "imdslet-controller")}
    secrets = {
        # Every JSON Web Token begins so: `{"` in base64url.
        "a token": ["eyJ"],
        "the client secret": [CLIENT_SECRET, urllib.parse.quote(CLIENT_SECRET, safe=""), *encoded(key=CLIENT_SECRET.encode()).values()],
    }
    for name, text in texts.items():
        for what, spellings in secrets.items():
            assert not [one for one in spellings if one in text], f"the log of {name} has {what}"
    for pod in ("app", "principal"):
        uid = t.api.get("Pod", t.namespace, pod)["metadata"]["uid"]
        assert uid not in texts[pod], f"the log of {pod}'s sidecar has the value of IDENTITY_HEADER"
