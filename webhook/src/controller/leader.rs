//! Which replica acts: the one that holds the Lease.
//!
//! As client-go's `leaderelection`: whether a Lease has run out is measured by the own clock, from
//! the moment in which it was last seen to change, so that the clocks of the replicas need not
//! agree. Every write names the version that it was decided on, so of two only one succeeds.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Error};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::NAME;
use super::access::{ask, is_conflict, report};
use crate::problem::Ask;

/// How long is waited for what. The defaults are those of client-go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long a Lease counts after it was last seen to change.
    pub(super) lease: Duration,
    /// How long after its last renewal a leader goes on. Less than `lease`, so that it has stopped
    /// before anybody else starts.
    pub(super) deadline: Duration,
    /// The time between two tries.
    pub(super) retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is nobody's, or its holder has not renewed it in time.
    Take,
    /// It is ours.
    Renew,
    /// Another replica holds it, at least for so long.
    Wait(Duration),
}

/// Decides what to do about a Lease whose content has been the same since `seen`.
fn decide(lease: Option<&LeaseSpec>, seen: Instant, me: &str, now: Instant) -> Step {
    let Some(lease) = lease else { return Step::Create };
    match lease.holder_identity.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == me => Step::Renew,
        Some(_) => {
            let seconds = lease.lease_duration_seconds.unwrap_or_default();
            let runs_out = seen + Duration::from_secs(seconds.try_into().unwrap_or_default());
            match runs_out.checked_duration_since(now) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => Step::Take,
            }
        }
    }
}

/// The Lease as it reads while `me` holds it.
fn held_by(me: &str, before: Option<&LeaseSpec>, timing: Timing, now: Timestamp) -> LeaseSpec {
    let is_mine = before.is_some_and(|before| before.holder_identity.as_deref() == Some(me));
    let transitions = before.and_then(|before| before.lease_transitions).unwrap_or_default();
    let seconds = timing.lease.as_secs().max(1);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
        acquire_time: match before {
            Some(before) if is_mine => before.acquire_time.clone(),
            _ => Some(MicroTime(now)),
        },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(match before {
            Some(_) if !is_mine => transitions.saturating_add(1),
            _ => transitions,
        }),
        ..before.cloned().unwrap_or_default()
    }
}

/// One replica that wants to lead.
pub(super) struct Elector {
    leases: Api<Lease>,
    me: String,
    timing: Timing,
    /// What the Lease said last, and since when.
    seen: Option<(LeaseSpec, Instant)>,
}

/// How a try has ended.
enum Tried {
    Held,
    HeldByAnother { wait: Duration },
}

impl Elector {
    pub(super) fn new(client: &Client, namespace: &str, me: &str, timing: Timing) -> Self {
        let leases = Api::namespaced(client.clone(), namespace);
        Self { leases, me: me.to_owned(), timing, seen: None }
    }

    /// Waits until the Lease is ours. Tells when the last renewal was begun.
    pub(super) async fn acquire(&mut self) -> Instant {
        loop {
            let begun = Instant::now();
            let wait = match timeout(self.timing.deadline, self.try_once()).await {
                Ok(Ok(Tried::Held)) => return begun,
                Ok(Ok(Tried::HeldByAnother { wait })) => wait.min(self.timing.retry),
                // Named where it was met.
                Ok(Err(_)) => self.timing.retry,
                Err(_) => {
                    tracing::warn!(lease = NAME, reason = "Timeout", "no answer about the Lease");
                    self.timing.retry
                }
            };
            sleep(wait).await;
        }
    }

    /// Renews the Lease for as long as that succeeds in time. Tells why it does not any more.
    pub(super) async fn keep(&mut self, mut renewed: Instant) -> &'static str {
        loop {
            // From the beginning of the last renewal that succeeded, since that is what the others
            // may have seen.
            let end = renewed + self.timing.deadline;
            sleep_until(end.min(Instant::now() + self.timing.retry)).await;
            let begun = Instant::now();
            let left = end.saturating_duration_since(begun);
            if left.is_zero() {
                return "RenewFailed";
            }
            // One answer that does not come must not use up all the time for trying again.
            match timeout(left.min(self.timing.deadline / 2), self.try_once()).await {
                Ok(Ok(Tried::Held)) => renewed = begun,
                Ok(Ok(Tried::HeldByAnother { .. })) => return "Taken",
                Ok(Err(_)) => {}
                Err(_) => {
                    tracing::warn!(lease = NAME, reason = "Timeout", "no answer about the Lease");
                }
            }
        }
    }

    /// Gives the Lease back, so that nobody has to wait until it runs out.
    pub(super) async fn release(&mut self) {
        let released = timeout(self.timing.retry, async {
            let Some(lease) = self.get().await? else { return Ok(()) };
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            if holder != Some(&self.me) {
                return Ok(());
            }
            let now = Timestamp::now();
            let mut spec = lease.spec.clone().unwrap_or_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(now));
            self.replace(Lease { spec: Some(spec), ..lease }).await
        });
        let reason = match released.await {
            Ok(Ok(())) => "Released",
            _ => "NotReleased",
        };
        tracing::info!(lease = NAME, reason, "gave the Lease back");
    }

    async fn try_once(&mut self) -> Result<Tried, Error> {
        let lease = self.get().await?;
        let now = Instant::now();
        let spec = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let since = self.observe(spec.as_ref(), now);
        let held = held_by(&self.me, spec.as_ref(), self.timing, Timestamp::now());
        let written = match (decide(spec.as_ref(), since, &self.me, now), lease) {
            (Step::Wait(wait), _) => return Ok(Tried::HeldByAnother { wait }),
            (Step::Take | Step::Renew, Some(lease)) => {
                self.replace(Lease { spec: Some(held), ..lease }).await
            }
            _ => self.create(held).await,
        };
        match written {
            Ok(()) => Ok(Tried::Held),
            // Another replica was quicker, or something touched the object: look again.
            Err(error) if is_conflict(&error) => {
                Ok(Tried::HeldByAnother { wait: self.timing.retry })
            }
            Err(error) => Err(error),
        }
    }

    /// Takes in what the Lease says; tells since when it says so.
    fn observe(&mut self, spec: Option<&LeaseSpec>, now: Instant) -> Instant {
        match (&self.seen, spec) {
            (Some((seen, since)), Some(spec)) if seen == spec => *since,
            (before, Some(spec)) => {
                let holder_of = |spec: &LeaseSpec| spec.holder_identity.clone().unwrap_or_default();
                let holder = holder_of(spec);
                let is_new = before.as_ref().is_none_or(|(seen, _)| holder_of(seen) != holder);
                if is_new && !holder.is_empty() && holder != self.me {
                    tracing::info!(lease = NAME, holder, reason = "Follower", "another leads");
                }
                self.seen = Some((spec.clone(), now));
                now
            }
            (_, None) => {
                self.seen = None;
                now
            }
        }
    }

    async fn get(&self) -> Result<Option<Lease>, Error> {
        named("get", self.leases.get_opt(NAME).await)
    }

    async fn create(&self, spec: LeaseSpec) -> Result<(), Error> {
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        let created = self.leases.create(&PostParams::default(), &lease).await;
        named("create", created.map(drop))
    }

    async fn replace(&self, lease: Lease) -> Result<(), Error> {
        let replaced = self.leases.replace(NAME, &PostParams::default(), &lease).await;
        named("update", replaced.map(drop))
    }
}

/// Names what has failed, unless another replica was just quicker.
fn named<T>(verb: &'static str, result: Result<T, Error>) -> Result<T, Error> {
    if let Err(error) = &result
        && !is_conflict(error)
    {
        let asked = ask(verb, "coordination.k8s.io", "leases");
        // The name of what is created plays no part in whether it is allowed.
        let name = (verb != "create").then_some(NAME);
        report(Ask { name, ..asked }, NAME, error);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "imdslet-controller-a";

    fn lease(holder: Option<&str>, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_left_to_its_holder_until_it_has_run_out() {
        let seen = Instant::now();
        let after = |seconds| seen + Duration::from_secs(seconds);
        let other = lease(Some("b"), 15);
        let cases = [
            ("none", None, 0, Step::Create),
            ("nobody's", Some(lease(None, 15)), 0, Step::Take),
            ("given back", Some(lease(Some(""), 1)), 0, Step::Take),
            ("ours", Some(lease(Some(ME), 15)), 0, Step::Renew),
            ("ours, and run out", Some(lease(Some(ME), 15)), 60, Step::Renew),
            ("another's", Some(other.clone()), 0, Step::Wait(Duration::from_secs(15))),
            (
                "another's, nearly run out",
                Some(other.clone()),
                14,
                Step::Wait(Duration::from_secs(1)),
            ),
            ("another's, run out", Some(other), 15, Step::Take),
            ("another's, without a duration", Some(lease(Some("b"), -1)), 0, Step::Take),
        ];
        for (name, lease, seconds, expected) in cases {
            assert_eq!(decide(lease.as_ref(), seen, ME, after(seconds)), expected, "{name}");
        }
    }

    #[test]
    fn a_leader_stops_before_its_lease_can_be_taken() {
        let timing = Timing::default();
        assert!(timing.retry < timing.deadline && timing.deadline < timing.lease);
    }

    #[test]
    fn a_renewal_keeps_who_got_it_when_and_a_take_over_is_counted() {
        let timing = Timing::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held_by("b", None, timing, at(1));
        assert_eq!((first.lease_transitions, first.lease_duration_seconds), (Some(0), Some(15)));
        let renewed = held_by("b", Some(&first), timing, at(2));
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(1))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(2))));
        let taken = held_by(ME, Some(&renewed), timing, at(3));
        assert_eq!(taken.acquire_time, Some(MicroTime(at(3))));
        assert_eq!(taken.lease_transitions, Some(1));
    }
}
