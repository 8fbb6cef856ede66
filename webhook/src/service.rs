//! From the bytes of a request to the bytes of its answer: no I/O, nothing that waits.

use imdslet_core::admission::{Admission, Outcome, Refusal, Untouched, admit, admit_ephemeral};
use imdslet_core::advice::{of_resource, of_workload};
use imdslet_core::index::Index;
use imdslet_core::names::GROUP;
use imdslet_core::objects::Object;
use imdslet_core::pod::PodView;
use imdslet_core::settings::Settings;
use imdslet_core::warning::Warning;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::review::{API_VERSION, Answer, Head, Request, Review};

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

impl Unanswerable {
    /// What a log may hold of it: no words of the body, which may be anything.
    #[must_use]
    pub fn for_log(&self) -> &'static str {
        match self {
            Self::NotAReview(_) => "the body is no AdmissionReview",
            Self::Version { .. } => "not an AdmissionReview of admission.k8s.io/v1",
            Self::NoRequest => "the AdmissionReview has no request",
        }
    }
}

/// What became of a request, for whoever counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// `injected`, `untouched`, `refused`, `advised` or `unanswered`.
    pub outcome: &'static str,
    /// Why, in a word.
    pub reason: &'static str,
}

impl Decided {
    const fn new(outcome: &'static str, reason: &'static str) -> Self {
        Self { outcome, reason }
    }

    /// All that there are.
    pub const ALL: &[Self] = &[
        Self::new("injected", "Injected"),
        Self::new("injected", "AlreadyInjected"),
        Self::new("untouched", "NotOptedIn"),
        Self::new("untouched", "MirrorPod"),
        Self::new("untouched", "InjectionDisabled"),
        Self::new("untouched", "Excepted"),
        Self::new("untouched", "HostNetwork"),
        Self::new("untouched", "Windows"),
        Self::new("untouched", "NoSidecar"),
        Self::new("refused", "Unreadable"),
        Self::new("refused", "NoContainers"),
        Self::new("refused", "InvalidAnnotation"),
        Self::new("refused", "ReservedName"),
        Self::new("refused", "Unbound"),
        Self::new("refused", "Unservable"),
        Self::NOTHING_TO_SAY,
        Self::WARNED,
        Self::UNANSWERABLE,
        Self::NOT_SYNCED,
        Self::OVERLOADED,
        Self::BODY_TOO_SLOW,
        Self::BODY_REJECTED,
    ];
    /// Of an object that was applied there is nothing to say.
    pub const NOTHING_TO_SAY: Self = Self::new("advised", "Nothing");
    /// Whoever applied an object was warned.
    pub const WARNED: Self = Self::new("advised", "Warned");
    /// The body is no AdmissionReview that can be answered.
    pub const UNANSWERABLE: Self = Self::new("unanswered", "Unanswerable");
    /// There is no snapshot yet.
    pub const NOT_SYNCED: Self = Self::new("unanswered", "NotSynced");
    /// More is on its way than there is room for.
    pub const OVERLOADED: Self = Self::new("unanswered", "Overloaded");
    /// The body did not arrive in time.
    pub const BODY_TOO_SLOW: Self = Self::new("unanswered", "BodyTooSlow");
    /// The body is too large, or ended early.
    pub const BODY_REJECTED: Self = Self::new("unanswered", "BodyRejected");
}

/// An answer, and what there is to count.
#[derive(Debug)]
pub struct Reviewed {
    /// The AdmissionReview.
    pub body: Vec<u8>,
    /// What became of the request.
    pub decided: Decided,
    /// The reasons of its warnings.
    pub warnings: Vec<&'static str>,
}

/// Decides an AdmissionReview and logs the decision.
///
/// # Errors
///
/// [`Unanswerable`] if the body cannot be answered by an AdmissionReview.
pub fn review(index: &Index, settings: &Settings, body: &[u8]) -> Result<Reviewed, Unanswerable> {
    let body = text(body)?;
    // Nearly every review creates a pod that can be read: it is read with what is around it. Any
    // other is read again with its objects as text, which also tells best what is wrong with them.
    if let Ok(request) = parse::<PodView<'_>>(body)
        && request.creates_pod()
    {
        let pod = request.object.as_ref().filter(|pod| pod.selector().is_some());
        let decision = match pod {
            Some(pod) => created(index, settings, &request, pod),
            None => Ok(Admission::untouched(Untouched::NotOptedIn)),
        };
        return answer(&request.uid, &decision);
    }
    let request = parse::<&RawValue>(body)?;
    answer(&request.uid, &decide(index, settings, &request))
}

fn answer(uid: &str, decision: &Result<Admission, Refusal>) -> Result<Reviewed, Unanswerable> {
    let decided = match decision {
        Ok(Admission { outcome: Outcome::Injected { patch, .. }, .. }) => {
            let reason = if patch.is_empty() { "AlreadyInjected" } else { "Injected" };
            Decided::new("injected", reason)
        }
        Ok(Admission { outcome: Outcome::Untouched(why), .. }) => {
            Decided::new("untouched", why.reason())
        }
        Err(refusal) => Decided::new("refused", refusal.reason()),
    };
    let warnings = decision.as_ref().map_or(&[][..], |admission| &admission.warnings);
    let warnings = warnings.iter().map(Warning::reason).collect();
    let body = bytes(&in_words(uid, decision))?;
    Ok(Reviewed { body, decided, warnings })
}

/// Says what there is to say of an object that is applied. Nothing is refused or changed.
///
/// # Errors
///
/// [`Unanswerable`] if the body cannot be answered by an AdmissionReview.
pub fn advise(index: &Index, settings: &Settings, body: &[u8]) -> Result<Reviewed, Unanswerable> {
    let request = parse::<&RawValue>(text(body)?)?;
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let object = request.object.map_or("{}", RawValue::get);
    let given = if request.resource.group == GROUP {
        let value = serde_json::from_str(object).ok();
        let object = value.and_then(|value| Object::read(&value, namespace).ok().flatten());
        object.map(|object| of_resource(index, settings, &object)).unwrap_or_default()
    } else {
        of_workload(index, settings, namespace, object)
    };
    let warnings: Vec<_> = given.iter().map(Warning::reason).collect();
    let decided = if given.is_empty() { Decided::NOTHING_TO_SAY } else { Decided::WARNED };
    let texts = given.iter().map(ToString::to_string).collect();
    let body = bytes(&Answer::allow(&request.uid, None, texts))?;
    Ok(Reviewed { body, decided, warnings })
}

fn bytes(answer: &Answer<'_>) -> Result<Vec<u8>, Unanswerable> {
    answer.write().map_err(|error| Unanswerable::NotAReview(error.to_string()))
}

/// Once for all: else each part that is kept as text would be looked through again.
fn text(body: &[u8]) -> Result<&str, Unanswerable> {
    str::from_utf8(body).map_err(|error| Unanswerable::NotAReview(error.to_string()))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a str) -> Result<Request<'a, T>, Unanswerable> {
    match serde_json::from_str::<Review<'_, T>>(body) {
        Ok(review) => {
            understood(&review.api_version, &review.kind)?;
            review.request.ok_or(Unanswerable::NoRequest)
        }
        Err(error) => {
            if let Ok(head) = serde_json::from_str::<Head<'_>>(body) {
                understood(&head.api_version, &head.kind)?;
            }
            Err(Unanswerable::NotAReview(error.to_string()))
        }
    }
}

fn understood(api_version: &str, kind: &str) -> Result<(), Unanswerable> {
    if api_version == API_VERSION && kind == "AdmissionReview" {
        return Ok(());
    }
    Err(Unanswerable::Version { api_version: start_of(api_version), kind: start_of(kind) })
}

fn in_words<'a>(uid: &'a str, decision: &'a Result<Admission, Refusal>) -> Answer<'a> {
    match decision {
        Ok(admission) => {
            let warnings = admission.warnings.iter().map(ToString::to_string).collect();
            let patch = match &admission.outcome {
                Outcome::Injected { patch, .. } => Some(patch),
                Outcome::Untouched(_) => None,
            };
            Answer::allow(uid, patch, warnings)
        }
        Err(refusal) => {
            let code = match refusal {
                Refusal::Unreadable(_) | Refusal::NoContainers => 400,
                _ => 403,
            };
            Answer::refuse(uid, code, format!("imdslet: {refusal}"))
        }
    }
}

/// Decides for a pod that is created. Whether it has opted in is known.
fn created<T>(
    index: &Index,
    settings: &Settings,
    request: &Request<'_, T>,
    pod: &PodView<'_>,
) -> Result<Admission, Refusal> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let decision = admit(index, settings, namespace, pod);
    log(namespace, pod, request.dry_run, &decision);
    decision
}

fn decide(
    index: &Index,
    settings: &Settings,
    request: &Request<'_, &RawValue>,
) -> Result<Admission, Refusal> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let object = request.object.map_or("{}", RawValue::get);
    if request.creates_pod() {
        // No words of the pod itself: they may be anything, and stay in the answer.
        let pod = PodView::opted_in(object).inspect_err(|_| {
            tracing::info!(%namespace, reason = "Unreadable", "refused");
        })?;
        let Some(pod) = pod else { return Ok(Admission::untouched(Untouched::NotOptedIn)) };
        created(index, settings, request, &pod)
    } else if request.adds_ephemeral_containers() {
        let before = request.old_object.map_or("{}", RawValue::get);
        let (Ok(pod), Ok(before)) = (PodView::read(object), PodView::read(before)) else {
            // The API server reads it better, or refuses it with better words.
            return Ok(Admission::untouched(Untouched::NoSidecar));
        };
        let decision = Ok(admit_ephemeral(settings, &pod, &before));
        log(namespace, &pod, request.dry_run, &decision);
        decision
    } else {
        Ok(not_for_us(request))
    }
}

/// The start of a text that a stranger sent: enough to recognise it by.
fn start_of(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Admits what should never have been sent here: refusing it would stop work that is none of ours.
fn not_for_us<T>(request: &Request<'_, T>) -> Admission {
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
fn log(
    namespace: &str,
    pod: &PodView<'_>,
    dry_run: Option<bool>,
    decision: &Result<Admission, Refusal>,
) {
    let (pod, dry_run) = (pod.name(), dry_run.unwrap_or(false));
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
