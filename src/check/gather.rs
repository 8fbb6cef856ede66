//! Looks at a cluster. Nothing is written: the one pod that is created is a dry run.

use http::{Method, StatusCode};
use imdslet_core::index::{Change, Index};
use imdslet_core::objects::Object;
use serde_json::{Value, json};

use super::Wanted;
use super::facts::{Facts, Issuer, Key, Outside, Rehearsal, Seen, text};
use super::follow::workload;
use super::rights::INSTALL;
use crate::https::Client;
use crate::live::{
    BINDINGS, Cluster, EXCEPTIONS, IDENTITIES, Kind, LiveError, NAMESPACES, home, message,
};

const DEPLOYMENTS: Kind = Kind::new("apps", "v1", "deployments", "Deployment");
const DAEMONSETS: Kind = Kind::new("apps", "v1", "daemonsets", "DaemonSet");
const STATEFULSETS: Kind = Kind::new("apps", "v1", "statefulsets", "StatefulSet");
const POLICIES: Kind = Kind::new("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy");
const PODS: Kind = Kind::new("", "v1", "pods", "Pod");
const DEFINITIONS: Kind = Kind::new(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
);

/// The label of everything that the installation brings.
const PART_OF: &str = "/metadata/labels/app.kubernetes.io~1part-of";

/// Looks at everything. `web` asks what stands outside of the cluster.
///
/// # Errors
///
/// [`LiveError`], where the API server does not answer at all.
pub async fn gather(
    cluster: &Cluster,
    web: &Client,
    wanted: &Wanted,
    now: i64,
) -> Result<Facts, LiveError> {
    let version = version(cluster).await?;
    let webhook = seen(cluster.webhook().await);
    let namespace = home(webhook.as_ref().ok().and_then(Option::as_ref)).to_owned();
    let lease =
        format!("apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/imdslet-controller");
    let (workers, unseen) = workers(cluster).await;
    let pods = seen(cluster.list(&PODS).await).map(Option::unwrap_or_default);
    let mut workloads = Vec::new();
    for target in &wanted.workloads {
        workloads.push(workload(cluster, target, &pods, (&workers, unseen.as_deref())).await);
    }
    Ok(Facts {
        now,
        version,
        definitions: seen(cluster.list(&DEFINITIONS).await).map(Option::unwrap_or_default),
        missing_rights: missing_rights(cluster).await,
        issuer: issuer(cluster, web).await,
        identities: seen(cluster.list(&IDENTITIES).await).map(Option::unwrap_or_default),
        bindings: seen(cluster.list(&BINDINGS).await).map(Option::unwrap_or_default),
        network_policies: seen(cluster.list(&POLICIES).await).map(Option::unwrap_or_default),
        workers: unseen.map_or(Ok(workers), Err),
        lease: seen(cluster.get(&lease).await),
        index: left_alone(cluster).await,
        own_pods: own(&pods, &namespace),
        settings: seen(cluster.settings(&namespace).await),
        webhook,
        namespace,
        rehearsal: rehearse(cluster, &wanted.namespace).await,
        pods: pods.map(|pods| pods.into_iter().filter(is_labelled).collect()),
        workloads,
    })
}

async fn version(cluster: &Cluster) -> Result<Seen<String>, LiveError> {
    let (status, version) = cluster.ask(Method::GET, "version", None).await?;
    Ok(match version.get("gitVersion").and_then(Value::as_str) {
        Some(version) if status == StatusCode::OK => Ok(version.to_owned()),
        _ => Err(message(&version).to_owned()),
    })
}

/// What makes pods that go on, as far as it can be seen, and why the rest cannot.
async fn workers(cluster: &Cluster) -> (Vec<Value>, Option<String>) {
    let mut workers = Vec::new();
    let mut unseen = None;
    for kind in [DEPLOYMENTS, DAEMONSETS, STATEFULSETS] {
        match seen(cluster.list(&kind).await) {
            Ok(found) => workers.extend(found.unwrap_or_default()),
            Err(why) => unseen = Some(why),
        }
    }
    (workers, unseen)
}

/// The pods of imdslet itself, which is in this namespace.
fn own(pods: &Seen<Vec<Value>>, namespace: &str) -> Seen<Vec<Value>> {
    let is_own = |pod: &&Value| {
        text(pod, "/metadata/namespace") == namespace && text(pod, PART_OF) == "imdslet"
    };
    let pods = pods.as_ref().map_err(Clone::clone)?;
    Ok(pods.iter().filter(is_own).cloned().collect())
}

fn is_labelled(pod: &Value) -> bool {
    !text(pod, "/metadata/labels/aadpodidbinding").is_empty()
}

pub(super) fn seen<T>(found: Result<T, LiveError>) -> Seen<T> {
    found.map_err(|error| match error {
        LiveError::Forbidden(missing) => {
            let missing: Vec<_> = missing.into_iter().collect();
            format!(
                "you may not {}; imdslet check --rbac prints the rights",
                missing.join("; not ")
            )
        }
        error => error.to_string(),
    })
}

/// The namespaces and exceptions that say who is to be left alone.
async fn left_alone(cluster: &Cluster) -> Seen<Index> {
    let mut index = Index::default();
    for kind in [NAMESPACES, EXCEPTIONS] {
        for value in seen(cluster.list(&kind).await)?.unwrap_or_default() {
            if let Ok(Some(object)) = Object::read(&value, "default") {
                index.apply(Change::Applied(Box::new(object)));
            }
        }
    }
    Ok(index)
}

async fn missing_rights(cluster: &Cluster) -> Seen<Vec<String>> {
    let mut missing = Vec::new();
    for (group, resource) in INSTALL {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"group": group, "resource": resource, "verb": "create"}},
        });
        let path = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let (status, answer) = seen(cluster.ask(Method::POST, path, Some(&review)).await)?;
        match answer.pointer("/status/allowed").and_then(Value::as_bool) {
            Some(true) => {}
            Some(false) if group.is_empty() => missing.push(format!("create {resource}")),
            Some(false) => missing.push(format!("create {resource}.{group}")),
            None => return Err(format!("/{path}: {status}: {}", message(&answer))),
        }
    }
    Ok(missing)
}

async fn issuer(cluster: &Cluster, web: &Client) -> Seen<Issuer> {
    let url = seen(cluster.issuer().await)?;
    let keys = seen(cluster.get("openid/v1/jwks").await)?;
    let keys = Key::all(&keys.unwrap_or_default());
    let outside = published(web, &url).await;
    Ok(Issuer { url, keys, outside })
}

/// What stands at an issuer's URL, read as Entra ID reads it.
async fn published(web: &Client, url: &str) -> Outside {
    let read = async |url: &str| {
        let answer = web.get(url).await.map_err(|error| Outside::Unreachable(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(Outside::Wrong(format!("{url} answers {}", answer.status())));
        }
        serde_json::from_slice::<Value>(answer.body())
            .map_err(|error| Outside::Wrong(format!("{url} answers no JSON: {error}")))
    };
    let base = url.trim_end_matches('/');
    let document = match read(&format!("{base}/.well-known/openid-configuration")).await {
        Ok(document) => document,
        Err(outside) => return outside,
    };
    let said = document.get("issuer").and_then(Value::as_str).unwrap_or_default();
    if said != url {
        return Outside::Wrong(format!("its document says that the issuer is `{said}`"));
    }
    let keys = document.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
    match read(keys).await {
        Ok(keys) => Outside::Keys(Key::all(&keys)),
        Err(outside) => outside,
    }
}

/// Creates a labelled pod for a moment of thought.
async fn rehearse(cluster: &Cluster, namespace: &str) -> Seen<Rehearsal> {
    let context = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "imdslet-check-", "labels": {"aadpodidbinding": "imdslet-check"}},
        "spec": {"containers": [{"name": "app", "image": "app:1", "securityContext": context,
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}}}]},
    });
    let path = format!("api/v1/namespaces/{namespace}/pods?dryRun=All");
    let (status, answer) = seen(cluster.ask(Method::POST, &path, Some(&pod)).await)?;
    Ok(Rehearsal { namespace: namespace.to_owned(), status: status.as_u16(), answer })
}
