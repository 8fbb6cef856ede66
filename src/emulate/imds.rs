//! `imdslet emulate imds`: the token endpoint of a pod, on this machine.
//!
//! There is one implementation of the protocols, the sidecar's. So this makes up a pod, has it
//! decided about as the webhook would, and starts the real sidecar in front of the stand-in for
//! Microsoft Entra ID; from there on everything is as in a cluster.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use imdslet_core::contract::{PodIdentities, PodIdentity};
use imdslet_core::names::{GROUP, IDENTITIES, POD_LABEL, SOURCE};
use imdslet_core::settings::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ImdsArgs;
use crate::documents;
use crate::emulator::{
    Config, Entra, LocalIssuer, Server, ServiceAccountToken, is_resource, stable_id,
};
use crate::inject::inject;
use crate::node::{self, Node};
use crate::programs::{self, Program};

/// Who signs the made-up pod's service account tokens. The name leads nowhere (RFC 2606).
const ISSUER: &str = "https://cluster.emulated.invalid";

/// The made-up pod's service account.
const SERVICE_ACCOUNT: &str = "default";

/// The made-up pod's name.
const POD: &str = "emulated";

/// How long its service account token is valid. It opens nothing but the emulator, whose CA and
/// keys are gone with it.
const TOKEN_LIFETIME: Duration = Duration::from_hours(24 * 365);

/// A token endpoint that serves until this is dropped.
pub(super) struct Imds {
    /// What an application must be told, as it is told in a pod; and where the tokens' keys are.
    pub(super) variables: Vec<(String, String)>,
    sidecar: Program,
    entra: JoinSet<std::io::Result<()>>,
    // Removed with it: the projected volume.
    _folder: TempDir,
}

/// Why there is nothing to serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImdsError {
    /// The admission refuses the made-up pod.
    #[error("a pod with this label is refused: {0}")]
    Refused(String),
    /// No identity for the label.
    #[error(
        "a pod in namespace `{namespace}` with the label {POD_LABEL}: {label} gets no identity of \
         these files: {why}"
    )]
    Unbound {
        /// The pod's namespace.
        namespace: String,
        /// The label.
        label: String,
        /// The admission's words.
        why: String,
    },
}

impl Imds {
    /// Starts everything. `programs` is the folder with `imdslet-sidecar`.
    ///
    /// # Errors
    ///
    /// [`ImdsError`], or what cannot be read, listened on or started.
    pub(super) async fn start(args: &ImdsArgs, programs: &Path) -> anyhow::Result<Self> {
        let program = programs::find(programs, "imdslet-sidecar")?;
        let now = SystemTime::now();
        let entra = Arc::new(Entra::new(Config::parse("tenants: []", None)?, now)?);
        let listen = args.entra_listen;
        let tcp = TcpListener::bind(listen).await.with_context(|| {
            format!("--entra-listen: cannot listen on {listen}; is another program there?")
        })?;
        let server = Server::new(tcp, Arc::clone(&entra), &[], now)?;
        let authority = server.base_url();
        let pod = admitted(args, &authority, entra.ca_pem())?;
        let identities = identities(&pod)?;
        let issuer = LocalIssuer::generate(ISSUER)?;
        let known = json!(issuer.jwks());
        let config = configuration(&identities, args, &known);
        entra.replace(Config::parse(&config.to_string(), None)?);
        if let Some(path) = &args.ca_out {
            fs::write(path, entra.ca_pem())
                .with_context(|| format!("--ca-out: cannot write {}", path.display()))?;
        }
        let mut serving = JoinSet::new();
        serving.spawn(server.serve(CancellationToken::new()));

        let folder = programs::folder("imdslet-emulate-")?;
        let uid = Uuid::new_v4().to_string();
        let mut node = Node::new(folder.path().join("imdslet"), &uid, &pod)?;
        node.mount(&|audience| {
            let token = ServiceAccountToken {
                namespace: &args.namespace,
                service_account: SERVICE_ACCOUNT,
                pod_name: POD,
                pod_uid: &uid,
                audience,
                lifetime: TOKEN_LIFETIME,
            };
            Ok(issuer.service_account_token(&token, SystemTime::now())?)
        })?;
        let sidecar = node.start_sidecar(&program, args.port).await?;
        let port = sidecar.port("")?;
        let here = |(name, value): (String, String)| (name, node::here(&value, port));
        let mut variables: Vec<_> = node.application()?.into_iter().map(here).collect();
        variables.push(("IMDSLET_EMULATOR_AUTHORITY".to_owned(), authority));
        Ok(Self { variables, sidecar, entra: serving, _folder: folder })
    }

    /// Waits for an end that nobody asked for.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        // Both are cancel-safe, and neither is waited for again.
        tokio::select! {
            error = self.sidecar.ended() => error,
            _ = self.entra.join_next() => anyhow::anyhow!("the stand-in for Entra ID has ended"),
        }
    }
}

/// The made-up pod as the webhook would make it.
fn admitted(args: &ImdsArgs, authority: &str, ca: &str) -> anyhow::Result<Value> {
    let label = args.label.clone().unwrap_or_else(|| POD.to_owned());
    let mut read = documents::read(&args.files)?;
    for document in &mut read {
        as_emulated(&mut document.value);
    }
    let made_up: String = made_up(args, &label).iter().map(Value::to_string).collect();
    let mut documents = Vec::new();
    documents::parse("(made up)", &made_up, &mut documents)?;
    documents.extend(read);
    let given =
        [("tenant-id", args.tenant_id.as_str()), ("authority", authority), ("extra-ca", ca)];
    let given = given.map(|(name, value)| (name, vec![value.to_owned()])).into_iter().collect();
    let settings = Settings::read(&given).map_err(crate::config::SettingsError::Mistakes)?;
    let injected = inject(documents, &settings, &args.namespace)?;
    if let Some(refusal) = injected.refusals.first() {
        return Err(ImdsError::Refused(refusal.clone()).into());
    }
    let pod = injected.documents().iter().find(|document| is(document, "Pod"));
    let pod = pod.context("BUG: the made-up pod is gone")?;
    if identities(pod)?.is_empty() {
        let namespace = args.namespace.clone();
        let why = injected.warnings.join("; ");
        return Err(ImdsError::Unbound { namespace, label, why }.into());
    }
    Ok(pod.clone())
}

/// The pod, and where no files are given an identity for each client id, in their order.
fn made_up(args: &ImdsArgs, label: &str) -> Vec<Value> {
    let namespace = &args.namespace;
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": POD, "namespace": namespace, "labels": {POD_LABEL: label}},
        "spec": {"serviceAccountName": SERVICE_ACCOUNT, "containers": [{"name": "app"}]},
    })];
    if !args.files.is_empty() {
        return objects;
    }
    for (at, client_id) in args.client_ids().iter().enumerate() {
        // Bindings count in the order of their names.
        let name = format!("emulated-{at:03}");
        let metadata = json!({"name": name, "namespace": namespace});
        objects.push(json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "AzureIdentity", "metadata": metadata,
            "spec": {"type": 0, "clientID": client_id, "resourceID": resource_id(at)},
        }));
        objects.push(json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "AzureIdentityBinding",
            "metadata": metadata,
            "spec": {"azureIdentity": name, "selector": label},
        }));
    }
    objects
}

fn resource_id(at: usize) -> String {
    format!(
        "/subscriptions/00000000-0000-4000-8000-000000000000/resourcegroups/emulated/providers/\
         Microsoft.ManagedIdentity/userAssignedIdentities/emulated-{at:03}"
    )
}

/// Makes of every identity one that the emulator can play: whatever it proves itself by in a
/// cluster, an application sees the same tokens.
fn as_emulated(value: &mut Value) {
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(as_emulated);
    }
    if !is(value, "AzureIdentity") {
        return;
    }
    if let Some(annotations) =
        value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(SOURCE);
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|name, _| {
            !["type", "adEndpoint"].iter().any(|field| name.eq_ignore_ascii_case(field))
        });
        spec.insert("type".to_owned(), json!(0));
    }
}

fn is(value: &Value, kind: &str) -> bool {
    value.get("kind").and_then(Value::as_str) == Some(kind)
}

/// What the pod's sidecar is told; nothing where the pod was left alone.
fn identities(pod: &Value) -> anyhow::Result<Vec<PodIdentity>> {
    let pointer = format!("/metadata/annotations/{}", IDENTITIES.replace('/', "~1"));
    let Some(annotation) = pod.pointer(&pointer).and_then(Value::as_str) else {
        return Ok(Vec::new());
    };
    let read: PodIdentities =
        serde_json::from_str(annotation).context("BUG: the made-up pod's identities")?;
    Ok(read.identities)
}

/// The configuration of the stand-in for Entra ID that gives these identities their tokens.
fn configuration(identities: &[PodIdentity], args: &ImdsArgs, issuer_keys: &Value) -> Value {
    let mut tenants: Vec<(String, Vec<Value>)> = Vec::new();
    let mut clients = Vec::new();
    for identity in identities {
        let tenant = identity.tenant_id.to_ascii_lowercase();
        let client = identity.client_id.to_ascii_lowercase();
        // Two AzureIdentity objects may be one identity in Azure.
        if clients.contains(&client) {
            continue;
        }
        let application = json!({
            "clientId": client,
            "objectId": identity.object_id.clone().unwrap_or_else(|| stable_id(&client)),
        });
        clients.push(client);
        match tenants.iter_mut().find(|(id, _)| *id == tenant) {
            Some((_, applications)) => applications.push(application),
            None => tenants.push((tenant, vec![application])),
        }
    }
    let resources = resources(identities, args);
    let tenant = |(id, applications)| json!({"id": id, "applications": applications, "resources": resources});
    let subject = format!("system:serviceaccount:{}:{SERVICE_ACCOUNT}", args.namespace);
    let credential = |client: String| {
        json!({
            "clientId": client, "issuer": ISSUER, "subject": subject,
            "audiences": ["api://AzureADTokenExchange"],
        })
    };
    json!({
        "tenants": tenants.into_iter().map(tenant).collect::<Vec<_>>(),
        "issuers": [{"issuer": ISSUER, "jwks": issuer_keys}],
        "federatedCredentials": clients.into_iter().map(credential).collect::<Vec<_>>(),
        "tokenLifetime": args.token_lifetime,
    })
}

/// What the tenants know beside Azure's services: what was named, and what the manifests say that an
/// identity's tokens may be for.
fn resources(identities: &[PodIdentity], args: &ImdsArgs) -> Vec<String> {
    let allowed = identities.iter().filter_map(|identity| identity.allowed_resources.as_ref());
    let allowed = allowed.flatten().map(|text| text.strip_suffix("/.default").unwrap_or(text));
    // One that nobody can ask for is no reason not to serve the others.
    let allowed = allowed.filter(|text| is_resource(text)).map(str::to_owned);
    args.resource.iter().cloned().chain(allowed).collect()
}

#[cfg(test)]
mod tests;
