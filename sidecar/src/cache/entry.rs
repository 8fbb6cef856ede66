//! One entry: the token of one identity for one resource, and what goes on with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imdslet_core::contract::PodIdentity;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Missing, Outcome};
use crate::fault::Fault;
use crate::resource::Resource;
use crate::source::Token;

/// How soon after a token the next one is fetched for a client that does not want a held one.
const ANEW_AFTER: Duration = Duration::from_secs(5);

pub(super) struct Entry {
    pub(super) identity: PodIdentity,
    pub(super) resource: Resource,
    pub(super) token: Option<Arc<Token>>,
    /// When the token was fetched.
    pub(super) fetched: Option<Instant>,
    /// Whether the token was given to anybody. Only such a one is refreshed unasked.
    pub(super) in_use: bool,
    /// How often a token was given since the last summary.
    pub(super) given: u64,
    pub(super) flight: Option<Flight>,
    pub(super) failure: Option<Failure>,
    pub(super) used: u64,
}

/// A fetch on its way.
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) outcome: watch::Receiver<Option<Outcome>>,
    pub(super) task: AbortHandle,
}

/// The failures since the last token.
pub(super) struct Failure {
    pub(super) fault: Arc<Fault>,
    pub(super) count: u32,
    /// Not before then is Entra ID asked again.
    pub(super) retry_at: Instant,
}

impl Entry {
    pub(super) fn new(identity: PodIdentity, resource: Resource) -> Self {
        Self {
            identity,
            resource,
            token: None,
            fetched: None,
            in_use: false,
            given: 0,
            flight: None,
            failure: None,
            used: 0,
        }
    }

    pub(super) fn is_for(&self, identity: &PodIdentity, resource: &Resource) -> bool {
        self.resource == *resource && self.is_of(identity)
    }

    /// Whether it is of `identity`. All of an identity that Entra ID's answer depends on must be
    /// the same, so that an edited AzureIdentity is not answered with a token of what it was
    /// before.
    pub(super) fn is_of(&self, identity: &PodIdentity) -> bool {
        let own = &self.identity;
        own.client_id == identity.client_id
            && own.name == identity.name
            && own.source == identity.source
            && own.tenant_id == identity.tenant_id
            && own.auxiliary_tenant_ids == identity.auxiliary_tenant_ids
            && own.secret == identity.secret
    }

    pub(super) fn valid(&self, now: SystemTime) -> Option<&Arc<Token>> {
        self.token.as_ref().filter(|token| token.is_valid(now))
    }

    pub(super) fn is_fetching(&self) -> bool {
        self.flight.as_ref().is_some_and(Flight::is_live)
    }

    pub(super) fn may_ask(&self) -> bool {
        self.failure.as_ref().is_none_or(|failure| Instant::now() >= failure.retry_at)
    }

    pub(super) fn may_fetch_anew(&self) -> bool {
        self.may_ask() && self.fetched.is_none_or(|fetched| fetched.elapsed() >= ANEW_AFTER)
    }

    /// How long until the token is to be refreshed unasked, if at all.
    pub(super) fn refresh_in(&self, now: SystemTime) -> Option<Duration> {
        let token = self.valid(now)?;
        if !self.in_use || self.is_fetching() {
            return None;
        }
        let pause = self.failure.as_ref().map_or(Duration::ZERO, |failure| {
            failure.retry_at.saturating_duration_since(Instant::now())
        });
        Some(token.due_in(now).max(pause))
    }
}

impl Flight {
    /// Not so after a panic of its task: the sender is gone and there is no outcome.
    fn is_live(&self) -> bool {
        self.outcome.has_changed().is_ok()
    }
}

impl Failure {
    pub(super) fn missing(&self) -> Missing {
        let pause = self.retry_at.saturating_duration_since(Instant::now());
        Missing::Fault { fault: Arc::clone(&self.fault), pause: pause.max(Duration::from_secs(1)) }
    }
}
