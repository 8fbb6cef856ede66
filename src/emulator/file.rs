//! What may stand in the configuration, as it is typed; nothing of it is checked yet.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use super::jwt::Jwks;

/// A federated credential of an application or a user-assigned identity, as `migrate -o json`
/// prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FederatedCredential {
    /// The AzureIdentity that asks for it, as `namespace/name`. Only for the reader.
    #[serde(default)]
    pub identity: Option<String>,
    /// Azure resource id of the user-assigned identity. Only for the reader.
    #[serde(default)]
    pub resource_id: Option<String>,
    /// Whose credential it is.
    pub client_id: String,
    /// Its name in Azure.
    #[serde(default)]
    pub name: Option<String>,
    /// The `iss` that an assertion must have.
    pub issuer: String,
    /// The `sub` that an assertion must have.
    pub subject: String,
    /// The `aud` that an assertion must have; exactly one, as in Azure.
    pub audiences: Vec<String>,
}

/// The whole file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub(super) tenants: Vec<TenantEntry>,
    #[serde(default)]
    pub(super) issuers: Vec<IssuerEntry>,
    #[serde(default)]
    pub(super) federated_credentials: Vec<FederatedCredential>,
    #[serde(default)]
    pub(super) identity_bindings: Option<IdentityBindingsEntry>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) token_lifetime: Option<Duration>,
    #[serde(default)]
    pub(super) faults: Option<FaultsEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TenantEntry {
    pub(super) id: String,
    #[serde(default)]
    pub(super) applications: Vec<ApplicationEntry>,
    /// What tokens can be for beside Microsoft's services and `applications`.
    #[serde(default)]
    pub(super) resources: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ApplicationEntry {
    pub(super) client_id: String,
    pub(super) object_id: String,
    /// Under which tokens for it can be asked for.
    #[serde(default)]
    pub(super) identifier_uris: Vec<String>,
    #[serde(default, deserialize_with = "secrets")]
    pub(super) secrets: Vec<Secret>,
    /// Those that Azure still knows and does not take any more.
    #[serde(default, deserialize_with = "secrets")]
    pub(super) expired_secrets: Vec<Secret>,
    /// In PEM.
    #[serde(default)]
    pub(super) certificates: Vec<String>,
    #[serde(default)]
    pub(super) certificate_files: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IssuerEntry {
    pub(super) issuer: String,
    #[serde(default)]
    pub(super) jwks_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) jwks: Option<Jwks>,
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) ca: Option<String>,
}

/// AKS's token proxy.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IdentityBindingsEntry {
    pub(super) sni: String,
    #[serde(default)]
    pub(super) bindings: Vec<BindingEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BindingEntry {
    pub(super) client_id: String,
    /// Service accounts that have the verb `use-managed-identity` for it.
    #[serde(default)]
    pub(super) subjects: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FaultsEntry {
    #[serde(default, deserialize_with = "duration")]
    pub(super) delay: Option<Duration>,
    #[serde(default)]
    pub(super) status: Option<u16>,
    /// In seconds.
    #[serde(default)]
    pub(super) retry_after: Option<u32>,
    #[serde(default)]
    pub(super) share: Option<f64>,
}

/// A client secret. It has no `Debug` and no `Display`, so that it reaches no log.
pub(super) struct Secret(String);

impl Secret {
    /// Whether `given` is this secret, in a time that does not depend on where they differ.
    pub(super) fn is(&self, given: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), given.as_bytes())
            .is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads the list by hand: serde's own messages quote what they do not expect.
fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let expected =
        || D::Error::custom("must be a list of strings; quote what YAML reads as a number");
    let serde_yaml::Value::Sequence(list) = serde_yaml::Value::deserialize(deserializer)? else {
        return Err(expected());
    };
    list.into_iter()
        .map(|item| match item {
            serde_yaml::Value::String(secret) => Ok(Secret(secret)),
            _ => Err(expected()),
        })
        .collect()
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct Friendly;

    impl Visitor<'_> for Friendly {
        type Value = Option<Duration>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as `250ms`, `5s` or `1h`")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse::<SignedDuration>()
                .ok()
                .and_then(|signed| Duration::try_from(signed).ok())
                .map(Some)
                .ok_or_else(|| {
                    E::custom(format!(
                        "`{text}` is no duration; write one such as `250ms`, `5s` or `1h`"
                    ))
                })
        }
    }

    deserializer.deserialize_any(Friendly)
}
