//! What to do, in order, with the commands: the move, the ways back, and what is removed at last.
//!
//! imdslet takes over one namespace at a time. What says so is the label
//! `imdslet.dev/injection: disabled`: every namespace with labelled pods has it before imdslet is
//! installed, loses it when it is taken over, and gets it again when it is given back.

use std::collections::BTreeSet;
use std::fmt::Write;

use imdslet_core::objects::Kind;
use imdslet_core::shell::quoted;
use serde::Serialize;

use super::accounts::Proposal;
use super::estate::Estate;
use super::{Labelled, Needs};

/// One step: what it is for, and its commands.
#[derive(Debug, Serialize)]
pub struct Step {
    /// When it is done.
    pub phase: Phase,
    /// What it is called by programs; those of a namespace end in its name.
    pub id: String,
    /// What it does.
    pub title: String,
    /// Why it is needed, and what to look at.
    pub why: String,
    /// Commands of a POSIX shell; words in capitals are to be filled in.
    pub commands: Vec<String>,
}

/// When a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// To move, in this order.
    Move,
    /// To go back, while aad-pod-identity is still there.
    GoBack,
    /// To remove aad-pod-identity, once nothing needs it.
    RemoveOld,
    /// To remove imdslet, and keep what aad-pod-identity would need.
    Uninstall,
}

impl Phase {
    /// All of them, in the order in which they are told.
    pub(super) const ALL: [Self; 4] = [Self::Move, Self::GoBack, Self::RemoveOld, Self::Uninstall];

    /// As a heading.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Move => "The move",
            Self::GoBack => "The way back, while aad-pod-identity is still there",
            Self::RemoveOld => "Removing aad-pod-identity, once nothing needs it",
            Self::Uninstall => "Removing imdslet; the custom resources stay",
        }
    }
}

/// A step that is the same in every cluster.
fn step(phase: Phase, id: &str, title: &str, why: &str, commands: Vec<String>) -> Step {
    let (id, title, why) = (id.to_owned(), title.to_owned(), why.to_owned());
    Step { phase, id, title, why, commands }
}

/// All steps of all phases, in order.
pub(super) fn steps(estate: &Estate, needs: &Needs, proposals: &[Proposal]) -> Vec<Step> {
    let mut steps = vec![backup(estate), credentials()];
    steps.extend(own_accounts(proposals));
    steps.extend(hold_off(needs));
    steps.push(install(estate));
    for (namespace, labelled) in &needs.labelled {
        let mut step = taken_over(namespace, labelled);
        step.commands.extend(rollouts(namespace, &labelled.served));
        steps.push(step);
    }
    for (namespace, labelled) in &needs.labelled {
        let mut step = given_back(namespace);
        step.commands.extend(rollouts(namespace, &labelled.served));
        steps.push(step);
    }
    steps.push(remove_parts(estate));
    steps.push(remove_finalizers());
    steps.extend(remove_from_nodes(estate, needs));
    steps.push(uninstall(estate));
    steps
}

fn backup(estate: &Estate) -> Step {
    let definitions = Kind::ALL.into_iter().filter_map(Kind::definition);
    let definitions: Vec<_> = definitions.collect();
    let mut commands = vec![
        format!(
            "kubectl get customresourcedefinition {} azureassignedidentities.aadpodidentity.k8s.io \
             -o yaml > backup-definitions.yaml",
            definitions.join(" ")
        ),
        "kubectl get azureidentity,azureidentitybinding,azurepodidentityexception -A -o yaml \
         > backup-identities.yaml"
            .to_owned(),
    ];
    for (number, object) in estate.surroundings.old_parts.keys().enumerate() {
        let Some(place) = place(object) else { continue };
        commands.push(format!("kubectl {place} -o yaml > backup-old-{}.yaml", number + 1));
    }
    step(
        Phase::Move,
        "backup",
        "Back up what nobody else has",
        "`kubectl apply -f` makes again what is missing of it. Keep the files until \
         aad-pod-identity is gone for good.",
        commands,
    )
}

fn credentials() -> Step {
    step(
        Phase::Move,
        "credentials",
        "Create the federated credentials",
        "plan.sh is what this command prints with -o az; Bicep and Terraform do the same. They \
         change nothing for the pods that run now, and may be there long before the move.",
        vec!["sh plan.sh".to_owned()],
    )
}

/// Accounts for the workloads of one identity each.
fn own_accounts(proposals: &[Proposal]) -> Option<Step> {
    if proposals.is_empty() {
        return None;
    }
    let mut commands = Vec::new();
    for proposal in proposals {
        let account = quoted(&proposal.service_account.to_string());
        commands.push(format!("printf '%s' {account} | kubectl apply -f -"));
        commands.extend(proposal.workloads.iter().filter_map(|change| {
            let (namespace, resource) = resource(&change.object)?;
            let patch = quoted(&change.patch);
            Some(format!("kubectl -n {namespace} patch {resource} --type merge -p {patch}"))
        }));
    }
    Some(step(
        Phase::Move,
        "accounts",
        "Give the workloads of each identity a service account of their own",
        "Only for those of the decisions SharedAccount that you do not accept as they are. Bind the \
         roles of the shared account to the new ones too, and plan again: the credentials are then \
         others.",
        commands,
    ))
}

/// Nothing, where no namespace has labelled pods: `kubectl label` takes no empty list.
fn hold_off(needs: &Needs) -> Option<Step> {
    let namespaces: Vec<_> = needs.labelled.keys().map(|name| quoted(name)).collect();
    (!namespaces.is_empty()).then(|| step(
        Phase::Move,
        "hold-off",
        "Keep imdslet out of every namespace that it shall take over later",
        "What is in them stays with NMI, and imdslet touches nothing there. Label namespaces that \
         are made meanwhile too: without the label they are imdslet's.",
        vec![format!(
            "kubectl label namespace {} imdslet.dev/injection=disabled --overwrite",
            namespaces.join(" ")
        )],
    ))
}

fn install(estate: &Estate) -> Step {
    let mut commands = vec![
        "kubectl apply --server-side --force-conflicts -f manifests/install.yaml".to_owned(),
        "kubectl -n imdslet-system rollout status deployment --timeout=5m".to_owned(),
    ];
    if !estate.classes.is_empty() {
        commands.push("kubectl apply -f manifests/csi.yaml".to_owned());
    }
    step(
        Phase::Move,
        "install",
        "Install imdslet beside aad-pod-identity",
        "Set tenant and images in the file first. Its custom resource definitions take the place of \
         those that are there: the same names and fields, and every object stays as it is.",
        commands,
    )
}

fn taken_over(namespace: &str, labelled: &Labelled) -> Step {
    let by_hand: Vec<_> =
        labelled.served.iter().filter(|object| !is_restarted(object)).map(String::as_str).collect();
    let waiting: Vec<_> = labelled.waiting.iter().map(String::as_str).collect();
    let mut why = "A rollout that is not complete in time has a pod that waits for its identity; \
                   `kubectl describe pod` says what is missing, and giving the namespace back undoes \
                   the step."
        .to_owned();
    for (what, objects) in [
        ("Not restarted here, served from their next pod on", by_hand),
        ("Not restarted, since their new pods would wait for an identity", waiting),
    ] {
        if !objects.is_empty() {
            write!(why, " {what}: {}.", objects.join(", ")).ok();
        }
    }
    let namespace_word = quoted(namespace);
    Step {
        phase: Phase::Move,
        id: format!("take-over/{namespace}"),
        title: format!("Take over namespace {namespace}"),
        why,
        commands: vec![format!("kubectl label namespace {namespace_word} imdslet.dev/injection-")],
    }
}

fn given_back(namespace: &str) -> Step {
    let namespace_word = quoted(namespace);
    Step {
        phase: Phase::GoBack,
        id: format!("give-back/{namespace}"),
        title: format!("Give namespace {namespace} back"),
        why: "Its new pods have no sidecar, and NMI serves them as before.".to_owned(),
        commands: vec![format!(
            "kubectl label namespace {namespace_word} imdslet.dev/injection=disabled --overwrite"
        )],
    }
}

/// Restarts what can be restarted, and waits for it.
fn rollouts(namespace: &str, objects: &BTreeSet<String>) -> Vec<String> {
    let resources: Vec<_> = objects
        .iter()
        .filter(|object| is_restarted(object))
        .filter_map(|object| Some(resource(object)?.1))
        .collect();
    if resources.is_empty() {
        return Vec::new();
    }
    let (namespace, resources) = (quoted(namespace), resources.join(" "));
    vec![
        format!("kubectl -n {namespace} rollout restart {resources}"),
        format!(
            "for one in {resources}; do kubectl -n {namespace} rollout status \"$one\" --timeout=5m; \
             done"
        ),
    ]
}

/// Whether `kubectl rollout restart` knows the kind.
fn is_restarted(object: &str) -> bool {
    ["Deployment/", "StatefulSet/", "DaemonSet/"].iter().any(|kind| object.starts_with(kind))
}

fn remove_parts(estate: &Estate) -> Step {
    let mut commands: Vec<_> = estate
        .surroundings
        .old_parts
        .keys()
        .filter_map(|object| {
            let (namespace, resource) = resource(object)?;
            Some(format!("kubectl -n {namespace} delete {resource}"))
        })
        .collect();
    if commands.is_empty() {
        commands.push("kubectl -n NAMESPACE delete daemonset/nmi deployment/mic".to_owned());
    }
    step(
        Phase::RemoveOld,
        "remove-parts",
        "Delete NMI and MIC, and nothing else of aad-pod-identity",
        "Never `kubectl delete -f` of its manifest, which has the custom resource definitions and so \
         every identity in it, nor `helm uninstall` where its values have azureIdentities, which are \
         objects of the release: delete the release's record instead (kubectl -n NAMESPACE delete \
         secret -l owner=helm,name=RELEASE). AKS's add-on is removed by `az aks update \
         --disable-pod-identity`; look at the custom resources afterwards, and apply manifests/\
         crds.yaml and the backup again if they are gone.",
        commands,
    )
}

fn remove_finalizers() -> Step {
    step(
        Phase::RemoveOld,
        "remove-finalizers",
        "Let go of what MIC held",
        "Only MIC removes its finalizer, and it is gone. Namespaces could not be deleted otherwise.",
        vec![FINALIZERS.to_owned()],
    )
}

/// Nothing, where MIC has assigned no identity to a node.
fn remove_from_nodes(estate: &Estate, needs: &Needs) -> Option<Step> {
    let identities: Vec<_> = needs
        .used
        .keys()
        .filter_map(|name| estate.identities.get(name)?.resource_id.as_deref())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(quoted)
        .collect();
    (!identities.is_empty()).then(|| step(
        Phase::RemoveOld,
        "remove-from-nodes",
        "Take the identities off the nodes, to which MIC assigned them",
        "While they are there, every pod that reaches 169.254.169.254 has them. Not those that \
         pods of the decisions HostNetwork and NodeIdentity need.",
        vec![format!(
            "az vmss identity remove --resource-group NODE_GROUP --name SCALE_SET --identities {}",
            identities.join(" ")
        )],
    ))
}

/// Takes MIC's finalizer off its objects, and deletes these; those of imdslet have none.
const FINALIZERS: &str = r#"kubectl get azureassignedidentity -A -o go-template='{{range .items}}{{if .metadata.finalizers}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}' |
while read -r namespace name; do
  kubectl -n "$namespace" patch azureassignedidentity "$name" --type merge -p '{"metadata":{"finalizers":null}}' </dev/null
  kubectl -n "$namespace" delete azureassignedidentity "$name" --ignore-not-found </dev/null
done"#;

fn uninstall(estate: &Estate) -> Step {
    let mut commands = vec![
        "kubectl delete mutatingwebhookconfiguration,validatingwebhookconfiguration imdslet"
            .to_owned(),
        "kubectl delete namespace imdslet-system".to_owned(),
        "kubectl delete azureassignedidentity -A -l app.kubernetes.io/managed-by=imdslet"
            .to_owned(),
        "kubectl delete clusterrole,clusterrolebinding,validatingadmissionpolicy,\
         validatingadmissionpolicybinding -l app.kubernetes.io/part-of=imdslet"
            .to_owned(),
    ];
    // Without the driver there is no such kind.
    if !estate.classes.is_empty() {
        commands.push(
            "kubectl delete secretproviderclass -A -l app.kubernetes.io/managed-by=imdslet"
                .to_owned(),
        );
    }
    step(
        Phase::Uninstall,
        "uninstall",
        "Remove imdslet, in this order",
        "The webhook configurations first, so that no pod waits for a webhook that is gone. Never \
         `kubectl delete -f manifests/install.yaml`: it has the custom resource definitions, and \
         with them goes every identity and binding. Pods that have a sidecar keep it, and their \
         tokens, until they are made anew.",
        commands,
    )
}

/// Namespace, and kind with name as kubectl takes them, of `Kind/namespace/name`.
fn resource(object: &str) -> Option<(String, String)> {
    let mut parts = object.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some((quoted(namespace), quoted(&format!("{}/{name}", kind.to_ascii_lowercase()))))
}

fn place(object: &str) -> Option<String> {
    let (namespace, resource) = resource(object)?;
    Some(format!("-n {namespace} get {resource}"))
}
