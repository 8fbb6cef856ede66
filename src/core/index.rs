//! The objects of a cluster, arranged for the one question that admission asks.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::csi::ProviderClass;
use crate::fields::FieldError;
use crate::limits::LimitRange;
use crate::objects::{
    AzureIdentity, AzureIdentityBinding, AzurePodIdentityException, Checked, Kind,
    NamespaceSettings, Object, ObjectName,
};
use crate::pod::PodView;
use crate::settings::Scope;

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
/// A clone shares everything, so that a new state can be published while the old one is read. A
/// change copies the map that it is in, once, and that copy shares the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    identities: Arc<BTreeMap<ObjectName, Checked<AzureIdentity>>>,
    bindings: Arc<BTreeMap<Arc<ObjectName>, Arc<AzureIdentityBinding>>>,
    /// One set, and not a set for each selector: most have one binding, and a set takes half a
    /// kilobyte however few are in it. It shares its texts with `bindings`.
    by_selector: Arc<BTreeSet<(Arc<str>, Arc<ObjectName>)>>,
    exceptions: Arc<BTreeMap<ObjectName, Arc<AzurePodIdentityException>>>,
    /// Bindings and exceptions that cannot be used, and so match nothing. Nothing decides by them, but
    /// somebody has to be told.
    broken: Arc<BTreeMap<(Kind, ObjectName), FieldError>>,
    namespaces: Arc<BTreeMap<String, Arc<NamespaceSettings>>>,
    limits: Arc<BTreeMap<ObjectName, Arc<LimitRange>>>,
    /// Those that matter: [`ProviderClass::Other`] is not among them.
    classes: Arc<BTreeMap<ObjectName, Arc<ProviderClass>>>,
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
        let mut new = Self::from_iter(objects);
        new.pack();
        if self.broken.keys().any(|(broken, _)| *broken == kind) {
            Arc::make_mut(&mut self.broken).retain(|(broken, _), _| *broken != kind);
        }
        if !new.broken.is_empty() {
            Arc::make_mut(&mut self.broken).append(&mut Arc::unwrap_or_clone(new.broken));
        }
        match kind {
            Kind::AzureIdentity => self.identities = new.identities,
            Kind::AzureIdentityBinding => {
                self.bindings = new.bindings;
                self.by_selector = new.by_selector;
            }
            Kind::AzurePodIdentityException => self.exceptions = new.exceptions,
            Kind::Namespace => self.namespaces = new.namespaces,
            Kind::LimitRange => self.limits = new.limits,
            Kind::SecretProviderClass => self.classes = new.classes,
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
            Kind::SecretProviderClass => self.classes.len(),
        }
    }

    /// Those objects of `kind`, a custom resource, that are not among `others`.
    pub(crate) fn without(
        &self,
        kind: Kind,
        others: &BTreeSet<&ObjectName>,
    ) -> BTreeSet<ObjectName> {
        fn missing<K: Borrow<ObjectName>, T>(
            map: &BTreeMap<K, T>,
            others: &BTreeSet<&ObjectName>,
        ) -> BTreeSet<ObjectName> {
            let names = map.keys().map(Borrow::borrow);
            names.filter(|name| !others.contains(name)).cloned().collect()
        }
        match kind {
            Kind::AzureIdentity => missing(&self.identities, others),
            Kind::AzureIdentityBinding => missing(&self.bindings, others),
            Kind::AzurePodIdentityException => missing(&self.exceptions, others),
            Kind::Namespace | Kind::LimitRange | Kind::SecretProviderClass => BTreeSet::new(),
        }
    }

    /// Whether there is this object of `kind`, a custom resource.
    pub(crate) fn has(&self, kind: Kind, name: &ObjectName) -> bool {
        match kind {
            Kind::AzureIdentity => self.identities.contains_key(name),
            Kind::AzureIdentityBinding => self.bindings.contains_key(name),
            Kind::AzurePodIdentityException => self.exceptions.contains_key(name),
            Kind::Namespace | Kind::LimitRange | Kind::SecretProviderClass => false,
        }
    }

    fn insert(&mut self, object: Object) {
        match object {
            Object::Identity(name, identity) => {
                Arc::make_mut(&mut self.identities).insert(name, identity);
            }
            Object::Binding(name, binding) => {
                self.remove(Kind::AzureIdentityBinding, &name);
                match binding {
                    Ok(binding) => {
                        let name = Arc::new(name);
                        let entry = (binding.selector.clone(), name.clone());
                        Arc::make_mut(&mut self.by_selector).insert(entry);
                        Arc::make_mut(&mut self.bindings).insert(name, binding);
                    }
                    Err(fault) => self.break_down(Kind::AzureIdentityBinding, name, *fault),
                }
            }
            Object::Exception(name, exception) => {
                self.remove(Kind::AzurePodIdentityException, &name);
                match exception {
                    Ok(exception) => {
                        Arc::make_mut(&mut self.exceptions).insert(name, Arc::new(exception));
                    }
                    Err(fault) => self.break_down(Kind::AzurePodIdentityException, name, fault),
                }
            }
            Object::Namespace(name, settings) => {
                Arc::make_mut(&mut self.namespaces).insert(name.name, Arc::new(settings));
            }
            Object::LimitRange(name, limits) => {
                Arc::make_mut(&mut self.limits).insert(name, Arc::new(limits));
            }
            Object::Class(name, ProviderClass::Other) => {
                self.remove(Kind::SecretProviderClass, &name);
            }
            Object::Class(name, class) => {
                Arc::make_mut(&mut self.classes).insert(name, Arc::new(class));
            }
        }
    }

    /// Fills the nodes of the large maps, of which objects that came in order left half empty.
    fn pack(&mut self) {
        fn pack<T: IntoIterator + FromIterator<T::Item> + Clone + Default>(all: &mut Arc<T>) {
            *all = Arc::new(Arc::unwrap_or_clone(std::mem::take(all)).into_iter().collect());
        }
        pack(&mut self.identities);
        pack(&mut self.bindings);
        pack(&mut self.by_selector);
    }

    fn break_down(&mut self, kind: Kind, name: ObjectName, fault: FieldError) {
        Arc::make_mut(&mut self.broken).insert((kind, name), fault);
    }

    fn remove(&mut self, kind: Kind, name: &ObjectName) {
        // Looked for first, here and below: most of the time there is none, and nothing to copy for
        // it.
        let broken = (kind, name.clone());
        if self.broken.contains_key(&broken) {
            Arc::make_mut(&mut self.broken).remove(&broken);
        }
        match kind {
            Kind::AzureIdentity => {
                Arc::make_mut(&mut self.identities).remove(name);
            }
            Kind::AzureIdentityBinding => {
                let Some((name, binding)) = self.bindings.get_key_value(name) else { return };
                let (name, entry) = (name.clone(), (binding.selector.clone(), name.clone()));
                Arc::make_mut(&mut self.by_selector).remove(&entry);
                Arc::make_mut(&mut self.bindings).remove(&name);
            }
            Kind::AzurePodIdentityException if self.exceptions.contains_key(name) => {
                Arc::make_mut(&mut self.exceptions).remove(name);
            }
            Kind::AzurePodIdentityException => {}
            Kind::Namespace => {
                Arc::make_mut(&mut self.namespaces).remove(&name.name);
            }
            Kind::LimitRange => {
                Arc::make_mut(&mut self.limits).remove(name);
            }
            Kind::SecretProviderClass => {
                // Nearly all of them are others.
                if self.classes.contains_key(name) {
                    Arc::make_mut(&mut self.classes).remove(name);
                }
            }
        }
    }

    /// The bindings with this selector: those of `namespace` first, then by namespace and name those
    /// of the others, if `scope` lets them matter. Otherwise they are not even looked at: thousands of
    /// namespaces may share a selector, and what they bind is none of this one's business.
    pub(crate) fn bindings(
        &self,
        scope: Scope,
        namespace: &str,
        selector: &str,
    ) -> impl Iterator<Item = (&ObjectName, &AzureIdentityBinding)> {
        let own = move |name: &&ObjectName| name.namespace == namespace;
        let first = self.selected(selector, namespace).take_while(own);
        let others = (scope == Scope::Cluster).then(|| self.selected(selector, ""));
        let then = others.into_iter().flatten().filter(move |name| !own(name));
        first.chain(then).filter_map(|name| Some((name, &**self.bindings.get(name)?)))
    }

    /// The names of the bindings with this selector, from `namespace` on: one run in the order of
    /// the set, which is begun where it is wanted, since thousands of namespaces may share a
    /// selector.
    fn selected(&self, selector: &str, namespace: &str) -> impl Iterator<Item = &ObjectName> {
        self.by_selector
            .range((Arc::from(selector), Arc::new(ObjectName::new(namespace, "")))..)
            .take_while(move |(other, _)| **other == *selector)
            .map(|(_, name)| &**name)
    }

    pub(crate) fn identity(&self, name: &ObjectName) -> Option<&Checked<AzureIdentity>> {
        self.identities.get(name)
    }

    /// Every AzureIdentity, also one that cannot be used.
    pub(crate) fn identities(
        &self,
    ) -> impl Iterator<Item = (&ObjectName, &Checked<AzureIdentity>)> {
        self.identities.iter()
    }

    /// Every AzureIdentityBinding that can match something.
    pub(crate) fn all_bindings(
        &self,
    ) -> impl Iterator<Item = (&ObjectName, &AzureIdentityBinding)> {
        self.bindings.iter().map(|(name, binding)| (&**name, &**binding))
    }

    /// The bindings and exceptions that match nothing as they stand.
    pub(crate) fn broken(&self) -> impl Iterator<Item = (Kind, &ObjectName, &FieldError)> {
        self.broken.iter().map(|((kind, name), fault)| (*kind, name, fault))
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
        of_namespace(&self.exceptions, namespace)
            .find(|(_, exception)| matches(exception))
            .map(|(name, _)| name)
    }

    /// The SecretProviderClass of this name, unless it is none of our business.
    pub(crate) fn class(&self, name: &ObjectName) -> Option<&ProviderClass> {
        self.classes.get(name).map(|class| &**class)
    }

    /// All SecretProviderClasses that are our business.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (&ObjectName, &ProviderClass)> {
        self.classes.iter().map(|(name, class)| (name, &**class))
    }

    /// Each selector with each binding that has it.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = (&str, &ObjectName)> {
        self.by_selector.iter().map(|(selector, binding)| (&**selector, &**binding))
    }

    /// The LimitRanges of `namespace`.
    pub(crate) fn limits(&self, namespace: &str) -> impl Iterator<Item = &LimitRange> {
        of_namespace(&self.limits, namespace).map(|(_, limits)| limits)
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
fn of_namespace<'m, T>(
    map: &'m BTreeMap<ObjectName, Arc<T>>,
    namespace: &str,
) -> impl Iterator<Item = (&'m ObjectName, &'m T)> {
    map.range(ObjectName::new(namespace, "")..)
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

    fn found_in(scope: Scope, index: &Index, namespace: &str, selector: &str) -> Vec<String> {
        index.bindings(scope, namespace, selector).map(|(name, _)| name.to_string()).collect()
    }

    fn found(index: &Index, namespace: &str, selector: &str) -> Vec<String> {
        found_in(Scope::Cluster, index, namespace, selector)
    }

    #[test]
    fn bindings_of_the_pods_namespace_come_first_then_by_name() {
        let names = ["ops/b", "web/z", "app/x", "ops/a", "web/a"];
        let index: Index = names.iter().map(|name| binding(name, "db")).collect();
        assert_eq!(found(&index, "web", "db"), ["web/a", "web/z", "app/x", "ops/a", "ops/b"]);
        assert!(found(&index, "web", "DB").is_empty());
        assert_eq!(found_in(Scope::Namespaced, &index, "web", "db"), ["web/a", "web/z"]);
        assert!(found_in(Scope::Namespaced, &index, "we", "db").is_empty());
    }

    #[test]
    fn namespaces_that_begin_with_another_are_others() {
        let bindings = ["web-a/x", "web/b", "we/z", "web0/y", "web/a"];
        let index: Index = bindings.iter().map(|name| binding(name, "db")).collect();
        assert_eq!(found(&index, "web", "db"), ["web/a", "web/b", "we/z", "web-a/x", "web0/y"]);
        assert_eq!(found(&index, "w", "db"), ["we/z", "web/a", "web/b", "web-a/x", "web0/y"]);
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
    fn a_selector_that_another_begins_with_is_another() {
        let selectors = ["db", "db-2", "d", "db"];
        let named = selectors.iter().enumerate();
        let index: Index =
            named.map(|(at, selector)| binding(&format!("web/{at}"), selector)).collect();
        assert_eq!(found(&index, "web", "db"), ["web/0", "web/3"]);
        assert_eq!(found(&index, "web", "d"), ["web/2"]);
        assert!(found(&index, "web", "").is_empty());
    }

    #[test]
    fn a_clone_shares_its_maps_until_one_of_them_changes_and_stays_as_it_was() {
        let mut index: Index = ["web/a", "web/b"].iter().map(|name| binding(name, "db")).collect();
        let published = index.clone();
        assert!(Arc::ptr_eq(&published.bindings, &index.bindings));
        index.apply(Change::Deleted(Kind::AzureIdentityBinding, ObjectName::new("web", "a")));
        assert_eq!(found(&published, "web", "db"), ["web/a", "web/b"]);
        assert_eq!(found(&index, "web", "db"), ["web/b"]);
        assert!(Arc::ptr_eq(&published.identities, &index.identities));
        index.replace(Kind::AzureIdentityBinding, Vec::new());
        assert_eq!(index, Index::default());
        assert_eq!(found(&published, "web", "db"), ["web/a", "web/b"]);
    }

    #[test]
    fn a_binding_that_breaks_matches_nothing_any_more() {
        let mut index = Index::default();
        index.apply(Change::Applied(Box::new(binding("web/a", "db"))));
        let broken = object("AzureIdentityBinding", "web/a", &json!({}));
        index.apply(Change::Applied(Box::new(broken)));
        assert!(found(&index, "web", "db").is_empty());
        let names: Vec<_> = index.broken().map(|(_, name, _)| name.to_string()).collect();
        assert_eq!(names, ["web/a"]);
        index.apply(Change::Applied(Box::new(binding("web/a", "db"))));
        assert_eq!((index.broken().count(), found(&index, "web", "db").len()), (0, 1));
        for how in 0..2 {
            let broken = object("AzurePodIdentityException", "web/e", &json!({"podLabels": 7}));
            index.apply(Change::Applied(Box::new(broken)));
            assert_eq!(index.broken().count(), 1);
            match how {
                0 => index.replace(Kind::AzurePodIdentityException, Vec::new()),
                _ => index.apply(Change::Deleted(
                    Kind::AzurePodIdentityException,
                    ObjectName::new("web", "e"),
                )),
            }
            assert_eq!(index.broken().count(), 0);
        }
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
