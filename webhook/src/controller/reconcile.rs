//! The work of the leader: what decides comes in, what differs is written.
//!
//! All of it is one future. When the leader has to stop, the future is dropped, and nothing of it
//! goes on.

use std::pin::pin;
use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use imdslet_core::index::Index;
use imdslet_core::objects::ObjectName;
use imdslet_core::settings::Settings;
use imdslet_core::troubles::{Trouble, troubles};
use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::about::About;
use super::book;
use super::events::{self, Note};
use super::ledger::{Ledger, Outcome, World, Write};
use super::pods::{self, News};
use super::reminders::{AllWrong, Reminders, Wrong};
use super::waits::until;
use super::{Controller, NAME, assigned, classes, shelf};
use crate::config::POD_DEADLINE;
use crate::feed::HELD;

/// How many pods are written at one time. It bounds the load on the API server.
const AT_ONCE: usize = 8;

/// The reason of the Event when most pods would lose their identities by a first look.
pub(super) const LOSSES_HELD: &str = "LossesHeld";

/// How many Events may wait to be sent. They are small, and many pods may be told at once.
const NOTES: usize = 16_384;

/// Keeps pods right for as long as it is polled.
pub(super) async fn run(controller: &Controller) -> anyhow::Result<()> {
    let (notes, receiver) = mpsc::channel(NOTES);
    let sending = events::send(controller.client.clone(), controller.replica.clone(), receiver);
    // What waits in it is bounded by the pods that change while a few are looked at.
    let (news, assignments) = mpsc::unbounded_channel();
    let assigning = assigned::run(&controller.client, assignments);
    let (uses, volumes) = mpsc::unbounded_channel();
    let shelving = classes::run(controller, volumes, notes.clone());
    // The first arm to end is the last one that is polled.
    tokio::select! {
        ended = work(controller, notes, news, uses) => ended,
        () = sending => Ok(()),
        ended = shelving => ended,
        () = assigning => Ok(()),
    }
}

async fn work(
    controller: &Controller,
    notes: mpsc::Sender<Note>,
    assignments: mpsc::UnboundedSender<book::News>,
    uses: mpsc::UnboundedSender<shelf::News>,
) -> anyhow::Result<()> {
    let mut changes = controller.published.changes.clone();
    // Whatever is published from here on is seen below.
    changes.mark_unchanged();
    let mut held = controller.published.held.clone();
    held.mark_changed();
    let mut leading = Leading::new(controller, notes)?;
    let mut news = pin!(pods::all(&controller.client));
    let mut in_flight = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        while in_flight.len() < AT_ONCE
            && let Some(write) = leading.ledger.next_write(now)
        {
            in_flight.push(write_one(&controller.client, write));
        }
        for news in leading.ledger.assigned(&leading.index) {
            assignments.send(news).ok().context("the AzureAssignedIdentity objects have ended")?;
        }
        let wake = leading.wake(now);
        // Each arm is cancel-safe: a stream's next item, a change that stays one until it is seen,
        // and a time.
        tokio::select! {
            published = changes.changed() => {
                published.context("the index has ended")?;
                leading.review()?;
            }
            _ = held.changed() => {
                let kinds = held.borrow_and_update().clone();
                leading.tell(kinds.into_values().map(|text| held_note(controller, HELD, text)));
            }
            Some(item) = news.next() => {
                if let Some(used) = use_of(&item) {
                    uses.send(used).ok().context("the derived classes have ended")?;
                }
                leading.take(item);
            }
            Some((write, outcome)) = in_flight.next() => leading.finish(&write, outcome),
            () = until(wake) => leading.remind(),
        }
    }
}

/// What the leader knows, and whom it tells.
struct Leading<'a> {
    controller: &'a Controller,
    index: Arc<Index>,
    ledger: Ledger,
    reminders: Reminders,
    notes: mpsc::Sender<Note>,
}

impl<'a> Leading<'a> {
    fn new(controller: &'a Controller, notes: mpsc::Sender<Note>) -> anyhow::Result<Self> {
        let index = snapshot(controller)?;
        let (ledger, mut reminders) = (Ledger::default(), Reminders::default());
        reminders.changed(Instant::now());
        Ok(Self { controller, index, ledger, reminders, notes })
    }

    /// When there is something to do although nothing happens.
    fn wake(&self, now: Instant) -> Option<Instant> {
        self.ledger.wake(now).into_iter().chain(self.reminders.wake()).min()
    }

    /// Another index has been published.
    fn review(&mut self) -> anyhow::Result<()> {
        self.index = snapshot(self.controller)?;
        self.ledger.review(world(self.controller, &self.index));
        self.reminders.changed(Instant::now());
        Ok(())
    }

    /// Something is said about pods.
    fn take(&mut self, news: News) {
        let world = world(self.controller, &self.index);
        let note = match news {
            News::Restart => {
                self.ledger.restart();
                None
            }
            News::Is(seen) => self.ledger.see(*seen, world),
            News::Complete => {
                let held = self.ledger.complete(world);
                held.map(|message| held_note(self.controller, LOSSES_HELD, message))
            }
            News::Gone(name) => {
                self.ledger.gone(&name, world);
                None
            }
            News::Stray(seen) => {
                self.ledger.stray(&seen, world);
                None
            }
        };
        self.tell(note);
        self.reminders.changed(Instant::now());
    }

    /// The write of a pod has come to this end.
    fn finish(&mut self, write: &Write, outcome: Outcome) {
        if matches!(outcome, Outcome::Written { .. }) {
            self.controller.metrics.patched(write.change.kind.reason(), write.since.elapsed());
        }
        let notes = self.ledger.finish(write, outcome, world(self.controller, &self.index));
        self.tell(notes);
        self.reminders.changed(Instant::now());
    }

    /// It is time to say something again.
    fn remind(&mut self) {
        let now = Instant::now();
        let due = self.ledger.due(now);
        self.tell(due);
        if self.reminders.wants_a_look(now) {
            let wrong = all_wrong(&self.ledger, &self.index, &self.controller.settings);
            self.reminders.look(wrong, now);
        }
        let due = self.reminders.due(now);
        self.tell(due);
    }

    fn tell(&self, notes: impl IntoIterator<Item = Note>) {
        tell(&self.notes, notes);
    }
}

pub(super) fn snapshot(controller: &Controller) -> anyhow::Result<Arc<Index>> {
    controller.published.snapshot.load_full().context("no snapshot has been published")
}

fn world<'a>(controller: &'a Controller, index: &'a Index) -> World<'a> {
    let lets_go = *controller.published.lets_go.borrow();
    World { index, settings: &controller.settings, now: Instant::now(), lets_go }
}

/// All that is wrong with objects, and with the pods of each workload.
fn all_wrong(ledger: &Ledger, index: &Index, settings: &Settings) -> AllWrong {
    let of_objects = troubles(index, settings).into_iter().map(|trouble| {
        let Trouble { kind, object, reason, text, may_be_meant } = trouble;
        ((About::resource(kind, &object), reason), Wrong { text, once: may_be_meant })
    });
    of_objects.chain(ledger.wrong_workloads()).collect()
}

/// What is said about a pod, for those who keep the classes that its volumes name.
fn use_of(news: &News) -> Option<shelf::News> {
    Some(match news {
        News::Restart => shelf::News::Restart,
        News::Is(seen) => shelf::News::Pod(seen.name.clone(), seen.used.clone()),
        News::Complete => shelf::News::Complete,
        News::Gone(name) => shelf::News::Gone(name.clone()),
        News::Stray(_) => return None,
    })
}

/// What is held, said where somebody looks who wonders about the installation as a whole.
pub(super) fn held_note(controller: &Controller, reason: &'static str, message: String) -> Note {
    let name = ObjectName::new(&*controller.namespace, NAME);
    let (api_version, kind) = ("apps/v1".into(), "Deployment".into());
    let about = About { api_version, kind, name, uid: None };
    Note { about, reason, is_warning: true, message }
}

pub(super) fn tell(sender: &mpsc::Sender<Note>, notes: impl IntoIterator<Item = Note>) {
    for note in notes {
        if note.is_warning {
            let (kind, object, reason) = (&*note.about.kind, &note.about.name, note.reason);
            tracing::warn!(kind, %object, reason, note = note.message, "told");
        }
        if sender.try_send(note).is_err() {
            tracing::warn!(reason = "TooManyEvents", "an Event was dropped");
        }
    }
}

async fn write_one(client: &Client, write: Write) -> (Write, Outcome) {
    let written = timeout(POD_DEADLINE, pods::write(client, &write)).await;
    let outcome = written.unwrap_or_else(|_| {
        tracing::warn!(pod = %write.pod, reason = "Timeout", "no answer about a pod");
        Outcome::Failed
    });
    if matches!(outcome, Outcome::Written { .. }) {
        tracing::info!(
            pod = write.pod.name,
            namespace = write.pod.namespace,
            reason = write.change.kind.reason(),
            identities = write.change.identities.join(", "),
            "annotation written"
        );
    }
    (write, outcome)
}
