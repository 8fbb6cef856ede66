//! `imdslet-sidecar serve`: from the first socket to the last answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::uri::Authority;
use imdslet_core::arguments::{Mode, ServeArgs};
use imdslet_core::names::{ADDRESS_CONTAINER, LINK_LOCAL};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config::{Config, GRACE};
use crate::listener::{CONNECTIONS, Clients, SCRAPES, Service, bind, bind_all};
use crate::server::{Endpoint, metrics_router, router};
use crate::source::Now;
use crate::sources::Sources;
use crate::transport::{Https, Node};
use crate::volume::{Turns, Volume};

/// Why the sidecar could not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A certificate of the environment that is none.
    #[error("a certificate of IMDSLET_EXTRA_CA cannot be used ({0}); correct --extra-ca")]
    ExtraCa(rustls::Error),
    /// TLS itself, without any certificate of ours.
    #[error("TLS cannot be set up ({0}); this build of the sidecar is broken, use a released one")]
    Tls(rustls::Error),
    /// An address that cannot be listened on.
    #[error(
        "cannot listen on {address} ({source}); is the port taken? imdslet.dev/port sets another"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Azure's own address, in link-local mode.
    #[error(
        "cannot listen on {address} ({source}); the init container {ADDRESS_CONTAINER} adds the \
         address, and spec.securityContext.sysctls must set net.ipv4.ip_unprivileged_port_start \
         to {} or less",
        address.port()
    )]
    LinkLocal {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system takes no signal handler.
    #[error("cannot handle signals ({0})")]
    Signals(io::Error),
}

/// Serves until it is told to end, in a runtime of one thread whose `turns` are counted.
///
/// # Errors
///
/// [`ServeError`], before anything is served.
pub async fn serve(args: ServeArgs, config: Config, turns: Turns) -> Result<(), ServeError> {
    let mut signals = Signals::new(args.mode).map_err(ServeError::Signals)?;
    let args = Arc::new(args);
    let (endpoint, cache) = wire(&args, config, turns)?;
    let looking = endpoint.clone();
    let look = || drop(looking.view());
    // Now, so that the log says at the start what is wrong with the files.
    look();

    let listeners = bind(args.port, args.link_local).await.map_err(|(address, source)| {
        if address.ip().is_loopback() {
            ServeError::Listen { address, source }
        } else {
            ServeError::LinkLocal { address, source }
        }
    })?;
    let stop = CancellationToken::new();
    let service = Service::new(router(endpoint.clone()), stop.clone(), Clients::Pod, CONNECTIONS);
    let scrapes = Service::new(metrics_router(endpoint), stop.clone(), Clients::Anybody, SCRAPES);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        if let Ok(addr) = listener.local_addr() {
            tracing::info!(%addr, "listening");
        }
        accepting.spawn(service.clone().accept(listener));
    }
    if let Some(listener) = bind_metrics(args.metrics_port).await {
        accepting.spawn(scrapes.clone().accept(listener));
    }

    // Cancel-safe: a signal that arrives meanwhile is kept, and the other arms never end.
    let signal = tokio::select! {
        signal = signals.end() => signal,
        never = cache.clone().keep_fresh(look) => match never {},
        never = cache.keep_count(look) => match never {},
    };
    stop.cancel();
    tracing::info!(signal, "ending");
    let drained = timeout(GRACE, async {
        while accepting.join_next().await.is_some() {}
        service.drain().await;
        scrapes.drain().await;
    });
    let complete = drained.await.is_ok();
    tracing::info!(complete, "ended");
    Ok(())
}

/// The endpoint, the cache behind it, and the sources behind that.
fn wire(
    args: &Arc<ServeArgs>,
    config: Config,
    turns: Turns,
) -> Result<(Endpoint, Cache), ServeError> {
    let https = Https::new(&config.extra_ca, config.proxies).map_err(ServeError::ExtraCa)?;
    let node = Node::new(Authority::from_static(LINK_LOCAL)).map_err(ServeError::Tls)?;
    let now: Now = Arc::new(SystemTime::now);
    let sources = Sources::new(Arc::clone(args), Arc::new(https), Arc::new(node), Arc::clone(&now));
    let cache = Cache::new(Box::new(sources), Arc::clone(&now));
    let volume = Volume::new(args.dir.clone(), Some(turns));
    Ok((Endpoint::new(volume, cache.clone(), config.header, now), cache))
}

/// The socket of the metrics, where one is asked for and can be had. A pod without metrics is
/// better than one without tokens.
async fn bind_metrics(port: Option<u16>) -> Option<TcpListener> {
    match bind_all(port?).await {
        Ok(listener) => {
            if let Ok(addr) = listener.local_addr() {
                tracing::info!(%addr, "listening for scrapes");
            }
            Some(listener)
        }
        Err((addr, error)) => {
            tracing::error!(
                %addr, %error, reason = "NoMetricsPort",
                "cannot serve metrics; --sidecar-metrics-port sets another port"
            );
            None
        }
    }
}

/// What tells the sidecar to end.
struct Signals {
    mode: Mode,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new(mode: Mode) -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { mode, terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the signal that ends this sidecar, and names it.
    async fn end(&mut self) -> &'static str {
        loop {
            // Cancel-safe: a signal that arrives meanwhile is kept for the next `recv`.
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => match self.mode {
                    // All the apps of the pod are gone.
                    Mode::Native => return "SIGTERM",
                    // They were told at the same time, and may need tokens to the end.
                    Mode::Container => tracing::info!(signal = "SIGTERM", "serving on"),
                },
            }
        }
    }
}
