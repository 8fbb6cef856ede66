//! A TCP listener whose connections have finished their TLS handshake.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A client that has not finished its handshake by then is cut off. The API server gives a webhook
/// ten seconds in all (`timeoutSeconds` of the configuration, at most 30).
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// How long accepting pauses after an error that is not one connection's, such as running out of
/// file descriptors: at once would be a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Handshakes that may go on at a time. For one more the oldest gives way: whoever opens connections
/// and says nothing must not keep others out, and the API server is quicker than that.
const HANDSHAKES: usize = 1024;

/// Accepts connections and shakes hands with all of them at once: a slow client delays nobody.
pub struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
    /// Those of the handshakes that may still go on, the oldest first.
    order: VecDeque<AbortHandle>,
    limit: usize,
}

impl TlsListener {
    /// Serves TLS by `config` on `tcp`.
    #[must_use]
    pub fn new(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self {
            tcp,
            acceptor: TlsAcceptor::from(config),
            handshakes: JoinSet::new(),
            order: VecDeque::new(),
            limit: HANDSHAKES,
        }
    }

    fn shake_hands(&mut self, stream: TcpStream, peer: SocketAddr) {
        let acceptor = self.acceptor.clone();
        // Else the first answer waits in the kernel until the client has acknowledged the session
        // tickets before it, which clients put off for 40 ms. A socket that does not take the
        // option is served all the same.
        stream.set_nodelay(true).ok();
        self.order.retain(|handshake| !handshake.is_finished());
        if self.order.len() >= self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        let handshake = self.handshakes.spawn(async move {
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
        self.order.push_back(handshake);
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
                    // One that panicked or gave way is one connection lost, not the server.
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
                accepted = self.tcp.accept() => {
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::AsyncReadExt;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{Authority, OldestTls, Resolver, server_config};

    /// A listener, and how a client shakes hands with it.
    async fn listener() -> (TlsListener, TlsConnector) {
        let now = SystemTime::now();
        let authority = Authority::generate("CA", now).unwrap();
        let serving = authority.issue(&["localhost".to_owned()], now).unwrap();
        let resolver = Arc::new(Resolver::new(serving).unwrap());
        let config = Arc::new(server_config(resolver, OldestTls::V1_3).unwrap());
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();

        let mut roots = RootCertStore::empty();
        roots.add(PemObject::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider);
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        (TlsListener::new(tcp, config), TlsConnector::from(Arc::new(client)))
    }

    /// A connection that the listener has accepted.
    async fn connected(
        listener: &mut TlsListener,
        connector: &TlsConnector,
    ) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let (client, (server, _)) =
            tokio::join!(connector.connect(name, stream), listener.accept());
        client.unwrap();
        server
    }

    #[tokio::test]
    async fn what_is_written_on_a_connection_is_sent_at_once() {
        let (mut listener, connector) = listener().await;
        let server = connected(&mut listener, &connector).await;
        assert!(server.get_ref().0.nodelay().unwrap());
    }

    #[tokio::test]
    async fn whoever_opens_connections_and_says_nothing_keeps_nobody_out() {
        let (mut listener, connector) = listener().await;
        listener.limit = 2;
        let addr = listener.local_addr().unwrap();
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        connected(&mut listener, &connector).await;
        for stream in silent.iter_mut().take(2) {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        }
    }
}
