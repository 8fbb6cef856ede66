//! What was seen of a cluster.

use std::collections::BTreeMap;

use imdslet_core::index::Index;
use serde::Deserialize;
use serde_json::Value;

/// What was seen, or why it could not be.
pub type Seen<T> = Result<T, String>;

/// Everything that verdicts are about.
#[derive(Debug)]
pub struct Facts {
    /// Seconds since the Unix epoch, by this machine.
    pub now: i64,
    /// `gitVersion` of the API server.
    pub version: Seen<String>,
    /// The old project's CustomResourceDefinitions that are there.
    pub definitions: Seen<Vec<Value>>,
    /// Rights to install that are missing, as `kubectl auth can-i` says them.
    pub missing_rights: Seen<Vec<String>>,
    /// The issuer of service account tokens.
    pub issuer: Seen<Issuer>,
    /// DaemonSets and Deployments.
    pub workers: Seen<Vec<Value>>,
    /// AzureIdentities.
    pub identities: Seen<Vec<Value>>,
    /// AzureIdentityBindings.
    pub bindings: Seen<Vec<Value>>,
    /// NetworkPolicies.
    pub network_policies: Seen<Vec<Value>>,
    /// The mutating webhook configuration `imdslet`; `None`: there is none.
    pub webhook: Seen<Option<Value>>,
    /// The Lease of the controller.
    pub lease: Seen<Option<Value>>,
    /// What became of a pod that was created by a dry run.
    pub rehearsal: Seen<Rehearsal>,
    /// Labelled pods.
    pub pods: Seen<Vec<Value>>,
    /// The pods of imdslet itself.
    pub own_pods: Seen<Vec<Value>>,
    /// What imdslet is set to, by its variables; nothing where it is not installed.
    pub settings: Seen<BTreeMap<String, String>>,
    /// Namespaces and exceptions, which say who is to be left alone.
    pub index: Seen<Index>,
    /// Where imdslet is, or would be.
    pub namespace: String,
    /// What was to be looked at more closely.
    pub workloads: Vec<Workload>,
}

/// Where service account tokens come from, and what the world sees of it.
#[derive(Debug)]
pub struct Issuer {
    /// Its URL.
    pub url: String,
    /// The keys that the API server shows.
    pub keys: Vec<Key>,
    /// What is shown at its URL.
    pub outside: Outside,
}

/// A public key of a key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its `kid`.
    pub id: String,
    /// What it is, whatever it is called: its type and its numbers.
    pub material: Vec<String>,
}

impl Key {
    /// The keys of a key set, but for those without an id, which nobody finds (RFC 7517).
    #[must_use]
    pub fn all(set: &Value) -> Vec<Self> {
        let keys = set.get("keys").and_then(Value::as_array).into_iter().flatten();
        let read = keys.filter_map(|key| {
            let part = |name: &str| {
                let text = key.get(name)?.as_str()?;
                Some(format!("{name}={}", text.trim_end_matches('=')))
            };
            let id = key.get("kid")?.as_str()?.to_owned();
            let material = ["kty", "crv", "n", "e", "x", "y"].into_iter().filter_map(part);
            Some(Self { id, material: material.collect() })
        });
        read.collect()
    }
}

/// What the world sees of an issuer.
#[derive(Debug)]
pub enum Outside {
    /// Its keys.
    Keys(Vec<Key>),
    /// Something that Entra ID cannot use, and why.
    Wrong(String),
    /// Nothing, from here.
    Unreachable(String),
}

/// What the API server did with a labelled pod.
#[derive(Debug)]
pub struct Rehearsal {
    /// Where.
    pub namespace: String,
    /// Its status.
    pub status: u16,
    /// The pod as it would be, or what was said.
    pub answer: Value,
}

/// A workload, and its pods that run.
#[derive(Debug)]
pub struct Workload {
    /// As it was named.
    pub name: String,
    /// Its pods, as far as they were followed.
    pub pods: Seen<Vec<Followed>>,
}

/// A pod, and what its sidecar says.
#[derive(Debug)]
pub struct Followed {
    /// The pod.
    pub pod: Value,
    /// What the sidecar answers to `GET /state`.
    pub state: Seen<State>,
    /// What it has logged, one event a line; absent where its state says everything.
    pub log: Option<Seen<String>>,
}

/// The state of a sidecar. What it says beside that is of no use here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct State {
    /// What it may give tokens of.
    pub identities: Vec<IdentityState>,
    /// Why it cannot read what it is told.
    pub problem: Option<String>,
}

/// An identity that a sidecar knows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IdentityState {
    /// `namespace/name` of the AzureIdentity.
    pub name: String,
    /// What was asked of it.
    pub tokens: Vec<TokenState>,
}

/// A token that an application has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenState {
    /// What it is for.
    pub resource: String,
    /// Until when it is valid, in seconds since the Unix epoch; absent if there is none.
    pub expires_on: Option<i64>,
    /// Why the last fetch failed, if it did.
    pub reason: Option<String>,
}

impl State {
    /// Whether every token is there that was asked for, and the last fetch of each one worked.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        let mut tokens = self.identities.iter().flat_map(|identity| &identity.tokens);
        self.problem.is_none() && tokens.all(|token| token.reason.is_none())
    }
}

/// The text at a pointer; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
