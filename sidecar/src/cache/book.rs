//! The book of all entries: which there are, which may be opened, and what a fetch brought. It
//! neither waits nor fetches.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imdslet_core::contract::{PodIdentities, PodIdentity};
use tokio::time::Instant;

use super::entry::{Entry, Failure};
use super::{Missing, Outcome};
use crate::audit::{Given, Summary};
use crate::fault::Fault;
use crate::metrics::{Fetched, Fetches, Outcome as End};
use crate::resource::Resource;
use crate::schedule::pause;
use crate::source::Token;

/// Entries that are held at most. A pod asks for a handful; the bound is for one that asks for
/// ever new resources.
pub(super) const ENTRIES: usize = 256;

/// Resources of one identity for which there is no token, beyond which another one is not tried:
/// how many are being fetched, and how many failed lately.
pub(super) const FETCHED_AT_ONCE: usize = 64;
pub(super) const FAILED_LATELY: usize = 16;

/// How long after its pause a failure counts as one of lately.
const LATELY: Duration = Duration::from_mins(1);

#[derive(Default)]
pub(super) struct Book {
    /// In no order. A list, because what a map would hash is seven strings: a look through all of
    /// a full book costs less, and most have a handful.
    entries: Vec<Entry>,
    /// Counts requests, for who was used last.
    uses: u64,
    /// How often tokens were given since the last summary whose entries are gone.
    given_dropped: u64,
    pub(super) fetches: Fetches,
}

impl Book {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// The entry of `identity` for `resource`, as used now; a new one where it may have one.
    pub(super) fn open(
        &mut self,
        identity: &PodIdentity,
        resource: &Resource,
        now: SystemTime,
    ) -> Result<&mut Entry, Missing> {
        let known = self.entries.iter().position(|entry| entry.is_for(identity, resource));
        let at = if let Some(at) = known {
            at
        } else {
            self.admit(identity, now)?;
            self.make_room(now)?;
            self.entries.push(Entry::new(identity.clone(), resource.clone()));
            self.entries.len() - 1
        };
        self.uses += 1;
        let entry = self.entries.get_mut(at).ok_or(Missing::Full)?;
        entry.used = self.uses;
        Ok(entry)
    }

    /// Drops the entries of identities that `pod` does not have, and what they wait for.
    pub(super) fn retain(&mut self, pod: &PodIdentities) {
        let Self { entries, given_dropped, .. } = self;
        entries.retain(|entry| {
            let wanted = pod.identities.iter().any(|identity| entry.is_of(identity));
            if !wanted {
                *given_dropped += entry.given;
            }
            if let (false, Some(flight)) = (wanted, &entry.flight) {
                flight.task.abort();
            }
            wanted
        });
    }

    /// Counts that `token`, which was waited for, is given. Whether it comes into use by that.
    pub(super) fn give(
        &mut self,
        identity: &PodIdentity,
        resource: &Resource,
        token: &Arc<Token>,
    ) -> bool {
        let known = self.entries.iter_mut().find(|entry| entry.is_for(identity, resource));
        // It had to make room meanwhile.
        let Some(entry) = known else {
            self.given_dropped += 1;
            return false;
        };
        entry.given += 1;
        let is_last = entry.token.as_ref().is_some_and(|last| Arc::ptr_eq(last, token));
        is_last && !std::mem::replace(&mut entry.in_use, true)
    }

    /// What was given since the last summary.
    pub(super) fn summary(&mut self) -> Summary {
        let dropped = std::mem::take(&mut self.given_dropped);
        let used = self.entries.iter_mut().filter(|entry| entry.given > 0);
        let given = used.map(|entry| Given {
            identity: entry.identity.name.clone(),
            resource: entry.resource.start().to_owned(),
            times: std::mem::take(&mut entry.given),
        });
        Summary::of(given.collect(), dropped)
    }

    /// Counts what a fetch brought, also where its entry is gone.
    pub(super) fn count(
        &mut self,
        identity: &PodIdentity,
        resource: &Resource,
        token: &Result<Arc<Token>, Fault>,
        took: Duration,
    ) {
        let (outcome, reason) = match token {
            Ok(_) => (End::Ok, ""),
            Err(fault) => (End::of(fault.status()), fault.reason()),
        };
        let entry = self.entries.iter().find(|entry| entry.is_for(identity, resource));
        let is_refresh = entry.is_some_and(|entry| entry.token.is_some());
        self.fetches.count(&identity.name, &Fetched { outcome, reason, took, is_refresh });
    }

    /// Enters what the fetch `number` brought, unless its entry is gone.
    pub(super) fn settle(
        &mut self,
        number: u64,
        token: Result<Arc<Token>, Arc<Fault>>,
        now: SystemTime,
    ) -> Outcome {
        let is_its_own = |entry: &&mut Entry| {
            entry.flight.as_ref().is_some_and(|flight| flight.number == number)
        };
        let entry = self.entries.iter_mut().find(is_its_own).ok_or(Missing::Dropped)?;
        entry.flight = None;
        match token {
            Ok(token) => {
                entry.failure = None;
                entry.fetched = Some(Instant::now());
                // Until somebody who waited for it is given it.
                entry.in_use = false;
                entry.token = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(fault) => {
                let count = entry.failure.as_ref().map_or(0, |failure| failure.count) + 1;
                let life = entry.valid(now).map(|token| token.remaining(now));
                let retry_at = Instant::now() + pause(count, life, fault.retry_after());
                let failure = entry.failure.insert(Failure { fault, count, retry_at });
                Err(failure.missing())
            }
        }
    }

    /// Refuses one more resource of `identity` while too many others of it have no token. Without
    /// it, an app that asks for ever new resources would ask Entra ID for each.
    fn admit(&self, identity: &PodIdentity, now: SystemTime) -> Result<(), Missing> {
        let of_it = self.entries.iter().filter(|entry| entry.is_of(identity));
        let without = of_it.filter(|entry| entry.valid(now).is_none());
        let (fetching, idle): (Vec<_>, Vec<_>) = without.partition(|entry| entry.is_fetching());
        if fetching.len() >= FETCHED_AT_ONCE {
            return Err(Missing::TooMany { pause: Duration::from_secs(1) });
        }
        let mut ends: Vec<_> = idle
            .iter()
            .filter_map(|entry| entry.failure.as_ref())
            .map(|failure| (failure.retry_at + LATELY).saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
            .collect();
        ends.sort_unstable();
        // So many must be forgotten before there is a place again.
        match ends.len().checked_sub(FAILED_LATELY).and_then(|over| ends.get(over)) {
            Some(pause) => Err(Missing::TooMany { pause: *pause }),
            None => Ok(()),
        }
    }

    /// Makes sure that there is a place: the one of the entry that is least worth keeping.
    fn make_room(&mut self, now: SystemTime) -> Result<(), Missing> {
        if self.entries.len() < ENTRIES {
            return Ok(());
        }
        let all = self.entries.iter().enumerate();
        let idle = all.filter(|(_, entry)| entry.flight.is_none());
        // Those without a valid token first, then the least recently used.
        let least = idle.min_by_key(|(_, entry)| (entry.valid(now).is_some(), entry.used));
        let (least, _) = least.ok_or(Missing::Full)?;
        self.given_dropped += self.entries.swap_remove(least).given;
        Ok(())
    }
}
