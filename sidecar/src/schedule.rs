//! When a token is refreshed, and when a failed fetch is tried again.

use std::time::{Duration, SystemTime};

/// The life of a token: when to refresh it, and when to stop serving it.
///
/// Wall-clock times, because that is what `expires_on` is and what the resource that receives the
/// token compares with. A monotonic deadline would be late by as long as the node was suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    refresh_at: SystemTime,
    expires_on: SystemTime,
    life: Duration,
}

/// A token that was received after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token had expired when it was received; compare the clocks of node and Entra ID")]
pub struct Expired;

impl Schedule {
    /// Plans the life of a token received at `now`.
    ///
    /// Refreshing starts at 70 % of the remaining life, so that an outage of Entra ID shorter than
    /// the other 30 % is never seen by the pod: 18 minutes for a one-hour token.
    ///
    /// * `now` and `expires_on` are wall-clock times; `expires_on` is the moment after which the
    ///   resource refuses the token.
    ///
    /// # Errors
    ///
    /// [`Expired`] where `expires_on` is not after `now`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use imdslet_sidecar::schedule::Schedule;
    ///
    /// let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    /// let plan = Schedule::new(now, now + Duration::from_secs(3600))?;
    /// assert!(!plan.is_due(now + Duration::from_secs(2519)));
    /// assert!(plan.is_due(now + Duration::from_secs(2520)));
    /// assert_eq!(plan.remaining(now + Duration::from_secs(2520)), Duration::from_secs(1080));
    /// # Ok::<(), imdslet_sidecar::schedule::Expired>(())
    /// ```
    pub fn new(now: SystemTime, expires_on: SystemTime) -> Result<Self, Expired> {
        let life = expires_on.duration_since(now).map_err(|_| Expired)?;
        if life.is_zero() {
            return Err(Expired);
        }
        Ok(Self { refresh_at: now + life / 10 * 7, expires_on, life })
    }

    /// Refreshes later, by up to 5 % of the life: `seed` 0 not at all, 255 by all of it.
    ///
    /// The pods of one Deployment start together; without this they would ask Entra ID together
    /// once an hour.
    #[must_use]
    pub fn spread(self, seed: u8) -> Self {
        Self { refresh_at: self.refresh_at + self.life / 20 / 255 * u32::from(seed), ..self }
    }

    /// Whether it is time to refresh the token.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        now >= self.refresh_at
    }

    /// How long until it is time to refresh the token; zero once it is.
    pub(crate) fn due_in(&self, now: SystemTime) -> Duration {
        self.refresh_at.duration_since(now).unwrap_or_default()
    }

    /// How long the token may still be served; zero once it has expired.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.expires_on.duration_since(now).unwrap_or_default()
    }

    /// When the token expires.
    #[must_use]
    pub fn expires_on(&self) -> SystemTime {
        self.expires_on
    }
}

/// How long to leave Entra ID alone after the `failures`-th failure in a row.
///
/// One second, doubled each time. Without a token (`held` is `None`) at most ten seconds: people
/// wait for it, and the operator who has just mended the cause does too. With a token that lives
/// for `held`, at most a minute and not beyond its end. What Entra ID itself asked for in
/// `Retry-After` counts where it is longer, up to an hour.
pub(crate) fn pause(
    failures: u32,
    held: Option<Duration>,
    retry_after: Option<Duration>,
) -> Duration {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST_WITHOUT: Duration = Duration::from_secs(10);
    const LONGEST_WITH: Duration = Duration::from_mins(1);
    const LONGEST_ASKED: Duration = Duration::from_hours(1);

    let doubled = SHORTEST.saturating_mul(1 << failures.saturating_sub(1).min(10));
    let own = match held {
        None => doubled.min(LONGEST_WITHOUT),
        Some(life) => doubled.min(LONGEST_WITH).min(life.max(SHORTEST)),
    };
    own.max(retry_after.unwrap_or_default().min(LONGEST_ASKED))
}

/// Whole seconds since the Unix epoch.
pub(crate) fn epoch(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_token_is_served_to_its_last_second_and_not_beyond() {
        let plan = Schedule::new(NOW, NOW + seconds(100)).unwrap();
        assert_eq!(plan.remaining(NOW + seconds(99)), seconds(1));
        assert_eq!(plan.remaining(NOW + seconds(100)), Duration::ZERO);
        assert_eq!(plan.remaining(NOW + seconds(500)), Duration::ZERO);
        assert_eq!(Schedule::new(NOW, NOW), Err(Expired));
        assert_eq!(Schedule::new(NOW + seconds(1), NOW), Err(Expired));
    }

    #[test]
    fn spreading_keeps_the_refresh_between_70_and_75_percent() {
        let plan = Schedule::new(NOW, NOW + seconds(1000)).unwrap();
        for seed in 0..=255 {
            let spread = plan.spread(seed);
            assert!(!spread.is_due(NOW + seconds(699)), "{seed}");
            assert!(spread.is_due(NOW + seconds(750)), "{seed}");
        }
        assert!(!plan.spread(255).is_due(NOW + seconds(749)));
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let cases = [
            (1, None, None, 1),
            (2, None, None, 2),
            (4, None, None, 8),
            (5, None, None, 10),
            (u32::MAX, None, None, 10),
            (1, None, Some(30), 30),
            (5, None, Some(3), 10),
            (1, None, Some(1_000_000), 3600),
            (9, Some(1000), None, 60),
            (9, Some(20), None, 20),
            (9, Some(0), None, 1),
            (1, Some(1000), Some(120), 120),
        ];
        for (failures, held, asked, expected) in cases {
            assert_eq!(
                pause(failures, held.map(seconds), asked.map(seconds)),
                seconds(expected),
                "{failures} {held:?} {asked:?}"
            );
        }
    }

    /// From a second to a day, in nanoseconds: a life is hardly ever a number of whole seconds.
    fn life() -> impl Strategy<Value = Duration> {
        (1_000_000_000..86_400_000_000_000_u64).prop_map(Duration::from_nanos)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn each_life_is_refreshed_once_it_is_due_and_ends_once(
            life in life(),
            seed in any::<u8>(),
            moments in prop::collection::vec(0.0..1.5_f64, 2..20),
        ) {
            let plan = Schedule::new(NOW, NOW + life).unwrap().spread(seed);
            // Between 70 and 75 %, less what the divisions leave over.
            let slack = Duration::from_micros(1);
            prop_assert!(!plan.is_due(NOW + life.mul_f64(0.7) - slack));
            prop_assert!(plan.is_due(NOW + life.mul_f64(0.75) + slack));

            let mut moments: Vec<_> = moments.into_iter().map(|share| life.mul_f64(share)).collect();
            moments.sort_unstable();
            for two in moments.windows(2) {
                let (earlier, later) = (NOW + two[0], NOW + two[1]);
                prop_assert!(!plan.is_due(earlier) || plan.is_due(later));
                prop_assert!(plan.remaining(earlier) >= plan.remaining(later));
                prop_assert!(plan.due_in(earlier) >= plan.due_in(later));
            }
            for moment in moments {
                let at = NOW + moment;
                prop_assert_eq!(plan.remaining(at), life.saturating_sub(moment));
                prop_assert_eq!(plan.due_in(at).is_zero(), plan.is_due(at));
                // What has ended was due before, so that nobody waits for it in vain.
                prop_assert!(plan.is_due(at) || !plan.remaining(at).is_zero());
            }
        }

        #[test]
        fn a_later_seed_refreshes_no_earlier(life in life(), seed in 0..255_u8) {
            let plan = Schedule::new(NOW, NOW + life).unwrap();
            prop_assert!(plan.spread(seed).due_in(NOW) <= plan.spread(seed + 1).due_in(NOW));
        }

        #[test]
        fn pauses_stay_within_their_bounds_and_never_shrink(
            failures in any::<u32>(),
            held in prop::option::of(0..100_000_u64),
            asked in prop::option::of(any::<u64>()),
        ) {
            let pause = |failures| pause(failures, held.map(seconds), asked.map(seconds));
            let got = pause(failures);
            prop_assert!(got >= seconds(1) && got <= seconds(3600), "{got:?}");
            prop_assert!(got >= seconds(asked.unwrap_or_default().min(3600)), "{got:?}");
            prop_assert!(got <= pause(failures.saturating_add(1)), "{got:?}");
            if asked.is_none() {
                // A token that is held is not outlived by the pause, but for the shortest of all.
                let most = held.map_or(10, |life| life.clamp(1, 60));
                prop_assert!(got <= seconds(most), "{got:?}");
            }
        }
    }
}
