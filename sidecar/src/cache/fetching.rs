//! The fetches of a cache: each has a task of its own, begun by a request or by the one timer that
//! refreshes what is in use.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use imdslet_core::contract::PodIdentity;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::entry::{Entry, Flight};
use super::{Cache, Outcome};
use crate::fault::Fault;
use crate::resource::Resource;
use crate::schedule::epoch;
use crate::source::Token;

/// When the clock is looked at again at the latest: it may be set, or the node may sleep.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

impl Cache {
    /// Refreshes the tokens that are in use when they are due. First `look` drops those of identities
    /// that are gone: no request may come to do it.
    pub(crate) async fn keep_fresh(self, look: impl Fn()) -> Infallible {
        loop {
            look();
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

    /// Starts the refreshes that are due, and says when to look again, if ever.
    fn refresh(&self) -> Option<Duration> {
        let now = (self.0.now)();
        let mut next = None;
        for entry in self.book().entries_mut() {
            let Some(pause) = entry.refresh_in(now) else { continue };
            if pause.is_zero() {
                let identity = entry.identity.clone();
                self.fly(entry, identity);
            } else {
                next = Some(next.unwrap_or(LOOK_AGAIN).min(pause));
            }
        }
        next
    }

    /// Starts a fetch for `entry`, as `identity` is now.
    pub(super) fn fly(&self, entry: &mut Entry, identity: PodIdentity) {
        let (tell, outcome) = watch::channel(None);
        let (cache, resource) = (self.clone(), entry.resource.clone());
        let number = self.0.flights.fetch_add(1, Ordering::Relaxed);
        let task = self.0.fetches.spawn(async move {
            let outcome = cache.fetch(&identity, &resource, number).await;
            // Nobody may be left to hear it; the entry has it.
            tell.send(Some(outcome)).ok();
        });
        entry.flight = Some(Flight { number, outcome, task: task.abort_handle() });
    }

    /// Fetches, enters the outcome into the book, and writes the audit line.
    async fn fetch(&self, identity: &PodIdentity, resource: &Resource, number: u64) -> Outcome {
        let began = Instant::now();
        let fetched = self.0.source.fetch(identity, resource).await;
        let now = (self.0.now)();
        let seed = Uuid::new_v4().as_bytes().first().copied().unwrap_or_default();
        let token = fetched
            .and_then(|fetched| Ok(Arc::new(Token::new(fetched, identity, resource, now, seed)?)));
        let took = began.elapsed();
        tell(identity, resource, &token, took);
        let mut book = self.book();
        book.count(identity, resource, &token, took);
        let outcome = book.settle(number, token.map_err(Arc::new), now);
        drop(book);
        self.0.changed.notify_one();
        outcome
    }
}

/// Writes the audit line of a fetch.
fn tell(
    identity: &PodIdentity,
    resource: &Resource,
    token: &Result<Arc<Token>, Fault>,
    duration: Duration,
) {
    let (name, resource) = (identity.name.as_str(), resource.start());
    match token {
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
}
