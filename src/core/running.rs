//! The little of a running pod that decides what its annotation should say.

use serde::Deserialize;

use crate::contract::{FORMAT, PodIdentities, is_read_by};
use crate::names::{BINDING_TOKEN_FILE, IDENTITIES, MIRROR_POD, SIDECAR, VERSION};
use crate::pod::{Container, List, PodView, Unreadable};
use crate::reserved::own_sidecar;
use crate::settings::Endpoint;
use crate::warning::Hold;

/// A running pod with our sidecar: what decides about it, and nothing else, since a cluster has
/// thousands of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningPod {
    pub(crate) namespace: String,
    /// Its label; empty: it is not opted in any more, and may have nothing.
    pub(crate) selector: String,
    /// What the annotation says; `None` if it cannot be read.
    pub(crate) told: Option<PodIdentities>,
    pub(crate) fittings: Fittings,
    /// Where it runs, once that is decided.
    pub(crate) node: Option<String>,
}

/// What a sidecar got when its pod was created, and keeps for as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fittings {
    /// Whether the other containers wait while there is no identity: only the startup probe of a pod
    /// that was not bound when it was created makes them.
    pub(crate) holds: Hold,
    pub(crate) endpoint: Endpoint,
    /// `--authority-for` of the sidecar.
    pub(crate) authorities: Vec<(String, String)>,
    /// The volumes that the sidecar mounts.
    pub(crate) volumes: Vec<String>,
    pub(crate) has_binding_token: bool,
}

/// Why a pod is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveAlone {
    /// It is no pod that can be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It has no label, or an empty one, and nothing that could be taken from it.
    #[error("it has no label aadpodidbinding")]
    NotOptedIn,
    /// The kubelet's picture of a static pod.
    #[error("it is the mirror of a static pod")]
    MirrorPod,
    /// It has no sidecar that could read the annotation.
    #[error("it has no imdslet container")]
    NoSidecar,
    /// Its containers have ended for good.
    #[error("it has ended")]
    Ended,
    /// It is on its way out. The kubelet does not write its volumes any more (Kubernetes 1.34,
    /// `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go:183`), so what is in
    /// them serves it until its end.
    #[error("it is being deleted")]
    BeingDeleted,
    /// Its sidecar reads a format that this release does not write.
    #[error("its imdslet.dev/version is {found}, and this release writes {FORMAT}", found = .0.as_deref().unwrap_or("absent"))]
    Version(Option<String>),
}

impl LeaveAlone {
    /// Stable name for metrics and logs. Never carries user input.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "Unreadable",
            Self::NotOptedIn => "NotOptedIn",
            Self::MirrorPod => "MirrorPod",
            Self::NoSidecar => "NoSidecar",
            Self::Ended => "Ended",
            Self::BeingDeleted => "BeingDeleted",
            Self::Version(_) => "Version",
        }
    }
}

impl RunningPod {
    /// Reads a pod as the API server has it. One that has lost its label is kept right like any other:
    /// its containers go on, and may have nothing.
    ///
    /// # Errors
    ///
    /// [`LeaveAlone`]: the pod is none that has to be kept right.
    pub fn read(json: &str) -> Result<Self, LeaveAlone> {
        let pod = PodView::read(json)?;
        if pod.annotation(MIRROR_POD).is_some() {
            return Err(LeaveAlone::MirrorPod);
        }
        let rest: Rest = serde_json::from_str(json).map_err(|error| {
            LeaveAlone::Unreadable(Unreadable { path: ".".to_owned(), cause: error.to_string() })
        })?;
        if matches!(rest.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Err(LeaveAlone::Ended);
        }
        if rest.metadata.deletion_timestamp.is_some() {
            return Err(LeaveAlone::BeingDeleted);
        }
        let selector = pod.selector().unwrap_or_default();
        // Nobody is told of what a pod lacks that wants nothing.
        let lacks = |what| if selector.is_empty() { LeaveAlone::NotOptedIn } else { what };
        // A container of that name that is not ours is as good as none.
        let own = own_sidecar(&pod).ok().flatten();
        let (list, _, sidecar) = own.ok_or_else(|| lacks(LeaveAlone::NoSidecar))?;
        let version = pod.annotation(VERSION);
        if !version.is_some_and(is_read_by) {
            return Err(lacks(LeaveAlone::Version(version.map(str::to_owned))));
        }
        Ok(Self {
            selector: selector.to_owned(),
            told: parse(pod.annotation(IDENTITIES)),
            fittings: Fittings::of(&pod, list, sidecar),
            node: rest.spec.node_name.filter(|name| !name.is_empty()),
            namespace: rest.metadata.namespace,
        })
    }

    /// Takes in what the annotation says after it was written.
    pub fn tell(&mut self, annotation: Option<&str>) {
        self.told = parse(annotation);
    }

    /// Takes in that its label is gone.
    pub fn opt_out(&mut self) {
        self.selector.clear();
    }

    /// Whether its label is gone, or empty.
    #[must_use]
    pub fn is_opted_out(&self) -> bool {
        self.selector.is_empty()
    }

    /// Whether it has an identity.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.told.as_ref().is_some_and(|told| !told.identities.is_empty())
    }

    /// Whether its containers still wait for a first binding, or would if they could.
    #[must_use]
    pub fn is_held(&self) -> bool {
        // Identities together with `hold` are nothing that we write: it has been bound.
        self.told.as_ref().is_some_and(|told| told.hold && told.identities.is_empty())
    }
}

impl Fittings {
    /// Those of `sidecar`, which is a container of `pod` and stands in this list.
    pub(crate) fn of(pod: &PodView<'_>, list: List, sidecar: &Container<'_>) -> Self {
        let mounts = sidecar.volume_mounts.iter().flatten();
        let is_probed = list == List::InitContainers && sidecar.startup_probe.is_some();
        Self {
            holds: if is_probed { Hold::Held } else { Hold::Free },
            endpoint: endpoint_of(sidecar),
            authorities: authorities_of(sidecar),
            volumes: mounts.map(|mount| mount.name.to_string()).collect(),
            has_binding_token: has_binding_token(pod),
        }
    }
}

fn parse(annotation: Option<&str>) -> Option<PodIdentities> {
    serde_json::from_str(annotation?).ok()
}

/// The sidecar's arguments, read leniently: those of another release may have more.
fn arguments<'a>(sidecar: &'a Container<'_>) -> impl Iterator<Item = &'a str> {
    sidecar.args.iter().flatten().skip(1).map(|arg| &**arg)
}

/// Where a sidecar that is already there is asked.
pub(crate) fn endpoint_of(sidecar: &Container<'_>) -> Endpoint {
    let is_link_local = arguments(sidecar).any(|arg| arg == "--link-local");
    if is_link_local { Endpoint::LinkLocal } else { Endpoint::Env }
}

fn authorities_of(sidecar: &Container<'_>) -> Vec<(String, String)> {
    let pairs = arguments(sidecar).filter_map(|arg| arg.strip_prefix("--authority-for="));
    pairs
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, authority)| (name.to_owned(), authority.to_owned()))
        .collect()
}

fn has_binding_token(pod: &PodView<'_>) -> bool {
    let own = pod.volumes().iter().filter(|volume| *volume.name == *SIDECAR);
    own.filter_map(|volume| serde_json::from_str::<Projected>(volume.projected?.get()).ok())
        .filter_map(|projected| projected.sources)
        .flatten()
        .filter_map(|source| source.service_account_token)
        .any(|token| token.path == BINDING_TOKEN_FILE)
}

/// What of a running pod admission does not look at.
#[derive(Deserialize)]
struct Rest {
    metadata: RunningMetadata,
    #[serde(default)]
    spec: RunningSpec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningMetadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningSpec {
    #[serde(default)]
    node_name: Option<String>,
}

#[derive(Deserialize)]
struct Projected {
    #[serde(default)]
    sources: Option<Vec<Projection>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Projection {
    #[serde(default)]
    service_account_token: Option<TokenProjection>,
}

#[derive(Deserialize)]
struct TokenProjection {
    #[serde(default)]
    path: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn usual() -> serde_json::Value {
        json!({
            "metadata": {"namespace": "web", "labels": {"aadpodidbinding": "db"},
                "annotations": {"imdslet.dev/version": "1", "imdslet.dev/identities": ""}},
            "spec": {"initContainers": [{"name": "imdslet", "args": ["serve"]}]},
            "status": {},
        })
    }

    #[test]
    fn pods_that_are_left_alone_and_why() {
        let pod = usual();
        let cases = [
            ("/metadata/annotations/kubernetes.io~1config.mirror", json!("x"), "MirrorPod"),
            ("/spec/initContainers", json!([]), "NoSidecar"),
            ("/spec/initContainers/0/args", json!(["server"]), "NoSidecar"),
            ("/status/phase", json!("Succeeded"), "Ended"),
            ("/status/phase", json!("Failed"), "Ended"),
            ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"), "BeingDeleted"),
            ("/metadata/annotations/imdslet.dev~1version", json!("0"), "Version"),
            ("/metadata/annotations/imdslet.dev~1version", json!("x"), "Version"),
            ("/metadata/annotations/imdslet.dev~1version", json!(null), "Version"),
            ("/spec", json!("x"), "Unreadable"),
        ];
        for (path, value, reason) in cases {
            let (parent, key) = path.rsplit_once('/').unwrap();
            let mut pod = pod.clone();
            assert!(RunningPod::read(&pod.to_string()).is_ok());
            pod.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
            assert_eq!(RunningPod::read(&pod.to_string()).unwrap_err().reason(), reason, "{path}");
            // What such a pod lacks is no news if it wants nothing.
            if let "NoSidecar" | "Version" = reason {
                pod["metadata"]["labels"] = json!({"aadpodidbinding": ""});
                let left = RunningPod::read(&pod.to_string()).unwrap_err();
                assert_eq!(left, LeaveAlone::NotOptedIn, "{path}");
            }
        }
    }

    #[test]
    fn a_pod_of_a_newer_release_is_kept_right_after_a_rollback() {
        let mut pod = usual();
        for version in ["1", "2", "10"] {
            pod["metadata"]["annotations"]["imdslet.dev/version"] = json!(version);
            // What a newer release says may be nothing that this one reads.
            pod["metadata"]["annotations"]["imdslet.dev/identities"] = json!(r#"{"version":2}"#);
            let running = RunningPod::read(&pod.to_string()).unwrap();
            assert_eq!((running.selector.as_str(), running.is_bound()), ("db", false), "{version}");
        }
    }

    #[test]
    fn a_pod_with_our_sidecar_is_kept_right_without_its_label() {
        let labels = [None, Some(json!({})), Some(json!({"aadpodidbinding": ""}))];
        for labels in labels {
            let mut pod = usual();
            pod["metadata"]["labels"] = json!(labels);
            assert!(RunningPod::read(&pod.to_string()).unwrap().is_opted_out(), "{labels:?}");
        }
        let mut read = RunningPod::read(&usual().to_string()).unwrap();
        assert!(!read.is_opted_out());
        read.opt_out();
        assert!(read.is_opted_out());
    }
}
