//! The labelled pods of the cluster, as a stream. Each is read once into the little that decides
//! about it.

use futures::{Stream, StreamExt};
use imdslet_core::csi::PodUse;
use imdslet_core::names::POD_LABEL;
use imdslet_core::objects::ObjectName;
use imdslet_core::running::{LeaveAlone, RunningPod};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client, ResourceExt};

use super::about::About;
use super::access::ask;
use crate::config::WATCH_LIFE;
use crate::problem::Problem;

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

/// Watches the labelled pods of all namespaces, for ever: what fails is named and tried again.
pub(super) fn watch(client: &Client) -> impl Stream<Item = News> + Send + use<> {
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
                report(&error);
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
fn report(error: &Error) {
    let problem = Problem::of_watch(ask("watch", "", "pods"), error);
    let reason = problem.reason();
    tracing::warn!(resource = "pods", reason, %problem, "watch failed");
}
