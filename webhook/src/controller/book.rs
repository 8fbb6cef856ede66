//! Which AzureAssignedIdentity objects there should be, which there are, and what to do about it. No
//! I/O: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imdslet_core::objects::ObjectName;
use serde_json::Value;
use tokio::time::Instant;

use super::waits::doubled;

#[cfg(test)]
mod tests;

/// How long after a failed write the next try follows; then twice that time, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(5);

/// What is said about the pods.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    /// A pod should have these objects, each with its name.
    Pod(ObjectName, Vec<(String, Wanted)>),
    /// A pod is gone.
    Gone(ObjectName),
    /// Every pod that there is has been told.
    Complete,
}

/// An object that should be there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) pod: ObjectName,
    pub(super) uid: String,
    pub(super) node: String,
    pub(super) spec: Value,
    /// Stands for all of it.
    pub(super) content: String,
}

/// An object that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct There {
    pub(super) is_ours: bool,
    /// MIC works on it.
    pub(super) is_mics: bool,
    pub(super) content: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
}

/// What to do with one object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create(Wanted),
    /// This version of it.
    Replace(Wanted, String),
    /// The one of this uid.
    Delete(String),
}

/// How a step has ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Written(There),
    Deleted,
    Failed,
}

/// All objects by name.
#[derive(Default)]
pub(super) struct Book {
    pods: BTreeMap<ObjectName, Vec<ObjectName>>,
    wanted: BTreeMap<ObjectName, Wanted>,
    there: BTreeMap<ObjectName, There>,
    /// Those that may differ.
    queue: BTreeSet<ObjectName>,
    busy: BTreeSet<ObjectName>,
    /// When one that failed is tried again, and how many times it has failed.
    later: BTreeMap<ObjectName, (Instant, u32)>,
    /// What a list that is under way has had so far.
    listed: Option<BTreeSet<ObjectName>>,
    knows_pods: bool,
    knows_objects: bool,
    /// Whether MIC was seen at work.
    is_off: bool,
}

impl Book {
    /// Takes in what is said about the pods.
    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Pod(pod, objects) => self.want(pod, objects),
            News::Gone(pod) => self.want(pod, Vec::new()),
            News::Complete => {
                self.knows_pods = true;
                self.look_at_all();
            }
        }
    }

    fn want(&mut self, pod: ObjectName, objects: Vec<(String, Wanted)>) {
        for name in self.pods.remove(&pod).unwrap_or_default() {
            self.wanted.remove(&name);
            self.queue.insert(name);
        }
        let mut names = Vec::new();
        for (name, wanted) in objects {
            let name = ObjectName::new(pod.namespace.clone(), name);
            // Hyphens may make one name of two pods' names; the first one has it.
            if !self.wanted.contains_key(&name) {
                self.queue.insert(name.clone());
                self.wanted.insert(name.clone(), wanted);
                names.push(name);
            }
        }
        if !names.is_empty() {
            self.pods.insert(pod, names);
        }
    }

    /// All objects will be told anew.
    pub(super) fn restart(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// Takes in what an object is like.
    pub(super) fn see(&mut self, name: ObjectName, there: There) {
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        self.queue.insert(name.clone());
        self.there.insert(name, there);
        self.ask_for_mic();
    }

    /// All objects have been told.
    pub(super) fn complete(&mut self) {
        if let Some(listed) = self.listed.take() {
            self.there.retain(|name, _| listed.contains(name));
        }
        self.knows_objects = true;
        self.ask_for_mic();
        self.look_at_all();
    }

    /// An object is gone.
    pub(super) fn gone(&mut self, name: &ObjectName) {
        self.there.remove(name);
        self.queue.insert(name.clone());
        self.ask_for_mic();
    }

    /// MIC takes every object for its own: it would delete ours, and NMI would answer by them.
    fn ask_for_mic(&mut self) {
        let mics = self.there.iter().find(|(_, there)| there.is_mics);
        if self.is_off == mics.is_some() {
            return;
        }
        if let Some((object, _)) = mics {
            tracing::info!(
                %object, reason = "MicAtWork",
                "no AzureAssignedIdentity is written while MIC's finalizer is on one"
            );
            self.is_off = true;
        } else {
            tracing::info!(reason = "MicGone", "AzureAssignedIdentity objects are written");
            self.is_off = false;
            self.look_at_all();
        }
    }

    fn look_at_all(&mut self) {
        self.queue.extend(self.wanted.keys().chain(self.there.keys()).cloned());
    }

    /// The next object to do something about, and what. Whoever takes it must
    /// [`finish`](Self::finish) it.
    pub(super) fn next(&mut self, now: Instant) -> Option<(ObjectName, Step)> {
        // Before both sides are known, what is missing may be just coming.
        if !self.knows_objects || self.is_off {
            return None;
        }
        let due = self.later.iter().filter(|(_, (at, _))| *at <= now);
        let due: Vec<_> = due.map(|(name, _)| name.clone()).collect();
        self.queue.extend(due);
        let mut waiting = BTreeSet::new();
        let mut found = None;
        while let Some(name) = self.queue.pop_first() {
            if self.busy.contains(&name) {
                waiting.insert(name);
                continue;
            }
            if self.later.get(&name).is_some_and(|(at, _)| *at > now) {
                continue;
            }
            if let Some(step) = self.step(&name) {
                found = Some((name, step));
                break;
            }
            self.later.remove(&name);
        }
        self.queue.append(&mut waiting);
        if let Some((name, _)) = &found {
            self.busy.insert(name.clone());
        }
        found
    }

    fn step(&self, name: &ObjectName) -> Option<Step> {
        match (self.wanted.get(name), self.there.get(name)) {
            (Some(wanted), None) => Some(Step::Create(wanted.clone())),
            (Some(wanted), Some(there)) if there.is_ours && there.content != wanted.content => {
                Some(Step::Replace(wanted.clone(), there.resource_version.clone()))
            }
            (None, Some(there)) if there.is_ours && self.knows_pods => {
                Some(Step::Delete(there.uid.clone()))
            }
            _ => None,
        }
    }

    /// Takes in how a step has ended.
    pub(super) fn finish(&mut self, name: ObjectName, outcome: Outcome, now: Instant) {
        self.busy.remove(&name);
        match outcome {
            Outcome::Written(there) => {
                self.later.remove(&name);
                self.there.insert(name.clone(), there);
            }
            Outcome::Deleted => {
                self.later.remove(&name);
                self.there.remove(&name);
            }
            Outcome::Failed => {
                let before = self.later.get(&name).map_or(0, |(_, failures)| *failures);
                let failures = before.saturating_add(1);
                let wait = doubled(FIRST_RETRY, failures, LAST_RETRY);
                self.later.insert(name, (now + wait, failures));
                return;
            }
        }
        // It may have changed meanwhile.
        self.queue.insert(name);
    }

    /// When there is something to do, if nothing happens.
    pub(super) fn wake(&self) -> Option<Instant> {
        let is_on = self.knows_objects && !self.is_off;
        self.later
            .iter()
            .filter(|(name, _)| is_on && !self.busy.contains(*name))
            .map(|(_, (at, _))| *at)
            .min()
    }
}
