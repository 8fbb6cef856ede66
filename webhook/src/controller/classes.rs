//! Keeps the derived SecretProviderClasses: what decides comes in, what differs is written.

use std::time::Duration;

use anyhow::Context;
use futures::stream::{FuturesUnordered, StreamExt};
use imdslet_core::csi::{PodUse, Step};
use imdslet_core::live::Standing;
use imdslet_core::names::{CLASS_GROUP, CLASS_KIND};
use imdslet_core::objects::ObjectName;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, Error};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::about::About;
use super::access::{ask, delete, is_conflict, is_ending_namespace, is_not_found, post, report};
use super::events::Note;
use super::reconcile::{LOSSES_HELD, held_note, snapshot, tell};
use super::shelf::{News, Shelf, Told};
use super::waits::until;
use super::{Controller, driver};
use crate::config::POD_DEADLINE;
use crate::metrics::Metrics;

#[cfg(test)]
mod tests;

const RESOURCE: &str = "secretproviderclasses";

/// How many are written at one time, and how long each pauses afterwards.
const AT_ONCE: usize = 4;
const PACE: Duration = Duration::from_millis(20);

/// The least time between two looks at all of them: a burst of changes is one change.
const REVIEW: Duration = Duration::from_millis(100);

/// Pods a page.
const PAGE: u32 = 250;

/// Keeps the classes right for as long as it is polled and `news` come.
pub(super) async fn run(
    controller: &Controller,
    news: mpsc::UnboundedReceiver<News>,
    notes: mpsc::Sender<Note>,
) -> anyhow::Result<()> {
    let (needed, is_needed) = watch::channel(false);
    // Neither ends before it is dropped, unless what it lives on has ended.
    tokio::select! {
        ended = work(controller, news, &notes, &needed) => ended,
        () = driver::watch(controller, is_needed, &notes) => Ok(()),
    }
}

async fn work(
    controller: &Controller,
    mut news: mpsc::UnboundedReceiver<News>,
    notes: &mpsc::Sender<Note>,
    needed: &watch::Sender<bool>,
) -> anyhow::Result<()> {
    let mut shelf = Shelf::default();
    let mut changes = controller.published.changes.clone();
    changes.mark_changed();
    let mut in_flight = FuturesUnordered::new();
    let (mut is_due, mut reviewed) = (false, Instant::now());
    loop {
        while in_flight.len() < AT_ONCE
            && let Some((name, step)) = shelf.next(Instant::now())
        {
            in_flight.push(write(&controller.client, &controller.metrics, name, step));
        }
        let wake = shelf.wake(Instant::now()).filter(|_| in_flight.len() < AT_ONCE);
        // Each arm is cancel-safe: a change that stays one until it is seen, the next item of a
        // channel or a stream, and a time.
        tokio::select! {
            published = changes.changed() => {
                published.context("the index has ended")?;
                is_due = true;
            }
            item = news.recv() => {
                let Some(item) = item else { return Ok(()) };
                shelf.take(item);
                is_due = true;
            }
            Some((name, step)) = in_flight.next() => shelf.finish(name, step, Instant::now()),
            () = sleep_until(reviewed + REVIEW), if is_due => {
                (is_due, reviewed) = (false, Instant::now());
                let lets_go = *controller.published.lets_go.borrow();
                let index = snapshot(controller)?;
                let told = shelf.review(&index, &controller.settings, (reviewed, lets_go));
                tell(notes, told.into_iter().map(|told| note(controller, told)));
                needed.send_if_modified(|needed| {
                    std::mem::replace(needed, shelf.is_needed()) != shelf.is_needed()
                });
            }
            () = until(wake), if !is_due => is_due = true,
        }
    }
}

fn note(controller: &Controller, told: Told) -> Note {
    let derived = match told {
        Told::Held(message) => return held_note(controller, LOSSES_HELD, message),
        Told::Outdated(pod, uid, message) => {
            let (about, reason) = (About::pod(&pod, &uid), Standing::RECREATE);
            return Note { about, reason, is_warning: true, message };
        }
        Told::Taken(derived) => derived,
    };
    let about = About {
        api_version: format!("{CLASS_GROUP}/v1").into(),
        kind: CLASS_KIND.into(),
        name: ObjectName::new(&*derived.name.namespace, &*derived.origin.class),
        uid: Some(derived.owner).filter(|uid| !uid.is_empty()),
    };
    let message = format!(
        "pods with the label aadpodidbinding: {} cannot mount this class: {}, which imdslet would \
         make for them, is the name of a class that imdslet has not made; delete or rename that one",
        derived.origin.selector, derived.name.name
    );
    Note { about, reason: "ClassNameTaken", is_warning: true, message }
}

fn kind() -> ApiResource {
    ApiResource {
        group: CLASS_GROUP.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{CLASS_GROUP}/v1"),
        kind: CLASS_KIND.to_owned(),
        plural: RESOURCE.to_owned(),
    }
}

/// Takes one step, and tells which it was.
async fn write(
    client: &Client,
    metrics: &Metrics,
    name: ObjectName,
    step: Step,
) -> (ObjectName, Step) {
    let verb = match &step {
        Step::Create(_) => "create",
        Step::Replace(..) => "update",
        Step::Delete(_) => "delete",
    };
    match timeout(POD_DEADLINE, write_one(client, &name, &step)).await {
        Ok(Ok(Some(reason))) => {
            metrics.class_written(reason);
            tracing::info!(class = name.name, namespace = name.namespace, reason, "class written");
        }
        Ok(Ok(None)) => {
            let reason = "ClassInUse";
            tracing::info!(class = name.name, namespace = name.namespace, reason, "class kept");
        }
        // The watch brings what is there instead; a namespace that ends takes its classes with it.
        Ok(Err(error)) if is_conflict(&error) || is_ending_namespace(&error) => {}
        Ok(Err(error)) if is_not_found(&error) && verb != "create" => {}
        Ok(Err(error)) => report(ask(verb, CLASS_GROUP, RESOURCE), &name.to_string(), &error),
        Err(_) => tracing::warn!(class = %name, reason = "Timeout", "no answer about a class"),
    }
    sleep(PACE).await;
    (name, step)
}

/// The reason for which a class was written; none: a pod uses it still.
async fn write_one(
    client: &Client,
    name: &ObjectName,
    step: &Step,
) -> Result<Option<&'static str>, Error> {
    let classes: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &name.namespace, &kind());
    let parameters = post();
    // What was made here as JSON of an object can be read as one.
    let object = |value| serde_json::from_value(value).map_err(Error::SerdeError);
    match step {
        Step::Create(derived) => {
            classes.create(&parameters, &object(derived.object(None))?).await?;
            Ok(Some("ClassCreated"))
        }
        Step::Replace(derived, version) => {
            let object = object(derived.object(Some(version)))?;
            classes.replace(&name.name, &parameters, &object).await?;
            Ok(Some(if derived.is_revoked() { "ClassRevoked" } else { "ClassChanged" }))
        }
        Step::Delete(uid) => {
            if is_named(client, name).await? {
                return Ok(None);
            }
            classes.delete(&name.name, &delete(uid)).await?;
            Ok(Some("ClassDeleted"))
        }
    }
}

/// Whether any pod of the namespace names this class, also one that has lost its label or that the
/// watch has not brought yet.
async fn is_named(client: &Client, class: &ObjectName) -> Result<bool, Error> {
    let kind = ApiResource::erase::<Pod>(&());
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), &class.namespace, &kind);
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = pods.list(&parameters).await?;
        let names = |pod: &DynamicObject| {
            let used = serde_json::to_string(pod).ok().and_then(|json| PodUse::read(&json));
            used.is_some_and(|used| used.classes.contains(&class.name))
        };
        if page.items.iter().any(names) {
            return Ok(true);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(false),
        }
    }
}
