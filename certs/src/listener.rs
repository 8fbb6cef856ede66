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
        // Else the first answer waits in the kernel until the client has acknowledged the session
        // tickets before it, which clients put off for 40 ms. A socket that does not take the
        // option is served all the same.
        stream.set_nodelay(true).ok();
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{Authority, OldestTls, Resolver, server_config};

    #[tokio::test]
    async fn what_is_written_on_a_connection_is_sent_at_once() {
        let now = SystemTime::now();
        let authority = Authority::generate("CA", now).unwrap();
        let serving = authority.issue(&["localhost".to_owned()], now).unwrap();
        let resolver = Arc::new(Resolver::new(serving).unwrap());
        let config = Arc::new(server_config(resolver, OldestTls::V1_3).unwrap());
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = TlsListener::new(tcp, config);

        let mut roots = RootCertStore::empty();
        roots.add(PemObject::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider);
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(client));

        let (client, (server, _)) =
            tokio::join!(connector.connect(name, stream), listener.accept());
        client.unwrap();
        assert!(server.get_ref().0.nodelay().unwrap());
    }
}
