//! The patch for each shape of a pod: a snapshot for the reader, and the rules that all keep.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imdslet_core::admission::{Admission, Outcome, Refusal};
use imdslet_tests::additions::only_adds;
use imdslet_tests::cases::Case;
use serde_json::{Value, json};

#[test]
fn each_pod_gets_its_patch() {
    insta::glob!("../fixtures/pods", "*.yaml", |file| {
        let case = Case::read(file);
        let decision = case.admit(&case.pod);
        insta::with_settings!({description => case.what.clone(), omit_expression => true}, {
            insta::assert_yaml_snapshot!(readable(&decision));
        });
    });
}

#[test]
fn each_patch_applies_adds_only_and_is_final() {
    let mut patched = 0;
    for entry in fs::read_dir(pods()).unwrap() {
        let file = entry.unwrap().path();
        let case = Case::read(&file);
        let Some((after, _)) = applied(&case) else { continue };
        assert_eq!(only_adds(&case.pod, &after), Ok(()), "{}", file.display());
        let again = case.admit(&after).unwrap();
        let Outcome::Injected { patch, .. } = again.outcome else { panic!("{again:?}") };
        assert!(patch.is_empty(), "{}: {patch}", file.display());
        patched += 1;
    }
    assert!(patched > 40, "only {patched} pods were patched");
}

/// Source: Kubernetes' documentation, "Pod Security Standards", the restricted profile.
#[test]
fn what_is_added_passes_restricted_pod_security() {
    let case = Case::read(&pods().join("restricted.yaml"));
    let (after, identities) = applied(&case).unwrap();
    assert_eq!(identities, ["web/app", "web/sp"]);
    let spec = &after["spec"];
    let containers = ["initContainers", "containers"].map(|list| spec[list].as_array().unwrap());
    for container in containers.into_iter().flatten() {
        let security = &container["securityContext"];
        let of_pod = &spec["securityContext"];
        let either =
            |key: &str| if security[key].is_null() { &of_pod[key] } else { &security[key] };
        assert_eq!(either("runAsNonRoot"), true, "{container}");
        assert_ne!(either("runAsUser"), 0, "{container}");
        assert_eq!(either("seccompProfile"), &json!({"type": "RuntimeDefault"}), "{container}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{container}");
        assert!(security["privileged"].is_null() && container["ports"].is_null(), "{container}");
    }
    for volume in spec["volumes"].as_array().unwrap() {
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        assert!(kinds.into_iter().all(|kind| ["projected", "secret"].contains(&kind.as_str())));
    }
}

#[test]
fn each_pod_is_where_the_fuzzer_begins() {
    let names = |dir: &Path| -> BTreeSet<_> {
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files.map(|file| file.file_stem().unwrap().to_owned()).collect()
    };
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/admission_review");
    assert_eq!(names(&seeds), names(&pods()));
}

fn pods() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pods")
}

fn readable(decision: &Result<Admission, Refusal>) -> Value {
    let admission = match decision {
        Ok(admission) => admission,
        Err(refusal) => {
            return json!({"refused": refusal.to_string(), "reason": refusal.reason()});
        }
    };
    let warnings: Vec<_> = admission
        .warnings
        .iter()
        .map(|warning| format!("{}: {warning}", warning.reason()))
        .collect();
    match &admission.outcome {
        Outcome::Untouched(why) => {
            json!({"warnings": warnings, "outcome": format!("untouched: {}", why.reason())})
        }
        Outcome::Injected { patch, identities } => json!({
            "warnings": warnings, "outcome": "injected", "identities": identities, "patch": patch.operations().unwrap(),
        }),
    }
}

/// The pod with its patch, and its identities; `None` if it gets none.
fn applied(case: &Case) -> Option<(Value, Vec<String>)> {
    let Ok(Admission { outcome: Outcome::Injected { patch, identities }, .. }) =
        case.admit(&case.pod)
    else {
        return None;
    };
    let mut after = case.pod.clone();
    json_patch::patch(&mut after, &patch.operations().unwrap()).unwrap();
    Some((after, identities))
}
