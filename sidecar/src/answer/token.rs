//! The answer that carries a token.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::response::Response;
use azure_core::time::OffsetDateTime;
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{JSON, whole};
use crate::request::Protocol;
use crate::schedule::epoch;
use crate::source::{Issued, Token};

/// What an answer says beside its tokens and its resource, in bytes and amply.
const BESIDE: usize = 512;

/// All strings: the one form that every recorded client reads (`docs/compatibility.md`).
#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    client_id: &'a str,
    expires_in: String,
    expires_on: String,
    ext_expires_in: String,
    not_before: String,
    resource: &'a str,
    token_type: &'a str,
}

/// The last answer that was written with a token, for those who ask again before a second is over:
/// writing it costs more than all else that a held token needs.
#[derive(Default)]
pub(crate) struct Written(Mutex<Option<Page>>);

struct Page {
    protocol: Protocol,
    /// The first and the last moment at which as many whole seconds are left as it says.
    from: SystemTime,
    until: SystemTime,
    body: Bytes,
}

/// By what a token's life is told.
#[derive(Clone, Copy)]
struct Clock {
    now: SystemTime,
    /// By how much the wall clock, by which the client goes, is behind `now`.
    skew: Duration,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written(…)")
    }
}

impl Page {
    fn is_good(&self, protocol: Protocol, now: SystemTime) -> bool {
        self.protocol == protocol && (self.from..=self.until).contains(&now)
    }
}

/// The answer that carries `token`, at `now`: an object, or an array that begins with it where
/// the identity has auxiliary tenants, as NMI answered them (v1.8, `pkg/nmi/server/server.go`).
pub(crate) fn token(token: &Token, protocol: Protocol, now: SystemTime) -> Response {
    let judged = token.at_least(now);
    if judged != now {
        // The clock was set back. By it the token would live too long.
        let skew = judged.duration_since(now).unwrap_or_default();
        return whole(StatusCode::OK, JSON, body(token, protocol, Clock { now: judged, skew }));
    }
    let mut written = token.written.0.lock().unwrap_or_else(PoisonError::into_inner);
    let body = match &*written {
        Some(page) if page.is_good(protocol, now) => page.body.clone(),
        _ => {
            let body = body(token, protocol, Clock { now, skew: Duration::ZERO });
            let until = now + of_this_second(token, now);
            *written = Some(Page { protocol, from: now, until, body: body.clone() });
            body
        }
    };
    whole(StatusCode::OK, JSON, body)
}

/// How much of the second is left in which each token of `token` lives for as many whole seconds
/// as at `now`.
fn of_this_second(token: &Token, now: SystemTime) -> Duration {
    let left = |issued: &Issued| issued.expires_on.duration_since(now).unwrap_or_default();
    let parts = issued(token).map(|issued| left(issued).subsec_nanos());
    Duration::from_nanos(parts.min().unwrap_or_default().into())
}

/// The token with those of the auxiliary tenants after it.
fn issued(token: &Token) -> impl Iterator<Item = &Issued> {
    std::iter::once(&token.primary).chain(&token.auxiliary)
}

/// Its memory is cleared when the last answer with it is sent and the token is dropped.
fn body(token: &Token, protocol: Protocol, clock: Clock) -> Bytes {
    // Twice, since some of its characters are escaped.
    let beside = BESIDE + 2 * token.resource().len();
    let lengths = issued(token).map(|issued| issued.access_token.reveal().len() + beside);
    // All at once: what grows leaves parts of a token behind.
    let mut text = Zeroizing::new(Vec::with_capacity(lengths.sum()));
    let mut bodies = issued(token).map(|issued| TokenBody::new(token, issued, protocol, clock));
    let written = match bodies.next() {
        Some(primary) if token.auxiliary.is_empty() => serde_json::to_writer(&mut *text, &primary),
        primary => {
            let all: Vec<_> = primary.into_iter().chain(bodies).collect();
            serde_json::to_writer(&mut *text, &all)
        }
    };
    // Strings always serialise; an empty body is what is left if that ever changes.
    if written.is_err() {
        text.clear();
    }
    Bytes::from_owner(text)
}

impl<'a> TokenBody<'a> {
    fn new(
        token: &'a Token,
        issued: &'a Issued,
        protocol: Protocol,
        Clock { now, skew }: Clock,
    ) -> Self {
        let remaining = issued.expires_on.duration_since(now).unwrap_or_default().as_secs();
        let epoch = epoch(issued.expires_on.checked_sub(skew).unwrap_or(issued.expires_on));
        Self {
            access_token: issued.access_token.reveal(),
            client_id: token.client_id(),
            expires_in: remaining.to_string(),
            expires_on: match protocol {
                Protocol::Imds | Protocol::AppService2019 => epoch.to_string(),
                // The clients that still ask for this version expect it
                // (`docs/compatibility.md`).
                Protocol::AppService2017 => date(epoch),
            },
            ext_expires_in: remaining.to_string(),
            not_before: issued.not_before.to_string(),
            resource: token.resource(),
            token_type: "Bearer",
        }
    }
}

/// `MM/dd/yyyy HH:mm:ss +00:00`, as App Service wrote it in 2017.
fn date(epoch: u64) -> String {
    let time = i64::try_from(epoch)
        .ok()
        .and_then(|epoch| OffsetDateTime::from_unix_timestamp(epoch).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:02}/{:02}/{:04} {:02}:{:02}:{:02} +00:00",
        u8::from(time.month()),
        time.day(),
        time.year(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::tests::read;
    use crate::resource::Resource;
    use crate::secret::Secret;
    use crate::source::{Fetched, Received};
    use crate::testing::{identity, now, token as held};

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test]
    async fn a_token_is_told_in_strings() {
        let held = held("t.o.k", now(), Duration::from_hours(1));
        let now = now() + milliseconds(600_500);
        for (protocol, expires_on) in [
            (Protocol::Imds, "1800003600"),
            (Protocol::AppService2019, "1800003600"),
            (Protocol::AppService2017, "01/15/2027 09:00:00 +00:00"),
        ] {
            let (status, body) = read(token(&held, protocol, now)).await;
            assert_eq!(status, 200);
            assert_eq!(
                body,
                serde_json::json!({
                    "access_token": "t.o.k",
                    "client_id": "c0000000-0000-0000-0000-000000000001",
                    "expires_in": "2999",
                    "expires_on": expires_on,
                    "ext_expires_in": "2999",
                    "not_before": "1800000000",
                    "resource": "https://r/",
                    "token_type": "Bearer",
                })
            );
        }
    }

    fn received(token: &str, life: Duration) -> Received {
        Received { access_token: Secret::new(token), expires_on: now() + life }
    }

    fn taken(fetched: Fetched) -> Token {
        let resource = Resource::parse("r".to_owned()).unwrap();
        Token::new(fetched, &identity("web/db", '1'), &resource, now(), 0).unwrap()
    }

    #[tokio::test]
    async fn tokens_of_auxiliary_tenants_follow_the_primary_one_in_an_array() {
        let fetched = Fetched {
            primary: received("one", Duration::from_hours(1)),
            auxiliary: vec![received("two", Duration::from_mins(30))],
        };
        let held = taken(fetched);
        assert_eq!(held.schedule.remaining(now()), Duration::from_mins(30));
        let (_, body) = read(token(&held, Protocol::Imds, now())).await;
        let told = |at: usize| (body[at]["access_token"].clone(), body[at]["expires_in"].clone());
        assert_eq!(told(0), ("one".into(), "3600".into()));
        assert_eq!(told(1), ("two".into(), "1800".into()));
        assert_eq!(body.as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_answer_that_was_written_before_says_what_a_new_one_would() {
        let fetched = || Fetched {
            primary: received("one", milliseconds(9000)),
            auxiliary: vec![
                received("two", milliseconds(9300)),
                received("three", milliseconds(9999)),
            ],
        };
        let held = taken(fetched());
        let others = [Protocol::Imds, Protocol::AppService2019, Protocol::AppService2017];
        // Back as well as on: the clock may be set.
        let times = [0, 1, 299, 300, 301, 998, 999, 1000, 999, 300, 0, 5000, 4700, 4701, 9500];
        for protocol in others.into_iter().flat_map(|one| [one, one, Protocol::Imds]) {
            for time in times {
                let anew = taken(fetched());
                let at = now() + milliseconds(time);
                assert_eq!(
                    read(token(&held, protocol, at)).await,
                    read(token(&anew, protocol, at)).await,
                    "{protocol:?} {time}"
                );
            }
        }
    }

    #[tokio::test]
    async fn who_asks_again_within_a_second_is_given_what_was_written() {
        let held = held("t.o.k", now(), Duration::from_hours(1));
        let body = |time| {
            let answer = token(&held, Protocol::Imds, now() + milliseconds(time));
            async { axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap() }
        };
        let (first, again) = (body(1).await, body(1000).await);
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert_ne!(first.as_ptr(), body(1001).await.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_back_has_no_client_keep_a_token_too_long() {
        let held = held("t.o.k", now(), Duration::from_hours(1));
        tokio::time::advance(Duration::from_mins(10)).await;
        let (_, body) = read(token(&held, Protocol::Imds, now() + Duration::from_mins(10))).await;
        assert_eq!(
            (&body["expires_in"], &body["expires_on"]),
            (&"3000".into(), &"1800003600".into())
        );
        // It was 50 minutes ahead when the token came, and is right now.
        let right = now() + Duration::from_mins(10) - Duration::from_mins(50);
        for _ in 0..2 {
            let (_, body) = read(token(&held, Protocol::Imds, right)).await;
            assert_eq!(
                (&body["expires_in"], &body["expires_on"]),
                (&"3000".into(), &"1800000600".into())
            );
        }
    }

    #[test]
    fn dates_are_in_the_order_of_2017() {
        assert_eq!(date(0), "01/01/1970 00:00:00 +00:00");
        assert_eq!(date(1_709_251_199), "02/29/2024 23:59:59 +00:00");
        assert_eq!(date(u64::MAX), "01/01/1970 00:00:00 +00:00");
    }
}
