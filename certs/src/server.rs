//! HTTP over TLS for clients that are not ours to trust: each has bounds in time and in number.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::TlsListener;

/// What a server grants its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. Others wait in the kernel's backlog.
    pub connections: usize,
    /// How long the head of a request may take to arrive; also how long a connection may idle.
    pub head: Duration,
}

/// Serves `router` until `shutdown`; then accepts nothing more and finishes what is in flight.
pub async fn serve(
    mut listener: TlsListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        // The listener's accept is cancel-safe, a place is given back when it is dropped, and
        // cancellation is remembered.
        let (place, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await.0)
            } => accepted,
        };
        let service = TowerToHyperService::new(router.clone());
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let _place = place;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            // The connection is pinned outside and polled on after the other arm. Its error is the
            // client's: it left, was too slow, or sent no HTTP.
            tokio::select! {
                _ = connection.as_mut() => return,
                () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await.ok();
        });
    }
    // Whoever connects now finds nobody.
    drop(listener);
    while connections.join_next().await.is_some() {}
}
