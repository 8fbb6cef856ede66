//! AKS's token proxy for identity bindings: who may be which identity, and what all others are told.
//!
//! Inside a cluster it takes Entra ID's place. It takes the same request, with a service account
//! token for an audience of its own, asks Kubernetes whether that account may use the identity, and
//! passes on what Entra ID answers then. What it refuses itself it refuses in Kubernetes' words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use http::{Method, StatusCode, Uri};
use imdslet_core::id::is_domain_name;
use imdslet_core::names::BINDING_AUDIENCE;
use serde_json::{Value, json};

use super::assertion;
use super::config::{Config, ConfigError, repeated, value};
use super::file::IdentityBindingsEntry;
use super::request::{Credential, TokenRequest};

/// What the token proxy is told.
pub(super) struct IdentityBindings {
    sni: String,
    /// By client id, the subjects of the service accounts that may use it.
    allowed: BTreeMap<String, Vec<String>>,
}

/// Why the token proxy passes a request on to nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denial {
    #[error(
        "the server could not find the requested resource; this is the token proxy, and only POST /TENANT/oauth2/v2.0/token is passed on"
    )]
    NotFound,
    #[error("Unauthorized: {0}")]
    Unauthorized(String),
    #[error(
        "{client_id}.cid.wi.aks.azure.com is forbidden: User \"{subject}\" cannot \
         use-managed-identity resource \"{client_id}\" in API group \"cid.wi.aks.azure.com\" at \
         the cluster scope"
    )]
    Forbidden { subject: String, client_id: String },
}

impl IdentityBindings {
    /// Checks what was configured. `known` gives the client id of an application that is there.
    pub(super) fn read(
        entry: IdentityBindingsEntry,
        known: impl Fn(String, &str) -> Result<String, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let sni = entry.sni;
        // TLS carries no address as a name, and a name without a dot is this machine's.
        if !is_domain_name(&sni) || !sni.contains('.') || sni.parse::<IpAddr>().is_ok() {
            let expected = "a DNS name with a dot, such as `1a2b3c4d.ests.aks`";
            return Err(value("identityBindings.sni".to_owned(), &sni, expected));
        }
        let mut allowed = BTreeMap::new();
        for (at, binding) in entry.bindings.into_iter().enumerate() {
            let field = format!("identityBindings.bindings[{at}].clientId");
            let client_id = known(field.clone(), &binding.client_id)?;
            if allowed.insert(client_id, binding.subjects).is_some() {
                return Err(repeated(field, &binding.client_id));
            }
        }
        Ok(Self { sni, allowed })
    }

    /// Whether a client that asks for `name` in TLS means the proxy.
    pub(super) fn is_asked_as(&self, name: &str) -> bool {
        self.sni.eq_ignore_ascii_case(name)
    }

    /// Whether the sender of `request` is a service account that may use the identity.
    pub(super) async fn check(
        &self,
        request: &TokenRequest,
        config: &Config,
        now: SystemTime,
    ) -> Result<(), Denial> {
        let Credential::Assertion(assertion) = &request.credential else {
            let why = "a client_assertion is asked for, with the service account token";
            return Err(Denial::Unauthorized(why.to_owned()));
        };
        let subject = assertion::subject(assertion, BINDING_AUDIENCE, config, now)
            .await
            .map_err(|refusal| Denial::Unauthorized(refusal.to_string()))?;
        let client_id = request.client_id.to_ascii_lowercase();
        let allowed = self.allowed.get(&client_id).map_or(&[][..], Vec::as_slice);
        if allowed.contains(&subject) {
            return Ok(());
        }
        Err(Denial::Forbidden { subject, client_id })
    }
}

impl Denial {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
        }
    }

    /// Kubernetes' word. Never carries what a client sent.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::Unauthorized(_) => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
        }
    }

    /// The body of the answer: a Status of Kubernetes' API.
    pub(super) fn body(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.to_string(),
            "reason": self.reason(),
            "code": self.status().as_u16(),
        })
    }
}

/// Lets nothing but a token request through to the proxy.
pub(super) fn pass(method: &Method, uri: &Uri) -> Result<(), Denial> {
    let mut segments = uri.path().split('/').skip(1);
    let tenant = segments.next().unwrap_or_default();
    let is_token = !tenant.is_empty() && segments.eq(["oauth2", "v2.0", "token"]);
    if method == Method::POST && is_token && uri.query().is_none() {
        return Ok(());
    }
    Err(Denial::NotFound)
}

#[cfg(test)]
mod tests;
