//! The controller: keeps the annotation of running pods right.
//!
//! Of its replicas one leads (`leader`): it watches pods (`pods`), keeps what is known of them
//! (`ledger`) and writes what differs (`reconcile`). A replica that begins to lead lists all
//! pods and decides about each, so nothing that happened while nobody led is missed, and those
//! that follow keep nothing.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use imdslet_core::settings::Settings;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::feed::Published;
use crate::metrics::Metrics;

mod about;
mod access;
mod assigned;
mod book;
mod classes;
mod driver;
mod events;
mod leader;
mod ledger;
mod losses;
mod pods;
mod reconcile;
mod reminders;
mod shelf;
#[cfg(test)]
mod tests;
mod waits;

use leader::{Elector, Timing};

/// The controller's Deployment and Lease, and who it is in what it writes.
const NAME: &str = "imdslet-controller";

/// What the controller works with.
pub struct Controller {
    /// Speaks to the API server as the controller's account.
    pub client: Client,
    /// The index, and when it changes.
    pub published: Published,
    /// What the operator has set.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: Metrics,
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
    run_with(controller, Timing::default(), shutdown).await
}

async fn run_with(
    controller: Controller,
    timing: Timing,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(synced) = unless(&shutdown, synced(&controller.published)).await else {
        return Ok(());
    };
    synced?;
    let Controller { client, namespace, replica, .. } = &controller;
    let mut elector = Elector::new(client, namespace, replica, timing);
    let mut result = Ok(());
    while let Some(renewed) = unless(&shutdown, elector.acquire()).await {
        tracing::info!(lease = NAME, replica, reason = "Leader", "leading");
        controller.metrics.leads(true);
        // Whichever arm ends, the others are dropped: from then on nothing is written. Whether to
        // stop is asked before anything is written, also after the process was held up.
        let reason = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            reason = elector.keep(renewed) => reason,
            ended = reconcile::run(&controller) => {
                result = ended;
                break;
            }
        };
        controller.metrics.leads(false);
        tracing::warn!(lease = NAME, replica, reason, "not leading any more");
    }
    controller.metrics.leads(false);
    elector.release().await;
    result
}

/// Waits for the first snapshot.
async fn synced(published: &Published) -> anyhow::Result<()> {
    let mut changes = published.changes.clone();
    while published.snapshot.load().is_none() {
        changes.changed().await.context("the index has ended before it was synced")?;
    }
    Ok(())
}

/// `None` once `shutdown` has come.
async fn unless<T>(shutdown: &CancellationToken, future: impl Future<Output = T>) -> Option<T> {
    shutdown.run_until_cancelled(future).await
}
