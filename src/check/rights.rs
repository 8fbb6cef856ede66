//! The rights that a check needs, and those that an installation needs.

use serde_json::{Value, json};

/// `group/resource`, with the verb: what is read.
const READ: [(&str, &str, &str); 12] = [
    ("", "pods", "list"),
    ("", "namespaces", "list"),
    ("aadpodidentity.k8s.io", "azurepodidentityexceptions", "list"),
    ("", "pods/log", "get"),
    ("apps", "deployments", "list"),
    ("apps", "daemonsets", "list"),
    ("apps", "statefulsets", "list"),
    ("batch", "jobs", "list"),
    ("batch", "cronjobs", "list"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "list"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get"),
    ("coordination.k8s.io", "leases", "get"),
];

/// What `kubectl apply -f manifests/install.yaml` must be allowed.
pub(super) const INSTALL: [(&str, &str); 14] = [
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "secrets"),
    ("", "configmaps"),
    ("", "services"),
    ("policy", "poddisruptionbudgets"),
    ("rbac.authorization.k8s.io", "roles"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("apps", "deployments"),
];

/// A ClusterRole with all that a check reads, as YAML. The dry run of a pod needs the right to create
/// pods in one namespace, for which a Role of its own is better.
#[must_use]
pub fn cluster_role() -> Value {
    let mut rules: Vec<_> = READ
        .iter()
        .map(|(group, resource, verb)| {
            json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})
        })
        .collect();
    let paths = ["/version", "/.well-known/openid-configuration", "/openid/v1/jwks"];
    rules.push(json!({"nonResourceURLs": paths, "verbs": ["get"]}));
    // Everybody who is known may ask what they may.
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "imdslet-check"}, "rules": rules,
    })
}
