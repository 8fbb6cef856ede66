//! The Secret that the replicas share: how it is read, made and written.

use std::collections::BTreeMap;

use imdslet_certs::Keyring;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::timeout;

use super::{FIELD_MANAGER, KeepError};
use crate::config::WRITE_DEADLINE;
use crate::problem::{Ask, Problem};

/// The Secret with the certificates.
pub const SECRET: &str = "imdslet-webhook-tls";

pub(super) const SECRET_ASK: Ask =
    Ask { verb: "list", group: "", resource: "secrets", name: Some(SECRET) };

/// Where the Secret is.
pub(super) struct Secrets {
    pub(super) api: Api<Secret>,
    namespace: String,
}

impl Secrets {
    pub(super) fn new(client: &Client, namespace: String) -> Self {
        Self { api: Api::namespaced(client.clone(), &namespace), namespace }
    }

    /// Writes the keyring. `None` if another replica was faster: its result comes by the watch.
    pub(super) async fn write(
        &self,
        secret: Option<&Secret>,
        keyring: &Keyring,
    ) -> Result<Option<Secret>, KeepError> {
        let what = "cannot write the certificate's Secret";
        let written = timeout(WRITE_DEADLINE, async {
            let mut wanted = match secret {
                Some(secret) => secret.clone(),
                None => match self.empty().await? {
                    Some(made) => made,
                    None => return Ok(None),
                },
            };
            wanted.data = Some(data(keyring));
            let field_manager = Some(FIELD_MANAGER.to_owned());
            let params = PostParams { field_manager, dry_run: false };
            // The resource version that was read goes with it: who comes second is told.
            self.api.replace(SECRET, &params, &wanted).await.map(Some)
        });
        match written.await {
            Err(_) => Err(KeepError::of(what, Problem::late(WRITE_DEADLINE))),
            Ok(Ok(written)) => Ok(written),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                tracing::info!(reason = "Conflict", "another replica has written the Secret");
                Ok(None)
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                tracing::info!(
                    secret = SECRET,
                    reason = "NotFound",
                    "the Secret was deleted while it was being written; it is made again"
                );
                Ok(None)
            }
            Ok(Err(kube::Error::Api(status))) if secret.is_none() && status.code == 403 => {
                Err(KeepError::SecretMissing { namespace: self.namespace.clone() })
            }
            Ok(Err(error)) => {
                Err(KeepError::of(what, Problem::of(Ask { verb: "update", ..SECRET_ASK }, &error)))
            }
        }
    }

    /// The Secret as install.yaml has it, made by server-side apply: that is the one way to make an
    /// object for which a right can be confined to its name. Two replicas may both do it, since it
    /// holds nothing. `None` if another one has filled it by now.
    async fn empty(&self) -> Result<Option<Secret>, kube::Error> {
        let wanted = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": SECRET, "labels": {"app.kubernetes.io/part-of": "imdslet"}},
        });
        let params = PatchParams::apply(FIELD_MANAGER);
        let made = self.api.patch(SECRET, &params, &Patch::Apply(wanted)).await?;
        Ok(keyring(Some(&made)).is_empty().then_some(made))
    }
}

/// What the Secret holds; a text that is missing or no text is empty.
pub(super) fn keyring(secret: Option<&Secret>) -> Keyring {
    let data = secret.and_then(|secret| secret.data.as_ref());
    let text = |key: &str| {
        let bytes = data.and_then(|data| data.get(key)).map(|value| value.0.clone());
        String::from_utf8(bytes.unwrap_or_default()).unwrap_or_else(|_| "(not text)".to_owned())
    };
    let [certificate, key, authorities, authority_key] = Keyring::KEYS.map(text);
    Keyring { certificate, key, authorities, authority_key }
}

pub(super) fn data(keyring: &Keyring) -> BTreeMap<String, ByteString> {
    let Keyring { certificate, key, authorities, authority_key } = keyring;
    let texts = [certificate, key, authorities, authority_key];
    let bytes = texts.map(|text| ByteString(text.clone().into_bytes()));
    Keyring::KEYS.map(str::to_owned).into_iter().zip(bytes).collect()
}
