//! The claims of a token, read without checking who signed it: it is for Azure to believe them.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// What a token says, in its own order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claims(pub(super) Map<String, Value>);

impl Claims {
    /// Reads the middle part of a JWT.
    pub(super) fn of(token: &str) -> Result<Self, &'static str> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("it does not have three parts");
        };
        let payload = payload.trim_end_matches('=');
        let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| "its claims are not base64url")?;
        serde_json::from_slice(&json).map(Self).map_err(|_| "its claims are no JSON object")
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A claim that is a time, in seconds since the Unix epoch.
    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        let is_time = matches!(name, "exp" | "nbf" | "iat" | "xms_az_nwperimid_exp");
        let seconds = self.0.get(name).filter(|_| is_time)?.as_i64()?;
        Timestamp::from_second(seconds).ok()
    }
}

/// A time as people read it: `in 59 min`, `3 s ago`.
pub(super) fn relative(at: Timestamp, now: SystemTime) -> String {
    let Ok(now) = Timestamp::try_from(now) else { return String::new() };
    let left = at.duration_since(now);
    let length = length(left.unsigned_abs());
    if left.is_negative() { format!("{length} ago") } else { format!("in {length}") }
}

fn length(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn claims_keep_their_order_and_times_are_read() {
        let claims = Claims::of(&token(r#"{"iss":"i","aud":"a","exp":1790000000,"x":1}"#)).unwrap();
        let names: Vec<_> = claims.0.keys().collect();
        assert_eq!(names, ["iss", "aud", "exp", "x"]);
        assert_eq!(claims.time("exp").unwrap().to_string(), "2026-09-21T14:13:20Z");
        assert_eq!(claims.time("x"), None);
        assert_eq!(claims.text("aud"), Some("a"));
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        for (text, why) in [
            ("", "it does not have three parts"),
            ("a.b.c.d", "it does not have three parts"),
            ("a.!.c", "its claims are not base64url"),
            (&token("[]"), "its claims are no JSON object"),
        ] {
            assert_eq!(Claims::of(text), Err(why), "{text}");
        }
    }

    #[test]
    fn a_time_is_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        for (seconds, words) in [
            (0, "in 0 s"),
            (119, "in 119 s"),
            (3599, "in 59 min"),
            (86_399, "in 23 h"),
            (864_000, "in 10 days"),
            (-3, "3 s ago"),
        ] {
            let at = Timestamp::from_second(1_790_000_000 + seconds).unwrap();
            assert_eq!(relative(at, now), words);
        }
    }
}
