//! What is known of one pod that has to be kept right.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use imdslet_core::assigned::assigned;
use imdslet_core::index::Index;
use imdslet_core::live::{Change, ChangeKind, Standing, decide};
use imdslet_core::objects::ObjectName;
use imdslet_core::running::RunningPod;
use tokio::time::Instant;

use super::sight::Sight;
use super::{Agenda, FIRST_REPEAT, PATIENCE, Wanted, World};
use crate::controller::about::About;
use crate::controller::pods::Seen;
use crate::controller::waits::{doubled, spread};

/// How long after a failed write the next try follows; then twice that time, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// What is known of one pod.
pub(super) struct Entry {
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) maker: Option<About>,
    pub(super) pod: RunningPod,
    pub(super) sight: Sight,
    pub(super) change: Option<Change>,
    /// Since when there is something to write.
    pub(super) since: Instant,
    pub(super) is_queued: bool,
    pub(super) is_in_flight: bool,
    failures: u32,
    /// The last write met a newer pod than the one that is known here.
    pub(super) has_conflicted: bool,
    pub(super) not_before: Instant,
    last: Option<LastWrite>,
    pub(super) standing: Vec<Told>,
}

/// What was written last, so that nobody is fought at full speed.
struct LastWrite {
    hash: u64,
    at: Instant,
    times: u32,
}

/// Something that is said about a pod again and again.
pub(super) struct Told {
    pub(super) what: Standing,
    pub(super) due: Instant,
    pub(super) interval: Duration,
}

impl Entry {
    pub(super) fn new(seen: &Seen, pod: RunningPod, now: Instant) -> Self {
        Self {
            uid: seen.uid.clone(),
            resource_version: String::new(),
            maker: seen.maker.clone(),
            pod,
            sight: Sight::Listed(0),
            change: None,
            since: now,
            is_queued: false,
            is_in_flight: false,
            failures: 0,
            has_conflicted: false,
            not_before: now,
            last: None,
            standing: Vec::new(),
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.sight == Sight::Lost
    }

    pub(super) fn loses(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.kind == ChangeKind::Lost)
    }

    pub(super) fn assigned(&self, name: &ObjectName, index: &Index) -> Vec<(String, Wanted)> {
        let objects = assigned(&self.pod, (&name.name, &self.uid), index).into_iter();
        objects
            .map(|object| {
                let wanted = Wanted {
                    pod: name.clone(),
                    uid: self.uid.clone(),
                    node: object.node,
                    spec: object.spec,
                    content: object.content,
                };
                (object.name, wanted)
            })
            .collect()
    }

    pub(super) fn review(&mut self, name: &ObjectName, agenda: &mut Agenda, world: World<'_>) {
        let decision = decide(&self.pod, world.index, world.settings);
        if self.change.is_none() {
            self.since = world.now;
        }
        self.change = decision.change;
        self.standing.retain(|told| decision.standing.contains(&told.what));
        // A pod that loses its identities is told why at once.
        let first = if self.pod.is_held() { PATIENCE } else { FIRST_REPEAT };
        for what in decision.standing {
            if self.standing.iter().all(|told| told.what != what) {
                let wait = match what {
                    Standing::RecreateToInject { .. } => PATIENCE,
                    _ => first,
                };
                let due = world.now + wait;
                self.standing.push(Told { what, due, interval: FIRST_REPEAT });
            }
        }
        self.schedule(name, agenda, world.now);
    }

    pub(super) fn schedule(&mut self, name: &ObjectName, agenda: &mut Agenda, now: Instant) {
        agenda.timers.extend(self.standing.iter().map(|told| (told.due, name.clone())));
        if self.change.is_none() || self.is_in_flight || self.is_queued {
            return;
        }
        if self.not_before > now {
            agenda.timers.insert((self.not_before, name.clone()));
        } else {
            self.is_queued = true;
            agenda.ready.push_back(name.clone());
        }
    }

    /// When a change may be written. Whoever undoes what was written is not fought at full speed.
    pub(super) fn earliest(&self, change: &Change) -> Instant {
        match &self.last {
            Some(last) if last.hash == hash(&change.annotation) && last.times > 1 => {
                self.not_before.max(last.at + doubled(FIRST_RETRY, last.times, LAST_RETRY))
            }
            _ => self.not_before,
        }
    }

    pub(super) fn written(&mut self, change: &Change, now: Instant) {
        (self.failures, self.not_before) = (0, now);
        let hash = hash(&change.annotation);
        let times = match &self.last {
            Some(last) if last.hash == hash && now < last.at + LAST_RETRY * 2 => last.times + 1,
            _ => 1,
        };
        self.last = Some(LastWrite { hash, at: now, times });
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + spread(doubled(FIRST_RETRY, self.failures, LAST_RETRY));
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
