//! Where tokens come from, as the cache sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use imdslet_core::contract::PodIdentity;
use tokio::time::Instant;

use crate::answer::Written;
use crate::claims::Claims;
use crate::fault::Fault;
use crate::resource::Resource;
use crate::schedule::{Expired, Schedule, epoch};
use crate::secret::Secret;

/// The wall clock. An argument, so that tests decide what time it is.
pub(crate) type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Fetches tokens. The one seam between the cache and the network.
#[async_trait]
pub(crate) trait Fetch: Send + Sync {
    /// Fetches a token of `identity` for `resource`. Ends within a deadline of its own.
    async fn fetch(&self, identity: &PodIdentity, resource: &Resource) -> Result<Fetched, Fault>;
}

/// What a fetch brought.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) primary: Received,
    /// Of the identity's auxiliary tenants, in their order.
    pub(crate) auxiliary: Vec<Received>,
}

/// A token as it was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) access_token: Secret,
    pub(crate) expires_on: SystemTime,
}

impl From<Received> for Fetched {
    fn from(primary: Received) -> Self {
        Self { primary, auxiliary: Vec::new() }
    }
}

/// A token as it is held and served, with those of the identity's auxiliary tenants.
#[derive(Debug)]
pub(crate) struct Token {
    client_id: String,
    resource: Resource,
    pub(crate) primary: Issued,
    pub(crate) auxiliary: Vec<Issued>,
    /// By the one that ends first: they are fetched together.
    pub(crate) schedule: Schedule,
    /// When it was received, by both clocks.
    received: (SystemTime, Instant),
    /// The `oid` of the primary token: which principal it is for.
    pub(crate) object_id: Option<String>,
    /// The last answer with it.
    pub(crate) written: Written,
}

/// What is told of one tenant's token.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access_token: Secret,
    pub(crate) expires_on: SystemTime,
    /// The `nbf` of the token, else when it was received; seconds since the Unix epoch.
    pub(crate) not_before: u64,
}

impl Token {
    /// Takes `fetched`, which is of `identity` and for `resource`, into service at `now`; `seed`
    /// spreads its refresh.
    pub(crate) fn new(
        fetched: Fetched,
        identity: &PodIdentity,
        resource: &Resource,
        now: SystemTime,
        seed: u8,
    ) -> Result<Self, Expired> {
        let Fetched { primary, auxiliary } = fetched;
        let ends = auxiliary.iter().map(|received| received.expires_on);
        let first_end = ends.fold(primary.expires_on, SystemTime::min);
        let object_id = Claims::of(primary.access_token.reveal()).oid;
        Ok(Self {
            client_id: identity.client_id.clone(),
            resource: resource.clone(),
            schedule: Schedule::new(now, first_end)?.spread(seed),
            received: (now, Instant::now()),
            object_id,
            primary: Issued::new(primary, now),
            auxiliary: auxiliary.into_iter().map(|received| Issued::new(received, now)).collect(),
            written: Written::default(),
        })
    }

    /// Of the identity that it is for.
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    pub(crate) fn resource(&self) -> &str {
        self.resource.as_str()
    }

    /// Whether it may still be served.
    pub(crate) fn is_valid(&self, now: SystemTime) -> bool {
        !self.remaining(now).is_zero()
    }

    /// How long it may still be served; zero once it has expired.
    pub(crate) fn remaining(&self, now: SystemTime) -> Duration {
        self.schedule.remaining(self.at_least(now))
    }

    /// How long until it is time to refresh it; zero once it is.
    pub(crate) fn due_in(&self, now: SystemTime) -> Duration {
        self.schedule.due_in(self.at_least(now))
    }

    /// The time by which it is judged: the wall clock's, but never earlier than what has gone by
    /// since it was received allows. A wall clock that was ahead then and has been set right since
    /// would have it live too long; the other clock alone stands still while the node sleeps.
    pub(crate) fn at_least(&self, now: SystemTime) -> SystemTime {
        let (received, since) = self.received;
        let other = received + since.elapsed();
        // What is less lies between the readings of the two.
        if other > now + Duration::from_secs(1) { other } else { now }
    }
}

impl Issued {
    fn new(received: Received, now: SystemTime) -> Self {
        let Received { access_token, expires_on } = received;
        let not_before = Claims::of(access_token.reveal()).nbf.unwrap_or_else(|| epoch(now));
        Self { access_token, expires_on, not_before }
    }
}
