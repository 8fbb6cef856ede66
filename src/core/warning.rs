//! What the author of an admitted pod should know.

use crate::fields::FieldError;
use crate::live::Fixed;
use crate::objects::ObjectName;
use crate::resolve::{Skip, Skipped};

/// Something that does not keep a pod from being admitted. Each message says what to change; the
/// API server cuts messages of more than 256 characters where many come together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// The pod uses the node's network.
    #[error(
        "imdslet leaves this pod alone: it uses the node's network (spec.hostNetwork), and reaches \
         the node's own metadata service as before"
    )]
    HostNetwork,
    /// The pod runs on Windows.
    #[error("imdslet leaves this pod alone: it runs on Windows, where it has no sidecar")]
    Windows,
    /// No binding yet.
    #[error("imdslet: {0}; until then this pod's tokens are refused{hold}", hold = .1.text())]
    Unbound(String, Hold),
    /// A binding that matches gives nothing; others do.
    #[error("imdslet skips {0}")]
    Skipped(Skipped),
    /// The container sets a variable that clients read.
    #[error(
        "container `{container}` sets {variable} itself, so imdslet leaves it and what belongs to \
         it alone; remove it to have clients ask imdslet"
    )]
    OwnVariable {
        /// The container.
        container: String,
        /// The variable.
        variable: &'static str,
    },
    /// The container may set a proxy that cannot be seen here.
    #[error(
        "container `{container}` may get a proxy from {from}; if it does, add \
         127.0.0.1,localhost,169.254.169.254 to its NO_PROXY"
    )]
    HiddenProxy {
        /// The container.
        container: String,
        /// Where it may come from.
        from: String,
    },
    /// The sidecar is one of the containers.
    #[error(
        "imdslet runs as a plain container here (imdslet.dev/sidecar, or a cluster older than \
         1.32): no container waits for it, init containers are not served, and a Job does not end by itself"
    )]
    PlainSidecar,
    /// The sidecar that the pod arrived with cannot serve this identity.
    #[error(
        "this pod arrives with an imdslet container and gets no token of AzureIdentity {identity}: \
         {fixed}; remove that container and imdslet's volumes from the manifest, and new ones are added"
    )]
    ArrivedWithout {
        /// The identity.
        identity: String,
        /// What the pod lacks.
        fixed: Fixed,
    },
    /// Another webhook put an init container before the sidecar.
    #[error(
        "init container `{container}` runs before imdslet and finds no token endpoint; register \
         the webhook that adds it before imdslet's"
    )]
    ServedLate {
        /// The init container.
        container: String,
    },
    /// The pod decides itself which ports need no privilege.
    #[error(
        "spec.securityContext.sysctls has net.ipv4.ip_unprivileged_port_start; link-local mode \
         needs it to be 80 or less"
    )]
    OwnSysctl,
    /// The class that a Secrets Store volume should name is not there.
    #[error(
        "volume `{volume}` cannot be mounted: SecretProviderClass {class} has usePodIdentity, \
         and {derived}, by which imdslet replaces it, is not there; once it is, recreate the pod"
    )]
    ClassNotReady {
        /// The volume.
        volume: String,
        /// The class that it names.
        class: String,
        /// The one that it should name.
        derived: String,
    },
    /// The provider of a Secrets Store volume cannot ask by any of the pod's identities.
    #[error(
        "volume `{volume}` cannot be mounted: SecretProviderClass {class} has usePodIdentity, \
         and none of this pod's identities has type 0 and a federated credential, by which the \
         provider could ask instead; bind one"
    )]
    NoProviderIdentity {
        /// The volume.
        volume: String,
        /// The class that it names.
        class: String,
    },
    /// A container listens where the sidecar listens.
    #[error(
        "container `{container}` declares port {port}, where imdslet listens on the loopback \
         address; choose another one with the annotation imdslet.dev/port"
    )]
    PortTaken {
        /// The container.
        container: String,
        /// The port.
        port: u16,
    },
    /// The sidecar's metrics are not served, since their port is in use.
    #[error(
        "{holder} has port {port}, so imdslet serves no metrics in this pod; choose another one \
         with --sidecar-metrics-port"
    )]
    MetricsPortTaken {
        /// What has the port.
        holder: String,
        /// The port.
        port: u16,
    },
    /// azure-workload-identity is at work in the same pod.
    #[error(
        "this pod also uses azure-workload-identity ({0}), which many clients prefer over \
         imdslet; remove one of the two"
    )]
    WorkloadIdentity(&'static str),
    /// A container to skip that is not there.
    #[error(
        "imdslet.dev/skip-containers names `{0}`, which is no container of this pod; mend the name"
    )]
    NoSuchContainer(String),
    /// An annotation with our prefix that means nothing.
    #[error("annotation {key} means nothing to imdslet; it knows {known}")]
    UnknownAnnotation {
        /// The annotation.
        key: String,
        /// Those that a person may set.
        known: String,
    },
    /// The label is on a workload, where nothing reads it.
    #[error(
        "the label aadpodidbinding is on the {0} itself, where nothing reads it; put it on the pod \
         template (spec.template.metadata.labels)"
    )]
    LabelOnWorkload(String),
    /// The pods of a template will not be admitted.
    #[error("imdslet will refuse the pods of this template: {0}")]
    WillBeRefused(String),
    /// An object that cannot be used as it stands.
    #[error("imdslet cannot use this object: {0}")]
    BrokenObject(FieldError),
    /// An identity that gives nothing as it stands.
    #[error("imdslet gives no pod a token by this object: {0}")]
    GivesNothing(Skip),
    /// Another binding decides what requests get that name no identity.
    #[error(
        "AzureIdentityBinding {0} has the same spec.selector and comes first by name: requests that \
         name no identity get that one's"
    )]
    Shadowed(ObjectName),
    /// The webhook was called for something that it does not change.
    #[error(
        "imdslet changes pods when they are created; this is {0}: mend the rules of the \
         MutatingWebhookConfiguration"
    )]
    NotForUs(String),
}

/// Whether the sidecar keeps the other containers from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It does (native mode).
    Held,
    /// It cannot (plain mode).
    Free,
}

impl Hold {
    fn text(self) -> &'static str {
        match self {
            Self::Held => " and its containers wait",
            Self::Free => "",
        }
    }
}

impl Warning {
    /// Every reason that there is.
    pub const REASONS: &[&str] = &[
        "HostNetwork",
        "Windows",
        "Unbound",
        "NoIdentity",
        "InvalidIdentity",
        "OtherNamespace",
        "ForeignSecret",
        "NoTenant",
        "AuthorityNotAllowed",
        "ManagedNotAllowed",
        "NoBindingProxy",
        "ManagedInLinkLocal",
        "OwnVariable",
        "HiddenProxy",
        "PlainSidecar",
        "ArrivedWithout",
        "ServedLate",
        "OwnSysctl",
        "ClassNotReady",
        "NoProviderIdentity",
        "PortTaken",
        "MetricsPortTaken",
        "WorkloadIdentity",
        "NoSuchContainer",
        "UnknownAnnotation",
        "LabelOnWorkload",
        "WillBeRefused",
        "InvalidObject",
        "Shadowed",
        "NotForUs",
    ];

    /// Stable name for metrics and events. Never carries user input.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::Windows => "Windows",
            Self::Unbound(..) => "Unbound",
            Self::Skipped(skipped) => skipped.reason.reason(),
            Self::OwnVariable { .. } => "OwnVariable",
            Self::HiddenProxy { .. } => "HiddenProxy",
            Self::PlainSidecar => "PlainSidecar",
            Self::ArrivedWithout { .. } => "ArrivedWithout",
            Self::ServedLate { .. } => "ServedLate",
            Self::OwnSysctl => "OwnSysctl",
            Self::ClassNotReady { .. } => "ClassNotReady",
            Self::NoProviderIdentity { .. } => "NoProviderIdentity",
            Self::PortTaken { .. } => "PortTaken",
            Self::MetricsPortTaken { .. } => "MetricsPortTaken",
            Self::WorkloadIdentity(..) => "WorkloadIdentity",
            Self::NoSuchContainer(..) => "NoSuchContainer",
            Self::UnknownAnnotation { .. } => "UnknownAnnotation",
            Self::LabelOnWorkload(..) => "LabelOnWorkload",
            Self::WillBeRefused(..) => "WillBeRefused",
            Self::BrokenObject(..) => "InvalidObject",
            Self::GivesNothing(skip) => skip.reason(),
            Self::Shadowed(..) => "Shadowed",
            Self::NotForUs(..) => "NotForUs",
        }
    }
}
