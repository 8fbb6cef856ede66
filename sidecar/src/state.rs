//! What `GET /state` tells: names, results and times; no ids, no tokens.

use imdslet_core::contract::FORMAT;
use serde::Serialize;

use crate::cache::{Cache, Held};
use crate::volume::View;

/// The sidecar's state, for people and for the startup probe.
#[derive(Serialize)]
pub(crate) struct State<'a> {
    version: u32,
    hold: bool,
    identities: Vec<IdentityState<'a>>,
    /// Why `identities.json` cannot be used; absent where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct IdentityState<'a> {
    name: &'a str,
    source: &'static str,
    default: bool,
    tokens: Vec<TokenState>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenState {
    resource: String,
    /// Seconds since the Unix epoch.
    expires_on: Option<u64>,
    /// `fetched` or `failed`; none while the first fetch is on its way.
    last_result: Option<&'static str>,
    reason: Option<&'static str>,
}

impl<'a> State<'a> {
    pub(crate) fn of(view: &'a View, cache: &Cache) -> Self {
        let identities = view.pod.as_ref().map_or(&[][..], |pod| &pod.identities);
        let identities = identities.iter().enumerate().map(|(at, identity)| IdentityState {
            name: &identity.name,
            source: identity.source.as_str(),
            default: at == 0,
            tokens: cache.held(identity).into_iter().map(TokenState::from).collect(),
        });
        Self {
            version: FORMAT,
            hold: view.pod.as_ref().is_some_and(|pod| pod.hold),
            identities: identities.collect(),
            problem: view.problem.as_deref(),
        }
    }
}

impl From<Held> for TokenState {
    fn from(held: Held) -> Self {
        let Held { resource, expires_on, last_failure: reason } = held;
        let last_result = match (reason, expires_on) {
            (Some(_), _) => Some("failed"),
            (None, Some(_)) => Some("fetched"),
            (None, None) => None,
        };
        Self { resource, expires_on, last_result, reason }
    }
}
