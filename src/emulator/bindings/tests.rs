use serde_json::json;

use super::super::testing::{
    AUDIENCE, CLIENT, CLUSTER, OTHER_CLIENT, SUBJECT, VAULT, claims, config, fields, form, parsed,
};
use super::*;

/// A moment at which nothing else happens.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_790_000_000)
}

/// What the proxy says to `body`, where [`SUBJECT`] may be [`CLIENT`].
async fn said(body: &str) -> Result<(), Denial> {
    let mut config = config();
    config["identityBindings"] = json!({
        "sni": "1a2b.ests.aks",
        "bindings": [{"clientId": CLIENT.to_uppercase(), "subjects": [SUBJECT]}],
    });
    let config = parsed(&config);
    let request = TokenRequest::parse(body.as_bytes()).ok().unwrap();
    config.identity_bindings.as_ref().unwrap().check(&request, &config, now()).await
}

/// The same to a service account token with these claims changed.
async fn said_to(client: &str, changes: &[(&str, Value)]) -> Result<(), Denial> {
    let mut claims = claims(now());
    claims["aud"] = json!([BINDING_AUDIENCE]);
    for (claim, value) in changes {
        claims[claim] = value.clone();
    }
    said(&form(&fields(client, &CLUSTER.sign(&claims).unwrap()))).await
}

#[tokio::test]
async fn a_service_account_is_let_be_the_identities_that_it_may_be() {
    for client in [CLIENT.to_owned(), CLIENT.to_uppercase()] {
        assert_eq!(said_to(&client, &[]).await, Ok(()));
    }
    for (client, subject) in [
        (OTHER_CLIENT, SUBJECT),
        (CLIENT, "system:serviceaccount:web:other"),
        (CLIENT, "system:serviceaccount:web:DB"),
    ] {
        let denied = said_to(client, &[("sub", json!(subject))]).await.unwrap_err();
        let expected =
            Denial::Forbidden { subject: subject.to_owned(), client_id: client.to_owned() };
        assert_eq!(denied, expected);
        assert!(denied.to_string().contains("use-managed-identity"), "{denied}");
    }
}

#[tokio::test]
async fn who_is_no_service_account_of_the_cluster_is_not_known() {
    let seconds = 1_790_000_000;
    for (name, changes) in [
        ("for Entra ID itself", [("aud", json!([AUDIENCE]))]),
        ("for both", [("aud", json!([AUDIENCE, BINDING_AUDIENCE]))]),
        ("for another letter case", [("aud", json!("api://aksidentitybinding"))]),
        ("for nobody", [("aud", json!([]))]),
        ("of another cluster", [("iss", json!("https://other.example"))]),
        ("expired", [("exp", json!(seconds))]),
        ("not yet valid", [("nbf", json!(seconds + 301))]),
    ] {
        let denied = said_to(CLIENT, &changes).await.unwrap_err();
        assert_eq!(denied.status(), StatusCode::UNAUTHORIZED, "{name}: {denied}");
    }
    let secret = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT),
        ("scope", VAULT),
        ("client_secret", "first"),
    ];
    for body in [form(&fields(CLIENT, "a.b.c")), form(&secret)] {
        assert_eq!(said(&body).await.unwrap_err().reason(), "Unauthorized");
    }
}

#[test]
fn nothing_but_the_token_request_passes() {
    for (method, uri, passes) in [
        (Method::POST, "/t/oauth2/v2.0/token", true),
        (Method::GET, "/t/oauth2/v2.0/token", false),
        (Method::POST, "/t/oauth2/v2.0/token?x=1", false),
        (Method::POST, "/t/oauth2/v2.0/token/", false),
        (Method::POST, "//oauth2/v2.0/token", false),
        (Method::POST, "/t/oauth2/token", false),
        (Method::GET, "/t/discovery/v2.0/keys", false),
        (Method::GET, "/t/v2.0/.well-known/openid-configuration", false),
        (Method::GET, "/common/discovery/instance", false),
        (Method::PUT, "/_emulator/config", false),
        (Method::GET, "/", false),
    ] {
        let uri = uri.parse().unwrap();
        assert_eq!(
            pass(&method, &uri),
            if passes { Ok(()) } else { Err(Denial::NotFound) },
            "{uri}"
        );
    }
}

#[test]
fn a_denial_is_a_status_of_kubernetes() {
    let denial = Denial::Forbidden { subject: SUBJECT.to_owned(), client_id: CLIENT.to_owned() };
    let body = denial.body();
    assert_eq!(
        body,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": "Forbidden", "code": 403, "message": body["message"],
        })
    );
}
