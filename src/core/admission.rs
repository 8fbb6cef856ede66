//! What becomes of a pod: the one decision that the webhook and `imdslet inject` share.

use crate::arguments::Mode;
use crate::choices::{AnnotationError, Choices, KEYS};
use crate::csi::redirects;
use crate::index::Index;
use crate::inject::{Injection, announcement_of};
use crate::live::lack;
use crate::names::{IDENTITIES, MIRROR_POD, PREFIX, VERSION};
use crate::objects::{NamespaceSettings, ObjectName};
use crate::patch::{Edits, Patch};
use crate::pod::{List, PodView, Unreadable};
use crate::reserved::{Reserved, own_sidecar};
use crate::resolve::{Resolution, Usable, resolve};
use crate::resources::sidecar_resources;
use crate::running::Fittings;
use crate::settings::{Settings, WhenUnbound};
use crate::warning::{Hold, Warning};

/// An unbound pod is told of no more bindings of other namespaces, since hundreds may share its
/// selector. `imdslet explain` has them all.
const FOREIGN_TOLD: usize = 4;

/// What becomes of a pod that is admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// What happens to it.
    pub outcome: Outcome,
    /// What its author should know.
    pub warnings: Vec<Warning>,
}

/// What happens to an admitted pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing.
    Untouched(Untouched),
    /// It gets the sidecar; an empty patch means that it has all that it needs.
    Injected {
        /// What to apply to it.
        patch: Patch,
        /// `namespace/name` of its identities, the default first; empty while it is unbound.
        identities: Vec<String>,
    },
}

/// Why a pod is admitted as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untouched {
    /// It has no label, or an empty one.
    NotOptedIn,
    /// The kubelet's picture of a static pod.
    MirrorPod,
    /// Its namespace has `imdslet.dev/injection: disabled`.
    InjectionDisabled,
    /// This AzurePodIdentityException matches it.
    Excepted(ObjectName),
    /// It uses the node's network.
    HostNetwork,
    /// It runs on Windows.
    Windows,
    /// It has no sidecar that its ephemeral containers could ask.
    NoSidecar,
}

/// Why a pod is refused. Each message names object, field and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no pod that can be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It has no containers, which no pod may.
    #[error("the pod has no spec.containers; give it at least one container")]
    NoContainers,
    /// An annotation has a wrong value.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// Something in it has a name of ours.
    #[error(transparent)]
    Reserved(#[from] Reserved),
    /// It is unbound, and unbound pods are denied.
    #[error("{0} (imdslet.dev/when-unbound: deny)")]
    Unbound(String),
    /// It cannot be served, and unbound pods are denied.
    #[error(
        "a pod {what} gets no identity from imdslet (imdslet.dev/when-unbound: deny); {remedy}"
    )]
    Unservable {
        /// What is in the way.
        what: &'static str,
        /// What would mend it.
        remedy: &'static str,
    },
}

impl Refusal {
    /// Stable name for metrics and events. Never carries user input.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "Unreadable",
            Self::NoContainers => "NoContainers",
            Self::Annotation(_) => "InvalidAnnotation",
            Self::Reserved(_) => "ReservedName",
            Self::Unbound(_) => "Unbound",
            Self::Unservable { .. } => "Unservable",
        }
    }
}

impl Untouched {
    /// Stable name for metrics and events. Never carries user input.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotOptedIn => "NotOptedIn",
            Self::MirrorPod => "MirrorPod",
            Self::InjectionDisabled => "InjectionDisabled",
            Self::Excepted(_) => "Excepted",
            Self::HostNetwork => "HostNetwork",
            Self::Windows => "Windows",
            Self::NoSidecar => "NoSidecar",
        }
    }
}

impl Admission {
    /// Admitted as it is, and nobody needs to know more.
    #[must_use]
    pub fn untouched(why: Untouched) -> Self {
        Self { outcome: Outcome::Untouched(why), warnings: Vec::new() }
    }
}

/// Decides what becomes of `pod`, which is created in `namespace`.
///
/// `namespace` is the request's: a pod made by a Deployment names none itself.
///
/// # Errors
///
/// [`Refusal`], and nothing is changed.
pub fn admit(
    index: &Index,
    settings: &Settings,
    namespace: &str,
    pod: &PodView<'_>,
) -> Result<Admission, Refusal> {
    let Some(selector) = pod.selector() else {
        return Ok(Admission::untouched(Untouched::NotOptedIn));
    };
    let own_namespace = index.namespace(namespace);
    if let Some(why) = left_alone(index, (namespace, own_namespace), pod) {
        return Ok(Admission::untouched(why));
    }
    if pod.list(List::Containers).is_empty() {
        return Err(Refusal::NoContainers);
    }
    let choices = Choices::read(pod, (namespace, own_namespace), settings)?;
    if let Some(decided) = unservable(pod, choices.when_unbound) {
        return decided;
    }
    let own = own_sidecar(pod)?;
    let fittings = own.map(|(list, _, sidecar)| Fittings::of(pod, list, sidecar));
    let mut warnings = Vec::new();
    let identities = &served(
        (index, settings),
        (namespace, selector),
        &choices,
        fittings.as_ref(),
        &mut warnings,
    )?;
    report_conflicts(pod, &choices, &mut warnings);
    let (chosen, preset) = (choices.resources.as_ref(), &settings.sidecar_resources);
    let resources = sidecar_resources(pod, chosen, preset, index.limits(namespace));
    let (redirects, missing) = redirects(index, (namespace, selector), identities, pod);
    refuse_or_warn(missing, choices.when_unbound, &mut warnings)?;
    let patch = Injection {
        pod,
        own,
        namespace,
        settings,
        choices: &choices,
        identities,
        resources,
        redirects,
    }
    .patch(&mut warnings)?;
    let identities = identities.iter().map(|usable| usable.identity.name.clone()).collect();
    Ok(Admission { outcome: Outcome::Injected { patch, identities }, warnings })
}

/// Decides what the ephemeral containers of `pod` get that `before` did not have.
///
/// Nothing is refused here: whoever debugs a pod does not need a token for that, and the webhook's entry
/// fails open. Mounts of the sidecar's volumes are refused by the policy `imdslet-ephemeral-containers`.
#[must_use]
pub fn admit_ephemeral(settings: &Settings, pod: &PodView<'_>, before: &PodView<'_>) -> Admission {
    let sidecar = own_sidecar(pod).ok().flatten().filter(|_| pod.selector().is_some());
    let Some((_, _, sidecar)) = sidecar else {
        return Admission::untouched(Untouched::NoSidecar);
    };
    let announcement = announcement_of(sidecar, settings.port);
    let mut edits = Edits::new();
    let mut warnings = Vec::new();
    let old = before.list(List::EphemeralContainers);
    for (at, container) in pod.list(List::EphemeralContainers).iter().enumerate() {
        // One that runs cannot be changed any more.
        if !old.iter().any(|old| old.name == container.name) {
            let list = List::EphemeralContainers;
            edits.set_variables(list, at, container, &announcement, &mut warnings);
        }
    }
    let outcome = Outcome::Injected { patch: edits.finish(), identities: Vec::new() };
    Admission { outcome, warnings }
}

/// Why a labelled pod is none of ours.
fn left_alone(
    index: &Index,
    (namespace, own_namespace): (&str, Option<&NamespaceSettings>),
    pod: &PodView<'_>,
) -> Option<Untouched> {
    if pod.annotation(MIRROR_POD).is_some() {
        Some(Untouched::MirrorPod)
    } else if own_namespace.is_some_and(|settings| settings.is_disabled) {
        Some(Untouched::InjectionDisabled)
    } else {
        index.exception(namespace, pod).cloned().map(Untouched::Excepted)
    }
}

/// What becomes of a pod that no sidecar can serve.
fn unservable(pod: &PodView<'_>, when_unbound: WhenUnbound) -> Option<Result<Admission, Refusal>> {
    let (why, warning, what, remedy) = if pod.is_windows() {
        let remedy = "remove its aadpodidbinding label";
        (Untouched::Windows, Warning::Windows, "on Windows", remedy)
    } else if pod.is_host_network() {
        let remedy = "remove that, or its aadpodidbinding label";
        (Untouched::HostNetwork, Warning::HostNetwork, "with spec.hostNetwork", remedy)
    } else {
        return None;
    };
    Some(match when_unbound {
        WhenUnbound::Deny => Err(Refusal::Unservable { what, remedy }),
        WhenUnbound::Wait => {
            Ok(Admission { outcome: Outcome::Untouched(why), warnings: vec![warning] })
        }
    })
}

/// The identities that the pod's sidecar will serve, which is already there if it has `fittings`.
fn served(
    (index, settings): (&Index, &Settings),
    (namespace, selector): (&str, &str),
    choices: &Choices,
    fittings: Option<&Fittings>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Usable>, Refusal> {
    let endpoint = fittings.map_or(choices.endpoint, |fittings| fittings.endpoint);
    let mut resolution = resolve(index, settings, namespace, selector, endpoint);
    let hold = match (fittings, choices.sidecar) {
        (Some(fittings), _) => fittings.holds,
        (None, Mode::Native) => Hold::Held,
        (None, Mode::Container) => Hold::Free,
    };
    if let Some(why) = resolution.unbound(settings, namespace, selector) {
        match choices.when_unbound {
            WhenUnbound::Deny => return Err(Refusal::Unbound(why)),
            WhenUnbound::Wait => warnings.push(Warning::Unbound(why, hold)),
        }
    }
    report_skipped(&resolution, namespace, warnings);
    if let Some(fittings) = fittings {
        keep_what_fits(&mut resolution, fittings, choices.when_unbound, warnings)?;
    }
    Ok(resolution.identities)
}

/// Tells of the bindings that give nothing, but for those that nobody needs to hear of.
fn report_skipped(resolution: &Resolution, namespace: &str, warnings: &mut Vec<Warning>) {
    let is_bound = !resolution.identities.is_empty();
    // The first one of an unbound pod is told already.
    let others = resolution.skipped.iter().skip(usize::from(!is_bound));
    let unexpected = others.filter(|skipped| !skipped.reason.is_intended());
    let (own, foreign): (Vec<_>, Vec<_>) =
        unexpected.partition(|skipped| skipped.binding.namespace == namespace);
    // What other namespaces bind under the same selector may be meant for an unbound pod. One that has
    // an identity has nothing to do with it.
    let foreign = foreign.into_iter().take(if is_bound { 0 } else { FOREIGN_TOLD });
    warnings.extend(own.into_iter().chain(foreign).cloned().map(Warning::Skipped));
}

/// Leaves the identities that a sidecar which is already there can serve, as the controller would
/// write them: of any other it would say that it has them, and fail.
fn keep_what_fits(
    resolution: &mut Resolution,
    fittings: &Fittings,
    when_unbound: WhenUnbound,
    warnings: &mut Vec<Warning>,
) -> Result<(), Refusal> {
    let before = warnings.len();
    resolution.identities.retain(|usable| {
        let fixed = lack(fittings, usable);
        let identity = usable.identity.name.clone();
        let missing = fixed.map(|fixed| Warning::ArrivedWithout { identity, fixed });
        let is_served = missing.is_none();
        warnings.extend(missing);
        is_served
    });
    match warnings.get(before) {
        Some(first) if resolution.identities.is_empty() && when_unbound == WhenUnbound::Deny => {
            Err(Refusal::Unbound(first.to_string()))
        }
        _ => Ok(()),
    }
}

/// A volume that the provider cannot mount keeps the pod from starting. Under `deny` whoever makes it
/// is to try again.
fn refuse_or_warn(
    missing: Vec<Warning>,
    when_unbound: WhenUnbound,
    warnings: &mut Vec<Warning>,
) -> Result<(), Refusal> {
    if when_unbound == WhenUnbound::Deny
        && let Some(first) = missing.first()
    {
        return Err(Refusal::Unbound(first.to_string()));
    }
    warnings.extend(missing);
    Ok(())
}

fn report_conflicts(pod: &PodView<'_>, choices: &Choices, warnings: &mut Vec<Warning>) {
    for (_, _, container) in pod.foreign() {
        if container.declares(choices.port) {
            let container = container.name.to_string();
            warnings.push(Warning::PortTaken { container, port: choices.port });
        }
    }
    let federated =
        pod.foreign().any(|(_, _, c)| c.variable("AZURE_FEDERATED_TOKEN_FILE").is_some());
    if pod.label("azure.workload.identity/use") == Some("true") {
        warnings.push(Warning::WorkloadIdentity("label azure.workload.identity/use"));
    } else if federated {
        warnings.push(Warning::WorkloadIdentity("variable AZURE_FEDERATED_TOKEN_FILE"));
    }
    for name in &choices.skip_containers {
        if !pod.foreign().any(|(_, _, container)| *container.name == **name) {
            warnings.push(Warning::NoSuchContainer(name.clone()));
        }
    }
    let ours = |key: &str| KEYS.contains(&key) || key == IDENTITIES || key == VERSION;
    let unknown = pod.annotation_keys().filter(|key| key.starts_with(PREFIX) && !ours(key));
    warnings.extend(
        unknown
            .map(|key| Warning::UnknownAnnotation { key: key.to_owned(), known: KEYS.join(", ") }),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::Object;
    use crate::settings::Given;

    fn object(kind: &str, name: (&str, &str), spec: &Value) -> Object {
        let value = json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
            "metadata": {"namespace": name.0, "name": name.1}, "spec": spec});
        Object::read(&value, "web").unwrap().unwrap()
    }

    /// Namespaces that each bind a type 1 identity of their own for the same selector, and a binding of
    /// nothing in the pod's own.
    fn neighbours(of_the_pod: Option<Object>) -> Index {
        let spec = json!({"type": 1, "clientID": "11111111-1111-1111-1111-111111111111",
            "clientPassword": {"name": "s"}});
        let bound = json!({"azureIdentity": "sp", "selector": "db"});
        let others = (0..30).flat_map(|number| {
            let namespace = format!("team-{number:02}");
            [
                object("AzureIdentity", (&namespace, "sp"), &spec),
                object("AzureIdentityBinding", (&namespace, "b"), &bound),
            ]
        });
        let dangling = json!({"azureIdentity": "gone", "selector": "db"});
        let own = ["1", "2"].map(|name| object("AzureIdentityBinding", ("web", name), &dangling));
        others.chain(own).chain(of_the_pod).collect()
    }

    fn told(index: &Index) -> Vec<String> {
        let settings = Settings::read(&Given::from([("tenant-id", vec!["c.example".to_owned()])]));
        let pod = json!({"metadata": {"labels": {"aadpodidbinding": "db"}},
            "spec": {"containers": [{"name": "app"}]}});
        let text = pod.to_string();
        let pod = PodView::read(&text).unwrap();
        let admission = admit(index, &settings.unwrap(), "web", &pod).unwrap();
        let told = admission.warnings.iter().map(|warning| match warning {
            Warning::Skipped(skipped) => skipped.binding.to_string(),
            other => other.reason().to_owned(),
        });
        told.collect()
    }

    #[test]
    fn what_other_namespaces_bind_is_told_to_few_and_never_to_a_pod_that_is_bound() {
        let unbound = told(&neighbours(None));
        let foreign = ["team-00/b", "team-01/b", "team-02/b", "team-03/b"];
        assert_eq!(unbound, [&["Unbound", "web/2"] as &[_], &foreign].concat());

        let spec = json!({"clientID": "11111111-1111-1111-1111-111111111111"});
        let bound = told(&neighbours(Some(object("AzureIdentity", ("web", "gone"), &spec))));
        assert_eq!(bound, [] as [&str; 0]);
        // One of its own that gives nothing is its own business.
        let more = json!({"azureIdentity": "lost", "selector": "db"});
        let mut index = neighbours(Some(object("AzureIdentity", ("web", "gone"), &spec)));
        let object = object("AzureIdentityBinding", ("web", "3"), &more);
        index.apply(crate::index::Change::Applied(Box::new(object)));
        assert_eq!(told(&index), ["web/3"]);
    }
}
