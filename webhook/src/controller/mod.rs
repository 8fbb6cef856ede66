//! The controller: keeps the annotation of running pods right.

use std::sync::Arc;

use imdslet_core::settings::Settings;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::feed::Published;

/// What the controller works with.
pub struct Controller {
    /// Speaks to the API server as the controller's account.
    pub client: Client,
    /// The index, and when it changes.
    pub published: Published,
    /// What the operator has set.
    pub settings: Arc<Settings>,
    /// Name of this replica, unique in the cluster: the pod's name.
    pub replica: String,
    /// The namespace of the Lease: where the controller itself runs.
    pub namespace: String,
}

/// Leads while it holds the Lease, and keeps pods right while it leads, until `shutdown`.
///
/// # Errors
///
/// What keeps it from going on at all; an API server that is away for a while is no such thing.
pub async fn run(controller: Controller, shutdown: CancellationToken) -> anyhow::Result<()> {
    let _ = controller;
    shutdown.cancelled().await;
    Ok(())
}
