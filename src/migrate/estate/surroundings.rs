//! What stands around the workloads and their identities: accounts, namespaces, what there is of
//! aad-pod-identity, policy engines.

use std::collections::{BTreeMap, BTreeSet};

use imdslet_core::names::{CLASS_GROUP, CLASS_KIND, GROUP, INJECTION};
use imdslet_core::objects::ObjectName;
use serde_json::{Map, Value, json};

use super::{name_of, text};
use crate::family::Family;
use crate::workloads::PodSite;

/// What the images of policy engines are called, wherever they are mirrored: nobody dumps the kinds of
/// their policies.
const ENGINES: [&str; 2] = ["gatekeeper", "kyverno"];

/// What stands around the workloads and their identities.
#[derive(Debug, Default)]
pub(in super::super) struct Surroundings {
    /// ServiceAccounts, without what the API server has added.
    pub(in super::super) accounts: BTreeMap<ObjectName, Value>,
    /// AzureAssignedIdentities that only MIC can let go of.
    pub(in super::super) held: BTreeSet<String>,
    /// Objects of policy engines, and the workloads that they are.
    pub(in super::super) policies: BTreeSet<String>,
    /// The workloads of aad-pod-identity itself, and whether they are told to keep to namespaces.
    pub(in super::super) old_parts: BTreeMap<String, bool>,
    /// SecretProviderClasses by which the driver asks the node's metadata service.
    pub(in super::super) node_classes: BTreeSet<String>,
    /// Namespaces that AKS takes out of every webhook.
    pub(in super::super) kept_from_webhooks: BTreeSet<String>,
    /// Namespaces with `imdslet.dev/injection: disabled`.
    pub(in super::super) not_taken_over: BTreeSet<String>,
    /// Where the images of all workloads come from, by namespace.
    pub(in super::super) registries: BTreeMap<String, BTreeSet<String>>,
}

impl Surroundings {
    /// Takes in an object; whether it is anything.
    pub(super) fn take(&mut self, value: &Value, default_namespace: &str) -> bool {
        let group = text(value, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = text(value, "/kind");
        let name = name_of(value, default_namespace);
        match (group, kind) {
            ("", "ServiceAccount") => self.account(name, value),
            ("", "Namespace") => self.namespace(name.name, value),
            (GROUP, "AzureAssignedIdentity") => {
                let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array);
                if finalizers.is_some_and(|finalizers| !finalizers.is_empty()) {
                    self.held.insert(format!("{kind}/{name}"));
                }
            }
            (CLASS_GROUP, CLASS_KIND) => {
                if is_true(text(value, "/spec/parameters/useVMManagedIdentity")) {
                    self.node_classes.insert(format!("{kind}/{name}"));
                }
            }
            ("kyverno.io" | "constraints.gatekeeper.sh" | "templates.gatekeeper.sh", _) => {
                // Most of them are of no namespace.
                let namespace = text(value, "/metadata/namespace");
                self.policies.insert(format!("{kind}/{}", ObjectName::new(namespace, name.name)));
            }
            _ => return false,
        }
        true
    }

    /// Two states of one account may be among the files; which of them counts does not depend on
    /// their order.
    fn account(&mut self, name: ObjectName, value: &Value) {
        let account = as_it_was_made(value);
        let known = self.accounts.get(&name).map(ToString::to_string);
        let text = account.to_string();
        if known.is_none_or(|known| text < known) {
            self.accounts.insert(name, account);
        }
    }

    /// Source of the two labels: what AKS's admissions enforcer adds to the `namespaceSelector` of
    /// every webhook (issue 4002 of Azure/AKS).
    fn namespace(&mut self, name: String, value: &Value) {
        let label = |key: &str| {
            let labels = value.pointer("/metadata/labels");
            labels.and_then(|labels| labels.get(key)).and_then(Value::as_str)
        };
        if label(INJECTION) == Some("disabled") {
            self.not_taken_over.insert(name.clone());
        }
        if label("control-plane") == Some("true")
            || label("kubernetes.azure.com/managedby") == Some("aks")
        {
            self.kept_from_webhooks.insert(name);
        }
    }

    /// Takes in what a workload says beside what its pods need.
    pub(super) fn workload(&mut self, site: &PodSite, value: &Value, pod: &Value) {
        let PodSite { object, namespace, .. } = site;
        if is_of_old(value, pod) {
            let keeps = self.old_parts.entry(object.to_owned()).or_default();
            *keeps |= is_told_to_keep_to_namespaces(pod);
            return;
        }
        let images = || containers(pod).map(|one| text(one, "/image"));
        if images().any(|image| ENGINES.contains(&repository(image))) {
            self.policies.insert(object.to_owned());
        }
        self.registries
            .entry(namespace.to_owned())
            .or_default()
            .extend(images().map(|image| registry(image).to_owned()));
    }

    /// Names what is of aad-pod-identity and of policy engines by what a person would edit.
    pub(super) fn by_maker(&mut self, family: &Family) {
        for (object, keeps) in std::mem::take(&mut self.old_parts) {
            *self.old_parts.entry(family.root(&object)).or_default() |= keeps;
        }
        let policies = std::mem::take(&mut self.policies);
        self.policies = policies.into_iter().map(|object| family.root(&object)).collect();
    }

    /// Whether webhooks of others than AKS are kept away from a namespace.
    pub(in super::super) fn is_kept_from_webhooks(&self, namespace: &str) -> bool {
        namespace == "kube-system" || self.kept_from_webhooks.contains(namespace)
    }
}

/// The containers and init containers of a pod.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/spec/initContainers", "/spec/containers"]
        .into_iter()
        .filter_map(|list| pod.pointer(list)?.as_array())
        .flatten()
}

/// Where an image comes from, as container runtimes read it: the part before the first slash, if
/// it can be a host.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// An object as somebody has written it, as far as one can tell.
fn as_it_was_made(value: &Value) -> Value {
    let mut made = Map::new();
    for (key, part) in value.as_object().into_iter().flatten() {
        if key == "metadata" {
            made.insert(key.clone(), written_metadata(part));
        } else if key != "status" && key != "secrets" {
            made.insert(key.clone(), part.clone());
        }
    }
    Value::Object(made)
}

fn written_metadata(metadata: &Value) -> Value {
    let mut written = Map::new();
    for key in ["name", "namespace", "labels", "annotations"] {
        let Some(part) = metadata.get(key) else { continue };
        let mut part = part.clone();
        if let Some(annotations) = part.as_object_mut() {
            annotations.retain(|key, _| key != "kubectl.kubernetes.io/last-applied-configuration");
        }
        if part != json!({}) {
            written.insert(key.to_owned(), part);
        }
    }
    Value::Object(written)
}

/// As Go's `strconv.ParseBool` has it, by which NMI and the driver read their settings.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Whether a workload is one of aad-pod-identity's own, by any manifest or chart of theirs. Both
/// name and image must say so: what is found here is named among what may be deleted.
fn is_of_old(value: &Value, pod: &Value) -> bool {
    let name = text(value, "/metadata/name");
    ["nmi", "mic"].iter().any(|own| {
        let is_named = name == *own
            || name.ends_with(&format!("-{own}"))
            || name.starts_with(&format!("{own}-"));
        is_named && containers(pod).any(|one| repository(text(one, "/image")) == *own)
    })
}

/// The last part of an image's name, without tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// Source: aad-pod-identity v1.8.17, `cmd/nmi/main.go:33-57` and `cmd/mic/main.go:53-97`.
fn is_told_to_keep_to_namespaces(pod: &Value) -> bool {
    containers(pod).any(|container| {
        let list = |key| container.get(key).and_then(Value::as_array).into_iter().flatten();
        let by_argument =
            list("args").chain(list("command")).filter_map(Value::as_str).any(|arg| {
                matches!(
                    arg.trim_start_matches('-'),
                    "forceNamespaced" | "forceNamespaced=true" | "operation-mode=managed"
                )
            });
        let by_variable = list("env").any(|variable| {
            text(variable, "/name") == "FORCENAMESPACED" && is_true(text(variable, "/value"))
        });
        by_argument || by_variable
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_comes_from_where_a_runtime_would_ask_for_it() {
        for (image, host) in [
            ("nginx", "docker.io"),
            ("library/nginx:1", "docker.io"),
            ("acr.azurecr.io/team/app:1", "acr.azurecr.io"),
            ("localhost/app", "localhost"),
            ("localhost:5000/app@sha256:0", "localhost:5000"),
            ("", "docker.io"),
        ] {
            assert_eq!(registry(image), host, "{image}");
        }
    }

    #[test]
    fn what_belongs_to_aad_pod_identity_has_its_name_and_its_image() {
        for (name, image, is_old) in [
            ("nmi", "mcr.microsoft.com/oss/azure/aad-pod-identity/nmi:v1.8.17", true),
            ("aad-pod-identity-mic", "localhost:5000/mic@sha256:0", true),
            ("academic", "registry.example/academic:1", false),
            ("rust-mic", "registry.example/microphone", false),
            ("other", "mcr.microsoft.com/oss/azure/aad-pod-identity/nmi:v1.8.17", false),
        ] {
            let pod = json!({"spec": {"containers": [{"image": image}]}});
            assert_eq!(is_of_old(&json!({"metadata": {"name": name}}), &pod), is_old, "{name}");
        }
    }

    #[test]
    fn of_an_account_is_kept_what_somebody_has_written() {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {
                "name": "app", "namespace": "web", "uid": "1", "resourceVersion": "2",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
                "labels": {"team": "web"},
            },
            "imagePullSecrets": [{"name": "acr"}],
            "secrets": [{"name": "app-token-x"}],
            "automountServiceAccountToken": false,
        });
        let expected = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "app", "namespace": "web", "labels": {"team": "web"}},
            "imagePullSecrets": [{"name": "acr"}],
            "automountServiceAccountToken": false,
        });
        assert_eq!(as_it_was_made(&account), expected);
    }
}
