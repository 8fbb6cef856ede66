//! Where the tokens of an identity come from: one module for each source of the contract.

use std::sync::Arc;

use async_trait::async_trait;
use imdslet_core::contract::{PodIdentity, Source};
use imdslet_core::id::{is_guid, is_tenant};
use imdslet_core::serve::ServeArgs;

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
        match identity.source {
            Source::Federated => {
                federated::fetch(&self.args, &self.https, identity, resource).await
            }
            Source::Secret => secret::fetch(&self.args, &self.https, identity, resource).await,
            Source::Certificate => {
                certificate::fetch(&self.args, &self.https, &self.now, identity, resource).await
            }
            Source::Binding => binding::fetch(&self.args, identity, resource).await,
            Source::Managed => managed::fetch(&self.args, &*self.node, identity, resource).await,
        }
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
