//! What a token is for.

use serde_json::json;

use crate::chain::{Entra, TENANT, identity, imds_for, pod, sidecar};

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
