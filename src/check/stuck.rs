//! Why a pod's container does not run, as the kubelet and the scheduler say it.

use serde_json::Value;

use super::facts::text;

/// What the kubelet waits for when an image cannot be had, each time in another word.
const NO_IMAGE: [&str; 5] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
];

/// What it waits for after a container has ended.
const ENDED: &str = "CrashLoopBackOff";

/// What it waits for after a container could not be made.
const NOT_MADE: [&str; 3] =
    ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"];

/// Why a container does not run, and what mends it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    pub message: String,
    pub remedy: String,
    /// Whether it is an image that cannot be had.
    pub lacks_image: bool,
}

/// Of one container of a pod, or of whichever is stuck; `None` where the pod runs, or is on its way.
pub(super) fn stuck(pod: &Value, container: Option<&str>) -> Option<Stuck> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let all = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let mut all = all.filter(|one| container.is_none_or(|wanted| text(one, "/name") == wanted));
    let of_container = all.find_map(|one| {
        let (container, reason) = (text(one, "/name"), text(one, "/state/waiting/reason"));
        let lacks_image = NO_IMAGE.contains(&reason);
        let remedy = if lacks_image {
            "name an image that the nodes can pull, with its registry, and the pull secrets that \
             the registry wants"
                .to_owned()
        } else if reason == ENDED {
            format!("kubectl -n {namespace} logs {name} -c {container} --previous")
        } else if NOT_MADE.contains(&reason) {
            "mend what the message names".to_owned()
        } else {
            return None;
        };
        let image = text(one, "/image");
        // What it said last tells more than that the kubelet waits.
        let last = text(one, "/lastState/terminated/message").trim_end();
        let said = if last.is_empty() { text(one, "/state/waiting/message") } else { last };
        let message =
            format!("container {container} ({image}) of pod {namespace}/{name}: {reason}: {said}");
        Some(Stuck { message, remedy, lacks_image })
    });
    of_container.or_else(|| unscheduled(pod))
}

/// A pod that no node takes.
fn unscheduled(pod: &Value) -> Option<Stuck> {
    let conditions = pod.pointer("/status/conditions")?.as_array()?;
    let condition = conditions.iter().find(|one| {
        text(one, "/type") == "PodScheduled" && text(one, "/reason") == "Unschedulable"
    })?;
    Some(Stuck {
        message: format!(
            "no node takes pod {}/{}: {}",
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name"),
            text(condition, "/message")
        ),
        remedy: "give it room, or mend its node selector, tolerations and affinity".to_owned(),
        lacks_image: false,
    })
}

/// A Deployment that can make no pods: Pod Security, a quota or a webhook refuses them.
pub(super) fn podless(deployment: &Value) -> Option<Stuck> {
    let conditions = deployment.pointer("/status/conditions")?.as_array()?;
    let condition = conditions
        .iter()
        .find(|one| text(one, "/type") == "ReplicaFailure" && text(one, "/status") == "True")?;
    Some(Stuck {
        message: format!("its pods are refused: {}", text(condition, "/message")),
        remedy: "mend what the message names: Pod Security of the namespace, a quota, or a policy"
            .to_owned(),
        lacks_image: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(reason: &str) -> Value {
        json!({
            "metadata": {"namespace": "web", "name": "app-1"},
            "status": {
                "initContainerStatuses": [{"name": "imdslet", "image": "r/sidecar:1",
                    "state": {"waiting": {"reason": reason, "message": "what it says"}}}],
                "containerStatuses": [{"name": "app", "image": "app:1",
                    "state": {"waiting": {"reason": "PodInitializing"}}}],
            },
        })
    }

    #[test]
    fn what_keeps_a_container_from_running_is_said_with_what_mends_it() {
        for (reason, remedy) in [
            ("ImagePullBackOff", "an image that the nodes can pull"),
            ("ErrImageNeverPull", "an image that the nodes can pull"),
            ("CrashLoopBackOff", "kubectl -n web logs app-1 -c imdslet --previous"),
            ("CreateContainerConfigError", "what the message names"),
        ] {
            let found = stuck(&pod(reason), Some("imdslet")).unwrap();
            let message =
                format!("container imdslet (r/sidecar:1) of pod web/app-1: {reason}: what it says");
            assert_eq!(found.message, message);
            assert!(found.remedy.contains(remedy), "{reason}: {}", found.remedy);
            assert_eq!(stuck(&pod(reason), None), Some(found));
            assert_eq!(stuck(&pod(reason), Some("app")), None);
        }
        let mut ended = pod("CrashLoopBackOff");
        ended["status"]["initContainerStatuses"][0]["lastState"] =
            json!({"terminated": {"message": "--scope is `all`\n"}});
        let found = stuck(&ended, None).unwrap();
        assert!(found.message.ends_with(": CrashLoopBackOff: --scope is `all`"), "{found:?}");
        // On its way.
        assert_eq!(stuck(&pod("PodInitializing"), None), None);
        assert_eq!(stuck(&json!({}), None), None);
    }

    #[test]
    fn a_pod_without_a_node_and_a_deployment_without_pods_are_said_too() {
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"metadata": {"namespace": "n", "name": "p"}, "status": {"conditions": [
                {"type": kind, "status": status, "reason": reason, "message": "what it says"}]}})
        };
        let found = stuck(&condition("PodScheduled", "False", "Unschedulable"), None).unwrap();
        assert_eq!(found.message, "no node takes pod n/p: what it says");
        // A gate of somebody's holds it, as somebody wants it.
        assert_eq!(stuck(&condition("PodScheduled", "False", "SchedulingGated"), None), None);
        let found = podless(&condition("ReplicaFailure", "True", "FailedCreate")).unwrap();
        assert_eq!(found.message, "its pods are refused: what it says");
        assert_eq!(podless(&condition("ReplicaFailure", "False", "FailedCreate")), None);
    }
}
