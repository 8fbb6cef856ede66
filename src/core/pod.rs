//! The few fields of a pod that a decision needs, read from its raw JSON.
//!
//! A pod is never re-encoded: what stands here is read, everything else is not even looked at, so
//! that a field this release has never heard of survives.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::names::{ADDRESS_CONTAINER, POD_LABEL, SIDECAR};
use crate::text::Text;
use windows::Affinity;

mod windows;

/// A pod, or the pod template of a workload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView<'a> {
    #[serde(borrow, default)]
    pub(crate) metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    pub(crate) spec: Option<Spec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) generate_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) labels: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
    #[serde(borrow, default)]
    pub(crate) annotations: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec<'a> {
    #[serde(borrow, default)]
    pub(crate) containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    pub(crate) init_containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    pub(crate) ephemeral_containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    pub(crate) volumes: Option<Vec<Volume<'a>>>,
    #[serde(borrow, default)]
    pub(crate) image_pull_secrets: Option<Vec<Named<'a>>>,
    #[serde(default)]
    pub(crate) host_network: Option<bool>,
    #[serde(borrow, default)]
    pub(crate) os: Option<Named<'a>>,
    #[serde(borrow, default)]
    pub(crate) node_selector: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
    #[serde(borrow, default)]
    pub(crate) affinity: Option<Affinity<'a>>,
    #[serde(borrow, default)]
    pub(crate) security_context: Option<PodSecurityContext<'a>>,
    /// Pod-level resources (Kubernetes 1.32).
    #[serde(borrow, default)]
    pub(crate) resources: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) args: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    pub(crate) env: Option<Vec<EnvVar<'a>>>,
    #[serde(borrow, default)]
    pub(crate) env_from: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    pub(crate) ports: Option<Vec<Port>>,
    #[serde(borrow, default)]
    pub(crate) resources: Option<Resources<'a>>,
    #[serde(borrow, default)]
    pub(crate) volume_mounts: Option<Vec<Named<'a>>>,
    /// Looked at only where the container is ours.
    #[serde(default)]
    pub(crate) startup_probe: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvVar<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) value: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) value_from: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Port {
    #[serde(default)]
    pub(crate) container_port: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Volume<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Text<'a>,
    /// Looked into only where the volume is ours.
    #[serde(borrow, default)]
    pub(crate) projected: Option<&'a RawValue>,
    /// An ephemeral volume of a CSI driver.
    #[serde(borrow, default)]
    pub(crate) csi: Option<&'a RawValue>,
}

/// Anything whose name alone is read: mounts, the operating system.
#[derive(Debug, Deserialize)]
pub(crate) struct Named<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Resources<'a> {
    #[serde(borrow, default)]
    pub(crate) limits: Option<BTreeMap<Text<'a>, Option<&'a RawValue>>>,
    #[serde(borrow, default)]
    pub(crate) requests: Option<BTreeMap<Text<'a>, Option<&'a RawValue>>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PodSecurityContext<'a> {
    #[serde(borrow, default)]
    pub(crate) sysctls: Option<Vec<Sysctl<'a>>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Sysctl<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) value: Text<'a>,
}

/// Whether a pod that cannot be read has opted in.
#[derive(Deserialize)]
struct Opting<'a> {
    #[serde(borrow, default)]
    metadata: Option<Labelled<'a>>,
}

#[derive(Deserialize)]
struct Labelled<'a> {
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Text<'a>, &'a RawValue>>,
}

impl Opting<'_> {
    fn has_opted_in(&self) -> bool {
        let labels = self.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        let value = labels.and_then(|labels| labels.get(POD_LABEL)).map(|value| value.get());
        !matches!(value, None | Some("null" | "\"\""))
    }
}

/// Why a text is no pod: where and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the pod at `{path}`: {cause}")]
pub struct Unreadable {
    /// Path of the field, as far as the reader came.
    pub path: String,
    /// What the reader found there.
    pub cause: String,
}

/// Which list of the pod a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Containers,
    InitContainers,
    EphemeralContainers,
}

impl List {
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::EphemeralContainers => "ephemeralContainers",
        }
    }
}

impl<'a> PodView<'a> {
    /// Reads a pod from its JSON if it has opted in. Any other is never refused for what stands in
    /// it.
    ///
    /// # Errors
    ///
    /// As [`PodView::read`].
    pub fn opted_in(json: &'a str) -> Result<Option<Self>, Unreadable> {
        match Self::read(json) {
            Ok(pod) => Ok(pod.selector().is_some().then_some(pod)),
            Err(error) => match serde_json::from_str::<Opting<'_>>(json) {
                Ok(pod) if !pod.has_opted_in() => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Reads a pod from its JSON.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] if the text is no JSON, or a field that is read has the wrong type.
    pub fn read(json: &'a str) -> Result<Self, Unreadable> {
        // The path costs time to keep, so it is looked for only once something is wrong.
        serde_json::from_str(json).map_err(|first| {
            let mut reader = serde_json::Deserializer::from_str(json);
            match serde_path_to_error::deserialize::<_, PodView<'_>>(&mut reader) {
                Err(error) => {
                    Unreadable { path: error.path().to_string(), cause: cause(error.inner()) }
                }
                // What follows the object, such as a second one.
                Ok(_) => Unreadable { path: ".".to_owned(), cause: cause(&first) },
            }
        })
    }

    /// The value of the label that opts in, unless it is empty.
    #[must_use]
    pub fn selector(&self) -> Option<&str> {
        self.label(POD_LABEL).filter(|value| !value.is_empty())
    }

    /// The pod's name, or the prefix of the name that the API server will make.
    #[must_use]
    pub fn name(&self) -> &str {
        let metadata = self.metadata.as_ref();
        let name = metadata.and_then(|metadata| {
            metadata
                .name
                .as_deref()
                .filter(|name| !name.is_empty())
                .or(metadata.generate_name.as_deref())
        });
        name.unwrap_or("(unnamed)")
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.labels.as_ref()?.get(key)?.as_deref()
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.annotations.as_ref()?.get(key)?.as_deref()
    }

    pub(crate) fn annotation_keys(&self) -> impl Iterator<Item = &str> {
        let annotations = self.metadata.as_ref().and_then(|m| m.annotations.as_ref());
        annotations.into_iter().flat_map(|annotations| annotations.keys().map(|key| &**key))
    }

    /// The containers of one list.
    pub(crate) fn list(&self, list: List) -> &[Container<'a>] {
        let Some(spec) = &self.spec else { return &[] };
        let containers = match list {
            List::Containers => &spec.containers,
            List::InitContainers => &spec.init_containers,
            List::EphemeralContainers => &spec.ephemeral_containers,
        };
        containers.as_deref().unwrap_or_default()
    }

    /// Containers and init containers, each with its place.
    pub(crate) fn places(&self) -> impl Iterator<Item = (List, usize, &Container<'a>)> {
        [List::InitContainers, List::Containers]
            .into_iter()
            .flat_map(|list| self.list(list).iter().enumerate().map(move |(at, c)| (list, at, c)))
    }

    /// The pod's containers and init containers but for those of ours.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = (List, usize, &Container<'a>)> {
        self.places().filter(|(_, _, container)| {
            *container.name != *SIDECAR && *container.name != *ADDRESS_CONTAINER
        })
    }

    pub(crate) fn volumes(&self) -> &[Volume<'a>] {
        self.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
    }

    pub(crate) fn is_host_network(&self) -> bool {
        self.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
    }
}

impl Container<'_> {
    /// Whether the container says that it listens on `port`.
    pub(crate) fn declares(&self, port: u16) -> bool {
        let mut own = self.ports.iter().flatten();
        own.any(|own| own.container_port == Some(port.into()))
    }

    /// Whether the container is a sidecar that we injected.
    pub(crate) fn is_ours(&self) -> bool {
        *self.name == *SIDECAR && self.begins_with("serve")
    }

    /// Whether the container is the init container of link-local mode.
    pub(crate) fn adds_the_address(&self) -> bool {
        *self.name == *ADDRESS_CONTAINER && self.begins_with("address")
    }

    fn begins_with(&self, command: &str) -> bool {
        let first = self.args.as_ref().and_then(|args| args.first());
        first.is_some_and(|first| **first == *command)
    }

    /// Whether the container mounts this volume.
    pub(crate) fn mounts(&self, volume: &str) -> bool {
        self.volume_mounts.iter().flatten().any(|mount| *mount.name == *volume)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&EnvVar<'_>> {
        // The last one of a name is what the container sees.
        self.env.as_ref()?.iter().rfind(|variable| *variable.name == *name)
    }
}

/// serde_json's words without the place: it is one in a text that nobody has seen.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let cause = text.split(" at line ").next().unwrap_or_default();
    // Usually a number or boolean of YAML, in a label or an annotation.
    let hint = if cause.ends_with("expected a string") { "; write it in quotes" } else { "" };
    format!("{cause}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        let metadata = r#""metadata":{"labels":{"aadpodidbinding":"db"}}"#;
        let pod = format!(r#"{{{metadata},"spec":{{"containers":[{{"name":"a","env":{{}}}}]}}}}"#);
        let error = PodView::opted_in(&pod).err().unwrap();
        assert_eq!(error.path, "spec.containers[0].env");
        assert_eq!(error.cause, "invalid type: map, expected a sequence");
        // Without the label nobody looks.
        let pod = pod.replace("aadpodidbinding", "app");
        assert!(PodView::opted_in(&pod).unwrap().is_none());
    }

    #[test]
    fn nulls_are_absences() {
        let pod = PodView::read(
            r#"{"metadata":{"labels":{"aadpodidbinding":"db","x":null},"name":null,
                "annotations":null},"spec":{"containers":null,"volumes":null,"nodeSelector":null}}"#,
        )
        .unwrap();
        assert_eq!(pod.name(), "(unnamed)");
        assert_eq!(pod.places().count(), 0);
    }

    #[test]
    fn an_empty_label_opts_nobody_in() {
        let read = |json| PodView::read(json).unwrap().selector().map(str::to_owned);
        assert_eq!(read(r#"{"metadata":{"labels":{"aadpodidbinding":""}}}"#), None);
        assert_eq!(read(r#"{"metadata":{"labels":{"aadpodidbinding":"a"}}}"#), Some("a".into()));
        for labels in ["{}", r#"{"aadpodidbinding":""}"#, r#"{"aadpodidbinding":null}"#] {
            let pod = format!(r#"{{"metadata":{{"labels":{labels}}},"spec":7}}"#);
            assert!(PodView::opted_in(&pod).unwrap().is_none(), "{labels}");
        }
    }
}
