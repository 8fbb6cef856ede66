//! How fast pods are written.

use std::time::Duration;

use tokio::time::Instant;

use crate::controller::waits::spread;

/// The least time between two writes, when many are due: 160 to 200 pods a second. Each makes the
/// kubelet write files, and a sidecar ask Entra ID.
const INTERVAL: Duration = Duration::from_millis(5);

/// How far writes may run ahead of that: so many pods are written as fast as it goes.
const AHEAD: Duration = Duration::from_millis(5 * 100);

/// When the next pod may be written.
#[derive(Default)]
pub(super) struct Pace {
    /// When all writes so far would have been made, had each waited for its turn.
    spent: Option<Instant>,
}

impl Pace {
    /// Whether one may be written now.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.free_at().is_none_or(|at| at <= now)
    }

    /// One is written. Not in step, since what is written in step is acted upon in step.
    pub(super) fn take(&mut self, now: Instant) {
        let spent = self.spent.map_or(now, |spent| spent.max(now));
        self.spent = Some(spent + spread(INTERVAL));
    }

    /// When the next one may be written, if that was not always so.
    pub(super) fn free_at(&self) -> Option<Instant> {
        self.spent.map(|spent| spent.checked_sub(AHEAD).unwrap_or(spent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_are_written_at_once_and_the_others_one_after_another_and_not_in_step() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let began = now;
        let mut waits = Vec::new();
        for _ in 0..1000 {
            if !pace.is_free(now) {
                let at = pace.free_at().unwrap();
                waits.push(at - now);
                now = at;
            }
            pace.take(now);
        }
        assert!((890..=925).contains(&waits.len()), "{} have waited", waits.len());
        let most = INTERVAL.mul_f64(1.25);
        assert!(waits.iter().skip(1).all(|wait| (INTERVAL..=most).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != INTERVAL), "in step");
        let took = now - began;
        assert!(
            took > Duration::from_millis(4400) && took < Duration::from_millis(5700),
            "{took:?}"
        );
        // After a while there is room for a hundred again.
        let later = now + AHEAD * 2;
        let mut at_once = 0;
        while pace.is_free(later) {
            pace.take(later);
            at_once += 1;
        }
        assert!((80..=101).contains(&at_once), "{at_once}");
    }
}
