//! Which object made which: what a person would edit is the first maker of a pod.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::documents::Document;
use crate::workloads::{objects, pods, text};

/// Who made whom.
pub(crate) struct Family {
    objects: BTreeSet<String>,
    makers: BTreeMap<String, String>,
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    text(value, key).unwrap_or_default()
}

impl Family {
    pub(crate) fn of(documents: &[Document], default_namespace: &str) -> Self {
        Self::of_all(documents.iter().map(|document| &document.value), default_namespace)
    }

    /// Of objects that say their namespaces.
    pub(crate) fn of_values(values: &[Value]) -> Self {
        Self::of_all(values.iter(), "default")
    }

    fn of_all<'a>(values: impl Iterator<Item = &'a Value>, default_namespace: &str) -> Self {
        let mut family = Self { objects: BTreeSet::new(), makers: BTreeMap::new() };
        let all = values.flat_map(objects);
        let all: Vec<_> = all
            .filter_map(|(_, value)| {
                let site = pods(value, default_namespace).into_iter().next()?;
                Some((value, site))
            })
            .collect();
        family.objects.extend(all.iter().map(|(_, site)| site.object.clone()));
        for (value, site) in all {
            let owners = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            let is_maker = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
            let Some(owner) = owners.and_then(|owners| owners.iter().find(is_maker)) else {
                continue;
            };
            let (kind, name) = (word(owner, "kind"), word(owner, "name"));
            let maker = format!("{kind}/{}/{name}", site.namespace);
            // ReplicaSets are seldom dumped; their names tell the Deployment.
            let labels = value.pointer("/metadata/labels");
            let hash = labels.map_or("", |labels| word(labels, "pod-template-hash"));
            let deployment = name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
            let deployment = deployment
                .filter(|_| kind == "ReplicaSet" && !hash.is_empty())
                .map(|name| format!("Deployment/{}/{name}", site.namespace))
                .filter(|deployment| family.objects.contains(deployment));
            family.makers.insert(site.object, deployment.unwrap_or(maker));
        }
        family
    }

    pub(crate) fn has(&self, object: &str) -> bool {
        self.objects.contains(object)
    }

    /// The first maker of an object that nobody made, as far as is known.
    pub(crate) fn root(&self, object: &str) -> String {
        let mut root = object;
        // Nobody is their own ancestor, but a file may say so.
        for _ in 0..8 {
            match self.makers.get(root) {
                Some(maker) => root = maker,
                None => break,
            }
        }
        root.to_owned()
    }
}
