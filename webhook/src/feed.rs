//! How the index comes to be: a stream of events in, snapshots out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use imdslet_core::hold::{Holding, Trust, explain};
use imdslet_core::index::{Change, Index};
use imdslet_core::objects::{Kind, NotAnObject, Object};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// What a source of objects says.
#[derive(Debug)]
pub enum Event {
    /// An object was created, changed or deleted, and whether a deletion can be meant.
    Change(Change, Trust),
    /// All objects of a kind were listed, and whether what is not among them can be meant to be
    /// gone.
    Relisted(Kind, Vec<Object>, Trust),
    /// What is held of a kind is meant to be gone.
    LetGo(Kind),
    /// Every object that exists has been told.
    Synced,
}

/// The index as admission reads it: none until the source is synced.
pub type Snapshot = Arc<ArcSwapOption<Index>>;

/// What [`publish`] tells the rest of the program.
#[derive(Clone)]
pub struct Published {
    /// The index.
    pub snapshot: Snapshot,
    /// Changes with every snapshot; the value is how many there were.
    pub changes: watch::Receiver<u64>,
    /// What is held.
    pub held: watch::Receiver<Held>,
    /// Whether a person has said, while this program ran, that what is missing is meant to be gone.
    pub lets_go: watch::Receiver<bool>,
}

/// The kinds whose objects stay in force although the cluster has them no more, each with what a
/// person should know.
pub type Held = BTreeMap<Kind, String>;

/// Where [`publish`] tells what it has made of the events.
pub struct Outlet {
    snapshot: Snapshot,
    changes: watch::Sender<u64>,
    held: watch::Sender<Held>,
    lets_go: watch::Sender<bool>,
    metrics: Metrics,
    readiness: Readiness,
}

impl Outlet {
    /// An outlet, and what it publishes.
    #[must_use]
    pub fn new(metrics: Metrics, readiness: Readiness) -> (Self, Published) {
        let snapshot = Snapshot::default();
        let (changes, held) = (watch::Sender::new(0), watch::Sender::new(Held::new()));
        let lets_go = watch::Sender::new(false);
        let published = Published {
            snapshot: snapshot.clone(),
            changes: changes.subscribe(),
            held: held.subscribe(),
            lets_go: lets_go.subscribe(),
        };
        (Self { snapshot, changes, held, lets_go, metrics, readiness }, published)
    }

    fn publish(&self, holding: &Holding) {
        self.snapshot.store(Some(Arc::new(holding.index().clone())));
        let counts: BTreeMap<_, _> = holding.held().collect();
        for kind in Kind::ALL {
            let is_held = counts.contains_key(&kind);
            self.metrics.published(kind.name(), holding.index().count(kind), is_held);
        }
        // Before the change is told: who wakes up for it finds both.
        self.held.send_if_modified(|held| self.tell(held, &counts));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Says what is held now and was not, and what is not any more. True if there is news.
    fn tell(&self, held: &mut Held, counts: &BTreeMap<Kind, usize>) -> bool {
        let now: Held =
            counts.iter().map(|(kind, count)| (*kind, explain(*kind, *count))).collect();
        if *held == now {
            return false;
        }
        for (kind, text) in &now {
            self.readiness.set(held_part(*kind), false, text);
            if !held.contains_key(kind) {
                tracing::error!(%kind, note = text, reason = HELD, "kind held");
            }
        }
        for kind in held.keys().filter(|kind| !now.contains_key(kind)) {
            self.readiness.clear(held_part(*kind));
            tracing::info!(%kind, reason = "Recovered", "nothing of this kind is held any more");
        }
        *held = now;
        true
    }
}

/// The reason of a kind that is held, in the log and as an Event.
pub const HELD: &str = "SnapshotHeld";

/// The part of the program that [`Readiness`] shows. Beside the kind's own, which tells of its
/// watch.
fn held_part(kind: Kind) -> &'static str {
    match kind {
        Kind::AzureIdentity => "AzureIdentity held",
        Kind::AzureIdentityBinding => "AzureIdentityBinding held",
        _ => "AzurePodIdentityException held",
    }
}

/// Why manifests cannot be a source of objects.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The text is no JSON List.
    #[error("it is no JSON List of objects: {0}")]
    NotAList(String),
    /// One of its items is no object.
    #[error("items[{at}]: {cause}")]
    Item {
        /// Its place.
        at: usize,
        /// What is wrong with it.
        cause: NotAnObject,
    },
}

/// The events of a JSON List, in its order, [`Event::Synced`] last.
///
/// # Errors
///
/// [`ManifestError`], for the first item that is no object. One that is an object and cannot be
/// used is no error: it takes its place in the index together with the reason.
pub fn events_of(manifests: &str) -> Result<Vec<Event>, ManifestError> {
    let list: Value = serde_json::from_str(manifests)
        .map_err(|error| ManifestError::NotAList(error.to_string()))?;
    let items = list
        .get("items")
        .and_then(Value::as_array)
        .ok_or_else(|| ManifestError::NotAList("it has no list `items`".to_owned()))?;
    let mut events = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let object =
            Object::read(item, "default").map_err(|cause| ManifestError::Item { at, cause })?;
        let change = object.map(|object| Change::Applied(Box::new(object)));
        events.extend(change.map(|change| Event::Change(change, Trust::Plain)));
    }
    events.push(Event::Synced);
    Ok(events)
}

/// The most changes that are taken in before a snapshot is published.
const BURST: usize = 1024;

/// Takes events in until their source ends, and publishes a snapshot after each burst of them.
pub async fn publish(mut events: mpsc::Receiver<Event>, outlet: Outlet) {
    let mut holding = Holding::default();
    let mut is_synced = false;
    while let Some(first) = events.recv().await {
        // The first change after a snapshot copies the map that it is in, so one is published for
        // all that has arrived meanwhile.
        // Not without end: a source that never pauses must not keep anybody from what is known.
        let mut next = Some(first);
        let mut room = BURST;
        while let Some(event) = next {
            match event {
                Event::Synced => is_synced = true,
                Event::Relisted(kind, objects, trust) => {
                    objects.iter().for_each(report);
                    outlet.lets_go.send_if_modified(|lets_go| {
                        *lets_go |= trust == Trust::Confirmed;
                        false
                    });
                    holding.relist(kind, objects, trust);
                }
                Event::Change(change, trust) => {
                    if let Change::Applied(object) = &change {
                        report(object);
                    }
                    holding.apply(change, trust);
                }
                Event::LetGo(kind) => {
                    outlet.lets_go.send_replace(true);
                    holding.let_go(kind);
                }
            }
            room -= 1;
            next = if room > 0 { events.try_recv().ok() } else { None };
        }
        if is_synced {
            outlet.publish(&holding);
        }
    }
}

/// An object that cannot be used is named once, when it comes.
fn report(object: &Object) {
    if let Some(fault) = object.fault() {
        let (kind, name) = object.id();
        tracing::warn!(%kind, object = %name, %fault, reason = "InvalidObject", "object ignored");
    }
}

#[cfg(test)]
mod tests {
    use imdslet_core::objects::ObjectName;

    use super::*;

    fn events(json: &str) -> Result<usize, String> {
        events_of(json).map(|events| events.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn manifests_are_told_in_order_and_what_is_wrong_is_named_with_its_place() {
        let one = r#"{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentity","metadata":{"name":"a"}}"#;
        let other = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"}}"#;
        assert_eq!(events(&format!(r#"{{"kind":"List","items":[{one},{other}]}}"#)), Ok(2));
        assert_eq!(
            events(&format!(r#"{{"items":[{one},{{"kind":"Pod"}}]}}"#)).unwrap_err(),
            "items[1]: apiVersion is missing or empty; every Kubernetes object has one"
        );
        assert_eq!(
            events("[]").unwrap_err(),
            "it is no JSON List of objects: it has no list `items`"
        );
        assert!(events("{").unwrap_err().starts_with("it is no JSON List of objects: EOF"));
    }

    #[tokio::test]
    async fn nothing_is_published_before_all_is_told() {
        let (sender, receiver) = mpsc::channel(8);
        let (outlet, published) = Outlet::new(Metrics::default(), Readiness::default());
        let snapshot = published.snapshot;
        let object =
            r#"{"items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}]}"#;
        let mut told = events_of(object).unwrap().into_iter();
        sender.send(told.next().unwrap()).await.unwrap();
        let publishing = publish(receiver, outlet);
        tokio::pin!(publishing);
        tokio::select! {
            biased;
            () = &mut publishing => panic!("the source has not ended"),
            () = tokio::task::yield_now() => {}
        }
        assert!(snapshot.load().is_none());
        sender.send(told.next().unwrap()).await.unwrap();
        drop(sender);
        publishing.await;
        assert!(snapshot.load().is_some());
    }

    #[tokio::test]
    async fn a_source_that_never_pauses_keeps_nobody_from_what_is_known() {
        let (sender, receiver) = mpsc::channel(2 * BURST);
        for _ in 0..=BURST {
            sender.send(Event::Synced).await.unwrap();
        }
        drop(sender);
        let (outlet, published) = Outlet::new(Metrics::default(), Readiness::default());
        publish(receiver, outlet).await;
        assert_eq!(*published.changes.borrow(), 2);
    }

    #[tokio::test]
    async fn what_is_held_is_shown_to_everybody_who_may_ask_and_ends_when_it_is_back() {
        let binding = r#"{"items":[{"apiVersion":"aadpodidentity.k8s.io/v1","kind":
            "AzureIdentityBinding","metadata":{"name":"b","namespace":"web"},
            "spec":{"azureIdentity":"i","selector":"db"}}]}"#;
        let gone = || {
            Event::Change(
                Change::Deleted(Kind::AzureIdentityBinding, ObjectName::new("web", "b")),
                Trust::Doubted,
            )
        };
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        let number = r#"imdslet_snapshot_held{kind="AzureIdentityBinding"} "#;
        for (is_back, held) in [(false, 1), (true, 0)] {
            let (outlet, published) = Outlet::new(metrics.clone(), readiness.clone());
            let (sender, receiver) = mpsc::channel(8);
            let mut told = events_of(binding).unwrap();
            told.push(gone());
            if is_back {
                told.extend(events_of(binding).unwrap());
            }
            for event in told {
                sender.send(event).await.unwrap();
            }
            drop(sender);
            publish(receiver, outlet).await;
            let index = published.snapshot.load_full().unwrap();
            assert_eq!(index.count(Kind::AzureIdentityBinding), 1, "nothing is taken back");
            assert_eq!(published.held.borrow().len(), held);
            assert!(metrics.render().contains(&format!("{number}{held}")), "{}", metrics.render());
            let (is_ready, report) = readiness.report();
            assert!(is_ready, "{report}");
            // In the second round it was never held at the end of a burst, so nothing was cleared.
            assert!(report.contains("warning: AzureIdentityBinding held, for"), "{report}");
            assert!(report.contains("imdslet.dev/let-go=true"), "{report}");
        }
    }
}
