//! The answers on the wire: bodies that every SDK reads.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use uuid::Uuid;

use crate::cache::Missing;
use crate::request;
use crate::selection;
pub(crate) use token::{Written, token};

mod token;

/// The content type of all but the metrics.
const JSON: &str = "application/json; charset=utf-8";

/// A refusal or a failure, as a client meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// Stable name for logs and metrics.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
    /// The methods that are served where the one of the request is not.
    pub(crate) allow: Option<&'static str>,
}

/// Both styles at once: metadata service readers take the first two, App Service readers the
/// others.
#[derive(Serialize)]
struct ProblemBody<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(rename = "statusCode")]
    status_code: u16,
    message: &'a str,
    #[serde(rename = "correlationId")]
    correlation_id: &'a str,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        reason: &'static str,
        message: &(impl ToString + ?Sized),
    ) -> Self {
        Self { status, reason, message: message.to_string(), retry_after: None, allow: None }
    }

    /// The answer that tells it.
    pub(crate) fn answer(&self) -> Response {
        // Python, JS and Go take a 403 that says so for "no metadata service here".
        let message = if self.status == StatusCode::FORBIDDEN {
            without(&self.message, "unreachable")
        } else {
            self.message.clone()
        };
        let mut answer = json(
            self.status,
            &ProblemBody {
                error: error_code(self.status),
                error_description: &message,
                status_code: self.status.as_u16(),
                message: &message,
                correlation_id: &Uuid::new_v4().to_string(),
            },
        );
        let headers = answer.headers_mut();
        if let Some(pause) = self.retry_after {
            let whole = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(whole));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        answer
    }
}

impl From<request::Refusal> for Problem {
    fn from(refusal: request::Refusal) -> Self {
        use request::Refusal as R;
        let status = match refusal {
            R::ForeignHost
            | R::Forwarded(_)
            | R::WrongHeader(_)
            | R::UncheckedHeader(_)
            | R::LoopbackOnly(_) => StatusCode::FORBIDDEN,
            R::NotHere | R::OnlyMetrics => StatusCode::NOT_FOUND,
            R::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            R::FormTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            R::FormLate => StatusCode::REQUEST_TIMEOUT,
            R::NoHeader | R::Query(_) | R::NoResource | R::Resource(_) | R::FormCut => {
                StatusCode::BAD_REQUEST
            }
        };
        let allow = match refusal {
            R::Method(methods) => Some(methods),
            _ => None,
        };
        Self { allow, ..Self::new(status, refusal.reason(), &refusal) }
    }
}

impl From<selection::Refusal> for Problem {
    fn from(refusal: selection::Refusal) -> Self {
        use selection::Refusal as R;
        let status = match refusal {
            R::NotBoundYet => StatusCode::SERVICE_UNAVAILABLE,
            R::BindingLost | R::Unknown { .. } => StatusCode::BAD_REQUEST,
            R::Resource { .. } => StatusCode::FORBIDDEN,
        };
        let retry_after = refusal.retry_after();
        Self { retry_after, ..Self::new(status, refusal.reason(), &refusal) }
    }
}

impl From<Missing> for Problem {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Fault { fault, pause } => {
                let transient = fault.status().is_server_error()
                    || fault.status() == StatusCode::TOO_MANY_REQUESTS;
                Self {
                    retry_after: transient.then_some(pause),
                    ..Self::new(fault.status(), fault.reason(), &fault)
                }
            }
            Missing::TooMany { pause } => Self {
                retry_after: Some(pause),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    missing.reason(),
                    "too many other resources of this identity have no token; GET /state lists \
                     them and why; mend that, or ask for fewer",
                )
            },
            Missing::Dropped => {
                busy(missing.reason(), "the pod's identities changed meanwhile; ask again")
            }
            Missing::Full => {
                busy(missing.reason(), "the sidecar is busy with other tokens; ask again")
            }
        }
    }
}

/// What is over in a moment.
fn busy(reason: &'static str, message: &str) -> Problem {
    Problem {
        retry_after: Some(Duration::from_secs(1)),
        ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason, message)
    }
}

/// What Azure's metadata service tells of an identity at `/metadata/identity/info`.
pub(crate) fn info(tenant_id: &str) -> Response {
    #[derive(Serialize)]
    struct Info<'a> {
        #[serde(rename = "tenantId")]
        tenant_id: &'a str,
    }

    json(StatusCode::OK, &Info { tenant_id })
}

/// An answer with `body` as JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Strings and numbers always serialise; an empty body is what is left if that ever changes.
    let body = serde_json::to_vec(body).unwrap_or_default();
    whole(status, JSON, body.into())
}

/// The answer that tells what was counted, in Prometheus' text format.
pub(crate) fn metrics(text: String) -> Response {
    whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

fn whole(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let length = HeaderValue::from(body.len());
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let headers: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CONTENT_LENGTH, length),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    answer.headers_mut().extend(headers);
    answer
}

fn error_code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
            "invalid_request"
        }
        StatusCode::FORBIDDEN => "access_denied",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::TOO_MANY_REQUESTS => "too_many_requests",
        _ => "temporarily_unavailable",
    }
}

/// `text` with each `word`, in any letter case, left out.
fn without(text: &str, word: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    // ASCII lower case keeps every byte where it is.
    while let Some(at) = rest.to_ascii_lowercase().find(word) {
        kept.push_str(rest.get(..at).unwrap_or_default());
        kept.push('…');
        rest = rest.get(at + word.len()..).unwrap_or_default();
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) async fn read(answer: Response) -> (u16, serde_json::Value) {
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert_eq!(parts.headers[CONTENT_LENGTH], body.len().to_string());
        assert_eq!(parts.headers[CACHE_CONTROL], "no-store");
        (parts.status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_problem_is_told_in_both_styles() {
        let mut problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "R", "what is wrong");
        problem.retry_after = Some(Duration::from_millis(1200));
        let answer = problem.answer();
        assert_eq!(answer.headers()[RETRY_AFTER], "2");
        let (status, mut body) = read(answer).await;
        assert_eq!(status, 503);
        assert_eq!(body["correlationId"].as_str().unwrap().len(), 36);
        body["correlationId"] = "c".into();
        assert_eq!(
            body,
            serde_json::json!({
                "error": "temporarily_unavailable",
                "error_description": "what is wrong",
                "statusCode": 503,
                "message": "what is wrong",
                "correlationId": "c",
            })
        );
    }

    #[tokio::test]
    async fn who_is_to_ask_again_is_told_why() {
        for (missing, part) in [(Missing::Dropped, "identities changed"), (Missing::Full, "busy")] {
            let problem = Problem::from(missing);
            assert_eq!(problem.retry_after, Some(Duration::from_secs(1)));
            let (status, body) = read(problem.answer()).await;
            assert_eq!(status, 503);
            assert!(body["message"].as_str().unwrap().contains(part), "{body}");
        }
    }

    #[tokio::test]
    async fn a_403_never_says_unreachable() {
        let text = "identity web/Unreachable: host UNREACHABLE";
        let (_, body) = read(Problem::new(StatusCode::FORBIDDEN, "R", text).answer()).await;
        assert_eq!(body["message"], "identity web/…: host …");
        let (_, body) = read(Problem::new(StatusCode::BAD_REQUEST, "R", text).answer()).await;
        assert_eq!(body["message"], text);
    }

    #[tokio::test]
    async fn a_probe_reads_what_azure_says_to_it() {
        let problem = Problem::from(request::Refusal::NoHeader);
        let (status, body) = read(problem.answer()).await;
        assert_eq!(status, 400);
        assert_eq!(body["error"], "invalid_request");
        assert_eq!(body["error_description"], "Required metadata header not specified");
    }
}
