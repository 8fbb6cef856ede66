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

/// Declares [`Reason`], so that none can be left out of what is said of all of them.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Why something must be decided. The order is that of urgency.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// Every reason that there is, the most urgent first.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Stable name for scripts.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// A labelled pod has no identity that it could use: it runs today and would be held.
    Unbound,
    /// The webhook would refuse the pod.
    Refused,
    /// An object cannot be used as it stands.
    BrokenObject,
    /// Entra ID cannot read the keys of the issuer.
    PrivateIssuer,
    /// More credentials than Azure allows for one identity.
    TooManyCredentials,
    /// Nothing says which tenant identities are of.
    NoTenant,
    /// The identity's resource id is needed for the scripts.
    NoResourceId,
    /// A service account that pods name is not there.
    MissingAccount,
    /// The webhooks of the namespace are taken out by AKS.
    SystemNamespace,
    /// The kubelet makes the pod, and no webhook sees it.
    StaticPod,
    /// The pod is on the node's network.
    HostNetwork,
    /// The pod is on Windows.
    Windows,
    /// The volume asks NMI at the node.
    SecretsStore,
    /// A service principal's Secret is not beside the pod.
    ForeignSecret,
    /// A binding that matches gives nothing.
    SkippedBinding,
    /// Something of the pod is in the sidecar's way.
    PodConflict,
    /// The pod's programs know no address but Azure's own.
    IgnoresVariables,
    /// The pod leans on the identities of its node.
    NodeIdentity,
    /// The pod uses azure-workload-identity too.
    WorkloadIdentity,
    /// A proxy stands between the pod and Azure.
    Proxy,
    /// NMI kept to namespaces, and imdslet would not.
    Scope,
    /// Pods of different identities share an account, and so all of them.
    SharedAccount,
    /// Which identity is the default was left to chance.
    SeveralIdentities,
    /// Bindings with one selector give their pods each other's identities.
    DuplicateSelector,
    /// The pod's namespace is not taken over yet.
    InjectionDisabled,
    /// The label is where nothing reads it.
    MisplacedLabel,
    /// The label is written in other letter case than the one that is read.
    WrongCase,
    /// A policy engine may refuse what is injected.
    PolicyEngine,
    /// The cluster seems to pull from one registry, which must have imdslet's images.
    Images,
    /// Only MIC can let go of these objects.
    OldFinalizers,
    /// No pod has the label that the binding selects.
    UnusedBinding,
    /// No binding names the identity.
    UnusedIdentity,
    /// Something that the webhook would warn of.
    Warning,
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
