//! The objects of a cluster, arranged for the one question that admission asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::fields::FieldError;
use crate::limits::LimitRange;
use crate::objects::{
    AzureIdentity, AzureIdentityBinding, AzurePodIdentityException, Kind, NamespaceSettings,
    Object, ObjectName,
};
use crate::pod::PodView;

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was created, or is now like this.
    Applied(Box<Object>),
    /// It is gone.
    Deleted(Kind, ObjectName),
}

/// The objects that decisions read. Equal for any series of changes that ends in the same objects.
///
/// A clone shares the objects, so that a new state can be published while the old one is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    identities: BTreeMap<ObjectName, Arc<Result<AzureIdentity, FieldError>>>,
    bindings: BTreeMap<ObjectName, Arc<AzureIdentityBinding>>,
    by_selector: BTreeMap<String, BTreeSet<ObjectName>>,
    exceptions: BTreeMap<ObjectName, Arc<AzurePodIdentityException>>,
    namespaces: BTreeMap<String, Arc<NamespaceSettings>>,
    limits: BTreeMap<ObjectName, Arc<LimitRange>>,
}

impl Index {
    /// Takes a change in. An object that cannot be used takes the place of its last good state: it
    /// is what the cluster says now.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Applied(object) => self.insert(*object),
            Change::Deleted(kind, name) => self.remove(kind, &name),
        }
    }

    /// Takes `objects` for all that there are of `kind`.
    pub fn replace(&mut self, kind: Kind, objects: Vec<Object>) {
        match kind {
            Kind::AzureIdentity => self.identities.clear(),
            Kind::AzureIdentityBinding => {
                self.bindings.clear();
                self.by_selector.clear();
            }
            Kind::AzurePodIdentityException => self.exceptions.clear(),
            Kind::Namespace => self.namespaces.clear(),
            Kind::LimitRange => self.limits.clear(),
        }
        for object in objects {
            self.insert(object);
        }
    }

    /// How many objects there are of `kind`.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::AzureIdentity => self.identities.len(),
            Kind::AzureIdentityBinding => self.bindings.len(),
            Kind::AzurePodIdentityException => self.exceptions.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::LimitRange => self.limits.len(),
        }
    }

    /// Those objects of `kind`, a custom resource, that are not among `others`.
    pub(crate) fn without(
        &self,
        kind: Kind,
        others: &BTreeSet<&ObjectName>,
    ) -> BTreeSet<ObjectName> {
        fn missing<T>(
            map: &BTreeMap<ObjectName, T>,
            others: &BTreeSet<&ObjectName>,
        ) -> BTreeSet<ObjectName> {
            map.keys().filter(|name| !others.contains(name)).cloned().collect()
        }
        match kind {
            Kind::AzureIdentity => missing(&self.identities, others),
            Kind::AzureIdentityBinding => missing(&self.bindings, others),
            Kind::AzurePodIdentityException => missing(&self.exceptions, others),
            Kind::Namespace | Kind::LimitRange => BTreeSet::new(),
        }
    }

    /// Whether there is this object of `kind`, a custom resource.
    pub(crate) fn has(&self, kind: Kind, name: &ObjectName) -> bool {
        match kind {
            Kind::AzureIdentity => self.identities.contains_key(name),
            Kind::AzureIdentityBinding => self.bindings.contains_key(name),
            Kind::AzurePodIdentityException => self.exceptions.contains_key(name),
            Kind::Namespace | Kind::LimitRange => false,
        }
    }

    fn insert(&mut self, object: Object) {
        match object {
            Object::Identity(name, identity) => {
                self.identities.insert(name, Arc::new(identity));
            }
            Object::Binding(name, binding) => {
                self.remove(Kind::AzureIdentityBinding, &name);
                if let Ok(binding) = binding {
                    let names = self.by_selector.entry(binding.selector.clone()).or_default();
                    names.insert(name.clone());
                    self.bindings.insert(name, Arc::new(binding));
                }
            }
            Object::Exception(name, Ok(exception)) => {
                self.exceptions.insert(name, Arc::new(exception));
            }
            Object::Exception(name, Err(_)) => {
                self.exceptions.remove(&name);
            }
            Object::Namespace(name, settings) => {
                self.namespaces.insert(name.name, Arc::new(settings));
            }
            Object::LimitRange(name, limits) => {
                self.limits.insert(name, Arc::new(limits));
            }
        }
    }

    fn remove(&mut self, kind: Kind, name: &ObjectName) {
        match kind {
            Kind::AzureIdentity => {
                self.identities.remove(name);
            }
            Kind::AzureIdentityBinding => {
                let Some(binding) = self.bindings.remove(name) else { return };
                if let Some(names) = self.by_selector.get_mut(&binding.selector) {
                    names.remove(name);
                    if names.is_empty() {
                        self.by_selector.remove(&binding.selector);
                    }
                }
            }
            Kind::AzurePodIdentityException => {
                self.exceptions.remove(name);
            }
            Kind::Namespace => {
                self.namespaces.remove(&name.name);
            }
            Kind::LimitRange => {
                self.limits.remove(name);
            }
        }
    }

    /// The bindings with this selector: those of `namespace` first, then by namespace and name.
    pub(crate) fn bindings(
        &self,
        namespace: &str,
        selector: &str,
    ) -> impl Iterator<Item = (&ObjectName, &AzureIdentityBinding)> {
        let names = self.by_selector.get(selector);
        let own = move |name: &&ObjectName| name.namespace == namespace;
        let first = names.into_iter().flatten().filter(own);
        let then = names.into_iter().flatten().filter(move |name| !own(name));
        first.chain(then).filter_map(|name| Some((name, &**self.bindings.get(name)?)))
    }

    pub(crate) fn identity(&self, name: &ObjectName) -> Option<&Result<AzureIdentity, FieldError>> {
        self.identities.get(name).map(|identity| &**identity)
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&NamespaceSettings> {
        self.namespaces.get(name).map(|settings| &**settings)
    }

    /// The first exception of `namespace` that the pod matches: any one of its labels, with the
    /// value in any letter case (aad-pod-identity v1.8.17, `pkg/pod/pod.go:98-115`).
    pub(crate) fn exception(&self, namespace: &str, pod: &PodView<'_>) -> Option<&ObjectName> {
        let matches = |exception: &AzurePodIdentityException| {
            exception.pod_labels.iter().any(|(key, value)| {
                pod.label(key).is_some_and(|label| label.eq_ignore_ascii_case(value))
            })
        };
        of_namespace(&self.exceptions, namespace.to_owned())
            .find(|(_, exception)| matches(exception))
            .map(|(name, _)| name)
    }

    /// The LimitRanges of `namespace`.
    pub(crate) fn limits(&self, namespace: &str) -> impl Iterator<Item = &LimitRange> {
        of_namespace(&self.limits, namespace.to_owned()).map(|(_, limits)| limits)
    }
}

impl FromIterator<Object> for Index {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut index = Self::default();
        for object in objects {
            index.insert(object);
        }
        index
    }
}

/// The objects of one namespace: one run in the order of the map.
fn of_namespace<T>(
    map: &BTreeMap<ObjectName, Arc<T>>,
    namespace: String,
) -> impl Iterator<Item = (&ObjectName, &T)> {
    map.range(ObjectName::new(namespace.clone(), "")..)
        .take_while(move |(name, _)| name.namespace == namespace)
        .map(|(name, value)| (name, &**value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(kind: &str, name: &str, spec: &Value) -> Object {
        let (namespace, name) = name.split_once('/').unwrap();
        let object = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
            "metadata": {"namespace": namespace, "name": name}, "spec": spec,
        });
        Object::read(&object, "default").unwrap().unwrap()
    }

    fn binding(name: &str, selector: &str) -> Object {
        object("AzureIdentityBinding", name, &json!({"azureIdentity": "i", "selector": selector}))
    }

    fn found(index: &Index, namespace: &str, selector: &str) -> Vec<String> {
        index.bindings(namespace, selector).map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn bindings_of_the_pods_namespace_come_first_then_by_name() {
        let names = ["ops/b", "web/z", "app/x", "ops/a", "web/a"];
        let index: Index = names.iter().map(|name| binding(name, "db")).collect();
        assert_eq!(found(&index, "web", "db"), ["web/a", "web/z", "app/x", "ops/a", "ops/b"]);
        assert!(found(&index, "web", "DB").is_empty());
    }

    #[test]
    fn a_changed_selector_leaves_nothing_behind() {
        let mut index = Index::default();
        index.apply(Change::Applied(Box::new(binding("web/a", "old"))));
        index.apply(Change::Applied(Box::new(binding("web/a", "new"))));
        assert!(found(&index, "web", "old").is_empty());
        assert_eq!(found(&index, "web", "new"), ["web/a"]);
        index.apply(Change::Deleted(Kind::AzureIdentityBinding, ObjectName::new("web", "a")));
        assert_eq!(index, Index::default());
    }

    #[test]
    fn a_binding_that_breaks_matches_nothing_any_more() {
        let mut index = Index::default();
        index.apply(Change::Applied(Box::new(binding("web/a", "db"))));
        let broken = object("AzureIdentityBinding", "web/a", &json!({}));
        index.apply(Change::Applied(Box::new(broken)));
        assert_eq!(index, Index::default());
    }

    #[test]
    fn an_exception_needs_one_label_in_any_letter_case_and_its_own_namespace() {
        let spec = json!({"PodLabels": {"app": "Mic", "tier": "infra"}});
        let index: Index =
            [object("AzurePodIdentityException", "web/e", &spec)].into_iter().collect();
        let pod = PodView::read(r#"{"metadata":{"labels":{"app":"mic"}}}"#).unwrap();
        assert!(index.exception("web", &pod).is_some());
        assert!(index.exception("we", &pod).is_none());
        assert!(index.exception("webs", &pod).is_none());
        let other = PodView::read(r#"{"metadata":{"labels":{"app":"micro"}}}"#).unwrap();
        assert!(index.exception("web", &other).is_none());
    }
}
