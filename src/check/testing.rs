//! A cluster as it should be, and what can be wrong with it.

use base64::Engine;
use imdslet_core::index::Index;
use serde_json::{Value, json};

use super::facts::{
    Facts, Followed, IdentityState, Issuer, Key, Outside, Rehearsal, Seen, State, TokenState,
    Workload,
};
/// A CA that is valid for ten years, as the webhook makes it.
pub(super) fn bundle() -> String {
    let ca = imdslet_certs::Authority::generate("ca", std::time::SystemTime::now()).unwrap();
    base64::engine::general_purpose::STANDARD.encode(ca.pem())
}

pub(super) fn deployment(name: &str, ready: u64) -> Value {
    json!({"kind": "Deployment", "metadata": {"namespace": "imdslet-system", "name": name},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": format!("r.example:5000/{name}:0.1.0")}]}}},
        "status": {"availableReplicas": ready}})
}

pub(super) fn definition(name: &str, keeps: bool) -> Value {
    let spec = json!({"x-kubernetes-preserve-unknown-fields": keeps});
    let schema = json!({"openAPIV3Schema": {"properties": {"spec": spec}}});
    json!({"metadata": {"name": format!("{name}.aadpodidentity.k8s.io")}, "spec": {"versions": [{"schema": schema}]}})
}

pub(super) fn pod(sidecar: bool) -> Value {
    let mut containers = vec![json!({"name": "app"})];
    if sidecar {
        containers.insert(0, json!({"name": "imdslet", "args": ["serve"]}));
    }
    let told = json!({"version": 1, "hold": false, "identities": [{"name": "web/db", "source": "federated",
        "clientId": "c", "resourceId": null, "objectId": null, "tenantId": "t", "allowedResources": null, "secret": null}]});
    json!({"kind": "Pod", "metadata": {"namespace": "web", "name": "app-1", "labels": {"aadpodidbinding": "db"},
        "annotations": {"imdslet.dev/identities": told.to_string()}}, "spec": {"containers": containers}})
}

pub(super) fn fetched(result: &str, reason: &str) -> String {
    json!({"identity": "web/db", "resource": "https://vault.azure.net", "result": result, "reason": reason,
        "error": "what it says"})
    .to_string()
}

pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A sidecar that was asked for one token, which is good for so many seconds.
#[expect(clippy::unnecessary_wraps, reason = "it is seen, as others are not")]
pub(super) fn state(reason: Option<&str>, life: Option<i64>) -> Seen<State> {
    let token = TokenState {
        resource: "https://vault.azure.net".to_owned(),
        expires_on: life.map(|life| now() + life),
        reason: reason.map(str::to_owned),
    };
    let identity = IdentityState { name: "web/db".to_owned(), tokens: vec![token] };
    Ok(State { identities: vec![identity], problem: None })
}

pub(super) fn followed(state: Seen<State>, log: Option<Seen<String>>) -> Followed {
    Followed { pod: pod(true), state, log }
}

pub(super) fn entry(name: &str) -> Value {
    json!({"name": name, "clientConfig": {"caBundle": bundle()},
        "objectSelector": {"matchExpressions": [{"key": "aadpodidbinding", "operator": "Exists"}]}})
}

pub(super) fn key(id: &str, number: &str) -> Key {
    Key { id: id.to_owned(), material: vec!["kty=RSA".to_owned(), format!("n={number}")] }
}

/// An identity of the namespace `web` that asks the node.
pub(super) fn managed() -> Value {
    json!({"metadata": {"namespace": "web", "name": "node",
        "annotations": {"imdslet.dev/source": "managed"}}})
}

/// Everything as it should be.
pub(super) fn healthy() -> Facts {
    let names = [
        "azureidentities",
        "azureidentitybindings",
        "azureassignedidentities",
        "azurepodidentityexceptions",
    ];
    let keys = || vec![key("k1", "n")];
    Facts {
        now: now(),
        version: Ok("v1.34.4".to_owned()),
        definitions: Ok(names.iter().map(|name| definition(name, true)).collect()),
        missing_rights: Ok(Vec::new()),
        issuer: Ok(Issuer {
            url: "https://i.example/".to_owned(),
            keys: keys(),
            outside: Outside::Keys(keys()),
        }),
        identities: Ok(Vec::new()),
        bindings: Ok(Vec::new()),
        network_policies: Ok(Vec::new()),
        workers: Ok(vec![deployment("imdslet-webhook", 2), deployment("imdslet-controller", 2)]),
        webhook: Ok(Some(
            json!({"webhooks": [entry("pods.imdslet.dev"), entry("ephemeral.imdslet.dev")]}),
        )),
        lease: Ok(Some(
            json!({"spec": {"holderIdentity": "a", "renewTime": jiff::Timestamp::now().to_string()}}),
        )),
        rehearsal: Ok(Rehearsal {
            namespace: "default".to_owned(),
            status: 201,
            answer: pod(true),
        }),
        pods: Ok(vec![pod(true)]),
        own_pods: Ok(Vec::new()),
        settings: Ok([("AZURE_TENANT_ID".to_owned(), "contoso.example".to_owned())].into()),
        index: Ok(Index::default()),
        namespace: "imdslet-system".to_owned(),
        workloads: vec![Workload {
            name: "web/app".to_owned(),
            pods: Ok(vec![followed(state(None, Some(3600)), None)]),
        }],
    }
}

/// A pod of imdslet whose container waits for its image.
pub(super) fn waiting(name: &str, container: &str) -> Value {
    json!({"metadata": {"namespace": "imdslet-system", "name": format!("{name}-1"),
            "labels": {"app.kubernetes.io/name": name}},
        "status": {"containerStatuses": [{"name": container, "image": format!("r/{container}:1"),
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]}})
}

/// The workload's pod is as this one.
pub(super) fn stuck_sidecar(facts: &mut Facts, mut pod: Value) {
    facts.workloads[0].pods.as_mut().unwrap()[0].pod["status"] = pod["status"].take();
}

pub(super) fn nmi() -> Value {
    json!({"kind": "DaemonSet", "metadata": {"namespace": "kube-system", "name": "nmi"},
        "spec": {"template": {"spec": {"containers": [{"image": "mcr.example/oss/azure/aad-pod-identity/nmi:v1.8.17"}]}}}})
}

pub(super) fn labelled() -> Value {
    json!({"kind": "Deployment", "metadata": {"namespace": "kube-system", "name": "dns"},
        "spec": {"template": {"metadata": {"labels": {"aadpodidbinding": "dns"}}}}})
}

pub(super) fn release(facts: &mut Facts, tag: &str) {
    let image = format!("imdslet-controller:{tag}");
    facts.workers.as_mut().unwrap()[1]["spec"]["template"]["spec"]["containers"][0]["image"] =
        json!(image);
}

pub(super) fn entry_of(facts: &mut Facts) -> &mut Value {
    &mut facts.webhook.as_mut().unwrap().as_mut().unwrap()["webhooks"][0]
}

/// As if there were a second pod.
pub(super) fn also(facts: &mut Facts, state: Seen<State>, log: Option<Seen<String>>) {
    facts.workloads[0].pods.as_mut().unwrap().push(followed(state, log));
}

pub(super) fn refused(facts: &mut Facts, status: u16, message: &str) {
    let answer = json!({"kind": "Status", "message": message});
    facts.rehearsal = Ok(Rehearsal { namespace: "default".to_owned(), status, answer });
}
