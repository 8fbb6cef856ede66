//! Any JSON as the objects of a cluster: each is read or refused with a reason, and pods can be
//! decided with whatever was read.

#![no_main]

use std::sync::LazyLock;

use imdslet_core::admission::{Outcome, admit};
use imdslet_core::advice::of_resource;
use imdslet_core::index::Index;
use imdslet_core::objects::Object;
use imdslet_core::pod::PodView;
use imdslet_core::settings::{Given, Settings};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static SETTINGS: LazyLock<Settings> =
    LazyLock::new(|| Settings::read(&Given::default()).expect("settings"));

const POD: &str = r#"{
    "metadata": {"labels": {"aadpodidbinding": "db", "app": "web"}},
    "spec": {"containers": [{"name": "app"}]}
}"#;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Value::Array(values)) = serde_json::from_slice(bytes) else { return };
    let read = values.iter().filter_map(|value| match Object::read(value, "web") {
        Ok(object) => object,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    });
    let objects: Vec<_> = read.collect();
    let index: Index = objects.iter().cloned().collect();
    for object in &objects {
        for warning in of_resource(&index, &SETTINGS, object) {
            assert!(!warning.to_string().is_empty());
        }
    }
    let pod = PodView::read(POD).expect("a pod");
    if let Ok(admission) = admit(&index, &SETTINGS, "web", &pod)
        && let Outcome::Injected { patch, .. } = admission.outcome
    {
        let mut pod: Value = serde_json::from_str(POD).expect("JSON");
        json_patch::patch(&mut pod, &patch.operations().expect("a JSON patch"))
            .expect("the patch applies");
    }
});
