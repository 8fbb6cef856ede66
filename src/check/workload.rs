//! How far a workload gets, down to the token.

use imdslet_core::contract::PodIdentities;
use imdslet_core::names::{ADDRESS_CONTAINER, IDENTITIES, SIDECAR};
use serde_json::Value;

use super::facts::{Followed, Workload};
use super::report::{Check, Group, Verdict};
use super::stuck::{Stuck, stuck};
use super::tokens;

/// `now` is in seconds since the Unix epoch.
pub(super) fn group(workload: &Workload, now: i64) -> Group {
    let mut checks = Vec::new();
    let what = ("pods", "it has pods");
    match &workload.pods {
        Err(why) => checks.push(Check::unknown(what, why)),
        Ok(pods) if pods.is_empty() => checks.push(Check::found(
            what,
            Verdict::Failed,
            "there is no pod of it that runs",
            "a refusal stands on the ReplicaSet or Job: kubectl describe it; imdslet explain --live \
             tells what would become of its pods",
        )),
        Ok(pods) => {
            checks.push(Check::passed(what.0, format!("it has {}", running(pods.len()))));
            let each = pods.iter().map(|followed| of_pod(followed, now));
            let mut each: Vec<Vec<Check>> = each.collect();
            // That of the first pod which is not as it should be.
            let is_wrong = |checks: &Vec<Check>| checks.iter().any(|one| one.verdict != Verdict::Passed);
            let shown = each.iter().position(is_wrong).unwrap_or(0);
            checks.append(&mut each.swap_remove(shown));
        }
    }
    Group { name: workload.name.clone(), checks }
}

fn running(pods: usize) -> String {
    if pods == 1 { "a pod that runs".to_owned() } else { format!("{pods} pods that run") }
}

/// Each step needs the one before it.
fn of_pod(followed: &Followed, now: i64) -> Vec<Check> {
    let pod = &followed.pod;
    let mut checks = Vec::new();
    let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let lists = ["/spec/initContainers", "/spec/containers"];
    let all = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let has_sidecar =
        all.into_iter().any(|one| one.get("name").and_then(Value::as_str) == Some("imdslet"));
    let what = ("sidecar", "its pod has the sidecar");
    if !has_sidecar {
        checks.push(Check::found(
            what,
            Verdict::Failed,
            format!("pod {name} has no container imdslet"),
            "imdslet explain --live pod/NAMESPACE/NAME tells why",
        ));
        return checks;
    }
    // In link-local mode the first of them makes the address of the second, out of the same image.
    let ours = [ADDRESS_CONTAINER, SIDECAR];
    if let Some(found) = ours.iter().find_map(|container| stuck(pod, Some(container))) {
        let remedy = remedy(&found);
        checks.push(Check::found(what, Verdict::Failed, found.message, remedy));
        return checks;
    }
    checks.push(Check::passed(what.0, format!("pod {name} has the sidecar")));
    let annotation = pod.pointer("/metadata/annotations").and_then(|all| all.get(IDENTITIES));
    let told = annotation.and_then(Value::as_str).unwrap_or_default();
    let what = ("bound", "it has an identity");
    let Ok(told) = serde_json::from_str::<PodIdentities>(told) else {
        let message = format!("the annotation {IDENTITIES} of pod {name} cannot be read");
        let remedy = "the controller writes it anew: see its log, and that one leads";
        checks.push(Check::found(what, Verdict::Failed, message, remedy));
        return checks;
    };
    let names: Vec<_> = told.identities.iter().map(|one| one.name.clone()).collect();
    if names.is_empty() {
        checks.push(Check::found(
            what,
            Verdict::Failed,
            format!("no usable AzureIdentityBinding matches the label of pod {name}"),
            "imdslet explain --live pod/NAMESPACE/NAME shows each binding and why it gives nothing",
        ));
        return checks;
    }
    checks.push(Check::passed(what.0, format!("it has {}", names.join(", "))));
    checks.push(tokens::check(&names, followed, now));
    checks
}

/// What mends a container of ours. Its image is not the pod's author's to choose.
fn remedy(found: &Stuck) -> String {
    if !found.lacks_image {
        return found.remedy.clone();
    }
    format!(
        "{}; its image is `sidecar.image` of the chart, IMDSLET_SIDECAR_IMAGE of the ConfigMap; a pod \
         pulls it with pull secrets of its own, and with those that `sidecar.imagePullSecrets` of the \
         chart, IMDSLET_SIDECAR_PULL_SECRET of the ConfigMap, names, if its namespace has them",
        found.remedy
    )
}
