//! Service accounts: which are missing, which say something of azure-workload-identity, and which
//! give their pods more than each of them needs.

use std::collections::{BTreeMap, BTreeSet};

use imdslet_core::contract::Source;
use imdslet_core::federation::credential_name;
use imdslet_core::objects::ObjectName;
use serde::Serialize;
use serde_json::{Value, json};

use super::decision::{Decision, Reason};
use super::estate::{Estate, Workload};
use super::{Needs, source};

/// The longest name that Kubernetes takes for a service account.
const LONGEST_NAME: usize = 253;

/// By identities that pods of one account get: the workloads.
pub(super) type Groups = BTreeMap<Vec<String>, BTreeSet<Member>>;

/// A workload, as far as its account is concerned.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    /// `Kind/namespace/name` of what a person would edit.
    pub(super) object: String,
    /// JSON pointer of the pod in it, if it can be changed.
    pointer: Option<String>,
}

impl Member {
    /// A pod cannot be changed, nor can what is made from something that is not in the files.
    pub(super) fn of(workload: &Workload) -> Self {
        let can_change = !workload.pointer.is_empty() && !workload.is_spoken_for;
        let pointer = can_change.then(|| workload.pointer.clone());
        Self { object: workload.object.clone(), pointer }
    }
}

/// What would give workloads a service account for their identities alone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// `namespace/name` of the account that is shared.
    pub shared: String,
    /// The ServiceAccount to create: as the shared one, if that is among the files. The roles that
    /// are bound to that must be bound to it too.
    pub service_account: Value,
    /// What each workload is to be changed to.
    pub workloads: Vec<Patch>,
}

/// A change of one workload.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Patch {
    /// `Kind/namespace/name` of the workload.
    pub object: String,
    /// A JSON merge patch.
    pub patch: String,
}

/// Adds the decisions about accounts; proposes accounts where one is shared.
pub(super) fn decide(
    estate: &Estate,
    needs: &Needs,
    decisions: &mut BTreeSet<Decision>,
) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    for (account, groups) in &needs.accounts {
        missing(estate, account, groups, decisions);
        workload_identity(estate, account, groups, decisions);
        proposals.extend(shared(estate, account, groups, decisions));
    }
    proposals
}

/// Every namespace has an account, so one of which the files have none was not dumped.
fn missing(
    estate: &Estate,
    account: &ObjectName,
    groups: &Groups,
    decisions: &mut BTreeSet<Decision>,
) {
    let accounts = &estate.surroundings.accounts;
    let is_dumped = accounts.keys().any(|known| known.namespace == account.namespace);
    if is_dumped && !accounts.contains_key(account) {
        let message = format!(
            "is not among what was read, and pods of it cannot be created: {}; create it, or mend \
             spec.serviceAccountName",
            some(groups.values().flatten())
        );
        decisions.insert(Decision::new(
            Reason::MissingAccount,
            format!("ServiceAccount/{account}"),
            message,
        ));
    }
}

/// azure-workload-identity serves pods by annotations of their account.
fn workload_identity(
    estate: &Estate,
    account: &ObjectName,
    groups: &Groups,
    decisions: &mut BTreeSet<Decision>,
) {
    let annotation = estate.surroundings.accounts.get(account).and_then(|account| {
        account.pointer("/metadata/annotations/azure.workload.identity~1client-id")?.as_str()
    });
    let Some(client_id) = annotation else { return };
    let identities = groups.keys().flatten().filter_map(|name| {
        let (namespace, name) = name.split_once('/')?;
        estate.identities.get(&ObjectName::new(namespace, name))
    });
    let is_same = { identities }.any(|identity| identity.client_id.eq_ignore_ascii_case(client_id));
    let which = if is_same {
        "the same identity, whose federated credential may be there already under another name"
    } else {
        "another identity than its bindings do"
    };
    let message = format!(
        "has azure.workload.identity/client-id {client_id}, by which azure-workload-identity gives \
         pods with its label {which}; have only one of the two serve a pod"
    );
    let object = format!("ServiceAccount/{account}");
    decisions.insert(Decision::new(Reason::WorkloadIdentity, object, message));
}

/// Where pods of one account have different identities, each of them may have all.
fn shared(
    estate: &Estate,
    account: &ObjectName,
    groups: &Groups,
    decisions: &mut BTreeSet<Decision>,
) -> Vec<Proposal> {
    let is_federated = |identity: &String| {
        let name = identity.split_once('/');
        let name = name.map(|(namespace, name)| ObjectName::new(namespace, name));
        let identity = name.and_then(|name| estate.identities.get(&name));
        identity.is_some_and(|identity| source(identity) == Source::Federated)
    };
    // Those with a Secret of their own do not prove themselves by the account.
    let told_apart = groups.keys().filter(|identities| identities.iter().any(is_federated));
    if told_apart.count() < 2 {
        return Vec::new();
    }
    let listed: Vec<_> = groups
        .iter()
        .map(|(identities, workloads)| format!("{} ({})", identities.join("+"), some(workloads)))
        .collect();
    let message = format!(
        "pods with different identities share it, and Entra ID tells pods apart by it alone, so each \
         may have all: {}; give each its own account (proposals in -o json and -o steps) and plan \
         again, or accept it",
        listed.join("; ")
    );
    let object = format!("ServiceAccount/{account}");
    decisions.insert(Decision::new(Reason::SharedAccount, object, message));
    let proposals = groups.iter().filter_map(|(identities, workloads)| {
        let name = own_account(account, identities);
        let patches: BTreeSet<_> =
            workloads.iter().filter_map(|workload| patch(workload, &name)).collect();
        (!patches.is_empty()).then(|| Proposal {
            shared: account.to_string(),
            service_account: like(estate, account, &name),
            workloads: patches.into_iter().collect(),
        })
    });
    proposals.collect()
}

/// The first workloads by name, and how many more there are.
fn some<'a>(workloads: impl IntoIterator<Item = &'a Member>) -> String {
    let objects: BTreeSet<_> = workloads.into_iter().map(|one| one.object.as_str()).collect();
    let first: Vec<_> = objects.iter().copied().take(3).collect();
    let more = objects.len() - first.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(", "))
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
    if name.len() > LONGEST_NAME {
        // As short as a credential's, and as good a name for an account.
        return credential_name("", &name);
    }
    name
}

/// A ServiceAccount like another one, without what azure-workload-identity reads.
fn like(estate: &Estate, account: &ObjectName, name: &str) -> Value {
    let mut like = estate.surroundings.accounts.get(account).cloned().unwrap_or_else(|| {
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": account.namespace},
        })
    });
    if let Some(metadata) = like.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.insert("name".to_owned(), json!(name));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.starts_with("azure.workload.identity/"));
        }
    }
    like
}

/// `None` where it cannot be changed.
fn patch(workload: &Member, account: &str) -> Option<Patch> {
    let keys: Vec<_> = workload.pointer.as_deref()?.split('/').skip(1).collect();
    let pod = json!({"spec": {"serviceAccountName": account}});
    let patch = keys.iter().rev().fold(pod, |inner, key| json!({ *key: inner }));
    Some(Patch { object: workload.object.clone(), patch: patch.to_string() })
}
