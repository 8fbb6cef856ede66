//! The wire format of admission, through the router, without sockets.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine;
use http_body_util::BodyExt;
use imdslet_core::index::Index;
use imdslet_core::objects::Object;
use imdslet_core::settings::{Given, Settings};
use imdslet_webhook::metrics::Metrics;
use imdslet_webhook::readiness::Readiness;
use imdslet_webhook::server::{Health, Hook, admission, health};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

fn hook(objects: &[Value]) -> Hook {
    let index: Index =
        objects.iter().filter_map(|object| Object::read(object, "default").unwrap()).collect();
    let given: Given = [("tenant-id", vec!["contoso.example".to_owned()])].into();
    let hook = empty_hook(&given);
    hook.snapshot.store(Some(Arc::new(index)));
    hook
}

fn empty_hook(given: &Given) -> Hook {
    let settings = Arc::new(Settings::read(given).unwrap());
    Hook::new(Arc::default(), settings, Metrics::default())
}

fn bound() -> Hook {
    hook(&[
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": "app", "namespace": "web"},
            "spec": {"ClientID": "11111111-1111-1111-1111-111111111111"},
        }),
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": "app", "namespace": "web"},
            "spec": {"AzureIdentity": "app", "Selector": "db"},
        }),
    ])
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "app-7d-", "labels": {"aadpodidbinding": "db"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

fn review(request: &Value) -> Value {
    let mut whole = json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "web", "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod(), "oldObject": null, "dryRun": false, "options": {},
    });
    for (key, value) in request.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": whole})
}

async fn post(hook: Hook, body: impl Into<Body>) -> (StatusCode, String) {
    post_to(hook, "/mutate", body).await
}

async fn post_to(hook: Hook, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
    let request = Request::post(path).body(body.into()).unwrap();
    let response = admission(hook, CancellationToken::new()).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn ask(hook: Hook, request: &Value) -> Value {
    let (status, body) = post(hook, review(request).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn patch(answer: &Value) -> Value {
    let base64 = answer["response"]["patch"].as_str().unwrap();
    let json = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[tokio::test]
async fn an_admission_review_is_answered_as_the_api_documents_it() {
    let mut answer = ask(bound(), &json!({})).await;
    let first = patch(&answer)[0].clone();
    answer["response"]["patch"] = json!("(base64)");
    assert_eq!(
        answer,
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "allowed": true,
                "patchType": "JSONPatch",
                "patch": "(base64)",
            },
        })
    );
    assert_eq!(first["op"], "add");
    assert_eq!(first["path"], "/spec/containers/0/env");
}

#[tokio::test]
async fn the_requests_namespace_counts_not_the_pods() {
    let answer = ask(bound(), &json!({"namespace": "other"})).await;
    let operations = patch(&answer);
    let identities = operations
        .as_array()
        .unwrap()
        .iter()
        .find(|operation| operation["path"] == "/metadata/annotations/imdslet.dev~1identities");
    // A binding of another namespace serves too, but is not the pod's own: same identity.
    assert!(identities.unwrap()["value"].as_str().unwrap().contains("web/app"));
    let mut settings = bound();
    let given: Given = [
        ("tenant-id", vec!["contoso.example".to_owned()]),
        ("scope", vec!["namespaced".to_owned()]),
    ]
    .into();
    settings.settings = Arc::new(Settings::read(&given).unwrap());
    let answer = ask(settings, &json!({"namespace": "other"})).await;
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("no AzureIdentityBinding in namespace `other` has spec.selector `db`")
    );
}

#[tokio::test]
async fn a_dry_run_gets_the_same_answer() {
    let real = ask(bound(), &json!({})).await;
    assert_eq!(ask(bound(), &json!({"dryRun": true})).await, real);
}

#[tokio::test]
async fn a_refusal_carries_its_message_and_no_patch() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"imdslet.dev/port": "80"});
    let answer = ask(bound(), &json!({"object": pod})).await;
    let message = "imdslet: pod: metadata.annotations[imdslet.dev/port] is `80`; it must be a port \
                   from 1024 to 65535";
    assert_eq!(
        answer["response"],
        json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "allowed": false,
            "status": {"code": 403, "message": message},
        })
    );
}

#[tokio::test]
async fn what_is_no_pod_is_refused_by_name_of_the_field() {
    for (spec, message) in [
        (json!({}), "imdslet: the pod has no spec.containers; give it at least one container"),
        (
            json!({"containers": {}}),
            "imdslet: cannot read the pod at `spec.containers`: invalid type: map, expected a \
             sequence at line 1 column 29",
        ),
    ] {
        let mut pod = pod();
        pod["spec"] = spec;
        pod["metadata"] = json!({"labels": {"aadpodidbinding": "db"}});
        let pod = json!({"spec": pod["spec"], "metadata": pod["metadata"]});
        let answer = ask(bound(), &json!({"object": pod})).await;
        assert_eq!(answer["response"]["status"]["code"], 400);
        let said = answer["response"]["status"]["message"].as_str().unwrap();
        assert_eq!(said.split(" at line").next(), message.split(" at line").next());
    }
}

#[tokio::test]
async fn a_pod_without_the_label_is_admitted_without_a_word() {
    let mut pod = pod();
    pod["metadata"]["labels"] = json!({"app": "web"});
    let answer = ask(bound(), &json!({"object": pod})).await;
    assert_eq!(
        answer["response"],
        json!({"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "allowed": true})
    );
}

#[tokio::test]
async fn what_should_not_have_been_sent_is_admitted_with_a_warning() {
    let deployments = json!({"group": "apps", "version": "v1", "resource": "deployments"});
    for (request, what) in [
        (json!({"operation": "UPDATE"}), "UPDATE of pods"),
        (json!({"operation": "DELETE", "object": null}), "DELETE of pods"),
        (json!({"resource": deployments}), "CREATE of deployments"),
        (json!({"subResource": "binding"}), "CREATE of pods/binding"),
    ] {
        let answer = ask(bound(), &request).await;
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(
            answer["response"]["warnings"][0],
            format!(
                "imdslet changes pods when they are created; this is {what}: mend the rules of \
                 the MutatingWebhookConfiguration"
            )
        );
        assert_eq!(answer["response"]["patch"], Value::Null);
    }
}

#[tokio::test]
async fn new_ephemeral_containers_get_the_variables() {
    let sidecar = json!({
        "name": "imdslet", "args": ["serve", "--dir=/d", "--port=9000", "--authority=https://a.example", "--mode=native"],
        "env": [{"name": "IMDSLET_HEADER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
    });
    let mut before = pod();
    before["spec"]["initContainers"] = json!([sidecar]);
    before["spec"]["ephemeralContainers"] = json!([{"name": "old"}]);
    let mut after = before.clone();
    after["spec"]["ephemeralContainers"] = json!([{"name": "old"}, {"name": "debug"}]);
    let request = json!({
        "operation": "UPDATE", "subResource": "ephemeralcontainers",
        "object": after, "oldObject": before,
    });
    let operations = patch(&ask(bound(), &request).await);
    assert_eq!(operations.as_array().unwrap().len(), 1);
    assert_eq!(operations[0]["path"], "/spec/ephemeralContainers/1/env");
    assert_eq!(operations[0]["value"][0]["value"], "http://127.0.0.1:9000/msi/token");
}

#[tokio::test]
async fn what_is_no_admission_review_of_version_1_is_a_bad_request() {
    let old =
        json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {}});
    let cases = [
        (
            old.to_string(),
            "this is AdmissionReview of `admission.k8s.io/v1beta1`; imdslet answers \
             AdmissionReview of admission.k8s.io/v1: set admissionReviewVersions to [v1]\n",
        ),
        (
            String::new(),
            "the body is no AdmissionReview: EOF while parsing a value at line 1 column 0\n",
        ),
        (
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string(),
            "the AdmissionReview has no request\n",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod"}).to_string(),
            "this is Pod of `v1`; imdslet answers AdmissionReview of admission.k8s.io/v1: set \
             admissionReviewVersions to [v1]\n",
        ),
    ];
    for (body, message) in cases {
        assert_eq!(post(bound(), body).await, (StatusCode::BAD_REQUEST, message.to_owned()));
    }
}

#[tokio::test]
async fn ten_megabytes_are_too_much() {
    let (status, body) = post(bound(), vec![b' '; 10 << 20]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body.contains("reads at most 8388608 bytes"), "{body}");
}

#[tokio::test]
async fn before_the_index_is_there_every_request_is_refused_at_once() {
    let (status, _) = post(empty_hook(&Given::new()), review(&json!({})).to_string()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn readiness_follows_the_index_and_what_blocks_and_ends_with_the_program() {
    let of = |hook: Hook| Health {
        snapshot: hook.snapshot,
        readiness: Readiness::default(),
        metrics: hook.metrics,
        shutdown: CancellationToken::new(),
    };
    let ask = async |of: &Health, path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = health(of.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    };
    let empty = of(empty_hook(&Given::new()));
    assert_eq!(ask(&empty, "/readyz").await.0, 503);
    assert_eq!(ask(&empty, "/healthz").await.0, 200);
    let synced = of(bound());
    assert_eq!(ask(&synced, "/readyz").await, (200, "ok\n".to_owned()));
    synced.readiness.set("caBundle", true, "not applied yet");
    let waiting = "waiting: caBundle, for 0 s: not applied yet\n".to_owned();
    assert_eq!(ask(&synced, "/readyz").await, (503, waiting));
    synced.readiness.set("caBundle", false, "cannot be set");
    let warning = "ok\nwarning: caBundle, for 0 s: cannot be set\n".to_owned();
    assert_eq!(ask(&synced, "/readyz").await, (200, warning));
    synced.shutdown.cancel();
    assert_eq!(ask(&synced, "/readyz").await.0, 503);
    assert_eq!(ask(&synced, "/healthz").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_given_up() {
    let body = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    assert_eq!(post(bound(), body).await.0, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn whoever_applies_a_workload_or_a_binding_is_told_what_is_wrong_and_nothing_is_changed() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"},
        "spec": {"template": pod()},
    });
    let unbound = {
        let mut other = deployment.clone();
        other["spec"]["template"]["metadata"]["labels"]["aadpodidbinding"] = json!("other");
        other
    };
    let dangling = json!({
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
        "metadata": {"name": "b", "namespace": "web"},
        "spec": {"azureIdentity": "gone", "selector": "db"},
    });
    let apps = json!({"group": "apps", "version": "v1", "resource": "deployments"});
    let ours = json!({
        "group": "aadpodidentity.k8s.io", "version": "v1", "resource": "azureidentitybindings",
    });
    for (resource, object, expected) in [
        (&apps, &deployment, None),
        (&apps, &unbound, Some("imdslet: no AzureIdentityBinding has spec.selector `other`")),
        (
            &ours,
            &dangling,
            Some(
                "imdslet gives no pod a token by this object: AzureIdentity web/gone does not exist",
            ),
        ),
        // The API server says better what is wrong with these.
        (&ours, &json!({"kind": "AzureIdentityBinding"}), None),
        (&apps, &json!("no object"), None),
    ] {
        let body = review(&json!({"resource": resource, "object": object, "operation": "UPDATE"}));
        let (status, answer) = post_to(bound(), "/advise", body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let response = &answer["response"];
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
        let warning = response["warnings"][0].as_str();
        match expected {
            None => assert_eq!(warning, None),
            Some(start) => assert!(warning.unwrap().starts_with(start), "{warning:?}"),
        }
    }
}

#[tokio::test]
async fn once_it_is_told_to_end_each_answer_is_the_last_of_its_connection() {
    let ending = CancellationToken::new();
    let router = admission(bound(), ending.clone());
    let connection = async || {
        let request =
            Request::post("/mutate").body(Body::from(review(&json!({})).to_string())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.headers().get("connection").cloned()
    };
    assert_eq!(connection().await, None);
    ending.cancel();
    assert_eq!(connection().await.unwrap(), "close");
}

#[tokio::test]
async fn what_there_is_no_room_for_is_refused_at_once_and_counted() {
    let hook = bound();
    // Bodies that are announced and do not come.
    let slow = || {
        let body = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let length = 8 * 1024 * 1024;
        let request = Request::post("/mutate").header("content-length", length).body(body).unwrap();
        Box::pin(admission(hook.clone(), CancellationToken::new()).oneshot(request))
    };
    let mut waiting: Vec<_> = std::iter::repeat_with(slow).take(8).collect();
    for request in &mut waiting {
        assert!(futures::poll!(request).is_pending());
    }
    let (status, message) = post(hook.clone(), review(&json!({})).to_string()).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(message, "too many requests are on their way to imdslet-webhook; try again\n");
    waiting.pop();
    assert_eq!(post(hook.clone(), review(&json!({})).to_string()).await.0, StatusCode::OK);
    let text = hook.metrics.render();
    for line in [
        r#"imdslet_admissions_total{outcome="unanswered",reason="Overloaded"} 1"#,
        r#"imdslet_admissions_total{outcome="injected",reason="Injected"} 1"#,
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn no_decision_is_counted_as_another() {
    let hook = bound();
    let host_network = {
        let mut pod = pod();
        pod["spec"]["hostNetwork"] = json!(true);
        pod
    };
    for object in [pod(), host_network, json!({"metadata": {}}), json!({"metadata": 7})] {
        ask(hook.clone(), &json!({"object": object})).await;
    }
    post(hook.clone(), "x").await;
    let text = hook.metrics.render();
    assert!(text.contains(r#"reason="Other"} 0"#), "{text}");
    assert!(text.contains(r#"imdslet_warnings_total{reason="HostNetwork"} 1"#), "{text}");
}
