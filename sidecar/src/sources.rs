//! Where the tokens of an identity come from: one module for each source of the contract.

use std::sync::Arc;

use async_trait::async_trait;
use imdslet_core::arguments::ServeArgs;
use imdslet_core::contract::{PodIdentity, Source};
use imdslet_core::id::{is_guid, is_tenant};
use tokio::time::Instant;

use crate::config::FETCH_DEADLINE;
use crate::fault::Fault;
use crate::resource::Resource;
use crate::source::{Fetch, Fetched, Now};
use crate::transport::{Get, Post};

mod binding;
mod certificate;
mod exchange;
mod federated;
mod managed;
mod mounted;
mod secret;
mod tenants;
mod tries;

pub(crate) use binding::BindingFault;
pub(crate) use managed::NodeFault;
pub(crate) use mounted::MountedFault;

/// Every source that this sidecar can ask.
pub(crate) struct Sources {
    args: Arc<ServeArgs>,
    https: Arc<dyn Post>,
    node: Arc<dyn Get>,
    now: Now,
}

/// The token that one fetch is to bring.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    identity: &'a PodIdentity,
    resource: &'a Resource,
    /// When it is given up, whatever is being waited for then.
    ends: Instant,
}

impl Sources {
    pub(crate) fn new(
        args: Arc<ServeArgs>,
        https: Arc<dyn Post>,
        node: Arc<dyn Get>,
        now: Now,
    ) -> Self {
        Self { args, https, node, now }
    }
}

#[async_trait]
impl Fetch for Sources {
    async fn fetch(&self, identity: &PodIdentity, resource: &Resource) -> Result<Fetched, Fault> {
        check(identity)?;
        let wanted = Wanted::new(identity, resource);
        match identity.source {
            Source::Federated => federated::fetch(&self.args, &self.https, wanted).await,
            Source::Secret => secret::fetch(&self.args, &self.https, wanted).await,
            Source::Certificate => {
                certificate::fetch(&self.args, &self.https, &self.now, wanted).await
            }
            Source::Binding => binding::fetch(&self.args, wanted).await,
            Source::Managed => managed::fetch(&self.args, &*self.node, wanted).await,
        }
    }
}

impl<'a> Wanted<'a> {
    /// From now on until the deadline of a fetch.
    fn new(identity: &'a PodIdentity, resource: &'a Resource) -> Self {
        Self { identity, resource, ends: Instant::now() + FETCH_DEADLINE }
    }
}

/// Ids become part of a URL; they come from an annotation that others may edit.
fn check(identity: &PodIdentity) -> Result<(), Fault> {
    let bad =
        |field, expected| Err(Fault::BadId { identity: identity.name.clone(), field, expected });
    if !is_guid(&identity.client_id) {
        return bad("the client id", "GUID");
    }
    // The node's metadata service is told none.
    if identity.source != Source::Managed && !is_tenant(&identity.tenant_id) {
        return bad("the tenant", "GUID or domain name");
    }
    if !identity.auxiliary_tenant_ids.iter().all(|tenant| is_tenant(tenant)) {
        return bad("an auxiliary tenant", "GUID or domain name");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
