//! Type 0: the pod's service account token, exchanged through a federated credential.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use imdslet_core::contract::PodIdentity;
use imdslet_core::names::TOKEN_FILE;
use imdslet_core::serve::ServeArgs;
use tokio::time::{Instant, sleep, timeout_at};

use super::exchange::Exchange;
use crate::claims::Claims;
use crate::config::FETCH_DEADLINE;
use crate::fault::Fault;
use crate::resource::Resource;
use crate::secret::Secret;
use crate::source::{Fetched, Received};
use crate::transport::Post;

/// What Entra ID takes to answer, at most times. A try with less time left would end as one that
/// nobody answered, and hide what was answered before.
const LEAST: Duration = Duration::from_secs(2);

/// A federated credential that is being made with its pod is there within seconds, as a rule; so
/// until the deadline its absence is no answer yet.
pub(super) async fn fetch(
    args: &ServeArgs,
    https: &Arc<dyn Post>,
    identity: &PodIdentity,
    resource: &Resource,
) -> Result<Fetched, Fault> {
    let began = Instant::now();
    let mut tries = 0;
    let mut last = None;
    loop {
        let exchange = exchange(args, https, identity, resource);
        let fault = match timeout_at(began + FETCH_DEADLINE, exchange).await {
            Ok(Ok(received)) => return Ok(received.into()),
            Ok(Err(fault)) => fault,
            Err(_) => return Err(last.unwrap_or_else(|| overdue(args, identity))),
        };
        tries += 1;
        match next_try(tries, began.elapsed()) {
            Some(pause) if fault.may_be_about_to_end() => sleep(pause).await,
            _ => return Err(fault),
        }
        last = Some(fault);
    }
}

/// How long to wait before another try, when `tries` have failed and `elapsed` has gone by: 1 s,
/// then twice as long each time. `None` where the deadline leaves no time for it.
fn next_try(tries: u32, elapsed: Duration) -> Option<Duration> {
    let pause = Duration::from_secs(1 << tries.saturating_sub(1).min(10));
    (elapsed + pause + LEAST <= FETCH_DEADLINE).then_some(pause)
}

async fn exchange(
    args: &ServeArgs,
    https: &Arc<dyn Post>,
    identity: &PodIdentity,
    resource: &Resource,
) -> Result<Received, Fault> {
    let assertion = service_account_token(&args.dir.join(TOKEN_FILE))?;
    let exchange = Exchange {
        identity,
        tenant: &identity.tenant_id,
        authority: args.authority_of(&identity.name),
        resource,
        claims: &Claims::of(assertion.reveal()),
    };
    exchange.assertion(https, assertion).await
}

fn overdue(args: &ServeArgs, identity: &PodIdentity) -> Fault {
    let authority = args.authority_of(&identity.name).to_owned();
    Fault::Deadline { authority, after: FETCH_DEADLINE }
}

/// The service account token. The kubelet renews the file long before the token ends, so it is
/// read for each fetch.
pub(super) fn service_account_token(path: &Path) -> Result<Secret, Fault> {
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    match read.as_deref().map(str::trim) {
        Ok("") => Err(Fault::NoAssertion { why: format!("{} is empty", path.display()) }),
        Ok(token) => Ok(Secret::new(token)),
        Err(why) => Err(Fault::NoAssertion { why: format!("{}: {why}", path.display()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_spread_over_the_deadline_and_the_last_one_has_time() {
        let seconds = Duration::from_secs;
        for (tries, elapsed, pause) in [
            (1, 0, Some(1)),
            (2, 1, Some(2)),
            (3, 3, Some(4)),
            (4, 7, None),
            (1, 6, Some(1)),
            (1, 7, None),
            (2, 6, None),
            (u32::MAX, 0, None),
        ] {
            assert_eq!(next_try(tries, seconds(elapsed)), pause.map(seconds), "{tries} {elapsed}");
        }
    }
}
