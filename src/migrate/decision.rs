//! What a plan cannot decide by itself.

use serde::{Serialize, Serializer};

/// Something that a person must decide before the switch.
///
/// Ordered by urgency: what runs today and would not run after it comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Decision {
    /// Why.
    pub reason: Reason,
    /// `Kind/namespace/name` of the object that it is about.
    pub object: String,
    /// What is found, and what to do.
    pub message: String,
}

impl Decision {
    pub(super) fn new(
        reason: Reason,
        object: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { reason, object: object.into(), message: message.into() }
    }
}

/// Why something must be decided. The order is that of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// A labelled pod has no identity that it could use: it runs today and would be held.
    Unbound,
    /// The webhook would refuse the pod.
    Refused,
    /// An object cannot be used as it stands.
    BrokenObject,
    /// More credentials than Azure allows for one identity.
    TooManyCredentials,
    /// Nothing says which tenant identities are of.
    NoTenant,
    /// The identity's resource id is needed for the scripts.
    NoResourceId,
    /// The webhooks of kube-system are taken out by AKS.
    SystemNamespace,
    /// The volume asks NMI at the node.
    SecretsStore,
    /// The pod is on the node's network.
    HostNetwork,
    /// The pod is on Windows.
    Windows,
    /// The kubelet makes the pod, and no webhook sees it.
    StaticPod,
    /// The pod's namespace does not take part.
    InjectionDisabled,
    /// Something of the pod is in the sidecar's way.
    PodConflict,
    /// The pod uses azure-workload-identity too.
    WorkloadIdentity,
    /// A proxy stands between the pod and Azure.
    Proxy,
    /// A binding that matches gives nothing.
    SkippedBinding,
    /// NMI kept to namespaces, and imdslet would not.
    Scope,
    /// Pods of different identities share an account, and so all of them.
    SharedAccount,
    /// Which identity is the default was left to chance.
    SeveralIdentities,
    /// The label is where nothing reads it.
    MisplacedLabel,
    /// A policy engine may refuse what is injected.
    PolicyEngine,
    /// Only MIC can let go of these objects.
    OldFinalizers,
    /// No pod has the label that the binding selects.
    UnusedBinding,
    /// No binding names the identity.
    UnusedIdentity,
    /// Something that the webhook would warn of.
    Warning,
}

impl Reason {
    /// Stable name for scripts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unbound => "Unbound",
            Self::Refused => "Refused",
            Self::BrokenObject => "BrokenObject",
            Self::TooManyCredentials => "TooManyCredentials",
            Self::NoTenant => "NoTenant",
            Self::NoResourceId => "NoResourceId",
            Self::SystemNamespace => "SystemNamespace",
            Self::SecretsStore => "SecretsStore",
            Self::HostNetwork => "HostNetwork",
            Self::Windows => "Windows",
            Self::StaticPod => "StaticPod",
            Self::InjectionDisabled => "InjectionDisabled",
            Self::PodConflict => "PodConflict",
            Self::WorkloadIdentity => "WorkloadIdentity",
            Self::Proxy => "Proxy",
            Self::SkippedBinding => "SkippedBinding",
            Self::Scope => "Scope",
            Self::SharedAccount => "SharedAccount",
            Self::SeveralIdentities => "SeveralIdentities",
            Self::MisplacedLabel => "MisplacedLabel",
            Self::PolicyEngine => "PolicyEngine",
            Self::OldFinalizers => "OldFinalizers",
            Self::UnusedBinding => "UnusedBinding",
            Self::UnusedIdentity => "UnusedIdentity",
            Self::Warning => "Warning",
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
