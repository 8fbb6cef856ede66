//! What the files hold: the objects that count for the move, whatever their order.

mod hints;
mod surroundings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imdslet_core::FieldError;
use imdslet_core::csi::ProviderClass;
use imdslet_core::index::{Change, Index};
use imdslet_core::names::POD_LABEL;
use imdslet_core::objects::{
    AzureIdentity, AzureIdentityBinding, Kind, NotAnObject, Object, ObjectName,
};
use imdslet_core::pod::PodView;
use serde_json::Value;

use crate::documents::Place;
use crate::family::Family;
use crate::workloads::{PodSite, pods};
use surroundings::Surroundings;

/// Everything that the plan is made of.
#[derive(Debug, Default)]
pub(super) struct Estate {
    /// For the decisions that the webhook would make.
    pub(super) index: Index,
    pub(super) identities: BTreeMap<ObjectName, Arc<AzureIdentity>>,
    pub(super) bindings: BTreeMap<ObjectName, Arc<AzureIdentityBinding>>,
    /// `Kind/namespace/name` of objects that cannot be used as they stand, and why.
    pub(super) faulty: BTreeMap<String, FieldError>,
    /// Sorted, each of them once.
    pub(super) workloads: Vec<Workload>,
    /// SecretProviderClasses that ask NMI.
    pub(super) classes: BTreeSet<String>,
    pub(super) surroundings: Surroundings,
    /// How many objects of each kind were planned with.
    pub(super) read: BTreeMap<String, usize>,
    /// How many objects of each kind were left aside.
    pub(super) ignored: BTreeMap<String, usize>,
}

/// A pod, or the template of one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// What the pods have that would be the label if its letter case were right.
    pub(super) misspelt_label: Option<String>,
    /// By what one may think that the pods' programs know no address but Azure's own.
    pub(super) hint: Option<String>,
    /// The pod as JSON; of one that has not asked for an identity nothing.
    pub(super) text: Box<str>,
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
    /// A workload without pods.
    #[error(
        "{place}, {object}: has no containers where this kind has its pods, so it was cut off or \
         is no object of a cluster; dump the objects again, whole"
    )]
    NoPod {
        /// Where.
        place: Place,
        /// `Kind/namespace/name`.
        object: String,
    },
    /// Nothing to plan for.
    #[error(
        "no {0} was read; dump azureidentity,azureidentitybinding and all workloads \
         with `kubectl get … -A -o yaml`"
    )]
    Nothing(&'static str),
}

impl Estate {
    /// Reads all objects, each with its document.
    ///
    /// # Errors
    ///
    /// [`Unplannable`], for the first thing that makes the files less than a whole.
    pub(super) fn read(
        objects: impl IntoIterator<Item = (Arc<Place>, Value)>,
        default_namespace: &str,
    ) -> Result<Self, Unplannable> {
        let mut estate = Self::default();
        let mut known = BTreeMap::new();
        let mut family = Family::default();
        let mut workloads = Vec::new();
        for (place, value) in objects {
            if value.get("kind").is_none() && value.get("items").is_some() {
                return Err(Unplannable::CutOff(Place::clone(&place)));
            }
            let object = Object::read(&value, default_namespace);
            let object = object.map_err(|cause| {
                let place = Place::clone(&place);
                Unplannable::NoObject { place, cause }
            })?;
            let is_read = if let Some(object) = object {
                estate.decided_by(object, &mut known, &place)?;
                true
            } else {
                let workload = estate.workload(&value, default_namespace, &place)?;
                family.add(&value, default_namespace);
                let is_read = workload.is_some();
                workloads.extend(workload);
                is_read
            };
            let is_read = estate.surroundings.take(&value, default_namespace) || is_read;
            let counts = if is_read { &mut estate.read } else { &mut estate.ignored };
            *counts.entry(text(&value, "/kind").to_owned()).or_default() += 1;
        }
        let workloads = workloads.into_iter().filter_map(|workload| workload.of_maker(&family));
        // Sorted where they are: a set would have all of them twice while it is made.
        estate.workloads = workloads.collect();
        estate.workloads.sort_unstable();
        estate.workloads.dedup();
        estate.surroundings.by_maker(&family);
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
        mut object: Object,
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
        // One that is not taken over yet is to be: it is planned for like any other.
        if let Object::Namespace(_, settings) = &mut object {
            settings.is_disabled = false;
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

    /// Takes in what has pods, if it has.
    fn workload(
        &mut self,
        value: &Value,
        default_namespace: &str,
        place: &Place,
    ) -> Result<Option<Workload>, Unplannable> {
        let Some(site) = pods(value, default_namespace).into_iter().next() else {
            return Ok(None);
        };
        let pod = value.pointer(&site.pointer);
        let Some(pod) = pod.filter(|pod| pod.pointer("/spec/containers").is_some()) else {
            return Err(Unplannable::NoPod { place: place.clone(), object: site.object });
        };
        self.surroundings.workload(&site, value, pod);
        Ok(Some(Workload::of(site, pod)))
    }
}

impl Workload {
    /// As if nobody had made it, which only the whole of the files tells.
    fn of(site: PodSite, pod: &Value) -> Self {
        let account = ["/spec/serviceAccountName", "/spec/serviceAccount"]
            .into_iter()
            .map(|pointer| text(pod, pointer))
            .find(|account| !account.is_empty());
        let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
        let misspelt = labels.into_iter().flatten().map(|(key, _)| key);
        let misspelt = misspelt.filter(|key| *key != POD_LABEL);
        let json = pod.to_string();
        // Most of a cluster.
        let is_left_alone = matches!(PodView::opted_in(&json), Ok(None));
        Self {
            object: site.object,
            account: account.unwrap_or("default").to_owned(),
            is_spoken_for: false,
            misspelt_label: { misspelt }.find(|key| key.eq_ignore_ascii_case(POD_LABEL)).cloned(),
            hint: hints::knows_only_the_address(pod),
            namespace: site.namespace,
            pointer: site.pointer,
            is_label_misplaced: site.is_label_misplaced,
            text: if is_left_alone { "{}".into() } else { json.into() },
        }
    }

    /// As what a person would edit, if it says anything that its maker does not: an old ReplicaSet may be
    /// of a template that is no longer true; a pod runs.
    fn of_maker(mut self, family: &Family) -> Option<Self> {
        let root = family.root(&self.object);
        self.is_spoken_for = root != self.object && family.has(&root);
        self.object = root;
        (!self.is_spoken_for || self.pointer.is_empty()).then_some(self)
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
