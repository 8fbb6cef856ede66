//! Who plays in the demo: the article's objects, an issuer of service account tokens, Entra ID.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null where there is nothing")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::documents::{self, Document};
use crate::emulator::{
    self, Claims, Config, Jwks, LocalIssuer, Server, ServiceAccountToken, verify_access_token,
};
use crate::https::{Client, Trust};
use crate::programs::Program;

/// The demo's tenant.
pub(super) const TENANT: &str = "7e000000-0000-4000-8000-000000000000";

/// Who signs the demo's service account tokens. The name is reserved and leads nowhere (RFC 2606).
pub(super) const ISSUER: &str = "https://cluster.demo.invalid";

/// The service account of the article's pod.
pub(super) const SUBJECT: &str = "system:serviceaccount:default:default";

/// The pod's uid.
pub(super) const POD_UID: &str = "d0000000-0000-4000-8000-000000000001";

/// The object id of the article's identity.
const OBJECT_ID: &str = "0b000000-0000-4000-8000-000000000001";

/// The objects of the article and the cluster's issuer.
pub(super) struct Cast {
    /// The identity's client id.
    pub(super) client_id: String,
    objects: Vec<Value>,
    pod: Value,
    issuer: LocalIssuer,
}

/// The stand-in for Entra ID while it runs.
pub(super) struct Entra {
    /// Its base URL.
    pub(super) authority: String,
    client: Client,
    _server: JoinSet<()>,
}

/// What the webhook made of the pod.
pub(super) struct Admitted {
    pub(super) pod: Value,
    pub(super) patch: Patch,
}

impl Cast {
    pub(super) fn read(article: &str) -> anyhow::Result<Self> {
        let mut read = Vec::new();
        documents::parse("0-key-vault.yaml", article, &mut read)?;
        let objects: Vec<_> = read.into_iter().map(|Document { value, .. }| value).collect();
        let find = |kind: &str| {
            let object = objects.iter().find(|object| object["kind"] == kind);
            object.with_context(|| format!("the article has no {kind}"))
        };
        let client_id = find("AzureIdentity")?["spec"]["ClientID"].as_str().unwrap_or_default();
        let client_id = client_id.to_owned();
        let pod = pod_of(find("Deployment")?);
        Ok(Self { client_id, pod, issuer: LocalIssuer::generate(ISSUER)?, objects })
    }

    pub(super) fn introduce(&self) -> Vec<String> {
        let of = |object: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let spec = &object["spec"];
            let says = match object["kind"].as_str() {
                Some("AzureIdentity") => format!("ClientID {}", text(&spec["ClientID"])),
                Some("AzureIdentityBinding") => format!(
                    "Selector {} gives {}",
                    text(&spec["Selector"]),
                    text(&spec["AzureIdentity"])
                ),
                _ => format!(
                    "{} replicas, label aadpodidbinding: {}",
                    spec["replicas"],
                    text(&spec["template"]["metadata"]["labels"]["aadpodidbinding"])
                ),
            };
            format!("{} {}: {says}", text(&object["kind"]), text(&object["metadata"]["name"]))
        };
        self.objects.iter().map(of).collect()
    }

    /// What the webhook watches, as a JSON List.
    pub(super) fn manifests(&self) -> String {
        json!({"apiVersion": "v1", "kind": "List", "items": self.objects}).to_string()
    }

    pub(super) async fn start_entra(&self, folder: &Path) -> anyhow::Result<Entra> {
        let config = json!({
            "tenants": [{
                "id": TENANT,
                "applications": [{"clientId": self.client_id, "objectId": OBJECT_ID}],
            }],
            "issuers": [{"issuer": ISSUER, "jwks": self.issuer.jwks()}],
            "federatedCredentials": [{
                "clientId": self.client_id, "issuer": ISSUER, "subject": SUBJECT,
                "audiences": ["api://AzureADTokenExchange"],
            }],
        });
        let config = Config::parse(&config.to_string(), None)?;
        let now = SystemTime::now();
        let entra = Arc::new(emulator::Entra::new(config, now)?);
        let ca = entra.ca_pem().to_owned();
        fs::write(folder.join("entra-ca.pem"), &ca).context("cannot write the CA")?;
        let tcp = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on 127.0.0.1")?;
        let server = Server::new(tcp, entra, &[], now)?;
        let authority = server.base_url();
        let mut task = JoinSet::new();
        task.spawn(async {
            // It ends with the demo; what it says by then is of no use to anybody.
            server.serve(CancellationToken::new()).await.ok();
        });
        let client = Client::new(Trust::nobody().and(&ca)?)?;
        Ok(Entra { authority, client, _server: task })
    }

    /// Asks the webhook as the API server would when the ReplicaSet creates the pod.
    pub(super) async fn ask_webhook(
        &self,
        webhook: &Program,
        folder: &Path,
    ) -> anyhow::Result<Admitted> {
        let ca = fs::read_to_string(folder.join("webhook-ca.pem"))
            .context("cannot read the webhook's CA")?;
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "a0000000-0000-4000-8000-000000000001",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": "default", "operation": "CREATE", "dryRun": false,
                "object": self.pod, "oldObject": null,
            },
        });
        let url = format!("https://{}/mutate", webhook.addr("admission")?);
        let client = Client::new(Trust::nobody().and(&ca)?)?;
        let answer = client.post_json(&url, &review).await?;
        let body: Value = serde_json::from_slice(answer.body())
            .with_context(|| format!("{url} answers {}", answer.status()))?;
        let response = &body["response"];
        if response["allowed"] != true {
            bail!("the webhook refuses the pod: {}", response["status"]["message"]);
        }
        ensure!(response["warnings"].is_null(), "the webhook warns: {}", response["warnings"]);
        let patch = response["patch"].as_str().context("the webhook answers no patch")?;
        let patch = STANDARD.decode(patch).context("the patch is no base64")?;
        let patch: Patch = serde_json::from_slice(&patch).context("the patch is no JSON patch")?;
        let mut pod = self.pod.clone();
        json_patch::patch(&mut pod, &patch).context("the patch does not apply")?;
        Ok(Admitted { pod, patch })
    }

    /// The token that the kubelet would ask of the API server for the pod's volume.
    pub(super) fn service_account_token(&self, audience: &str) -> anyhow::Result<String> {
        let token = ServiceAccountToken {
            namespace: "default",
            service_account: "default",
            pod_name: "aadpodidentitydemoapibackend-7d4b-x2x2x",
            pod_uid: POD_UID,
            audience,
            lifetime: Duration::from_hours(1),
        };
        Ok(self.issuer.service_account_token(&token, SystemTime::now())?)
    }
}

impl Entra {
    /// Checks a token as the Azure service `audience` would.
    pub(super) async fn verify(&self, token: &str, audience: &str) -> anyhow::Result<Claims> {
        let url = format!("{}/{TENANT}/discovery/v2.0/keys", self.authority);
        let keys = self.client.get(&url).await?;
        let keys: Jwks = serde_json::from_slice(keys.body())
            .with_context(|| format!("{url} answers no keys"))?;
        Ok(verify_access_token(token, &keys, audience, TENANT, SystemTime::now())?)
    }

    /// How often tokens were asked for.
    pub(super) async fn calls(&self) -> anyhow::Result<u64> {
        let url = format!("{}/_emulator/requests", self.authority);
        let counts = self.client.get(&url).await?;
        let counts: Value = serde_json::from_slice(counts.body())
            .with_context(|| format!("{url} answers no counts"))?;
        counts["tokenCalls"].as_u64().with_context(|| format!("{url} answers no total"))
    }
}

/// The pod as the ReplicaSet controller and the API server's defaults make it.
fn pod_of(deployment: &Value) -> Value {
    let template = &deployment["spec"]["template"];
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let mut spec = template["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("serviceAccountName".to_owned(), json!("default"));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{name}-7d4b-"),
            "labels": template["metadata"]["labels"],
        },
        "spec": spec,
    })
}
