//! What each pod needs, by the webhook's own decision.

use std::collections::BTreeSet;

use imdslet_core::admission::{Admission, Outcome, Refusal, Untouched, admit};
use imdslet_core::names::{ADDRESS_CONTAINER, POD_LABEL};
use imdslet_core::objects::ObjectName;
use imdslet_core::patch::Patch;
use imdslet_core::pod::PodView;
use imdslet_core::settings::Settings;
use imdslet_core::warning::Warning;
use serde_json::Value;

use super::Needs;
use super::accounts::Member;
use super::decision::{Decision, Reason};
use super::estate::{Estate, Workload, text};

/// Stands for the tenant while none is known: which credentials are needed does not depend on it.
const ANY_TENANT: &str = "00000000-0000-0000-0000-000000000000";

/// Decides for every pod what the webhook would decide. Its text, most of the memory of a large plan,
/// is needed no longer then.
pub(super) fn needs(workloads: Vec<Workload>, estate: &Estate, settings: &Settings) -> Needs {
    let mut settings = settings.clone();
    settings.tenant_id.get_or_insert_with(|| ANY_TENANT.to_owned());
    let mut needs = Needs::default();
    for workload in workloads {
        needs.label(&workload);
        let decision = PodView::opted_in(&workload.text).map_err(Refusal::from).and_then(|view| {
            let Some(view) = view else { return Ok(None) };
            needs.selectors.extend(view.selector().map(str::to_owned));
            let admission = admit(&estate.index, &settings, &workload.namespace, &view)?;
            Ok(Some((admission, view.selector().unwrap_or_default().to_owned())))
        });
        match decision {
            Ok(None) => needs.unlabelled(&workload),
            Ok(Some((admission, selector))) => {
                if !estate.surroundings.is_kept_from_webhooks(&workload.namespace) {
                    needs.labelled.entry(workload.namespace.clone()).or_default();
                }
                needs.admitted((estate, &settings), &workload, &selector, admission);
            }
            Err(Refusal::Unbound(why)) => needs.decide(&workload, Reason::Unbound, why),
            Err(refusal) => needs.decide(&workload, Reason::Refused, refusal.to_string()),
        }
    }
    needs
}

impl Needs {
    /// A pod whose maker is in the files too has nothing to say that the maker does not.
    fn decide(&mut self, workload: &Workload, reason: Reason, message: String) {
        if !workload.is_spoken_for {
            self.decisions.insert(Decision::new(reason, &workload.object, message));
        }
    }

    /// What is wrong with the label itself.
    fn label(&mut self, workload: &Workload) {
        if workload.is_label_misplaced {
            let message = format!(
                "its own label {POD_LABEL} does not reach its pods, which get no identity today; \
                 move it to the labels of the pod template, or remove it"
            );
            self.decide(workload, Reason::MisplacedLabel, message);
        }
        if let Some(label) = &workload.misspelt_label {
            let message = format!(
                "its pods have the label {label}, which nothing reads: it is {POD_LABEL}, in small \
                 letters; mend it, or remove it"
            );
            self.decide(workload, Reason::WrongCase, message);
        }
    }

    /// A pod without the label, for which NMI had no identity.
    fn unlabelled(&mut self, workload: &Workload) {
        if let Some(hint) = &workload.hint {
            let message = format!(
                "{hint}, and it has no label: NMI answers its requests for tokens with 404, and once \
                 NMI is gone the node's own metadata service answers them with the node's \
                 identities; give it a label and a binding if it needs a token, or keep it from \
                 169.254.169.254 by a NetworkPolicy"
            );
            self.decide(workload, Reason::NodeIdentity, message);
        }
    }

    fn admitted(
        &mut self,
        (estate, settings): (&Estate, &Settings),
        workload: &Workload,
        selector: &str,
        admission: Admission,
    ) {
        self.warned(estate, workload, selector, admission.warnings);
        match admission.outcome {
            Outcome::Untouched(why) => self.untouched(workload, why),
            Outcome::Injected { identities, patch } => {
                if let Some(hint) = workload.hint.as_ref().filter(|_| !is_link_local(&patch)) {
                    let message = format!(
                        "{hint}, where imdslet does not answer by default; have it use Azure's \
                         client library, or set the annotation imdslet.dev/endpoint: link-local on \
                         its pods, which restricted Pod Security does not admit"
                    );
                    self.decide(workload, Reason::IgnoresVariables, message);
                }
                self.served((estate, settings), workload, identities);
            }
        }
    }

    /// What the webhook would tell the author, and what follows from it here.
    fn warned(
        &mut self,
        estate: &Estate,
        workload: &Workload,
        selector: &str,
        warnings: Vec<Warning>,
    ) {
        for warning in warnings {
            // It is said of the class, once.
            if matches!(warning, Warning::ClassNotReady { .. }) {
                continue;
            }
            let reason = reason_of(&warning);
            let more = match warning {
                Warning::Unbound(..) => near_miss(estate, selector),
                Warning::HostNetwork => MIC_LEAVES.to_owned(),
                _ => String::new(),
            };
            let words = warning.to_string();
            // In the terminal of whoever runs kubectl it says who speaks.
            let words = words.strip_prefix("imdslet: ").unwrap_or(&words);
            self.decide(workload, reason, format!("{words}{more}"));
        }
    }

    /// A pod that the webhook would leave as it is.
    fn untouched(&mut self, workload: &Workload, why: Untouched) {
        match why {
            Untouched::MirrorPod => self.decide(
                workload,
                Reason::StaticPod,
                "it is a static pod, which no webhook can change; run it by a Deployment or a \
                 DaemonSet"
                    .to_owned(),
            ),
            Untouched::Excepted(exception) => {
                let message = format!(
                    "AzurePodIdentityException {exception} has NMI answer it with the node's own \
                     identities, and the node answers it itself once NMI is gone; see that the node \
                     keeps them, or remove the exception"
                );
                self.decide(workload, Reason::NodeIdentity, message);
            }
            // Told by warnings, or wanted so.
            _ => {}
        }
    }

    fn served(
        &mut self,
        (estate, settings): (&Estate, &Settings),
        workload: &Workload,
        identities: Vec<String>,
    ) {
        let account = ObjectName::new(&*workload.namespace, &*workload.account);
        for identity in &identities {
            let Some((namespace, name)) = identity.split_once('/') else { continue };
            let used = self.used.entry(ObjectName::new(namespace, name)).or_default();
            used.entry(account.clone()).or_default().insert(workload.object.clone());
        }
        if estate.surroundings.is_kept_from_webhooks(&workload.namespace) {
            let message = "AKS takes its namespace out of webhooks, so its pods get no sidecar; move \
                           the workload to a namespace of its own, or use AKS workload identity";
            self.decide(workload, Reason::SystemNamespace, message.to_owned());
        } else if !workload.is_spoken_for {
            let labelled = self.labelled.entry(workload.namespace.clone()).or_default();
            let list =
                if identities.is_empty() { &mut labelled.waiting } else { &mut labelled.served };
            list.insert(workload.object.clone());
        }
        let egress = settings.egress_of(&workload.namespace);
        let proxied = || proxied(&workload.text).filter(|_| egress.https_proxy.is_none());
        if let Some(container) = proxied() {
            let message = format!(
                "container `{container}` reaches Azure through a proxy; its NO_PROXY is extended, \
                 and the sidecar needs the proxy too: --https-proxy"
            );
            self.decide(workload, Reason::Proxy, message);
        }
        if !identities.is_empty() {
            let groups = self.accounts.entry(account).or_default();
            groups.entry(identities).or_default().insert(Member::of(workload));
        }
    }
}

/// What follows from how MIC has served pods of the node's network, and MIC's going.
const MIC_LEAVES: &str = "; MIC may have assigned their identities to the node for it, and takes them \
                          away when it lets go: assign them to the node pool yourself first (az vmss \
                          identity assign), or take it off the node's network";

/// Whether the pod gets Azure's own address. What a pod chose stands only in its patch.
fn is_link_local(patch: &Patch) -> bool {
    patch.to_string().contains(&format!("\"name\":\"{ADDRESS_CONTAINER}\""))
}

fn reason_of(warning: &Warning) -> Reason {
    match warning {
        Warning::Unbound(..) => Reason::Unbound,
        Warning::HostNetwork => Reason::HostNetwork,
        Warning::Windows => Reason::Windows,
        Warning::Skipped(skipped) if skipped.reason.reason() == "ForeignSecret" => {
            Reason::ForeignSecret
        }
        Warning::Skipped(_) => Reason::SkippedBinding,
        Warning::NoProviderIdentity { .. } => Reason::SecretsStore,
        Warning::WorkloadIdentity(_) => Reason::WorkloadIdentity,
        Warning::HiddenProxy { .. } => Reason::Proxy,
        Warning::PortTaken { .. }
        | Warning::MetricsPortTaken { .. }
        | Warning::OwnVariable { .. }
        | Warning::OwnSysctl => Reason::PodConflict,
        _ => Reason::Warning,
    }
}

/// The selectors that an unbound pod's author may have meant.
fn near_miss(estate: &Estate, selector: &str) -> String {
    let near: BTreeSet<_> = estate
        .bindings
        .iter()
        .filter(|(_, binding)| {
            *binding.selector != *selector && binding.selector.eq_ignore_ascii_case(selector)
        })
        .map(|(name, binding)| format!("AzureIdentityBinding {name} has `{}`", binding.selector))
        .collect();
    if near.is_empty() {
        return String::new();
    }
    let near: Vec<_> = near.into_iter().collect();
    format!("; {}: letter case counts", near.join(", "))
}

/// The first container that sets a proxy literally.
fn proxied(pod: &str) -> Option<String> {
    // Most pods have none, and are not read again.
    if !pod.contains("_PROXY") && !pod.contains("_proxy") {
        return None;
    }
    let pod: Value = serde_json::from_str(pod).ok()?;
    let lists = ["/spec/initContainers", "/spec/containers"];
    let containers = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let sets_one = |container: &&Value| {
        let variables = container.get("env").and_then(Value::as_array).into_iter().flatten();
        let mut names = variables.filter(|variable| !text(variable, "/value").is_empty());
        names.any(|variable| {
            let name = text(variable, "/name");
            name.eq_ignore_ascii_case("HTTPS_PROXY") || name.eq_ignore_ascii_case("ALL_PROXY")
        })
    };
    let mut containers = containers.filter(sets_one);
    containers.next().map(|container| text(container, "/name").to_owned())
}
