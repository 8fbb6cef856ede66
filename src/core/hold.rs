//! The disappearance of a kind is not the deletion of its objects.
//!
//! Whoever deletes a CRD, or restores an old copy of etcd, seldom means that every pod of the
//! cluster shall lose its identities. What was known then stays in force until the objects are
//! back, or until somebody says that they are meant to be gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::{Change, Index};
use crate::names::LET_GO;
use crate::objects::{Kind, Object, ObjectName};

/// A list that lacks more than half of what was known is not believed from so many objects on.
const MANY: usize = 10;

/// What the API server says of the CRD of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// It may not be read.
    Unreadable,
    /// There is none.
    Missing,
    /// It is there.
    Present {
        /// Another one is another CRD, though of the same name.
        uid: String,
        /// When it was created, as the API server writes it: such times sort like their text.
        created: String,
        /// It is being deleted. The API server deletes its objects one by one first.
        is_ending: bool,
        /// Somebody has said that what is missing is meant to be gone.
        lets_go: bool,
    },
}

/// Whether objects that are missing are meant to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Probably: their kind is as it was.
    Plain,
    /// Probably not: the kind itself is going, or has been made anew.
    Doubted,
    /// Certainly: a person says so.
    Confirmed,
}

impl Trust {
    /// What to make of missing objects, where the CRD had the uid `before` and now is like `now`.
    #[must_use]
    pub fn of(before: Option<&str>, now: &Definition) -> Self {
        match now {
            // Without the right to read it, deletions must still count for something.
            Definition::Unreadable => Self::Plain,
            Definition::Present { lets_go: true, .. } => Self::Confirmed,
            Definition::Missing | Definition::Present { is_ending: true, .. } => Self::Doubted,
            Definition::Present { uid, .. } => match before {
                Some(before) if before != uid => Self::Doubted,
                _ => Self::Plain,
            },
        }
    }

    /// What to make of a deletion that has been heard of, of an object created at `created`.
    ///
    /// The uid of an earlier CRD does not count here: a watch may outlive its CRD and go on with
    /// the next one of that name. What is older than its CRD was lost with an earlier one; what is
    /// not, somebody has deleted since.
    #[must_use]
    pub fn of_deletion(created: &str, now: &Definition) -> Self {
        match now {
            Definition::Present { is_ending: false, lets_go: false, created: since, .. } => {
                if created < since.as_str() {
                    Self::Doubted
                } else {
                    Self::Plain
                }
            }
            _ => Self::of(None, now),
        }
    }
}

/// An index whose custom resources do not disappear all at once.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    index: Index,
    /// What is in the index and not in the cluster. No kind without objects.
    held: BTreeMap<Kind, BTreeSet<ObjectName>>,
}

impl Holding {
    /// What decisions read: what the cluster says, and what is held.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The kinds that are held, each with the number of objects.
    pub fn held(&self) -> impl Iterator<Item = (Kind, usize)> {
        self.held.iter().map(|(kind, names)| (*kind, names.len()))
    }

    /// Takes in a change. A deletion of which [`Trust::Doubted`] holds changes nothing yet.
    pub fn apply(&mut self, change: Change, trust: Trust) {
        let (kind, name) = match &change {
            Change::Applied(object) => object.id(),
            Change::Deleted(kind, name) => (*kind, name),
        };
        let is_doubted = matches!(change, Change::Deleted(..)) && trust == Trust::Doubted;
        // One that is not known is nothing to hold.
        if is_doubted && self.index.has(kind, name) {
            self.held.entry(kind).or_default().insert(name.clone());
            return;
        }
        self.settle(kind, name);
        self.index.apply(change);
    }

    /// Takes `objects` for all that there are of `kind`, or those that are missing for held.
    pub fn relist(&mut self, kind: Kind, objects: Vec<Object>, trust: Trust) {
        let listed: BTreeSet<_> = objects.iter().map(|object| object.id().1).collect();
        let missing = self.index.without(kind, &listed);
        let known = self.index.count(kind);
        let is_held = !missing.is_empty()
            && match trust {
                Trust::Confirmed => false,
                Trust::Doubted => true,
                Trust::Plain => {
                    // While some are held, the cluster is not what it was.
                    self.held.contains_key(&kind) || (known >= MANY && missing.len() * 2 > known)
                }
            };
        if !is_held {
            self.held.remove(&kind);
            return self.index.replace(kind, objects);
        }
        self.held.insert(kind, missing);
        for object in objects {
            self.index.apply(Change::Applied(Box::new(object)));
        }
    }

    /// Takes what is held of `kind` for gone, since a person says so.
    pub fn let_go(&mut self, kind: Kind) {
        for name in self.held.remove(&kind).into_iter().flatten() {
            self.index.apply(Change::Deleted(kind, name));
        }
    }

    /// The cluster has said what this object is like.
    fn settle(&mut self, kind: Kind, name: &ObjectName) {
        let Some(names) = self.held.get_mut(&kind) else { return };
        names.remove(name);
        if names.is_empty() {
            self.held.remove(&kind);
        }
    }
}

/// What a person should know of `count` objects of `kind` that are held, and how to go on.
#[must_use]
pub fn explain(kind: Kind, count: usize) -> String {
    let definition = kind.definition().unwrap_or_default();
    let objects = if count == 1 { "object" } else { "objects" };
    format!(
        "{count} {objects} of {kind} disappeared together with their CRD, or with most of their \
         kind at once; they stay in force, and no pod loses an identity by that. To go on, create \
         them again; or, if they are meant to be gone: kubectl annotate crd {definition} \
         {LET_GO}=true"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KIND: Kind = Kind::AzureIdentityBinding;

    fn binding(at: usize) -> Object {
        let object = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"namespace": "web", "name": format!("b{at}")},
            "spec": {"azureIdentity": "i", "selector": "db"},
        });
        Object::read(&object, "default").unwrap().unwrap()
    }

    fn bindings(count: usize) -> Vec<Object> {
        (0..count).map(binding).collect()
    }

    fn known(count: usize) -> Holding {
        let mut holding = Holding::default();
        holding.relist(KIND, bindings(count), Trust::Plain);
        holding
    }

    fn deleted(at: usize) -> Change {
        Change::Deleted(KIND, ObjectName::new("web", format!("b{at}")))
    }

    /// How many are in force, and how many of them are held.
    fn counts(holding: &Holding) -> (usize, usize) {
        let held = holding.held().map(|(_, count)| count).sum();
        (holding.index().count(KIND), held)
    }

    #[test]
    fn what_a_definition_says_of_missing_objects() {
        let present = |uid: &str, is_ending, lets_go| Definition::Present {
            uid: uid.to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            is_ending,
            lets_go,
        };
        for (before, now, expected) in [
            (None, Definition::Unreadable, Trust::Plain),
            (Some("1"), Definition::Missing, Trust::Doubted),
            (None, present("1", false, false), Trust::Plain),
            (Some("1"), present("1", false, false), Trust::Plain),
            (Some("1"), present("1", true, false), Trust::Doubted),
            (Some("1"), present("2", false, false), Trust::Doubted),
            (Some("1"), present("2", true, true), Trust::Confirmed),
        ] {
            assert_eq!(Trust::of(before, &now), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn what_a_definition_says_of_a_deletion() {
        let present = |is_ending, lets_go| Definition::Present {
            uid: "2".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            is_ending,
            lets_go,
        };
        let (older, younger) = ("2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z");
        for (created, now, expected) in [
            (younger, present(false, false), Trust::Plain),
            (older, present(false, false), Trust::Doubted),
            (older, present(false, true), Trust::Confirmed),
            (younger, present(true, false), Trust::Doubted),
            (younger, Definition::Missing, Trust::Doubted),
            (older, Definition::Unreadable, Trust::Plain),
        ] {
            assert_eq!(Trust::of_deletion(created, &now), expected, "{created} {now:?}");
        }
    }

    #[test]
    fn a_list_that_lacks_most_of_many_is_not_believed() {
        // (known, listed, trust, in force, held)
        for (count, listed, trust, force, held) in [
            (10, 0, Trust::Plain, 10, 10),
            (10, 4, Trust::Plain, 10, 6),
            (10, 5, Trust::Plain, 5, 0),
            (9, 0, Trust::Plain, 0, 0),
            (10, 0, Trust::Confirmed, 0, 0),
            (3, 0, Trust::Doubted, 3, 3),
            (3, 3, Trust::Doubted, 3, 0),
            (0, 0, Trust::Doubted, 0, 0),
            (3, 5, Trust::Plain, 5, 0),
        ] {
            let mut holding = known(count);
            holding.relist(KIND, bindings(listed), trust);
            assert_eq!(counts(&holding), (force, held), "{count} -> {listed}, {trust:?}");
        }
    }

    #[test]
    fn what_is_deleted_while_its_crd_is_as_it_was_is_gone_however_much_it_is() {
        let mut holding = known(20);
        for at in 0..20 {
            holding.apply(deleted(at), Trust::Plain);
        }
        assert_eq!(counts(&holding), (0, 0));
    }

    #[test]
    fn what_goes_with_its_crd_is_held_until_it_is_back() {
        let mut holding = known(3);
        let before = holding.index().clone();
        for at in 0..3 {
            holding.apply(deleted(at), Trust::Doubted);
        }
        // One that nobody knows is nothing to hold.
        holding.apply(deleted(7), Trust::Doubted);
        assert_eq!(counts(&holding), (3, 3));
        // The new CRD has no objects yet, and its uid is known the second time.
        holding.relist(KIND, vec![], Trust::Doubted);
        holding.relist(KIND, bindings(1), Trust::Plain);
        assert_eq!(counts(&holding), (3, 2));
        holding.apply(Change::Applied(Box::new(binding(1))), Trust::Plain);
        // What is back can be deleted like any other.
        holding.apply(deleted(1), Trust::Plain);
        assert_eq!(counts(&holding), (2, 1));
        holding.apply(Change::Applied(Box::new(binding(1))), Trust::Plain);
        holding.apply(Change::Applied(Box::new(binding(2))), Trust::Plain);
        assert_eq!(counts(&holding), (3, 0));
        assert_eq!(holding.index(), &before);
    }

    #[test]
    fn who_says_that_they_are_meant_to_be_gone_is_believed() {
        let mut holding = known(3);
        holding.relist(KIND, bindings(1), Trust::Doubted);
        holding.let_go(KIND);
        assert_eq!(counts(&holding), (1, 0));
        let text = explain(KIND, 2);
        assert!(text.contains("2 objects of AzureIdentityBinding disappeared"), "{text}");
        let command = "kubectl annotate crd azureidentitybindings.aadpodidentity.k8s.io \
                       imdslet.dev/let-go=true";
        assert!(text.ends_with(command), "{text}");
    }

    #[test]
    fn namespaces_are_not_held() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
        let mut holding = Holding::default();
        let object = Object::read(&namespace, "").unwrap().unwrap();
        holding.relist(Kind::Namespace, vec![object], Trust::Plain);
        holding.relist(Kind::Namespace, vec![], Trust::Doubted);
        assert_eq!(holding.index(), &Index::default());
        assert_eq!(holding.held().count(), 0);
    }

    /// Whatever happens, what is held is in force; and a list that has all ends every hold.
    #[test]
    fn no_series_of_events_leaves_something_held_that_is_not_there() {
        const STEPS: usize = 10;
        for series in 0..STEPS.pow(3) {
            let mut holding = known(4);
            for place in 0..3 {
                match series / STEPS.pow(place) % STEPS {
                    0 => holding.apply(deleted(0), Trust::Plain),
                    1 => holding.apply(deleted(0), Trust::Doubted),
                    2 => holding.apply(deleted(3), Trust::Doubted),
                    3 => holding.apply(Change::Applied(Box::new(binding(0))), Trust::Plain),
                    4 => holding.apply(Change::Applied(Box::new(binding(9))), Trust::Plain),
                    5 => holding.relist(KIND, bindings(1), Trust::Plain),
                    6 => holding.relist(KIND, vec![], Trust::Doubted),
                    7 => holding.relist(KIND, bindings(20), Trust::Doubted),
                    8 => holding.relist(KIND, vec![], Trust::Plain),
                    _ => holding.let_go(KIND),
                }
                for (kind, names) in &holding.held {
                    assert!(!names.is_empty(), "{series}");
                    assert!(names.iter().all(|name| holding.index.has(*kind, name)), "{series}");
                }
            }
            holding.relist(KIND, bindings(30), Trust::Plain);
            assert_eq!(counts(&holding), (30, 0), "{series}");
        }
    }
}
