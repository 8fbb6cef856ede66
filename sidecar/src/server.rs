//! The router: each request is decided, answered, and told of where it is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use futures::stream::{FuturesUnordered, StreamExt};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use imdslet_core::contract::PodIdentity;
use tokio::time::{Instant, timeout};

use crate::answer::{self, Problem};
use crate::cache::{Cache, Missing};
use crate::config::FORM_DEADLINE;
use crate::metrics::{Outcome, Requests};
use crate::query::BadQuery;
use crate::request::{
    Ask, LARGEST_FORM, Refusal, Route, Selector, TokenRequest, decide, decide_scrape,
};
use crate::secret::Secret;
use crate::selection::{allow, candidates, select};
use crate::source::Now;
use crate::state::State;
use crate::volume::{View, Volume};

/// How often a refusal of one reason is logged: an app that hammers must not fill the node's disk.
const TOLD_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// When to ask again where the pod's identities cannot be read.
const READABLE_SOON: Duration = Duration::from_secs(5);

/// The token endpoint of one pod. Clones are the same endpoint.
#[derive(Clone)]
pub(crate) struct Endpoint(Arc<Inner>);

struct Inner {
    volume: Volume,
    cache: Cache,
    header: Option<Secret>,
    now: Now,
    /// When a refusal of each reason was logged last.
    told: Mutex<HashMap<&'static str, Instant>>,
    requests: Mutex<Requests>,
}

/// The service of `endpoint`. One handler for every path, since headers decide what a path means.
pub(crate) fn router(endpoint: Endpoint) -> Router {
    Router::new().fallback(handle).with_state(endpoint)
}

/// The service of `endpoint` at the port of the metrics, which the whole cluster reaches.
pub(crate) fn metrics_router(endpoint: Endpoint) -> Router {
    Router::new().fallback(handle_scrape).with_state(endpoint)
}

async fn handle(Shared(endpoint): Shared<Endpoint>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let answered = match form(&head, body).await {
        Ok(form) => endpoint.answer(&head, &form).await,
        Err(refusal) => Err(refusal.into()),
    };
    endpoint.finish(Route::of(&head), answered)
}

async fn handle_scrape(Shared(endpoint): Shared<Endpoint>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let answered = decide_scrape(&head).map(|()| endpoint.metrics()).map_err(Problem::from);
    // What came here is none of the pod's own: whoever reaches this port must not be able to have
    // its applications look refused.
    let route = match Route::of(&head) {
        Route::Metrics => Route::Metrics,
        _ => Route::Other,
    };
    endpoint.finish(route, answered)
}

/// The form of a POST. The body of any other request is not read: none is needed, and so none can
/// be too large.
async fn form(head: &Parts, body: Body) -> Result<String, Refusal> {
    if head.method != Method::POST {
        return Ok(String::new());
    }
    let read = timeout(FORM_DEADLINE, Limited::new(body, LARGEST_FORM).collect()).await;
    let bytes = match read {
        Ok(Ok(read)) => read.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::FormTooLarge),
        Ok(Err(_)) => return Err(Refusal::FormCut),
        Err(_) => return Err(Refusal::FormLate),
    };
    String::from_utf8(bytes.into()).map_err(|_| Refusal::Query(BadQuery::NotUtf8))
}

impl Endpoint {
    pub(crate) fn new(volume: Volume, cache: Cache, header: Option<Secret>, now: Now) -> Self {
        let (told, requests) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { volume, cache, header, now, told, requests }))
    }

    /// The pod's identities as they are now. Tokens of those that are gone are dropped first.
    pub(crate) fn view(&self) -> Arc<View> {
        let (view, fresh) = self.0.volume.view();
        if let (true, Some(pod)) = (fresh, &view.pod) {
            self.0.cache.retain(pod);
        }
        view
    }

    async fn answer(&self, head: &Parts, form: &str) -> Result<Response, Problem> {
        match decide(head, form, self.0.header.as_ref())? {
            Ask::Info(selector) => {
                let view = self.view();
                self.info(self.identity(&view, &selector)?)
            }
            Ask::State => Ok(answer::json(StatusCode::OK, &State::of(&self.view(), &self.0.cache))),
            Ask::Metrics => Ok(self.metrics()),
            Ask::Token(request) => match self.token(&request).await {
                // Once: the identities changed while it waited, and they decide anew.
                Err(Waited::Dropped) => self.token(&request).await,
                done => done,
            }
            .map_err(|waited| match waited {
                Waited::Dropped => Missing::Dropped.into(),
                Waited::Problem(problem) => problem,
            }),
        }
    }

    /// What is told of `identity`: its tenant. For one of the source `managed` the AzureIdentity
    /// need not state it.
    fn info(&self, identity: &PodIdentity) -> Result<Response, Problem> {
        if !identity.tenant_id.is_empty() {
            return Ok(answer::info(&identity.tenant_id));
        }
        let tenant = self.0.cache.tenant(identity);
        tenant.map(|tenant| answer::info(&tenant)).ok_or_else(|| {
            let message = format!(
                "the tenant of identity {} is not known; set the annotation imdslet.dev/tenant-id \
                 of that AzureIdentity, or ask for a token of it first",
                identity.name
            );
            Problem::new(StatusCode::BAD_REQUEST, "NoTenant", &message)
        })
    }

    /// What was counted so far.
    fn metrics(&self) -> Response {
        self.view();
        let mut text = String::new();
        self.requests().write(&mut text);
        self.0.cache.write_metrics(&mut text);
        answer::metrics(text)
    }

    /// Counts what became of a request, and tells it where it is refused.
    fn finish(&self, route: Route, answered: Result<Response, Problem>) -> Response {
        let (status, reason) = match &answered {
            Ok(answer) => (answer.status(), ""),
            Err(problem) => (problem.status, problem.reason),
        };
        self.requests().count(route, Outcome::of(status), reason);
        answered.unwrap_or_else(|problem| {
            self.tell(&problem);
            problem.answer()
        })
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity of `view` that `selector` means.
    fn identity<'a>(
        &self,
        view: &'a View,
        selector: &Selector<'_>,
    ) -> Result<&'a PodIdentity, Problem> {
        let pod = view.pod.as_ref().ok_or_else(|| unreadable(view))?;
        let known = |identity: &PodIdentity, id: &str| self.0.cache.has_object_id(identity, id);
        Ok(select(pod, selector, known)?)
    }

    /// The identity of `view` that `request` means, and whether anything was waited for. Where that
    /// is one by an object id that nobody stated, and no token that is held has it, a token of each
    /// identity that may be it is fetched, until one is found. Each only once: what is held, or why
    /// nothing is, then tells.
    async fn learned<'a>(
        &self,
        view: &'a View,
        request: &TokenRequest<'_>,
    ) -> Result<(&'a PodIdentity, bool), Waited> {
        let TokenRequest { resource, selector, .. } = request;
        let found = self.identity(view, selector);
        let (Err(unknown), Some(pod), Some(_)) = (&found, &view.pod, &selector.object_id) else {
            return Ok((found?, false));
        };
        let cache = &self.0.cache;
        let asked = candidates(pod, selector, resource, |one| cache.knows_principal(one))
            .map(|one| cache.learn(one, resource));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut missing = None;
        while let Some(learned) = asked.next().await {
            if let Ok(identity) = self.identity(view, selector) {
                return Ok((identity, true));
            }
            missing = missing.or(learned.err());
        }
        // Where there is none for one of them, nobody can say that it is none of them.
        Err(missing.map_or_else(|| unknown.clone().into(), Waited::from))
    }

    async fn token(&self, request: &TokenRequest<'_>) -> Result<Response, Waited> {
        let Inner { cache, now, .. } = &*self.0;
        let view = self.view();
        let TokenRequest { protocol, resource, want, .. } = request;
        let (identity, has_looked) = self.learned(&view, request).await?;
        // Its binding may go while its object id is looked for, or while a token is fetched.
        let is_still_bound =
            || self.view().pod.as_ref().is_some_and(|pod| pod.identities.contains(identity));
        if has_looked && !is_still_bound() {
            return Err(Waited::Dropped);
        }
        allow(identity, resource)?;
        let token = cache.token(identity, resource, *want, is_still_bound).await?;
        Ok(answer::token(&token, *protocol, now()))
    }

    fn tell(&self, problem: &Problem) {
        let now = Instant::now();
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = |last: &Instant| now.duration_since(*last) >= TOLD_AGAIN_AFTER;
        if told.get(problem.reason).is_none_or(due) {
            told.insert(problem.reason, now);
            tracing::info!(
                status = problem.status.as_u16(),
                reason = problem.reason,
                error = problem.message,
                "refused"
            );
        }
    }
}

/// Why a request for a token brings none.
enum Waited {
    /// What it waited for was dropped.
    Dropped,
    Problem(Problem),
}

impl From<Missing> for Waited {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Dropped => Self::Dropped,
            Missing::Fault { .. } | Missing::Full | Missing::TooMany { .. } => {
                Self::Problem(missing.into())
            }
        }
    }
}

impl From<crate::selection::Refusal> for Waited {
    fn from(refusal: crate::selection::Refusal) -> Self {
        Self::Problem(refusal.into())
    }
}

impl From<Problem> for Waited {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn unreadable(view: &View) -> Problem {
    // There is one wherever nothing could be read.
    let message = view.problem.as_deref().unwrap_or_default();
    Problem {
        retry_after: Some(READABLE_SOON),
        ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "IdentitiesUnreadable", message)
    }
}

#[cfg(test)]
mod tests;
