//! The emulator's HTTP interface.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Path, RawQuery, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use imdslet_certs::{OldestTls, TlsListener, server_config};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::config::Config;
use super::entra::{Call, Entra, Issued, Refused, StartError};
use super::metadata;
use super::proxy::{AskedAs, ByName, ThroughProxy, at_the_proxy};
use super::refusal::{Ids, Refusal};
use super::requests::{Caller, End};

/// The largest token request, in bytes: an assertion has two or three thousand.
const LARGEST_REQUEST: usize = 64 * 1024;

/// The largest configuration that can be put, in bytes: tens of thousands of credentials.
const LARGEST_CONFIG: usize = 16 * 1024 * 1024;

/// How long calls in flight may go on once the server is told to end.
const GRACE: Duration = Duration::from_secs(5);

/// The emulator on a port.
pub struct Server {
    tcp: TcpListener,
    addr: SocketAddr,
    tls: Arc<ServerConfig>,
    entra: Arc<Entra>,
}

impl Server {
    /// Makes a certificate for `localhost`, the loopback addresses, the listener's own address and
    /// `names` (DNS names or IP addresses).
    ///
    /// # Errors
    ///
    /// [`StartError`] if a name is none.
    pub fn new(
        tcp: TcpListener,
        entra: Arc<Entra>,
        names: &[String],
        now: SystemTime,
    ) -> Result<Self, StartError> {
        let addr = tcp.local_addr().map_err(StartError::Listener)?;
        let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let own = addr.ip();
        let own = (!own.is_unspecified()).then(|| own.to_string());
        for name in own.iter().chain(names) {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        let serving = entra.authority().issue(&all, now)?;
        let resolver = ByName::new(serving, Arc::clone(&entra)).map_err(StartError::Tls)?;
        let tls = server_config(Arc::new(resolver), OldestTls::V1_2).map_err(StartError::Tls)?;
        Ok(Self { tcp, addr, tls: Arc::new(tls), entra })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The authority that clients on this machine are given: `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn base_url(&self) -> String {
        if self.addr.ip().is_unspecified() {
            return format!("https://localhost:{}", self.addr.port());
        }
        format!("https://{}", self.addr)
    }

    /// Serves until `shutdown`, then finishes what is in flight, for five seconds at most.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if serving ends by itself.
    pub async fn serve(self, shutdown: CancellationToken) -> io::Result<()> {
        tracing::info!(addr = %self.addr, "listening");
        let at_the_proxy = from_fn_with_state(Arc::clone(&self.entra), at_the_proxy);
        let router = router(self.entra, shutdown.clone()).layer(at_the_proxy);
        let service = router.into_make_service_with_connect_info::<AskedAs>();
        let server = axum::serve(TlsListener::new(self.tcp, self.tls), service)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        // The arm that loses is dropped for good, so neither needs to be cancel-safe.
        tokio::select! {
            ended = server.into_future() => ended,
            () = overdue => {
                tracing::warn!(reason = "GraceElapsed", "calls in flight are cut off");
                Ok(())
            }
        }
    }
}

#[derive(Clone)]
struct App {
    entra: Arc<Entra>,
    shutdown: CancellationToken,
}

/// The routes, for a listener of one's own. `shutdown` cuts configured delays short. There is no
/// token proxy in it: that is told by the name in TLS.
pub fn router(entra: Arc<Entra>, shutdown: CancellationToken) -> Router {
    let token = post(token).layer(DefaultBodyLimit::max(LARGEST_REQUEST));
    let config = put(replace).layer(DefaultBodyLimit::max(LARGEST_CONFIG));
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", token)
        .route("/{tenant}/discovery/v2.0/keys", get(keys))
        .route("/{tenant}/v2.0/.well-known/openid-configuration", get(openid_configuration))
        .route("/common/discovery/instance", get(instance))
        .route("/_emulator/config", config)
        .route("/_emulator/requests", get(requests))
        .with_state(App { entra, shutdown })
}

async fn token(
    State(app): State<App>,
    proxy: Option<Extension<ThroughProxy>>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let config = app.entra.config();
    // Entra does not see the fields of any other body either.
    let body = if is_form(&headers) { body } else { Bytes::new() };
    let fault = wait_for_fault(&config, &app.shutdown).await;
    let now = SystemTime::now();
    let endpoint = metadata::token_endpoint(metadata::host(&headers), &tenant);
    let call = Call { tenant: &tenant, endpoint: &endpoint, body: &body };
    let through = proxy.as_ref().and(config.identity_bindings.as_ref());
    let result = match (fault, through) {
        (Some((status, _)), _) => Err(Refusal::Fault(status).into()),
        (None, None) => app.entra.token(&config, call, now).await.map_err(Refused::from),
        (None, Some(bindings)) => app.entra.token_through(bindings, &config, call, now).await,
    };

    let ids = ids(&headers);
    let caller = Caller::of(&config, &tenant, &body);
    let caller = Caller { through_proxy: through.is_some(), ..caller };
    tracing::info!(
        tenant = caller.tenant,
        client_id = caller.client_id,
        through_proxy = caller.through_proxy,
        outcome = result.as_ref().map_or_else(Refused::end, |_| End::Issued).to_string(),
        reason = result.as_ref().err().map_or("Issued", Refused::reason),
        trace_id = ids.trace,
        "token call"
    );
    app.entra.count(caller, result.as_ref().err());
    let retry_after = fault.and_then(|(_, retry_after)| retry_after);
    answer(result, &ids, now, retry_after)
}

fn answer(
    result: Result<Issued, Refused>,
    ids: &Ids,
    now: SystemTime,
    retry_after: Option<u32>,
) -> Response {
    let mut response = match result {
        Ok(issued) => json_response(
            StatusCode::OK,
            &json!({
                "token_type": "Bearer",
                "expires_in": issued.expires_in,
                "ext_expires_in": issued.expires_in,
                "access_token": issued.access_token,
            }),
        ),
        Err(refused) => json_response(refused.status(), &refused.body(ids, now)),
    };
    let headers = response.headers_mut();
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
    if let Ok(trace) = HeaderValue::from_str(&ids.trace) {
        headers.insert("x-ms-request-id", trace);
    }
    response
}

/// Waits as the configuration wants it for this call; then the status and `Retry-After` that it
/// wants instead of the right answer.
async fn wait_for_fault(
    config: &Config,
    shutdown: &CancellationToken,
) -> Option<(StatusCode, Option<u32>)> {
    let fault = config.faults.as_ref()?.next()?;
    // Both arms may be dropped at any time: a timer and a wait for a flag.
    tokio::select! {
        () = tokio::time::sleep(fault.delay) => {}
        () = shutdown.cancelled() => return Some((StatusCode::SERVICE_UNAVAILABLE, None)),
    }
    Some((fault.status?, fault.retry_after))
}

async fn keys(State(app): State<App>, Path(tenant): Path<String>, headers: HeaderMap) -> Response {
    known(&app, &tenant, &headers, || json!(app.entra.signing_jwks()))
}

async fn openid_configuration(
    State(app): State<App>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
) -> Response {
    known(&app, &tenant, &headers, || {
        metadata::openid_configuration(metadata::host(&headers), &tenant)
    })
}

async fn instance(RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let host = metadata::host(&headers);
    json_response(StatusCode::OK, &metadata::instance(host, &query.unwrap_or_default()))
}

async fn replace(State(app): State<App>, body: String) -> Response {
    // Files are looked for where those of the first configuration were.
    let folder = app.entra.config().folder.clone();
    match Config::parse(&body, folder.as_deref()) {
        Ok(config) => {
            app.entra.replace(config);
            tracing::info!("configuration replaced");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => {
            // The message is for the sender alone: it quotes what was sent.
            tracing::warn!(reason = "ConfigRefused", "configuration not replaced");
            json_response(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()}))
        }
    }
}

async fn requests(State(app): State<App>) -> Response {
    json_response(StatusCode::OK, &json!(app.entra.requests()))
}

/// The answer for a tenant that exists; `common` stands for any.
fn known(app: &App, tenant: &str, headers: &HeaderMap, answer: impl FnOnce() -> Value) -> Response {
    match app.entra.config().tenant(tenant) {
        Err(refusal) if tenant != "common" => {
            json_response(refusal.status(), &refusal.body(&ids(headers), SystemTime::now()))
        }
        _ => json_response(StatusCode::OK, &answer()),
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.and_then(|value| value.split(';').next()).is_some_and(|media_type| {
        media_type.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}

/// The correlation id is the client's own, if it sends a GUID, as Entra does it.
fn ids(headers: &HeaderMap) -> Ids {
    let sent = headers.get("client-request-id").and_then(|value| value.to_str().ok());
    let correlation = sent.and_then(|id| id.parse::<Uuid>().ok()).unwrap_or_else(Uuid::new_v4);
    Ids { trace: Uuid::new_v4().to_string(), correlation: correlation.to_string() }
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    let content_type = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(CONTENT_TYPE, content_type)], body.to_string()).into_response()
}

#[cfg(test)]
mod tests;
