//! What keeps the certificate and the `caBundle` from being right.

use super::configuration::CONFIGURATION;
use super::secret::SECRET;
use crate::problem::Problem;

/// Why the certificate or the `caBundle` is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The Secret is gone and cannot be made by us.
    #[error(
        "Secret {namespace}/{SECRET} does not exist and imdslet's account may not create it; apply \
         install.yaml again (kubectl apply -f install.yaml), or: kubectl -n {namespace} create \
         secret generic {SECRET}"
    )]
    SecretMissing {
        /// Our namespace.
        namespace: String,
    },
    /// Nobody has told the API server of us.
    #[error(
        "{0} {CONFIGURATION} does not exist; apply install.yaml again (kubectl apply -f \
         install.yaml)"
    )]
    ConfigurationMissing(&'static str),
    /// The API server did not do what was asked.
    #[error("{what}: {problem}")]
    Problem {
        /// What was being done.
        what: &'static str,
        /// Why not.
        problem: Problem,
    },
    /// No certificate can be made.
    #[error(transparent)]
    Make(#[from] imdslet_certs::Error),
    /// A certificate was made that cannot be served.
    #[error("the certificate cannot be served: {0}")]
    Serve(String),
}

impl KeepError {
    /// Stable name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SecretMissing { .. } => "SecretMissing",
            Self::ConfigurationMissing(_) => "ConfigurationMissing",
            Self::Problem { problem, .. } => problem.reason(),
            Self::Make(_) => "CertificateNotMade",
            Self::Serve(_) => "CertificateNotServed",
        }
    }

    pub(super) fn of(what: &'static str, problem: Problem) -> Self {
        Self::Problem { what, problem }
    }
}
