//! A kind that somebody else defines, and that may not be there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request as HttpRequest, Response};
use imdslet_core::hold::Trust;
use imdslet_core::objects::Kind;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::ABSENT_LOOK;
use crate::feed::Event;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

use crate::watch::start;

const CLASSES: &str = "/apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasses";

/// Answers lists of classes by `answer`, all other lists with nothing, and no watch.
fn client(answer: Arc<Mutex<(u16, Value)>>) -> Client {
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let answer = answer.clone();
        async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                return std::future::pending().await;
            }
            let (code, body) = match request.uri().path() {
                CLASSES => answer.lock().unwrap().clone(),
                _ => (200, list(&[])),
            };
            let body = axum::body::Body::from(body.to_string());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "default")
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": reason});
    (code, status)
}

/// The events up to the last one before nothing happens any more, in short.
async fn told(events: &mut mpsc::Receiver<Event>) -> BTreeMap<&'static str, usize> {
    let mut told = BTreeMap::new();
    while let Ok(Some(event)) = tokio::time::timeout(ABSENT_LOOK * 3, events.recv()).await {
        match event {
            Event::Relisted(Kind::SecretProviderClass, objects, trust) => {
                assert_eq!(trust, Trust::Plain);
                *told.entry("classes").or_default() += objects.len();
            }
            Event::Synced => *told.entry("synced").or_default() += 1,
            _ => {}
        }
    }
    told
}

#[tokio::test(start_paused = true)]
async fn it_blocks_nobody_where_it_is_not_there_and_is_followed_once_it_is() {
    for absence in [status(404, "NotFound"), status(403, "Forbidden")] {
        let answer = Arc::new(Mutex::new(absence));
        let (sender, mut events) = mpsc::channel(64);
        let (readiness, metrics) = (Readiness::default(), Metrics::default());
        let mut tasks = JoinSet::new();
        start(&client(answer.clone()), &sender, (&readiness, &metrics), &mut tasks);
        assert!(!readiness.report().0);
        assert_eq!(told(&mut events).await, [("classes", 0), ("synced", 1)].into());
        assert_eq!(readiness.report(), (true, String::new()));

        let class = json!({
            "metadata": {"name": "kv", "namespace": "web", "uid": "u", "resourceVersion": "1"},
            "spec": {"provider": "azure", "parameters": {"usePodIdentity": "true"}},
        });
        *answer.lock().unwrap() = (200, list(&[class]));
        assert_eq!(told(&mut events).await, [("classes", 1)].into());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_no_absence() {
    let answer = Arc::new(Mutex::new(status(500, "InternalError")));
    let (sender, mut events) = mpsc::channel(64);
    let (readiness, metrics) = (Readiness::default(), Metrics::default());
    let mut tasks = JoinSet::new();
    start(&client(answer), &sender, (&readiness, &metrics), &mut tasks);
    assert_eq!(told(&mut events).await, BTreeMap::new());
    let (is_ready, report) = readiness.report();
    assert!(!is_ready && report.contains("waiting: SecretProviderClass"), "{report}");
}
