//! `imdslet migrate`: what must exist in Azure before the switch, and what must be decided.
//!
//! The plan is a function of the objects and the settings. Which identity a pod gets is decided by
//! the functions that decide it in the webhook.

mod accounts;
mod args;
mod decision;
mod estate;
mod lean;
mod limit;
mod pods;
mod reading;
mod steps;
mod whole;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imdslet_core::contract::Source;
use imdslet_core::federation::{credential_name, is_out_of_reach};
use imdslet_core::objects::{AzureIdentity, Credential, ObjectName};
use imdslet_core::settings::Settings;
use serde::Serialize;
use serde_json::Value;

pub use accounts::{Patch, Proposal};
pub use args::MigrateArgs;
pub use decision::{Decision, Reason};
pub use estate::Unplannable;
pub use limit::{IdentityBinding, LIMIT, OverLimit};
pub use reading::{Dump, Unread, read, read_live};
pub use steps::{Phase, Step};
pub use write::Format;

use crate::documents::Place;
use crate::emulator::FederatedCredential;
use crate::issuer::Issuer;
use estate::Estate;

/// What must exist and what must be decided. Everything in it is sorted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What must exist in Azure, by identity.
    pub federated_credentials: Vec<FederatedCredential>,
    /// What a person must decide.
    pub decisions: Vec<Decision>,
    /// Who uses which identity.
    pub identities: Vec<Used>,
    /// Accounts for the workloads of one identity each, for the decisions `SharedAccount`.
    pub proposals: Vec<Proposal>,
    /// Identities that need more credentials than there may be, and the ways out.
    pub over_limit: Vec<OverLimit>,
    /// What to do, in order: the move, and the ways back.
    pub steps: Vec<Step>,
    /// Images that a cluster without access to public registries must mirror.
    pub images: BTreeSet<String>,
    /// How many objects of each kind were planned with.
    pub read: BTreeMap<String, usize>,
    /// How many objects of each kind were left aside.
    pub ignored: BTreeMap<String, usize>,
    /// Kinds that a plan needs and that are not in the files. There may be none in the cluster.
    pub absent: Vec<&'static str>,
}

/// An AzureIdentity and the workloads that would ask for its tokens.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Used {
    /// `namespace/name`.
    pub identity: String,
    /// Its client id.
    pub client_id: String,
    /// Its Azure resource id, if it says it.
    pub resource_id: Option<String>,
    /// How its tokens are got.
    pub source: &'static str,
    /// By service account, as `namespace/name`: the workloads.
    pub accounts: BTreeMap<String, BTreeSet<String>>,
}

/// The workloads of a namespace whose pods would get a sidecar, by `Kind/namespace/name`.
#[derive(Debug, Default)]
struct Labelled {
    /// They get an identity.
    served: BTreeSet<String>,
    /// They would wait for one.
    waiting: BTreeSet<String>,
}

/// What the pods turned out to need.
#[derive(Debug, Default)]
struct Needs {
    /// For each AzureIdentity, by account, the workloads.
    used: BTreeMap<ObjectName, BTreeMap<ObjectName, BTreeSet<String>>>,
    /// For each account, by the identities that its pods get, the workloads.
    accounts: BTreeMap<ObjectName, accounts::Groups>,
    /// Selectors of labelled pods.
    selectors: BTreeSet<String>,
    /// Namespaces that have labelled pods, and what would get a sidecar there.
    labelled: BTreeMap<String, Labelled>,
    decisions: BTreeSet<Decision>,
}

/// Makes the plan of objects, each with its document.
///
/// # Errors
///
/// [`Unplannable`], if they are not the whole of anything.
pub fn plan(
    objects: impl IntoIterator<Item = (Arc<Place>, Value)>,
    settings: &Settings,
    issuer: &Issuer,
    default_namespace: &str,
) -> Result<Plan, Unplannable> {
    let mut estate = Estate::read(objects, default_namespace)?;
    let workloads = std::mem::take(&mut estate.workloads);
    let mut needs = pods::needs(workloads, &estate, settings);
    let federated_credentials = credentials(&estate, &needs, settings, issuer);
    let over_limit = OverLimit::among(&federated_credentials);
    let mut decisions = std::mem::take(&mut needs.decisions);
    decisions.extend(private(issuer).filter(|_| !federated_credentials.is_empty()));
    whole::decide(&estate, &over_limit, settings, &needs, &mut decisions);
    let proposals = accounts::decide(&estate, &needs, &mut decisions);
    let steps = steps::steps(&estate, &needs, &proposals);
    let identities = needs.used.iter().filter_map(|(name, accounts)| {
        let identity = estate.identities.get(name)?;
        let accounts = accounts.iter().map(|(name, who)| (name.to_string(), who.clone()));
        Some(Used {
            identity: name.to_string(),
            client_id: identity.client_id.to_string(),
            resource_id: identity.resource_id.as_deref().map(str::to_owned),
            source: source(identity).as_str(),
            accounts: accounts.collect(),
        })
    });
    let kinds = [
        "AzureIdentity",
        "AzurePodIdentityException",
        "Namespace",
        "SecretProviderClass",
        "ServiceAccount",
    ];
    Ok(Plan {
        identities: identities.collect(),
        federated_credentials,
        decisions: decisions.into_iter().collect(),
        proposals,
        over_limit,
        steps,
        images: BTreeSet::from([
            settings.sidecar_image.clone(),
            whole::webhook_image(&settings.sidecar_image),
        ]),
        absent: kinds.into_iter().filter(|kind| !estate.read.contains_key(*kind)).collect(),
        read: estate.read,
        ignored: estate.ignored,
    })
}

/// What is said of an issuer whose tokens Entra ID cannot check.
fn private(issuer: &Issuer) -> Option<Decision> {
    let message = "nobody outside of the cluster can read its keys there, so Entra ID takes none of its \
                   tokens: publish them first (AKS: az aks update --enable-oidc-issuer; elsewhere \
                   --service-account-issuer) and plan again, since the credentials are then others";
    let decision =
        || Decision::new(Reason::PrivateIssuer, format!("Issuer/{}", issuer.as_str()), message);
    is_out_of_reach(issuer.as_str()).then(decision)
}

/// The federated credentials of all identities that have them. Azure knows an identity by its
/// client id, and two AzureIdentities may be one there.
fn credentials(
    estate: &Estate,
    needs: &Needs,
    settings: &Settings,
    issuer: &Issuer,
) -> Vec<FederatedCredential> {
    let mut credentials = BTreeMap::new();
    for (name, accounts) in &needs.used {
        let Some(identity) = estate.identities.get(name) else { continue };
        if source(identity) != Source::Federated {
            continue;
        }
        let client_id = identity.client_id.to_ascii_lowercase();
        for account in accounts.keys() {
            let subject = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
            credentials.entry((client_id.clone(), subject.clone())).or_insert_with(|| {
                FederatedCredential {
                    identity: Some(name.to_string()),
                    resource_id: identity.resource_id.as_deref().map(str::to_owned),
                    client_id: identity.client_id.to_string(),
                    name: Some(credential_name(issuer.as_str(), &subject)),
                    issuer: issuer.as_str().to_owned(),
                    subject,
                    audiences: vec![settings.audience.clone()],
                }
            });
        }
    }
    let mut credentials: Vec<_> = credentials.into_values().collect();
    credentials.sort_by(|a, b| {
        (&a.identity, &a.subject, &a.client_id).cmp(&(&b.identity, &b.subject, &b.client_id))
    });
    credentials
}

fn source(identity: &AzureIdentity) -> Source {
    match &identity.credential {
        Credential::Managed(source) => *source,
        Credential::Secret(_) => Source::Secret,
        Credential::Certificate(_) => Source::Certificate,
    }
}
