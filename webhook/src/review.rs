//! AdmissionReview, version 1, on the wire.
//!
//! Written here, since kube's own type sends a patch as a list of numbers (kube 5.0) where the API
//! documents base64, at two and a half times the size, and since its request is decoded whole.
//! Source: Kubernetes' documentation, "Dynamic Admission Control".

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version that is understood, and answered.
pub(crate) const API_VERSION: &str = "admission.k8s.io/v1";

/// What the API server asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Review<'a> {
    #[serde(borrow, default)]
    pub(crate) api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    /// Read only once version and kind are known to be understood.
    pub(crate) request: Option<&'a RawValue>,
}

/// The object in question, and what is done with it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    pub(crate) uid: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) resource: Resource<'a>,
    #[serde(borrow, default)]
    pub(crate) sub_resource: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) operation: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) old_object: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) dry_run: Option<bool>,
}

/// Group and plural name of a kind.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Resource<'a> {
    #[serde(borrow, default)]
    pub(crate) group: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) resource: Cow<'a, str>,
}

/// What is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    message: String,
}

impl<'a> Answer<'a> {
    /// The object is admitted, with `patch` applied to it.
    pub(crate) fn allow(uid: &'a str, patch: Option<&Patch>, warnings: Vec<String>) -> Self {
        // An empty patch is no patch. Serialising the operations cannot fail.
        let patch = patch
            .filter(|patch| !patch.is_empty())
            .and_then(|patch| serde_json::to_vec(patch).ok())
            .map(|json| STANDARD.encode(json));
        let patch_type = patch.as_ref().map(|_| "JSONPatch");
        let response = Response { uid, allowed: true, status: None, patch_type, patch, warnings };
        Self::of(response)
    }

    /// The object is refused. `code` is the HTTP status that the API server's client gets.
    pub(crate) fn refuse(uid: &'a str, code: u16, message: String) -> Self {
        let status = Some(Status { code, message });
        let warnings = Vec::new();
        Self::of(Response { uid, allowed: false, status, patch_type: None, patch: None, warnings })
    }

    fn of(response: Response<'a>) -> Self {
        Self { api_version: API_VERSION, kind: "AdmissionReview", response }
    }
}
