//! What is to be explained, as a person names it.

use std::fmt;
use std::str::FromStr;

/// What to explain: `KIND/NAME` or `KIND/NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

/// Why a text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be KIND/NAME or KIND/NAMESPACE/NAME, such as deployment/app")]
pub struct NotATarget;

impl FromStr for Target {
    type Err = NotATarget;

    fn from_str(text: &str) -> Result<Self, NotATarget> {
        let parts: Vec<_> = text.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [kind, name] => (kind, None, name),
            [kind, namespace, name] if !namespace.is_empty() => (kind, Some(namespace), name),
            _ => return Err(NotATarget),
        };
        if kind.is_empty() || name.is_empty() {
            return Err(NotATarget);
        }
        Ok(Self {
            kind: full_kind(kind).to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl Target {
    /// The pod of this name.
    #[must_use]
    pub fn pod(name: &str) -> Self {
        Self { kind: "Pod".to_owned(), namespace: None, name: name.to_owned() }
    }

    /// Whether it is `object`, which is `Kind/namespace/name`; `namespace` is that of a target which
    /// names none.
    pub(super) fn is(&self, object: &str, namespace: &str) -> bool {
        let namespace = self.namespace.as_deref().unwrap_or(namespace);
        let mut parts = object.splitn(3, '/');
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(&self.kind))
            && parts.next() == Some(namespace)
            && parts.next() == Some(self.name.as_str())
    }
}

/// The kind of which kubectl knows this name, plural or abbreviation.
fn full_kind(word: &str) -> &str {
    let lower = word.to_ascii_lowercase();
    match lower.as_str() {
        "po" | "pod" | "pods" => "Pod",
        "deploy" | "deployment" | "deployments" => "Deployment",
        "sts" | "statefulset" | "statefulsets" => "StatefulSet",
        "ds" | "daemonset" | "daemonsets" => "DaemonSet",
        "rs" | "replicaset" | "replicasets" => "ReplicaSet",
        "job" | "jobs" => "Job",
        "cj" | "cronjob" | "cronjobs" => "CronJob",
        "azureidentitybinding" | "azureidentitybindings" => BINDING,
        "azureidentity" | "azureidentities" => IDENTITY,
        _ => word,
    }
}

/// Of bindings, by which pods get their identities.
pub(super) const BINDING: &str = "AzureIdentityBinding";

/// Of identities, by who uses them.
pub(super) const IDENTITY: &str = "AzureIdentity";
