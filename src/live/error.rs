//! Why a cluster cannot be read.

use std::collections::BTreeSet;

/// Why a cluster cannot be read. Nothing is ever said of a part of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// There is no kubeconfig that can be used.
    #[error(
        "no cluster is known: {0}; name a kubeconfig by --kubeconfig or KUBECONFIG, and one of its \
         contexts by --context"
    )]
    NoConfig(String),
    /// The program that logs in gives nothing of use.
    #[error(
        "the kubeconfig runs `{program}` to log in, which gives no credentials: {cause}; see that it \
         is on the path and works by itself, and log in again"
    )]
    NoLogin {
        /// The program, such as kubelogin.
        program: String,
        /// Why.
        cause: String,
    },
    /// Nobody answers.
    #[error(
        "the API server {server} cannot be reached: {cause}; see that its address and CA in the \
         kubeconfig are right, that no VPN or proxy is missing, and that you are logged in"
    )]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        cause: String,
    },
    /// It does not know who asks.
    #[error(
        "the API server {0} does not know who asks (401): the credentials of the kubeconfig have \
         expired or are of another cluster; log in again"
    )]
    Unauthenticated(String),
    /// Who asks may not.
    #[error(
        "not all that is needed may be read, and a part would be taken for the whole; missing are:\n{}",
        .0.iter().map(|one| format!("  {one}")).collect::<Vec<_>>().join("\n")
    )]
    Forbidden(BTreeSet<String>),
    /// Any other answer.
    #[error("the API server {server} answers /{path} with {status}: {message}")]
    Answer {
        /// Its address.
        server: String,
        /// What was asked for.
        path: String,
        /// Its status.
        status: u16,
        /// What it says.
        message: String,
    },
}
