"""What docs/security.md says that nobody can do, tried."""

from harness import container, test
from network import REFUSED, ask, network_of, node

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


@test
def whoever_may_read_all_logs_finds_no_token_in_them(t):
    t.bound()
    t.pod(containers=[container(), container("serve --resource=https://nowhere.example", "refused")])
    t.verified()
    assert t.first_answer(container="refused")["status"] == 400
    # The sidecar tells of both, by the name of the identity.
    log = t.eventually("the audit line", lambda: t.api.logs(t.namespace, "app", "imdslet"), 20)
    assert f"{t.namespace}/identity" in log, log
    texts = {"imdslet": log} | {name: t.cluster.logs(name) for name in ("imdslet-webhook", "imdslet-controller")}
    uid = t.api.get("Pod", t.namespace, "app")["metadata"]["uid"]
    for name, text in texts.items():
        # Every JSON Web Token begins so: `{"` in base64url.
        assert "eyJ" not in text, f"the log of {name} has a token"
        assert name != "imdslet" or uid not in text, "the log has the value of IDENTITY_HEADER"
