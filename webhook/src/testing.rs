//! What tests of several modules need.

use std::convert::Infallible;
use std::future::Future;

use axum::body::Body;
use axum::http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use serde_json::Value;

/// A request to the API server.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    /// Null where there is none.
    pub(crate) body: Value,
}

/// A client whose API server is `answer`.
pub(crate) fn client<A>(
    namespace: &str,
    answer: impl Fn(Asked) -> A + Clone + Send + 'static,
) -> Client
where
    A: Future<Output = Response<Body>> + Send,
{
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let answer = answer.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let asked = Asked {
                method: head.method,
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
            };
            Ok::<_, Infallible>(answer(asked).await)
        }
    });
    Client::new(service, namespace)
}
