//! What went wrong between the sidecar and Entra ID, and what mends it. Pure.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::cause::{Attempt, Cause};
use crate::schedule::Expired;
use crate::sources::{BindingFault, MountedFault, NodeFault};

/// The longest part of Entra ID's own description that is passed on.
const LONGEST_DESCRIPTION: usize = 600;

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{field} of AzureIdentity {identity} is no {expected}; correct it there")]
    BadId { identity: String, field: &'static str, expected: &'static str },
    #[error("the pod's service account token cannot be read ({why}); look at the volume `imdslet`")]
    NoAssertion { why: String },
    #[error(transparent)]
    Mounted(#[from] MountedFault),
    #[error(transparent)]
    Node(#[from] NodeFault),
    #[error(transparent)]
    Binding(#[from] BindingFault),
    #[error("auxiliary tenant {tenant}: {fault}")]
    Auxiliary { tenant: String, fault: Box<Self> },
    #[error("{authority} cannot be asked ({why}); look at the pod's egress rules and DNS")]
    NoAnswer { authority: String, why: String },
    #[error("the certificate of {authority} is not trusted ({why}); give its CA with --extra-ca")]
    Untrusted { authority: String, why: String },
    #[error(
        "{authority} did not answer within {} s; look at the pod's egress rules and DNS",
        after.as_secs()
    )]
    Deadline { authority: String, after: Duration },
    #[error(
        "{authority} answered {status} with something that is not from Entra ID; look for a proxy \
         on the way, or correct the authority"
    )]
    BadAnswer { authority: String, status: u16 },
    #[error("Entra ID is unavailable (status {status}); it is asked again")]
    Unavailable { status: u16, retry_after: Option<Duration> },
    #[error("Entra ID asks for fewer requests; it is asked again later")]
    Throttled { retry_after: Option<Duration> },
    #[error(transparent)]
    Expired(#[from] Expired),
    // The remedy last, since it may be a command.
    #[error("{meaning} ({description}); {remedy}")]
    Refused { cause: &'static Cause, meaning: String, remedy: String, description: String },
}

/// What Entra ID answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    /// A token, where it is one.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: String,
    error_description: String,
    error_codes: Vec<u32>,
}

impl Fault {
    /// The status of the answer: 400 and 403 are never retried by clients, 429 and 503 are.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Mounted(fault) => fault.status(),
            Self::Node(fault) => fault.status(),
            Self::Binding(fault) => fault.status(),
            Self::Auxiliary { fault, .. } => fault.status(),
            Self::Refused { cause, .. } => cause.status,
            Self::BadId { .. } => StatusCode::BAD_REQUEST,
            Self::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoAssertion { .. }
            | Self::NoAnswer { .. }
            | Self::Untrusted { .. }
            | Self::Deadline { .. }
            | Self::BadAnswer { .. }
            | Self::Expired(_)
            | Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Stable name for logs and metrics. Never carries user input.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::BadId { .. } => "BadId",
            Self::Mounted(fault) => fault.reason(),
            Self::Node(fault) => fault.reason(),
            Self::Binding(fault) => fault.reason(),
            Self::Auxiliary { fault, .. } => fault.reason(),
            Self::NoAssertion { .. } => "NoServiceAccountToken",
            Self::NoAnswer { .. } => "NoAnswer",
            Self::Untrusted { .. } => "Untrusted",
            Self::Deadline { .. } => "Deadline",
            Self::BadAnswer { .. } => "BadAnswer",
            Self::Expired(_) => "Expired",
            Self::Unavailable { .. } => "Unavailable",
            Self::Throttled { .. } => "Throttled",
            Self::Refused { cause, .. } => cause.reason,
        }
    }

    /// How long Entra ID asked to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } | Self::Throttled { retry_after } => *retry_after,
            Self::Node(fault) => fault.retry_after(),
            Self::Auxiliary { fault, .. } => fault.retry_after(),
            _ => None,
        }
    }

    /// Whether Entra ID may say otherwise within seconds, for a credential that is just being made.
    pub(crate) fn may_be_about_to_end(&self) -> bool {
        matches!(self, Self::Refused { cause: Cause { passes: true, .. }, .. })
    }
}

/// Judges a `reply` that brought no token.
pub(crate) fn judge(reply: &Reply, attempt: &Attempt<'_>) -> Fault {
    let Reply { status, retry_after, .. } = *reply;
    if status == 429 {
        return Fault::Throttled { retry_after };
    }
    if status == 408 || status >= 500 {
        return Fault::Unavailable { status, retry_after };
    }
    let body: ErrorBody = serde_json::from_slice(&reply.body).unwrap_or_default();
    if !(400..500).contains(&status) || body.error.is_empty() {
        return Fault::BadAnswer { authority: attempt.authority.to_owned(), status };
    }
    let code = body.error_codes.first().copied().or_else(|| aadsts(&body.error_description));
    // 90033 and 90006 are Entra ID's own hiccups, whatever the status.
    if body.error == "temporarily_unavailable" || matches!(code, Some(90_033 | 90_006)) {
        return Fault::Unavailable { status, retry_after };
    }
    let cause = Cause::of(code, attempt.identity.source);
    Fault::Refused {
        cause,
        meaning: cause.meaning(attempt),
        remedy: cause.remedy(attempt),
        description: description(&body),
    }
}

/// The first line of what Entra ID says, without what could be a token.
fn description(body: &ErrorBody) -> String {
    let line = body.error_description.lines().next().unwrap_or_default();
    // Newer answers have it all in one line; what follows is for Microsoft's support.
    let line = line.split(" Trace ID:").next().unwrap_or_default();
    if line.trim().is_empty() {
        return body.error.chars().filter(|c| !c.is_control()).take(80).collect();
    }
    let words = line.split_whitespace().map(|word| {
        // Every JWT begins so: it is how `{"` looks in base64.
        if word.contains("eyJ") { "[redacted]" } else { word }
    });
    let mut short = String::new();
    for word in words {
        if short.len() + word.len() > LONGEST_DESCRIPTION {
            return short + " …";
        }
        if !short.is_empty() {
            short.push(' ');
        }
        short.push_str(word);
    }
    short.trim_end_matches('.').to_owned()
}

/// The number in `AADSTS700213: …`.
fn aadsts(description: &str) -> Option<u32> {
    let digits = description.split_once("AADSTS")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Claims;
    use crate::testing::identity;

    fn judge(status: u16, body: &str) -> Fault {
        let claims = Claims {
            iss: Some("https://issuer.example/".to_owned()),
            sub: Some("system:serviceaccount:web:app".to_owned()),
            aud: Some("api://AzureADTokenExchange".to_owned()),
            ..Claims::default()
        };
        let identity = identity("web/db", '1');
        let attempt = Attempt {
            identity: &identity,
            tenant: &identity.tenant_id,
            authority: "https://login.example",
            claims: &claims,
        };
        let retry_after = Some(Duration::from_secs(7));
        super::judge(
            &Reply { status, retry_after, body: body.as_bytes().to_vec().into() },
            &attempt,
        )
    }

    fn refusal(error: &str, code: u32) -> String {
        format!(
            r#"{{"error":"{error}","error_description":"AADSTS{code}: What \"Entra\" says. Trace ID: t\r\nCorrelation ID: c","error_codes":[{code}]}}"#
        )
    }

    #[test]
    fn each_code_has_its_status_and_its_remedy() {
        let cases = [
            (
                "invalid_client",
                700_213,
                400,
                "NoFederatedCredential",
                "system:serviceaccount:web:app",
            ),
            ("invalid_client", 70_021, 400, "NoFederatedCredential", "https://issuer.example/"),
            ("invalid_client", 70_025, 400, "NoFederatedCredential", "federated-credential create"),
            ("invalid_client", 700_211, 400, "WrongIssuer", "https://issuer.example/, exactly"),
            ("invalid_client", 700_212, 400, "WrongAudience", "api://AzureADTokenExchange"),
            ("unauthorized_client", 700_016, 400, "UnknownApplication", "spec.clientID"),
            ("invalid_request", 90_002, 400, "UnknownTenant", "at https://login.example"),
            ("invalid_resource", 500_011, 400, "UnknownResource", "`resource`"),
            ("invalid_client", 700_024, 400, "AssertionTime", "clocks"),
            ("access_denied", 53_003, 403, "DeniedByPolicy", "Conditional Access"),
            ("invalid_grant", 530_032, 403, "DeniedByPolicy", "web/db"),
            ("invalid_client", 7_002_137, 400, "WrongLetterCase", "exactly so"),
            ("invalid_client", 7_002_138, 400, "WrongLetterCase", "web:app"),
            ("invalid_client", 7_000_272, 400, "UnknownIssuerKey", "/openid/v1/jwks"),
            ("invalid_request", 50_166, 400, "IssuerUnreachable", "from the internet"),
            ("invalid_client", 700_027, 400, "WrongSignature", "/openid/v1/jwks"),
            ("invalid_client", 7_000_215, 400, "WrongSecret", "not its id"),
            ("invalid_client", 7_000_222, 400, "ExpiredSecret", "create a new one"),
            ("unauthorized_client", 7_000_229, 400, "UnknownApplication", "spec.clientID"),
            ("unauthorized_client", 7_000_112, 400, "DisabledApplication", "enable it"),
            ("invalid_scope", 1_002_012, 400, "UnknownResource", "`resource`"),
            ("unsupported_grant_type", 70_003, 400, "Refused", "/error"),
        ];
        for (error, code, status, reason, part) in cases {
            let fault = judge(400, &refusal(error, code));
            assert_eq!((fault.status().as_u16(), fault.reason()), (status, reason), "{code}");
            let message = fault.to_string();
            assert!(message.contains(part), "{message}");
            assert!(
                message.contains(&format!(" (AADSTS{code}: What \"Entra\" says); ")),
                "{message}"
            );
            assert_eq!(fault.retry_after(), None);
        }
    }

    #[test]
    fn the_code_is_also_read_from_the_description() {
        let fault =
            judge(401, r#"{"error":"invalid_client","error_description":"AADSTS700213: No."}"#);
        assert_eq!(fault.reason(), "NoFederatedCredential");
        assert_eq!(aadsts("AADSTS"), None);
        assert_eq!(aadsts("AADSTS99999999999: x"), None);
        assert_eq!(aadsts("none"), None);
    }

    #[test]
    fn what_may_pass_is_told_as_such() {
        let cases = [
            (429, "", 429, "Throttled", Some(7)),
            (500, "<html>", 503, "Unavailable", Some(7)),
            (503, &refusal("invalid_client", 700_213), 503, "Unavailable", Some(7)),
            (408, "", 503, "Unavailable", Some(7)),
            (400, &refusal("invalid_request", 90_033), 503, "Unavailable", Some(7)),
            (400, &refusal("temporarily_unavailable", 1), 503, "Unavailable", Some(7)),
            (400, "<html>blocked</html>", 503, "BadAnswer", None),
            (403, "{}", 503, "BadAnswer", None),
            (302, &refusal("invalid_client", 700_213), 503, "BadAnswer", None),
            (200, r#"{"access_token":""}"#, 503, "BadAnswer", None),
        ];
        for (status, body, expected, reason, retry_after) in cases {
            let fault = judge(status, body);
            assert_eq!((fault.status().as_u16(), fault.reason()), (expected, reason), "{body}");
            assert_eq!(fault.retry_after().map(|pause| pause.as_secs()), retry_after, "{body}");
        }
    }

    #[test]
    fn no_assertion_comes_back_in_a_message() {
        let body = r#"{"error":"invalid_client","error_description":"AADSTS50027: JWT token 'eyJhbGciOiJSUzI1NiJ9.e30.c2ln' is invalid.\r\nTrace ID: t"}"#;
        let message = judge(400, body).to_string();
        assert!(message.contains("(AADSTS50027: JWT token [redacted] is invalid)"), "{message}");
        let long = format!(r#"{{"error":"e","error_description":"{}"}}"#, "word ".repeat(1000));
        assert!(judge(400, &long).to_string().len() < 800);
        assert!(judge(400, r#"{"error":"odd"}"#).to_string().contains(" (odd); "));
    }
}
