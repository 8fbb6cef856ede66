//! What a review costs without the HTTP around it: `cargo bench -p imdslet-webhook`.
//!
//! Prints microseconds of CPU a review, with 10 bindings and with 10,000. `review COUNT TIMES` does
//! one of them so often and prints nothing, for a profiler.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use imdslet_core::index::{Change, Index};
use imdslet_core::objects::{Kind, Object};
use imdslet_core::settings::{Given, Settings};
use imdslet_webhook::service::review;
use mimalloc::MiMalloc;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const TIMES: u32 = 20_000;

fn main() -> anyhow::Result<()> {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|one| one.parse().ok()).collect();
    if let [count, times] = *numbers.as_slice() {
        return run(count, times).map(drop);
    }
    for count in [10, 10_000] {
        println!("{count:>6} bindings: {:.1} µs a review", run(count, TIMES)?);
    }
    Ok(())
}

/// Microseconds a review.
fn run(count: u32, times: u32) -> anyhow::Result<f64> {
    let index = index(count)?;
    let given = Given::from([("tenant-id", vec!["contoso.example".to_owned()])]);
    let settings = Settings::read(&given).map_err(|mistakes| anyhow!("{mistakes:?}"))?;
    let body = body().to_string();
    ensure!((5_500..6_500).contains(&body.len()), "the review has {} bytes", body.len());
    let first = review(&index, &settings, body.as_bytes())?;
    ensure!(first.decided.reason == "Injected", "{:?}", first.decided);
    let began = Instant::now();
    for _ in 0..times {
        std::hint::black_box(review(&index, &settings, std::hint::black_box(body.as_bytes()))?);
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(times))
}

/// So many identities, each with a binding; the pod has the last one.
fn index(count: u32) -> anyhow::Result<Index> {
    let mut index = Index::default();
    for number in 0..count {
        let name = format!("identity-{number}");
        let selector = if number + 1 == count { "app" } else { &name };
        let identity = json!({
            "clientID": format!("c0000000-0000-4000-8000-{number:012}"),
            "resourceID": format!(
                "/subscriptions/5b000000-0000-4000-8000-000000000000/resourcegroups/rg/providers\
                 /Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
            ),
        });
        let binding = json!({"azureIdentity": name, "selector": selector});
        for (kind, spec) in [(Kind::AzureIdentity, identity), (Kind::AzureIdentityBinding, binding)]
        {
            let object = json!({
                "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind.name(),
                "metadata": {"name": name, "namespace": "default"}, "spec": spec,
            });
            let object = Object::read(&object, "default")?.context("of no kind of ours")?;
            index.apply(Change::Applied(Box::new(object)));
        }
    }
    Ok(index)
}

/// An AdmissionReview as the API server sends it for a pod of a Deployment.
fn body() -> Value {
    let env: Vec<_> = (0..12)
        .map(|at| json!({"name": format!("SETTING_{at}"), "value": format!("the value of {at}")}))
        .collect();
    let probe = json!({
        "httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10,
        "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
    });
    let container = |name| {
        json!({
            "name": name, "image": format!("registry.example.com/team/{name}:1.2.3"), "env": env,
            "livenessProbe": probe, "readinessProbe": probe,
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [{"name": "kube-api-access-x7k2p", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
        })
    };
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "namespace": "default",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE", "oldObject": null, "dryRun": false, "options": {},
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"generateName": "app-7d9f8b6c5-",
                    "labels": {"app": "app", "aadpodidbinding": "app"},
                    "annotations": {"note": "x".repeat(1_700)}},
                "spec": {
                    "containers": [container("app"), container("proxy")],
                    "initContainers": [container("migrate")], "serviceAccountName": "default",
                    "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                },
            },
        },
    })
}
