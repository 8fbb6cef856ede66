//! The tokens of all the tenants of one identity, fetched at the same time.

use futures::future::try_join_all;
use imdslet_core::contract::PodIdentity;

use crate::fault::Fault;
use crate::source::{Fetched, Received};

/// Fetches by `fetch` what `identity` needs of each of its tenants.
///
/// A client that is told of auxiliary tenants sends all their tokens with its request to Azure, so
/// one that is missing leaves nothing to answer with.
pub(super) async fn fetch_each<'a, F>(
    identity: &'a PodIdentity,
    fetch: impl Fn(&'a str) -> F,
) -> Result<Fetched, Fault>
where
    F: Future<Output = Result<Received, Fault>>,
{
    let auxiliary = try_join_all(identity.auxiliary_tenant_ids.iter().map(|tenant| {
        let received = fetch(tenant);
        async move {
            received.await.map_err(|fault| Fault::Auxiliary {
                tenant: tenant.clone(),
                fault: Box::new(fault),
            })
        }
    }));
    // The first failure ends the others: neither the primary token nor the rest is of use then.
    let (primary, auxiliary) = tokio::try_join!(fetch(&identity.tenant_id), auxiliary)?;
    Ok(Fetched { primary, auxiliary })
}
