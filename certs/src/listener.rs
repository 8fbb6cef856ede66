//! A TCP listener whose connections have finished their TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A client that has not finished its handshake by then is cut off. The API server gives a webhook
/// ten seconds in all (`timeoutSeconds` of the configuration, at most 30).
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// How long accepting pauses after an error that is not one connection's, such as running out of
/// file descriptors: at once would be a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Handshakes that may go on at a time. Beyond them new connections wait in the kernel's backlog.
const HANDSHAKES: usize = 1024;

/// Accepts connections and shakes hands with all of them at once: a slow client delays nobody.
pub struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    /// Serves TLS by `config` on `tcp`.
    #[must_use]
    pub fn new(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { tcp, acceptor: TlsAcceptor::from(config), handshakes: JoinSet::new() }
    }

    fn shake_hands(&mut self, stream: TcpStream, peer: SocketAddr) {
        let acceptor = self.acceptor.clone();
        self.handshakes.spawn(async move {
            match timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => Some((stream, peer)),
                Ok(Err(error)) => {
                    // The operator's usual reason: a caBundle that is not this server's.
                    tracing::warn!(%peer, %error, reason = "HandshakeFailed", "connection refused");
                    None
                }
                Err(_) => {
                    tracing::warn!(%peer, reason = "HandshakeTimeout", "connection refused");
                    None
                }
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Both arms are cancel-safe: a connection is handed over by the kernel and a finished
            // handshake leaves the set only when its arm is the one that is taken.
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    // A handshake that panicked is one connection lost, not the server.
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
                accepted = self.tcp.accept(), if self.handshakes.len() < HANDSHAKES => {
                    match accepted {
                        Ok((stream, peer)) => self.shake_hands(stream, peer),
                        Err(error) => {
                            tracing::error!(%error, reason = "AcceptFailed", "cannot accept");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
