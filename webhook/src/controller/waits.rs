//! Waits: for a time that may not come, and before something is tried again.

use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Waits until `then`; without an end where there is no such time. It can be begun anew at any time.
pub(super) async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => pending().await,
    }
}

/// `first` the first time, then doubled each time, `last` at most.
pub(super) fn doubled(first: Duration, times: u32, last: Duration) -> Duration {
    let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(last)
}

/// Up to a quarter more, so that what failed together is not tried again together.
pub(super) fn spread(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    wait + wait.mul_f64(f64::from(u8::try_from(random & 0xff).unwrap_or_default()) / 1024.0)
}
