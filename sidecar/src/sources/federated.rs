//! Type 0: the pod's service account token, exchanged through a federated credential.

use std::path::Path;
use std::sync::Arc;

use imdslet_core::arguments::ServeArgs;
use imdslet_core::names::TOKEN_FILE;
use zeroize::Zeroizing;

use super::Wanted;
use super::exchange::Exchange;
use super::tries::until;
use crate::claims::Claims;
use crate::config::FETCH_DEADLINE;
use crate::fault::Fault;
use crate::secret::Secret;
use crate::source::{Fetched, Received};
use crate::transport::Post;

/// A federated credential that is being made with its pod is there within seconds, as a rule; so
/// until the deadline its absence is no answer yet.
pub(super) async fn fetch(
    args: &ServeArgs,
    https: &Arc<dyn Post>,
    wanted: Wanted<'_>,
) -> Result<Fetched, Fault> {
    let received = until(
        wanted.ends,
        Fault::may_be_about_to_end,
        || Fault::Deadline { authority: args.authority.clone(), after: FETCH_DEADLINE },
        || exchange(args, https, wanted),
    );
    Ok(received.await?.into())
}

async fn exchange(
    args: &ServeArgs,
    https: &Arc<dyn Post>,
    wanted: Wanted<'_>,
) -> Result<Received, Fault> {
    let assertion = service_account_token(&args.dir.join(TOKEN_FILE))?;
    let exchange = Exchange {
        wanted,
        tenant: &wanted.identity.tenant_id,
        // Never one of `--authority-for`, which are for identities of types 1 and 2: this one may have
        // been such before, and its old authority could use the pod's token at ours.
        authority: &args.authority,
        claims: &Claims::of(assertion.reveal()),
    };
    exchange.assertion(https, assertion).await
}

/// The service account token. The kubelet renews the file long before the token ends, so it is
/// read for each fetch.
pub(super) fn service_account_token(path: &Path) -> Result<Secret, Fault> {
    let read = std::fs::read_to_string(path).map(Zeroizing::new);
    match read.as_ref().map(|token| token.trim()) {
        Ok("") => Err(Fault::NoAssertion { why: format!("{} is empty", path.display()) }),
        Ok(token) => Ok(Secret::new(token)),
        Err(error) => Err(Fault::NoAssertion { why: format!("{}: {error}", path.display()) }),
    }
}
