//! What an answer means, and what mends it where it is no token.

use std::time::SystemTime;

use imdslet_core::names::LINK_LOCAL;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::claims::Claims;
use super::request::Protocol;

/// What came back.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
    pub(super) retry_after: Option<&'a str>,
}

/// A token, and what was said of it. It has no `Debug`, so that it reaches no log.
pub(super) struct Token {
    text: String,
    pub(super) kind: Option<String>,
    /// As the endpoint writes it.
    pub(super) expires_on: Option<String>,
    pub(super) claims: Result<Claims, &'static str>,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The endpoint's own words.
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Answer<'_> {
    pub(super) fn read(&self, protocol: Protocol) -> Result<Token, Refused> {
        let body = serde_json::from_slice::<Map<String, Value>>(self.body).ok();
        let token = body.as_ref().and_then(|body| text(body, "access_token"));
        match (body.as_ref(), token) {
            (Some(body), Some(token)) if self.status == 200 => Ok(Token {
                claims: Claims::of(&token),
                text: token,
                kind: text(body, "token_type"),
                expires_on: text(body, "expires_on"),
            }),
            _ => Err(self.refused(body.as_ref(), protocol)),
        }
    }

    fn refused(&self, body: Option<&Map<String, Value>>, protocol: Protocol) -> Refused {
        let words = body.and_then(|body| {
            ["message", "error_description", "error"].iter().find_map(|name| text(body, name))
        });
        let is_ours = body.is_some_and(|body| body.contains_key("correlationId"));
        let message = words.unwrap_or_else(|| "the answer has no words of its own".to_owned());
        let message = format!("the endpoint answers {}: {message}", self.status);
        Refused { message, remedy: self.remedy(protocol, body.is_some(), is_ours) }
    }

    fn remedy(&self, protocol: Protocol, is_json: bool, is_ours: bool) -> String {
        let wait = || match self.retry_after {
            Some(seconds) => format!("ask again in {seconds} s"),
            None => "ask again in a few seconds".to_owned(),
        };
        match self.status {
            _ if !is_json => {
                "that is no JSON, so no token endpoint: is another program there? In a pod compare \
                 the port with `kubectl get pod -o yaml`, container imdslet"
                    .to_owned()
            }
            200 => "that is no token: is another program there?".to_owned(),
            401 | 403 => match protocol.secret() {
                Some((_, variable)) => format!(
                    "if {variable} is from elsewhere, run this with the environment of a container \
                     of the pod; otherwise the resource is not among the identity's \
                     imdslet.dev/allowed-resources"
                ),
                None => "the resource is not among the identity's imdslet.dev/allowed-resources, \
                         or the endpoint is not for this host"
                    .to_owned(),
            },
            404 => {
                "the path is not one of a token endpoint: compare --endpoint and --as".to_owned()
            }
            429 => format!("Entra ID asks for fewer requests; {}", wait()),
            500.. => format!(
                "`kubectl describe pod` says what the sidecar waits for; its /state has the last \
                 result of each identity; {}",
                wait()
            ),
            _ if is_ours => "GET /state of the same endpoint lists the identities of the pod; \
                             `kubectl describe pod` has the Events of a binding that is lost"
                .to_owned(),
            _ => "compare the resource and the ids with what exists in Azure".to_owned(),
        }
    }
}

impl Token {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Until when it is valid: by its claims, or else as the endpoint says.
    pub(super) fn expires(&self) -> Option<Timestamp> {
        if let Ok(claims) = &self.claims {
            return claims.time("exp");
        }
        let seconds = self.expires_on.as_deref()?.parse().ok()?;
        Timestamp::from_second(seconds).ok()
    }

    /// What a client might stumble over.
    pub(super) fn doubts(&self, resource: &str, now: SystemTime) -> Vec<String> {
        let claims = match &self.claims {
            Ok(claims) => claims,
            Err(why) => {
                return vec![format!(
                    "the token cannot be read ({why}): az and older .NET need one that can"
                )];
            }
        };
        let mut doubts = Vec::new();
        let same = |audience: &str| {
            audience.trim_end_matches('/').eq_ignore_ascii_case(resource.trim_end_matches('/'))
        };
        if let Some(audience) = claims.text("aud").filter(|audience| !same(audience)) {
            doubts.push(format!("the token is for {audience}, and {resource} was asked for"));
        }
        if let (Some(end), Ok(now)) = (self.expires(), Timestamp::try_from(now))
            && end <= now
        {
            doubts.push("the token has expired: compare the clocks".to_owned());
        }
        doubts
    }
}

/// What to look at where nobody answers.
pub(super) fn unreached(url: &str) -> String {
    let uri: Option<http::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    if host == LINK_LOCAL {
        format!(
            "only Azure's own machines and pods in link-local mode have {LINK_LOCAL}; in any other \
             pod of imdslet the variables name the endpoint: run this with the environment of one \
             of its containers"
        )
    } else if matches!(host, "127.0.0.1" | "localhost" | "[::1]") {
        "in a pod: does it have the label aadpodidbinding, and the container imdslet? A pod from \
         before the label must be made anew. Elsewhere: `imdslet emulate imds` serves one"
            .to_owned()
    } else {
        "the endpoint of imdslet is on loopback alone".to_owned()
    }
}

/// A field that is a text or a number.
fn text(body: &Map<String, Value>, name: &str) -> Option<String> {
    match body.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        // Azure's own services wrap it.
        Value::Object(inner) => text(inner, "message"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str, protocol: Protocol) -> Result<Token, Refused> {
        Answer { status, body: body.as_bytes(), retry_after: Some("5") }.read(protocol)
    }

    #[test]
    fn a_token_is_taken_from_any_style_of_answer() {
        let token = "e30.eyJleHAiOjE3OTAwMDAwMDAsImF1ZCI6ImEifQ.c2ln";
        for expires in [r#""1790000000""#, "1790000000", r#""09/21/2026 14:13:20 +00:00""#] {
            let body = format!(r#"{{"access_token":"{token}","expires_on":{expires}}}"#);
            let read = read(200, &body, Protocol::Imds).ok().unwrap();
            assert_eq!(read.text(), token);
            assert_eq!(read.expires().unwrap().as_second(), 1_790_000_000);
            let now = SystemTime::UNIX_EPOCH;
            assert!(read.doubts("A/", now).is_empty());
            let doubts =
                read.doubts("b", SystemTime::now() + std::time::Duration::from_hours(99999));
            assert_eq!(doubts[0], "the token is for a, and b was asked for");
            assert_eq!(doubts[1], "the token has expired: compare the clocks");
        }
        let opaque = read(200, r#"{"access_token":"x","expires_on":"17"}"#, Protocol::Imds);
        let opaque = opaque.ok().unwrap();
        assert_eq!(opaque.expires().unwrap().as_second(), 17);
        assert_eq!(opaque.doubts("a", SystemTime::now()).len(), 1);
    }

    /// (status, body, as who, what is in the message, what is in the remedy)
    #[test]
    fn each_refusal_has_its_remedy() {
        let ours = r#"{"error":"e","error_description":"d","message":"no such id","statusCode":1,"correlationId":"c"}"#;
        let cases = [
            (400, ours, Protocol::Imds, "no such id", "lists the identities"),
            (400, r#"{"error":{"message":"in"}}"#, Protocol::Imds, ": in", "exists in Azure"),
            (403, ours, Protocol::AppService, "no such id", "IDENTITY_HEADER"),
            (401, ours, Protocol::AppService2017, "no such id", "MSI_SECRET"),
            (403, ours, Protocol::Imds, "no such id", "allowed-resources"),
            (404, ours, Protocol::Imds, "no such id", "--endpoint"),
            (429, ours, Protocol::Imds, "no such id", "ask again in 5 s"),
            (503, ours, Protocol::Imds, "no such id", "kubectl describe pod"),
            (200, "<html>", Protocol::Imds, "no words", "no JSON"),
            (200, "{}", Protocol::Imds, "no words", "no token"),
        ];
        for (status, body, protocol, message, remedy) in cases {
            let refused = read(status, body, protocol).err().unwrap();
            assert!(refused.message.contains(message), "{refused:?}");
            assert!(refused.message.contains(&status.to_string()), "{refused:?}");
            assert!(refused.remedy.contains(remedy), "{refused:?}");
        }
    }

    #[test]
    fn where_nobody_answers_the_place_says_what_to_look_at() {
        for (url, word) in [
            ("http://169.254.169.254/metadata", "link-local"),
            ("http://127.0.0.1:2579/msi/token", "aadpodidbinding"),
            ("http://[::1]:2579/", "aadpodidbinding"),
            ("https://example.org/", "loopback alone"),
        ] {
            assert!(unreached(url).contains(word), "{url}");
        }
    }
}
