//! Whether imdslet works in a cluster.

use imdslet_core::index::Index;
use imdslet_core::missed::missed;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::facts::{Facts, Rehearsal, Seen, text};
use super::report::{Check, Group, Verdict};
use super::stuck::{Stuck, podless, stuck};
use super::tenant;

/// What the operator's guide has. The shipped file names no tenant, and images that no node has.
const APPLY: &str = "kubectl apply --server-side --force-conflicts -f manifests/install.yaml, with the tenant \
                     and the images set in it first, once the list above is as it should be";
/// Makes everything be as it was. By the shipped file it would be as it was shipped: an emptied tenant takes
/// identities from running pods.
const RESTORE: &str = "apply your own install.yaml again, with its tenant and images (not the one that was \
                       shipped), or helm upgrade";
/// After so long without a sign of the leader another one should have taken over.
const STALE: i64 = 60;
/// Before the end of a certificate somebody should have renewed it.
const SOON: i64 = 7 * 24 * 3600;

pub(super) fn group(facts: &Facts, version: &str) -> Group {
    let what = ("installed", "imdslet is installed");
    let mut checks = Vec::new();
    match &facts.webhook {
        Err(why) => checks.push(Check::unknown(what, why)),
        Ok(None) => checks.push(Check::found(
            what,
            Verdict::Warning,
            "there is no MutatingWebhookConfiguration imdslet",
            APPLY,
        )),
        Ok(Some(webhook)) => {
            checks.push(Check::passed(what.0, what.1));
            for deployment in ["imdslet-webhook", "imdslet-controller"] {
                checks.push(replicas(facts, deployment));
            }
            checks.push(tenant::check(facts));
            checks.push(leader(&facts.lease, &facts.namespace, facts.now));
            checks.push(releases(&facts.workers, version, &facts.namespace));
            checks.push(bundles(webhook, facts.now));
            checks.push(circle(webhook, &facts.workers, &facts.namespace));
            checks.push(rehearsed(&facts.rehearsal));
            checks.push(left_out(&facts.pods, &facts.index));
        }
    }
    Group { name: "imdslet".to_owned(), checks }
}

pub(super) fn deployment<'a>(
    workers: &'a [Value],
    name: &str,
    namespace: &str,
) -> Option<&'a Value> {
    workers.iter().find(|one| {
        text(one, "/kind") == "Deployment"
            && text(one, "/metadata/namespace") == namespace
            && text(one, "/metadata/name") == name
    })
}

fn replicas(facts: &Facts, name: &'static str) -> Check {
    let namespace = &facts.namespace;
    let title = format!("the replicas of {name} are ready");
    let what =
        (if name == "imdslet-webhook" { "webhook-ready" } else { "controller-ready" }, &*title);
    let workers = match &facts.workers {
        Ok(workers) => workers,
        Err(why) => return Check::unknown(what, why),
    };
    let Some(found) = deployment(workers, name, namespace) else {
        let message = format!("Deployment {namespace}/{name} does not exist");
        return Check::found(what, Verdict::Failed, message, RESTORE);
    };
    let count = |pointer: &str| found.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (wanted, ready) = (count("/spec/replicas"), count("/status/availableReplicas"));
    if wanted == 0 {
        // Those that are still ready are on their way out.
        let remedy = format!("kubectl -n {namespace} scale deployment {name} --replicas=2");
        return Check::found(what, Verdict::Failed, "it is scaled to 0", remedy);
    }
    let stuck = stuck_replica(facts, found, name);
    if ready == 0 || ready < wanted {
        let verdict = if ready == 0 { Verdict::Failed } else { Verdict::Warning };
        let (why, remedy) = match stuck {
            Some(found) => (format!(": {}", found.message), found.remedy),
            None => (
                String::new(),
                format!(
                    "kubectl -n {namespace} describe deployment {name}; kubectl -n {namespace} \
                     logs deploy/{name}"
                ),
            ),
        };
        return Check::found(what, verdict, format!("{ready} of {wanted} are ready{why}"), remedy);
    }
    // Those of before stay until a new one is ready.
    if let Some(found) = stuck {
        let message = format!(
            "{ready} of {wanted} are ready, and the one that is to take their place is not: {}",
            found.message
        );
        return Check::found(what, Verdict::Warning, message, found.remedy);
    }
    if wanted < 2 {
        let message = "it has one replica, and is away while that one is moved";
        return Check::found(what, Verdict::Warning, message, "give it two");
    }
    Check::passed(what.0, format!("{ready} of {wanted} replicas of {name} are ready"))
}

/// What keeps a replica from running, as far as the pods or the Deployment say it.
fn stuck_replica(facts: &Facts, deployment: &Value, name: &str) -> Option<Stuck> {
    let is_of_it = |pod: &&Value| {
        text(pod, "/metadata/labels/app.kubernetes.io~1name") == name
            && text(pod, "/metadata/deletionTimestamp").is_empty()
    };
    let mut pods = facts.own_pods.iter().flatten().filter(is_of_it);
    pods.find_map(|pod| stuck(pod, None)).or_else(|| podless(deployment))
}

fn leader(seen: &Seen<Option<Value>>, namespace: &str, now: i64) -> Check {
    let what = ("leader", "one controller leads");
    let lease = match seen {
        Ok(Some(lease)) => lease,
        Ok(None) => {
            let message =
                format!("there is no Lease {namespace}/imdslet-controller: none has led yet");
            let remedy = format!("kubectl -n {namespace} logs deploy/imdslet-controller");
            return Check::found(what, Verdict::Failed, message, remedy);
        }
        Err(why) => return Check::unknown(what, why),
    };
    let renewed = text(lease, "/spec/renewTime").parse::<jiff::Timestamp>();
    let holder = text(lease, "/spec/holderIdentity");
    match renewed {
        Ok(renewed) if now - renewed.as_second() <= STALE && !holder.is_empty() => {
            Check::passed(what.0, format!("{holder} leads"))
        }
        Ok(renewed) => Check::found(
            what,
            Verdict::Failed,
            if holder.is_empty() {
                "the last leader has let go, and no other has taken over".to_owned()
            } else {
                format!("the last sign of a leader is {} s old", now - renewed.as_second())
            },
            format!(
                "running pods do not follow their bindings; kubectl -n {namespace} logs \
                 deploy/imdslet-controller, and see that this machine's clock is right"
            ),
        ),
        Err(error) => Check::unknown(what, &format!("spec.renewTime of the Lease: {error}")),
    }
}

fn releases(seen: &Seen<Vec<Value>>, version: &str, namespace: &str) -> Check {
    let what = ("releases", "webhook, controller and this command are of one release");
    let workers = match seen {
        Ok(workers) => workers,
        Err(why) => return Check::unknown(what, why),
    };
    let image = |name: &str| {
        let found = deployment(workers, name, namespace)?;
        Some(text(found, "/spec/template/spec/containers/0/image").to_owned())
    };
    let images = [image("imdslet-webhook"), image("imdslet-controller")];
    let [Some(webhook), Some(controller)] = &images else {
        return Check::unknown(what, "webhook or controller is not there");
    };
    if webhook.contains('@') || controller.contains('@') {
        return Check::passed(what.0, "the images are named by their digests");
    }
    let tag = |image: &str| {
        let last = image.rsplit('/').next().unwrap_or_default();
        last.split_once(':').map_or("latest", |(_, tag)| tag).trim_start_matches('v').to_owned()
    };
    let (webhook, controller) = (tag(webhook), tag(controller));
    if webhook == controller && webhook == version {
        return Check::passed(
            what.0,
            format!("webhook, controller and this command are {version}"),
        );
    }
    Check::found(
        what,
        Verdict::Warning,
        format!("webhook {webhook}, controller {controller}, this command {version}"),
        "finish the upgrade, or use the command of that release: what it explains is what it does",
    )
}

fn bundles(webhook: &Value, now: i64) -> Check {
    let what = ("ca-bundle", "the webhook configuration has CAs that are valid");
    let entries = webhook.get("webhooks").and_then(Value::as_array);
    let remedy = "a replica of the webhook puts it there within a second: see their log, and keep the GitOps \
                  tool from owning caBundle; with cert-manager see its ca-injector";
    for entry in entries.into_iter().flatten() {
        let name = text(entry, "/name");
        let bundle = text(entry, "/clientConfig/caBundle");
        let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, bundle);
        let ends = pem.ok().and_then(|pem| last_end(&pem));
        match ends {
            None => {
                let message = format!("caBundle of entry {name} has no certificate");
                return Check::found(what, Verdict::Failed, message, remedy);
            }
            Some(end) if end <= now => {
                let message = format!("every CA of entry {name} has expired");
                return Check::found(what, Verdict::Failed, message, remedy);
            }
            Some(end) if end - now < SOON => {
                let message = format!("the CA of entry {name} ends in {} h", (end - now) / 3600);
                return Check::found(what, Verdict::Warning, message, remedy);
            }
            Some(_) => {}
        }
    }
    Check::passed(what.0, "every entry of the webhook has a CA that is valid")
}

/// When the last of these certificates ends.
fn last_end(pem: &[u8]) -> Option<i64> {
    let ends = Pem::iter_from_buffer(pem).filter_map(|block| {
        let block = block.ok()?;
        Some(block.parse_x509().ok()?.validity().not_after.timestamp())
    });
    ends.max()
}

/// A cluster that starts cold must not need imdslet to start imdslet.
fn circle(webhook: &Value, seen: &Seen<Vec<Value>>, own: &str) -> Check {
    let what = ("circular-start", "imdslet and the cluster start without imdslet");
    let entries = webhook.get("webhooks").and_then(Value::as_array);
    let is_for_labelled = |entry: &Value| {
        let words = entry.pointer("/objectSelector/matchExpressions").and_then(Value::as_array);
        words
            .into_iter()
            .flatten()
            .any(|one| text(one, "/key") == "aadpodidbinding" && text(one, "/operator") == "Exists")
    };
    let wide = entries.into_iter().flatten().find(|entry| !is_for_labelled(entry));
    if let Some(wide) = wide {
        return Check::found(
            what,
            Verdict::Failed,
            format!("entry {} is asked about pods without the label", text(wide, "/name")),
            format!("put its objectSelector back: {RESTORE}"),
        );
    }
    let workers = match seen {
        Ok(workers) => workers,
        Err(why) => return Check::unknown(what, why),
    };
    let needed = |one: &&Value| {
        let namespace = text(one, "/metadata/namespace");
        let label = text(one, "/spec/template/metadata/labels/aadpodidbinding");
        (namespace == own || namespace == "kube-system") && !label.is_empty()
    };
    match workers.iter().find(needed) {
        Some(one) => Check::found(
            what,
            Verdict::Warning,
            format!(
                "{}/{}/{} has the label aadpodidbinding, and waits for the webhook",
                text(one, "/kind"),
                text(one, "/metadata/namespace"),
                text(one, "/metadata/name")
            ),
            "take the label away; or give its namespace imdslet.dev/failure-policy: ignore, with which it does \
             not wait (and is named here all the same)",
        ),
        None => Check::passed(what.0, what.1),
    }
}

fn rehearsed(seen: &Seen<Rehearsal>) -> Check {
    let what = ("admission", "a labelled pod gets its sidecar (by a dry run)");
    let Rehearsal { namespace, status, answer } = match seen {
        Ok(rehearsal) => rehearsal,
        Err(why) => return Check::unknown(what, why),
    };
    let said = crate::live::message(answer);
    match status {
        200 | 201 => {
            let lists = ["/spec/initContainers", "/spec/containers"];
            let all = lists.iter().filter_map(|list| answer.pointer(list)?.as_array()).flatten();
            if all.into_iter().any(|container| text(container, "/name") == "imdslet") {
                return Check::passed(what.0, what.1);
            }
            Check::found(
                what,
                Verdict::Failed,
                format!("a labelled pod in namespace {namespace} was admitted as it was"),
                format!(
                    "see the labels of the namespace (imdslet.dev/injection, control-plane) and the \
                     selectors of MutatingWebhookConfiguration imdslet; a webhook that fails open \
                     (imdslet.dev/failure-policy: ignore on {namespace}) may be away"
                ),
            )
        }
        _ if said.contains("imdslet.dev\" denied the request") => {
            // The pod is bound by nothing.
            Check::passed(what.0, "the webhook answers: it refuses a pod that nothing binds")
        }
        403 if said.contains("cannot create resource") => {
            Check::unknown(what, &format!("you may not create pods in {namespace}: {said}"))
        }
        _ if said.contains("failed calling webhook") && said.contains("imdslet.dev") => {
            Check::found(
                what,
                Verdict::Failed,
                format!("the API server cannot ask the webhook: {said}"),
                "see that port 443 of Service imdslet-webhook leads to ready replicas, that \
             the API server reaches them (private clusters: a firewall between control plane and \
             nodes), and their logs",
            )
        }
        _ => Check::found(
            what,
            Verdict::Failed,
            format!("a labelled pod in namespace {namespace} is refused ({status}): {said}"),
            "who refuses says why; if it is not imdslet, check with --namespace in another one",
        ),
    }
}

fn left_out(seen: &Seen<Vec<Value>>, index: &Seen<Index>) -> Check {
    let what = ("sidecars", "every labelled pod has its sidecar");
    let (pods, index) = match (seen, index) {
        (Ok(pods), Ok(index)) => (pods, index),
        (Err(why), _) | (_, Err(why)) => return Check::unknown(what, why),
    };
    let has_sidecar = |pod: &Value| {
        let lists = ["/spec/initContainers", "/spec/containers"];
        let all = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
        all.into_iter().any(|container| text(container, "/name") == "imdslet")
    };
    let without: Vec<_> = pods
        .iter()
        .filter(|pod| {
            !has_sidecar(pod) && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
        })
        .filter(|pod| missed(&pod.to_string(), text(pod, "/metadata/namespace"), index).is_some())
        .map(|pod| format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name")))
        .collect();
    if without.is_empty() {
        return Check::passed(what.0, "no labelled pod lacks its sidecar");
    }
    let some = without.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = without.len().saturating_sub(5);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Check::found(
        what,
        Verdict::Warning,
        format!("without one: {some}{more}"),
        "imdslet explain --live pod/NAMESPACE/NAME tells why; those that are older than imdslet need \
         kubectl rollout restart",
    )
}
