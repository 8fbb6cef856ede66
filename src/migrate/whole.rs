//! What must be decided about the estate as a whole.

use std::collections::{BTreeMap, BTreeSet};

use imdslet_core::contract::Source;
use imdslet_core::objects::ObjectName;
use imdslet_core::settings::{Scope, Settings};
use serde_json::json;

use super::decision::{Decision, Reason};
use super::estate::{Estate, Workload};
use super::{LIMIT, Needs, Proposal, source};
use crate::emulator::FederatedCredential;

/// Whether AKS's admissions enforcer keeps webhooks away from this namespace.
pub(super) fn is_kept_from_webhooks(namespace: &str) -> bool {
    namespace == "kube-system"
}

/// Adds the decisions about more than one pod; proposes accounts where one is shared.
pub(super) fn decide(
    estate: &Estate,
    credentials: &[FederatedCredential],
    settings: &Settings,
    needs: &mut Needs,
) -> Vec<Proposal> {
    let mut decisions = std::mem::take(&mut needs.decisions);
    for (object, fault) in &estate.faulty {
        decisions.insert(Decision::new(Reason::BrokenObject, object, fault.to_string()));
    }
    limits(credentials, &mut decisions);
    identities(estate, settings, needs, &mut decisions);
    bindings(estate, settings, needs, &mut decisions);
    surroundings(estate, settings, &mut decisions);
    let proposals = accounts(estate, needs, &mut decisions);
    needs.decisions = decisions;
    proposals
}

/// Counts by client id, which is what Azure knows an identity by.
fn limits(credentials: &[FederatedCredential], decisions: &mut BTreeSet<Decision>) {
    let mut counts: BTreeMap<String, (usize, Option<&str>)> = BTreeMap::new();
    for credential in credentials {
        let first = credential.identity.as_deref();
        counts.entry(credential.client_id.to_ascii_lowercase()).or_insert((0, first)).0 += 1;
    }
    for (client_id, (count, identity)) in counts {
        if count <= LIMIT {
            continue;
        }
        let message = format!(
            "client id {client_id} needs {count} federated credentials, and Azure allows {LIMIT} \
             for one identity: let more workloads share a service account, split the identity, or \
             use AKS identity bindings (imdslet.dev/source: binding), which need a ClusterRole \
             instead of credentials; other clusters on the same identity count too"
        );
        let object = format!("AzureIdentity/{}", identity.unwrap_or_default());
        decisions.insert(Decision::new(Reason::TooManyCredentials, object, message));
    }
}

fn identities(
    estate: &Estate,
    settings: &Settings,
    needs: &Needs,
    decisions: &mut BTreeSet<Decision>,
) {
    let named: BTreeSet<_> = estate
        .bindings
        .iter()
        .map(|(name, binding)| ObjectName::new(&*name.namespace, &*binding.azure_identity))
        .collect();
    for (name, identity) in &estate.identities {
        let object = format!("AzureIdentity/{name}");
        if !named.contains(name) {
            let message = "no AzureIdentityBinding of its namespace names it, so no pod uses it; \
                           remove it, or bind it";
            decisions.insert(Decision::new(Reason::UnusedIdentity, &object, message));
        }
        if !needs.used.contains_key(name) {
            continue;
        }
        if identity.tenant_id.is_none() && settings.tenant_id.is_none() {
            let message = "names no tenant; install with AZURE_TENANT_ID (--tenant-id), and give \
                           it to this plan, or set the annotation imdslet.dev/tenant-id";
            decisions.insert(Decision::new(Reason::NoTenant, &object, message));
        }
        if identity.resource_id.is_none() && source(identity) == Source::Federated {
            let message = "has no spec.resourceID, so its credentials are in no script; set it, or \
                           create what `-o json` lists by hand";
            decisions.insert(Decision::new(Reason::NoResourceId, &object, message));
        }
    }
}

fn bindings(
    estate: &Estate,
    settings: &Settings,
    needs: &Needs,
    decisions: &mut BTreeSet<Decision>,
) {
    for (name, binding) in &estate.bindings {
        if !needs.selectors.contains(&binding.selector) {
            let message = format!(
                "no pod in these files has the label aadpodidbinding: {}; remove the binding, or \
                 add the missing workloads to the files",
                binding.selector
            );
            let object = format!("AzureIdentityBinding/{name}");
            decisions.insert(Decision::new(Reason::UnusedBinding, object, message));
        }
    }
    for (identities, workloads) in needs.accounts.values().flatten() {
        let [default, _, ..] = identities.as_slice() else { continue };
        let message = format!(
            "may have {}: requests that name none got any of them until now, and get {default} \
             from imdslet; name one in the application (client id), or remove bindings",
            identities.join(", ")
        );
        for object in objects(workloads) {
            decisions.insert(Decision::new(Reason::SeveralIdentities, object, &*message));
        }
    }
    if settings.scope == Scope::Cluster {
        for object in &estate.namespaced_by {
            let message = "keeps every pod to the bindings of its own namespace; install imdslet \
                           with --scope=namespaced, and give that to this plan, or every binding \
                           reaches the pods of all namespaces";
            decisions.insert(Decision::new(Reason::Scope, object, message));
        }
    }
}

fn surroundings(estate: &Estate, settings: &Settings, decisions: &mut BTreeSet<Decision>) {
    for object in &estate.classes {
        let message = "has usePodIdentity, by which the driver asks NMI at the node; apply \
                       manifests/csi.yaml, and the pods' volumes get a class of imdslet's own, or \
                       set usePodIdentity to \"false\" and clientID to the identity's client id; \
                       either needs a federated credential for the pods' service account";
        decisions.insert(Decision::new(Reason::SecretsStore, object, message));
    }
    let first = |objects: &BTreeSet<String>| {
        let others = objects.len().saturating_sub(1);
        let and = if others > 0 { format!(" (and {others} more)") } else { String::new() };
        objects.first().map(|object| (object.clone(), and))
    };
    if let Some((object, and)) = first(&estate.policies) {
        let message = format!(
            "a policy engine is at work{and}; let it admit the sidecar's image {} and its uid",
            settings.sidecar_image
        );
        decisions.insert(Decision::new(Reason::PolicyEngine, object, message));
    }
    if let Some((object, and)) = first(&estate.held) {
        let message = format!(
            "has finalizers{and} that only MIC removes; delete AzureIdentityBindings while MIC \
             still runs, or remove the finalizers by hand afterwards"
        );
        decisions.insert(Decision::new(Reason::OldFinalizers, object, message));
    }
}

/// Where pods of one account have different identities, each of them may have all.
fn accounts(estate: &Estate, needs: &Needs, decisions: &mut BTreeSet<Decision>) -> Vec<Proposal> {
    let is_federated = |identity: &String| {
        let name = identity.split_once('/');
        let name = name.map(|(namespace, name)| ObjectName::new(namespace, name));
        let identity = name.and_then(|name| estate.identities.get(&name));
        identity.is_some_and(|identity| source(identity) == Source::Federated)
    };
    let mut proposals = BTreeSet::new();
    for (account, groups) in &needs.accounts {
        // Those with a Secret of their own do not prove themselves by the account.
        let told_apart = groups.keys().filter(|identities| identities.iter().any(is_federated));
        if told_apart.count() < 2 {
            continue;
        }
        let listed: Vec<_> = groups
            .iter()
            .map(|(identities, workloads)| {
                let workloads: Vec<_> = objects(workloads).into_iter().take(3).collect();
                format!("{} ({})", identities.join("+"), workloads.join(", "))
            })
            .collect();
        let message = format!(
            "pods with different identities share it, and Entra ID tells pods apart by it alone, so \
             each may have all: {}; give each its own account (proposals in -o json), or accept it",
            listed.join("; ")
        );
        let object = format!("ServiceAccount/{account}");
        decisions.insert(Decision::new(Reason::SharedAccount, object, message));
        for (identities, workloads) in groups {
            let name = own_account(account, identities);
            proposals.extend(workloads.iter().filter_map(|workload| proposal(workload, &name)));
        }
    }
    proposals.into_iter().collect()
}

/// The name of an account for pods of these identities alone.
fn own_account(account: &ObjectName, identities: &[String]) -> String {
    let own = format!("{}/", account.namespace);
    let mut name = account.name.clone();
    for identity in identities {
        name.push('-');
        // Of other namespaces with the namespace, since names repeat.
        name.push_str(&identity.strip_prefix(&own).unwrap_or(identity).replace('/', "-"));
    }
    name
}

/// `None` where a pod cannot be changed, or what made it is not in the files.
fn proposal(workload: &Workload, account: &str) -> Option<Proposal> {
    if workload.pointer.is_empty() || workload.is_spoken_for {
        return None;
    }
    let keys: Vec<_> = workload.pointer.split('/').skip(1).collect();
    let pod = json!({"spec": {"serviceAccountName": account}});
    let patch = keys.iter().rev().fold(pod, |inner, key| json!({ *key: inner }));
    Some(Proposal {
        object: workload.object.clone(),
        account: format!("{}/{account}", workload.namespace),
        patch: patch.to_string(),
    })
}

fn objects(workloads: &BTreeSet<Workload>) -> BTreeSet<&str> {
    workloads.iter().map(|workload| workload.object.as_str()).collect()
}
