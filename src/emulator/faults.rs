//! Calls that go wrong on demand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

/// Shares are counted in millionths: sums of floating point numbers would drift.
const MILLION: u64 = 1_000_000;

/// What happens to a call that is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// How long the answer waits.
    pub(super) delay: Duration,
    /// The answer, instead of the right one.
    pub(super) status: Option<StatusCode>,
    /// Seconds for the header `Retry-After`.
    pub(super) retry_after: Option<u32>,
}

/// Chooses calls evenly and in the same order in every run: of a share of 0.1 each tenth.
#[derive(Debug)]
pub(super) struct Faults {
    fault: Fault,
    millionths: u64,
    calls: AtomicU64,
}

impl Faults {
    /// `share` lies between 0 and 1.
    pub(super) fn new(fault: Fault, share: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of at most 1 gives at most a million"
        )]
        let millionths = (share.clamp(0.0, 1.0) * MILLION as f64).round() as u64;
        Self { fault, millionths, calls: AtomicU64::new(0) }
    }

    /// Counts a call; its fault, if it is chosen.
    pub(super) fn next(&self) -> Option<Fault> {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        // Whole faults due after this call, less those due before it.
        let due = |calls: u64| calls.wrapping_mul(self.millionths) / MILLION;
        (due(before.wrapping_add(1)) > due(before)).then_some(self.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_exact_and_even() {
        let fault = Fault { delay: Duration::ZERO, status: None, retry_after: None };
        for (share, expected) in [
            (0.0, "----------"),
            (0.1, "---------x"),
            (0.25, "---x---x--"),
            (0.5, "-x-x-x-x-x"),
            (1.0, "xxxxxxxxxx"),
        ] {
            let faults = Faults::new(fault, share);
            let got: String =
                (0..10).map(|_| if faults.next().is_some() { 'x' } else { '-' }).collect();
            assert_eq!(got, expected, "{share}");
        }
        let faults = Faults::new(fault, 0.1);
        assert_eq!((0..100_000).filter(|_| faults.next().is_some()).count(), 10_000);
    }
}
