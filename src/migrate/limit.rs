//! Azure's limit of federated credentials for one identity, and the ways out.

use std::collections::{BTreeMap, BTreeSet};

use imdslet_core::shell::quoted;
use serde::Serialize;
use serde_json::{Value, json};

use super::decision::{Decision, Reason};
use crate::emulator::FederatedCredential;

/// Azure's limit of federated credentials for one identity.
pub const LIMIT: usize = 20;

/// An identity that would need more federated credentials than Azure allows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OverLimit {
    /// `namespace/name` of an AzureIdentity that is it.
    pub identity: String,
    /// Its client id, which is what Azure knows it by.
    pub client_id: String,
    /// How many it would need.
    pub credentials: usize,
    /// How many of them are for service accounts of each namespace: fewer accounts need fewer.
    pub by_namespace: BTreeMap<String, usize>,
    /// What has it served by AKS identity bindings instead, which need none.
    pub identity_binding: IdentityBinding,
}

/// What an identity needs to be served by AKS identity bindings.
#[derive(Debug, Serialize)]
pub struct IdentityBinding {
    /// Commands, in order; words in capitals are to be filled in.
    pub commands: Vec<String>,
    /// The ClusterRole and the ClusterRoleBinding by which the service accounts may use it.
    pub objects: Vec<Value>,
}

impl OverLimit {
    /// Counts by client id: two AzureIdentities may be one identity in Azure.
    pub(super) fn among(credentials: &[FederatedCredential]) -> Vec<Self> {
        let mut by_client: BTreeMap<String, Vec<&FederatedCredential>> = BTreeMap::new();
        for credential in credentials {
            by_client
                .entry(credential.client_id.to_ascii_lowercase())
                .or_default()
                .push(credential);
        }
        let over = by_client.into_values().filter(|credentials| credentials.len() > LIMIT);
        over.filter_map(|credentials| Self::of(&credentials)).collect()
    }

    fn of(credentials: &[&FederatedCredential]) -> Option<Self> {
        let first = credentials.first()?;
        let accounts: Vec<_> = credentials.iter().filter_map(|one| account(&one.subject)).collect();
        let mut by_namespace = BTreeMap::new();
        for (namespace, _) in &accounts {
            *by_namespace.entry((*namespace).to_owned()).or_default() += 1;
        }
        let identities: BTreeSet<_> =
            credentials.iter().filter_map(|one| one.identity.as_deref()).collect();
        Some(Self {
            identity: first.identity.clone().unwrap_or_default(),
            client_id: first.client_id.clone(),
            credentials: credentials.len(),
            by_namespace,
            identity_binding: IdentityBinding::of(first, &identities, &accounts),
        })
    }

    pub(super) fn decision(&self) -> Decision {
        let by_namespace: Vec<_> =
            self.by_namespace.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let message = format!(
            "client id {} needs {} federated credentials, and Azure allows {LIMIT} for one identity, \
             those of other clusters counted: let more workloads share a service account (accounts \
             by namespace: {}), split the identity, or use AKS identity bindings, which need a \
             ClusterRole instead of credentials (`identityBinding` of -o json has it)",
            self.client_id,
            self.credentials,
            by_namespace.join(", ")
        );
        let object = format!("AzureIdentity/{}", self.identity);
        Decision::new(Reason::TooManyCredentials, object, message)
    }
}

impl IdentityBinding {
    fn of(
        first: &FederatedCredential,
        identities: &BTreeSet<&str>,
        accounts: &[(&str, &str)],
    ) -> Self {
        let client_id = &first.client_id;
        let resource_id = first.resource_id.as_deref().unwrap_or("RESOURCE_ID");
        let name = format!("imdslet-{client_id}");
        let mut commands = vec![format!(
            "az aks identity-binding create --resource-group GROUP --cluster-name CLUSTER \
             --name {name} --managed-identity-resource-id {}",
            quoted(resource_id)
        )];
        commands.extend(identities.iter().filter_map(|identity| {
            let (namespace, name) = identity.split_once('/')?;
            let (namespace, name) = (quoted(namespace), quoted(name));
            Some(format!(
                "kubectl -n {namespace} annotate azureidentity {name} imdslet.dev/source=binding"
            ))
        }));
        let subjects: Vec<_> = accounts
            .iter()
            .map(|(namespace, account)| {
                json!({"kind": "ServiceAccount", "name": account, "namespace": namespace})
            })
            .collect();
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [{
                "apiGroups": ["cid.wi.aks.azure.com"],
                "resources": [client_id],
                "verbs": ["use-managed-identity"],
            }],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name,
            },
            "subjects": subjects,
        });
        Self { commands, objects: vec![role, binding] }
    }
}

/// Namespace and name of the service account that a subject is.
fn account(subject: &str) -> Option<(&str, &str)> {
    subject.strip_prefix("system:serviceaccount:")?.split_once(':')
}
