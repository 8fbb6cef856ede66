//! What a running pod's annotation should say now.
//!
//! What was fixed when the pod was created (its sidecar's arguments, its volumes) is taken from the
//! pod; which identities it may have, from the index. Exceptions and the label of a namespace count
//! when a pod is created: a pod that has a sidecar is kept right until it ends. One that has lost its
//! label may have nothing.

use std::fmt;

use crate::contract::{FORMAT, PodIdentities, PodIdentity, Source};
use crate::index::Index;
use crate::names::IDENTITIES;
use crate::resolve::{Resolution, Usable, resolve};
use crate::running::{Fittings, RunningPod};
use crate::settings::Settings;
use crate::sidecar::secret_volume;
use crate::warning::{Hold, Warning};

/// Why a pod without the label has nothing.
const OPTED_OUT: &str = "it has no label aadpodidbinding any more, or an empty one; whoever puts the \
    label back gives it what that binds";

/// What is to be done about a running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to write, if the annotation does not say it yet.
    pub change: Option<Change>,
    /// What stays wrong until a person does something. Nothing is wrong with a pod that wants nothing.
    pub standing: Vec<Standing>,
}

/// A new text of the annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it means for the pod.
    pub kind: ChangeKind,
    /// The text, as it would be written at admission.
    pub annotation: String,
    /// `namespace/name` of the identities in it, the default first.
    pub identities: Vec<String>,
    /// The change in words, for the pod's owner.
    pub message: String,
}

/// What a change means for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It had no identity and has one.
    Bound,
    /// It has other identities, or they say something else, or in another order.
    Changed,
    /// It had identities and has none.
    Lost,
    /// Its identities are the same; the text around them was not right.
    Mended,
}

impl ChangeKind {
    /// The reason of the Event.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Bound => "IdentityBound",
            Self::Changed => "IdentityChanged",
            Self::Lost => "IdentityLost",
            Self::Mended => "AnnotationMended",
        }
    }
}

/// Something that no change of the annotation can mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Standing {
    /// The pod has no identity. The text is the warning that admission gives.
    #[error("{0}")]
    StillUnbound(String),
    /// An identity that it may have, but cannot have without being created anew.
    #[error(
        "AzureIdentity {identity} is bound to this pod, but {fixed}, which is fixed when a pod is \
         created; recreate the pod to use it"
    )]
    RecreateToInject {
        /// The identity.
        identity: String,
        /// What the pod lacks.
        fixed: Fixed,
    },
}

impl Standing {
    /// The reason of what only a new pod can mend.
    pub const RECREATE: &'static str = "RecreateToInject";

    /// The reason of what gives no token, or gets none.
    pub const STILL_UNBOUND: &'static str = "StillUnbound";

    /// The reason of the Event.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::StillUnbound(_) => Self::STILL_UNBOUND,
            Self::RecreateToInject { .. } => Self::RECREATE,
        }
    }
}

/// What a pod lacks for an identity, and gets only when it is created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fixed {
    /// The Secret of types 1 and 2.
    #[error("its sidecar does not mount Secret {0}")]
    Secret(String),
    /// The service account token of AKS identity bindings.
    #[error("its sidecar has no service account token for AKS identity bindings")]
    BindingToken,
    /// The authority of types 1 and 2, or none where it is of another type now.
    #[error("its sidecar's arguments have another authority for it than spec.adEndpoint")]
    Authority,
}

/// Decides what the annotation of `pod` should say now.
#[must_use]
pub fn decide(pod: &RunningPod, index: &Index, settings: &Settings) -> Decision {
    if pod.is_opted_out() {
        let wanted = PodIdentities { version: FORMAT, hold: pod.is_held(), identities: Vec::new() };
        return Decision { change: change(pod, &wanted, OPTED_OUT), standing: Vec::new() };
    }
    let resolution = resolve(index, settings, &pod.namespace, &pod.selector, pod.fittings.endpoint);
    let mut identities = Vec::new();
    let mut standing = Vec::new();
    for usable in &resolution.identities {
        match lack(&pod.fittings, usable) {
            None => identities.push(usable.identity.clone()),
            Some(fixed) => standing
                .push(Standing::RecreateToInject { identity: usable.identity.name.clone(), fixed }),
        }
    }
    let hold = identities.is_empty() && pod.is_held();
    if standing.is_empty() {
        standing.extend(unbound(pod, &resolution, settings, hold).map(Standing::StillUnbound));
    }
    let wanted = PodIdentities { version: FORMAT, hold, identities };
    let why: Vec<_> = standing.iter().map(ToString::to_string).collect();
    Decision { change: change(pod, &wanted, &why.join("; ")), standing }
}

/// What a pod with these fittings lacks for an identity. An authority that changed counts too: what
/// is meant for one authority must not be sent to another one.
pub(crate) fn lack(fittings: &Fittings, usable: &Usable) -> Option<Fixed> {
    let identity = &usable.identity;
    if let Some(secret) = &identity.secret {
        let volume = secret_volume(secret);
        if !fittings.volumes.contains(&volume) {
            return Some(Fixed::Secret(secret.clone()));
        }
    }
    let own = fittings.authorities.iter().find(|(name, _)| *name == identity.name);
    if own.map(|(_, authority)| authority) != usable.authority.as_ref() {
        return Some(Fixed::Authority);
    }
    let needs_token = identity.source == Source::Binding && !fittings.has_binding_token;
    needs_token.then_some(Fixed::BindingToken)
}

/// What differs; `why` there are no identities, if there are none.
fn change(pod: &RunningPod, wanted: &PodIdentities, why: &str) -> Option<Change> {
    if pod.told.as_ref() == Some(wanted) {
        return None;
    }
    let before: &[PodIdentity] = pod.told.as_ref().map_or(&[], |told| &told.identities);
    let kind = match (before.is_empty(), wanted.identities.is_empty()) {
        // An annotation that cannot be read may have been anything.
        (true, true) if pod.told.is_none() => ChangeKind::Lost,
        (true, false) => ChangeKind::Bound,
        (false, true) => ChangeKind::Lost,
        _ if *before == *wanted.identities => ChangeKind::Mended,
        _ => ChangeKind::Changed,
    };
    let now = Names(&wanted.identities);
    let message = match kind {
        ChangeKind::Bound => format!("this pod has tokens of {now} from now on"),
        ChangeKind::Changed => {
            format!("this pod has tokens of {now} from now on; until now, of {}", Names(before))
        }
        ChangeKind::Lost if pod.told.is_none() => {
            format!("{IDENTITIES} of this pod could not be read, and names no identity now; {why}")
        }
        ChangeKind::Lost => format!("this pod has lost {}; {why}", Names(before)),
        ChangeKind::Mended => format!("{IDENTITIES} is as imdslet writes it again"),
    };
    Some(Change {
        kind,
        identities: wanted.identities.iter().map(|identity| identity.name.clone()).collect(),
        // Serialising these plain structs cannot fail.
        annotation: serde_json::to_string(wanted).unwrap_or_default(),
        message,
    })
}

/// The warning that admission would give.
fn unbound(
    pod: &RunningPod,
    resolution: &Resolution,
    settings: &Settings,
    hold: bool,
) -> Option<String> {
    let why = resolution.unbound(settings, &pod.namespace, &pod.selector)?;
    let hold = if hold { pod.fittings.holds } else { Hold::Free };
    Some(Warning::Unbound(why, hold).to_string())
}

/// Identities by their names, the default marked where there is a choice.
struct Names<'a>(&'a [PodIdentity]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no identity"),
            [one] => write!(f, "AzureIdentity {}", one.name),
            [default, others @ ..] => {
                write!(f, "AzureIdentity {} (the default)", default.name)?;
                others.iter().try_for_each(|identity| write!(f, ", {}", identity.name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::{Outcome, admit};
    use crate::objects::Object;
    use crate::pod::PodView;
    use crate::running::LeaveAlone;
    use crate::settings::Given;

    fn settings(given: &[(&'static str, &str)]) -> Settings {
        let given: Given = given.iter().map(|(k, v)| (*k, vec![(*v).to_owned()])).collect();
        Settings::read(&given).unwrap()
    }

    fn usual() -> Settings {
        settings(&[
            ("tenant-id", "contoso.example"),
            ("allow-authority", "https://login.partner.example"),
            ("binding-proxy", "https://kubernetes.default.svc"),
        ])
    }

    /// The objects of namespace `web`, in a few words: `identity`, and `binding` for `db`.
    fn index(objects: &[Value]) -> Index {
        objects.iter().map(|value| Object::read(value, "web").unwrap().unwrap()).collect()
    }

    fn identity(name: &str, annotations: &Value, mut spec: Value) -> Value {
        spec["clientID"] = json!("11111111-1111-1111-1111-111111111111");
        json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": name, "annotations": annotations}, "spec": spec})
    }

    fn bound(name: &str, identity: &str) -> Value {
        json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": name}, "spec": {"selector": "db", "azureIdentity": identity}})
    }

    /// A pod as it runs after it was admitted while the cluster was like `index`.
    fn admitted(index: &Index, annotations: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "web", "labels": {"aadpodidbinding": "db"},
                "annotations": annotations},
            "spec": {"containers": [{"name": "app"}]},
            "status": {"phase": "Pending"},
        });
        let text = pod.to_string();
        let admission = admit(index, &usual(), "web", &PodView::read(&text).unwrap()).unwrap();
        let Outcome::Injected { patch, .. } = admission.outcome else { panic!("not injected") };
        json_patch::patch(&mut pod, &patch.operations().unwrap()).unwrap();
        pod
    }

    fn read(pod: &Value) -> Result<RunningPod, LeaveAlone> {
        RunningPod::read(&pod.to_string())
    }

    fn decide(pod: &Value, index: &Index) -> Decision {
        super::decide(&read(pod).unwrap(), index, &usual())
    }

    fn reasons(decision: &Decision) -> Vec<&'static str> {
        let change = decision.change.iter().map(|change| change.kind.reason());
        change.chain(decision.standing.iter().map(Standing::reason)).collect()
    }

    /// The clusters that the tests know.
    fn clusters() -> Vec<(&'static str, Index)> {
        let none = json!({});
        let secret = |more: Value| {
            let mut spec = json!({"type": 1, "clientPassword": {"name": "sp"}});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            identity("sp", &json!({}), spec)
        };
        let partner = json!({"adEndpoint": "https://login.partner.example/"});
        let plain = identity("a", &none, json!({}));
        vec![
            ("nothing", index(&[])),
            ("dangling", index(&[bound("1", "gone")])),
            ("a", index(&[plain.clone(), bound("1", "a")])),
            (
                "a, another tenant",
                index(&[identity("a", &none, json!({"tenantID": "o.example"})), bound("1", "a")]),
            ),
            (
                "a and b",
                index(&[
                    plain.clone(),
                    identity("b", &none, json!({})),
                    bound("1", "a"),
                    bound("2", "b"),
                ]),
            ),
            (
                "b and a",
                index(&[plain, identity("b", &none, json!({})), bound("1", "b"), bound("2", "a")]),
            ),
            ("secret", index(&[secret(json!({})), bound("1", "sp")])),
            ("secret, partner", index(&[secret(partner), bound("1", "sp")])),
            ("a of that name", index(&[identity("sp", &none, json!({})), bound("1", "sp")])),
            (
                "AKS",
                index(&[
                    identity("k", &json!({"imdslet.dev/source": "binding"}), json!({})),
                    bound("1", "k"),
                ]),
            ),
        ]
    }

    #[test]
    fn what_a_pod_of_one_cluster_becomes_in_another() {
        let cases: [(&str, &str, &[&str]); 23] = [
            ("nothing", "nothing", &["StillUnbound"]),
            ("nothing", "dangling", &["StillUnbound"]),
            ("nothing", "a", &["IdentityBound"]),
            ("nothing", "b and a", &["IdentityBound"]),
            ("nothing", "secret", &["RecreateToInject"]),
            ("nothing", "AKS", &["RecreateToInject"]),
            ("a", "a", &[]),
            ("a", "nothing", &["IdentityLost", "StillUnbound"]),
            ("a", "dangling", &["IdentityLost", "StillUnbound"]),
            ("a", "a, another tenant", &["IdentityChanged"]),
            ("a", "a and b", &["IdentityChanged"]),
            ("a and b", "b and a", &["IdentityChanged"]),
            ("a and b", "a", &["IdentityChanged"]),
            ("a", "secret", &["IdentityLost", "RecreateToInject"]),
            ("secret", "secret", &[]),
            ("secret", "secret, partner", &["IdentityLost", "RecreateToInject"]),
            ("secret, partner", "secret, partner", &[]),
            ("secret, partner", "secret", &["IdentityLost", "RecreateToInject"]),
            // A service account token must not go to the partner.
            ("secret, partner", "a of that name", &["IdentityLost", "RecreateToInject"]),
            ("secret", "a of that name", &["IdentityChanged"]),
            ("a of that name", "secret, partner", &["IdentityLost", "RecreateToInject"]),
            ("AKS", "AKS", &[]),
            ("AKS", "a", &["IdentityChanged"]),
        ];
        let clusters = clusters();
        let find = |name| &clusters.iter().find(|(known, _)| *known == name).unwrap().1;
        for (before, after, expected) in cases {
            let pod = admitted(find(before), &json!({}));
            assert_eq!(reasons(&decide(&pod, find(after))), expected, "{before} -> {after}");
        }
    }

    /// Applied and asked again, nothing is left to write; and what was bound once is never held.
    #[test]
    fn every_change_is_final_and_hold_never_comes_back() {
        for (first, admission) in clusters() {
            let mut pod = admitted(&admission, &json!({}));
            // Every series of two clusters after the first one.
            for (second, then) in clusters() {
                for (third, last) in clusters() {
                    for (name, index) in [(second, &then), (third, &last)] {
                        let was_held = read(&pod).unwrap().is_held();
                        let decision = decide(&pod, index);
                        if let Some(change) = decision.change {
                            pod["metadata"]["annotations"][IDENTITIES] = json!(change.annotation);
                        }
                        let context = format!("{first} -> {second} -> {third}: {name}");
                        assert_eq!(decide(&pod, index).change, None, "{context}");
                        assert!(was_held || !read(&pod).unwrap().is_held(), "{context}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_pod_whose_label_is_removed_or_emptied_loses_what_it_has_until_the_label_is_back() {
        let clusters = clusters();
        for (name, cluster) in &clusters {
            for labels in [json!({}), json!({"aadpodidbinding": ""})] {
                let mut pod = admitted(cluster, &json!({}));
                let before = pod.clone();
                pod["metadata"]["labels"] = labels;
                let decision = decide(&pod, cluster);
                let is_bound = read(&before).unwrap().is_bound();
                let expected: &[_] = if is_bound { &["IdentityLost"] } else { &[] };
                // Whoever waits for a first binding goes on waiting: the application may be none that
                // can do without.
                assert_eq!(reasons(&decision), expected, "{name}");
                let Some(change) = decision.change else { continue };
                assert_eq!(change.annotation, r#"{"version":1,"hold":false,"identities":[]}"#);
                assert!(change.message.contains("it has no label aadpodidbinding any more"));
                pod["metadata"]["annotations"][IDENTITIES] = json!(change.annotation);
                assert_eq!(decide(&pod, cluster).change, None, "{name}");
                pod["metadata"]["labels"] = before["metadata"]["labels"].clone();
                assert_eq!(reasons(&decide(&pod, cluster)), ["IdentityBound"], "{name}");
            }
        }
    }

    #[test]
    fn a_bound_pod_says_what_admission_would_say() {
        let clusters = clusters();
        let (_, cluster) = &clusters[4];
        let held = admitted(&Index::default(), &json!({}));
        let change = decide(&held, cluster).change.unwrap();
        let fresh = admitted(cluster, &json!({}));
        assert_eq!(json!(change.annotation), fresh["metadata"]["annotations"][IDENTITIES]);
        assert_eq!(change.identities, ["web/a", "web/b"]);
        assert_eq!(
            change.message,
            "this pod has tokens of AzureIdentity web/a (the default), web/b from now on"
        );
    }

    /// A backup that is restored, a copy for debugging: what admission writes is what the controller
    /// would write, and an identity that the sidecar cannot serve is named instead of promised.
    #[test]
    fn a_pod_that_arrives_with_our_sidecar_is_told_what_that_sidecar_can_serve() {
        let lacking = [
            ("nothing", "secret"),
            ("nothing", "secret, partner"),
            ("nothing", "AKS"),
            ("a", "secret"),
            ("secret", "secret, partner"),
            ("secret, partner", "secret"),
            ("AKS", "secret"),
            ("secret", "AKS"),
        ];
        let clusters = clusters();
        for (before, first) in &clusters {
            for (after, then) in &clusters {
                let mut pod = admitted(first, &json!({}));
                let text = pod.to_string();
                let admission = admit(then, &usual(), "web", &PodView::read(&text).unwrap());
                let admission = admission.unwrap();
                let Outcome::Injected { patch, .. } = admission.outcome else { panic!("not ours") };
                json_patch::patch(&mut pod, &patch.operations().unwrap()).unwrap();
                let context = format!("{before} -> {after}");
                assert_eq!(decide(&pod, then).change, None, "{context}");
                let told = admission.warnings.iter().any(|w| w.reason() == "ArrivedWithout");
                let lacks = decide(&pod, then)
                    .standing
                    .iter()
                    .any(|s| matches!(s, Standing::RecreateToInject { .. }));
                assert_eq!(told, lacks, "{context}");
                if lacking.contains(&(*before, *after)) {
                    assert!(told, "{context}");
                } else if before == after || *after == "a" {
                    assert!(!told, "{context}");
                }
            }
        }
    }

    #[test]
    fn a_pod_that_arrives_with_a_sidecar_that_serves_nothing_is_refused_under_deny() {
        let clusters = clusters();
        let pod = |before: usize| {
            let mut pod = admitted(&clusters[before].1, &json!({}));
            pod["metadata"]["annotations"]["imdslet.dev/when-unbound"] = json!("deny");
            pod.to_string()
        };
        let (_, secret) = &clusters[6];
        let restored = pod(2);
        let refusal = admit(secret, &usual(), "web", &PodView::read(&restored).unwrap());
        assert_eq!(
            refusal.unwrap_err().to_string(),
            "this pod arrives with an imdslet container and gets no token of AzureIdentity web/sp: \
             its sidecar does not mount Secret sp; remove that container and imdslet's volumes from \
             the manifest, and new ones are added (imdslet.dev/when-unbound: deny)"
        );
        let same = pod(6);
        assert!(admit(secret, &usual(), "web", &PodView::read(&same).unwrap()).is_ok());
    }

    #[test]
    fn an_unbound_pod_hears_what_admission_said() {
        for mode in ["native", "container"] {
            for (name, cluster) in clusters().into_iter().take(2) {
                let annotations = json!({"imdslet.dev/sidecar": mode});
                let pod = admitted(&cluster, &annotations);
                let text = json!({
                    "metadata": {"labels": {"aadpodidbinding": "db"}, "annotations": annotations},
                    "spec": {"containers": [{"name": "app"}]},
                });
                let text = text.to_string();
                let view = PodView::read(&text).unwrap();
                let admission = admit(&cluster, &usual(), "web", &view).unwrap();
                let warning = admission.warnings.iter().find(|w| w.reason() == "Unbound").unwrap();
                let decision = decide(&pod, &cluster);
                assert_eq!(decision.standing[0].to_string(), warning.to_string(), "{name}, {mode}");
            }
        }
    }

    #[test]
    fn spelling_and_unknown_keys_are_no_difference_but_what_cannot_be_read_is() {
        let clusters = clusters();
        let (_, cluster) = &clusters[2];
        let mut pod = admitted(cluster, &json!({}));
        let annotation = &mut pod["metadata"]["annotations"][IDENTITIES];
        let mut same: Value = serde_json::from_str(annotation.as_str().unwrap()).unwrap();
        same["future"] = json!(true);
        same["identities"][0].as_object_mut().unwrap().remove("secret");
        *annotation = json!(serde_json::to_string_pretty(&same).unwrap());
        assert_eq!(decide(&pod, cluster).change, None);
        pod["metadata"]["annotations"][IDENTITIES] = json!("{");
        assert_eq!(reasons(&decide(&pod, cluster)), ["IdentityBound"]);
        let lost = decide(&pod, &Index::default()).change.unwrap();
        assert_eq!(lost.annotation, r#"{"version":1,"hold":false,"identities":[]}"#);
        assert!(
            lost.message.starts_with(
                "imdslet.dev/identities of this pod could not be read, and names no identity now; "
            ),
            "{}",
            lost.message
        );
        same["hold"] = json!(true);
        pod["metadata"]["annotations"][IDENTITIES] = json!(same.to_string());
        assert_eq!(reasons(&decide(&pod, cluster)), ["AnnotationMended"]);
    }

    #[test]
    fn link_local_is_what_the_pod_has_and_not_what_the_namespace_says_now() {
        let index = index(&[
            identity("m", &json!({"imdslet.dev/source": "managed"}), json!({})),
            bound("1", "m"),
        ]);
        let managed = settings(&[("tenant-id", "contoso.example"), ("allow-managed", "true")]);
        let mut pod = admitted(&Index::default(), &json!({"imdslet.dev/endpoint": "link-local"}));
        pod["metadata"]["annotations"]["imdslet.dev/endpoint"] = json!("env");
        let decision = super::decide(&read(&pod).unwrap(), &index, &managed);
        assert_eq!(reasons(&decision), ["StillUnbound"]);
        let pod = admitted(&Index::default(), &json!({}));
        assert_eq!(
            reasons(&super::decide(&read(&pod).unwrap(), &index, &managed)),
            ["IdentityBound"]
        );
    }
}
