//! Where tokens come from, as the cache sees it.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use imdslet_core::contract::PodIdentity;

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

/// A token as it is held and served.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "it is the name of the field on the wire")]
pub(crate) struct Token {
    pub(crate) access_token: Secret,
    pub(crate) schedule: Schedule,
    /// The `nbf` of the token, else when it was received; seconds since the Unix epoch.
    pub(crate) not_before: u64,
    /// The `oid` of the token: which principal it is for.
    pub(crate) object_id: Option<String>,
}

impl Token {
    /// Takes `fetched` into service at `now`; `seed` spreads its refresh.
    pub(crate) fn new(fetched: Fetched, now: SystemTime, seed: u8) -> Result<Self, Expired> {
        let Fetched { primary, auxiliary: _ } = fetched;
        let claims = Claims::of(primary.access_token.reveal());
        Ok(Self {
            schedule: Schedule::new(now, primary.expires_on)?.spread(seed),
            not_before: claims.nbf.unwrap_or_else(|| epoch(now)),
            object_id: claims.oid,
            access_token: primary.access_token,
        })
    }
}
