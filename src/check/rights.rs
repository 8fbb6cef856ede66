//! The rights that a check needs, and those that an installation needs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Group, resource and verb of what is read in every namespace.
const READ: [(&str, &str, &str); 12] = [
    ("", "pods", "list"),
    ("", "namespaces", "list"),
    ("aadpodidentity.k8s.io", "azureidentities", "list"),
    ("aadpodidentity.k8s.io", "azureidentitybindings", "list"),
    ("aadpodidentity.k8s.io", "azurepodidentityexceptions", "list"),
    ("networking.k8s.io", "networkpolicies", "list"),
    ("apps", "deployments", "list"),
    ("apps", "daemonsets", "list"),
    ("apps", "statefulsets", "list"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "list"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get"),
    ("coordination.k8s.io", "leases", "get"),
];

/// What is read in every namespace to find the pods of a workload.
const MAKERS: [(&str, &str, &str); 2] = [("batch", "jobs", "list"), ("batch", "cronjobs", "list")];

/// What is asked for in the namespace of a workload alone. The API server takes a port-forward over a
/// websocket for a `get`, and from Kubernetes 1.35 for a `create` as well.
const FOLLOW: [(&str, &str, &str); 3] =
    [("", "pods/portforward", "get"), ("", "pods/portforward", "create"), ("", "pods/log", "get")];

/// What `kubectl apply -f manifests/install.yaml` must be allowed.
pub(super) const INSTALL: [(&str, &str); 16] = [
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "secrets"),
    ("", "configmaps"),
    ("", "services"),
    ("policy", "poddisruptionbudgets"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("apps", "deployments"),
];

/// The roles with all that a check of workloads in `namespaces` asks for: what it reads in every
/// namespace, and what it does in those. The dry run of a pod needs the right to create pods in one
/// namespace, for which a Role of its own is better.
#[must_use]
pub fn roles<'a>(namespaces: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let namespaces: BTreeSet<_> = namespaces.into_iter().collect();
    let makers = if namespaces.is_empty() { &[][..] } else { &MAKERS };
    let mut rules: Vec<_> = READ.iter().chain(makers).map(rule).collect();
    let paths = ["/version", "/.well-known/openid-configuration", "/openid/v1/jwks"];
    rules.push(json!({"nonResourceURLs": paths, "verbs": ["get"]}));
    // What imdslet is set to, and no other ConfigMap.
    rules.push(json!({
        "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["imdslet-config"], "verbs": ["get"],
    }));
    // Everybody who is known may ask what they may.
    let mut all = vec![json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "imdslet-check"}, "rules": rules,
    })];
    all.extend(namespaces.into_iter().map(|namespace| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "imdslet-check", "namespace": namespace},
            "rules": FOLLOW.iter().map(rule).collect::<Vec<_>>(),
        })
    }));
    all
}

fn rule((group, resource, verb): &(&str, &str, &str)) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::documents;

    #[test]
    fn the_rights_to_install_are_those_to_create_each_kind_of_the_shipped_file() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/install.yaml");
        let documents = documents::read(&[path]).unwrap();
        let right = |value: &Value| {
            let text = |field: &str| value[field].as_str().unwrap().to_lowercase();
            let (version, kind) = (text("apiVersion"), text("kind"));
            let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
            let resource = kind
                .strip_suffix('y')
                .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
            (group, resource)
        };
        let needed: BTreeSet<_> = documents.iter().map(|document| right(&document.value)).collect();
        let asked = INSTALL.map(|(group, resource)| (group.to_owned(), resource.to_owned()));
        assert_eq!(BTreeSet::from(asked), needed);
    }
}
