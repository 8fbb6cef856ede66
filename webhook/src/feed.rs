//! How the index comes to be: a stream of events in, snapshots out.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use imdslet_core::index::{Change, Index};
use imdslet_core::objects::{Kind, NotAnObject, Object};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

/// What a source of objects says.
#[derive(Debug)]
pub enum Event {
    /// An object was created, changed or deleted.
    Change(Change),
    /// All objects of a kind were listed; what is not among them is gone.
    Relisted(Kind, Vec<Object>),
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
        events.extend(object.map(|object| Event::Change(Change::Applied(Box::new(object)))));
    }
    events.push(Event::Synced);
    Ok(events)
}

/// The most changes that are taken in before a snapshot is published.
const BURST: usize = 1024;

/// Takes events in until their source ends, and publishes a snapshot after each burst of them.
pub async fn publish(
    mut events: mpsc::Receiver<Event>,
    snapshot: Snapshot,
    changes: watch::Sender<u64>,
) {
    let mut index = Index::default();
    let mut is_synced = false;
    while let Some(first) = events.recv().await {
        // A clone of the index shares the objects but copies the maps, so it is made once for all
        // that has arrived meanwhile.
        // Not without end: a source that never pauses must not keep anybody from what is known.
        let mut next = Some(first);
        let mut room = BURST;
        while let Some(event) = next {
            match event {
                Event::Synced => is_synced = true,
                Event::Relisted(kind, objects) => {
                    objects.iter().for_each(report);
                    index.replace(kind, objects);
                }
                Event::Change(change) => {
                    if let Change::Applied(object) = &change {
                        report(object);
                    }
                    index.apply(change);
                }
            }
            room -= 1;
            next = if room > 0 { events.try_recv().ok() } else { None };
        }
        if is_synced {
            snapshot.store(Some(Arc::new(index.clone())));
            changes.send_modify(|count| *count += 1);
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
        let snapshot = Snapshot::default();
        let object =
            r#"{"items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}]}"#;
        let mut told = events_of(object).unwrap().into_iter();
        sender.send(told.next().unwrap()).await.unwrap();
        let publishing = publish(receiver, snapshot.clone(), watch::Sender::new(0));
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
        let (changes, seen) = watch::channel(0);
        publish(receiver, Snapshot::default(), changes).await;
        assert_eq!(*seen.borrow(), 2);
    }
}
