//! Rules that hold for any pod, any order of events and any bytes. Invariant 4 is
//! [`a_patch_applies_adds_only_and_is_final`].

use std::collections::BTreeMap;

use imdslet::documents;
use imdslet_core::admission::{Admission, Outcome, Refusal, admit};
use imdslet_core::csi::{Step, plan};
use imdslet_core::index::{Change, Index};
use imdslet_core::objects::{Kind, Object, ObjectName};
use imdslet_core::pod::PodView;
use imdslet_core::settings::{FLAGS, Given, Settings};
use imdslet_tests::additions::only_adds;
use imdslet_webhook::service::review;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::generators::{
    UNKNOWN, any_bytes, any_object, any_objects, any_pod, any_settings, any_text, any_use,
    any_value, id, object,
};

/// Regressions become named tests, so that nothing is written into the sources.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn a_patch_applies_adds_only_and_is_final(
        pod in any_pod(),
        objects in any_objects(),
        settings in any_settings(),
    ) {
        let index: Index = objects.iter().map(object).collect();
        let Ok(first) = decide(&index, &settings, &pod) else { return Ok(()) };
        let Outcome::Injected { patch, identities } = first.outcome else { return Ok(()) };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &patch.operations().unwrap()).unwrap();

        prop_assert_eq!(only_adds(&pod, &after), Ok(()));
        for operation in patch.operations().unwrap().iter() {
            let operation = serde_json::to_value(operation).unwrap();
            prop_assert!(is_of_the_design(&operation), "{}", operation);
        }
        let again = decide(&index, &settings, &after).unwrap();
        let Outcome::Injected { patch, identities: same } = again.outcome else {
            return Err(TestCaseError::fail("it is left alone the second time"));
        };
        prop_assert_eq!(&patch.to_string(), "[]");
        prop_assert_eq!(identities, same);
    }

    /// `imdslet inject` and the API server both work on what they have parsed; what nobody here
    /// has a name for must come out as it went in.
    #[test]
    fn unknown_fields_survive_byte_for_byte(pod in any_pod(), objects in any_objects()) {
        let index: Index = objects.iter().map(object).collect();
        let Ok(admission) = decide(&index, &Settings::read(&Given::new()).unwrap(), &pod) else {
            return Ok(());
        };
        let Outcome::Injected { patch, .. } = admission.outcome else { return Ok(()) };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &patch.operations().unwrap()).unwrap();
        let mut unknown = Vec::new();
        collect_unknown(&pod, &mut unknown);
        let mut survived = Vec::new();
        collect_unknown(&after, &mut survived);
        // A container may get a copy: the header value that a sidecar of its own already has.
        for one in &unknown {
            let at = survived.iter().position(|other| other == one);
            prop_assert!(at.is_some(), "{} is gone", one);
            at.map(|at| survived.swap_remove(at));
        }
    }

    #[test]
    fn a_decision_does_not_depend_on_the_order_of_objects(
        (objects, shuffled) in any_objects().prop_flat_map(|objects| {
            (Just(objects.clone()), Just(objects).prop_shuffle())
        }),
        pod in any_pod(),
        settings in any_settings(),
    ) {
        let one: Index = objects.iter().map(object).collect();
        let other: Index = shuffled.iter().map(object).collect();
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(decide(&one, &settings, &pod), decide(&other, &settings, &pod));
    }

    /// However the cluster came to be what it is, one round makes the classes right, and no class of
    /// somebody else is written on the way.
    #[test]
    fn what_is_planned_of_classes_leaves_nothing_to_plan(
        objects in any_objects(),
        settings in any_settings(),
        uses in vec(any_use(), 0..3),
    ) {
        let planned = |objects: &BTreeMap<_, Value>| {
            let index: Index = objects.values().map(object).collect();
            plan(&index, &settings, uses.iter().map(|used| ("web", used)))
        };
        let mut objects: BTreeMap<_, _> =
            objects.into_iter().map(|value| (id(&value), value)).collect();
        // Twice: what is for nobody gives nothing first, and goes then.
        for _ in 0..2 {
            for (name, step) in planned(&objects).steps {
                let key = (Kind::SecretProviderClass, name);
                let before = objects.remove(&key);
                let is_ours = |value: &Value| {
                    value["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "imdslet"
                };
                prop_assert_eq!(before.is_some(), !matches!(step, Step::Create(_)));
                prop_assert!(before.as_ref().is_none_or(is_ours), "{:?}", before);
                if let Step::Create(derived) | Step::Replace(derived, _) = step {
                    objects.insert(key, derived.object(None));
                }
            }
        }
        prop_assert_eq!(planned(&objects).steps, BTreeMap::new());
    }

    #[test]
    fn an_index_is_what_the_events_end_in(
        events in vec((any_object(), 0..5), 0..40),
        start in any_objects(),
    ) {
        let mut index: Index = start.iter().map(object).collect();
        let mut left: BTreeMap<(Kind, ObjectName), Value> = BTreeMap::new();
        for value in &start {
            left.insert(id(value), value.clone());
        }
        for (value, what) in &events {
            let (kind, name) = id(value);
            match what {
                0 => {
                    // What a new list has of this kind is all that there is of it.
                    let listed: Vec<_> = start.iter().filter(|value| id(value).0 == kind).collect();
                    index.replace(kind, listed.iter().map(|value| object(value)).collect());
                    left.retain(|(other, _), _| *other != kind);
                    left.extend(listed.into_iter().map(|value| (id(value), value.clone())));
                }
                1 | 2 => {
                    index.apply(Change::Deleted(kind, name.clone()));
                    left.remove(&(kind, name));
                }
                _ => {
                    index.apply(Change::Applied(Box::new(object(value))));
                    left.insert((kind, name), value.clone());
                }
            }
        }
        prop_assert_eq!(index, left.values().map(object).collect::<Index>());
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in any_bytes()) {
        let settings = Settings::read(&Given::new()).unwrap();
        let _ = review(&Index::default(), &settings, &bytes);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = documents::parse("any", text, &mut Vec::new());
            if let Ok(pod) = PodView::read(text) {
                let _ = admit(&Index::default(), &settings, "web", &pod);
            }
        }
    }

    #[test]
    fn no_value_makes_an_object_or_a_setting_panic(value in any_value(), text in any_text()) {
        for kind in ["AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException"] {
            let object = json!({
                "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
                "metadata": {"name": "x", "annotations": value}, "spec": value,
            });
            let _ = Object::read(&object, "default");
        }
        let class = json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": "x", "annotations": value, "ownerReferences": value},
            "spec": {"provider": "azure", "parameters": value},
        });
        let _ = Object::read(&class, "default");
        for kind in ["LimitRange", "Namespace"] {
            let object = json!({
                "apiVersion": "v1", "kind": kind,
                "metadata": {"name": "x", "labels": value}, "spec": {"limits": [
                    {"type": "Container", "min": {"cpu": value}, "max": value},
                ]},
            });
            let _ = Object::read(&object, "default");
        }
        let _ = Object::read(&value, "default");
        for flag in FLAGS {
            let _ = Settings::read(&[(flag.name, vec![text.clone()])].into());
        }
    }
}

fn decide(index: &Index, settings: &Settings, pod: &Value) -> Result<Admission, Refusal> {
    let text = pod.to_string();
    admit(index, settings, "web", &PodView::read(&text)?)
}

/// Whether an operation is one that the design names.
fn is_of_the_design(operation: &Value) -> bool {
    let path = operation["path"].as_str().unwrap();
    let path = path.replace("/initContainers", "/containers");
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<_> =
        path.split('/').map(|part| if is_number(part) { "N" } else { part }).collect();
    let changes = [
        "/spec/containers/N/env/N/value",
        "/spec/volumes/N/csi/volumeAttributes/secretProviderClass",
        "/metadata/annotations/imdslet.dev~1identities",
        "/metadata/annotations/imdslet.dev~1version",
    ];
    let additions = [
        "/spec/containers",
        "/spec/containers/N",
        "/spec/containers/-",
        "/spec/containers/N/env",
        "/spec/containers/N/env/-",
        "/spec/volumes",
        "/spec/volumes/-",
        "/spec/imagePullSecrets",
        "/spec/imagePullSecrets/-",
        "/spec/securityContext",
        "/spec/securityContext/sysctls",
        "/spec/securityContext/sysctls/-",
        "/metadata/annotations",
        "/metadata/annotations/kubectl.kubernetes.io~1default-container",
    ];
    let path = parts.join("/");
    let is_change = changes.contains(&path.as_str());
    let is_class = path.starts_with("/spec/volumes/N/csi");
    match operation["op"].as_str() {
        Some("add") => (is_change && !is_class) || additions.contains(&path.as_str()),
        Some("replace") => is_change,
        _ => false,
    }
}

/// The texts of all values whose key no release knows, in their order.
fn collect_unknown(value: &Value, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key.starts_with(UNKNOWN) {
                    unknown.push(format!("{key}: {value}"));
                } else {
                    collect_unknown(value, unknown);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_unknown(item, unknown)),
        _ => {}
    }
}

/// The reader counts what aliases repeat.
#[test]
fn aliases_that_grow_without_end_are_refused() {
    let line = |level: usize| {
        let before = format!("*a{}, ", level - 1).repeat(10);
        format!("a{level}: &a{level} [{before}]\n")
    };
    let text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned()
        + &(1..10).map(line).collect::<String>();
    let error = documents::parse("bomb.yaml", &text, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("bomb.yaml, document 1: "), "{error}");
}
