//! An issuer of service account tokens, where no cluster is at hand.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::jwt::{Jwks, KeyError, KeyName, SigningKey, seconds};

/// Signs tokens as a kube-apiserver signs those of projected volumes.
#[derive(Debug)]
pub struct LocalIssuer {
    issuer: String,
    key: SigningKey,
}

/// For whom and for what a token is.
#[derive(Clone, Copy, Debug)]
pub struct ServiceAccountToken<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's service account.
    pub service_account: &'a str,
    /// The pod's name.
    pub pod_name: &'a str,
    /// The pod's uid.
    pub pod_uid: &'a str,
    /// Who shall accept the token.
    pub audience: &'a str,
    /// How long it is valid.
    pub lifetime: Duration,
}

impl LocalIssuer {
    /// An issuer with a key of its own, known as `issuer`.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if no key can be generated, which a working random source rules out.
    pub fn generate(issuer: impl Into<String>) -> Result<Self, KeyError> {
        Ok(Self { issuer: issuer.into(), key: SigningKey::generate(KeyName::Kubernetes)? })
    }

    /// The `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its public keys.
    #[must_use]
    pub fn jwks(&self) -> Jwks {
        Jwks { keys: vec![self.key.public().clone()] }
    }

    /// A token as the kubelet would mount it.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the key cannot sign, which it always can.
    pub fn service_account_token(
        &self,
        token: &ServiceAccountToken<'_>,
        now: SystemTime,
    ) -> Result<String, KeyError> {
        let issued = seconds(now);
        let subject =
            format!("system:serviceaccount:{}:{}", token.namespace, token.service_account);
        self.sign(&json!({
            "aud": [token.audience],
            "exp": issued.saturating_add(token.lifetime.as_secs()),
            "iat": issued,
            "iss": self.issuer,
            "jti": Uuid::new_v4().to_string(),
            "kubernetes.io": {
                "namespace": token.namespace,
                "pod": {"name": token.pod_name, "uid": token.pod_uid},
                "serviceaccount": {"name": token.service_account, "uid": stable_id(&subject)},
            },
            "nbf": issued,
            "sub": subject,
        }))
    }

    /// A token with these claims, whatever they are.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the claims cannot be written as JSON.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        self.key.sign(None, claims)
    }
}

/// A GUID for a text: the same in every run, as the uid of a service account is in its tokens.
pub(crate) fn stable_id(text: &str) -> String {
    let mut bytes = [0; 16];
    for (to, from) in
        bytes.iter_mut().zip(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
    {
        *to = *from;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::jwt::Unverified;
    use super::*;

    #[test]
    fn a_token_is_shaped_as_the_kubelet_mounts_it() {
        let issuer = LocalIssuer::generate("https://issuer.example").unwrap();
        let token = ServiceAccountToken {
            namespace: "web",
            service_account: "db",
            pod_name: "db-0",
            pod_uid: "6f0e",
            audience: "api://AzureADTokenExchange",
            lifetime: Duration::from_hours(1),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let signed = issuer.service_account_token(&token, now).unwrap();
        let parsed = Unverified::<Value>::parse(&signed).unwrap();
        let jwks = issuer.jwks();
        assert!(jwks.find(parsed.kid.as_deref().unwrap()).unwrap().verifies(&parsed));
        let claims = &parsed.claims;
        assert_eq!(
            *claims,
            json!({
                "aud": ["api://AzureADTokenExchange"],
                "exp": 1_790_003_600,
                "iat": 1_790_000_000,
                "iss": "https://issuer.example",
                "jti": claims["jti"],
                "kubernetes.io": {
                    "namespace": "web",
                    "pod": {"name": "db-0", "uid": "6f0e"},
                    "serviceaccount": {
                        "name": "db",
                        "uid": claims["kubernetes.io"]["serviceaccount"]["uid"],
                    },
                },
                "nbf": 1_790_000_000,
                "sub": "system:serviceaccount:web:db",
            })
        );
        assert_eq!(stable_id("a"), stable_id("a"));
        assert_ne!(stable_id("a"), stable_id("b"));
    }
}
