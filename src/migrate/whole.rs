//! What must be decided about the estate as a whole.

use std::collections::{BTreeMap, BTreeSet};

use imdslet_core::contract::Source;
use imdslet_core::objects::{Credential, ObjectName};
use imdslet_core::settings::{Scope, Settings};

use super::decision::{Decision, Reason};
use super::estate::Estate;
use super::limit::OverLimit;
use super::{Needs, source};

/// Adds the decisions about more than one pod.
pub(super) fn decide(
    estate: &Estate,
    over_limit: &[OverLimit],
    settings: &Settings,
    needs: &Needs,
    decisions: &mut BTreeSet<Decision>,
) {
    for (object, fault) in &estate.faulty {
        decisions.insert(Decision::new(Reason::BrokenObject, object, fault.to_string()));
    }
    decisions.extend(over_limit.iter().map(OverLimit::decision));
    identities(estate, settings, needs, decisions);
    bindings(estate, needs, decisions);
    selectors(estate, settings, decisions);
    namespaces(estate, needs, decisions);
    old_parts(estate, settings, decisions);
    surroundings(estate, settings, decisions);
}

fn identities(
    estate: &Estate,
    settings: &Settings,
    needs: &Needs,
    decisions: &mut BTreeSet<Decision>,
) {
    let named: BTreeSet<_> = estate
        .bindings
        .iter()
        .map(|(name, binding)| ObjectName::new(&*name.namespace, &*binding.azure_identity))
        .collect();
    for (name, identity) in &estate.identities {
        let object = format!("AzureIdentity/{name}");
        if !named.contains(name) {
            let message = "no AzureIdentityBinding of its namespace names it, so no pod uses it; \
                           remove it, or bind it";
            decisions.insert(Decision::new(Reason::UnusedIdentity, &object, message));
        }
        let is_used = needs.used.contains_key(name);
        if is_used && identity.tenant_id.is_none() && settings.tenant_id.is_none() {
            let message = "names no tenant; install with AZURE_TENANT_ID (--tenant-id), and give \
                           it to this plan, or set the annotation imdslet.dev/tenant-id";
            decisions.insert(Decision::new(Reason::NoTenant, &object, message));
        }
        if let Credential::Secret(secret) | Credential::Certificate(secret) = &identity.credential
            && secret.namespace != name.namespace
        {
            let message = format!(
                "its Secret {secret} is not in its own namespace, where NMI read Secrets of any; \
                 copy it there and mend spec.clientPassword, since the kubelet mounts only Secrets \
                 of the pod's namespace"
            );
            decisions.insert(Decision::new(Reason::ForeignSecret, &object, message));
        }
        if is_used && identity.resource_id.is_none() && source(identity) == Source::Federated {
            let message = "has no spec.resourceID, so its credentials are in no script; set it, or \
                           create what `-o json` lists by hand";
            decisions.insert(Decision::new(Reason::NoResourceId, &object, message));
        }
    }
}

fn bindings(estate: &Estate, needs: &Needs, decisions: &mut BTreeSet<Decision>) {
    for (name, binding) in &estate.bindings {
        if !needs.selectors.contains(&*binding.selector) {
            let message = format!(
                "no pod that was read has the label aadpodidbinding: {}; remove the binding, or \
                 plan with the workloads that are missing",
                binding.selector
            );
            let object = format!("AzureIdentityBinding/{name}");
            decisions.insert(Decision::new(Reason::UnusedBinding, object, message));
        }
    }
    for (identities, workloads) in needs.accounts.values().flatten() {
        let [default, _, ..] = identities.as_slice() else { continue };
        let message = format!(
            "may have {}: requests that name none got any of them until now, and get {default} \
             from imdslet; name one in the application (client id), or remove bindings",
            identities.join(", ")
        );
        let objects: BTreeSet<_> = workloads.iter().map(|one| one.object.as_str()).collect();
        for object in objects {
            decisions.insert(Decision::new(Reason::SeveralIdentities, object, &*message));
        }
    }
}

/// Bindings of one selector give their pods all of their identities.
fn selectors(estate: &Estate, settings: &Settings, decisions: &mut BTreeSet<Decision>) {
    let mut first: BTreeMap<(&str, &str), &ObjectName> = BTreeMap::new();
    for (name, binding) in &estate.bindings {
        let reach = if settings.scope == Scope::Cluster { "" } else { &*name.namespace };
        let earlier = *first.entry((reach, &binding.selector)).or_insert(name);
        if earlier == name {
            continue;
        }
        let message = format!(
            "has spec.selector {} like AzureIdentityBinding {earlier}: pods with that label get the \
             identities of both, and the default is that of the binding in their own namespace, \
             then of the first by name; use another selector if that is not meant",
            binding.selector
        );
        let object = format!("AzureIdentityBinding/{name}");
        decisions.insert(Decision::new(Reason::DuplicateSelector, object, message));
    }
}

fn namespaces(estate: &Estate, needs: &Needs, decisions: &mut BTreeSet<Decision>) {
    for namespace in &estate.surroundings.not_taken_over {
        if needs.labelled.contains_key(namespace) {
            let message = "has the label imdslet.dev/injection: disabled, so its pods get nothing \
                           from imdslet yet; it is planned for all the same: take it over (-o \
                           steps) before NMI goes";
            let object = format!("Namespace/{namespace}");
            decisions.insert(Decision::new(Reason::InjectionDisabled, object, message));
        }
    }
}

fn old_parts(estate: &Estate, settings: &Settings, decisions: &mut BTreeSet<Decision>) {
    if settings.scope == Scope::Namespaced {
        return;
    }
    for (object, _) in estate.surroundings.old_parts.iter().filter(|(_, keeps)| **keeps) {
        let message = "keeps every pod to the bindings of its own namespace; install imdslet with \
                       --scope=namespaced, and give that to this plan, or every binding reaches \
                       the pods of all namespaces";
        decisions.insert(Decision::new(Reason::Scope, object, message));
    }
}

fn surroundings(estate: &Estate, settings: &Settings, decisions: &mut BTreeSet<Decision>) {
    for object in &estate.classes {
        let message = "has usePodIdentity, by which the driver asks NMI at the node; apply \
                       manifests/csi.yaml, and the pods' volumes get a class of imdslet's own, or \
                       set usePodIdentity to \"false\" and clientID to the identity's client id; \
                       either needs a federated credential for the pods' service account";
        decisions.insert(Decision::new(Reason::SecretsStore, object, message));
    }
    let first = |objects: &BTreeSet<String>| {
        let others = objects.len().saturating_sub(1);
        let and = if others > 0 { format!(" (and {others} more)") } else { String::new() };
        objects.first().map(|object| (object.clone(), and))
    };
    if let Some((object, and)) = first(&estate.surroundings.policies) {
        let message = format!(
            "a policy engine is at work{and}; let it admit the sidecar's image {} and its uid",
            settings.sidecar_image
        );
        decisions.insert(Decision::new(Reason::PolicyEngine, object, message));
    }
    if let Some((object, and)) = first(&estate.surroundings.held) {
        let message = format!(
            "has finalizers{and} that only MIC removes, and that keep its namespace from being \
             deleted; take them off once MIC is gone (-o steps has the command)"
        );
        decisions.insert(Decision::new(Reason::OldFinalizers, object, message));
    }
    for object in &estate.surroundings.node_classes {
        let message = "has useVMManagedIdentity, by which the driver asks with an identity of the \
                       node; MIC may have put it there, and takes it away when it lets go: assign \
                       it to the node pool yourself (az vmss identity assign), or set clientID \
                       instead";
        decisions.insert(Decision::new(Reason::NodeIdentity, object, message));
    }
    // What the cluster itself is made of comes from where its maker has it.
    let own = estate
        .surroundings
        .registries
        .iter()
        .filter(|(namespace, _)| !estate.surroundings.is_kept_from_webhooks(namespace));
    let own = own.flat_map(|(_, registries)| registries).collect();
    decisions.extend(images(&own, &settings.sidecar_image));
}

/// Registries that anybody can pull from.
const PUBLIC: [&str; 6] =
    ["docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "quay.io", "registry.k8s.io"];

/// A cluster whose workloads all have images of one registry may reach no other one.
fn images(registries: &BTreeSet<&String>, sidecar: &str) -> Option<Decision> {
    let mut all = registries.iter();
    let registry = all.next().filter(|only| !PUBLIC.contains(&only.as_str()))?;
    if all.next().is_some() || sidecar.starts_with(&format!("{registry}/")) {
        return None;
    }
    let message = format!(
        "the images of all workloads are from there, and imdslet's would not be: copy {sidecar} and \
         {} to it, and name them in manifests/install.yaml and with --sidecar-image",
        webhook_image(sidecar)
    );
    Some(Decision::new(Reason::Images, format!("Registry/{registry}"), message))
}

/// The webhook's image goes by the sidecar's name.
pub(super) fn webhook_image(sidecar: &str) -> String {
    sidecar.replacen("imdslet-sidecar", "imdslet-webhook", 1)
}
