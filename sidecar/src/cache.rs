//! The tokens that are held: one entry for each identity and resource, one fetch at a time for
//! each entry, and no entry that waits for another.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use imdslet_core::contract::{PodIdentities, PodIdentity};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::audit::{Given, Summary};
use crate::fault::Fault;
use crate::metrics::{Fetched, Fetches, Outcome as End};
use crate::resource::Resource;
use crate::schedule::{epoch, pause};
use crate::source::{Fetch, Now, Token};

/// Entries that are held at most. A pod asks for a handful; the bound is for one that asks for
/// ever new resources.
const ENTRIES: usize = 256;

/// Resources of one identity for which there is no token, beyond which another one is not tried:
/// how many are being fetched, and how many failed lately.
const FETCHED_AT_ONCE: usize = 64;
const FAILED_LATELY: usize = 16;

/// How long after its pause a failure counts as one of lately.
const LATELY: Duration = Duration::from_mins(1);

/// How soon after a token the next one is fetched for a client that does not want a held one.
const ANEW_AFTER: Duration = Duration::from_secs(5);

/// How often it is told how many tokens were given.
const SUMMED_UP_AFTER: Duration = Duration::from_mins(1);

/// When the clock is looked at again at the latest: it may be set, or the node may sleep.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// The tokens of one pod. Clones are the same cache.
#[derive(Clone)]
pub(crate) struct Cache(Arc<Inner>);

struct Inner {
    source: Box<dyn Fetch>,
    now: Now,
    /// The fetches. They outlive the requests that began them; nobody needs their end.
    fetches: TaskTracker,
    /// Tells [`Cache::keep_fresh`] that an entry came into use, or that a fetch ended.
    changed: Notify,
    // Not tokio's: it is never held across an await, and locking it cannot wait for the network.
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    entries: HashMap<Key, Entry>,
    /// Counts requests, for who was used last.
    uses: u64,
    /// How often tokens were given since the last summary whose entries are gone.
    given_dropped: u64,
    /// Counts fetches, so that one that was overtaken by a change of identities is recognised.
    flights: u64,
    fetches: Fetches,
}

/// What a token is for. All of an identity that Entra ID's answer depends on is part of it, so
/// that an edited AzureIdentity is not answered with a token of what it was before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    identity: IdentityKey,
    resource: Resource,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct IdentityKey {
    name: String,
    source: &'static str,
    client_id: String,
    tenant_id: String,
    auxiliary_tenant_ids: Vec<String>,
    secret: Option<String>,
}

struct Entry {
    identity: PodIdentity,
    token: Option<Arc<Token>>,
    /// When the token was fetched.
    fetched: Option<Instant>,
    /// Whether the token was given to anybody. Only such a one is refreshed unasked.
    in_use: bool,
    /// How often a token was given since the last summary.
    given: u64,
    flight: Option<Flight>,
    failure: Option<Failure>,
    used: u64,
}

/// A fetch on its way.
struct Flight {
    number: u64,
    /// How many waited for it.
    waiting: u64,
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
}

type Outcome = Result<Arc<Token>, Missing>;

/// The failures since the last token.
struct Failure {
    fault: Arc<Fault>,
    count: u32,
    /// Not before then is Entra ID asked again.
    retry_at: Instant,
}

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

enum Look {
    Held(Arc<Token>),
    /// For a fetch. The token is one that is valid, and was not wanted.
    Wait(watch::Receiver<Option<Outcome>>, Option<Arc<Token>>),
}

/// What a client wants of a token that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Any,
    /// One that was fetched just now, where there is one to be had.
    Anew,
}

impl Cache {
    pub(crate) fn new(source: Box<dyn Fetch>, now: Now) -> Self {
        let fetches = TaskTracker::new();
        let changed = Notify::new();
        Self(Arc::new(Inner { source, now, fetches, changed, book: Mutex::default() }))
    }

    /// Refreshes the tokens that are in use when they are due.
    pub(crate) async fn keep_fresh(self) -> Infallible {
        loop {
            let pause = self.refresh();
            let next = async {
                match pause {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: a sleep is planned anew, and a change that comes in between is kept.
            tokio::select! {
                () = next => {}
                () = self.0.changed.notified() => {}
            }
        }
    }

    /// Tells once a minute how many tokens were given.
    pub(crate) async fn keep_count(self) -> Infallible {
        loop {
            sleep(SUMMED_UP_AFTER).await;
            self.summary().tell();
        }
    }

    /// What was given since the last summary.
    fn summary(&self) -> Summary {
        let mut book = self.book();
        let dropped = std::mem::take(&mut book.given_dropped);
        let used = book.entries.iter_mut().filter(|(_, entry)| entry.given > 0);
        let given = used.map(|(key, entry)| Given {
            identity: key.identity.name.clone(),
            resource: key.resource.start().to_owned(),
            times: std::mem::take(&mut entry.given),
        });
        Summary::of(given.collect(), dropped)
    }

    /// Starts the refreshes that are due, and says when to look again, if ever.
    fn refresh(&self) -> Option<Duration> {
        let now = (self.0.now)();
        let mut book = self.book();
        let Book { entries, flights, .. } = &mut *book;
        let mut next = None;
        for (key, entry) in entries {
            let Some(pause) = entry.refresh_in(now) else { continue };
            if pause.is_zero() {
                *flights += 1;
                entry.flight = Some(self.fly(key.clone(), entry.identity.clone(), *flights));
            } else {
                next = Some(next.unwrap_or(LOOK_AGAIN).min(pause));
            }
        }
        next
    }

    /// The token of `identity` for `resource`: the one that is held while it is valid and wanted,
    /// else the outcome of the one fetch that all who ask wait for. Says whether it had to be
    /// waited for.
    pub(crate) async fn token(
        &self,
        identity: &PodIdentity,
        resource: &Resource,
        want: Want,
    ) -> Result<(Arc<Token>, bool), Missing> {
        let (mut outcome, held) = match self.look(identity, resource, want)? {
            Look::Held(token) => return Ok((token, false)),
            Look::Wait(outcome, held) => (outcome, held),
        };
        // Whoever leaves here leaves alone: the fetch has its own task. The sender goes away
        // without an outcome when the entry was dropped.
        let outcome = match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(Missing::Dropped),
        };
        match (outcome, held) {
            (Err(Missing::Fault { .. }), Some(held)) if held.is_valid((self.0.now)()) => {
                Ok((held, true))
            }
            (outcome, _) => outcome.map(|token| (token, true)),
        }
    }

    /// Drops what is held for identities that `pod` does not have.
    pub(crate) fn retain(&self, pod: &PodIdentities) {
        let wanted: Vec<_> = pod.identities.iter().map(IdentityKey::from).collect();
        let mut book = self.book();
        let Book { entries, given_dropped, .. } = &mut *book;
        entries.retain(|key, entry| {
            let wanted = wanted.contains(&key.identity);
            if !wanted {
                *given_dropped += entry.given;
            }
            if let (false, Some(flight)) = (wanted, &entry.flight) {
                flight.task.abort();
            }
            wanted
        });
    }

    /// Whether a token that is held for `identity` is for the principal `object_id`.
    pub(crate) fn has_object_id(&self, identity: &PodIdentity, object_id: &str) -> bool {
        let identity = IdentityKey::from(identity);
        self.book().entries.iter().any(|(key, entry)| {
            key.identity == identity
                && entry.token.as_ref().is_some_and(|token| {
                    token
                        .object_id
                        .as_deref()
                        .is_some_and(|own| own.eq_ignore_ascii_case(object_id))
                })
        })
    }

    /// Whether the principal of `identity` is known by a token that is held, or was.
    pub(crate) fn knows_principal(&self, identity: &PodIdentity) -> bool {
        let identity = IdentityKey::from(identity);
        self.book().entries.iter().any(|(key, entry)| {
            key.identity == identity
                && entry.token.as_ref().is_some_and(|token| token.object_id.is_some())
        })
    }

    /// What is held for `identity`, by resource.
    pub(crate) fn held(&self, identity: &PodIdentity) -> Vec<Held> {
        let identity = IdentityKey::from(identity);
        let book = self.book();
        let mut held: Vec<_> = book
            .entries
            .iter()
            .filter(|(key, _)| key.identity == identity)
            .map(|(key, entry)| Held {
                resource: key.resource.as_str().to_owned(),
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
        let lives = book.entries.iter().filter_map(|(key, entry)| {
            Some((key.identity.name.as_str(), entry.valid(now)?.schedule.remaining(now)))
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
        let key = Key { identity: identity.into(), resource: resource.clone() };
        let mut book = self.book();
        if !book.entries.contains_key(&key) {
            book.admit(&key.identity, now)?;
            book.make_room(now)?;
        }
        let Book { entries, uses, flights, .. } = &mut *book;
        *uses += 1;
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry::new(identity.clone()));
        entry.used = *uses;

        let held = entry.valid(now);
        if let Some(token) = &held
            && !(want == Want::Anew && entry.may_fetch_anew())
        {
            entry.given += 1;
            if !std::mem::replace(&mut entry.in_use, true) {
                tracing::info!(
                    identity = identity.name,
                    resource = resource.start(),
                    "refreshed token first given"
                );
                self.0.changed.notify_one();
            }
            if token.schedule.is_due(now) && !entry.is_fetching() && entry.may_ask() {
                *flights += 1;
                entry.flight = Some(self.fly(key, identity.clone(), *flights));
            }
            return Ok(Look::Held(Arc::clone(token)));
        }
        if !entry.is_fetching() {
            match &entry.failure {
                Some(failure) if !entry.may_ask() => return Err(failure.missing()),
                _ => {
                    *flights += 1;
                    entry.flight = Some(self.fly(key, identity.clone(), *flights));
                }
            }
        }
        let flight = entry.flight.as_mut().ok_or(Missing::Dropped)?;
        flight.waiting += 1;
        Ok(Look::Wait(flight.outcome.clone(), held))
    }

    fn fly(&self, key: Key, identity: PodIdentity, number: u64) -> Flight {
        let (tell, outcome) = watch::channel(None);
        let cache = self.clone();
        let task = self.0.fetches.spawn(async move {
            let outcome = cache.fetch(&key, &identity, number).await;
            // Nobody may be left to hear it; the entry has it.
            tell.send(Some(outcome)).ok();
        });
        Flight { number, waiting: 0, outcome, task: task.abort_handle() }
    }

    /// Fetches, enters the outcome into the book, and writes the audit line.
    async fn fetch(&self, key: &Key, identity: &PodIdentity, number: u64) -> Outcome {
        let began = Instant::now();
        let fetched = self.0.source.fetch(identity, &key.resource).await;
        let now = (self.0.now)();
        let seed = Uuid::new_v4().as_bytes().first().copied().unwrap_or_default();
        let token = fetched.and_then(|fetched| {
            Token::new(fetched, now, seed).map(Arc::new).map_err(|_| Fault::Expired)
        });
        let duration = began.elapsed();
        let (name, resource) = (identity.name.as_str(), key.resource.start());
        match &token {
            Ok(token) => tracing::info!(
                identity = name,
                resource,
                result = "fetched",
                ?duration,
                expires_on = epoch(token.schedule.expires_on()),
                "token fetched"
            ),
            Err(fault) => tracing::warn!(
                identity = name,
                resource,
                result = "failed",
                reason = fault.reason(),
                ?duration,
                error = %fault,
                "token not fetched"
            ),
        }
        let mut book = self.book();
        book.count(key, &token, duration);
        let outcome = book.settle(key, number, token.map_err(Arc::new), now);
        drop(book);
        self.0.changed.notify_one();
        outcome
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

impl Book {
    /// Refuses one more resource of `identity` while too many others of it have no token. Without
    /// it, an app that asks for ever new resources would ask Entra ID for each.
    fn admit(&self, identity: &IdentityKey, now: SystemTime) -> Result<(), Missing> {
        let of_it = self.entries.iter().filter(|(key, _)| key.identity == *identity);
        let without = of_it.map(|(_, entry)| entry).filter(|entry| entry.valid(now).is_none());
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
        let idle = self.entries.iter().filter(|(_, entry)| entry.flight.is_none());
        // Those without a valid token first, then the least recently used.
        let least = idle.min_by_key(|(_, entry)| (entry.valid(now).is_some(), entry.used));
        let least = least.map(|(key, _)| key.clone()).ok_or(Missing::Full)?;
        if let Some(entry) = self.entries.remove(&least) {
            self.given_dropped += entry.given;
        }
        Ok(())
    }

    /// Counts what a fetch brought, also where its entry is gone.
    fn count(&mut self, key: &Key, token: &Result<Arc<Token>, Fault>, took: Duration) {
        let (outcome, reason) = match token {
            Ok(_) => (End::Ok, ""),
            Err(fault) => (End::of(fault.status()), fault.reason()),
        };
        let is_refresh = self.entries.get(key).is_some_and(|entry| entry.token.is_some());
        let fetched = Fetched { outcome, reason, took, is_refresh };
        self.fetches.count(&key.identity.name, &fetched);
    }

    /// Enters what the fetch `number` brought, unless the entry is not its own any more.
    fn settle(
        &mut self,
        key: &Key,
        number: u64,
        token: Result<Arc<Token>, Arc<Fault>>,
        now: SystemTime,
    ) -> Outcome {
        let entry = self
            .entries
            .get_mut(key)
            .filter(|entry| entry.flight.as_ref().is_some_and(|flight| flight.number == number));
        let Some(entry) = entry else { return Err(Missing::Dropped) };
        let waiting = entry.flight.take().map_or(0, |flight| flight.waiting);
        match token {
            Ok(token) => {
                entry.failure = None;
                entry.fetched = Some(Instant::now());
                entry.in_use = waiting > 0;
                entry.given += waiting;
                entry.token = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(fault) => {
                let count = entry.failure.as_ref().map_or(0, |failure| failure.count) + 1;
                let life = entry.valid(now).map(|token| token.schedule.remaining(now));
                let retry_at = Instant::now() + pause(count, life, fault.retry_after());
                let failure = entry.failure.insert(Failure { fault, count, retry_at });
                Err(failure.missing())
            }
        }
    }
}

impl Entry {
    fn new(identity: PodIdentity) -> Self {
        Self {
            identity,
            token: None,
            fetched: None,
            in_use: false,
            given: 0,
            flight: None,
            failure: None,
            used: 0,
        }
    }

    fn valid(&self, now: SystemTime) -> Option<Arc<Token>> {
        self.token.clone().filter(|token| token.is_valid(now))
    }

    fn is_fetching(&self) -> bool {
        self.flight.as_ref().is_some_and(Flight::is_live)
    }

    fn may_ask(&self) -> bool {
        self.failure.as_ref().is_none_or(|failure| Instant::now() >= failure.retry_at)
    }

    fn may_fetch_anew(&self) -> bool {
        self.may_ask() && self.fetched.is_none_or(|fetched| fetched.elapsed() >= ANEW_AFTER)
    }

    /// How long until the token is to be refreshed unasked, if at all.
    fn refresh_in(&self, now: SystemTime) -> Option<Duration> {
        let token = self.token.as_ref().filter(|token| token.is_valid(now))?;
        if !self.in_use || self.is_fetching() {
            return None;
        }
        let pause = self.failure.as_ref().map_or(Duration::ZERO, |failure| {
            failure.retry_at.saturating_duration_since(Instant::now())
        });
        Some(token.schedule.due_in(now).max(pause))
    }
}

impl Flight {
    /// Not so after a panic of its task: the sender is gone and there is no outcome.
    fn is_live(&self) -> bool {
        self.outcome.has_changed().is_ok()
    }
}

impl Failure {
    fn missing(&self) -> Missing {
        let pause = self.retry_at.saturating_duration_since(Instant::now());
        Missing::Fault { fault: Arc::clone(&self.fault), pause: pause.max(Duration::from_secs(1)) }
    }
}

impl From<&PodIdentity> for IdentityKey {
    fn from(identity: &PodIdentity) -> Self {
        Self {
            name: identity.name.clone(),
            source: identity.source.as_str(),
            client_id: identity.client_id.clone(),
            tenant_id: identity.tenant_id.clone(),
            auxiliary_tenant_ids: identity.auxiliary_tenant_ids.clone(),
            secret: identity.secret.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
