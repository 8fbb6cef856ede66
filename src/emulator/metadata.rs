//! What clients ask before they ask for a token: OpenID configuration, keys, instance discovery.

use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;
use serde_json::{Value, json};

/// The place under which the client knows this server.
pub(super) fn host(headers: &HeaderMap) -> &str {
    headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .filter(|host| host.parse::<Authority>().is_ok())
        .unwrap_or("localhost")
}

/// Where a client that knows this server as `host` asks for tokens.
pub(super) fn token_endpoint(host: &str, tenant: &str) -> String {
    format!("https://{host}/{tenant}/oauth2/v2.0/token")
}

/// `/{tenant}/v2.0/.well-known/openid-configuration`.
pub(super) fn openid_configuration(host: &str, tenant: &str) -> Value {
    let base = format!("https://{host}/{tenant}");
    json!({
        "issuer": format!("{base}/v2.0"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "token_endpoint": token_endpoint(host, tenant),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
}

/// `/common/discovery/instance`: that the server is what it says, which is all it can say.
pub(super) fn instance(host: &str, query: &str) -> Value {
    let tenant = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "authorization_endpoint")
        .and_then(|(_, url)| url.split('/').nth(3).map(str::to_owned))
        .filter(|tenant| !tenant.is_empty())
        .unwrap_or_else(|| "common".to_owned());
    json!({
        "tenant_discovery_endpoint":
            format!("https://{host}/{tenant}/v2.0/.well-known/openid-configuration"),
        "api-version": "1.1",
        "metadata": [
            {"preferred_network": host, "preferred_cache": host, "aliases": [host]},
        ],
    })
}
