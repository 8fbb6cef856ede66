//! What a failed request means.

use kube::Error;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::Status;

use super::NAME;
use crate::problem::{Ask, Problem};

/// What the controller asks, in the words of an RBAC rule.
pub(super) const fn ask(verb: &'static str, group: &'static str, resource: &'static str) -> Ask {
    Ask { verb, group, resource, name: None }
}

/// Names a failed request in the log; if a permission is missing, with the rule.
pub(super) fn report(ask: Ask, object: &str, error: &Error) {
    let problem = Problem::of(ask, error);
    let (verb, resource, reason) = (ask.verb, ask.resource, problem.reason());
    tracing::warn!(object, verb, resource, reason, %problem, "request failed");
}

/// How the controller creates and replaces.
pub(super) fn post() -> PostParams {
    PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() }
}

/// How it deletes the object with this uid: another one of that name may be somebody else's.
pub(super) fn delete(uid: &str) -> DeleteParams {
    let own = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteParams { preconditions: Some(own), ..DeleteParams::default() }
}

pub(super) fn is_conflict(error: &Error) -> bool {
    status(error).is_some_and(|status| status.code == 409)
}

pub(super) fn is_not_found(error: &Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

/// Nothing can be created in a namespace that is being deleted, whatever one is allowed to.
pub(super) fn is_ending_namespace(error: &Error) -> bool {
    status(error).and_then(|status| status.details.as_ref()).is_some_and(|details| {
        details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    })
}

fn status(error: &Error) -> Option<&Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}
