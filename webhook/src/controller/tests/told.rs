//! Events on what is not a pod.

use super::*;

const REPLICA_SET: &str = "/apis/apps/v1/namespaces/web/replicasets/app-5d8";
const BINDINGS: &str = "/apis/aadpodidentity.k8s.io/v1/namespaces/web/azureidentitybindings";

/// A binding to an identity that is not there.
const DANGLING: &str = r#"{"items": [
    {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
     "metadata": {"name": "b", "namespace": "web"},
     "spec": {"azureIdentity": "gone", "selector": "db"}}
]}"#;

/// What is read to find the place of an Event.
fn found() -> BTreeMap<&'static str, Value> {
    let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "app", "uid": "ud",
        "controller": true});
    let kind = "PartialObjectMetadata";
    let replica_set = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind,
        "metadata": {"name": "app-5d8", "namespace": "web", "ownerReferences": [owner]}});
    let bindings = json!({"apiVersion": "meta.k8s.io/v1", "kind": format!("{kind}List"),
        "metadata": {}, "items": [{"apiVersion": "meta.k8s.io/v1", "kind": kind,
            "metadata": {"name": "b", "namespace": "web", "uid": "ub"}}]});
    [(REPLICA_SET, replica_set), (BINDINGS, bindings)].into()
}

/// A controller with one pod of a Deployment, which is not bound.
async fn bench() -> Bench {
    let api = FakeApi::default();
    api.state().found = found();
    let bench = Bench::start(api, HELD, DANGLING).await;
    bench.until_watching().await;
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-5d8", "uid": "ur",
        "controller": true});
    bench.api.state().touch(|pod| pod["metadata"]["ownerReferences"] = json!([owner]));
    bench
}

/// Of each Event so far its reason and what it is about, in the order of the alphabet.
fn told(bench: &Bench) -> Vec<String> {
    let state = bench.api.state();
    let line = |event: &Value| {
        let about = &event["regarding"];
        let place = format!("{} {} {}", about["kind"], about["name"], about["uid"]);
        format!("{} {place}", event["reason"]).replace('"', "")
    };
    let mut lines: Vec<_> = state.events.iter().map(line).collect();
    lines.sort();
    lines
}

#[tokio::test(start_paused = true)]
async fn what_stays_wrong_is_told_at_the_binding_and_at_the_deployment_and_again_later() {
    let bench = bench().await;
    sleep(Duration::from_secs(8)).await;
    let once = [
        "StillUnbound AzureIdentityBinding b ub",
        "StillUnbound Deployment app ud",
        "StillUnbound Pod p u",
    ];
    assert_eq!(told(&bench), once);
    {
        let state = bench.api.state();
        let note = |kind| {
            let mut events = state.events.iter();
            let event = events.find(|event| event["regarding"]["kind"] == kind).unwrap();
            assert_eq!(
                (&event["type"], &event["reportingController"]),
                (&json!("Warning"), &json!("imdslet.dev/controller"),)
            );
            event["note"].as_str().unwrap().to_owned()
        };
        assert!(
            note("Deployment").starts_with("1 of its pods: imdslet: "),
            "{}",
            note("Deployment")
        );
        assert!(note("AzureIdentityBinding").contains("AzureIdentity web/gone does not exist"));
    }
    sleep(Duration::from_secs(62)).await;
    let mut twice: Vec<_> = once.iter().chain(&once).map(|line| (*line).to_owned()).collect();
    twice.sort();
    assert_eq!(told(&bench), twice);
    bench.apply(BOUND).await;
    sleep(Duration::from_secs(10)).await;
    twice.push("IdentityBound Pod p u".to_owned());
    twice.sort();
    assert_eq!(told(&bench), twice);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_place_that_may_not_be_looked_for_is_the_nearest_one_and_what_is_gone_is_told_nothing() {
    let bench = bench().await;
    {
        let mut state = bench.api.state();
        state.faults.insert(("GET", REPLICA_SET), 403);
        state.found.get_mut(BINDINGS).unwrap()["items"] = json!([]);
    }
    sleep(Duration::from_secs(8)).await;
    assert_eq!(told(&bench), ["StillUnbound Pod p u", "StillUnbound ReplicaSet app-5d8 ur"]);
    bench.end().await;
}
