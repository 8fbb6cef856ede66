//! Against an API server of few words, on a clock that runs when nothing else does.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::http::Response;
use imdslet_core::settings::{Given, Settings};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::controller::Controller;
use crate::feed::{Outlet, events_of, publish};
use crate::readiness::Readiness;
use crate::testing::{self, Asked};

const CLASSES: &str = "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/web/secretproviderclasses";
const CSI_DRIVER: &str = "/apis/storage.k8s.io/v1/csidrivers/secrets-store.csi.k8s.io";

/// What the API server has, and what it was told.
#[derive(Default)]
struct State {
    writes: Vec<(String, String, Value)>,
    /// Reasons of Events.
    told: Vec<String>,
    pods: Vec<Value>,
    driver: Option<Value>,
}

#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn answer(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut state = self.state();
        match (method, path) {
            ("GET", CSI_DRIVER) => state.driver.clone().map_or_else(missing, |one| (200, one)),
            ("GET", "/api/v1/namespaces/web/pods") => {
                let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
                    "items": state.pods});
                (200, list)
            }
            (_, path) if path.starts_with(CLASSES) => {
                let name = path.trim_start_matches(CLASSES).trim_start_matches('/');
                state.writes.push((method.to_owned(), name.to_owned(), body.clone()));
                (200, body)
            }
            _ => missing(),
        }
    }

    fn client(&self) -> Client {
        let api = self.clone();
        testing::client("default", move |Asked { method, path, body, .. }| {
            let (code, body) = api.answer(method.as_str(), &path, body);
            let response = Response::builder().status(code).body(Body::from(body.to_string()));
            ready(response.unwrap())
        })
    }
}

fn missing() -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
        "reason": "NotFound", "message": "as told"});
    (404, status)
}

/// Objects of namespace `web`: a class that asks NMI, whether it is bound, and what is there.
fn manifests(client: Option<u8>, there: Option<&Value>) -> String {
    let mut items = vec![json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
        "metadata": {"name": "kv", "namespace": "web", "uid": "u"},
        "spec": {"provider": "azure", "parameters": {"usePodIdentity": "true"}},
    })];
    if let Some(client) = client {
        items.push(json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": "i", "namespace": "web"}, "spec": {"tenantID": "t.example",
            "clientID": format!("00000000-0000-0000-0000-{client:012}")}}));
        items.push(
            json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": "b", "namespace": "web"},
            "spec": {"selector": "db", "azureIdentity": "i"}}),
        );
    }
    items.extend(there.cloned());
    json!({"items": items}).to_string()
}

struct Bench {
    api: FakeApi,
    uses: mpsc::UnboundedSender<News>,
    metrics: Metrics,
    _tasks: JoinSet<()>,
}

impl Bench {
    async fn start(api: FakeApi, manifests: &str) -> Self {
        let mut tasks = JoinSet::new();
        let (objects, events) = mpsc::channel(16);
        let metrics = Metrics::default();
        let (outlet, published) = Outlet::new(metrics.clone(), Readiness::default());
        tasks.spawn(publish(events, outlet));
        for event in events_of(manifests).unwrap() {
            objects.send(event).await.unwrap();
        }
        let mut changes = published.changes.clone();
        while published.snapshot.load().is_none() {
            changes.changed().await.unwrap();
        }
        let controller = Controller {
            client: api.client(),
            published,
            settings: Arc::new(Settings::read(&Given::new()).unwrap()),
            metrics: metrics.clone(),
            replica: "a".to_owned(),
            namespace: "imdslet-system".to_owned(),
        };
        let (uses, volumes) = mpsc::unbounded_channel();
        let (notes, mut told) = mpsc::channel::<Note>(16);
        tasks.spawn(async move {
            // The sender of the objects lives as long: without it the index would have ended.
            let _objects = objects;
            run(&controller, volumes, notes).await.unwrap();
        });
        let heard = api.clone();
        tasks.spawn(async move {
            while let Some(note) = told.recv().await {
                heard.state().told.push(note.reason.to_owned());
            }
        });
        uses.send(News::Restart).unwrap();
        uses.send(News::Complete).unwrap();
        Self { api, uses, metrics, _tasks: tasks }
    }

    /// What was written once nothing happens any more for a while.
    async fn writes(&self) -> Vec<(String, String, Value)> {
        sleep(Duration::from_mins(1)).await;
        std::mem::take(&mut self.api.state().writes)
    }
}

fn derived() -> Value {
    json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
        "metadata": {
            "name": "kv.imdslet.93eae0eb", "namespace": "web",
            "labels": {"app.kubernetes.io/managed-by": "imdslet"},
            "annotations": {
                "imdslet.dev/secret-provider-class": "kv", "imdslet.dev/selector": "db",
            },
            "ownerReferences": [{"apiVersion": "secrets-store.csi.x-k8s.io/v1",
                "kind": "SecretProviderClass", "name": "kv", "uid": "u"}],
        },
        "spec": {"provider": "azure",
            "parameters": {"clientID": "00000000-0000-0000-0000-000000000001"}},
    })
}

/// As the API server has it.
fn stored() -> Value {
    let mut stored = derived();
    stored["metadata"]["uid"] = json!("d");
    stored["metadata"]["resourceVersion"] = json!("7");
    stored
}

/// The same once nobody is bound.
fn revoked() -> Value {
    let mut revoked = stored();
    revoked["spec"]["parameters"] = json!({});
    revoked
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_made_before_any_pod_asks_for_it() {
    let bench = Bench::start(FakeApi::default(), &manifests(Some(1), None)).await;
    sleep(Duration::from_millis(500)).await;
    let writes = std::mem::take(&mut bench.api.state().writes);
    assert_eq!(writes, [("POST".to_owned(), String::new(), derived())]);
    let number = r#"imdslet_classes_written_total{reason="ClassCreated"} 1"#;
    assert!(bench.metrics.render().contains(number), "{}", bench.metrics.render());
    // Somebody has to know that no volume would be mounted.
    assert_eq!(bench.api.state().told, ["CSIDriverMissing"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_right_is_not_written_and_a_driver_that_hands_out_tokens_is_not_told_of() {
    let api = FakeApi::default();
    let requests = json!([{"audience": "api://AzureADTokenExchange"}]);
    api.state().driver = Some(json!({"spec": {"tokenRequests": requests}}));
    let bench = Bench::start(api, &manifests(Some(1), Some(&stored()))).await;
    assert_eq!(bench.writes().await, []);
    assert_eq!(bench.api.state().told, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_replaced_in_the_version_that_was_seen() {
    let bench = Bench::start(FakeApi::default(), &manifests(Some(2), Some(&stored()))).await;
    sleep(Duration::from_millis(500)).await;
    let writes = std::mem::take(&mut bench.api.state().writes);
    let mut expected = derived();
    expected["metadata"]["resourceVersion"] = json!("7");
    expected["spec"]["parameters"]["clientID"] = json!("00000000-0000-0000-0000-000000000002");
    assert_eq!(writes, [("PUT".to_owned(), "kv.imdslet.93eae0eb".to_owned(), expected)]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_is_bound_to_gives_nothing_at_once_whoever_names_it() {
    let bench = Bench::start(FakeApi::default(), &manifests(None, Some(&stored()))).await;
    sleep(Duration::from_millis(500)).await;
    let writes = std::mem::take(&mut bench.api.state().writes);
    let mut expected = revoked();
    expected["metadata"].as_object_mut().unwrap().remove("uid");
    assert_eq!(writes, [("PUT".to_owned(), "kv.imdslet.93eae0eb".to_owned(), expected)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_for_nobody_goes_unless_a_pod_without_a_label_names_it() {
    let api = FakeApi::default();
    let volume = json!({"name": "v", "csi": {"driver": "secrets-store.csi.k8s.io",
        "volumeAttributes": {"secretProviderClass": "kv.imdslet.93eae0eb"}}});
    api.state().pods = vec![json!({"metadata": {"name": "p"}, "spec": {"volumes": [volume]}})];
    let bench = Bench::start(api, &manifests(None, Some(&revoked()))).await;
    assert_eq!(bench.writes().await, []);
    bench.api.state().pods.clear();
    let writes = bench.writes().await;
    let (method, name, body) = &writes[0];
    assert_eq!((&**method, &**name), ("DELETE", "kv.imdslet.93eae0eb"));
    assert_eq!(body["preconditions"], json!({"uid": "d"}));
    // No pod of ours was in need of the driver.
    assert_eq!(bench.api.state().told, Vec::<String>::new());
    drop(bench.uses);
}
