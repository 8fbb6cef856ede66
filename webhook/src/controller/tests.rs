//! The controller against an API server of few words.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use futures::StreamExt;
use futures::stream::{iter, poll_fn};
use imdslet_core::hold::Trust;
use imdslet_core::names::IDENTITIES;
use imdslet_core::objects::Kind;
use imdslet_core::settings::{Given, Settings};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::leader::Timing;
use super::{Controller, run_with};
use crate::feed::{Event, Outlet, events_of, publish};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::testing::{self, Asked};

mod told;

const TIMING: Timing = Timing {
    lease: Duration::from_secs(1),
    deadline: Duration::from_millis(400),
    retry: Duration::from_millis(20),
};

const PODS: &str = "/api/v1/pods";
const OWN_PODS: &str = "/api/v1/namespaces/web/pods";
const POD: &str = "/api/v1/namespaces/web/pods/p";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/web/events";
const OWN_EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/imdslet-system/events";
const ASSIGNED: &str = "/apis/aadpodidentity.k8s.io/v1/azureassignedidentities";
const OWN_ASSIGNED: &str = "/apis/aadpodidentity.k8s.io/v1/namespaces/web/azureassignedidentities";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/imdslet-system/leases";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/imdslet-system/leases/imdslet-controller";

const HELD: &str = r#"{"version":1,"hold":true,"identities":[]}"#;

/// What the API server has, and what it was asked.
#[derive(Default)]
struct State {
    version: u64,
    pod: Option<Value>,
    lease: Option<Value>,
    watchers: Vec<mpsc::UnboundedSender<String>>,
    patches: Vec<Value>,
    events: Vec<Value>,
    /// Events about the installation.
    held: Vec<Value>,
    /// AzureAssignedIdentity objects that were made.
    assigned: Vec<Value>,
    /// How many of the next patches meet a pod that has just changed.
    conflicts: u32,
    /// Objects that are only read.
    found: BTreeMap<&'static str, Value>,
    /// Answered for these methods and paths.
    faults: BTreeMap<(&'static str, &'static str), u16>,
}

#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<State>>);

impl State {
    fn next(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// The pod is changed in some way, and whoever watches hears of it, if it has the label.
    fn touch(&mut self, change: impl FnOnce(&mut Value)) {
        let version = self.next();
        let pod = self.pod.as_mut().unwrap();
        pod["metadata"]["resourceVersion"] = json!(version);
        change(pod);
        if pod["metadata"]["labels"]["aadpodidbinding"].is_null() {
            return;
        }
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": pod}));
        self.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    /// The pod's label is removed: whoever watches hears that it is gone, as it was before.
    fn unlabel(&mut self) {
        let version = json!(self.next());
        let pod = self.pod.as_mut().unwrap();
        pod["metadata"]["resourceVersion"] = version;
        let line = format!("{}\n", json!({"type": "DELETED", "object": pod}));
        pod["metadata"]["labels"] = json!({});
        self.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    fn holder(&self) -> Option<&str> {
        self.lease.as_ref()?["spec"]["holderIdentity"].as_str()
    }

    fn patch(&mut self, patch: &Value) -> Response<Body> {
        self.patches.push(patch.clone());
        if self.conflicts > 0 {
            self.conflicts -= 1;
            self.touch(|pod| pod["status"]["phase"] = json!("Running"));
        }
        let metadata = &self.pod.as_ref().unwrap()["metadata"];
        let is_same = |key| patch["metadata"][key] == metadata[key];
        if !is_same("uid") || !is_same("resourceVersion") {
            return fault(409);
        }
        let text = patch["metadata"]["annotations"][IDENTITIES].clone();
        self.touch(|pod| pod["metadata"]["annotations"][IDENTITIES] = text);
        answer(self.pod.as_ref().unwrap())
    }

    fn watch(&mut self, since: u64) -> Response<Body> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.watchers.push(sender);
        let pod = self.pod.clone().filter(|_| self.version > since);
        let missed = pod.map(|pod| format!("{}\n", json!({"type": "MODIFIED", "object": pod})));
        let lines = iter(missed).chain(poll_fn(move |context| receiver.poll_recv(context)));
        Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)))
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> Response<Body> {
        let fault_for = |((verb, at), code): (&(&str, &str), &u16)| {
            (*verb == method.as_str() && *at == path).then_some(*code)
        };
        if let Some(code) = self.faults.iter().find_map(fault_for) {
            return fault(code);
        }
        match (method.as_str(), path) {
            ("GET", PODS) if query.contains("watch=true") => {
                let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
                self.watch(since.unwrap().parse().unwrap())
            }
            ("GET", PODS) if query.contains("labelSelector=%21aadpodidbinding") => {
                let is_stray =
                    |pod: &&Value| pod["metadata"]["labels"]["aadpodidbinding"].is_null();
                let items: Vec<_> = self.pod.iter().filter(is_stray).collect();
                answer(&json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "items": items, "metadata": {},
                }))
            }
            ("GET", PODS) => {
                assert!(query.contains("labelSelector=aadpodidbinding"), "{query}");
                answer(&json!({
                    "kind": "PodList", "apiVersion": "v1", "items": self.pod.as_slice(),
                    "metadata": {"resourceVersion": self.version.to_string()},
                }))
            }
            ("GET", OWN_PODS) => {
                assert!(query.contains("fieldSelector=metadata.name%3Dp"), "{query}");
                answer(&json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "items": self.pod.as_slice(), "metadata": {},
                }))
            }
            ("PATCH", POD) => self.patch(&body),
            ("GET", ASSIGNED) if query.contains("watch=true") => {
                let nothing = futures::stream::pending::<Result<String, Infallible>>();
                Response::new(Body::from_stream(nothing))
            }
            ("GET", ASSIGNED) => answer(&json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": [],
                "metadata": {"resourceVersion": "1"},
            })),
            ("POST", OWN_ASSIGNED) => {
                self.assigned.push(body.clone());
                answer(&body)
            }
            ("POST", EVENTS) => {
                self.events.push(body.clone());
                answer(&body)
            }
            ("POST", OWN_EVENTS) => {
                self.held.push(body.clone());
                answer(&body)
            }
            ("GET", LEASE) => self.lease.as_ref().map_or_else(|| fault(404), answer),
            ("POST", LEASES) if self.lease.is_none() => self.store(body),
            ("PUT", LEASE) => {
                let version = &self.lease.as_ref().unwrap()["metadata"]["resourceVersion"];
                if *version == body["metadata"]["resourceVersion"] {
                    self.store(body)
                } else {
                    fault(409)
                }
            }
            ("GET", path) => self.found.get(path).map_or_else(|| fault(404), answer),
            _ => fault(404),
        }
    }

    fn store(&mut self, mut lease: Value) -> Response<Body> {
        lease["metadata"]["resourceVersion"] = json!(self.next());
        answer(self.lease.insert(lease))
    }
}

impl FakeApi {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn client(&self) -> Client {
        let api = self.clone();
        testing::client("default", move |Asked { method, path, query, body }| {
            ready(api.state().answer(&method, &path, &query, body))
        })
    }

    async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let met = timeout(Duration::from_secs(5), async {
            while !condition(&self.state()) {
                sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(met.await.is_ok(), "never: {what}");
    }
}

fn answer(body: &Value) -> Response<Body> {
    Response::new(Body::from(body.to_string()))
}

fn fault(code: u16) -> Response<Body> {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "ServiceUnavailable",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": "as told", "reason": reason});
    let mut response = answer(&status);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

/// A controller that runs, with one labelled pod.
struct Bench {
    api: FakeApi,
    objects: mpsc::Sender<Event>,
    metrics: Metrics,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Bench {
    async fn start(api: FakeApi, annotation: &str, manifests: &str) -> Self {
        let mut tasks = JoinSet::new();
        {
            let mut state = api.state();
            let version = state.next();
            state.pod = Some(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "p", "namespace": "web", "uid": "u", "resourceVersion": version,
                    "labels": {"aadpodidbinding": "db"},
                    "annotations": {"imdslet.dev/version": "1", IDENTITIES: annotation},
                },
                "spec": {"nodeName": "n", "initContainers": [{"name": "imdslet", "args": ["serve"]}]},
                "status": {"phase": "Pending"},
            }));
        }
        let (objects, events) = mpsc::channel(16);
        let metrics = Metrics::default();
        let (outlet, published) = Outlet::new(metrics.clone(), Readiness::default());
        tasks.spawn(publish(events, outlet));
        let given = Given::from([("tenant-id", vec!["contoso.example".to_owned()])]);
        let controller = Controller {
            client: api.client(),
            published,
            settings: Arc::new(Settings::read(&given).unwrap()),
            metrics: metrics.clone(),
            replica: "a".to_owned(),
            namespace: "imdslet-system".to_owned(),
        };
        let shutdown = CancellationToken::new();
        let running = run_with(controller, TIMING, shutdown.clone());
        tasks.spawn(async { running.await.unwrap() });
        let bench = Self { api, objects, metrics, shutdown, tasks };
        bench.apply(manifests).await;
        bench
    }

    async fn apply(&self, manifests: &str) {
        for event in events_of(manifests).unwrap() {
            self.objects.send(event).await.unwrap();
        }
    }

    async fn until_watching(&self) {
        self.api.until("watching", |state| !state.watchers.is_empty()).await;
    }

    /// Long enough for anything to happen that should not.
    async fn settle(&self) {
        sleep(Duration::from_millis(150)).await;
    }

    async fn end(mut self) {
        self.shutdown.cancel();
        drop(self.objects);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

const NOTHING: &str = r#"{"items": []}"#;
const BOUND: &str = r#"{"items": [
    {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
     "metadata": {"name": "a", "namespace": "web"},
     "spec": {"clientID": "11111111-1111-1111-1111-111111111111"}},
    {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
     "metadata": {"name": "b", "namespace": "web"},
     "spec": {"azureIdentity": "a", "selector": "db"}}
]}"#;
const TOLD: &str = r#"{"version":1,"hold":false,"identities":[{"name":"web/a","source":"federated","clientId":"11111111-1111-1111-1111-111111111111","resourceId":null,"objectId":null,"tenantId":"contoso.example","allowedResources":null,"secret":null}]}"#;

#[tokio::test]
async fn a_late_binding_is_one_patch_and_one_event() {
    let bench = Bench::start(FakeApi::default(), HELD, NOTHING).await;
    bench.until_watching().await;
    assert!(bench.api.state().patches.is_empty());
    bench.apply(BOUND).await;
    bench.api.until("an event", |state| !state.events.is_empty()).await;
    bench.settle().await;
    {
        let state = bench.api.state();
        let expected = json!({"metadata": {
            "uid": "u", "resourceVersion": "1", "annotations": {IDENTITIES: TOLD},
        }});
        assert_eq!(state.patches, [expected]);
        let [event] = state.events.as_slice() else { panic!("{:?}", state.events) };
        assert_eq!((&event["reason"], &event["type"]), (&json!("IdentityBound"), &json!("Normal")));
        assert_eq!(event["note"], "this pod has tokens of AzureIdentity web/a from now on");
        assert_eq!(event["regarding"]["uid"], "u");
        let numbers = bench.metrics.render();
        for line in [
            "imdslet_leader 1",
            r#"imdslet_annotations_patched_total{reason="IdentityBound"} 1"#,
            "imdslet_annotation_lag_seconds_count 1",
        ] {
            assert!(numbers.contains(line), "{line}\n{numbers}");
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn a_kind_that_disappears_takes_nothing_from_anybody_and_is_told() {
    let bench = Bench::start(FakeApi::default(), TOLD, BOUND).await;
    bench.until_watching().await;
    for kind in [Kind::AzureIdentity, Kind::AzureIdentityBinding] {
        bench.objects.send(Event::Relisted(kind, vec![], Trust::Doubted)).await.unwrap();
    }
    bench.api.until("an event", |state| !state.held.is_empty()).await;
    bench.settle().await;
    {
        let state = bench.api.state();
        assert!(state.patches.is_empty(), "{:?}", state.patches);
        let event = &state.held[0];
        assert_eq!((&event["reason"], &event["type"]), (&json!("SnapshotHeld"), &json!("Warning")));
        assert_eq!(event["regarding"]["kind"], "Deployment");
    }
    // A person says that they are meant to be gone.
    bench.objects.send(Event::LetGo(Kind::AzureIdentityBinding)).await.unwrap();
    bench.api.until("taken", |state| !state.patches.is_empty()).await;
    bench.end().await;
}

#[tokio::test]
async fn what_a_pod_has_is_shown_as_an_assigned_identity_that_its_pod_owns() {
    let bench = Bench::start(FakeApi::default(), HELD, BOUND).await;
    bench.api.until("shown", |state| !state.assigned.is_empty()).await;
    bench.settle().await;
    {
        let state = bench.api.state();
        let [object] = state.assigned.as_slice() else { panic!("{:?}", state.assigned) };
        let metadata = &object["metadata"];
        assert_eq!(metadata["name"], "p-web-a");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "imdslet");
        assert_eq!(metadata["labels"]["nodename"], "n");
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]);
        assert_eq!(metadata["ownerReferences"], owner);
        assert_eq!(metadata["finalizers"], Value::Null);
        assert_eq!(object["spec"]["azureBindingRef"]["metadata"]["name"], "b");
        assert_eq!(object["status"]["status"], "Assigned");
    }
    bench.end().await;
}

#[tokio::test]
async fn what_is_right_is_not_written() {
    let bench = Bench::start(FakeApi::default(), TOLD, BOUND).await;
    bench.until_watching().await;
    bench.api.state().touch(|pod| pod["status"]["phase"] = json!("Running"));
    bench.apply(BOUND).await;
    bench.settle().await;
    assert!(bench.api.state().patches.is_empty());
    bench.end().await;
}

#[tokio::test]
async fn after_a_conflict_the_newer_pod_is_written() {
    let bench = Bench::start(FakeApi::default(), HELD, NOTHING).await;
    bench.until_watching().await;
    bench.api.state().conflicts = 2;
    bench.apply(BOUND).await;
    bench.api.until("written", |state| state.patches.len() == 3).await;
    bench.settle().await;
    {
        let state = bench.api.state();
        assert_eq!(state.patches.len(), 3);
        assert_eq!(state.pod.as_ref().unwrap()["metadata"]["annotations"][IDENTITIES], TOLD);
    }
    bench.end().await;
}

#[tokio::test]
async fn a_pod_whose_label_is_removed_loses_what_it_has_and_one_that_is_deleted_is_left_alone() {
    let bench = Bench::start(FakeApi::default(), TOLD, BOUND).await;
    bench.until_watching().await;
    bench.api.state().conflicts = 1;
    bench.api.state().unlabel();
    bench.api.until("an event", |state| !state.events.is_empty()).await;
    {
        let state = bench.api.state();
        assert_eq!(state.patches.len(), 2, "the first one has met a newer pod");
        let expected = json!({IDENTITIES: r#"{"version":1,"hold":false,"identities":[]}"#});
        assert_eq!(state.patches[1]["metadata"]["annotations"], expected);
        assert_eq!(state.events[0]["reason"], "IdentityLost");
    }
    bench.end().await;

    let bench = Bench::start(FakeApi::default(), TOLD, BOUND).await;
    bench.until_watching().await;
    bench.api.state().unlabel();
    bench.api.state().pod = None;
    bench.settle().await;
    assert!(bench.api.state().patches.is_empty());
    bench.end().await;
}

#[tokio::test]
async fn whoever_begins_to_lead_finds_a_pod_that_lost_its_label_while_nobody_led() {
    let api = FakeApi::default();
    api.state().lease = Some(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "imdslet-controller", "resourceVersion": "1"},
        "spec": {"holderIdentity": "b", "leaseDurationSeconds": 3600},
    }));
    let bench = Bench::start(api.clone(), TOLD, BOUND).await;
    api.state().unlabel();
    bench.settle().await;
    assert!(api.state().patches.is_empty());
    api.state().lease.as_mut().unwrap()["spec"]["holderIdentity"] = json!("");
    api.until("an event", |state| !state.events.is_empty()).await;
    assert_eq!(api.state().events[0]["reason"], "IdentityLost");
    bench.end().await;
}

#[tokio::test]
async fn a_failed_write_is_tried_again() {
    let bench = Bench::start(FakeApi::default(), HELD, BOUND).await;
    bench.api.state().faults.insert(("PATCH", POD), 403);
    bench.until_watching().await;
    bench.settle().await;
    bench.api.state().faults.clear();
    bench.api.until("written", |state| !state.patches.is_empty()).await;
    bench.end().await;
}

#[tokio::test]
async fn who_has_lost_the_lease_writes_nothing_until_it_leads_again() {
    let taken = |state: &mut State| {
        let version = state.next();
        let lease = state.lease.as_mut().unwrap();
        lease["metadata"]["resourceVersion"] = json!(version);
        lease["spec"]["holderIdentity"] = json!("b");
        lease["spec"]["leaseDurationSeconds"] = json!(1);
    };
    let unreachable = |state: &mut State| {
        for verb in ["GET", "PUT"] {
            state.faults.insert((verb, LEASE), 503);
        }
    };
    for (name, lose) in [("taken", taken as fn(&mut State)), ("unreachable", unreachable)] {
        let bench = Bench::start(FakeApi::default(), HELD, NOTHING).await;
        bench.until_watching().await;
        lose(&mut bench.api.state());
        // A leader that stops drops its watch.
        let stopped = |state: &State| state.watchers.iter().all(mpsc::UnboundedSender::is_closed);
        bench.api.until("stopped", stopped).await;
        bench.apply(BOUND).await;
        bench.settle().await;
        assert!(bench.api.state().patches.is_empty(), "{name}");
        bench.api.state().faults.clear();
        // The other one does not renew it, so it runs out; then nothing that was missed is missing.
        bench.api.until("written", |state| state.patches.len() == 1).await;
        assert_eq!(bench.api.state().holder(), Some("a"), "{name}");
        bench.end().await;
    }
}

#[tokio::test]
async fn a_follower_writes_nothing_and_the_lease_is_given_back_at_the_end() {
    let api = FakeApi::default();
    api.state().lease = Some(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "imdslet-controller", "resourceVersion": "1"},
        "spec": {"holderIdentity": "b", "leaseDurationSeconds": 3600},
    }));
    let bench = Bench::start(api.clone(), HELD, BOUND).await;
    bench.settle().await;
    assert!(api.state().patches.is_empty() && api.state().watchers.is_empty());
    api.state().lease.as_mut().unwrap()["spec"]["holderIdentity"] = json!("");
    api.until("written", |state| state.patches.len() == 1).await;
    assert_eq!(api.state().holder(), Some("a"));
    bench.end().await;
    assert_eq!(api.state().holder(), Some(""));
}
