//! What the API server sends of an object, as far as decisions may read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    /// An empty list of Go is `null` now and then.
    pub(super) items: Option<Vec<Sent>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMetadata {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) continue_token: String,
}

/// An object as far as decisions may read it. What is not named here, `managedFields` and `status`
/// above all, is skipped while it is parsed.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Sent {
    pub(super) metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spec: Option<Value>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default, skip_serializing)]
    pub(super) creation_timestamp: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) owner_references: Vec<Owner>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deletion_timestamp: Option<String>,
}

#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Owner {
    pub(super) uid: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whole {
    pub(super) api_version: String,
    pub(super) kind: &'static str,
    #[serde(flatten)]
    pub(super) sent: Sent,
}
