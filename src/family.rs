//! Which object made which: what a person would edit is the first maker of a pod.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::documents::Document;
use crate::workloads::{objects, pods, text};

/// Who made whom, among the objects that were added.
#[derive(Default)]
pub(crate) struct Family {
    objects: BTreeSet<String>,
    makers: BTreeMap<String, Maker>,
}

/// Who made an object.
struct Maker {
    /// As the object says it.
    said: String,
    /// ReplicaSets are seldom dumped; their names tell the Deployment.
    deployment: Option<String>,
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    text(value, key).unwrap_or_default()
}

impl Family {
    pub(crate) fn of(documents: &[Document], default_namespace: &str) -> Self {
        let mut family = Self::default();
        for (_, value) in documents.iter().flat_map(|document| objects(&document.value)) {
            family.add(value, default_namespace);
        }
        family
    }

    /// Of objects that say their namespaces.
    pub(crate) fn of_values(values: &[Value]) -> Self {
        let mut family = Self::default();
        for value in values {
            family.add(value, "default");
        }
        family
    }

    /// Takes in an object, if it has pods or is one.
    pub(crate) fn add(&mut self, value: &Value, default_namespace: &str) {
        let Some(site) = pods(value, default_namespace).into_iter().next() else { return };
        self.objects.insert(site.object.clone());
        let owners = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let is_maker = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
        let Some(owner) = owners.and_then(|owners| owners.iter().find(is_maker)) else { return };
        let (kind, name) = (word(owner, "kind"), word(owner, "name"));
        let said = format!("{kind}/{}/{name}", site.namespace);
        let labels = value.pointer("/metadata/labels");
        let hash = labels.map_or("", |labels| word(labels, "pod-template-hash"));
        let deployment = name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
        let deployment = deployment
            .filter(|_| kind == "ReplicaSet" && !hash.is_empty())
            .map(|name| format!("Deployment/{}/{name}", site.namespace));
        self.makers.insert(site.object, Maker { said, deployment });
    }

    pub(crate) fn has(&self, object: &str) -> bool {
        self.objects.contains(object)
    }

    /// The first maker of an object that nobody made, as far as is known.
    pub(crate) fn root(&self, object: &str) -> String {
        let mut root = object;
        // Nobody is their own ancestor, but a file may say so.
        for _ in 0..8 {
            let Some(Maker { said, deployment }) = self.makers.get(root) else { break };
            root = deployment.as_ref().filter(|one| self.has(one)).unwrap_or(said);
        }
        root.to_owned()
    }
}
