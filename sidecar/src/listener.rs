//! The listening sockets and the connections that they accept.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Once};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{HEAD_DEADLINE, WRITE_DEADLINE};
use writes::TimedWrites;

mod writes;

/// Azure's metadata service, in link-local mode.
const LINK_LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// Connections that are served at a time, over all sockets. Others wait in the kernel's backlog.
pub(crate) const CONNECTIONS: usize = 256;

/// The same at the port of the metrics. Places of its own, and few: whoever reaches that port must
/// not be able to take the pod's, nor its memory.
pub(crate) const SCRAPES: usize = 8;

/// The largest head of a request. An Azure resource id has a few hundred bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// How long accepting pauses after an error that is not one connection's, such as running out of
/// file descriptors: at once would be a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// The pod's own programs. That a socket has an address of the loopback interface is not enough:
    /// the kernel takes a packet for any of its addresses on any interface, and refuses those from
    /// outside for 127.0.0.0/8 and `::1` alone. For 169.254.169.254 a neighbour needs but a route.
    Pod,
    /// Whoever reaches the port.
    Anybody,
}

impl Clients {
    /// Whether a connection from `client` to the pod's address `here` is served. A program of the pod
    /// that asks for an address of the loopback interface has such a one itself: by default that same
    /// one.
    fn has(self, client: IpAddr, here: IpAddr) -> bool {
        self == Self::Anybody || client.is_loopback() || client == here
    }
}

/// What the accept loops share.
#[derive(Clone)]
pub(crate) struct Service {
    router: Router,
    stop: CancellationToken,
    clients: Clients,
    /// Somebody who is not served is told of once: a line for each would be his to write.
    told: Arc<Once>,
    connections: TaskTracker,
    places: Arc<Semaphore>,
}

/// Binds the loopback addresses to `port`, and Azure's own address where `link_local` is asked for.
///
/// `[::1]` takes the port that 127.0.0.1 got, and is left out where the pod has no IPv6. Where
/// another program has it, there is no serving: clients that say `localhost` would reach that one.
///
/// # Errors
///
/// The address that cannot be bound, and why.
pub(crate) async fn bind(
    port: u16,
    link_local: bool,
) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners = loop {
        match bind_localhost(port).await {
            // Any port was asked for, and the one that IPv4 had free was taken in IPv6.
            Err((SocketAddr::V6(_), error))
                if port == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            bound => break bound?,
        }
    };
    if link_local {
        listeners.push(bind_one(LINK_LOCAL).await?);
    }
    Ok(listeners)
}

async fn bind_localhost(port: u16) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let v4 = bind_one((Ipv4Addr::LOCALHOST, port).into()).await?;
    let port = v4.local_addr().map_or(port, |address| address.port());
    let mut listeners = vec![v4];
    match bind_one((Ipv6Addr::LOCALHOST, port).into()).await {
        Ok(listener) => listeners.push(listener),
        Err((addr, error)) if is_without_ipv6(&error) => {
            tracing::info!(%addr, %error, reason = "NoIpv6", "not listening");
        }
        Err(taken) => return Err(taken),
    }
    Ok(listeners)
}

/// Binds all addresses of the pod to `port`: both families where the pod has IPv6, else IPv4 alone.
///
/// # Errors
///
/// The address that cannot be bound, and why.
pub(crate) async fn bind_all(port: u16) -> Result<TcpListener, (SocketAddr, io::Error)> {
    match bind_one((Ipv6Addr::UNSPECIFIED, port).into()).await {
        Err((_, error)) if error.kind() != io::ErrorKind::AddrInUse => {
            bind_one((Ipv4Addr::UNSPECIFIED, port).into()).await
        }
        bound => bound,
    }
}

async fn bind_one(address: SocketAddr) -> Result<TcpListener, (SocketAddr, io::Error)> {
    TcpListener::bind(address).await.map_err(|error| (address, error))
}

/// Whether the pod has no IPv6: none of its addresses, or not even the protocol.
fn is_without_ipv6(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT))
}

impl Service {
    /// Serves `router` to `clients` until `stop`, over so many connections at a time.
    pub(crate) fn new(
        router: Router,
        stop: CancellationToken,
        clients: Clients,
        connections: usize,
    ) -> Self {
        let places = Arc::new(Semaphore::new(connections));
        let (told, connections) = (Arc::new(Once::new()), TaskTracker::new());
        Self { router, stop, clients, told, connections, places }
    }

    /// Accepts connections until told to stop.
    pub(crate) async fn accept(self, listener: TcpListener) {
        loop {
            // Cancel-safe: a connection is handed over by the kernel, a place is only taken when its
            // arm is, and cancellation is remembered.
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.next(&listener) => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    // Answers are one small write each: nothing to wait for.
                    stream.set_nodelay(true).ok();
                    let connection = self.clone().serve(stream);
                    self.connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::error!(%error, reason = "AcceptFailed", "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits for the connections that are open: after `stop`, they end with their request.
    pub(crate) async fn drain(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    async fn next(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        loop {
            let (stream, client) = listener.accept().await?;
            let here = stream.local_addr()?;
            if self.clients.has(client.ip(), here.ip()) {
                return Ok((stream, place));
            }
            self.told.call_once(|| {
                let note =
                    "somebody outside this pod, who was not served; later ones are not told of";
                tracing::warn!(%client, %here, reason = "ForeignClient", note, "connection closed");
            });
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let stream = TimedWrites::new(stream, WRITE_DEADLINE);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router));
        tokio::pin!(connection);
        // Cancel-safe: the connection is pinned outside and polled on after the other arm. Its
        // error is the client's: it left, sent no HTTP, or was too slow.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await.ok();
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    /// Sends `head` on a connection, and waits until the listener has ended it; what it answered,
    /// and after how long.
    async fn cut(head: &str) -> (String, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "answer" }));
        let service = Service::new(router, CancellationToken::new(), Clients::Pod, CONNECTIONS);
        // It ends when the set is dropped.
        let mut accepting = tokio::task::JoinSet::new();
        accepting.spawn(service.accept(listener));
        let client = TcpStream::connect(address).await.unwrap();
        let began = Instant::now();
        let mut sent = 0;
        let mut read = Vec::new();
        let ended = loop {
            let ready =
                client.ready(tokio::io::Interest::READABLE.add(tokio::io::Interest::WRITABLE));
            let left = head.get(sent..).unwrap();
            if left.is_empty() {
                client.readable().await.unwrap();
            } else if ready.await.unwrap().is_writable() {
                sent += client.try_write(left.as_bytes()).unwrap_or_default();
            }
            let mut chunk = [0; 1024];
            match client.try_read(&mut chunk) {
                Ok(0) => break began.elapsed(),
                Ok(count) => read.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break began.elapsed(),
            }
        };
        drop(accepting);
        (String::from_utf8(read).unwrap(), ended)
    }

    #[tokio::test]
    async fn who_has_the_port_of_localhost_in_ipv6_is_not_passed_over() {
        for (errno, is_passed_over) in [
            (Errno::ADDRNOTAVAIL, true),
            (Errno::AFNOSUPPORT, true),
            (Errno::ADDRINUSE, false),
            (Errno::MFILE, false),
        ] {
            assert_eq!(is_without_ipv6(&errno.into()), is_passed_over, "{errno}");
        }
        // What is to be said of a machine without IPv6 is said above.
        let Ok(app) = TcpListener::bind("[::1]:0").await else { return };
        let taken = app.local_addr().unwrap();
        let (address, error) = bind(taken.port(), false).await.unwrap_err();
        assert_eq!((address, error.kind()), (taken, io::ErrorKind::AddrInUse));
    }

    #[test]
    fn who_is_not_of_the_pod_is_served_metrics_alone() {
        for (client, here, is_of_the_pod) in [
            ("127.0.0.1", "127.0.0.1", true),
            // Envoy passes on what it has received from another address of the loopback.
            ("127.0.0.6", "127.0.0.1", true),
            ("::1", "::1", true),
            ("169.254.169.254", "169.254.169.254", true),
            ("127.0.0.1", "169.254.169.254", true),
            ("10.244.0.1", "169.254.169.254", false),
            ("169.254.1.1", "169.254.169.254", false),
            // Where a node routes its loopback (`route_localnet`).
            ("10.244.0.1", "127.0.0.1", false),
            ("fe80::1", "::1", false),
        ] {
            let (client, here) = (client.parse().unwrap(), here.parse().unwrap());
            assert_eq!(Clients::Pod.has(client, here), is_of_the_pod, "{client} to {here}");
            assert!(Clients::Anybody.has(client, here));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_idle_and_talkative_clients_are_cut() {
        let (answer, after) = cut("GET / HT").await;
        assert_eq!((answer.contains("answer"), after >= HEAD_DEADLINE), (false, true), "{after:?}");
        let (answer, after) = cut("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
        assert!(answer.ends_with("answer"), "{answer}");
        assert!(after >= HEAD_DEADLINE && after < 2 * HEAD_DEADLINE, "{after:?}");
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(LARGEST_HEAD));
        let (answer, after) = cut(&long).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(after < HEAD_DEADLINE, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_its_places_a_client_waits_until_another_one_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "answer" }));
        let service = Service::new(router, CancellationToken::new(), Clients::Pod, 2);
        let mut accepting = tokio::task::JoinSet::new();
        accepting.spawn(service.accept(listener));
        let connected = || async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
            client
        };
        let answered = |mut client: TcpStream| async {
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            client
        };
        let (first, second) =
            (answered(connected().await).await, answered(connected().await).await);
        let third = connected().await;
        // Both hold their places, which they may for as long as an idle connection may.
        let waited = tokio::time::timeout(HEAD_DEADLINE / 2, third.readable()).await;
        assert!(waited.is_err(), "a third was served");
        drop(first);
        let third = answered(third).await;
        drop((second, third));
    }

    /// A client that pauses before each chunk that it reads: what it got of its answer, and after
    /// how long its connection was over.
    async fn read_slowly(pause: Duration, chunk: usize) -> (String, Duration) {
        let (mut client, stream) = tokio::io::duplex(64);
        let router = Router::new().route("/", get(|| async { "answer ".repeat(100) }));
        let service = Service::new(router, CancellationToken::new(), Clients::Pod, CONNECTIONS);
        let began = Instant::now();
        let served = async {
            service.serve(stream).await;
            began.elapsed()
        };
        let reading = async {
            let request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
            client.write_all(request).await.unwrap();
            let (mut read, mut buffer) = (Vec::new(), vec![0; chunk]);
            loop {
                tokio::time::sleep(pause).await;
                match client.read(&mut buffer).await.unwrap() {
                    0 => return String::from_utf8(read).unwrap(),
                    count => read.extend_from_slice(&buffer[..count]),
                }
            }
        };
        let (read, ended) = tokio::join!(reading, served);
        (read, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_the_answer_is_cut() {
        let (read, after) = read_slowly(10 * WRITE_DEADLINE, 64).await;
        assert_eq!((after, read.len()), (WRITE_DEADLINE, 64), "{read}");
        // A byte now and then does not help.
        let (read, after) = read_slowly(Duration::from_secs(1), 1).await;
        assert_eq!(after, WRITE_DEADLINE);
        assert!(!read.ends_with("answer "), "{read}");
        // Slow is not too slow.
        let (read, after) = read_slowly(WRITE_DEADLINE / 20, 64).await;
        assert!(read.ends_with("answer answer "), "{read}");
        assert!(after < WRITE_DEADLINE, "{after:?}");
    }
}
