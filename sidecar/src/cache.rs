//! The tokens that are held: one entry for each identity and resource, one fetch at a time for
//! each entry, and no entry that waits for another.

use std::convert::Infallible;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imdslet_core::contract::{PodIdentities, PodIdentity};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::audit::Summary;
use crate::claims::Claims;
use crate::fault::Fault;
use crate::resource::Resource;
use crate::schedule::epoch;
use crate::source::{Fetch, Now, Token};
use book::Book;

mod book;
mod entry;
mod fetching;

/// How often it is told how many tokens were given.
const SUMMED_UP_AFTER: Duration = Duration::from_mins(1);

/// The tokens of one pod. Clones are the same cache.
#[derive(Clone)]
pub(crate) struct Cache(Arc<Inner>);

struct Inner {
    source: Box<dyn Fetch>,
    now: Now,
    /// The fetches. They outlive the requests that began them; nobody needs their end.
    fetches: TaskTracker,
    /// Counts fetches, so that one that was overtaken by a change of identities is recognised.
    flights: AtomicU64,
    /// Tells [`Cache::keep_fresh`] that an entry came into use, or that a fetch ended.
    changed: Notify,
    // Not tokio's: it is never held across an await, and locking it cannot wait for the network.
    book: Mutex<Book>,
}

type Outcome = Result<Arc<Token>, Missing>;

/// Why there is no token.
#[derive(Clone, Debug)]
pub(crate) enum Missing {
    /// It could not be fetched; the next try is after `pause`.
    Fault { fault: Arc<Fault>, pause: Duration },
    /// The pod's identities changed meanwhile.
    Dropped,
    /// Every entry is waiting for its first token.
    Full,
    /// Too many other resources of the identity have no token; the next may be tried after `pause`.
    TooMany { pause: Duration },
}

/// What `/state` tells of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) resource: String,
    pub(crate) expires_on: Option<u64>,
    pub(crate) last_failure: Option<&'static str>,
}

/// What a client wants of a token that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Any,
    /// One that was fetched just now, where there is one to be had.
    Anew,
    /// None: only what a token tells of its principal.
    Principal,
}

/// What is found at one look.
enum Look {
    Held(Arc<Token>),
    /// For a fetch. The token is one that is valid, and was not wanted.
    Wait(watch::Receiver<Option<Outcome>>, Option<Arc<Token>>),
}

impl Cache {
    pub(crate) fn new(source: Box<dyn Fetch>, now: Now) -> Self {
        Self(Arc::new(Inner {
            source,
            now,
            fetches: TaskTracker::new(),
            flights: AtomicU64::new(0),
            changed: Notify::new(),
            book: Mutex::default(),
        }))
    }

    /// Tells once a minute how many tokens were given. `look` drops what is gone also where nothing
    /// is in use, and so nothing is refreshed.
    pub(crate) async fn keep_count(self, look: impl Fn()) -> Infallible {
        loop {
            sleep(SUMMED_UP_AFTER).await;
            look();
            self.summary().tell();
        }
    }

    /// What was given since the last summary.
    fn summary(&self) -> Summary {
        self.book().summary()
    }

    /// The token of `identity` for `resource`: the one that is held while it is valid and wanted,
    /// else the outcome of the one fetch that all who ask wait for. What had to be waited for is
    /// only given, and counted, while `may_be_given`.
    pub(crate) async fn token(
        &self,
        identity: &PodIdentity,
        resource: &Resource,
        want: Want,
        may_be_given: impl Fn() -> bool,
    ) -> Result<Arc<Token>, Missing> {
        let (outcome, held) = match self.look(identity, resource, want)? {
            Look::Held(token) => return Ok(token),
            Look::Wait(outcome, held) => (outcome, held),
        };
        let token = self.outcome(outcome, held).await?;
        if !may_be_given() {
            return Err(Missing::Dropped);
        }
        if self.book().give(identity, resource, &token) {
            self.0.changed.notify_one();
        }
        Ok(token)
    }

    /// Fetches a token of `identity` where none is held, for what it tells of its principal. Nobody
    /// is given it, and so it does not come into use.
    pub(crate) async fn learn(
        &self,
        identity: &PodIdentity,
        resource: &Resource,
    ) -> Result<(), Missing> {
        match self.look(identity, resource, Want::Principal)? {
            Look::Held(_) => Ok(()),
            Look::Wait(outcome, held) => self.outcome(outcome, held).await.map(drop),
        }
    }

    /// Waits for the outcome of a fetch, for which `held` stands in where there is a fault.
    async fn outcome(
        &self,
        mut outcome: watch::Receiver<Option<Outcome>>,
        held: Option<Arc<Token>>,
    ) -> Outcome {
        // Whoever leaves here leaves alone: the fetch has its own task. The sender goes away
        // without an outcome when the entry was dropped.
        let outcome = match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(Missing::Dropped),
        };
        match (outcome, held) {
            (Err(Missing::Fault { .. }), Some(held)) if held.is_valid((self.0.now)()) => Ok(held),
            (outcome, _) => outcome,
        }
    }

    /// Drops what is held for identities that `pod` does not have.
    pub(crate) fn retain(&self, pod: &PodIdentities) {
        self.book().retain(pod);
    }

    /// Whether a token that is held for `identity` is for the principal `object_id`.
    pub(crate) fn has_object_id(&self, identity: &PodIdentity, object_id: &str) -> bool {
        self.has_principal(identity, |own| own.eq_ignore_ascii_case(object_id))
    }

    /// Whether the principal of `identity` is known by a token that is held, or was.
    pub(crate) fn knows_principal(&self, identity: &PodIdentity) -> bool {
        self.has_principal(identity, |_| true)
    }

    /// The tenant of `identity`, as a token that is held for it tells.
    pub(crate) fn tenant(&self, identity: &PodIdentity) -> Option<String> {
        let book = self.book();
        let mut of_it = book.entries().iter().filter(|entry| entry.is_of(identity));
        of_it.find_map(|entry| Claims::of(entry.token.as_ref()?.primary.access_token.reveal()).tid)
    }

    fn has_principal(&self, identity: &PodIdentity, is_it: impl Fn(&str) -> bool) -> bool {
        self.book().entries().iter().filter(|entry| entry.is_of(identity)).any(|entry| {
            let object_id = entry.token.as_ref().and_then(|token| token.object_id.as_deref());
            object_id.is_some_and(&is_it)
        })
    }

    /// What is held for `identity`, by resource.
    pub(crate) fn held(&self, identity: &PodIdentity) -> Vec<Held> {
        let book = self.book();
        let of_it = book.entries().iter().filter(|entry| entry.is_of(identity));
        let mut held: Vec<_> = of_it
            .map(|entry| Held {
                resource: entry.resource.as_str().to_owned(),
                expires_on: entry.token.as_ref().map(|token| epoch(token.schedule.expires_on())),
                last_failure: entry.failure.as_ref().map(|failure| failure.fault.reason()),
            })
            .collect();
        held.sort_by(|one, other| one.resource.cmp(&other.resource));
        held
    }

    /// Writes the series of the fetches, and of the tokens that are held, to `text`.
    pub(crate) fn write_metrics(&self, text: &mut String) {
        let now = (self.0.now)();
        let book = self.book();
        let lives = book.entries().iter().filter_map(|entry| {
            let token = entry.valid(now)?;
            Some((entry.identity.name.as_str(), token.remaining(now)))
        });
        book.fetches.write(text, lives);
    }

    /// One look at the entry. Starts a fetch where one is due and none is on its way.
    fn look(
        &self,
        identity: &PodIdentity,
        resource: &Resource,
        want: Want,
    ) -> Result<Look, Missing> {
        let now = (self.0.now)();
        let mut book = self.book();
        let entry = book.open(identity, resource, now)?;
        let held = entry.valid(now).map(Arc::clone);
        if let Some(token) = &held
            && !(want == Want::Anew && entry.may_fetch_anew())
        {
            if want == Want::Principal {
                return Ok(Look::Held(Arc::clone(token)));
            }
            entry.given += 1;
            if !std::mem::replace(&mut entry.in_use, true) {
                tracing::info!(
                    identity = identity.name,
                    resource = resource.start(),
                    "token first given"
                );
                self.0.changed.notify_one();
            }
            if token.due_in(now).is_zero() && !entry.is_fetching() && entry.may_ask() {
                self.fly(entry, identity.clone());
            }
            return Ok(Look::Held(Arc::clone(token)));
        }
        if !entry.is_fetching() {
            match &entry.failure {
                Some(failure) if !entry.may_ask() => return Err(failure.missing()),
                _ => self.fly(entry, identity.clone()),
            }
        }
        let flight = entry.flight.as_ref().ok_or(Missing::Dropped)?;
        Ok(Look::Wait(flight.outcome.clone(), held))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic while it was held leaves whole entries behind: each change is one assignment.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Missing {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Fault { fault, .. } => fault.reason(),
            Self::Dropped => "Dropped",
            Self::Full => "Full",
            Self::TooMany { .. } => "TooManyFailing",
        }
    }
}

#[cfg(test)]
mod tests;
