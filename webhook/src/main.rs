//! The admission webhook as a program.

use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use imdslet_certs::{Authority, OldestTls, Resolver, TlsListener, server_config};
use imdslet_webhook::config::{Config, ConfigError, GRACE};
use imdslet_webhook::feed::{self, Snapshot};
use imdslet_webhook::server::{self, Hook};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The service that the API server calls, and what a person calls.
const NAMES: [&str; 4] = [
    "imdslet-webhook.imdslet-system.svc",
    "imdslet-webhook.imdslet-system.svc.cluster.local",
    "localhost",
    "127.0.0.1",
];

/// Used wrongly.
const USAGE: u8 = 2;
/// Could not do it.
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(ConfigError::Usage(error)) => error.exit(),
        Err(error) => return fail(&error.into()),
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_ansi(std::io::stdout().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.context("cannot start threads").and_then(|runtime| runtime.block_on(run(config)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where the program says why it ends")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("imdslet-webhook: {error:#}");
    let is_usage = matches!(error.downcast_ref(), Some(ConfigError::Settings(_)));
    ExitCode::from(if is_usage { USAGE } else { FAILED })
}

/// Serves until it is told to end.
async fn run(config: Config) -> anyhow::Result<()> {
    // Before anything can be seen of this program: until then a signal would just kill it.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let shutdown = CancellationToken::new();
    let hook = Hook {
        snapshot: Snapshot::default(),
        settings: Arc::new(config.settings.clone()),
        shutdown: shutdown.clone(),
    };
    let mut tasks = JoinSet::new();
    let (events, receiver) = mpsc::channel(1024);
    tasks.spawn(feed::publish(receiver, hook.snapshot.clone(), watch::Sender::new(0)));

    // Before anybody is told the address: who trusts the CA reads its file then.
    let tls = tls(&config)?;
    let health = bind(config.health_listen, "health").await?;
    let admission = bind(config.listen, "admission").await?;
    for event in manifests(&config)? {
        events.send(event).await.context("the index has ended")?;
    }

    let ended = || shutdown.clone().cancelled_owned();
    let health = axum::serve(health, server::health(hook.clone()));
    let admission = axum::serve(TlsListener::new(admission, tls), server::admission(hook));
    let mut servers = JoinSet::new();
    servers.spawn(health.with_graceful_shutdown(ended()).into_future());
    servers.spawn(admission.with_graceful_shutdown(ended()).into_future());

    // Signals and joins are cancel-safe, and only one of the arms is ever taken.
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = servers.join_next() => "a server has ended",
    };
    tracing::info!(why, "ending");
    shutdown.cancel();
    let finished =
        tokio::time::timeout(GRACE, async { while servers.join_next().await.is_some() {} });
    let reason = if finished.await.is_ok() { "Finished" } else { "GraceExceeded" };
    tracing::info!(reason, "ended");
    Ok(())
}

async fn bind(addr: SocketAddr, server: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(addr).await.with_context(|| {
        format!("cannot listen on {addr} ({server}); is another program there?")
    })?;
    let addr = listener.local_addr().context("cannot tell the address")?;
    tracing::info!(%addr, server, "listening");
    Ok(listener)
}

fn tls(config: &Config) -> anyhow::Result<Arc<imdslet_certs::ServerConfig>> {
    let now = SystemTime::now();
    let authority = Authority::generate("imdslet-webhook CA", now)?;
    let mut names: Vec<_> = NAMES.iter().map(ToString::to_string).collect();
    let ip = config.listen.ip();
    if !ip.is_unspecified() && !ip.is_loopback() {
        names.push(ip.to_string());
    }
    let resolver = Arc::new(Resolver::new(authority.issue(&names, now)?)?);
    if let Some(path) = &config.ca_out {
        fs::write(path, authority.pem())
            .with_context(|| format!("--ca-out: cannot write {}", path.display()))?;
    }
    Ok(Arc::new(server_config(resolver, OldestTls::V1_3)?))
}

fn manifests(config: &Config) -> anyhow::Result<Vec<feed::Event>> {
    let path = &config.manifests;
    let text = fs::read_to_string(path)
        .with_context(|| format!("--manifests: cannot read {}", path.display()))?;
    feed::events_of(&text).with_context(|| format!("--manifests: {}", path.display()))
}
