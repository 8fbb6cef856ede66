//! The objects of the cluster, as a stream of events for [`feed`](crate::feed).
//!
//! Each kind is listed, then watched from there on. A loop of our own around kube's requests, since
//! `kube::runtime::watcher` does not tell when a watch that failed works again, and a kind in which
//! nothing happens would then look stale for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use imdslet_core::hold::{Definition, Trust};
use imdslet_core::index::Change;
use imdslet_core::objects::Object;
use kube::Client;
use kube::api::{ListParams, Request, WatchEvent, WatchParams};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::{
    ABSENT_LOOK, LIST_DEADLINE, STALE_AFTER, WATCH_LIFE, WATCH_SLACK, WATCH_START_DEADLINE,
};
use crate::feed::Event;
use crate::metrics::Metrics;
use crate::problem::{Ask, Problem};
use crate::readiness::Readiness;

mod definition;
mod sent;
mod source;

use sent::{Page, Sent, Whole};
use source::{SOURCES, Source};

/// Changes that are taken together, if so many are there.
const TOGETHER: usize = 256;

/// Objects a page. What a page holds is in memory at once before it is made small.
const PAGE: u32 = 100;

/// A watch that ends sooner than this counts as a failure when it comes to how soon the next one
/// starts: a proxy that cuts connections must not make a busy loop.
const SHORT_LIVED: Duration = Duration::from_secs(5);

/// Watches every kind that decisions read, and tells `events`. [`Event::Synced`] comes when each
/// has been listed once; until then each that has not been blocks `readiness`.
///
/// The tasks end only when nobody takes the events any more.
pub fn start(
    client: &Client,
    events: &mpsc::Sender<Event>,
    (readiness, metrics): (&Readiness, &Metrics),
    tasks: &mut JoinSet<&'static str>,
) {
    let unlisted = Arc::new(AtomicUsize::new(SOURCES.len()));
    for source in SOURCES {
        readiness.set(source.name, true, "not listed yet");
        let follower = Follower {
            source,
            client: client.clone(),
            events: events.clone(),
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            unlisted: unlisted.clone(),
            listed_of: None,
            is_listed: false,
            is_told_stale: false,
            is_off: false,
        };
        tasks.spawn(follower.run());
    }
}

/// Follows one kind.
struct Follower {
    source: Source,
    client: Client,
    events: mpsc::Sender<Event>,
    readiness: Readiness,
    metrics: Metrics,
    /// How many kinds have not been listed yet.
    unlisted: Arc<AtomicUsize>,
    /// The uid of the CRD that the last list was of.
    listed_of: Option<String>,
    is_listed: bool,
    is_told_stale: bool,
    /// It is done without.
    is_off: bool,
}

/// Why following pauses.
enum Pause {
    Failed(Problem),
    /// Nobody takes the events.
    Unheard,
}

impl From<Problem> for Pause {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

impl<T> From<mpsc::error::SendError<T>> for Pause {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Self::Unheard
    }
}

impl Follower {
    async fn run(mut self) -> &'static str {
        let mut backoff = DefaultBackoff::default();
        // Where to watch from; none: list first.
        let mut version = None;
        loop {
            let began = Instant::now();
            match self.follow(&mut version).await {
                Ok(()) if began.elapsed() >= SHORT_LIVED => {
                    backoff.reset();
                    continue;
                }
                Ok(()) => {}
                Err(Pause::Unheard) => return self.source.name,
                Err(Pause::Failed(problem)) => {
                    if matches!(problem, Problem::Expired | Problem::KindMissing(_)) {
                        version = None;
                    }
                    if self.source.is_optional && problem.is_absence() {
                        version = None;
                        if self.do_without(&problem).await.is_err() {
                            return self.source.name;
                        }
                        sleep(ABSENT_LOOK).await;
                        continue;
                    }
                    self.failed(&problem);
                }
            }
            // Begins at 0.8 s again when it has not been asked for 120 s.
            sleep(backoff.next().unwrap_or(SHORT_LIVED)).await;
        }
    }

    /// Lists if there is no version to go on from, then watches until the watch ends.
    async fn follow(&mut self, version: &mut Option<String>) -> Result<(), Pause> {
        let from = if let Some(version) = version {
            self.metrics.watch_restarted(self.source.name);
            if self.trust().await?.0 == Trust::Confirmed {
                self.events.send(Event::LetGo(self.source.kind)).await?;
            }
            version
        } else {
            let (objects, listed) = self.list().await?;
            // After the list: what it lacks because the CRD is going, the CRD admits by then.
            let (trust, definition) = self.trust().await?;
            self.events.send(Event::Relisted(self.source.kind, objects, trust)).await?;
            self.listed_of = definition.or(self.listed_of.take());
            self.works();
            self.listed().await?;
            version.insert(listed)
        };
        let ask = self.ask("watch");
        let life = u32::try_from(WATCH_LIFE.as_secs()).unwrap_or(u32::MAX);
        let request = self.request().watch(&WatchParams::default().timeout(life), from);
        let request = request.map_err(|error| Problem::Unanswered(error.to_string()))?;
        let started = timeout(WATCH_START_DEADLINE, self.client.request_events::<Sent>(request));
        let changes = match started.await {
            Ok(changes) => changes.map_err(|error| Problem::of(ask, &error))?,
            Err(_) => return Err(Problem::late(WATCH_START_DEADLINE).into()),
        };
        self.works();
        // The API server ends the watch; the bound is for a connection that has died in silence.
        let end = Instant::now() + WATCH_LIFE + WATCH_SLACK;
        // Together, since a deletion has to be asked about, and one question is enough for many.
        let mut changes = std::pin::pin!(changes.ready_chunks(TOGETHER));
        while let Ok(Some(changes)) = timeout_at(end, changes.next()).await {
            self.metrics.heard(self.source.name);
            let is_deletion = |change: &_| matches!(change, Ok(WatchEvent::Deleted(_)));
            let definition = if changes.iter().any(is_deletion) {
                // If there is no answer, the watch begins anew from before these changes.
                self.definition().await?
            } else {
                None
            };
            for change in changes {
                let change = change.map_err(|error| Problem::of(ask, &error))?;
                self.tell(change, definition.as_ref(), from).await?;
            }
        }
        Ok(())
    }

    /// Tells what has changed, and notes up to where it has been told. What is deleted is judged by
    /// the `definition` of its kind.
    async fn tell(
        &self,
        change: WatchEvent<Sent>,
        definition: Option<&Definition>,
        from: &mut String,
    ) -> Result<(), Pause> {
        let (sent, is_deleted) = match change {
            WatchEvent::Added(sent) | WatchEvent::Modified(sent) => (sent, false),
            WatchEvent::Deleted(sent) => (sent, true),
            WatchEvent::Bookmark(bookmark) => {
                *from = bookmark.metadata.resource_version;
                return Ok(());
            }
            WatchEvent::Error(status) => {
                return Err(Problem::of_status(self.ask("watch"), &status).into());
            }
        };
        let reached = sent.metadata.resource_version.clone();
        let trust = match definition {
            Some(definition) if is_deleted => {
                let created = sent.metadata.creation_timestamp.as_deref();
                Trust::of_deletion(created.unwrap_or_default(), definition)
            }
            _ => Trust::Plain,
        };
        if let Some(object) = self.read(sent) {
            let change = if is_deleted {
                let (kind, name) = object.id();
                Change::Deleted(kind, name.clone())
            } else {
                Change::Applied(Box::new(object))
            };
            self.events.send(Event::Change(change, trust)).await?;
        }
        *from = reached;
        Ok(())
    }

    /// Whether objects that a list lacks are meant to be gone, and the uid of their CRD.
    async fn trust(&self) -> Result<(Trust, Option<String>), Problem> {
        let Some(definition) = self.definition().await? else { return Ok((Trust::Plain, None)) };
        let trust = Trust::of(self.listed_of.as_deref(), &definition);
        let uid = match definition {
            Definition::Present { uid, .. } => Some(uid),
            Definition::Unreadable | Definition::Missing => None,
        };
        Ok((trust, uid))
    }

    /// The CRD of a kind that has one. Asked after it is known that objects are missing: a CRD is
    /// marked as ending before the first of its objects is deleted.
    async fn definition(&self) -> Result<Option<Definition>, Problem> {
        match self.source.kind.definition() {
            Some(name) => definition::get(&self.client, name).await.map(Some),
            None => Ok(None),
        }
    }

    /// Says that all is synced, if this was the last kind to be listed: after its own objects and
    /// all others'.
    async fn listed(&mut self) -> Result<(), Pause> {
        if !self.is_listed {
            self.is_listed = true;
            if self.unlisted.fetch_sub(1, Ordering::AcqRel) == 1 {
                tracing::info!("synced");
                self.events.send(Event::Synced).await?;
            }
        }
        Ok(())
    }

    /// Goes on as if there were no objects of this kind, which is said once.
    async fn do_without(&mut self, problem: &Problem) -> Result<(), Pause> {
        let kind = self.source.name;
        self.metrics.heard(kind);
        self.readiness.clear(kind);
        if !self.is_off {
            self.is_off = true;
            let note = match problem {
                Problem::KindMissing(_) => "secrets-store-csi-driver is not installed",
                _ => "this account may not read the classes; manifests/csi.yaml allows it",
            };
            tracing::info!(kind, note, reason = "Off", "Secrets Store volumes are left alone");
            self.events.send(Event::Relisted(self.source.kind, Vec::new(), Trust::Plain)).await?;
        }
        self.listed().await
    }

    /// All objects, and the version that they are of.
    async fn list(&self) -> Result<(Vec<Object>, String), Problem> {
        let ask = self.ask("list");
        let mut objects = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let request = self.request().list(&params);
            let request = request.map_err(|error| Problem::Unanswered(error.to_string()))?;
            let page = timeout(LIST_DEADLINE, self.client.request::<Page>(request)).await;
            let page = page.map_err(|_| Problem::late(LIST_DEADLINE))?;
            let page = page.map_err(|error| Problem::of(ask, &error))?;
            objects.extend(page.items.into_iter().flatten().filter_map(|sent| self.read(sent)));
            if page.metadata.continue_token.is_empty() {
                return Ok((objects, page.metadata.resource_version));
            }
            params.continue_token = Some(page.metadata.continue_token);
        }
    }

    fn read(&self, sent: Sent) -> Option<Object> {
        // In a list of a built-in kind the items do not say what they are.
        let api_version = match self.source.group {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        };
        let whole = Whole { api_version, kind: self.source.name, sent };
        let read = serde_json::to_value(whole)
            .map_err(|error| error.to_string())
            .and_then(|value| Object::read(&value, "").map_err(|error| error.to_string()));
        read.unwrap_or_else(|error| {
            let kind = self.source.name;
            tracing::warn!(kind, error, reason = "InvalidObject", "object ignored");
            None
        })
    }

    /// Told at once when it is new, and once more when it has lasted.
    fn failed(&mut self, problem: &Problem) {
        let (kind, reason) = (self.source.name, problem.reason());
        if *problem == Problem::Expired {
            tracing::info!(kind, reason, "listing anew");
            return;
        }
        if self.readiness.set(kind, !self.is_listed, &problem.to_string()) {
            tracing::warn!(kind, %problem, reason, "cannot watch; trying again");
        }
        let lasts = self.readiness.since(kind).map(|since| since.elapsed()).unwrap_or_default();
        if self.is_listed && lasts > STALE_AFTER && !self.is_told_stale {
            self.is_told_stale = true;
            let seconds = lasts.as_secs();
            tracing::error!(
                kind, %problem, seconds, reason = "Stale",
                "changes of this kind are not seen; pods are admitted by what was known"
            );
        }
    }

    fn works(&mut self) {
        self.metrics.heard(self.source.name);
        self.is_told_stale = false;
        if std::mem::take(&mut self.is_off) {
            tracing::info!(
                kind = self.source.name,
                reason = "On",
                "Secrets Store volumes are served"
            );
        }
        if self.readiness.clear(self.source.name) && self.is_listed {
            tracing::info!(kind = self.source.name, reason = "Recovered", "watching again");
        }
    }

    fn ask(&self, verb: &'static str) -> Ask {
        Ask { verb, group: self.source.group, resource: self.source.resource, name: None }
    }

    fn request(&self) -> Request {
        Request::new(match self.source.group {
            "" => format!("/api/v1/{}", self.source.resource),
            group => format!("/apis/{group}/v1/{}", self.source.resource),
        })
    }
}

#[cfg(test)]
mod tests;
