//! What each pod needs, by the webhook's own decision.

use std::collections::BTreeSet;

use imdslet_core::admission::{Admission, Outcome, Refusal, Untouched, admit};
use imdslet_core::names::POD_LABEL;
use imdslet_core::objects::ObjectName;
use imdslet_core::pod::PodView;
use imdslet_core::settings::Settings;
use imdslet_core::warning::Warning;
use serde_json::Value;

use super::decision::{Decision, Reason};
use super::estate::{Estate, Workload, text};
use super::{Needs, whole};

/// Stands for the tenant while none is known: which credentials are needed does not depend on it.
const ANY_TENANT: &str = "00000000-0000-0000-0000-000000000000";

/// Decides for every pod what the webhook would decide.
pub(super) fn needs(estate: &Estate, settings: &Settings) -> Needs {
    let mut settings = settings.clone();
    settings.tenant_id.get_or_insert_with(|| ANY_TENANT.to_owned());
    let mut needs = Needs::default();
    for workload in &estate.workloads {
        if workload.is_label_misplaced {
            needs.decide(
                workload,
                Reason::MisplacedLabel,
                format!(
                    "its own label {POD_LABEL} does not reach its pods, which get no identity \
                     today; move it to the labels of the pod template, or remove it"
                ),
            );
        }
        let decision = PodView::opted_in(&workload.text).map_err(Refusal::from).and_then(|view| {
            let Some(view) = view else { return Ok(None) };
            needs.selectors.extend(view.selector().map(str::to_owned));
            let admission = admit(&estate.index, &settings, &workload.namespace, &view)?;
            Ok(Some((admission, view.selector().unwrap_or_default().to_owned())))
        });
        match decision {
            Ok(None) => {}
            Ok(Some((admission, selector))) => {
                needs.admitted(estate, workload, &selector, admission);
            }
            Err(Refusal::Unbound(why)) => needs.decide(workload, Reason::Unbound, why),
            Err(refusal) => needs.decide(workload, Reason::Refused, refusal.to_string()),
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

    fn admitted(
        &mut self,
        estate: &Estate,
        workload: &Workload,
        selector: &str,
        admission: Admission,
    ) {
        for warning in admission.warnings {
            let reason = reason_of(&warning);
            let near = match warning {
                Warning::Unbound(..) => near_miss(estate, selector),
                _ => String::new(),
            };
            self.decide(workload, reason, format!("{warning}{near}"));
        }
        match admission.outcome {
            Outcome::Untouched(Untouched::MirrorPod) => self.decide(
                workload,
                Reason::StaticPod,
                "it is a static pod, which no webhook can change; run it by a Deployment or a \
                 DaemonSet"
                    .to_owned(),
            ),
            Outcome::Untouched(Untouched::InjectionDisabled) => self.decide(
                workload,
                Reason::InjectionDisabled,
                "its namespace has the label imdslet.dev/injection: disabled, so it gets nothing \
                 from imdslet and is not planned for; remove that label, and plan again, before \
                 NMI goes"
                    .to_owned(),
            ),
            // Told by warnings, or wanted so.
            Outcome::Untouched(_) => {}
            Outcome::Injected { identities, .. } => self.served(workload, identities),
        }
    }

    fn served(&mut self, workload: &Workload, identities: Vec<String>) {
        let account = ObjectName::new(&*workload.namespace, &*workload.account);
        for identity in &identities {
            let Some((namespace, name)) = identity.split_once('/') else { continue };
            let used = self.used.entry(ObjectName::new(namespace, name)).or_default();
            used.entry(account.clone()).or_default().insert(workload.object.clone());
        }
        if whole::is_kept_from_webhooks(&workload.namespace) {
            let message = "AKS takes kube-system out of webhooks, so its pods get no sidecar; move \
                           the workload to a namespace of its own, or use AKS workload identity";
            self.decide(workload, Reason::SystemNamespace, message.to_owned());
        }
        if let Some(container) = proxied(&workload.text) {
            let message = format!(
                "container `{container}` reaches Azure through a proxy; its NO_PROXY is extended, \
                 and the sidecar needs the proxy too: set the proxy variables of the chart"
            );
            self.decide(workload, Reason::Proxy, message);
        }
        if !identities.is_empty() {
            let groups = self.accounts.entry(account).or_default();
            groups.entry(identities).or_default().insert(workload.clone());
        }
    }
}

fn reason_of(warning: &Warning) -> Reason {
    match warning {
        Warning::Unbound(..) => Reason::Unbound,
        Warning::HostNetwork => Reason::HostNetwork,
        Warning::Windows => Reason::Windows,
        Warning::Skipped(_) => Reason::SkippedBinding,
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
            binding.selector != selector && binding.selector.eq_ignore_ascii_case(selector)
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
