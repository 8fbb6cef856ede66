"""Pods whose identities are service principals, with the Secrets that a kubelet mounts."""

import base64

from cluster import ROOT
from entra import TENANT
from harness import container, scenario, test

CERTIFICATES = ROOT / "tests/fixtures/certificates"


def encoded(**keys):
    return {key: base64.b64encode(value).decode() for key, value in keys.items()}


def principal(t, kind, **keys):
    """An identity of this type, bound, with its Secret."""
    t.make_namespace()
    t.create("Secret", "proof", data=encoded(**keys))
    proof = {"name": "proof", "namespace": t.namespace}
    t.identity(type=kind, tenantID=TENANT, clientPassword=proof)
    t.bind()


@scenario(11)
@test
def a_client_secret_is_mounted_in_the_sidecar_alone_and_its_rotation_costs_no_request(t):
    principal(t, 1, clientSecret=b"f1rst")
    entra = t.cluster.entra
    entra.know(t.client_id, secrets=["f1rst"])
    # Asks for another token every 5 s, where there is one to be had.
    anew = "loop --resource=https://vault.azure.net&bypass_cache=true"
    t.pod(containers=[container(anew)])
    t.verified(proof="1")
    spec = t.api.get("Pod", t.namespace, "app")["spec"]
    mounts = {one["name"]: [mount["name"] for mount in one.get("volumeMounts", [])]
              for one in spec["initContainers"] + spec["containers"]}
    with_secret = [name for name, volumes in mounts.items() if any("imdslet-secret" in one for one in volumes)]
    assert with_secret == ["imdslet"], mounts

    t.api.patch("Secret", t.namespace, "proof", {"data": encoded(clientSecret=b"s3cond")})
    entra.know(t.client_id, secrets=["s3cond"])
    before = entra.outcomes(t.client_id)["issued"]
    t.eventually("a token by the new secret", lambda: entra.outcomes(t.client_id)["issued"] > before, 120)
    outcomes = entra.outcomes(t.client_id)
    t.note(f"refused with the old secret {outcomes.get('7000215', 0)} times meanwhile")
    statuses = {one["status"] for one in t.answers()}
    assert statuses == {200}, statuses


@test
def a_certificate_signs_for_a_pod_and_its_init_container(t):
    principal(t, 2, certificate=(CERTIFICATES / "old.p12").read_bytes(), password=b"s3cret\n")
    t.cluster.entra.know(t.client_id, certificates=[(CERTIFICATES / "leaf.crt").read_text()])
    t.pod(initContainers=[container("once", "first")])
    t.verified("app", "first")
    t.verified("app", "app")
