//! The webhook configurations: who is asked, and by which CA the API server knows us.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{CA_BUNDLE, FIELD_MANAGER, Seen, Trouble};
use crate::config::{RECHECK, WRITE_DEADLINE};
use crate::problem::{Ask, Problem};

/// The webhook configurations whose `caBundle` is ours, a mutating and a validating one.
pub(super) const CONFIGURATION: &str = "imdslet";

/// The `caBundle` is not written more often than this, whoever else writes it.
const APPLY_PAUSE: Duration = Duration::from_secs(1);

/// A kind of webhook configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Configured {
    /// The one that injects: without it no pod is changed.
    Mutating,
    /// The one that advises: without it nobody is warned.
    Validating,
}

impl Configured {
    pub(super) const ALL: [Self; 2] = [Self::Mutating, Self::Validating];

    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        }
    }

    pub(super) fn ask(self, verb: &'static str) -> Ask {
        let resource = match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        };
        let name = Some(CONFIGURATION);
        Ask { verb, group: "admissionregistration.k8s.io", resource, name }
    }

    /// The part of [`Readiness`].
    pub(super) fn part(self) -> &'static str {
        match self {
            Self::Mutating => CA_BUNDLE,
            Self::Validating => "caBundle of advise",
        }
    }

    fn api(self, client: &Client) -> Api<DynamicObject> {
        let Ask { group, resource, .. } = self.ask("list");
        let kind = ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version: format!("{group}/v1"),
            kind: self.kind().to_owned(),
            plural: resource.to_owned(),
        };
        Api::all_with(client.clone(), &kind)
    }
}

/// A webhook configuration and what is done about it.
pub(super) struct Configuration {
    pub(super) of: Configured,
    pub(super) api: Api<DynamicObject>,
    pub(super) seen: Seen<DynamicObject>,
    applied: Option<Instant>,
}

impl Configuration {
    pub(super) fn new(of: Configured, client: &Client) -> Self {
        Self { of, api: of.api(client), seen: Seen::Unknown, applied: None }
    }

    /// Sees to it that every entry of the configuration trusts `authorities`. `Some`: not yet, look
    /// again after that time.
    pub(super) async fn trusted(&mut self, authorities: &str) -> Result<Option<Duration>, Trouble> {
        let configuration = match &self.seen {
            Seen::Unknown => return Ok(Some(RECHECK)),
            Seen::Missing => return Err(Trouble::ConfigurationMissing(self.of.kind())),
            Seen::Is(configuration) => configuration,
        };
        let bundle = BASE64.encode(authorities);
        let Some(patch) = bundle_patch(&configuration.data, &bundle) else {
            return Ok(None);
        };
        if let Some(rest) =
            self.applied.and_then(|applied| APPLY_PAUSE.checked_sub(applied.elapsed()))
        {
            return Ok(Some(rest));
        }
        self.applied = Some(Instant::now());
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = "cannot set caBundle of the webhook configuration";
        let patch = Patch::Json::<()>(patch);
        let applied = self.api.patch(CONFIGURATION, &params, &patch);
        match timeout(WRITE_DEADLINE, applied).await {
            Err(_) => Err(Trouble::of(what, Problem::late(WRITE_DEADLINE))),
            Ok(Err(error)) => Err(Trouble::of(what, Problem::of(self.of.ask("patch"), &error))),
            Ok(Ok(configuration)) => {
                let is_right = bundle_patch(&configuration.data, &bundle).is_none();
                self.seen = Seen::Is(configuration);
                tracing::info!(
                    kind = self.of.kind(),
                    reason = "CaBundleApplied",
                    "the API server has our CA"
                );
                Ok((!is_right).then_some(APPLY_PAUSE))
            }
        }
    }
}

/// What to change so that every entry has `bundle` (base64); `None` if it does. The name of each
/// entry is tested, since by the time of the patch it may stand elsewhere.
///
/// Not server-side apply, although that would do the same: it would make us an owner of the entries
/// themselves, and then whoever applies a configuration with one entry less, by server-side apply
/// too, is refused (`webhooks[1].sideEffects: Required value`; tried on Kubernetes 1.34). A JSON
/// patch makes us the owner of `caBundle` alone.
pub(super) fn bundle_patch(configuration: &Value, bundle: &str) -> Option<json_patch::Patch> {
    let entries = configuration.get("webhooks").and_then(Value::as_array);
    let lacks = |entry: &Value| {
        entry.pointer("/clientConfig/caBundle").and_then(Value::as_str) != Some(bundle)
    };
    let entries = entries.into_iter().flatten().enumerate().filter(|(_, entry)| lacks(entry));
    let operations: Vec<_> = entries
        .flat_map(|(at, entry)| {
            let at = at.to_string();
            let path = |tokens: &[&str]| {
                PointerBuf::from_tokens(["webhooks", &at].iter().chain(tokens).copied())
            };
            let name = entry.get("name").cloned().unwrap_or_default();
            let add = path(&["clientConfig", "caBundle"]);
            [
                PatchOperation::Test(TestOperation { path: path(&["name"]), value: name }),
                PatchOperation::Add(AddOperation { path: add, value: bundle.into() }),
            ]
        })
        .collect();
    (!operations.is_empty()).then_some(json_patch::Patch(operations))
}
