//! `imdslet emulate`: the stand-ins as servers of their own.

mod args;
mod command;
mod environment;
mod imds;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::args::{Emulate, EntraArgs, ImdsArgs};
pub use self::command::in_the_background;
use self::environment::shell;
use self::imds::Imds;
pub use self::imds::ImdsError;
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

/// Plays the token endpoint of a pod: for the command that is given, or else until `shutdown`,
/// with the variables on standard output. Gives the exit code. `programs` is the folder with
/// `imdslet-sidecar`.
///
/// # Errors
///
/// [`ImdsError`], or what cannot be read, listened on, started or printed.
pub async fn imds(
    args: &ImdsArgs,
    programs: &Path,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<u8> {
    let mut shutdown = std::pin::pin!(shutdown);
    // Listened for from the first moment on: what is started is to be ended too. Dropping the start
    // ends what it has started.
    let started = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(0),
        started = Imds::start(args, programs) => started,
    };
    let mut imds = started?;
    if !args.command.is_empty() {
        // Whatever becomes of the servers, the command meets it and says so.
        return command::run(&args.command, &imds.variables).await;
    }
    let mut out = io::stdout();
    let lines = shell(&command::with_pid(&imds.variables));
    out.write_all(lines.as_bytes()).and_then(|()| out.flush()).context("cannot print")?;
    // Both are cancel-safe, and only one of the arms is ever taken.
    tokio::select! {
        () = &mut shutdown => Ok(0),
        ended = imds.ended() => Err(ended),
    }
}
