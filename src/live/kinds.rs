//! What is read of a cluster.

use serde_json::{Map, Value};

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    /// As objects say it.
    word: &'static str,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    word: &'static str,
) -> Kind {
    Kind { group, version, plural, word }
}

const OLD: &str = "aadpodidentity.k8s.io";
const CSI: &str = "secrets-store.csi.x-k8s.io";

/// Whose tokens there are.
pub(crate) const IDENTITIES: Kind = kind(OLD, "v1", "azureidentities", "AzureIdentity");
/// Whom they are for.
pub(crate) const BINDINGS: Kind = kind(OLD, "v1", "azureidentitybindings", "AzureIdentityBinding");
/// Who is left alone.
pub(crate) const EXCEPTIONS: Kind =
    kind(OLD, "v1", "azurepodidentityexceptions", "AzurePodIdentityException");
/// What namespaces ask for.
pub(crate) const NAMESPACES: Kind = kind("", "v1", "namespaces", "Namespace");

/// What decides about the identities of pods, and who has them.
pub(crate) const KINDS: [Kind; 15] = [
    IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    kind(OLD, "v1", "azureassignedidentities", "AzureAssignedIdentity"),
    kind(CSI, "v1", "secretproviderclasses", "SecretProviderClass"),
    NAMESPACES,
    kind("", "v1", "limitranges", "LimitRange"),
    kind("", "v1", "serviceaccounts", "ServiceAccount"),
    kind("apps", "v1", "deployments", "Deployment"),
    kind("apps", "v1", "statefulsets", "StatefulSet"),
    kind("apps", "v1", "daemonsets", "DaemonSet"),
    kind("apps", "v1", "replicasets", "ReplicaSet"),
    kind("batch", "v1", "cronjobs", "CronJob"),
    kind("batch", "v1", "jobs", "Job"),
    kind("", "v1", "pods", "Pod"),
];

impl Kind {
    /// A kind of Kubernetes' own, or of a CustomResourceDefinition.
    #[must_use]
    pub const fn new(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        word: &'static str,
    ) -> Self {
        Self { group, version, plural, word }
    }

    /// Where all of them are listed.
    #[must_use]
    pub fn path(&self) -> String {
        let Self { group, version, plural, .. } = self;
        if group.is_empty() {
            format!("api/{version}/{plural}")
        } else {
            format!("apis/{group}/{version}/{plural}")
        }
    }

    /// Where its group and version say what they have.
    pub(crate) fn group_path(&self) -> String {
        format!("apis/{}/{}", self.group, self.version)
    }

    /// Whether it is somebody's own definition, which a cluster may lack.
    pub(crate) fn may_be_absent(&self) -> bool {
        matches!(self.group, OLD | CSI)
    }

    /// Whether a resource of its group is this one.
    pub(crate) fn is_called(&self, name: Option<&Value>) -> bool {
        name.and_then(Value::as_str) == Some(self.plural)
    }

    /// `plural.group`, as kubectl and RBAC name it.
    #[must_use]
    pub fn resource(&self) -> String {
        let Self { group, plural, .. } = self;
        if group.is_empty() { (*plural).to_owned() } else { format!("{plural}.{group}") }
    }

    /// As objects say it.
    pub(crate) fn word(&self) -> &'static str {
        self.word
    }

    /// The right to list it, as a person asks for it.
    pub(crate) fn permission(&self) -> String {
        let resource = self.resource();
        format!("list {resource} in all namespaces (kubectl auth can-i list {resource} -A)")
    }

    /// An item of a list, which does not say what it is, and says who has written what of it.
    pub(crate) fn complete(&self, mut item: Value) -> Value {
        let Self { group, version, word, .. } = self;
        let api_version =
            if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
        if let Some(metadata) = item.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let Value::Object(fields) = item else { return item };
        let mut object = Map::new();
        object.insert("apiVersion".to_owned(), api_version.into());
        object.insert("kind".to_owned(), (*word).into());
        object.extend(fields);
        Value::Object(object)
    }

    /// A ReplicaSet of a Deployment says nothing that this does not, and there are ten of each.
    pub(crate) fn is_wanted(&self, value: &Value) -> bool {
        self.word != "ReplicaSet" || value.pointer("/metadata/ownerReferences").is_none()
    }
}
