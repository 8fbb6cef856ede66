//! Follows a workload down to its tokens: its pods, and what their sidecars say.

use http::{Method, StatusCode};
use imdslet_core::names::{DEFAULT_PORT, SIDECAR};
use serde_json::Value;

use super::facts::{Followed, Seen, State, Workload};
use super::gather::seen;
use crate::family::Family;
use crate::live::{Cluster, Kind, message};

const JOBS: Kind = Kind::new("batch", "v1", "jobs", "Job");
const CRONJOBS: Kind = Kind::new("batch", "v1", "cronjobs", "CronJob");

/// How many pods of a workload are followed.
const PODS_OF_EACH: usize = 10;

/// How much of a sidecar's log is read: the last fetches of all its tokens.
const LINES: usize = 500;

pub(super) async fn workload(
    cluster: &Cluster,
    (namespace, name): &(String, String),
    pods: &Seen<Vec<Value>>,
    (workers, unseen): (&[Value], Option<&str>),
) -> Workload {
    let mut makers = workers.to_vec();
    let mut unseen = unseen.map(str::to_owned);
    for kind in [JOBS, CRONJOBS] {
        match seen(cluster.list(&kind).await) {
            Ok(found) => makers.extend(found.unwrap_or_default()),
            Err(why) => unseen = Some(why),
        }
    }
    let found = pods.clone().and_then(|pods| {
        let found = pods_of(&pods, &makers, (namespace, name));
        // It may be a maker that was not seen which has them.
        match unseen {
            Some(why) if found.is_empty() => Err(why),
            _ => Ok(found),
        }
    });
    let pods = match found {
        Err(why) => Err(why),
        Ok(found) => {
            let mut followed = Vec::new();
            for pod in found.into_iter().take(PODS_OF_EACH) {
                followed.push(follow(cluster, pod).await);
            }
            Ok(followed)
        }
    };
    Workload { name: format!("{namespace}/{name}"), pods }
}

/// The pods that run, or are about to, of what is called so; or the one that is.
fn pods_of(pods: &[Value], makers: &[Value], (namespace, name): (&str, &str)) -> Vec<Value> {
    let all: Vec<_> = makers.iter().chain(pods).cloned().collect();
    let family = Family::of_values(&all);
    let is_of_it = |pod: &&Value| {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let own = format!("Pod/{}/{}", text("/metadata/namespace"), text("/metadata/name"));
        let root = family.root(&own);
        let rest = |object: &str| object.split_once('/').map(|(_, rest)| rest.to_owned());
        let meant = Some(format!("{namespace}/{name}"));
        let is_over = matches!(text("/status/phase"), "Succeeded" | "Failed")
            || !text("/metadata/deletionTimestamp").is_empty();
        !is_over && (rest(&own) == meant || rest(&root) == meant)
    };
    pods.iter().filter(is_of_it).cloned().collect()
}

/// Asks the sidecar for its state, and reads its log where that does not say everything.
async fn follow(cluster: &Cluster, pod: Value) -> Followed {
    let Some(port) = port(&pod) else {
        return Followed { pod, state: Err("it has no sidecar".to_owned()), log: None };
    };
    let state = state(cluster, &pod, port).await;
    let log = match &state {
        Ok(state) if state.is_fine() => None,
        // The words of a failure, or all that there is.
        _ => Some(log(cluster, &pod).await),
    };
    Followed { pod, state, log }
}

async fn state(cluster: &Cluster, pod: &Value, port: u16) -> Seen<State> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = (text("/metadata/namespace"), text("/metadata/name"));
    let state = cluster.ask_pod(name, port, "/state").await;
    let state = state.map_err(|error| error.to_string())?;
    serde_json::from_value(state).map_err(|error| format!("its /state is of another kind: {error}"))
}

/// Where its sidecar listens; none if it has no sidecar.
fn port(pod: &Value) -> Option<u16> {
    let lists = ["/spec/initContainers", "/spec/containers"];
    let mut all = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let sidecar = all.find(|one| one.get("name").and_then(Value::as_str) == Some(SIDECAR))?;
    let args = sidecar.get("args").and_then(Value::as_array).into_iter().flatten();
    let mut ports = args.filter_map(|arg| arg.as_str()?.strip_prefix("--port=")?.parse().ok());
    Some(ports.next().unwrap_or(DEFAULT_PORT))
}

async fn log(cluster: &Cluster, pod: &Value) -> Seen<String> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let path = format!(
        "api/v1/namespaces/{}/pods/{}/log?container=imdslet&tailLines={LINES}",
        text("/metadata/namespace"),
        text("/metadata/name")
    );
    let (status, answer) = seen(cluster.ask(Method::GET, &path, None).await)?;
    match (status, answer) {
        // One line of JSON is read as such.
        (StatusCode::OK, Value::String(text)) => Ok(text),
        (StatusCode::OK, value) => Ok(value.to_string()),
        (_, value) => Err(format!("the sidecar's log: {}", message(&value))),
    }
}
