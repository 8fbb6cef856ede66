//! The webhook configurations: who is asked, and by which CA the API server knows us.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use imdslet_certs::{SETTLED, Tell, tell};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{CA_BUNDLE, FIELD_MANAGER, KeepError, Seen};
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

    /// The part of [`Readiness`](crate::readiness::Readiness).
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
    /// Since when it trusts these CAs of ours and others too.
    more: Option<(String, Instant)>,
}

/// Whether the API server trusts us.
pub(super) enum Told {
    /// It does. Where there is something to tidy, look again after that time.
    Yes(Option<Duration>),
    /// Look again after that time.
    NotYet(Duration),
}

impl Configuration {
    pub(super) fn new(of: Configured, client: &Client) -> Self {
        Self { of, api: of.api(client), seen: Seen::Unknown, applied: None, more: None }
    }

    /// The CAs that the API server was given, PEM.
    pub(super) fn told(&self) -> String {
        match &self.seen {
            Seen::Is(configuration) => {
                entries(&configuration.data).map(|(_, _, told)| told).collect()
            }
            Seen::Unknown | Seen::Missing => String::new(),
        }
    }

    /// Sees to it that every entry of the configuration trusts `authorities`.
    pub(super) async fn trusted(
        &mut self,
        authorities: &str,
        now: SystemTime,
    ) -> Result<Told, KeepError> {
        let configuration = match &self.seen {
            Seen::Unknown => return Ok(Told::NotYet(RECHECK)),
            Seen::Missing => return Err(KeepError::ConfigurationMissing(self.of.kind())),
            Seen::Is(configuration) => configuration,
        };
        let more = self.more.take().filter(|(ours, _)| ours == authorities);
        let age = more.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let Bundles { patch, has_more } =
            bundles(&configuration.data, authorities, age >= SETTLED, now);
        let rest = has_more.then(|| SETTLED.saturating_sub(age));
        if has_more {
            self.more = more.or_else(|| Some((authorities.to_owned(), Instant::now())));
        }
        let Some(patch) = patch else {
            return Ok(Told::Yes(rest));
        };
        if let Some(rest) =
            self.applied.and_then(|applied| APPLY_PAUSE.checked_sub(applied.elapsed()))
        {
            return Ok(Told::NotYet(rest));
        }
        self.applied = Some(Instant::now());
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = "cannot set caBundle of the webhook configuration";
        let patch = Patch::Json::<()>(patch);
        let applied = self.api.patch(CONFIGURATION, &params, &patch);
        match timeout(WRITE_DEADLINE, applied).await {
            Err(_) => Err(KeepError::of(what, Problem::late(WRITE_DEADLINE))),
            Ok(Err(error)) => Err(KeepError::of(what, Problem::of(self.of.ask("patch"), &error))),
            Ok(Ok(configuration)) => {
                let left = bundles(&configuration.data, authorities, false, now);
                self.seen = Seen::Is(configuration);
                tracing::info!(
                    kind = self.of.kind(),
                    reason = "CaBundleApplied",
                    "the API server has our CA"
                );
                Ok(if left.patch.is_none() { Told::Yes(rest) } else { Told::NotYet(APPLY_PAUSE) })
            }
        }
    }
}

/// What is to be done about the bundles of a configuration.
pub(super) struct Bundles {
    /// What to change.
    pub(super) patch: Option<json_patch::Patch>,
    /// Whether an entry trusts others beside us.
    pub(super) has_more: bool,
}

/// What to change so that every entry trusts `ours`, and nobody else once it `is_late`. The name of
/// each entry is tested, since by the time of the patch it may stand elsewhere. Nothing else of an
/// entry is touched: platforms extend `namespaceSelector` of all configurations, and it stays so.
///
/// Not server-side apply, although that would do the same: it would make us an owner of the entries
/// themselves, and then whoever applies a configuration with one entry less, by server-side apply
/// too, is refused (`webhooks[1].sideEffects: Required value`; tried on Kubernetes 1.34). A JSON
/// patch makes us the owner of `caBundle` alone.
pub(super) fn bundles(
    configuration: &Value,
    ours: &str,
    is_late: bool,
    now: SystemTime,
) -> Bundles {
    let mut operations = Vec::new();
    let mut has_more = false;
    for (at, name, told) in entries(configuration) {
        let bundle = match tell(ours, &told, now) {
            Tell::Nothing => continue,
            Tell::Later(_) if !is_late => {
                has_more = true;
                continue;
            }
            Tell::Later(bundle) | Tell::Now(bundle) => bundle,
        };
        let at = at.to_string();
        let path = |tokens: &[&str]| {
            PointerBuf::from_tokens(["webhooks", &at].iter().chain(tokens).copied())
        };
        let add = path(&["clientConfig", "caBundle"]);
        let value = BASE64.encode(bundle).into();
        operations.extend([
            PatchOperation::Test(TestOperation { path: path(&["name"]), value: name.clone() }),
            PatchOperation::Add(AddOperation { path: add, value }),
        ]);
    }
    let patch = (!operations.is_empty()).then_some(json_patch::Patch(operations));
    Bundles { patch, has_more }
}

/// The entries of a configuration: place, name, CAs (PEM).
fn entries(configuration: &Value) -> impl Iterator<Item = (usize, &Value, String)> {
    let entries = configuration.get("webhooks").and_then(Value::as_array);
    entries.into_iter().flatten().enumerate().map(|(at, entry)| {
        let bundle = entry.pointer("/clientConfig/caBundle").and_then(Value::as_str);
        let told = BASE64.decode(bundle.unwrap_or_default()).unwrap_or_default();
        let name = entry.get("name").unwrap_or(&Value::Null);
        (at, name, String::from_utf8_lossy(&told).into_owned())
    })
}
