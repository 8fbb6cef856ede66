//! HTTP for clients that are not ours to trust: each has bounds in time and in number.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// What a server grants its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. For one more, the one that has been idle longest gives way.
    pub connections: usize,
    /// How long the head of a request may take to arrive; also how long a connection may idle.
    pub head: Duration,
}

/// Serves `router` until `shutdown`; then accepts nothing more and finishes what is in flight.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let mut connections = Connections::new(limits);
    loop {
        // The listener's accept is cancel-safe, what has ended is taken out of the set only when its
        // arm is the one that is taken, and cancellation is remembered.
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = connections.one_ends() => {}
            (stream, _) = listener.accept() => connections.begin(stream, router.clone(), &shutdown),
        }
    }
    // Whoever connects now finds nobody.
    drop(listener);
    while !connections.places.is_empty() {
        connections.one_ends().await;
    }
}

/// The connections that there are.
struct Connections {
    limits: Limits,
    tasks: JoinSet<()>,
    places: HashMap<Id, Place>,
    began: Instant,
}

/// One connection, as seen from outside.
struct Place {
    task: AbortHandle,
    idle: Arc<Idle>,
}

impl Connections {
    fn new(limits: Limits) -> Self {
        let (tasks, places) = (JoinSet::new(), HashMap::new());
        Self { limits, tasks, places, began: Instant::now() }
    }

    /// Waits until a connection has ended, for ever if there is none.
    async fn one_ends(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.places.remove(&id);
    }

    /// Serves a connection, unless each of those that there are is being answered.
    fn begin<S>(&mut self, stream: S, router: Router, shutdown: &CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if self.places.len() >= self.limits.connections && !self.make_room() {
            tracing::warn!(reason = "TooManyConnections", "connection refused");
            return;
        }
        let idle = Arc::new(Idle::since(self.began));
        let serving = http(stream, router, self.limits, Arc::clone(&idle), shutdown.clone());
        let task = self.tasks.spawn(serving);
        self.places.insert(task.id(), Place { task, idle });
    }

    /// Ends the connection that has been idle longest: whoever holds many of them without using
    /// them must not keep others out. False if there is none.
    fn make_room(&mut self) -> bool {
        let idle = self.places.iter().filter_map(|(id, place)| Some((place.idle.get()?, *id)));
        let longest = idle.min().and_then(|(_, id)| self.places.remove(&id));
        longest.inspect(|place| place.task.abort()).is_some()
    }
}

async fn http<S>(
    stream: S,
    router: Router,
    limits: Limits,
    idle: Arc<Idle>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answering = router.clone().call(request);
        let busy = Idle::interrupt(&idle);
        async move {
            let answer: Result<Response, Infallible> = answering.await;
            drop(busy);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // The connection is pinned outside and polled on after the other arm. Its error is the client's:
    // it left, was too slow, or sent no HTTP.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

/// Since when a connection is idle, if it is.
struct Idle {
    began: Instant,
    /// In milliseconds from `began`; [`Idle::BUSY`] while a request is answered.
    since: AtomicU64,
}

impl Idle {
    const BUSY: u64 = u64::MAX;

    /// Idle from now on, by a clock that shows the time since `began`.
    fn since(began: Instant) -> Self {
        let idle = Self { began, since: AtomicU64::new(Self::BUSY) };
        idle.resume();
        idle
    }

    fn get(&self) -> Option<u64> {
        let since = self.since.load(Ordering::Relaxed);
        (since != Self::BUSY).then_some(since)
    }

    fn resume(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(Self::BUSY - 1);
        self.since.store(now, Ordering::Relaxed);
    }

    /// Not idle until the guard is dropped.
    fn interrupt(idle: &Arc<Self>) -> Busy {
        idle.since.store(Self::BUSY, Ordering::Relaxed);
        Busy(Arc::clone(idle))
    }
}

/// A request that is being answered.
struct Busy(Arc<Idle>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.resume();
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{Notify, mpsc};

    use super::*;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const WAIT: &[u8] = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n";

    /// A server with room for two.
    struct Server {
        addr: std::net::SocketAddr,
        /// Hears of each request for `/wait`.
        waiting: mpsc::UnboundedReceiver<()>,
        /// Lets those that wait be answered.
        go: Arc<Notify>,
        _tasks: JoinSet<()>,
    }

    async fn server() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, waiting) = mpsc::unbounded_channel();
        let go = Arc::new(Notify::new());
        let waits = Arc::clone(&go);
        let wait = || async move {
            let notified = waits.notified();
            sender.send(()).unwrap();
            notified.await;
            "then"
        };
        let router = Router::new().route("/", get(|| async { "now" })).route("/wait", get(wait));
        let limits = Limits { connections: 2, head: Duration::from_mins(1) };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, router, limits, CancellationToken::new()));
        Server { addr, waiting, go, _tasks: tasks }
    }

    async fn asked(addr: std::net::SocketAddr, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream
    }

    /// What comes until the server says something, or closes.
    async fn heard(stream: &mut TcpStream) -> String {
        let mut answer = vec![0; 1024];
        let length = stream.read(&mut answer).await.unwrap_or(0);
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn for_one_more_the_connection_that_has_been_idle_longest_gives_way() {
        let server = server().await;
        let mut silent = TcpStream::connect(server.addr).await.unwrap();
        let mut kept = asked(server.addr, ASK).await;
        assert!(heard(&mut kept).await.ends_with("now"));
        let mut third = asked(server.addr, ASK).await;
        assert!(heard(&mut third).await.ends_with("now"));
        assert_eq!(heard(&mut silent).await, "");
        kept.write_all(ASK).await.unwrap();
        assert!(heard(&mut kept).await.ends_with("now"));
    }

    #[tokio::test]
    async fn nobody_who_is_being_answered_gives_way() {
        let mut server = server().await;
        let mut first = asked(server.addr, WAIT).await;
        let mut second = asked(server.addr, WAIT).await;
        for _ in 0..2 {
            server.waiting.recv().await.unwrap();
        }
        let mut third = asked(server.addr, ASK).await;
        assert_eq!(heard(&mut third).await, "");
        server.go.notify_waiters();
        assert!(heard(&mut first).await.ends_with("then"));
        assert!(heard(&mut second).await.ends_with("then"));
    }
}
