//! Why the API server did not do what it was asked, and what mends that.

use std::time::Duration;

use imdslet_core::with_causes;
use kube::core::Status;
use kube::runtime::watcher;

/// What was asked, in the words of an RBAC rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// `list`, `watch`, …
    pub verb: &'static str,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The plural.
    pub resource: &'static str,
    /// The one object, where it is one.
    pub name: Option<&'static str>,
}

/// Why it was not done. Each message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The API server has no such kind.
    #[error(
        "the API server knows no {0}; install imdslet's CRDs (kubectl apply -f crds.yaml, or the \
         Helm chart)"
    )]
    KindMissing(String),
    /// RBAC.
    #[error(
        "not allowed; add this rule to the role of imdslet's account: {rule} (the API server says: \
         {message})"
    )]
    Forbidden {
        /// The rule that is missing, as YAML.
        rule: String,
        /// The API server's words, which name the account.
        message: String,
    },
    /// Our own credentials.
    #[error(
        "the API server does not accept our credentials; in a cluster, see that the pod's service \
         account exists (the API server says: {0})"
    )]
    Unauthorized(String),
    /// The resource version is too old, which time makes it.
    #[error("the API server has forgotten where we were; all is listed anew")]
    Expired,
    /// Another refusal.
    #[error("the API server answers {code}: {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// No answer, or not one that can be read.
    #[error("no answer from the API server: {0}")]
    Unanswered(String),
}

impl Ask {
    /// A kind, as `kubectl get` takes it.
    fn kind(&self) -> String {
        match self.group {
            "" => self.resource.to_owned(),
            group => format!("{}.{group}", self.resource),
        }
    }

    fn rule(&self) -> String {
        let Self { verb, group, resource, name } = self;
        let names = name.map(|name| format!(", resourceNames: [{name}]")).unwrap_or_default();
        format!("{{apiGroups: [{group:?}], resources: [{resource}]{names}, verbs: [{verb}]}}")
    }
}

impl Problem {
    /// What became of `ask`.
    #[must_use]
    pub fn of(ask: Ask, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(ask, status),
            error => Self::Unanswered(with_causes(error)),
        }
    }

    /// What became of `ask`, where the API server says it in a Status.
    #[must_use]
    pub fn of_status(ask: Ask, status: &Status) -> Self {
        let message = status.message.trim().to_owned();
        match status.code {
            // One object that is missing has a Status; an unknown path has a plain 404.
            404 if ask.name.is_none() => Self::KindMissing(ask.kind()),
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden { rule: ask.rule(), message },
            410 => Self::Expired,
            code => Self::Refused { code, message },
        }
    }

    /// What became of a watch; the verb of `ask` is set to what failed.
    #[must_use]
    pub fn of_watch(ask: Ask, error: &watcher::Error) -> Self {
        let list = Ask { verb: "list", ..ask };
        let watch = Ask { verb: "watch", ..ask };
        match error {
            watcher::Error::InitialListFailed(error) => Self::of(list, error),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                Self::of(watch, error)
            }
            watcher::Error::WatchError(status) => Self::of_status(watch, status),
            watcher::Error::NoResourceVersion => Self::Unanswered(error.to_string()),
        }
    }

    /// An answer that did not come in time.
    #[must_use]
    pub fn late(deadline: Duration) -> Self {
        Self::Unanswered(format!("none within {} s", deadline.as_secs()))
    }

    /// Whether what was asked about is not there, or may not be seen.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::KindMissing(_) | Self::Forbidden { .. })
    }

    /// Stable name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::KindMissing(_) => "KindMissing",
            Self::Forbidden { .. } => "Forbidden",
            Self::Unauthorized(_) => "Unauthorized",
            Self::Expired => "Expired",
            Self::Refused { .. } => "Refused",
            Self::Unanswered(_) => "Unanswered",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Ask = Ask { verb: "list", group: "g.io", resource: "things", name: None };

    fn status(code: u16) -> Status {
        Status { code, message: "words".to_owned(), ..Status::default() }
    }

    #[test]
    fn each_refusal_says_what_to_change() {
        let one = Ask { verb: "update", group: "", resource: "secrets", name: Some("x") };
        for (ask, code, reason, part) in [
            (LIST, 404, "KindMissing", "knows no things.g.io; install"),
            (
                LIST,
                403,
                "Forbidden",
                r#"account: {apiGroups: ["g.io"], resources: [things], verbs: [list]} (the"#,
            ),
            (
                one,
                403,
                "Forbidden",
                r#"{apiGroups: [""], resources: [secrets], resourceNames: [x], verbs: [update]}"#,
            ),
            (one, 404, "Refused", "answers 404: words"),
            (LIST, 401, "Unauthorized", "see that the pod's service account exists"),
            (LIST, 410, "Expired", "listed anew"),
            (LIST, 500, "Refused", "answers 500: words"),
        ] {
            let problem = Problem::of_status(ask, &status(code));
            assert_eq!(problem.reason(), reason, "{code}");
            assert!(problem.to_string().contains(part), "{problem}");
        }
    }
}
