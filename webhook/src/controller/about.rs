//! What an Event is about, and under which name and uid a person looks for it.

use std::borrow::Cow;

use imdslet_core::names::GROUP;
use imdslet_core::objects::{Kind, ObjectName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Error};
use tokio::time::timeout;

use super::access::{ask, report};
use crate::config::POD_DEADLINE;
use crate::problem::Ask;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    pub(super) api_version: Cow<'static, str>,
    pub(super) kind: Cow<'static, str>,
    pub(super) name: ObjectName,
    /// Where it is not known, `kubectl describe` does not find the Event, `kubectl get events` does.
    pub(super) uid: Option<String>,
}

impl About {
    /// A pod.
    pub(super) fn pod(name: &ObjectName, uid: &str) -> Self {
        let (api_version, kind) = ("v1".into(), "Pod".into());
        Self { api_version, kind, name: name.clone(), uid: Some(uid.to_owned()) }
    }

    /// One of our custom resources. The index has no uids: ten thousand of them for the few that are
    /// ever needed.
    pub(super) fn resource(kind: Kind, name: &ObjectName) -> Self {
        let api_version = format!("{GROUP}/v1").into();
        Self { api_version, kind: kind.name().into(), name: name.clone(), uid: None }
    }

    /// What made an object of `namespace`, by its references.
    pub(super) fn maker(namespace: &str, references: &[OwnerReference]) -> Option<Self> {
        let mut references = references.iter();
        let maker = references.find(|reference| reference.controller == Some(true))?;
        Some(Self {
            api_version: maker.api_version.clone().into(),
            kind: maker.kind.clone().into(),
            name: ObjectName::new(namespace, &*maker.name),
            uid: Some(maker.uid.clone()),
        })
    }

    /// Whether it is itself made by something that a person looks at instead.
    fn is_made(&self) -> bool {
        matches!((&*self.api_version, &*self.kind), ("apps/v1", "ReplicaSet") | ("batch/v1", "Job"))
    }
}

/// Where a person looks for what is said about something: at the Deployment instead of its
/// ReplicaSet, and at a custom resource by its uid. `None`: it is gone.
pub(super) async fn place(client: &Client, about: About) -> Option<About> {
    let is_ours = about.uid.is_none() && about.api_version.starts_with(GROUP);
    if !is_ours && !about.is_made() {
        return Some(about);
    }
    let verb = if is_ours { "list" } else { "get" };
    let (ask, resource) = asked(verb, &about)?;
    let objects: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &about.name.namespace, &resource);
    let found = timeout(POD_DEADLINE, look(&objects, &about.name.name, is_ours)).await;
    match found {
        Ok(Ok(None)) => None,
        Ok(Ok(Some(found))) if is_ours => Some(About { uid: found.metadata.uid, ..about }),
        Ok(Ok(Some(found))) => {
            let references = found.metadata.owner_references.unwrap_or_default();
            let maker = About::maker(&about.name.namespace, &references);
            Some(maker.unwrap_or(about))
        }
        // Better said in a place where it is harder to find than not at all.
        Ok(Err(error)) => {
            report(ask, &about.name.to_string(), &error);
            Some(about)
        }
        Err(_) => Some(about),
    }
}

/// Our resources may be listed and not fetched: a list of one is as good.
async fn look(
    objects: &Api<DynamicObject>,
    name: &str,
    by_list: bool,
) -> Result<Option<PartialObjectMeta<DynamicObject>>, Error> {
    if !by_list {
        return objects.get_metadata_opt(name).await;
    }
    let parameters = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(objects.list_metadata(&parameters).await?.items.into_iter().next())
}

fn asked(verb: &'static str, about: &About) -> Option<(Ask, ApiResource)> {
    let (group, plural) = match &*about.kind {
        "ReplicaSet" => ("apps", "replicasets"),
        "Job" => ("batch", "jobs"),
        "AzureIdentity" => (GROUP, "azureidentities"),
        "AzureIdentityBinding" => (GROUP, "azureidentitybindings"),
        "AzurePodIdentityException" => (GROUP, "azurepodidentityexceptions"),
        _ => return None,
    };
    let resource = ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: about.api_version.clone().into_owned(),
        kind: about.kind.clone().into_owned(),
        plural: plural.to_owned(),
    };
    Some((ask(verb, group, plural), resource))
}
