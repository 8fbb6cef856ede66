//! An API server whose answers a test has written.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::Value;

use super::Cluster;

/// What is asked: method, path with query, body.
pub(crate) type Asked<'a> = (&'a Method, &'a str, &'a Value);

/// A cluster whose API server is `answer`.
pub(crate) fn cluster(
    answer: impl Fn(Asked<'_>) -> (StatusCode, Value) + Send + Sync + 'static,
) -> Cluster {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let path = head.uri.path_and_query().unwrap().as_str().trim_start_matches('/');
            let (status, value) = answer((&head.method, path, &body));
            let answer = Response::builder().status(status);
            Ok::<_, Infallible>(answer.body(Body::from(value.to_string().into_bytes())).unwrap())
        }
    });
    Cluster::of(Client::new(service, "default"), "https://cluster.example/")
}
