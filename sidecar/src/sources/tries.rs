//! When something that may be there in a moment is asked for again.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::fault::Fault;

/// What an answer takes, at most times. A try with less time left would end as one that nobody
/// answered, and hide what was answered before.
const LEAST: Duration = Duration::from_secs(2);

/// Tries until something comes, until there is a fault for which `is_passing` says no, or until what
/// is left before `ends` is no time for another try.
pub(super) async fn until<T, F: Future<Output = Result<T, Fault>>>(
    ends: Instant,
    is_passing: impl Fn(&Fault) -> bool,
    overdue: impl FnOnce() -> Fault,
    attempt: impl Fn() -> F,
) -> Result<T, Fault> {
    let mut tries = 0;
    let mut last = None;
    loop {
        let fault = match timeout_at(ends, attempt()).await {
            Ok(Ok(received)) => return Ok(received),
            // What was answered before says more than that nobody answers now.
            Ok(Err(fault)) if Instant::now() >= ends => return Err(last.unwrap_or(fault)),
            Ok(Err(fault)) => fault,
            Err(_) => return Err(last.unwrap_or_else(overdue)),
        };
        tries += 1;
        let left = ends.saturating_duration_since(Instant::now());
        match next_try(tries, left, fault.retry_after()) {
            Some(pause) if is_passing(&fault) => sleep(pause).await,
            _ => return Err(fault),
        }
        last = Some(fault);
    }
}

/// How long to wait before another try, when `tries` have failed and so much time is `left`: 1 s,
/// then twice as long each time, and not before what was `asked` in `Retry-After`. `None` where that
/// leaves no time for it.
fn next_try(tries: u32, left: Duration, asked: Option<Duration>) -> Option<Duration> {
    let own = Duration::from_secs(1 << tries.saturating_sub(1).min(10));
    let pause = own.max(asked.unwrap_or_default());
    (pause.saturating_add(LEAST) <= left).then_some(pause)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::sleep_until;

    use super::*;

    #[test]
    fn tries_are_spread_over_the_deadline_and_the_last_one_has_time() {
        for (tries, left, asked, pause) in [
            (1, 9, None, Some(1)),
            (2, 8, None, Some(2)),
            (3, 6, None, Some(4)),
            (4, 2, None, None),
            (1, 3, None, Some(1)),
            (1, 2, None, None),
            (2, 3, None, None),
            (1, 9, Some(0), Some(1)),
            (1, 9, Some(3), Some(3)),
            (1, 9, Some(7), Some(7)),
            (1, 9, Some(8), None),
            (1, 9, Some(u64::MAX), None),
            (u32::MAX, 9, None, None),
            (1, 0, None, None),
        ] {
            let seconds = Duration::from_secs;
            assert_eq!(
                next_try(tries, seconds(left), asked.map(seconds)),
                pause.map(seconds),
                "{tries} {left} {asked:?}"
            );
        }
    }

    /// The last try has the same deadline, and would say only that nobody has answered it.
    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_cut_does_not_hide_what_was_answered_before() {
        let ends = Instant::now() + Duration::from_secs(9);
        let late = || Fault::NoAnswer {
            authority: "https://login.example".to_owned(),
            why: String::new(),
        };
        let tries = Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            let answered = tries.get() == 1;
            async move {
                if answered {
                    return Err::<(), _>(Fault::Throttled { retry_after: None });
                }
                sleep_until(ends).await;
                Err(late())
            }
        };
        let fault = until(ends, |_| true, late, attempt).await.unwrap_err();
        assert_eq!((fault.reason(), tries.get(), Instant::now()), ("Throttled", 2, ends));
    }
}
