//! Keeps the AzureAssignedIdentity objects: what is wanted comes in, what differs is written.

use std::pin::pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use imdslet_core::names::{CONTENT, GROUP, MANAGED_BY};
use imdslet_core::objects::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, DynamicObject, TypeMeta};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::access::{ask, delete, is_conflict, is_ending_namespace, is_not_found, post, report};
use super::book::{Book, News, Outcome, Step, There, Wanted};
use super::waits::until;
use crate::config::{POD_DEADLINE, WATCH_LIFE};
use crate::problem::Problem;

const RESOURCE: &str = "azureassignedidentities";

/// How many are written at one time, and how long each pauses afterwards: nobody waits for them.
const AT_ONCE: usize = 4;
const PACE: Duration = Duration::from_millis(20);

/// MIC's mark. While one has it, MIC runs or has left things behind, and would take ours for its
/// own (aad-pod-identity v1.8.17, `pkg/crd/crd.go:40`).
const MIC_FINALIZER: &str = "azureassignedidentity.finalizers.aadpodidentity.k8s.io";

/// A label's value is not longer.
const LABEL_LIMIT: usize = 63;

/// Keeps the objects right for as long as it is polled and `news` come.
pub(super) async fn run(client: &Client, mut news: mpsc::UnboundedReceiver<News>) {
    let mut book = Book::default();
    let mut last_problem = None;
    let kind = kind();
    let objects: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &kind);
    let life = WATCH_LIFE.as_secs().try_into().unwrap_or(u32::MAX);
    let events = watcher(objects, Config::default().timeout(life)).default_backoff();
    let mut events = pin!(events);
    let mut in_flight = FuturesUnordered::new();
    loop {
        while in_flight.len() < AT_ONCE
            && let Some((name, step)) = book.next(Instant::now())
        {
            in_flight.push(write(client, name, step));
        }
        let wake = book.wake().filter(|_| in_flight.len() < AT_ONCE);
        // Each arm is cancel-safe: the next item of a channel or a stream, and a time.
        tokio::select! {
            item = news.recv() => match item {
                Some(item) => book.take(item),
                None => return,
            },
            Some(event) = events.next() => match event {
                Ok(event) => {
                    last_problem = None;
                    see(&mut book, event);
                }
                Err(error) => {
                    let problem = Problem::of_watch(ask("watch", GROUP, RESOURCE), &error);
                    if last_problem.as_ref() != Some(&problem) {
                        let reason = problem.reason();
                        tracing::warn!(resource = RESOURCE, reason, %problem, "watch failed");
                    }
                    last_problem = Some(problem);
                }
            },
            Some((name, outcome)) = in_flight.next() => book.finish(name, outcome, Instant::now()),
            () = until(wake) => {}
        }
    }
}

fn kind() -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{GROUP}/v1"),
        kind: "AzureAssignedIdentity".to_owned(),
        plural: RESOURCE.to_owned(),
    }
}

fn see(book: &mut Book, event: Event<PartialObjectMeta<DynamicObject>>) {
    match event {
        Event::Init => book.restart(),
        Event::InitApply(object) | Event::Apply(object) => {
            let (name, there) = read(object.metadata);
            book.see(name, there);
        }
        Event::InitDone => book.complete(),
        Event::Delete(object) => book.gone(&read(object.metadata).0),
    }
}

fn read(metadata: ObjectMeta) -> (ObjectName, There) {
    let name =
        ObjectName::new(metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
    let (key, value) = MANAGED_BY;
    let labels = metadata.labels.unwrap_or_default();
    let there = There {
        is_ours: labels.get(key).is_some_and(|label| label == value),
        is_mics: metadata.finalizers.iter().flatten().any(|one| one == MIC_FINALIZER),
        content: metadata.annotations.unwrap_or_default().remove(CONTENT).unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
    };
    (name, there)
}

/// The object as it is written.
fn object(name: &ObjectName, wanted: &Wanted, resource_version: Option<String>) -> DynamicObject {
    let (key, value) = MANAGED_BY;
    let mut labels = vec![(key.to_owned(), value.to_owned())];
    // MIC labelled them so, and NMI looked for its own by it.
    if wanted.node.len() <= LABEL_LIMIT {
        labels.push(("nodename".to_owned(), wanted.node.clone()));
    }
    DynamicObject {
        types: Some(TypeMeta {
            api_version: format!("{GROUP}/v1"),
            kind: "AzureAssignedIdentity".to_owned(),
        }),
        metadata: ObjectMeta {
            name: Some(name.name.clone()),
            namespace: Some(name.namespace.clone()),
            resource_version,
            labels: Some(labels.into_iter().collect()),
            annotations: Some([(CONTENT.to_owned(), wanted.content.clone())].into()),
            // It goes with its pod, whoever is there to see it.
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: wanted.pod.name.clone(),
                uid: wanted.uid.clone(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        data: json!({
            "spec": wanted.spec,
            "status": {"status": "Assigned", "availableReplicas": 1},
        }),
    }
}

async fn write(client: &Client, name: ObjectName, step: Step) -> (ObjectName, Outcome) {
    let objects: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &name.namespace, &kind());
    let parameters = post();
    let (verb, written) = match &step {
        Step::Create(wanted) => {
            let object = object(&name, wanted, None);
            ("create", timeout(POD_DEADLINE, objects.create(&parameters, &object)).await)
        }
        Step::Replace(wanted, version) => {
            let object = object(&name, wanted, Some(version.clone()));
            let written = objects.replace(&name.name, &parameters, &object);
            ("update", timeout(POD_DEADLINE, written).await)
        }
        Step::Delete(uid) => {
            let deleted = timeout(POD_DEADLINE, objects.delete(&name.name, &delete(uid))).await;
            let outcome = match deleted {
                Ok(Ok(_)) => Outcome::Deleted,
                Ok(Err(error)) => failed("delete", &name, &error),
                Err(_) => late(&name),
            };
            sleep(PACE).await;
            return (name, outcome);
        }
    };
    let outcome = match written {
        Ok(Ok(object)) => Outcome::Written(read(object.metadata).1),
        Ok(Err(error)) => failed(verb, &name, &error),
        Err(_) => late(&name),
    };
    sleep(PACE).await;
    (name, outcome)
}

fn failed(verb: &'static str, name: &ObjectName, error: &kube::Error) -> Outcome {
    if is_not_found(error) && verb != "create" {
        return Outcome::Deleted;
    }
    // The watch brings what is there instead; a namespace that ends takes the pod with it.
    if !is_conflict(error) && !is_ending_namespace(error) {
        report(ask(verb, GROUP, RESOURCE), &name.to_string(), error);
    }
    Outcome::Failed
}

fn late(name: &ObjectName) -> Outcome {
    tracing::warn!(object = %name, reason = "Timeout", "no answer about an AzureAssignedIdentity");
    Outcome::Failed
}
