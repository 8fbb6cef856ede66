//! `imdslet emulate`: the stand-ins as servers of their own.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::EntraArgs;
use crate::emulator::{Config, ConfigError, Entra, Server};

/// Serves the stand-in for Entra ID until `shutdown`.
///
/// # Errors
///
/// What is wrong with the configuration, the address or the file for the CA.
pub async fn entra(args: &EntraArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = Config::load(&args.config).map_err(|error| match error {
        ConfigError::Read { .. } => anyhow!("--config: {error}"),
        error => anyhow!("--config: {}: {error}", args.config.display()),
    })?;
    let now = SystemTime::now();
    let entra = Arc::new(Entra::new(config, now)?);
    let tcp = TcpListener::bind(args.listen).await.with_context(|| {
        format!("--listen: cannot listen on {}; is another program there?", args.listen)
    })?;
    // Only now: another emulator that is in the way has its clients, who trust what is there.
    if let Some(path) = &args.ca_out {
        fs::write(path, entra.ca_pem())
            .with_context(|| format!("--ca-out: cannot write {}", path.display()))?;
    }
    if !args.listen.ip().is_loopback() {
        let addr = args.listen;
        tracing::warn!(%addr, "whoever reaches this address can change the configuration");
    }
    // For whoever starts it by hand: clients must be told to trust this.
    tracing::info!(ca = entra.ca_pem(), "clients must trust this CA");
    Server::new(tcp, entra, &[], now)?.serve(shutdown).await.context("cannot serve")
}
