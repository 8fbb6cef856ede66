//! The AzureAssignedIdentity objects of a pod: what aad-pod-identity showed of who has what, for
//! those who are used to `kubectl get azureassignedidentities`. Nothing decides by them.

use serde_json::{Map, Value, json};

use crate::index::Index;
use crate::names::{GROUP, NAME_LIMIT};
use crate::objects::{AzureIdentity, AzureIdentityBinding, Credential, ObjectName};
use crate::running::RunningPod;
use crate::settings::Scope;
use crate::text::{hash, short_hash};

/// One object, in the pod's namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Assigned {
    /// Its name.
    pub name: String,
    /// Its `spec`, as aad-pod-identity v1.8.17 wrote it (`pkg/mic/mic.go:870-935`).
    pub spec: Value,
    /// The pod's node.
    pub node: String,
    /// Changes with whatever is in it, and with the pod whose it is.
    pub content: String,
}

/// The objects of `pod`, which is called `name` and has this uid: one for each identity that its annotation names.
/// One that no binding gives it any more is left out, and so are all while it has no node.
#[must_use]
pub fn assigned(pod: &RunningPod, (name, uid): (&str, &str), index: &Index) -> Vec<Assigned> {
    let Some(node) = &pod.node else { return Vec::new() };
    let mut objects: Vec<Assigned> = Vec::new();
    for told in pod.told.iter().flat_map(|told| &told.identities) {
        let Some((namespace, identity)) = told.name.split_once('/') else { continue };
        let identity_name = ObjectName::new(namespace, identity);
        let Some(Ok(found)) = index.identity(&identity_name) else { continue };
        let mut bindings = index.bindings(Scope::Cluster, &pod.namespace, &pod.selector);
        let binding = bindings.find(|(name, binding)| {
            name.namespace == namespace && binding.azure_identity == identity
        });
        let Some((binding_name, binding)) = binding else { continue };
        let usual = short(format!("{name}-{}-{identity}", pod.namespace));
        let is_taken = objects.iter().any(|object| object.name == usual);
        let object_name = if is_taken {
            short(format!("{name}-{}-{identity}-{namespace}", pod.namespace))
        } else {
            usual
        };
        let spec = json!({
            "azureIdentityRef": embedded("AzureIdentity", &identity_name, &identity_spec(found)),
            "azureBindingRef":
                embedded("AzureIdentityBinding", binding_name, &binding_spec(binding)),
            "pod": name,
            "podNamespace": pod.namespace,
            "nodename": node,
        });
        let content = hash(&format!("{uid} {spec}"), 8);
        objects.push(Assigned { name: object_name, spec, node: node.clone(), content });
    }
    objects
}

/// A name that is too long is cut, and what keeps it apart from others put in its place.
fn short(name: String) -> String {
    if name.len() <= NAME_LIMIT {
        return name;
    }
    let hash = short_hash(&name);
    let start = name.get(..NAME_LIMIT - hash.len() - 1).unwrap_or_default();
    format!("{}-{hash}", start.trim_end_matches(['-', '.']))
}

fn embedded(kind: &str, name: &ObjectName, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": spec,
    })
}

fn identity_spec(identity: &AzureIdentity) -> Value {
    let (kind, secret) = match &identity.credential {
        Credential::Managed(_) => (0, None),
        Credential::Secret(secret) => (1, Some(secret)),
        Credential::Certificate(secret) => (2, Some(secret)),
    };
    let mut spec = Map::new();
    spec.insert("type".to_owned(), json!(kind));
    spec.insert("clientID".to_owned(), json!(identity.client_id));
    for (key, value) in [
        ("resourceID", &identity.resource_id),
        ("tenantID", &identity.tenant_id),
        ("adEndpoint", &identity.ad_endpoint),
    ] {
        if let Some(value) = value {
            spec.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(secret) = secret {
        let reference = json!({"name": secret.name, "namespace": secret.namespace});
        spec.insert("clientPassword".to_owned(), reference);
    }
    Value::Object(spec)
}

fn binding_spec(binding: &AzureIdentityBinding) -> Value {
    json!({"azureIdentity": binding.azure_identity, "selector": &*binding.selector})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Object;

    const ID: &str = "11111111-1111-1111-1111-111111111111";

    fn index() -> Index {
        let object = |kind: &str, name: &str, namespace: &str, spec: Value| {
            let value = json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
                "metadata": {"name": name, "namespace": namespace}, "spec": spec});
            Object::read(&value, "").unwrap().unwrap()
        };
        let secret = json!({"type": 1, "clientID": ID, "tenantID": "t.example",
            "clientPassword": {"name": "sp"}});
        let binding = |identity: &str| json!({"azureIdentity": identity, "selector": "db"});
        [
            object("AzureIdentity", "a", "web", json!({"clientID": ID})),
            object("AzureIdentity", "a", "ops", json!({"clientID": ID})),
            object("AzureIdentity", "s", "web", secret),
            object("AzureIdentityBinding", "b1", "web", binding("a")),
            object("AzureIdentityBinding", "b2", "web", binding("s")),
            object("AzureIdentityBinding", "b3", "ops", binding("a")),
        ]
        .into_iter()
        .collect()
    }

    fn pod(identities: &[&str], node: Option<&str>) -> RunningPod {
        let told: Vec<_> = identities
            .iter()
            .map(|name| json!({"name": name, "source": "federated", "clientId": ID, "tenantId": "t"}))
            .collect();
        let told = json!({"version": 1, "hold": false, "identities": told});
        let pod = json!({
            "metadata": {"namespace": "web", "labels": {"aadpodidbinding": "db"}, "annotations":
                {"imdslet.dev/version": "1", "imdslet.dev/identities": told.to_string()}},
            "spec": {"nodeName": node, "initContainers": [{"name": "imdslet", "args": ["serve"]}]},
        });
        RunningPod::read(&pod.to_string()).unwrap()
    }

    #[test]
    fn each_identity_of_a_pod_is_one_object_and_the_second_of_a_name_says_where_it_is_from() {
        let names = |pod: &RunningPod| -> Vec<_> {
            assigned(pod, ("p", "u"), &index()).into_iter().map(|object| object.name).collect()
        };
        let all = ["web/a", "web/s", "ops/a", "web/gone"];
        assert_eq!(names(&pod(&all, Some("n"))), ["p-web-a", "p-web-s", "p-web-a-ops"]);
        assert_eq!(names(&pod(&["ops/a"], Some("n"))), ["p-web-a"]);
        assert!(names(&pod(&all, None)).is_empty());
        assert!(names(&pod(&[], Some("n"))).is_empty());
    }

    #[test]
    fn an_object_reads_as_aad_pod_identity_wrote_it() {
        let pod = pod(&["web/s"], Some("n"));
        let objects = assigned(&pod, ("p", "u"), &index());
        let expected = json!({
            "azureIdentityRef": {
                "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
                "metadata": {"name": "s", "namespace": "web"},
                "spec": {"type": 1, "clientID": ID, "tenantID": "t.example",
                    "clientPassword": {"name": "sp", "namespace": "web"}},
            },
            "azureBindingRef": {
                "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
                "metadata": {"name": "b2", "namespace": "web"},
                "spec": {"azureIdentity": "s", "selector": "db"},
            },
            "pod": "p", "podNamespace": "web", "nodename": "n",
        });
        assert_eq!(objects.first().map(|object| &object.spec), Some(&expected));
        let again = assigned(&pod, ("p", "another"), &index());
        assert_ne!(objects.first().map(|one| &one.content), again.first().map(|one| &one.content));
    }

    #[test]
    fn a_long_name_is_cut_to_one_that_is_allowed_and_its_own() {
        assert_eq!(short("x".repeat(NAME_LIMIT)).len(), NAME_LIMIT);
        let one = short(format!("{}a", "x".repeat(NAME_LIMIT)));
        let other = short(format!("{}b", "x".repeat(NAME_LIMIT)));
        assert!(one.len() <= NAME_LIMIT && one != other);
        let dots = short(format!("{}{}", "x".repeat(200), ".-".repeat(40)));
        assert!(crate::id::is_domain_name(&"x".repeat(63)) && !dots.contains(".-"), "{dots}");
    }
}
