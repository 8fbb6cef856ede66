//! What travels from the webhook to the sidecar in the annotation `imdslet.dev/identities`.
//!
//! The kubelet projects the annotation into the file `identities.json`. Nothing in it is secret,
//! and nothing in it says where a credential is sent: whoever may edit the annotation gains nothing.

use serde::{Deserialize, Serialize};

/// The format number that this release writes and understands. A sidecar reads its own and those
/// before it.
pub const FORMAT: u32 = 1;

/// Whether a sidecar reads what this release writes: the annotation `imdslet.dev/version` of its pod
/// has the format that it was made with, a newer one where a release was rolled back.
pub(crate) fn is_read_by(version: &str) -> bool {
    version.parse().is_ok_and(|format: u32| format >= FORMAT)
}

/// The identities of one pod. The first one answers requests that name none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIdentities {
    /// [`FORMAT`] of whoever wrote it.
    pub version: u32,
    /// Not bound yet: the sidecar answers 503, and in native mode its startup probe fails.
    #[serde(default)]
    pub hold: bool,
    /// Empty together with `hold: false` means that the pod lost its binding.
    #[serde(default)]
    pub identities: Vec<PodIdentity>,
}

/// One identity that the pod may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIdentity {
    /// `namespace/name` of the AzureIdentity.
    pub name: String,
    /// Where its tokens come from.
    pub source: Source,
    /// Client id in Entra ID, a GUID.
    pub client_id: String,
    /// Azure resource id of a managed identity.
    #[serde(default)]
    pub resource_id: Option<String>,
    /// Object id in Entra ID, where the AzureIdentity states it.
    #[serde(default)]
    pub object_id: Option<String>,
    /// Tenant, a GUID or a domain name; may be empty for the source `managed` alone.
    pub tenant_id: String,
    /// Further tenants, for each of which an answer carries a token of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auxiliary_tenant_ids: Vec<String>,
    /// The only `resource` values that a token may be for; `None` allows all.
    #[serde(default)]
    pub allowed_resources: Option<Vec<String>>,
    /// Name of the Secret of types 1 and 2.
    #[serde(default)]
    pub secret: Option<String>,
}

/// Where the tokens of an identity come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Type 0: the pod's service account token, exchanged through a federated credential.
    Federated,
    /// Type 0: the same through AKS identity bindings.
    Binding,
    /// Type 0: the node's metadata service.
    Managed,
    /// Type 1: a client secret.
    Secret,
    /// Type 2: a client certificate.
    Certificate,
}

impl Source {
    /// The name as it stands in the annotation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Federated => "federated",
            Self::Binding => "binding",
            Self::Managed => "managed",
            Self::Secret => "secret",
            Self::Certificate => "certificate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_reads_as_the_design_prints_it() {
        let text = r#"{"version":1,"hold":false,"identities":[{"name":"default/demoidentity","source":"federated","clientId":"c","resourceId":"/subscriptions/s","objectId":null,"tenantId":"t","allowedResources":null,"secret":null}]}"#;
        let read: PodIdentities = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn unknown_keys_are_ignored_and_optional_ones_may_be_absent() {
        let text = r#"{"version":1,"future":{},"identities":[{"name":"a/b","source":"secret","clientId":"c","tenantId":"t","later":1}]}"#;
        let read: PodIdentities = serde_json::from_str(text).unwrap();
        assert!(!read.hold);
        assert_eq!(read.identities[0].source, Source::Secret);
    }
}
