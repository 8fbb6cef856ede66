//! Events: what a person who asks `kubectl describe pod`, or whatever it is about, should see.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::poll_fn;
use imdslet_core::names::REPORTER;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::about::{About, place};
use super::access::{ask, is_ending_namespace, is_not_found, report};
use crate::config::POD_DEADLINE;

/// How many are sent at one time. Many pods may be told something at once, and nobody waits for it.
const AT_ONCE: usize = 4;

/// The least time between two: the API server has better things to do.
const PACE: Duration = Duration::from_millis(20);

/// The API server takes no more bytes in a note.
const NOTE_LIMIT: usize = 1024;

/// Something that is said about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) about: About,
    pub(super) reason: &'static str,
    pub(super) is_warning: bool,
    pub(super) message: String,
}

/// Sends notes until their source ends.
pub(super) async fn send(client: Client, replica: String, mut notes: mpsc::Receiver<Note>) {
    let notes = poll_fn(move |context| notes.poll_recv(context)).then(|note| async {
        sleep(PACE).await;
        note
    });
    let (client, replica) = (&client, &replica);
    notes.for_each_concurrent(AT_ONCE, |note| send_one(client, replica, note)).await;
}

/// What cannot be sent is dropped: it stands in the log too, and what stays wrong is said again.
async fn send_one(client: &Client, replica: &str, note: Note) {
    let Note { about, reason, is_warning, message } = note;
    let Some(about) = place(client, about).await else { return };
    let note = Note { about, reason, is_warning, message };
    let object = &note.about.name;
    let events: Api<Event> = Api::namespaced(client.clone(), &object.namespace);
    let event = event(&note, replica, Timestamp::now());
    let parameters = PostParams::default();
    match timeout(POD_DEADLINE, events.create(&parameters, &event)).await {
        Ok(Ok(_)) => {}
        // The object is on its way out together with its namespace.
        Ok(Err(error)) if is_ending_namespace(&error) || is_not_found(&error) => {}
        Ok(Err(error)) => {
            report(ask("create", "events.k8s.io", "events"), &object.to_string(), &error);
        }
        Err(_) => {
            tracing::warn!(%object, reason = "Timeout", "no answer about an Event");
        }
    }
}

fn event(note: &Note, replica: &str, now: Timestamp) -> Event {
    let About { api_version, kind, name, uid } = &note.about;
    Event {
        metadata: ObjectMeta {
            // As client-go names them, so that two of one object do not meet.
            name: Some(format!("{}.{:x}", name.name, now.as_nanosecond())),
            namespace: Some(name.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if note.is_warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(note.reason.to_owned()),
        action: Some("Resolve".to_owned()),
        note: Some(cut(&note.message).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.clone().into_owned()),
            kind: Some(kind.clone().into_owned()),
            name: Some(name.name.clone()),
            namespace: Some(name.namespace.clone()),
            uid: uid.clone(),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(replica.to_owned()),
        ..Event::default()
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(NOTE_LIMIT)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = format!("{}é{}", "x".repeat(NOTE_LIMIT - 1), "y".repeat(9));
        assert_eq!(cut(&long).len(), NOTE_LIMIT - 1);
    }
}
