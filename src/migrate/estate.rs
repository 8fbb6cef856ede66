//! What the files hold: the objects that count for the move, whatever their order.

use std::collections::{BTreeMap, BTreeSet};

use imdslet_core::FieldError;
use imdslet_core::csi::ProviderClass;
use imdslet_core::index::{Change, Index};
use imdslet_core::names::GROUP;
use imdslet_core::objects::{
    AzureIdentity, AzureIdentityBinding, Kind, NotAnObject, Object, ObjectName,
};
use serde_json::Value;

use crate::documents::{Document, Place};
use crate::workloads::{objects, pods};

/// Everything that the plan is made of.
#[derive(Debug, Default)]
pub(super) struct Estate {
    /// For the decisions that the webhook would make.
    pub(super) index: Index,
    pub(super) identities: BTreeMap<ObjectName, AzureIdentity>,
    pub(super) bindings: BTreeMap<ObjectName, AzureIdentityBinding>,
    /// `Kind/namespace/name` of objects that cannot be used as they stand, and why.
    pub(super) faulty: BTreeMap<String, FieldError>,
    pub(super) workloads: BTreeSet<Workload>,
    /// SecretProviderClasses that ask NMI.
    pub(super) classes: BTreeSet<String>,
    /// AzureAssignedIdentities that only MIC can let go of.
    pub(super) held: BTreeSet<String>,
    /// Objects of policy engines.
    pub(super) policies: BTreeSet<String>,
    /// Workloads of aad-pod-identity that are told to keep to namespaces.
    pub(super) namespaced_by: BTreeSet<String>,
    /// How many objects of each kind were planned with.
    pub(super) read: BTreeMap<String, usize>,
    /// How many objects of each kind were left aside.
    pub(super) ignored: BTreeMap<String, usize>,
}

/// A pod, or the template of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Workload {
    /// `Kind/namespace/name` of what a person would edit.
    pub(super) object: String,
    pub(super) namespace: String,
    pub(super) account: String,
    /// What it is made from is among the files too, and speaks for it.
    pub(super) is_spoken_for: bool,
    /// JSON pointer of the pod in the object; empty if the object is the pod.
    pub(super) pointer: String,
    /// The object is labelled, and its pods are not.
    pub(super) is_label_misplaced: bool,
    /// The pod as JSON.
    pub(super) text: String,
}

/// Why no plan can be made: a part of one would be taken for the whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unplannable {
    /// A List lost its end.
    #[error(
        "{0}: has items and no kind, so it is a List that was cut off; dump the objects again, \
         whole"
    )]
    CutOff(Place),
    /// Something is no object.
    #[error("{place}: {cause}; no plan is made of a part of the objects")]
    NoObject {
        /// Where.
        place: Place,
        /// Why.
        cause: NotAnObject,
    },
    /// Two states of one object.
    #[error("{place}, {object}: says something else than an earlier {object}; keep one of them")]
    Repeated {
        /// Where the second one is.
        place: Place,
        /// `Kind/namespace/name`.
        object: String,
    },
    /// Nothing to plan for.
    #[error(
        "there is no {0} in these files; dump azureidentity,azureidentitybinding and all workloads \
         with `kubectl get … -A -o yaml`"
    )]
    Nothing(&'static str),
}

impl Estate {
    /// Reads all documents.
    ///
    /// # Errors
    ///
    /// [`Unplannable`], for the first thing that makes the files less than a whole.
    pub(super) fn read(
        documents: &[Document],
        default_namespace: &str,
    ) -> Result<Self, Unplannable> {
        let mut estate = Self::default();
        let mut known = BTreeMap::new();
        let family = Family::of(documents, default_namespace);
        for document in documents {
            for (_, value) in objects(&document.value) {
                let place = &document.place;
                if value.get("kind").is_none() && value.get("items").is_some() {
                    return Err(Unplannable::CutOff(place.clone()));
                }
                let object = Object::read(value, default_namespace);
                let object = object.map_err(|cause| {
                    let place = place.clone();
                    Unplannable::NoObject { place, cause }
                })?;
                let kind = text(value, "/kind").to_owned();
                let is_read = if let Some(object) = object {
                    estate.decided_by(object, &mut known, place)?;
                    true
                } else {
                    let is_workload = estate.workload(value, default_namespace, &family);
                    estate.notable(value, default_namespace) || is_workload
                };
                let counts = if is_read { &mut estate.read } else { &mut estate.ignored };
                *counts.entry(kind).or_default() += 1;
            }
        }
        if !estate.read.contains_key("AzureIdentityBinding") {
            return Err(Unplannable::Nothing("AzureIdentityBinding"));
        }
        if estate.workloads.is_empty() {
            return Err(Unplannable::Nothing("pod and no workload"));
        }
        Ok(estate)
    }

    /// Takes in an object that the webhook reads too.
    fn decided_by(
        &mut self,
        object: Object,
        known: &mut BTreeMap<(Kind, ObjectName), Object>,
        place: &Place,
    ) -> Result<(), Unplannable> {
        let (kind, name) = object.id();
        let (id, name) = (format!("{kind}/{name}"), name.clone());
        match known.get(&(kind, name.clone())) {
            Some(earlier) if *earlier == object => return Ok(()),
            Some(_) => return Err(Unplannable::Repeated { place: place.clone(), object: id }),
            None => drop(known.insert((kind, name), object.clone())),
        }
        if let Some(fault) = object.fault() {
            self.faulty.insert(id, fault.clone());
        }
        match &object {
            Object::Identity(name, Ok(identity)) => {
                self.identities.insert(name.clone(), identity.clone());
            }
            Object::Binding(name, Ok(binding)) => {
                self.bindings.insert(name.clone(), binding.clone());
            }
            Object::Class(name, ProviderClass::AsksNmi(_)) => {
                self.classes.insert(format!("{kind}/{name}"));
            }
            _ => {}
        }
        self.index.apply(Change::Applied(Box::new(object)));
        Ok(())
    }

    /// Takes in what has pods; whether it has.
    fn workload(&mut self, value: &Value, default_namespace: &str, family: &Family) -> bool {
        let sites = pods(value, default_namespace);
        let Some(site) = sites.into_iter().next() else { return false };
        let Some(pod) = value.pointer(&site.pointer) else { return true };
        let root = family.root(&site.object);
        let is_spoken_for = root != site.object && family.has(&root);
        if is_of_old(value) && is_told_to_keep_to_namespaces(pod) {
            self.namespaced_by.insert(root.clone());
        }
        // An old ReplicaSet may be of a template that is no longer true; a pod runs.
        if is_spoken_for && !site.pointer.is_empty() {
            return true;
        }
        let account = ["/spec/serviceAccountName", "/spec/serviceAccount"]
            .into_iter()
            .map(|pointer| text(pod, pointer))
            .find(|account| !account.is_empty());
        self.workloads.insert(Workload {
            object: root,
            namespace: site.namespace,
            account: account.unwrap_or("default").to_owned(),
            is_spoken_for,
            pointer: site.pointer,
            is_label_misplaced: site.is_label_misplaced,
            text: pod.to_string(),
        });
        true
    }

    /// Takes in what is neither a workload nor read by the webhook; whether it is anything.
    fn notable(&mut self, value: &Value, default_namespace: &str) -> bool {
        let group = text(value, "/apiVersion").split('/').next().unwrap_or_default();
        let kind = text(value, "/kind");
        let id = format!("{kind}/{}", name_of(value, default_namespace));
        match (group, kind) {
            (GROUP, "AzureAssignedIdentity") => {
                let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array);
                if finalizers.is_some_and(|finalizers| !finalizers.is_empty()) {
                    self.held.insert(id);
                }
                true
            }
            ("kyverno.io" | "constraints.gatekeeper.sh" | "templates.gatekeeper.sh", _) => {
                // Most of them are of no namespace.
                let namespace = text(value, "/metadata/namespace");
                let name = ObjectName::new(namespace, text(value, "/metadata/name"));
                self.policies.insert(format!("{kind}/{name}"));
                true
            }
            _ => false,
        }
    }
}

/// Who made whom.
struct Family {
    objects: BTreeSet<String>,
    makers: BTreeMap<String, String>,
}

impl Family {
    fn of(documents: &[Document], default_namespace: &str) -> Self {
        let mut family = Self { objects: BTreeSet::new(), makers: BTreeMap::new() };
        let all = documents.iter().flat_map(|document| objects(&document.value));
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
            let (kind, name) = (text(owner, "/kind"), text(owner, "/name"));
            let maker = format!("{kind}/{}/{name}", site.namespace);
            // ReplicaSets are seldom dumped; their names tell the Deployment.
            let hash = text(value, "/metadata/labels/pod-template-hash");
            let deployment = name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
            let deployment = deployment
                .filter(|_| kind == "ReplicaSet" && !hash.is_empty())
                .map(|name| format!("Deployment/{}/{name}", site.namespace))
                .filter(|deployment| family.objects.contains(deployment));
            family.makers.insert(site.object, deployment.unwrap_or(maker));
        }
        family
    }

    fn has(&self, object: &str) -> bool {
        self.objects.contains(object)
    }

    /// The first maker of an object that nobody made, as far as is known.
    fn root(&self, object: &str) -> String {
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

/// The text at a pointer; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn name_of(value: &Value, default_namespace: &str) -> ObjectName {
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str);
    ObjectName::new(namespace.unwrap_or(default_namespace), text(value, "/metadata/name"))
}

/// As Go's `strconv.ParseBool` has it, by which NMI read its settings.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Whether a workload is one of aad-pod-identity's own, by any manifest or chart of theirs.
fn is_of_old(value: &Value) -> bool {
    let name = text(value, "/metadata/name");
    ["nmi", "mic"].iter().any(|own| {
        name == *own || name.ends_with(&format!("-{own}")) || name.starts_with(&format!("{own}-"))
    })
}

/// Source: aad-pod-identity v1.8.17, `cmd/nmi/main.go:33-57` and `cmd/mic/main.go:53-97`.
fn is_told_to_keep_to_namespaces(pod: &Value) -> bool {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    containers.into_iter().flatten().any(|container| {
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
