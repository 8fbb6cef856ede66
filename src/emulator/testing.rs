//! What the tests of several modules start from: one issuer, one tenant, one identity.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Config, Entra, LocalIssuer, ServiceAccountToken};

pub(super) const TENANT: &str = "11111111-aaaa-4111-8111-111111111111";
pub(super) const CLIENT: &str = "22222222-bbbb-4222-8222-222222222222";
/// An identity without a federated credential.
pub(super) const OTHER_CLIENT: &str = "33333333-cccc-4333-8333-333333333333";
pub(super) const OBJECT: &str = "44444444-dddd-4444-8444-444444444444";
pub(super) const ISSUER: &str = "https://issuer.example/cluster/";
pub(super) const AUDIENCE: &str = "api://AzureADTokenExchange";
pub(super) const SUBJECT: &str = "system:serviceaccount:web:db";
pub(super) const VAULT: &str = "https://vault.azure.net/.default";

/// One key for all tests: making it takes longer than most of them.
pub(super) static CLUSTER: LazyLock<LocalIssuer> =
    LazyLock::new(|| LocalIssuer::generate(ISSUER).unwrap());

/// A configuration in which [`assertion`] is good for [`CLIENT`].
pub(super) fn config() -> Value {
    json!({
        "tenants": [{"id": TENANT, "applications": [
            {"clientId": CLIENT, "objectId": OBJECT, "secrets": ["first", "second"],
             "expiredSecrets": ["~past~"]},
            {"clientId": OTHER_CLIENT, "objectId": OBJECT},
        ]}],
        "issuers": [{"issuer": ISSUER, "jwks": CLUSTER.jwks()}],
        "federatedCredentials": [credential()],
    })
}

/// A federated credential as `migrate -o json` prints it.
pub(super) fn credential() -> Value {
    json!({
        "identity": "web/db",
        "resourceId": "/subscriptions/s/resourcegroups/rg/providers/\
            Microsoft.ManagedIdentity/userAssignedIdentities/db",
        "clientId": CLIENT,
        "name": "imdslet-web-db",
        "issuer": ISSUER,
        "subject": SUBJECT,
        "audiences": [AUDIENCE],
    })
}

pub(super) fn parsed(config: &Value) -> Config {
    Config::parse(&config.to_string(), None).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn entra(config: &Value) -> Arc<Entra> {
    Arc::new(Entra::new(parsed(config), SystemTime::now()).unwrap())
}

/// The claims of a service account token that is good at `now` and for ten minutes.
pub(super) fn claims(now: SystemTime) -> Value {
    let now = super::jwt::seconds(now);
    json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": [AUDIENCE],
        "iat": now, "nbf": now, "exp": now + 600,
    })
}

/// A token as a pod of the cluster has it.
pub(super) fn assertion(now: SystemTime) -> String {
    let token = ServiceAccountToken {
        namespace: "web",
        service_account: "db",
        pod_name: "db-0",
        pod_uid: "6f0e",
        audience: AUDIENCE,
        lifetime: Duration::from_mins(10),
    };
    CLUSTER.service_account_token(&token, now).unwrap()
}

/// The fields of a token request by assertion.
pub(super) fn fields<'a>(client: &'a str, assertion: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("grant_type", "client_credentials"),
        ("client_id", client),
        ("scope", VAULT),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ]
}

pub(super) fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}
