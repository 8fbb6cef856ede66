//! Which derived classes there should be, and what is to be done about those that there are.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::class::{Derived, Origin, ProviderClass, Stored};
use super::volumes::class_names;
use crate::contract::Source;
use crate::index::Index;
use crate::names::DRIVER;
use crate::objects::{Kind, ObjectName};
use crate::pod::PodView;
use crate::resolve::{Usable, resolve};
use crate::settings::{Endpoint, Scope, Settings};

#[cfg(test)]
mod tests;

/// Selectors that only other namespaces bind count ahead of pods as long as there are no more: each
/// is another class for every class of every namespace, and nearly all would be for nobody.
const FOREIGN: usize = 16;

/// What a pod has to do with classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUse {
    /// Its label; empty if it has none any more.
    pub selector: String,
    /// The classes that its volumes name.
    pub classes: BTreeSet<String>,
    /// Its uid.
    pub uid: String,
    /// Its containers have not begun, perhaps since a volume cannot be mounted, and admission would
    /// point a new one of its kind to another class.
    pub is_pending: bool,
}

/// The parts of a running pod that admission does not look at.
#[derive(Deserialize)]
struct Rest {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
}

/// What is to be done about the derived classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What differs, by the name of the derived class.
    pub steps: BTreeMap<ObjectName, Step>,
    /// Those that there should be, and a class of somebody else has the name.
    pub taken: Vec<Derived>,
    /// How many there are that are ours.
    pub there: usize,
    /// Whether there should be one that gives somebody something.
    pub is_needed: bool,
}

/// What to do about one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is none.
    Create(Derived),
    /// It says something else: this version of it is replaced.
    Replace(Derived, String),
    /// It is for nobody any more: the one of this uid.
    Delete(String),
}

impl Step {
    /// Whether pods of somebody lose something by it.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        match self {
            Self::Create(_) => false,
            Self::Replace(derived, _) => derived.is_revoked(),
            Self::Delete(_) => true,
        }
    }
}

impl PodUse {
    /// Reads a pod as the API server has it. `None`: it has no Secrets Store volume, or has ended.
    #[must_use]
    pub fn read(json: &str) -> Option<Self> {
        // Most pods have none, and need not be read for that.
        if !json.contains(DRIVER) {
            return None;
        }
        let pod = PodView::read(json).ok()?;
        let selector = pod.selector().unwrap_or_default().to_owned();
        let classes: BTreeSet<_> = class_names(&pod).map(|(_, _, class)| class).collect();
        let Rest { metadata, status } = serde_json::from_str(json).ok()?;
        let has_ended = matches!(&*status.phase, "Succeeded" | "Failed");
        let is_served = !pod.is_host_network() && !pod.is_windows();
        let is_pending = is_served && matches!(&*status.phase, "" | "Pending");
        let uid = metadata.uid;
        let used = Self { selector, classes, uid, is_pending };
        (!used.classes.is_empty() && !has_ended).then_some(used)
    }

    /// A class that asks NMI, which a volume of this pod of `namespace` names although the one that
    /// takes its place is there: that one, and the other. Only a new pod gets it.
    #[must_use]
    pub fn outdated(&self, index: &Index, namespace: &str) -> Option<(String, String)> {
        let mut pairs = self.classes.iter().filter_map(|class| {
            let asks = index.class(&ObjectName::new(namespace, &**class));
            let origin = Origin { class: class.clone(), selector: self.selector.clone() };
            let derived = origin.name();
            let there = index.class(&ObjectName::new(namespace, &*derived));
            match (asks, there) {
                (Some(ProviderClass::AsksNmi(_)), Some(ProviderClass::Derived(found, _)))
                    if *found == origin =>
                {
                    Some((derived, origin.class))
                }
                _ => None,
            }
        });
        // Admission would leave a new one there as it is, too.
        let is_disabled = index.namespace(namespace).is_some_and(|settings| settings.is_disabled);
        pairs.next().filter(|_| self.is_pending && !is_disabled)
    }
}

/// The identity by which the provider can ask for pods with these identities: the first one that
/// has a federated credential, which is the one that requests get that name none.
pub(super) fn provider_identity(identities: &[Usable]) -> Option<&Usable> {
    identities.iter().find(|usable| usable.identity.source == Source::Federated)
}

/// Decides what is to be done, `uses` being those of all labelled pods, each with its namespace.
///
/// There is a derived class for each class that asks NMI and each selector that its namespace binds;
/// for selectors that other namespaces bind, where they are few or a pod has that label and names
/// that class.
#[must_use]
pub fn plan<'a>(
    index: &'a Index,
    settings: &Settings,
    uses: impl IntoIterator<Item = (&'a str, &'a PodUse)>,
) -> Plan {
    // Most clusters have none, and thousands of bindings.
    if index.count(Kind::SecretProviderClass) == 0 {
        return Plan::default();
    }
    let mut originals: BTreeMap<&str, Vec<(&str, &Stored)>> = BTreeMap::new();
    for (name, class) in index.classes() {
        if let ProviderClass::AsksNmi(stored) = class {
            originals.entry(&name.namespace).or_default().push((&name.name, stored));
        }
    }
    let demand = Demand::of(index, uses);
    let mut plan = Plan::default();
    let mut wanted = BTreeSet::new();
    for (namespace, classes) in &originals {
        for (origin, client_id) in demand.origins(index, settings, namespace, classes) {
            let Some((_, original)) = classes.iter().find(|(name, _)| *name == origin.class) else {
                continue;
            };
            let derived = Derived::of(namespace, origin, original, client_id.as_deref());
            let is_new = wanted.insert(derived.name.clone());
            if is_new && !plan.want(index, &derived, client_id.is_some(), &demand) {
                wanted.remove(&derived.name);
            }
        }
    }
    for (name, class) in index.classes() {
        let ProviderClass::Derived(origin, there) = class else { continue };
        plan.there += 1;
        if wanted.contains(name) || there.is_ending {
            continue;
        }
        let client_id = client_id(index, settings, &name.namespace, &origin.selector);
        if let Some(step) = unwanted(name, origin, there, client_id.as_deref(), &demand) {
            plan.steps.insert(name.clone(), step);
        }
    }
    plan
}

/// What to do about a class that nothing asks for any more.
///
/// Pods may have it that have lost their label, and pods that run have it whatever their original
/// says now: it gives them what their binding says, and first of all no more than that.
fn unwanted(
    name: &ObjectName,
    origin: &Origin,
    there: &Stored,
    client_id: Option<&str>,
    demand: &Demand<'_>,
) -> Option<Step> {
    let given = there.spec.pointer("/parameters/clientID").and_then(Value::as_str);
    if given.is_some() && given != client_id {
        let owner = there.owners.first().cloned().unwrap_or_default();
        let itself = Stored { uid: owner, ..there.clone() };
        let derived = Derived::of(&name.namespace, origin.clone(), &itself, client_id);
        return Some(Step::Replace(derived, there.version.clone()));
    }
    (!demand.is_used(name)).then(|| Step::Delete(there.uid.clone()))
}

impl Plan {
    /// Takes in what should be there; whether it should.
    fn want(
        &mut self,
        index: &Index,
        derived: &Derived,
        is_bound: bool,
        demand: &Demand<'_>,
    ) -> bool {
        let step = match index.class(&derived.name) {
            // What gives nothing is only for those who have it.
            _ if !is_bound && !demand.is_used(&derived.name) => return false,
            None if !is_bound => return false,
            None => Some(Step::Create(derived.clone())),
            Some(ProviderClass::Derived(origin, there)) if *origin == derived.origin => {
                let is_right = there.is_ending || derived.is_like(there);
                (!is_right).then(|| Step::Replace(derived.clone(), there.version.clone()))
            }
            Some(_) => {
                self.taken.push(derived.clone());
                return true;
            }
        };
        self.is_needed |= is_bound;
        self.steps.extend(step.map(|step| (derived.name.clone(), step)));
        true
    }
}

/// Who may need derived classes.
struct Demand<'a> {
    /// The selectors that each namespace binds.
    own: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// The selectors that anybody binds.
    all: BTreeSet<&'a str>,
    /// What the pods of each namespace have, and which classes they name.
    pods: BTreeMap<&'a str, BTreeSet<(&'a str, &'a str)>>,
}

impl<'a> Demand<'a> {
    fn of(index: &'a Index, uses: impl IntoIterator<Item = (&'a str, &'a PodUse)>) -> Self {
        let mut demand = Self { own: BTreeMap::new(), all: BTreeSet::new(), pods: BTreeMap::new() };
        for (selector, binding) in index.selectors() {
            demand.own.entry(&binding.namespace).or_default().insert(selector);
            demand.all.insert(selector);
        }
        for (namespace, pod) in uses {
            let named = pod.classes.iter().map(|class| (&*pod.selector, &**class));
            demand.pods.entry(namespace).or_default().extend(named);
        }
        demand
    }

    /// Whether a pod's volume names this class.
    fn is_used(&self, name: &ObjectName) -> bool {
        let pods = self.pods.get(&*name.namespace);
        pods.is_some_and(|pods| pods.iter().any(|(_, class)| *class == name.name))
    }

    /// What there may be derived classes for in a namespace, each with the client id that it gives.
    fn origins(
        &self,
        index: &Index,
        settings: &Settings,
        namespace: &str,
        classes: &[(&str, &Stored)],
    ) -> Vec<(Origin, Option<String>)> {
        let nothing = BTreeSet::new();
        let own = self.own.get(namespace).unwrap_or(&nothing);
        let reaches_all = settings.scope == Scope::Cluster && self.all.len() - own.len() <= FOREIGN;
        let mut pairs = BTreeSet::new();
        for selector in if reaches_all { &self.all } else { own } {
            pairs.extend(classes.iter().map(|(class, _)| (*class, *selector)));
        }
        for (selector, class) in self.pods.get(namespace).into_iter().flatten() {
            match index.class(&ObjectName::new(namespace, *class)) {
                Some(ProviderClass::AsksNmi(_)) => drop(pairs.insert((*class, *selector))),
                // What the pod was admitted with, whatever its label says now.
                Some(ProviderClass::Derived(origin, _)) => {
                    pairs.insert((&origin.class, &origin.selector));
                }
                _ => {}
            }
        }
        let mut client_ids = BTreeMap::new();
        let origins = pairs.into_iter().map(|(class, selector)| {
            let client_id = client_ids
                .entry(selector)
                .or_insert_with(|| client_id(index, settings, namespace, selector));
            let origin = Origin { class: class.to_owned(), selector: selector.to_owned() };
            (origin, client_id.clone())
        });
        origins.collect()
    }
}

fn client_id(
    index: &Index,
    settings: &Settings,
    namespace: &str,
    selector: &str,
) -> Option<String> {
    // The endpoint decides only about what the provider cannot ask by.
    let resolution = resolve(index, settings, namespace, selector, Endpoint::Env);
    provider_identity(&resolution.identities).map(|usable| usable.identity.client_id.clone())
}
