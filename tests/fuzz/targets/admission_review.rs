//! Any bytes as the body of a request: they are answered or refused, the answer can be decoded, and
//! its patch applies to the pod that was sent.

#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use imdslet_core::index::Index;
use imdslet_core::objects::Object;
use imdslet_core::settings::{Given, Settings};
use imdslet_webhook::service::{advise, review};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static CLUSTER: LazyLock<(Index, Settings)> = LazyLock::new(|| {
    let identity = |name: &str, spec: Value| {
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": name, "namespace": "web"}, "spec": spec,
        })
    };
    let binding = |name: &str, selector: &str| {
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": name, "namespace": "web"},
            "spec": {"azureIdentity": name, "selector": selector},
        })
    };
    let client = "11111111-1111-4111-8111-111111111111";
    let objects = [
        identity("plain", json!({"clientID": client})),
        identity(
            "secret",
            json!({"type": 1, "clientID": client, "clientPassword": {"name": "sp"}}),
        ),
        binding("plain", "db"),
        binding("secret", "sp"),
    ];
    let objects = objects
        .iter()
        .map(|object| Object::read(object, "web").expect("an object").expect("one that is read"));
    let given: Given = [("tenant-id", vec!["contoso.example".to_owned()])].into();
    (objects.collect(), Settings::read(&given).expect("settings"))
});

fuzz_target!(|body: &[u8]| {
    let (index, settings) = &*CLUSTER;
    // What nobody reads is not looked at: a string of it may be no UTF-8, a number too large.
    let sent = serde_json::from_slice::<Value>(body);
    if let (Ok(reviewed), Ok(sent)) = (review(index, settings, body), sent) {
        let answer: Value = serde_json::from_slice(&reviewed.body).expect("the answer is JSON");
        let response = &answer["response"];
        assert_eq!(response["uid"], sent["request"]["uid"]);
        assert!(response["allowed"].is_boolean());
        if let Some(patch) = response["patch"].as_str() {
            assert_eq!(response["patchType"], "JSONPatch");
            let patch = BASE64.decode(patch).expect("base64");
            let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a JSON patch");
            let mut object = sent["request"]["object"].clone();
            json_patch::patch(&mut object, &patch).expect("the patch applies");
        }
    }
    if let Ok(advised) = advise(index, settings, body) {
        let answer: Value = serde_json::from_slice(&advised.body).expect("the answer is JSON");
        assert_eq!(answer["response"]["allowed"], true);
    }
});
