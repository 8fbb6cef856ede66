//! Pods that the watch does not tell of any more. They are gone, or have lost their label: nothing in
//! what it says tells the two apart (decision 49).

use imdslet_core::objects::ObjectName;

use super::entry::Entry;
use super::{Ledger, World};
use crate::controller::pods::Seen;

/// Whether the watch tells of a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// It does, since this listing or before it.
    Listed(u64),
    /// Not any more.
    Lost,
}

impl Ledger {
    /// The watch does not tell of a pod any more.
    pub(in crate::controller) fn gone(&mut self, name: &ObjectName, world: World<'_>) {
        self.strange.remove(name);
        self.lost_sight(name, world);
        self.weigh(world);
    }

    /// A pod has been found that has no label, and something that it had by it.
    pub(in crate::controller) fn stray(&mut self, seen: &Seen, world: World<'_>) {
        let Ok(pod) = &seen.pod else { return };
        // Of one that is known, the watch tells.
        if self.entries.contains_key(&seen.name) {
            return;
        }
        let entry = Entry::new(seen, pod.clone(), world.now);
        self.entries.insert(seen.name.clone(), entry);
        self.lost_sight(&seen.name, world);
    }

    /// A pod that the watch selects no more is gone, or its label is. What has an identity is kept
    /// until that is known: the same pod without the label may have none.
    pub(super) fn lost_sight(&mut self, name: &ObjectName, world: World<'_>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.sight = Sight::Lost;
        entry.pod.opt_out();
        entry.review(name, &mut self.agenda, world);
        self.unassigned.insert(name.clone());
        self.forget_if_done(name);
    }

    /// Forgets a pod that is out of sight and has nothing that could be taken from it.
    pub(super) fn forget_if_done(&mut self, name: &ObjectName) {
        let is_done = |entry: &Entry| entry.is_away() && !entry.is_in_flight && !entry.loses();
        if self.entries.get(name).is_some_and(is_done) {
            self.forget(name);
        }
    }
}
