//! How far a workload gets, down to the token.

use std::collections::BTreeMap;

use imdslet_core::contract::PodIdentities;
use imdslet_core::names::IDENTITIES;
use serde_json::Value;

use super::facts::{Seen, Workload};
use super::report::{Check, Group, Verdict};

pub(super) fn group(workload: &Workload) -> Group {
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
            checks.push(Check::passed(what.0, format!("it has {} that run", plural(pods.len()))));
            let each = pods.iter().map(|(pod, log)| of_pod(pod, log));
            let mut each: Vec<Vec<Check>> = each.collect();
            // That of the first pod which is not as it should be.
            let is_wrong = |checks: &Vec<Check>| checks.iter().any(|one| one.verdict != Verdict::Passed);
            let shown = each.iter().position(is_wrong).unwrap_or(0);
            checks.append(&mut each.swap_remove(shown));
        }
    }
    Group { name: workload.name.clone(), checks }
}

fn plural(pods: usize) -> String {
    if pods == 1 { "a pod".to_owned() } else { format!("{pods} pods") }
}

/// Each step needs the one before it.
fn of_pod(pod: &Value, log: &Seen<String>) -> Vec<Check> {
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
    checks.push(match log {
        Ok(log) => tokens(&names, log),
        Err(why) => Check::unknown(("token", "its sidecar gets tokens"), why),
    });
    checks
}

/// The last result of each identity and resource, as the sidecar's log has it.
fn tokens(names: &[String], log: &str) -> Check {
    let what = ("token", "its sidecar gets tokens");
    let mut last: BTreeMap<(String, String), Value> = BTreeMap::new();
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let text =
            |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if matches!(&*text("result"), "fetched" | "failed") && names.contains(&text("identity")) {
            last.insert((text("identity"), text("resource")), event);
        }
    }
    let failed = last.iter().find(|(_, event)| event.get("result") == Some(&"failed".into()));
    let Some(((identity, resource), event)) = failed else {
        if last.is_empty() {
            return Check::passed(what.0, "no token was asked for yet, and none was refused");
        }
        return Check::passed(
            what.0,
            format!("its sidecar got {} of {} tokens", last.len(), last.len()),
        );
    };
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let (reason, error) = (text("reason"), text("error"));
    Check::found(
        what,
        Verdict::Failed,
        format!("no token of {identity} for {resource} ({reason}, {}): {error}", text("timestamp")),
        remedy(reason),
    )
}

/// Whose fault a failed fetch is, in the order in which they are looked for.
fn remedy(reason: &str) -> String {
    let who = match reason {
        "NoFederatedCredential"
        | "WrongIssuer"
        | "WrongAudience"
        | "WrongLetterCase"
        | "UnknownIssuerKey"
        | "IssuerUnreachable"
        | "WrongSignature" => "it is the federated credential, or the issuer that it names",
        "NoAnswer" | "Untrusted" | "Deadline" | "BadAnswer" => {
            "it is the network: the pod must reach the authority over TLS, through --https-proxy \
             where there is one, and trust its CA (--extra-ca)"
        }
        "Unavailable" | "Throttled" => "it is Entra ID itself, and is tried again",
        "UnknownApplication" | "UnknownTenant" | "DisabledApplication" => {
            "it is what the AzureIdentity names, or its tenant"
        }
        "DeniedByPolicy" => "it is a policy of the tenant",
        "UnknownResource" => "it is the resource that the application asks for",
        _ => "it is what the message says",
    };
    format!("{who}; docs/operations.md has {reason}, and the message what mends it")
}
