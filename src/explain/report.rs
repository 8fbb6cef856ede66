//! What an explanation says. Its JSON is for other programs: names stay.

use imdslet_core::warning::Warning;
use serde::Serialize;

/// Everything that was asked for.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Pods, and workloads by their pods.
    pub pods: Vec<PodChain>,
    /// Bindings.
    pub bindings: Vec<BindingChain>,
    /// Identities.
    pub identities: Vec<IdentityChain>,
    /// What was wrong with the objects that were read.
    pub problems: Vec<String>,
}

/// Why a pod gets what it gets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodChain {
    /// `Kind/namespace/name`.
    pub object: String,
    /// `namespace/name` of the service account that its pods run as.
    pub service_account: String,
    /// The value of the pod's label; absent if it has none, or an empty one.
    pub label: Option<String>,
    /// `served`, `waiting`, `untouched` or `refused`.
    pub outcome: Verdict,
    /// Why, where it is not served.
    pub reason: Option<&'static str>,
    /// The same in words, with what to do.
    pub message: Option<String>,
    /// What its sidecar was told last; absent if it has none.
    pub told: Option<Vec<String>>,
    /// The bindings with its label, in the order in which they are tried.
    pub bindings: Vec<Step>,
    /// Bindings that somebody may have meant.
    pub near: Vec<Said>,
    /// What its author should know.
    pub warnings: Vec<Said>,
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It has at least one identity.
    Served,
    /// It has a sidecar, and no identity yet.
    Waiting,
    /// It is left as it is.
    Untouched,
    /// It is not admitted.
    Refused,
}

/// A reason, and what it says.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// Stable.
    pub reason: &'static str,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// A binding that matches, and what it leads to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// `namespace/name` of the AzureIdentityBinding.
    pub binding: String,
    /// `namespace/name` of the AzureIdentity that it names.
    pub identity: String,
    /// Requests that name no identity get this one.
    pub is_default: bool,
    /// What it gives; absent if nothing.
    pub gives: Option<Gives>,
    /// Why it gives nothing, or nothing more.
    pub skipped: Option<Said>,
}

/// An identity that a pod may ask for, and what must exist for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gives {
    /// How its tokens are got.
    pub source: &'static str,
    /// Its client id.
    pub client_id: String,
    /// Its Azure resource id, if it says it.
    pub resource_id: Option<String>,
    /// Its tenant.
    pub tenant_id: String,
    /// The resources that tokens may be for, if not all.
    pub allowed_resources: Option<Vec<String>>,
    /// What must exist.
    pub needs: Need,
}

/// What must exist so that an identity's tokens can be got.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum Need {
    /// A federated credential of the identity.
    FederatedCredential {
        /// The issuer of the cluster's service account tokens, if it was told.
        issuer: Option<String>,
        /// Whom it trusts.
        subject: String,
        /// The audience of the service account token.
        audience: String,
        /// The command that makes it.
        command: String,
    },
    /// The right to use an AKS identity binding.
    IdentityBinding {
        /// Who needs it.
        subject: String,
        /// The resource of the ClusterRole, with the verb `use-managed-identity`.
        resource: String,
    },
    /// The identity at the node's machine or scale set.
    NodeIdentity,
    /// A Secret in the pod's namespace.
    Secret {
        /// `namespace/name`.
        name: String,
    },
}

/// Why a binding gives what it gives.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingChain {
    /// `AzureIdentityBinding/namespace/name`.
    pub object: String,
    /// Its `spec.selector`.
    pub selector: String,
    /// The AzureIdentity that it names.
    pub identity: String,
    /// Why it gives nothing, whatever pods there are.
    pub problem: Option<Said>,
    /// What may be meant so.
    pub note: Option<Said>,
    /// The pods and workloads with that label, and what it gives each.
    pub pods: Vec<Matched>,
}

/// What a binding gives one pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Matched {
    /// `Kind/namespace/name`.
    pub object: String,
    /// It gives the pod its identity.
    pub gives: bool,
    /// Requests that name no identity get this one.
    pub is_default: bool,
    /// Why it gives nothing.
    pub skipped: Option<Said>,
}

/// Who uses an identity.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityChain {
    /// `AzureIdentity/namespace/name`.
    pub object: String,
    /// Its client id; absent if it gives nothing.
    pub client_id: Option<String>,
    /// Its Azure resource id, if it says it.
    pub resource_id: Option<String>,
    /// How its tokens are got; absent if it gives nothing.
    pub source: Option<&'static str>,
    /// Why it gives nothing, whatever pods there are.
    pub problem: Option<Said>,
    /// The bindings that name it, and whom each one serves.
    pub bindings: Vec<BindingChain>,
    /// The service accounts whose pods get it, and what must exist for each.
    pub accounts: Vec<UsedBy>,
}

/// A service account whose pods get an identity.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsedBy {
    /// `namespace/name`.
    pub service_account: String,
    /// What must exist.
    pub needs: Need,
}

impl Said {
    pub(super) fn of(warning: &Warning) -> Self {
        let message = warning.to_string();
        // In the terminal of whoever runs kubectl it says who speaks.
        let message = message.strip_prefix("imdslet: ").unwrap_or(&message).to_owned();
        Self { reason: warning.reason(), message }
    }
}
