//! Where pods are in Kubernetes objects.

use imdslet_core::names::POD_LABEL;
use serde_json::Value;

/// A pod, or the template of one, inside a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSite {
    /// `Kind/namespace/name` of the object that holds it.
    pub object: String,
    /// The namespace that the pod will have.
    pub namespace: String,
    /// JSON pointer of the pod in the document; empty if the document is the pod.
    pub pointer: String,
    /// The object has the label that its pods should have, and they do not.
    pub is_label_misplaced: bool,
}

/// The objects of a document: itself, or the items of a List, of a List in it, and so on. With
/// each comes its JSON pointer.
#[must_use]
pub fn objects(document: &Value) -> Vec<(String, &Value)> {
    let mut objects = Vec::new();
    collect(document, String::new(), &mut objects);
    objects
}

fn collect<'a>(value: &'a Value, pointer: String, objects: &mut Vec<(String, &'a Value)>) {
    let is_list = text(value, "kind").is_some_and(|kind| kind.ends_with("List"));
    match value.get("items").and_then(Value::as_array) {
        Some(items) if is_list => {
            for (at, item) in items.iter().enumerate() {
                collect(item, format!("{pointer}/items/{at}"), objects);
            }
        }
        _ => objects.push((pointer, value)),
    }
}

/// The pods of a document, `default_namespace` being that of objects that name none.
#[must_use]
pub fn pods(document: &Value, default_namespace: &str) -> Vec<PodSite> {
    objects(document)
        .into_iter()
        .filter_map(|(pointer, object)| {
            let inside = pointer_of(object)?;
            let metadata = object.get("metadata");
            let of = |key| metadata.and_then(|metadata| text(metadata, key));
            let namespace = of("namespace").unwrap_or(default_namespace);
            let name = of("name").or_else(|| of("generateName")).unwrap_or("(unnamed)");
            Some(PodSite {
                object: format!("{}/{namespace}/{name}", text(object, "kind")?),
                namespace: namespace.to_owned(),
                pointer: format!("{pointer}{inside}"),
                is_label_misplaced: !inside.is_empty()
                    && has_label(object)
                    && !object.pointer(inside).is_some_and(has_label),
            })
        })
        .collect()
}

/// Where an object of this kind keeps its pod, in old API groups too.
fn pointer_of(object: &Value) -> Option<&'static str> {
    let api_version = text(object, "apiVersion")?;
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, text(object, "kind")?) {
        ("", "Pod") => Some(""),
        ("", "PodTemplate") => Some("/template"),
        ("apps" | "extensions", "Deployment" | "DaemonSet" | "ReplicaSet")
        | ("apps", "StatefulSet")
        | ("batch", "Job")
        | ("", "ReplicationController") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        // Controllers of others, such as Argo's Rollout: the webhook sees their pods too.
        _ => object.pointer("/spec/template/spec/containers").map(|_| "/spec/template"),
    }
}

fn has_label(object: &Value) -> bool {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(POD_LABEL)).is_some()
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_found_in_every_kind_of_workload() {
        let object = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
        let cases = [
            ("v1", "Pod", Some("")),
            ("apps/v1", "Deployment", Some("/spec/template")),
            ("extensions/v1beta1", "Deployment", Some("/spec/template")),
            ("apps/v1beta2", "StatefulSet", Some("/spec/template")),
            ("extensions/v1beta1", "DaemonSet", Some("/spec/template")),
            ("apps/v1", "ReplicaSet", Some("/spec/template")),
            ("v1", "ReplicationController", Some("/spec/template")),
            ("batch/v1", "Job", Some("/spec/template")),
            ("batch/v2alpha1", "CronJob", Some("/spec/jobTemplate/spec/template")),
            ("v1", "PodTemplate", Some("/template")),
            ("serving.example/v1", "Job", None),
            ("v1", "Service", None),
        ];
        let rollout = json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "x"},
            "spec": {"template": {"spec": {"containers": []}}},
        });
        assert_eq!(pods(&rollout, "web")[0].pointer, "/spec/template");
        for (api_version, kind, pointer) in cases {
            let found = pods(&object(api_version, kind), "web");
            assert_eq!(found.first().map(|site| site.pointer.as_str()), pointer, "{kind}");
        }
    }

    #[test]
    fn lists_in_lists_are_followed_and_namespaces_filled_in() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-"}});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "List", "items": [pod]},
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "ops"}},
        ]});
        let sites: Vec<_> =
            pods(&list, "web").into_iter().map(|site| (site.object, site.pointer)).collect();
        assert_eq!(
            sites,
            [
                ("Pod/web/a-".to_owned(), "/items/0/items/0".to_owned()),
                ("Job/ops/j".to_owned(), "/items/1/spec/template".to_owned()),
            ]
        );
    }
}
