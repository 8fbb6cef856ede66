"""Pods whose identities come through AKS identity bindings, with the emulator as AKS's token proxy."""

from harness import container, resource_id, test

SNI = "1a2b3c4d.ests.aks"
CA = "token-proxy-ca"
SETTINGS = {
    "IMDSLET_BINDING_SNI": SNI,
    # AKS's proxy has a certificate of the cluster's own CA, and then nothing needs to be said.
    "IMDSLET_BINDING_CA_CONFIG_MAP": CA,
}


@test
def an_identity_binding_gives_a_pod_its_token_through_the_token_proxy_alone(t):
    t.make_namespace()
    entra = t.cluster.entra
    entra.know(t.client_id)
    spec = {"type": 0, "resourceID": resource_id("identity"), "clientID": t.client_id}
    t.create("AzureIdentity", "identity", spec, annotations={"imdslet.dev/source": "binding"})
    t.bind()
    t.create("ConfigMap", CA, data={"ca.crt": entra.ca})
    t.cluster.set(**SETTINGS, IMDSLET_BINDING_PROXY=entra.url)
    try:
        # It may not use the identity yet, which the token proxy says and no federated credential mends.
        entra.let_use(t.client_id, SNI, [])
        t.pod(containers=[container("loop")])
        refused = t.first_answer()
        assert refused["status"] == 403 and "use-managed-identity" in str(refused["body"]), refused
        entra.let_use(t.client_id, SNI, [f"system:serviceaccount:{t.namespace}:default"])
        given = lambda: [one for one in t.answers() if one["status"] == 200]
        t.eventually("a token", given, 30)
        t.pod("second", initContainers=[container("once", "first")])
        t.verified("second", "first")
        t.verified("second", "app")
    finally:
        t.cluster.set(**dict.fromkeys([*SETTINGS, "IMDSLET_BINDING_PROXY"]))
        entra.let_use(t.client_id, None, [])
    outcomes = [one for one in entra.ask("GET", "_emulator/requests")["outcomes"] if one["clientId"] == t.client_id]
    assert all(one.get("throughProxy") for one in outcomes), outcomes
    assert {one["outcome"] for one in outcomes} == {"Forbidden", "issued"}, outcomes

    spec = t.api.get("Pod", t.namespace, "second")["spec"]
    sources = next(one for one in spec["volumes"] if one["name"] == "imdslet")["projected"]["sources"]
    audiences = [one["serviceAccountToken"]["audience"] for one in sources if "serviceAccountToken" in one]
    assert "api://AKSIdentityBinding" in audiences, audiences
