//! The HTTP around [`service`](crate::service).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use imdslet_core::settings::Settings;
use tokio_util::sync::CancellationToken;

use crate::config::BODY_DEADLINE;
use crate::feed::Snapshot;
use crate::readiness::Readiness;
use crate::service::review;

/// The largest AdmissionReview that is read, in bytes. An object of the API server has at most
/// 3 MiB as a request, and an update carries it twice.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// What a request needs: the snapshot, and what the operator has set.
#[derive(Clone)]
pub struct Hook {
    /// The index, once there is one.
    pub snapshot: Snapshot,
    /// What the operator has set.
    pub settings: Arc<Settings>,
}

/// What the kubelet is told.
#[derive(Clone)]
pub struct Health {
    /// The index, once there is one.
    pub snapshot: Snapshot,
    /// What is not as it should be.
    pub readiness: Readiness,
    /// Ends the program.
    pub shutdown: CancellationToken,
}

/// The server for the API server: `POST /mutate`.
pub fn admission(hook: Hook) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        .fallback(|| async { (StatusCode::NOT_FOUND, "imdslet-webhook answers POST /mutate\n") })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(hook)
}

/// The server for the kubelet: `GET /healthz`, `GET /readyz`.
pub fn health(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(health)
}

/// `POST /mutate`. Decides from the snapshot and answers.
async fn mutate(State(hook): State<Hook>, request: Request) -> Response {
    let read = tokio::time::timeout(BODY_DEADLINE, Bytes::from_request(request, &())).await;
    let body = match read {
        Ok(Ok(body)) => body,
        Err(_) => {
            tracing::warn!(reason = "BodyTooSlow", "not answered");
            return (StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n")
                .into_response();
        }
        Ok(Err(rejection)) => {
            let message =
                format!("{rejection}; imdslet-webhook reads at most {BODY_LIMIT} bytes\n");
            tracing::warn!(reason = "BodyRejected", status = %rejection.status(), "not answered");
            return (rejection.status(), message).into_response();
        }
    };
    let snapshot = hook.snapshot.load();
    let Some(index) = snapshot.as_ref() else {
        tracing::warn!(reason = "NotSynced", "not answered");
        return (StatusCode::SERVICE_UNAVAILABLE, NOT_SYNCED).into_response();
    };
    match review(index, &hook.settings, &body) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => {
            tracing::warn!(reason = "Unanswerable", "not answered");
            (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
        }
    }
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
