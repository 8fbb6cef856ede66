//! AdmissionReview, version 1, on the wire.
//!
//! Written here, since kube's own type sends a patch as a list of numbers (kube 5.0) where the API
//! documents base64, at two and a half times the size, and since its request is decoded whole.
//! Source: Kubernetes' documentation, "Dynamic Admission Control".

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use imdslet_core::patch::Patch;
use serde::{Deserialize, Serialize};

/// The version that is understood, and answered.
pub(crate) const API_VERSION: &str = "admission.k8s.io/v1";

/// What the API server asks, with its objects as `T`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Review<'a, T> {
    #[serde(borrow, default)]
    pub(crate) api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow = "'a")]
    pub(crate) request: Option<Request<'a, T>>,
}

/// What a review says that it is. Read by itself where the whole cannot be read: the request of
/// another version may look different.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head<'a> {
    #[serde(borrow, default)]
    pub(crate) api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) kind: Cow<'a, str>,
}

/// The object in question, and what is done with it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request<'a, T> {
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
    pub(crate) object: Option<T>,
    pub(crate) old_object: Option<T>,
    #[serde(default)]
    pub(crate) dry_run: Option<bool>,
}

impl<T> Request<'_, T> {
    /// Whether a pod is created.
    pub(crate) fn creates_pod(&self) -> bool {
        self.is("", "CREATE")
    }

    /// Whether a pod gets ephemeral containers.
    pub(crate) fn adds_ephemeral_containers(&self) -> bool {
        self.is("ephemeralcontainers", "UPDATE")
    }

    fn is(&self, sub_resource: &str, operation: &str) -> bool {
        let Resource { group, resource } = &self.resource;
        group.is_empty()
            && resource == "pods"
            && self.sub_resource.as_deref().unwrap_or_default() == sub_resource
            && self.operation == operation
    }
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
    #[serde(skip)]
    patch: Option<&'a Patch>,
}

/// Without the patch itself, which [`Answer::write`] adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
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
    pub(crate) fn allow(uid: &'a str, patch: Option<&'a Patch>, warnings: Vec<String>) -> Self {
        // An empty patch is no patch.
        let patch = patch.filter(|patch| !patch.is_empty());
        let patch_type = patch.map(|_| "JSONPatch");
        Self::of(Response { uid, allowed: true, status: None, patch_type, warnings }, patch)
    }

    /// The object is refused. `code` is the HTTP status that the API server's client gets.
    pub(crate) fn refuse(uid: &'a str, code: u16, message: String) -> Self {
        let status = Some(Status { code, message });
        let warnings = Vec::new();
        Self::of(Response { uid, allowed: false, status, patch_type: None, warnings }, None)
    }

    fn of(response: Response<'a>, patch: Option<&'a Patch>) -> Self {
        Self { api_version: API_VERSION, kind: "AdmissionReview", response, patch }
    }

    /// The bytes to send.
    ///
    /// # Errors
    ///
    /// None that could happen: all of it is plain.
    pub(crate) fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let Some(patch) = self.patch else { return serde_json::to_vec(self) };
        let mut text = String::with_capacity(2 * patch.as_bytes().len());
        text.push_str(&serde_json::to_string(self)?);
        // It goes into the innermost object, past what would look for characters to escape:
        // base64 has none, and it is most of the answer.
        let ends = text.split_off(text.trim_end_matches('}').len());
        text.push_str(r#","patch":""#);
        STANDARD.encode_string(patch.as_bytes(), &mut text);
        text.push('"');
        text.push_str(&ends);
        Ok(text.into_bytes())
    }
}
