//! The HTTP around [`service`](crate::service).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use imdslet_core::index::Index;
use imdslet_core::settings::Settings;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::BODY_DEADLINE;
use crate::feed::Snapshot;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::service::{Decided, Reviewed, Unanswerable, advise, review};

/// The largest AdmissionReview that is read, in bytes. An object of the API server has at most
/// 3 MiB as a request, and an update carries it twice.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Bytes of bodies that are taken in at one time. What is more is refused at once: memory and cores
/// are few, and a request that waits past its deadline has cost both for nothing.
const BODIES: usize = 64 * 1024 * 1024;

/// What a body is counted as at least.
const SMALLEST_BODY: usize = 16 * 1024;

/// What a request needs: the snapshot, and what the operator has set.
#[derive(Clone)]
pub struct Hook {
    /// The index, once there is one.
    pub snapshot: Snapshot,
    /// What the operator has set.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: Metrics,
    /// The room for bodies, in kibibytes.
    room: Arc<Semaphore>,
}

impl Hook {
    /// With room for as many bodies as the program takes in at one time.
    #[must_use]
    pub fn new(snapshot: Snapshot, settings: Arc<Settings>, metrics: Metrics) -> Self {
        Self { snapshot, settings, metrics, room: Arc::new(Semaphore::new(BODIES / 1024)) }
    }

    /// Room for the body of a request whose head says `length`; none where too much is on its way.
    fn room_for(&self, length: Option<usize>) -> Option<SemaphorePermit<'_>> {
        let bytes = length.unwrap_or(BODY_LIMIT).clamp(SMALLEST_BODY, BODY_LIMIT);
        // An atomic number: `try_acquire` never waits.
        self.room.try_acquire_many(u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)).ok()
    }
}

/// What the kubelet and Prometheus are told.
#[derive(Clone)]
pub struct Health {
    /// The index, once there is one.
    pub snapshot: Snapshot,
    /// What is not as it should be.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Metrics,
    /// Ends the program.
    pub shutdown: CancellationToken,
}

/// The server for the API server: `POST /mutate`, `POST /advise`. Once it is `ending` each answer is
/// the last one of its connection.
pub fn admission(hook: Hook, ending: CancellationToken) -> Router {
    let other = "imdslet-webhook answers POST /mutate and POST /advise\n";
    Router::new()
        .route("/mutate", post(|State(hook), request| answer(hook, request, review)))
        .route("/advise", post(|State(hook), request| answer(hook, request, advise)))
        .fallback(move || async move { (StatusCode::NOT_FOUND, other) })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(map_response(move |response| std::future::ready(part_after(response, &ending))))
        .with_state(hook)
}

/// A connection that is closed while it idles may be just being used again, and the API server
/// does not repeat what it has begun to write. One that ends with an answer is given up by both.
fn part_after(mut response: Response, ending: &CancellationToken) -> Response {
    if ending.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The server for the kubelet and for Prometheus: `GET /healthz`, `GET /readyz`, `GET /metrics`.
pub fn health(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// How an AdmissionReview is decided.
type Decide = fn(&Index, &Settings, &[u8]) -> Result<Reviewed, Unanswerable>;

/// Decides from the snapshot, answers, and counts.
async fn answer(hook: Hook, request: Request, decide: Decide) -> Response {
    let body = match body(&hook, request).await {
        Ok(body) => body,
        Err(Unread { decided, status, message }) => {
            tracing::warn!(reason = decided.reason, %status, "not answered");
            hook.metrics.admitted(decided, Duration::ZERO);
            let retry = [(header::RETRY_AFTER, "1")];
            let is_soon = status == StatusCode::TOO_MANY_REQUESTS;
            return (status, is_soon.then_some(retry), message).into_response();
        }
    };
    let began = Instant::now();
    let (decided, response) = match hook.snapshot.load().as_ref() {
        None => {
            tracing::warn!(reason = Decided::NOT_SYNCED.reason, "not answered");
            (Decided::NOT_SYNCED, (StatusCode::SERVICE_UNAVAILABLE, NOT_SYNCED).into_response())
        }
        Some(index) => match decide(index, &hook.settings, &body) {
            Ok(Reviewed { body, decided, warnings }) => {
                for reason in warnings {
                    hook.metrics.warned(reason);
                }
                let json = [(header::CONTENT_TYPE, "application/json")];
                (decided, (json, body).into_response())
            }
            Err(error) => {
                tracing::warn!(
                    reason = Decided::UNANSWERABLE.reason,
                    why = error.for_log(),
                    "not answered"
                );
                let message = format!("{error}\n");
                (Decided::UNANSWERABLE, (StatusCode::BAD_REQUEST, message).into_response())
            }
        },
    };
    hook.metrics.admitted(decided, began.elapsed());
    response
}

/// Why a body was not read whole.
struct Unread {
    decided: Decided,
    status: StatusCode,
    message: String,
}

async fn body(hook: &Hook, request: Request) -> Result<Bytes, Unread> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    // Kept until the body is there: then it is decided at once, and gone.
    let Some(_room) = hook.room_for(length) else {
        return Err(Unread {
            decided: Decided::OVERLOADED,
            status: StatusCode::TOO_MANY_REQUESTS,
            message: "too many requests are on their way to imdslet-webhook; try again\n"
                .to_owned(),
        });
    };
    match tokio::time::timeout(BODY_DEADLINE, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) => Err(Unread {
            decided: Decided::BODY_REJECTED,
            status: rejection.status(),
            message: format!("{rejection}; imdslet-webhook reads at most {BODY_LIMIT} bytes\n"),
        }),
        Err(_) => Err(Unread {
            decided: Decided::BODY_TOO_SLOW,
            status: StatusCode::REQUEST_TIMEOUT,
            message: "the request did not arrive in time\n".to_owned(),
        }),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.render())
}

const NOT_SYNCED: &str = "imdslet-webhook does not know the cluster's identities yet; try again\n";

/// Ready when the index is there and nothing blocks, and not once the end has begun. The body says
/// why not, and what else a person should know.
async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    if health.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned());
    }
    let (is_free, report) = health.readiness.report();
    if health.snapshot.load().is_none() {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{NOT_SYNCED}{report}"))
    } else if is_free {
        (StatusCode::OK, format!("ok\n{report}"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, report)
    }
}
