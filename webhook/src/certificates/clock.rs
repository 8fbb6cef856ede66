//! The time by which certificates are made and judged: the API server's, since it is the one that
//! verifies them.
//!
//! A replica on a node whose clock is wrong would otherwise make certificates that nobody takes, or
//! would replace good ones because it holds them for expired.

use std::time::{Duration, SystemTime};

use axum::http::{Request, header};
use k8s_openapi::jiff;
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, timeout};

use crate::config::{CLOCK_DEADLINE, CLOCK_LIFE};
use crate::readiness::Readiness;

/// The part of [`Readiness`].
const PART: &str = "clock";

/// What the two clocks may differ by before somebody is told. The API server says whole seconds.
const TOLERANCE: Duration = Duration::from_mins(1);

/// The API server's time, carried on between two questions.
pub(super) struct Clock {
    client: Client,
    told: Option<(Instant, SystemTime)>,
}

impl Clock {
    pub(super) fn new(client: Client) -> Self {
        Self { client, told: None }
    }

    /// The time. This machine's, as long as the API server has not said any.
    pub(super) async fn now(&mut self, readiness: &Readiness) -> SystemTime {
        let is_old = |(asked, _): &(Instant, SystemTime)| asked.elapsed() >= CLOCK_LIFE;
        if self.told.as_ref().is_none_or(is_old)
            && let Some(time) = self.ask().await
        {
            self.told = Some((Instant::now(), time));
            compare(SystemTime::now(), time, readiness);
        }
        self.told.map_or_else(SystemTime::now, |(asked, time)| time + asked.elapsed())
    }

    async fn ask(&self) -> Option<SystemTime> {
        let request = Request::get("/version").body(Body::empty()).ok()?;
        // Every answer has the time in its head, refusals too.
        let answer = timeout(CLOCK_DEADLINE, self.client.send(request)).await.ok()?.ok()?;
        time_of(answer.headers().get(header::DATE)?.to_str().ok()?)
    }
}

/// Tells a person if this machine's clock is wrong, or the API server's.
fn compare(ours: SystemTime, theirs: SystemTime, readiness: &Readiness) {
    let (difference, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if difference < TOLERANCE {
        readiness.clear(PART);
        return;
    }
    let minutes = difference.as_secs() / 60;
    let text = format!(
        "this node's clock is {minutes} minutes {word} the API server's; certificates go by the \
         latter. Compare the clocks"
    );
    if readiness.set(PART, false, &text) {
        tracing::warn!(
            minutes,
            word,
            reason = "ClockWrong",
            "the clocks of node and API server differ"
        );
    }
}

/// The time in a `Date` header.
fn time_of(date: &str) -> Option<SystemTime> {
    let time = jiff::fmt::rfc2822::parse(date).ok()?;
    // Whole seconds, the rest is cut off: by the next one, what was made a moment ago is valid.
    Some(SystemTime::from(time.timestamp()) + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_answer_has_the_time() {
        let seconds = |date| {
            let time = time_of(date)?;
            Some(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_778));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn a_wrong_clock_is_told_and_blocks_nobody() {
        let readiness = Readiness::default();
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000);
        let report = |ours| {
            compare(ours, theirs, &readiness);
            readiness.report()
        };
        assert_eq!(report(theirs + Duration::from_secs(59)), (true, String::new()));
        let (is_free, text) = report(theirs + Duration::from_hours(2));
        assert!(is_free && text.contains("120 minutes ahead of the API server's"), "{text}");
        let (_, text) = report(theirs - Duration::from_mins(3));
        assert!(text.contains("3 minutes behind the API server's"), "{text}");
        assert_eq!(report(theirs).1, "");
    }
}
