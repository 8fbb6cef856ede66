//! Which derived SecretProviderClasses are to be written, and when. No I/O: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imdslet_core::csi::{Derived, Plan, PodUse, Step, plan};
use imdslet_core::index::Index;
use imdslet_core::objects::ObjectName;
use imdslet_core::settings::Settings;
use tokio::time::Instant;

use super::losses::{self, Losses, Weighed};
use super::waits::doubled;

#[cfg(test)]
mod tests;

/// How long a class is for nobody before it is deleted: a pod that was pointed to it may be just
/// coming.
const IDLE: Duration = Duration::from_secs(10);

/// How long after a write the same one may follow, whether it succeeded or somebody undid it; then
/// twice that time, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(5);

/// The same where somebody is to lose an identity.
const LAST_REVOCATION: Duration = Duration::from_secs(30);

/// How long a pod may name a class that asks NMI before it is told: where NMI still runs, it is just
/// starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is said about the pods.
#[derive(Debug)]
pub(super) enum News {
    /// All of them follow.
    Restart,
    /// A pod is like this.
    Pod(ObjectName, Option<PodUse>),
    /// A pod is gone.
    Gone(ObjectName),
    /// All of them have been told.
    Complete,
}

/// What a person should know, once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A class of somebody else has the name of this one.
    Taken(Derived),
    /// Most classes would go by the first look of this controller.
    Held(String),
    /// A pod, and its uid, has a volume that is not mounted, and would be in a new pod: what to do.
    Outdated(ObjectName, String, String),
}

/// The derived classes, and who uses which.
#[derive(Default)]
pub(super) struct Shelf {
    /// What each pod uses, and the listing that had it.
    pods: BTreeMap<ObjectName, (PodUse, u64)>,
    listing: u64,
    knows_pods: bool,
    plan: Plan,
    /// Since when a class is for nobody.
    idle: BTreeMap<ObjectName, Instant>,
    tried: BTreeMap<ObjectName, Tried>,
    busy: BTreeSet<ObjectName>,
    taken: BTreeSet<ObjectName>,
    losses: Losses,
    /// Pods that came before the class that they should name.
    outdated: BTreeMap<ObjectName, Outdated>,
}

/// A pod that is not as it would be made now.
struct Outdated {
    uid: String,
    since: Instant,
    is_told: bool,
}

/// The last write of a class.
struct Tried {
    step: Step,
    times: u32,
    at: Instant,
}

impl Tried {
    /// When the same may be done again.
    fn again(&self) -> Instant {
        let last = match &self.step {
            Step::Replace(derived, _) if derived.is_revoked() => LAST_REVOCATION,
            _ => LAST_RETRY,
        };
        self.at + doubled(FIRST_RETRY, self.times, last)
    }

    /// Whether it comes to the same, whatever version it replaces.
    fn is_same(&self, step: &Step) -> bool {
        match (&self.step, step) {
            (
                Step::Create(one) | Step::Replace(one, _),
                Step::Create(other) | Step::Replace(other, _),
            ) => one == other,
            (Step::Delete(one), Step::Delete(other)) => one == other,
            _ => false,
        }
    }
}

impl Shelf {
    /// Takes in what is said about the pods.
    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Restart => self.listing += 1,
            News::Pod(name, Some(used)) => drop(self.pods.insert(name, (used, self.listing))),
            News::Pod(name, None) | News::Gone(name) => drop(self.pods.remove(&name)),
            News::Complete => {
                self.pods.retain(|_, (_, listing)| *listing == self.listing);
                self.knows_pods = true;
            }
        }
    }

    /// Decides about every class anew; tells what is to be said.
    pub(super) fn review(
        &mut self,
        index: &Index,
        settings: &Settings,
        (now, lets_go): (Instant, bool),
    ) -> Vec<Told> {
        let uses = self.pods.iter().map(|(name, (used, _))| (&*name.namespace, used));
        self.plan = plan(index, settings, uses);
        let is_for_nobody =
            |name: &ObjectName| matches!(self.plan.steps.get(name), Some(Step::Delete(_)));
        self.idle.retain(|name, _| is_for_nobody(name));
        for (name, step) in &self.plan.steps {
            if matches!(step, Step::Delete(_)) {
                self.idle.entry(name.clone()).or_insert(now);
            }
        }
        self.tried.retain(|_, tried| now < tried.at + LAST_RETRY * 2);
        let mut told: Vec<_> = self.weigh_losses(lets_go).map(Told::Held).into_iter().collect();
        let before = std::mem::take(&mut self.taken);
        for derived in &self.plan.taken {
            if !before.contains(&derived.name) {
                told.push(Told::Taken(derived.clone()));
            }
            self.taken.insert(derived.name.clone());
        }
        self.look_for_outdated(index, now, &mut told);
        told
    }

    /// Tells of pods that wait for what only a new pod gets; of each once.
    fn look_for_outdated(&mut self, index: &Index, now: Instant, told: &mut Vec<Told>) {
        let mut before = std::mem::take(&mut self.outdated);
        for (name, (used, _)) in &self.pods {
            let Some((derived, class)) = used.outdated(index, &name.namespace) else { continue };
            let known = before.remove(name).filter(|known| known.uid == used.uid);
            let mut known = known.unwrap_or_else(|| Outdated {
                uid: used.uid.clone(),
                since: now,
                is_told: false,
            });
            if !known.is_told && known.since + PATIENCE <= now {
                known.is_told = true;
                let message = format!(
                    "a volume of this pod names SecretProviderClass {class}, which has \
                     usePodIdentity and cannot be mounted without NMI; a new pod gets {derived}, by \
                     which imdslet replaces it: recreate the pod"
                );
                told.push(Told::Outdated(name.clone(), used.uid.clone(), message));
            }
            self.outdated.insert(name.clone(), known);
        }
    }

    /// Whether so many classes may be taken away; tells why not.
    fn weigh_losses(&mut self, lets_go: bool) -> Option<String> {
        if !self.knows_pods || self.losses == Losses::Free {
            return None;
        }
        let there = self.plan.there;
        if there == 0 {
            // The kind itself may only just come.
            return None;
        }
        let lost = self.plan.steps.values().filter(|step| step.takes_away()).count();
        (self.losses.weigh(there, lost, lets_go) == Weighed::Holds).then(|| {
            let what = format!(
                "{lost} of the {there} SecretProviderClasses that imdslet has made would go by the \
                 first look of this controller; none is taken away"
            );
            losses::held(&what, "most of them are needed")
        })
    }

    /// Whether there should be a class that gives somebody something.
    pub(super) fn is_needed(&self) -> bool {
        self.plan.is_needed
    }

    /// The next class to write, and how. Whoever takes it must [`finish`](Self::finish) it.
    pub(super) fn next(&mut self, now: Instant) -> Option<(ObjectName, Step)> {
        let mut steps = self.plan.steps.iter();
        let (name, step) = steps.find(|(name, step)| {
            !self.busy.contains(*name) && self.earliest(name, step, now).is_some_and(|at| at <= now)
        })?;
        let found = (name.clone(), step.clone());
        self.busy.insert(found.0.clone());
        Some(found)
    }

    /// When a step may be taken; none: not before something changes.
    fn earliest(&self, name: &ObjectName, step: &Step, now: Instant) -> Option<Instant> {
        if step.takes_away() && self.losses != Losses::Free {
            return None;
        }
        let tried = self.tried.get(name).filter(|tried| tried.is_same(step)).map(Tried::again);
        let idle = match step {
            Step::Delete(_) => self.idle.get(name).map(|since| *since + IDLE),
            _ => None,
        };
        Some(tried.max(idle).unwrap_or(now))
    }

    /// Takes in that a step has ended, however that was: what differs still is planned anew.
    pub(super) fn finish(&mut self, name: ObjectName, step: Step, now: Instant) {
        self.busy.remove(&name);
        let before = self.tried.get(&name).filter(|tried| tried.is_same(&step));
        let times = before.map_or(0, |tried| tried.times).saturating_add(1);
        self.tried.insert(name, Tried { step, times, at: now });
    }

    /// When there is something to do, if nothing happens.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let steps = self.plan.steps.iter().filter(|(name, _)| !self.busy.contains(*name));
        let steps = steps.filter_map(|(name, step)| self.earliest(name, step, now));
        let untold = self.outdated.values().filter(|pod| !pod.is_told);
        steps.chain(untold.map(|pod| pod.since + PATIENCE)).min()
    }
}
