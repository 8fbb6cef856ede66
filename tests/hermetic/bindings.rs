//! AKS identity bindings end to end: the real sidecar, and the emulator in the place of AKS's token
//! proxy.

use imdslet_tests::programs::{Ended, Running, Signal, command};
use imdslet_tests::volumes::turn;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::chain::{CLIENT, Entra, TENANT, folder, imds_for};

const SNI: &str = "1a2b3c4d.ests.aks";
const AUDIENCE: &str = "api://AKSIdentityBinding";
const VAULT: &str = "https://vault.azure.net";
const GRAPH: &str = "https://graph.microsoft.com";

/// An emulator in whose cluster `subjects` may be the one identity, which has no federated
/// credential.
async fn proxy(subjects: &[&str]) -> Entra {
    let entra = Entra::start();
    let config = json!({
        "tenants": [{"id": TENANT, "applications": [
            {"clientId": CLIENT, "objectId": "0b000000-0000-4000-8000-000000000001"},
        ]}],
        "issuers": [{"issuer": "https://issuer.example", "jwks": entra.issuer.jwks()}],
        "identityBindings": {"sni": SNI, "bindings": [{"clientId": CLIENT, "subjects": subjects}]},
    });
    let (status, said) = entra.put(&config.to_string()).await;
    assert_eq!(status, 204, "{said}");
    entra
}

/// A pod with one identity of this source, and a service account token for `audience`.
fn pod(entra: &Entra, audience: &str) -> (TempDir, String) {
    let pod = folder();
    let token = entra.service_account_token(audience);
    let identities = json!({"version": 1, "hold": false, "identities": [{
        "name": "web/db", "source": "binding", "clientId": CLIENT, "tenantId": TENANT,
    }]});
    let files = [
        ("identities.json", identities.to_string()),
        // The other audience's, which must not be sent.
        ("token", "n0t.f0r.th1s".to_owned()),
        ("binding-token", token.clone()),
        ("binding-ca.crt", entra.ca.clone()),
    ];
    turn(pod.path(), "..1", &files);
    (pod, token)
}

/// A sidecar that asks for `sni`. It trusts the proxy by the file in its volume alone, and would
/// find nobody at the authority.
fn sidecar(entra: &Entra, pod: &TempDir, sni: &str) -> (Running, u16) {
    let mut command = command("imdslet-sidecar");
    command
        .args(["serve", "--port=0", "--mode=native", "--authority=https://login.invalid"])
        .arg(format!("--dir={}", pod.path().display()))
        .arg(format!("--binding-proxy={}", entra.url("")))
        .arg(format!("--binding-sni={sni}"));
    let mut sidecar = Running::start(&mut command);
    let port = sidecar.listening(None).port();
    (sidecar, port)
}

fn end(sidecar: Running) -> Ended {
    sidecar.signal(Signal::TERM);
    let ended = sidecar.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended
}

/// Who came through the proxy with which outcome, and how often.
async fn passed(entra: &Entra) -> Vec<(Value, Value, u64)> {
    let requests = entra.get("/_emulator/requests").await;
    let outcomes = requests["outcomes"].as_array().unwrap().iter();
    let through = outcomes.filter(|one| one["throughProxy"] == json!(true));
    through
        .map(|one| {
            (one["clientId"].clone(), one["outcome"].clone(), one["count"].as_u64().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn the_token_proxy_gives_the_sidecar_a_token_of_the_bound_identity() {
    let entra = proxy(&["system:serviceaccount:web:db"]).await;
    let (pod, assertion) = pod(&entra, AUDIENCE);
    let (sidecar, port) = sidecar(&entra, &pod, SNI);
    for resource in [VAULT, GRAPH, VAULT] {
        let (status, body) = imds_for(port, resource);
        assert_eq!(status, 200, "{body}");
        let token = body["access_token"].as_str().unwrap();
        let claims = entra.verify_of(TENANT, token, resource).await;
        assert_eq!((claims.appid.as_str(), claims.appidacr.as_str()), (CLIENT, "2"));
    }
    // One request for each of two resources, and nothing else came.
    assert_eq!(passed(&entra).await, [(json!(CLIENT), json!("issued"), 2)]);
    assert_eq!(entra.get("/_emulator/requests").await["tokenCalls"], 2);

    let logs = [end(sidecar).stdout, entra.end()];
    for part in assertion.split('.') {
        assert!(logs.iter().all(|log| !log.contains(part)), "{part}: {logs:?}");
    }
}

#[tokio::test]
async fn the_token_proxy_refuses_who_may_not_and_whom_it_does_not_know() {
    let entra = proxy(&["system:serviceaccount:web:other"]).await;
    for (audience, status, outcome) in
        [(AUDIENCE, 403, "Forbidden"), ("api://AzureADTokenExchange", 403, "Unauthorized")]
    {
        let (pod, _) = pod(&entra, audience);
        let (sidecar, port) = sidecar(&entra, &pod, SNI);
        let (got, body) = imds_for(port, VAULT);
        assert_eq!(got, status, "{body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("use-managed-identity"), "{message}");
        let passed = passed(&entra).await;
        assert!(passed.contains(&(json!(CLIENT), json!(outcome), 1)), "{passed:?}");
        end(sidecar);
    }
}

/// Under another name there is no token proxy: its certificate is not for that name, and where that
/// does not stop a client, Entra ID's own part does not take a token for the proxy.
#[tokio::test]
async fn a_wrong_name_in_tls_reaches_no_token_proxy() {
    let entra = proxy(&["system:serviceaccount:web:db"]).await;
    let (pod, assertion) = pod(&entra, AUDIENCE);
    let (sidecar, port) = sidecar(&entra, &pod, "other.ests.aks");
    let (status, body) = imds_for(port, VAULT);
    assert_eq!(status, 503, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("--binding-sni"), "{message}");
    assert_eq!(entra.get("/_emulator/requests").await["tokenCalls"], 0);
    end(sidecar);

    let credential = [
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", &assertion),
    ];
    let (status, body) = entra.token_by(&credential).await;
    // It has no federated credential, which is what Entra ID looks for first.
    assert_eq!((status, &body["error_codes"]), (401, &json!([70025])), "{body}");
    assert_eq!(passed(&entra).await, []);
}
