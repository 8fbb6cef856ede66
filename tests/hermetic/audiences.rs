//! What a token is for.

use serde_json::json;

use crate::chain::{CLIENT, Entra, TENANT, identity, imds_for, pod, sidecar};

/// Each service checks `aud` byte for byte, so a slash too many or too few is a token for nobody.
#[tokio::test]
async fn each_resource_gets_a_token_for_itself_by_one_request() {
    let entra = Entra::start();
    let (pod, _) = pod(&entra, &json!([identity(TENANT)]));
    let (sidecar, port) = sidecar(&entra, pod.path());
    let vault = "https://vault.azure.net";
    let resources = [
        (vault, vault),
        ("https://vault.azure.net/.default", vault),
        ("https://database.windows.net/", "https://database.windows.net/"),
        ("https://storage.azure.com/", "https://storage.azure.com/"),
        ("https://management.azure.com", "https://management.azure.com"),
        ("https://management.azure.com/", "https://management.azure.com/"),
        ("https://graph.microsoft.com", "https://graph.microsoft.com"),
        ("00000003-0000-0000-c000-000000000000", "00000003-0000-0000-c000-000000000000"),
        ("api://imdslet-demo", "api://imdslet-demo"),
        (CLIENT, CLIENT),
    ];
    for (resource, audience) in resources {
        let (status, body) = imds_for(port, resource);
        assert_eq!(status, 200, "{resource}: {body}");
        let token = body["access_token"].as_str().unwrap();
        assert_eq!(entra.verify_of(TENANT, token, audience).await.aud, audience, "{resource}");
    }
    let requests = entra.get("/_emulator/requests").await;
    assert_eq!(requests["tokenCalls"], resources.len(), "{requests}");
    drop(sidecar);
}

/// The usual mistakes: the name of one vault or server instead of the service, and an API that the
/// tenant does not have.
#[tokio::test]
async fn a_resource_that_the_tenant_does_not_know_is_a_400_with_cause_and_remedy() {
    let entra = Entra::start();
    let (pod, _) = pod(&entra, &json!([identity(TENANT)]));
    let (sidecar, port) = sidecar(&entra, pod.path());
    let unknown =
        ["https://myvault.vault.azure.net", "https://server.database.windows.net/", "api://orders"];
    for resource in unknown {
        let (status, body) = imds_for(port, resource);
        assert_eq!(status, 400, "{resource}: {body}");
        let said = body["error_description"].as_str().unwrap();
        for words in [
            format!("the resource of the request is not known in tenant {TENANT}"),
            "correct `resource`: the URI or application id of a service, not of one vault, server \
             or account of it"
                .to_owned(),
            format!("AADSTS500011: The resource principal named {resource} was not found"),
        ] {
            assert!(said.contains(&words), "{words}: {said}");
        }
    }
    // It is no word about the identity: other tokens go on.
    assert_eq!(imds_for(port, "https://vault.azure.net").0, 200);
    let requests = entra.get("/_emulator/requests").await;
    assert_eq!(requests["tokenCalls"], unknown.len() + 1, "nothing is asked again: {requests}");
    drop(sidecar);
}
