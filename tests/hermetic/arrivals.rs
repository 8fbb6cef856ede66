//! Pods that arrive with our sidecar: copies, backups, and the API server that asks again. What
//! such a sidecar got when its pod was created decides what it can serve, and admission and the
//! controller must agree about that.

use imdslet_core::admission::{Outcome, Refusal, admit};
use imdslet_core::index::Index;
use imdslet_core::live::decide;
use imdslet_core::names::{IDENTITIES, SIDECAR};
use imdslet_core::pod::PodView;
use imdslet_core::running::RunningPod;
use imdslet_core::settings::Settings;
use proptest::option::weighted;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::generators::{any_container, any_objects, any_pod, any_settings, object};
use crate::properties::config;

/// What happens to a pod between two admissions.
#[derive(Clone, Debug)]
struct Journey {
    /// As `kubectl debug --copy-to` does it.
    loses_annotations: bool,
    /// As `kubectl debug` and other webhooks do it.
    added: Option<Value>,
}

fn any_journey() -> impl Strategy<Value = Journey> {
    (any::<bool>(), weighted(0.5, any_container())).prop_map(|(loses_annotations, mut added)| {
        if let Some(container) = &mut added {
            container["name"] = json!("late");
        }
        Journey { loses_annotations, added }
    })
}

impl Journey {
    fn take(&self, pod: &mut Value) {
        if self.loses_annotations {
            pod["metadata"].as_object_mut().unwrap().remove("annotations");
        }
        let containers = pod["spec"]["containers"].as_array_mut().unwrap();
        containers.extend(self.added.clone());
    }

    /// Whether a container was added that wants to see what only the sidecar may.
    fn is_after_our_volume(&self) -> bool {
        let mounts = self.added.iter().filter_map(|added| added["volumeMounts"].as_array());
        mounts.flatten().any(|mount| mount["name"].as_str().is_some_and(|n| n.starts_with(SIDECAR)))
    }
}

/// The pod with its patch, and its identities; `None` if it gets none.
fn admitted(
    index: &Index,
    settings: &Settings,
    pod: &Value,
) -> Result<Option<(Value, Vec<String>)>, Refusal> {
    let text = pod.to_string();
    let admission = admit(index, settings, "web", &PodView::read(&text)?)?;
    let Outcome::Injected { patch, identities } = admission.outcome else { return Ok(None) };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch.operations().unwrap()).unwrap();
    Ok(Some((after, identities)))
}

/// What the controller would write to the pod now.
fn correction(index: &Index, settings: &Settings, pod: &Value) -> Option<String> {
    let mut pod = pod.clone();
    pod["metadata"]["namespace"] = json!("web");
    let running = RunningPod::read(&pod.to_string()).unwrap();
    decide(&running, index, settings).change.map(|change| change.annotation)
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn admission_and_controller_agree_about_any_pod_also_when_it_arrives_again(
        pod in any_pod(),
        (before, then) in (any_objects(), any_objects()),
        (settings, later) in (any_settings(), any_settings()),
        journey in any_journey(),
    ) {
        let first: Index = before.iter().map(object).collect();
        let Ok(Some((mut pod, _))) = admitted(&first, &settings, &pod) else { return Ok(()) };
        prop_assert_eq!(correction(&first, &settings, &pod), None);

        journey.take(&mut pod);
        let second: Index = then.iter().map(object).collect();
        let (after, identities) = match admitted(&second, &later, &pod) {
            Ok(admitted) => admitted.unwrap(),
            Err(Refusal::Reserved(_)) if journey.is_after_our_volume() => return Ok(()),
            Err(refusal) => return Err(TestCaseError::fail(refusal.to_string())),
        };
        prop_assert_eq!(correction(&second, &later, &after), None);
        let told = after["metadata"]["annotations"][IDENTITIES].as_str().unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        let told = told["identities"].as_array().unwrap().iter();
        let names: Vec<_> = told.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        prop_assert_eq!(names, identities);
    }
}
