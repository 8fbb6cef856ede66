//! `imdslet inject`: what the webhook would make of manifests, offline.

use std::collections::BTreeMap;

use imdslet_core::admission::{Admission, Outcome, Untouched, admit};
use imdslet_core::csi::{Derived, PodUse, Step, plan};
use imdslet_core::index::{Change, Index};
use imdslet_core::names::POD_LABEL;
use imdslet_core::objects::Object;
use imdslet_core::pod::PodView;
use imdslet_core::settings::Settings;
use json_patch::Patch;
use serde_json::{Value, json};

use crate::documents::{Document, to_yaml};
use crate::workloads::{PodSite, objects, pods};

/// How the result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The documents as YAML.
    #[default]
    Yaml,
    /// The documents as JSON: one as it is, several as a List.
    Json,
    /// A line of JSON for each pod: the object that holds it, and the patch, whose paths start at
    /// the pod.
    Patch,
}

/// What the webhook would make of manifests.
#[derive(Debug, Default)]
pub struct Injected {
    /// The documents, with every pod as it would be.
    documents: Vec<Value>,
    /// The patch of each pod.
    patches: Vec<(String, Patch)>,
    /// What the authors should know, one line each.
    pub warnings: Vec<String>,
    /// Which pods are refused and why, one line each.
    pub refusals: Vec<String>,
    /// How many pods get at least one identity, wait for one, and are left as they are.
    counts: [usize; 3],
}

/// Why a patch could not be applied, which is a mistake of ours.
#[derive(Debug, thiserror::Error)]
#[error("BUG: the patch for {object} does not apply: {cause}")]
pub struct Inapplicable {
    object: String,
    cause: String,
}

/// Decides for every pod in `documents`, with the identities and bindings in the same documents.
///
/// # Errors
///
/// [`Inapplicable`], if the webhook's own patch does not fit the pod.
pub fn inject(
    documents: Vec<Document>,
    settings: &Settings,
    default_namespace: &str,
) -> Result<Injected, Inapplicable> {
    let mut injected = Injected::default();
    let mut index = index(&documents, default_namespace, &mut injected.warnings);
    let derived = derived(&documents, default_namespace, &index, settings);
    for derived in &derived {
        if let Ok(Some(object)) = Object::read(&derived.object(None), default_namespace) {
            index.apply(Change::Applied(Box::new(object)));
        }
    }
    for mut document in documents {
        for site in pods(&document.value, default_namespace) {
            let place = format!("{}, {}", document.place, site.object);
            if site.is_label_misplaced {
                injected.warnings.push(format!(
                    "{place}: its own label {POD_LABEL} does not reach its pods; move it to the \
                     labels of the pod template"
                ));
            }
            injected.pod(&mut document.value, &site, &place, &index, settings)?;
        }
        injected.documents.push(document.value);
    }
    injected.add_used(&derived, default_namespace);
    Ok(injected)
}

/// The classes that the controller would have made before these pods.
fn derived(
    documents: &[Document],
    default_namespace: &str,
    index: &Index,
    settings: &Settings,
) -> Vec<Derived> {
    let uses = uses(documents.iter().map(|document| &document.value), default_namespace);
    let uses = uses.iter().map(|(namespace, pod)| (&**namespace, pod));
    let steps = plan(index, settings, uses).steps.into_values();
    let made = steps.filter_map(|step| match step {
        Step::Create(derived) => Some(derived),
        // What stands in the files stays as it is there.
        Step::Replace(..) | Step::Delete(_) => None,
    });
    made.collect()
}

/// What each pod has to do with SecretProviderClasses, with its namespace.
fn uses<'a>(
    documents: impl Iterator<Item = &'a Value>,
    default_namespace: &str,
) -> Vec<(String, PodUse)> {
    let of = |document: &Value| {
        let sites = pods(document, default_namespace).into_iter();
        let uses = sites.filter_map(|site| {
            Some((site.namespace, PodUse::read(&document.pointer(&site.pointer)?.to_string())?))
        });
        uses.collect::<Vec<_>>()
    };
    documents.flat_map(of).collect()
}

/// The objects that decisions read, out of all documents, whatever their order.
#[must_use]
pub fn index(documents: &[Document], default_namespace: &str, warnings: &mut Vec<String>) -> Index {
    let mut index = Index::default();
    let mut known = BTreeMap::new();
    for document in documents {
        for (_, value) in objects(&document.value) {
            let place = &document.place;
            match Object::read(value, default_namespace) {
                Ok(None) => {}
                Ok(Some(object)) => {
                    let (kind, name) = object.id();
                    if let Some(earlier) = known.insert((kind, name.clone()), place) {
                        warnings.push(format!(
                            "{place}, {kind}/{name}: repeats {earlier}; the last one counts"
                        ));
                    }
                    if let Some(fault) = object.fault() {
                        warnings.push(format!("{place}, {kind}/{name}: {fault}"));
                    }
                    index.apply(Change::Applied(Box::new(object)));
                }
                Err(error) => warnings.push(format!("{place}: {error}")),
            }
        }
    }
    index
}

impl Injected {
    fn pod(
        &mut self,
        document: &mut Value,
        site: &PodSite,
        place: &str,
        index: &Index,
        settings: &Settings,
    ) -> Result<(), Inapplicable> {
        let Some(pod) = document.pointer_mut(&site.pointer) else {
            self.warnings.push(format!("{place}: has no pod template"));
            return Ok(());
        };
        let text = pod.to_string();
        let decision = PodView::opted_in(&text).map_err(Into::into).and_then(|view| match view {
            Some(view) => admit(index, settings, &site.namespace, &view),
            None => Ok(Admission::untouched(Untouched::NotOptedIn)),
        });
        let admission = match decision {
            Ok(admission) => admission,
            Err(refusal) => {
                self.refusals.push(format!("{place}: {refusal}"));
                return Ok(());
            }
        };
        self.warnings.extend(admission.warnings.iter().map(|w| format!("{place}: {w}")));
        let inapplicable = |cause: String| Inapplicable { object: site.object.clone(), cause };
        let (patch, count) = match admission.outcome {
            Outcome::Injected { patch, identities } => {
                let patch = patch.operations().map_err(|error| inapplicable(error.to_string()))?;
                (patch, usize::from(identities.is_empty()))
            }
            Outcome::Untouched(_) => (Patch::default(), 2),
        };
        if let Some(count) = self.counts.get_mut(count) {
            *count += 1;
        }
        json_patch::patch(pod, &patch).map_err(|error| inapplicable(error.to_string()))?;
        self.patches.push((site.object.clone(), patch));
        Ok(())
    }

    /// The documents, with every pod as it would be.
    #[must_use]
    pub fn documents(&self) -> &[Value] {
        &self.documents
    }

    /// Adds the derived classes that a pod names now: a cluster without imdslet has no others.
    fn add_used(&mut self, derived: &[Derived], default_namespace: &str) {
        let uses = uses(self.documents.iter(), default_namespace);
        let is_used = |derived: &&Derived| {
            let name = &derived.name;
            let mut here = uses.iter().filter(|(namespace, _)| *namespace == name.namespace);
            here.any(|(_, pod)| pod.classes.contains(&name.name))
        };
        let named = derived.iter().filter(is_used).map(|derived| derived.object(None));
        self.documents.extend(named.collect::<Vec<_>>());
    }

    /// What came of all pods, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let [bound, waiting, untouched] = self.counts;
        let hint = if waiting > 0 { "; only the given files were looked at" } else { "" };
        format!(
            "pods: {bound} with an identity, {waiting} waiting for one, {untouched} left alone{hint}"
        )
    }

    /// The result as text.
    ///
    /// # Errors
    ///
    /// The emitter's message; JSON values are never what it cannot write.
    pub fn write(&self, format: Format) -> Result<String, serde_saphyr::ser::Error> {
        Ok(match (format, self.documents.as_slice()) {
            (Format::Yaml, documents) => to_yaml(documents)?,
            (Format::Json, [one]) => format!("{one:#}\n"),
            (Format::Json, many) => {
                format!("{:#}\n", json!({"apiVersion": "v1", "kind": "List", "items": many}))
            }
            (Format::Patch, _) => self
                .patches
                .iter()
                .map(|(object, patch)| json!({"object": object, "patch": patch}).to_string() + "\n")
                .collect(),
        })
    }
}
