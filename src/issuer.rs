//! The issuer of a cluster, as a person names it.

use std::str::FromStr;

/// The issuer of a cluster's service account tokens, exact to the slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer(String);

/// Why a text is no issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be the issuer's https URL, exactly as the cluster has it, the slash at its end too: \
     `az aks show --query oidcIssuerProfile.issuerUrl`"
)]
pub struct NotAnIssuer;

impl Issuer {
    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Issuer {
    type Err = NotAnIssuer;

    fn from_str(text: &str) -> Result<Self, NotAnIssuer> {
        let host = text.strip_prefix("https://").and_then(|rest| rest.split('/').next());
        let is_plain = text.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"'\\`$<>{}".contains(&b));
        match host {
            Some(host) if !host.is_empty() && is_plain && text.len() <= 600 => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NotAnIssuer),
        }
    }
}
