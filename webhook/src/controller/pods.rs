//! The labelled pods of the cluster, as a stream, and what is written into them. Each is read once into
//! the little that decides about it.

use std::time::Duration;

use futures::stream::{iter, once, select};
use futures::{Stream, StreamExt};
use imdslet_core::contract::PodIdentities;
use imdslet_core::csi::PodUse;
use imdslet_core::names::{IDENTITIES, POD_LABEL};
use imdslet_core::objects::ObjectName;
use imdslet_core::running::{LeaveAlone, RunningPod};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::NAME;
use super::about::About;
use super::access::{ask, is_conflict, is_not_found, report};
use super::ledger::{Outcome, Write};
use super::waits::{doubled, spread};
use crate::config::{LIST_DEADLINE, WATCH_LIFE};
use crate::problem::Problem;

/// How many pods are listed at one time.
const PAGE: u32 = 500;

/// How long after a failed search for strays the next one follows; then twice that time, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(5);

/// What the API server says about the pods.
#[derive(Debug)]
pub(super) enum News {
    /// All of them follow.
    Restart,
    /// A pod is like this.
    Is(Box<Seen>),
    /// All of them have been told since [`News::Restart`].
    Complete,
    /// A pod is gone, or has no label any more.
    Gone(ObjectName),
    /// A pod has our annotation and no label. When it has lost that, nobody watched.
    Stray(Box<Seen>),
}

/// A pod as it was at one moment.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: ObjectName,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) pod: Result<RunningPod, LeaveAlone>,
    /// What has made it, if it was not a person.
    pub(super) maker: Option<About>,
    /// All of it, if it has no sidecar: then more decides what its owner is told.
    pub(super) bare: Option<String>,
    /// Its Secrets Store volumes.
    pub(super) used: Option<PodUse>,
}

/// The labelled pods of all namespaces, for ever, and once those that have lost their label.
pub(super) fn all(client: &Client) -> impl Stream<Item = News> + Send + use<> {
    let strays = once(strays(client.clone())).flat_map(iter);
    select(watch(client), strays.map(|stray| News::Stray(Box::new(stray)))).boxed()
}

/// Watches the labelled pods, for ever: what fails is named and tried again.
fn watch(client: &Client) -> impl Stream<Item = News> + Send + use<> {
    let kind = ApiResource::erase::<Pod>(&());
    let pods: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let life = WATCH_LIFE.as_secs().try_into().unwrap_or(u32::MAX);
    let config = Config::default().labels(POD_LABEL).timeout(life);
    let events = watcher(pods, config).default_backoff();
    events.filter_map(|event| async {
        match event {
            Ok(Event::Init) => Some(News::Restart),
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                Some(News::Is(Box::new(seen(object))))
            }
            Ok(Event::InitDone) => Some(News::Complete),
            Ok(Event::Delete(object)) => Some(News::Gone(name_of(&object))),
            Err(error) => {
                report_watch(&error);
                None
            }
        }
    })
}

fn name_of(object: &DynamicObject) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

fn seen(mut object: DynamicObject) -> Seen {
    // Often the larger half of a pod, and nothing in it decides.
    object.metadata.managed_fields = None;
    // An object that was read from JSON can be written as JSON.
    let json = serde_json::to_string(&object).unwrap_or_default();
    let pod = RunningPod::read(&json);
    let name = name_of(&object);
    Seen {
        maker: About::maker(&name.namespace, object.owner_references()),
        name,
        used: PodUse::read(&json),
        bare: matches!(pod, Err(LeaveAlone::NoSidecar)).then_some(json),
        pod,
        uid: object.metadata.uid.unwrap_or_default(),
        resource_version: object.metadata.resource_version.unwrap_or_default(),
    }
}

/// The watcher itself tries again: with a pause, and with a new list where that is needed.
fn report_watch(error: &Error) {
    let problem = Problem::of_watch(ask("watch", "", "pods"), error);
    let reason = problem.reason();
    tracing::warn!(resource = "pods", reason, %problem, "watch failed");
}

/// The pods that have lost their label, and not what they had by it. What fails is tried again: nobody
/// else finds them.
async fn strays(client: Client) -> Vec<Seen> {
    let mut failures = 0;
    loop {
        if let Some(found) = list_strays(&client).await {
            return found;
        }
        failures += 1;
        sleep(spread(doubled(FIRST_RETRY, failures, LAST_RETRY))).await;
    }
}

/// All pods of the cluster are gone through for them, page by page and by their metadata alone.
async fn list_strays(client: &Client) -> Option<Vec<Seen>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut page = ListParams::default().labels(&format!("!{POD_LABEL}")).limit(PAGE);
    let mut names = Vec::new();
    loop {
        let list = listed(pods.list_metadata(&page)).await?;
        let bound = list.items.into_iter().map(|pod| pod.metadata).filter(names_identities);
        names.extend(bound.map(|metadata| {
            ObjectName::new(
                metadata.namespace.unwrap_or_default(),
                metadata.name.unwrap_or_default(),
            )
        }));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => break,
        }
    }
    let mut found = Vec::new();
    let kind = ApiResource::erase::<Pod>(&());
    for name in names {
        let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), &name.namespace, &kind);
        found.extend(listed(pods.list(&one(&name))).await?.items.into_iter().map(seen));
    }
    Some(found)
}

/// A list, unless it fails or takes too long, which is named.
async fn listed<T>(list: impl Future<Output = Result<T, kube::Error>>) -> Option<T> {
    match timeout(LIST_DEADLINE, list).await {
        Ok(Ok(list)) => return Some(list),
        Ok(Err(error)) => report(ask("list", "", "pods"), "", &error),
        Err(_) => tracing::warn!(reason = "Timeout", "no list of the pods without a label"),
    }
    None
}

/// Whether the annotation may say that a pod has an identity.
fn names_identities(metadata: &ObjectMeta) -> bool {
    let annotation = metadata.annotations.as_ref().and_then(|all| all.get(IDENTITIES));
    annotation.is_some_and(|text| {
        serde_json::from_str::<PodIdentities>(text).map_or(true, |told| !told.identities.is_empty())
    })
}

/// A list of this pod: so the right to `get` pods is not needed.
fn one(name: &ObjectName) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={}", name.name))
}

/// Writes the annotation of a pod as it was decided.
pub(super) async fn write(client: &Client, write: &Write) -> Outcome {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &write.pod.namespace);
    let mut resource_version = write.resource_version.clone();
    if write.is_away {
        match look(&pods, write).await {
            Ok(found) => resource_version = found,
            Err(outcome) => return outcome,
        }
    }
    // The API server refuses the patch (409) if the pod is another one, or not any more as it was
    // when this was decided.
    let patch = Patch::Merge(json!({"metadata": {
        "uid": write.uid,
        "resourceVersion": resource_version,
        "annotations": {IDENTITIES: write.change.annotation},
    }}));
    let parameters = PatchParams { field_manager: Some(NAME.to_owned()), ..PatchParams::default() };
    match pods.patch_metadata(&write.pod.name, &parameters, &patch).await {
        Ok(pod) => {
            let annotations = pod.metadata.annotations.as_ref();
            Outcome::Written {
                annotation: annotations.and_then(|all| all.get(IDENTITIES)).cloned(),
                resource_version: pod.metadata.resource_version.unwrap_or_default(),
            }
        }
        Err(error) if is_conflict(&error) => Outcome::Conflict,
        Err(error) if is_not_found(&error) => Outcome::NotFound,
        Err(error) => {
            report(ask("patch", "", "pods"), &write.pod.to_string(), &error);
            Outcome::Failed
        }
    }
}

/// The version of a pod that the watch has lost sight of, if it is there without its label.
async fn look(pods: &Api<Pod>, write: &Write) -> Result<String, Outcome> {
    let found = pods.list_metadata(&one(&write.pod)).await.map_err(|error| {
        report(ask("list", "", "pods"), &write.pod.to_string(), &error);
        Outcome::Failed
    })?;
    let mut found = found.items.into_iter().map(|pod| pod.metadata);
    let is_it = |metadata: &ObjectMeta| metadata.uid.as_deref() == Some(&*write.uid);
    let metadata = found.find(is_it).ok_or(Outcome::NotFound)?;
    let has_label = metadata.labels.is_some_and(|labels| labels.contains_key(POD_LABEL));
    // The watch tells of it again.
    if has_label {
        Err(Outcome::Conflict)
    } else {
        Ok(metadata.resource_version.unwrap_or_default())
    }
}
