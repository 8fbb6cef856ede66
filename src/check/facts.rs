//! What was seen of a cluster.

use imdslet_core::index::Index;
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
    /// The mutating webhook configuration `imdslet`; `None`: there is none.
    pub webhook: Seen<Option<Value>>,
    /// The Lease of the controller.
    pub lease: Seen<Option<Value>>,
    /// What became of a pod that was created by a dry run.
    pub rehearsal: Seen<Rehearsal>,
    /// Labelled pods.
    pub pods: Seen<Vec<Value>>,
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
    /// The ids of the keys that the API server shows.
    pub keys: Vec<String>,
    /// What is shown at its URL.
    pub outside: Outside,
}

/// What the world sees of an issuer.
#[derive(Debug)]
pub enum Outside {
    /// The ids of its keys.
    Keys(Vec<String>),
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
    /// Each pod, and what its sidecar has logged, one event a line.
    pub pods: Seen<Vec<(Value, Seen<String>)>>,
}
