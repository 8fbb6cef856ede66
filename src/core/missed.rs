//! Labelled pods that have no sidecar, and what their owner should know.

use crate::index::Index;
use crate::pod::PodView;
use crate::warning::Warning;

/// Why a running pod with the label has no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missed {
    /// It shares the node's loopback.
    #[error("{}", Warning::HostNetwork)]
    HostNetwork,
    /// There is no sidecar for Windows.
    #[error("{}", Warning::Windows)]
    Windows,
    /// Nothing is in the way: it was not asked about, or had no label then.
    #[error(
        "this pod has the label aadpodidbinding and no imdslet container: it was created before \
         imdslet was installed or while its webhook was away, or got the label later; recreate the \
         pod (kubectl rollout restart its workload) to give it identities, or remove the label"
    )]
    Late,
}

impl Missed {
    /// The reason of the Event.
    pub const REASON: &'static str = "NotInjected";
}

/// Why the pod of `namespace` has no sidecar; `None` if it is meant to have none.
#[must_use]
pub fn missed(json: &str, namespace: &str, index: &Index) -> Option<Missed> {
    let pod = PodView::read(json).ok()?;
    let is_disabled = index.namespace(namespace).is_some_and(|settings| settings.is_disabled);
    if pod.selector().is_none() || is_disabled || index.exception(namespace, &pod).is_some() {
        return None;
    }
    Some(if pod.is_windows() {
        Missed::Windows
    } else if pod.is_host_network() {
        Missed::HostNetwork
    } else {
        Missed::Late
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::Object;

    #[test]
    fn who_should_have_a_sidecar_and_has_none_is_told_why() {
        let index: Index = [
            json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzurePodIdentityException",
                "metadata": {"name": "e", "namespace": "web"},
                "spec": {"podLabels": {"app": "mic"}}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata":
                {"name": "off", "labels": {"imdslet.dev/injection": "disabled"}}}),
        ]
        .iter()
        .map(|value| Object::read(value, "").unwrap().unwrap())
        .collect();
        let labels = json!({"aadpodidbinding": "db"});
        let pod =
            |labels: &Value, spec: &Value| json!({"metadata": {"labels": labels}, "spec": spec});
        let excepted = json!({"aadpodidbinding": "db", "app": "mic"});
        for (namespace, pod, expected) in [
            ("web", pod(&labels, &json!({})), Some(Missed::Late)),
            ("web", pod(&labels, &json!({"hostNetwork": true})), Some(Missed::HostNetwork)),
            ("web", pod(&labels, &json!({"os": {"name": "windows"}})), Some(Missed::Windows)),
            ("web", pod(&excepted, &json!({})), None),
            ("off", pod(&labels, &json!({})), None),
            ("web", pod(&json!({}), &json!({})), None),
        ] {
            assert_eq!(missed(&pod.to_string(), namespace, &index), expected, "{pod}");
        }
        assert!(Missed::Late.to_string().contains("recreate the pod"));
    }
}
