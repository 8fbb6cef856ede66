//! `imdslet emulate`: the stand-ins as servers of their own.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::EntraArgs;
use crate::emulator::{Config, Entra, Server};

/// Serves the stand-in for Entra ID until `shutdown`.
///
/// # Errors
///
/// What is wrong with the configuration, the address or the file for the CA.
pub async fn entra(args: &EntraArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = Config::load(&args.config).with_context(|| args.config.display().to_string())?;
    let now = SystemTime::now();
    let entra = Arc::new(Entra::new(config, now)?);
    if let Some(path) = &args.ca_out {
        fs::write(path, entra.ca_pem())
            .with_context(|| format!("--ca-out: cannot write {}", path.display()))?;
    }
    let tcp = TcpListener::bind(args.listen).await.with_context(|| {
        format!("--listen: cannot listen on {}; is another program there?", args.listen)
    })?;
    // For whoever starts it by hand: clients must be told to trust this.
    tracing::info!(ca = entra.ca_pem(), "clients must trust this CA");
    Server::new(tcp, entra, &[], now)?.serve(shutdown).await.context("cannot serve")
}
