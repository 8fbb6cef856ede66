//! From the bytes of a request to the bytes of its answer: no I/O, nothing that waits.

use imdslet_core::admission::{Admission, Outcome, Refusal, Untouched, admit, admit_ephemeral};
use imdslet_core::index::Index;
use imdslet_core::pod::PodView;
use imdslet_core::settings::Settings;
use imdslet_core::warning::Warning;

use crate::review::{API_VERSION, Answer, Request, Review};

/// Why a request gets no AdmissionReview as its answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unanswerable {
    /// The body is no AdmissionReview.
    #[error("the body is no AdmissionReview: {0}")]
    NotAReview(String),
    /// It is one of a version that is not understood.
    #[error(
        "this is {kind} of `{api_version}`; imdslet answers AdmissionReview of \
         admission.k8s.io/v1: set admissionReviewVersions to [v1]"
    )]
    Version {
        /// What `apiVersion` says.
        api_version: String,
        /// What `kind` says.
        kind: String,
    },
    /// It asks nothing.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// Decides an AdmissionReview and logs the decision.
///
/// # Errors
///
/// [`Unanswerable`] if the body cannot be answered by an AdmissionReview.
pub fn review(index: &Index, settings: &Settings, body: &[u8]) -> Result<Vec<u8>, Unanswerable> {
    let review: Review<'_> = serde_json::from_slice(body)
        .map_err(|error| Unanswerable::NotAReview(error.to_string()))?;
    if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
        return Err(Unanswerable::Version {
            api_version: start_of(&review.api_version),
            kind: start_of(&review.kind),
        });
    }
    let request = review.request.ok_or(Unanswerable::NoRequest)?;
    let request: Request<'_> = serde_json::from_str(request.get())
        .map_err(|error| Unanswerable::NotAReview(error.to_string()))?;
    let answer = answer(index, settings, &request);
    serde_json::to_vec(&answer).map_err(|error| Unanswerable::NotAReview(error.to_string()))
}

fn answer<'a>(index: &Index, settings: &Settings, request: &'a Request<'_>) -> Answer<'a> {
    match decide(index, settings, request) {
        Ok(admission) => {
            let warnings = admission.warnings.iter().map(ToString::to_string).collect();
            let patch = match &admission.outcome {
                Outcome::Injected { patch, .. } => Some(patch),
                Outcome::Untouched(_) => None,
            };
            Answer::allow(&request.uid, patch, warnings)
        }
        Err(refusal) => {
            let code = match refusal {
                Refusal::Unreadable(_) | Refusal::NoContainers => 400,
                _ => 403,
            };
            Answer::refuse(&request.uid, code, format!("imdslet: {refusal}"))
        }
    }
}

fn decide(index: &Index, settings: &Settings, request: &Request<'_>) -> Result<Admission, Refusal> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let object = request.object.map_or("{}", |object| object.get());
    let of_pods = request.resource.group.is_empty() && request.resource.resource == "pods";
    let sub_resource = request.sub_resource.as_deref().unwrap_or_default();
    let is_dry_run = request.dry_run.unwrap_or(false);
    match (of_pods, sub_resource, &*request.operation) {
        (true, "", "CREATE") => {
            // No words of the pod itself: they may be anything, and stay in the answer.
            let pod = PodView::opted_in(object).inspect_err(|_| {
                tracing::info!(%namespace, reason = "Unreadable", "refused");
            })?;
            let Some(pod) = pod else { return Ok(Admission::untouched(Untouched::NotOptedIn)) };
            let decision = admit(index, settings, namespace, &pod);
            log(namespace, &pod, is_dry_run, &decision);
            decision
        }
        (true, "ephemeralcontainers", "UPDATE") => {
            let before = request.old_object.map_or("{}", |object| object.get());
            let (Ok(pod), Ok(before)) = (PodView::read(object), PodView::read(before)) else {
                // The API server reads it better, or refuses it with better words.
                return Ok(Admission::untouched(Untouched::NoSidecar));
            };
            let decision = Ok(admit_ephemeral(settings, &pod, &before));
            log(namespace, &pod, is_dry_run, &decision);
            decision
        }
        _ => Ok(not_for_us(request)),
    }
}

/// The start of a text that a stranger sent: enough to recognise it by.
fn start_of(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Admits what should never have been sent here: refusing it would stop work that is none of ours.
fn not_for_us(request: &Request<'_>) -> Admission {
    let what = match request.sub_resource.as_deref() {
        Some(sub_resource) if !sub_resource.is_empty() => {
            format!("{} of {}/{sub_resource}", request.operation, request.resource.resource)
        }
        _ => format!("{} of {}", request.operation, request.resource.resource),
    };
    tracing::warn!(reason = "NotForUs", "admitted untouched");
    Admission {
        warnings: vec![Warning::NotForUs(what)],
        ..Admission::untouched(Untouched::NotOptedIn)
    }
}

/// One event for each decision that an operator may ask for.
fn log(namespace: &str, pod: &PodView<'_>, dry_run: bool, decision: &Result<Admission, Refusal>) {
    let pod = pod.name();
    match decision {
        Err(refusal) => {
            let reason = refusal.reason();
            tracing::info!(namespace, pod, dry_run, reason, "refused");
        }
        Ok(Admission { outcome: Outcome::Untouched(why), warnings }) if warnings.is_empty() => {
            tracing::debug!(namespace, pod, dry_run, reason = why.reason(), "admitted untouched");
        }
        Ok(Admission { outcome: Outcome::Untouched(why), .. }) => {
            tracing::info!(namespace, pod, dry_run, reason = why.reason(), "admitted untouched");
        }
        Ok(Admission { outcome: Outcome::Injected { patch, identities }, warnings }) => {
            let reason = if patch.is_empty() { "AlreadyInjected" } else { "Injected" };
            let operations = patch.len();
            let warnings: Vec<_> = warnings.iter().map(Warning::reason).collect();
            tracing::info!(
                namespace,
                pod,
                dry_run,
                reason,
                operations,
                ?identities,
                ?warnings,
                "admitted"
            );
        }
    }
}
