//! Asks azure_identity for tokens: `client SELECTOR…`, as in ../node/client.js.

use azure_core::credentials::TokenCredential;
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let scope = std::env::var("SCOPE").unwrap();
    for selector in std::env::args().skip(1) {
        let (name, value) = selector.split_once('=').unwrap_or((&selector, ""));
        let value = value.to_owned();
        let user_assigned_id = match name {
            "client_id" => Some(UserAssignedId::ClientId(value)),
            "object_id" => Some(UserAssignedId::ObjectId(value)),
            "resource_id" => Some(UserAssignedId::ResourceId(value)),
            _ => None,
        };
        let options = ManagedIdentityCredentialOptions { user_assigned_id, ..Default::default() };
        let answer = match ManagedIdentityCredential::new(Some(options)) {
            Ok(credential) => credential.get_token(&[&scope], None).await,
            Err(error) => Err(error),
        };
        let line = match answer {
            Ok(token) => serde_json::json!({
                "selector": name,
                "token": token.token.secret(),
                "expires_on": token.expires_on.unix_timestamp(),
            }),
            Err(error) => serde_json::json!({ "selector": name, "error": error.to_string() }),
        };
        println!("{line}");
    }
}
