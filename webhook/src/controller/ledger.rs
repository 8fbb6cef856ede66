//! What is known of each pod, and what is to be done about it next. No I/O: the time is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::time::Duration;

use imdslet_core::index::Index;
use imdslet_core::live::{Change, ChangeKind, Standing};
use imdslet_core::missed::{Missed, missed};
use imdslet_core::objects::ObjectName;
use imdslet_core::running::LeaveAlone;
use imdslet_core::settings::Settings;
use tokio::time::Instant;

use super::about::About;
use super::book::{News, Wanted};
use super::events::Note;
use super::losses::{self, Losses, Weighed};
use super::pods::Seen;
use super::reminders::Wrong;

mod entry;
mod pace;
mod sight;
#[cfg(test)]
mod tests;

use entry::Entry;
use pace::Pace;
use sight::Sight;

/// How long a new pod may be unbound before that is said: its binding may be just coming.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// When it is said again, if nothing has changed; then after twice that time, and so on.
pub(super) const FIRST_REPEAT: Duration = Duration::from_mins(1);
pub(super) const LAST_REPEAT: Duration = Duration::from_hours(1);

/// What decisions read.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) index: &'a Index,
    pub(super) settings: &'a Settings,
    pub(super) now: Instant,
    /// A person has said that what is missing is meant to be gone.
    pub(super) lets_go: bool,
}

/// The pods that have to be kept right.
#[derive(Default)]
pub(super) struct Ledger {
    entries: BTreeMap<ObjectName, Entry>,
    agenda: Agenda,
    pace: Pace,
    /// Pods that cannot be kept right. Each is named once.
    strange: BTreeMap<ObjectName, Strange>,
    /// How many times all pods were listed.
    listing: u64,
    /// All of them have been told.
    is_listed: bool,
    /// Pods whose AzureAssignedIdentity objects may have changed.
    unassigned: BTreeSet<ObjectName>,
    /// All pods have been told, and that has not been said yet.
    is_complete_news: bool,
    losses: Losses,
}

/// When to look at which pod.
#[derive(Default)]
struct Agenda {
    ready: VecDeque<ObjectName>,
    /// A time that has lost its meaning makes somebody look in vain, and nothing else.
    timers: BTreeSet<(Instant, ObjectName)>,
}

/// A pod that cannot be kept right.
struct Strange {
    uid: String,
    /// The last one that had it.
    listing: u64,
    maker: Option<About>,
    reason: &'static str,
    message: String,
}

/// A write that is to be made. It names the state that it was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) pod: ObjectName,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) change: Change,
    /// The watch does not tell of the pod any more: it is gone, or has lost its label. Which of the two
    /// is to be found out, and in what state it is now.
    pub(super) is_away: bool,
    /// Since when it is to be made.
    pub(super) since: Instant,
}

/// How a write has ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The pod is like this now.
    Written { resource_version: String, annotation: Option<String> },
    /// The pod is not any more what was decided on.
    Conflict,
    /// There is no such pod.
    NotFound,
    /// Anything else.
    Failed,
}

impl Ledger {
    /// All pods will be told anew.
    pub(super) fn restart(&mut self) {
        self.listing += 1;
        self.is_listed = false;
    }

    /// All pods have been told: what was not among them is gone, or has lost its label. Tells if too
    /// many would lose what they have.
    pub(super) fn complete(&mut self, world: World<'_>) -> Option<String> {
        let listing = self.listing;
        let is_missing = |(name, entry): (&ObjectName, &Entry)| {
            (entry.sight != Sight::Listed(listing)).then(|| name.clone())
        };
        let missing: Vec<_> = self.entries.iter().filter_map(is_missing).collect();
        for name in missing {
            self.lost_sight(&name, world);
        }
        self.is_complete_news = true;
        self.strange.retain(|_, strange| strange.listing == listing);
        tracing::info!(pods = self.entries.len(), reason = "Listed", "pods to keep right");
        self.is_listed = true;
        self.weigh(world)
    }

    /// Weighs the losses, once all pods are known. Tells if they are held from now on.
    fn weigh(&mut self, world: World<'_>) -> Option<String> {
        if !self.is_listed || self.losses == Losses::Free {
            return None;
        }
        let (bound, lost) = self.losing();
        let was_held = self.losses == Losses::Held;
        match self.losses.weigh(bound, lost, world.lets_go) {
            Weighed::Same => None,
            Weighed::Frees => {
                if was_held {
                    tracing::info!(bound, lost, reason = "Recovered", "identities are taken again");
                }
                for (name, entry) in &mut self.entries {
                    entry.schedule(name, &mut self.agenda, world.now);
                }
                None
            }
            Weighed::Holds => {
                let what = format!(
                    "{lost} of the {bound} pods that have identities would lose them by the first \
                     look of this controller; nothing is taken from any pod"
                );
                Some(losses::held(&what, "most pods keep what they have"))
            }
        }
    }

    /// How many pods have identities, and how many of these would lose all of them by what is known of
    /// bindings and identities.
    fn losing(&self) -> (usize, usize) {
        let bound = self.entries.values().filter(|entry| entry.pod.is_bound());
        let bound = bound.filter(|entry| !entry.pod.is_opted_out());
        bound.fold((0, 0), |(bound, lost), entry| (bound + 1, lost + usize::from(entry.loses())))
    }

    fn forget(&mut self, name: &ObjectName) {
        if self.entries.remove(name).is_some() {
            self.unassigned.insert(name.clone());
        }
    }

    /// What has changed of the AzureAssignedIdentity objects that there should be.
    pub(super) fn assigned(&mut self, index: &Index) -> Vec<News> {
        let names = std::mem::take(&mut self.unassigned).into_iter();
        let mut news: Vec<_> = names
            .map(|name| match self.entries.get(&name) {
                Some(entry) => News::Pod(name.clone(), entry.assigned(&name, index)),
                None => News::Gone(name),
            })
            .collect();
        if std::mem::take(&mut self.is_complete_news) {
            news.push(News::Complete);
        }
        news
    }

    /// Takes in what a pod is like; tells what is to be said about it at once.
    pub(super) fn see(&mut self, seen: Seen, world: World<'_>) -> Option<Note> {
        let pod = match &seen.pod {
            Ok(pod) => pod.clone(),
            Err(why) => return self.leave_alone(&seen, why, world.index),
        };
        self.strange.remove(&seen.name);
        let new = || Entry::new(&seen, pod.clone(), world.now);
        let entry = self.entries.entry(seen.name.clone()).or_insert_with(new);
        if entry.uid != seen.uid {
            *entry = new();
        }
        entry.sight = Sight::Listed(self.listing);
        if is_older(&seen.resource_version, &entry.resource_version) {
            return None;
        }
        if entry.has_conflicted && seen.resource_version != entry.resource_version {
            entry.has_conflicted = false;
            entry.not_before = world.now;
        }
        entry.pod = pod;
        // Pods are adopted, and let go.
        entry.maker = seen.maker;
        entry.resource_version = seen.resource_version;
        entry.review(&seen.name, &mut self.agenda, world);
        self.unassigned.insert(seen.name);
        self.weigh(world);
        None
    }

    fn leave_alone(&mut self, seen: &Seen, why: &LeaveAlone, index: &Index) -> Option<Note> {
        let name = &seen.name;
        self.forget(name);
        let told = match why {
            LeaveAlone::NoSidecar => {
                let missed = missed(seen.bare.as_deref()?, &name.namespace, index);
                missed.map(|missed| (Missed::REASON, missed.to_string()))
            }
            LeaveAlone::Version(_) | LeaveAlone::Unreadable(_) => Some((
                Standing::RECREATE,
                format!("imdslet leaves this pod as it is: {why}; recreate the pod"),
            )),
            // The others are how pods live and end.
            _ => None,
        };
        let Some((reason, message)) = told else {
            self.strange.remove(name);
            return None;
        };
        let now = Strange {
            uid: seen.uid.clone(),
            listing: self.listing,
            maker: seen.maker.clone(),
            reason,
            message: message.clone(),
        };
        let before = self.strange.insert(name.clone(), now);
        let is_news = before.is_none_or(|before| before.uid != seen.uid);
        is_news.then(|| Note {
            about: About::pod(name, &seen.uid),
            reason,
            is_warning: true,
            message,
        })
    }

    /// What is wrong with the pods of each workload, in one text for all of them: a person looks at
    /// the Deployment, and its pods come and go.
    pub(super) fn wrong_workloads(&self) -> BTreeMap<(About, &'static str), Wrong> {
        let standing = self.entries.values().flat_map(|entry| {
            let maker = entry.maker.as_ref();
            entry
                .standing
                .iter()
                .map(move |told| (maker, told.what.reason(), &told.what as &dyn Display))
        });
        let strange = self.strange.values().map(|strange| {
            (strange.maker.as_ref(), strange.reason, &strange.message as &dyn Display)
        });
        let mut found: BTreeMap<_, (usize, String)> = BTreeMap::new();
        for (maker, reason, text) in standing.chain(strange) {
            let Some(maker) = maker else { continue };
            let new = || (0, text.to_string());
            found.entry((maker.clone(), reason)).or_insert_with(new).0 += 1;
        }
        let wrong = found.into_iter().map(|(key, (pods, text))| {
            (key, Wrong { text: format!("{pods} of its pods: {text}"), once: false })
        });
        wrong.collect()
    }

    /// Decides about every pod anew.
    pub(super) fn review(&mut self, world: World<'_>) {
        for (name, entry) in &mut self.entries {
            entry.review(name, &mut self.agenda, world);
            self.unassigned.insert(name.clone());
        }
        self.weigh(world);
    }

    /// The next write that should be made now. Whoever takes it must [`finish`](Self::finish) it.
    pub(super) fn next_write(&mut self, now: Instant) -> Option<Write> {
        while self.pace.is_free(now)
            && let Some(name) = self.agenda.ready.pop_front()
        {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            entry.is_queued = false;
            if let Some(change) = entry.change.clone() {
                // Losses that are held are queued again when that ends. That a label is gone has nothing
                // to do with what this controller may not have seen.
                let is_held = self.losses != Losses::Free && !entry.pod.is_opted_out();
                if entry.is_in_flight || (is_held && entry.loses()) {
                    continue;
                }
                let earliest = entry.earliest(&change);
                if earliest > now {
                    self.agenda.timers.insert((earliest, name));
                    continue;
                }
                entry.is_in_flight = true;
                self.pace.take(now);
                let (uid, resource_version) = (entry.uid.clone(), entry.resource_version.clone());
                let (since, is_away) = (entry.since, entry.is_away());
                return Some(Write { pod: name, uid, resource_version, change, is_away, since });
            }
        }
        None
    }

    /// Takes in how a write has ended; tells what is to be said about it.
    pub(super) fn finish(
        &mut self,
        write: &Write,
        outcome: Outcome,
        world: World<'_>,
    ) -> Option<Note> {
        let entry = self.entries.get_mut(&write.pod).filter(|entry| entry.uid == write.uid);
        let is_written = matches!(outcome, Outcome::Written { .. });
        if let Some(entry) = entry {
            entry.is_in_flight = false;
            match outcome {
                Outcome::Written { resource_version, annotation } => {
                    entry.written(&write.change, world.now);
                    if !is_older(&resource_version, &entry.resource_version) {
                        entry.resource_version = resource_version;
                        entry.pod.tell(annotation.as_deref());
                    }
                }
                Outcome::Conflict
                    if entry.resource_version != write.resource_version && !entry.is_away() => {}
                Outcome::Conflict => {
                    entry.has_conflicted = true;
                    entry.failed(world.now);
                }
                Outcome::Failed => entry.failed(world.now),
                Outcome::NotFound => {
                    self.forget(&write.pod);
                    return None;
                }
            }
            entry.review(&write.pod, &mut self.agenda, world);
            self.unassigned.insert(write.pod.clone());
            self.forget_if_done(&write.pod);
        }
        let kind = write.change.kind;
        (is_written && kind != ChangeKind::Mended).then(|| Note {
            about: About::pod(&write.pod, &write.uid),
            reason: kind.reason(),
            is_warning: kind == ChangeKind::Lost,
            message: write.change.message.clone(),
        })
    }

    /// What is to be said about pods now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Note> {
        let mut notes = Vec::new();
        while self.agenda.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.agenda.timers.pop_first() else { break };
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            for told in entry.standing.iter_mut().filter(|told| told.due <= now) {
                notes.push(Note {
                    about: About::pod(&name, &entry.uid),
                    reason: told.what.reason(),
                    is_warning: true,
                    message: told.what.to_string(),
                });
                told.due = now + told.interval;
                told.interval = (told.interval * 2).min(LAST_REPEAT);
            }
            entry.schedule(&name, &mut self.agenda, now);
        }
        notes
    }

    /// When there is something to do after `now`, if nothing happens.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let timer = self.agenda.timers.first().map(|(at, _)| *at);
        // One whose turn has come waits for something else than the time.
        let is_late = |at: &Instant| *at > now && !self.agenda.ready.is_empty();
        let turn = self.pace.free_at().filter(is_late);
        timer.into_iter().chain(turn).min()
    }
}

/// Whether one version of a pod is older than another. Kubernetes promises since 1.35 that
/// versions are numbers that grow; etcd's always were. What is no number counts as new.
fn is_older(one: &str, other: &str) -> bool {
    matches!((one.parse::<u64>(), other.parse::<u64>()), (Ok(one), Ok(other)) if one < other)
}
