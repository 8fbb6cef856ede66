//! The serving certificate in the cluster: a Secret that both replicas share, and the `caBundle` of
//! the webhook configuration.
//!
//! Whichever replica comes first fills the Secret; optimistic concurrency decides, there is no
//! leader. Each replica shows what the Secret holds and follows it. The order of every change is:
//! Secret, then `caBundle`, then what is shown, so that no API server is shown a certificate whose
//! CA it has not been given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use imdslet_certs::{Fault, Held, Keyring, Renewal, Resolver};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{RECHECK, WRITE_DEADLINE};
use crate::problem::{Ask, Problem};
use crate::readiness::Readiness;

/// The Secret with the certificates.
pub const SECRET: &str = "imdslet-webhook-tls";

/// The webhook configuration whose `caBundle` is ours.
pub const CONFIGURATION: &str = "imdslet";

/// Who owns `caBundle`, as the API server keeps it.
const FIELD_MANAGER: &str = "imdslet-webhook";

/// The `caBundle` is not written more often than this, whoever else writes it.
const APPLY_PAUSE: Duration = Duration::from_secs(1);

/// The parts of [`Readiness`].
const CERTIFICATE: &str = "certificate";
const CA_BUNDLE: &str = "caBundle";

const SECRET_ASK: Ask = Ask { verb: "list", group: "", resource: "secrets", name: Some(SECRET) };
const CONFIGURATION_ASK: Ask = Ask {
    verb: "list",
    group: "admissionregistration.k8s.io",
    resource: "mutatingwebhookconfigurations",
    name: Some(CONFIGURATION),
};

/// The names that the serving certificate is for: those of the Service, and those by which a person
/// reaches it (`kubectl port-forward`).
#[must_use]
pub fn names(namespace: &str) -> Vec<String> {
    vec![
        format!("imdslet-webhook.{namespace}.svc"),
        format!("imdslet-webhook.{namespace}.svc.cluster.local"),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ]
}

/// What keeps the certificate and the `caBundle` from being right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// The Secret is gone and cannot be made by us.
    #[error(
        "Secret {namespace}/{SECRET} does not exist and imdslet's account may not create it; apply \
         install.yaml again (kubectl apply -f install.yaml), or: kubectl -n {namespace} create \
         secret generic {SECRET}"
    )]
    SecretMissing {
        /// Our namespace.
        namespace: String,
    },
    /// Nobody has told the API server of us.
    #[error(
        "MutatingWebhookConfiguration {CONFIGURATION} does not exist; apply install.yaml again \
         (kubectl apply -f install.yaml)"
    )]
    ConfigurationMissing,
    /// The API server did not do what was asked.
    #[error("{what}: {problem}")]
    Problem {
        /// What was being done.
        what: &'static str,
        /// Why not.
        problem: Problem,
    },
    /// No certificate can be made.
    #[error(transparent)]
    Make(#[from] imdslet_certs::Error),
    /// A certificate was made that cannot be served.
    #[error("the certificate cannot be served: {0}")]
    Serve(String),
}

impl Trouble {
    /// Stable name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SecretMissing { .. } => "SecretMissing",
            Self::ConfigurationMissing => "ConfigurationMissing",
            Self::Problem { problem, .. } => problem.reason(),
            Self::Make(_) => "CertificateNotMade",
            Self::Serve(_) => "CertificateNotServed",
        }
    }

    fn of(what: &'static str, problem: Problem) -> Self {
        Self::Problem { what, problem }
    }
}

/// The certificate, as soon as there is one.
pub struct First {
    /// What to show; it follows the Secret from now on.
    pub resolver: Arc<Resolver>,
    /// The CAs' certificates, PEM.
    pub authorities: String,
}

/// An object as the API server said last.
enum Seen<T> {
    /// It has not said anything yet.
    Unknown,
    Missing,
    Is(T),
}

impl<T> From<Option<T>> for Seen<T> {
    fn from(object: Option<T>) -> Self {
        object.map_or(Self::Missing, Self::Is)
    }
}

/// Keeps Secret, `caBundle` and what is shown in agreement.
pub struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<DynamicObject>,
    namespace: String,
    names: Vec<String>,
    readiness: Readiness,
    first: Option<oneshot::Sender<First>>,
    secret: Seen<Secret>,
    configuration: Seen<DynamicObject>,
    shown: Option<(Arc<Resolver>, Keyring)>,
    /// Whether the API server has trusted us once.
    is_trusted: bool,
    applied: Option<Instant>,
    /// The reason why a watch failed last.
    failed: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Watched {
    Secret,
    Configuration,
}

impl Keeper {
    /// For the replica in `namespace`, whose certificate is for `names`. The first certificate goes
    /// to `first`. Until then, and until every entry of the configuration has our CA, `readiness`
    /// is blocked.
    #[must_use]
    pub fn new(
        client: &Client,
        namespace: String,
        names: Vec<String>,
        readiness: Readiness,
        first: oneshot::Sender<First>,
    ) -> Self {
        readiness.set(CERTIFICATE, true, "not read yet");
        readiness.set(CA_BUNDLE, true, "not applied yet");
        let kind = ApiResource {
            group: CONFIGURATION_ASK.group.to_owned(),
            version: "v1".to_owned(),
            api_version: "admissionregistration.k8s.io/v1".to_owned(),
            kind: "MutatingWebhookConfiguration".to_owned(),
            plural: CONFIGURATION_ASK.resource.to_owned(),
        };
        Self {
            secrets: Api::namespaced(client.clone(), &namespace),
            configurations: Api::all_with(client.clone(), &kind),
            namespace,
            names,
            readiness,
            first: Some(first),
            secret: Seen::Unknown,
            configuration: Seen::Unknown,
            shown: None,
            is_trusted: false,
            applied: None,
            failed: None,
        }
    }

    /// Runs for as long as the program.
    pub async fn run(mut self) -> &'static str {
        let secrets = watcher::watch_object(self.secrets.clone(), SECRET);
        let mut secrets = Box::pin(secrets.default_backoff());
        let configurations = watcher::watch_object(self.configurations.clone(), CONFIGURATION);
        let mut configurations = Box::pin(configurations.default_backoff());
        let mut backoff = DefaultBackoff::default();
        loop {
            let pause = if let Some(pause) = self.settle().await {
                backoff.reset();
                pause
            } else {
                backoff.next().unwrap_or(RECHECK)
            };
            // All are cancel-safe: a stream's item is taken only by the arm that wins.
            tokio::select! {
                Some(secret) = secrets.next() => match secret {
                    Ok(secret) => self.secret = secret.into(),
                    Err(error) => self.cannot_watch(Watched::Secret, &error),
                },
                Some(configuration) = configurations.next() => match configuration {
                    Ok(configuration) => self.configuration = configuration.into(),
                    Err(error) => self.cannot_watch(Watched::Configuration, &error),
                },
                () = sleep_until(Instant::now() + pause) => {}
                else => return "the certificate's watch",
            }
        }
    }

    /// Does what is to be done now. When to look again, or `None`: soon, since something is wrong.
    async fn settle(&mut self) -> Option<Duration> {
        let now = SystemTime::now();
        let held = match self.certificate(now).await {
            Ok(Some(held)) => held,
            Ok(None) => return Some(RECHECK),
            Err(trouble) => {
                self.report(CERTIFICATE, &trouble);
                return None;
            }
        };
        let (keyring, held) = held;
        let authorities = held.authorities.clone();
        if self.shown.is_none()
            && let Err(trouble) = self.show(keyring.clone(), held)
        {
            self.report(CERTIFICATE, &trouble);
            return None;
        }
        self.readiness.clear(CERTIFICATE);
        match self.trusted(&authorities).await {
            Ok(None) => {}
            Ok(Some(pause)) => return Some(pause),
            Err(trouble) => {
                self.report(CA_BUNDLE, &trouble);
                return None;
            }
        }
        self.is_trusted = true;
        self.readiness.clear(CA_BUNDLE);
        // Only now: what is shown has a CA that the API server has been given.
        if self.shown.as_ref().is_some_and(|(_, shown)| *shown != keyring)
            && let Err(trouble) = keyring
                .read(&self.names, now)
                .map_err(|fault| Trouble::Serve(fault.to_string()))
                .and_then(|held| self.show(keyring, held))
        {
            self.report(CERTIFICATE, &trouble);
            return None;
        }
        Some(RECHECK)
    }

    /// The keyring of the Secret, once it needs nothing; writes it where it needs something.
    async fn certificate(&mut self, now: SystemTime) -> Result<Option<(Keyring, Held)>, Trouble> {
        // A write is followed by one more look. More than that is another replica's doing, and what
        // it did comes by the watch.
        for _ in 0..2 {
            let secret = match &self.secret {
                Seen::Unknown => return Ok(None),
                Seen::Missing => None,
                Seen::Is(secret) => Some(secret),
            };
            let kept = keyring(secret);
            let shown = self.shown.as_ref().map(|(_, keyring)| keyring);
            let (next, done) = match plan(&kept, kept.read(&self.names, now)) {
                Plan::Keep(held) => return Ok(Some((kept, *held))),
                Plan::Renew(due) => (kept.renew(&due, &self.names, now)?, due.reason()),
                Plan::Make => (Keyring::generate(&self.names, shown, now)?, "CertificateMade"),
                Plan::Replace(fault) => {
                    tracing::warn!(
                        key = fault.key, %fault, secret = SECRET, reason = "SecretUnusable",
                        "a new CA and certificate take its place"
                    );
                    (Keyring::generate(&self.names, shown.or(Some(&kept)), now)?, "CertificateMade")
                }
            };
            let written = self.write(secret, &next).await?;
            let Some(written) = written else {
                return Ok(None);
            };
            tracing::info!(secret = SECRET, reason = done, "the Secret has a new certificate");
            self.secret = Seen::Is(written);
        }
        Ok(None)
    }

    /// Writes the keyring. `None` if another replica was faster: its result comes by the watch.
    async fn write(
        &self,
        secret: Option<&Secret>,
        keyring: &Keyring,
    ) -> Result<Option<Secret>, Trouble> {
        let mut wanted = secret.cloned().unwrap_or_default();
        wanted.metadata.name = Some(SECRET.to_owned());
        wanted.data = Some(data(keyring));
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), dry_run: false };
        let verb = if secret.is_some() { "update" } else { "create" };
        let what = "cannot write the certificate's Secret";
        let written = timeout(WRITE_DEADLINE, async {
            match secret {
                // The resource version that was read goes with it: who comes second is told.
                Some(_) => self.secrets.replace(SECRET, &params, &wanted).await,
                None => self.secrets.create(&params, &wanted).await,
            }
        });
        match written.await {
            Err(_) => Err(Trouble::of(what, Problem::late(WRITE_DEADLINE))),
            Ok(Ok(written)) => Ok(Some(written)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                tracing::info!(reason = "Conflict", "another replica has written the Secret");
                Ok(None)
            }
            Ok(Err(kube::Error::Api(status))) if secret.is_none() && status.code == 403 => {
                Err(Trouble::SecretMissing { namespace: self.namespace.clone() })
            }
            Ok(Err(error)) => {
                Err(Trouble::of(what, Problem::of(Ask { verb, ..SECRET_ASK }, &error)))
            }
        }
    }

    fn show(&mut self, keyring: Keyring, held: Held) -> Result<(), Trouble> {
        let failed = |error: &dyn std::fmt::Display| Trouble::Serve(error.to_string());
        if let Some((resolver, shown)) = &mut self.shown {
            resolver.replace(held.serving).map_err(|error| failed(&error))?;
            *shown = keyring;
            tracing::info!(reason = "CertificateReplaced", "serving with a new certificate");
            return Ok(());
        }
        let resolver = Arc::new(Resolver::new(held.serving).map_err(|error| failed(&error))?);
        if let Some(first) = self.first.take() {
            // Whoever waited for it has ended, and then so does the program.
            let _ = first.send(First { resolver: resolver.clone(), authorities: held.authorities });
        }
        self.shown = Some((resolver, keyring));
        Ok(())
    }

    /// Sees to it that every entry of the configuration trusts `authorities`. `Some`: not yet, look
    /// again after that time.
    async fn trusted(&mut self, authorities: &str) -> Result<Option<Duration>, Trouble> {
        let configuration = match &self.configuration {
            Seen::Unknown => return Ok(Some(RECHECK)),
            Seen::Missing => return Err(Trouble::ConfigurationMissing),
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
        let applied = self.configurations.patch(CONFIGURATION, &params, &patch);
        match timeout(WRITE_DEADLINE, applied).await {
            Err(_) => Err(Trouble::of(what, Problem::late(WRITE_DEADLINE))),
            Ok(Err(error)) => {
                let ask = Ask { verb: "patch", ..CONFIGURATION_ASK };
                Err(Trouble::of(what, Problem::of(ask, &error)))
            }
            Ok(Ok(configuration)) => {
                let is_right = bundle_patch(&configuration.data, &bundle).is_none();
                self.configuration = Seen::Is(configuration);
                tracing::info!(reason = "CaBundleApplied", "the API server has our CA");
                Ok((!is_right).then_some(APPLY_PAUSE))
            }
        }
    }

    /// Before the API server has trusted us, this is why. Later it is told only when it is another
    /// problem than the last time: kube's watcher does not say when it works again.
    fn cannot_watch(&mut self, watched: Watched, error: &watcher::Error) {
        let (part, what, ask) = match watched {
            Watched::Secret => (CERTIFICATE, "cannot read the Secret", SECRET_ASK),
            Watched::Configuration => {
                (CA_BUNDLE, "cannot read the webhook configuration", CONFIGURATION_ASK)
            }
        };
        let problem = Problem::of_watch(ask, error);
        if problem == Problem::Expired {
            return;
        }
        let trouble = Trouble::of(what, problem);
        if !self.is_trusted {
            self.report(part, &trouble);
        } else if self.failed.replace(trouble.reason()) != Some(trouble.reason()) {
            tracing::warn!(part, %trouble, reason = trouble.reason(), "cannot watch; trying again");
        }
    }

    /// Once the API server has trusted us, trouble is a warning: what is shown is still right.
    fn report(&self, part: &'static str, trouble: &Trouble) {
        if self.readiness.set(part, !self.is_trusted, &trouble.to_string()) {
            tracing::error!(
                part, %trouble, reason = trouble.reason(),
                "certificate or caBundle is not as it should be; trying again"
            );
        }
    }
}

/// What to do with what the Secret holds.
enum Plan {
    /// Show it.
    Keep(Box<Held>),
    /// It works, and a part of it is due.
    Renew(Renewal),
    /// There is nothing.
    Make,
    /// There is something that does not work.
    ///
    /// It is replaced and not refused: the Secret is nobody else's, and while it cannot be used no
    /// labelled pod starts.
    Replace(Fault),
}

fn plan(kept: &Keyring, read: Result<Held, Fault>) -> Plan {
    match read {
        Ok(Held { renewal: Some(due), .. }) => Plan::Renew(due),
        Ok(held) => Plan::Keep(Box::new(held)),
        Err(_) if kept.is_empty() => Plan::Make,
        Err(fault) => Plan::Replace(fault),
    }
}

/// What the Secret holds; a text that is missing or no text is empty.
fn keyring(secret: Option<&Secret>) -> Keyring {
    let data = secret.and_then(|secret| secret.data.as_ref());
    let text = |key: &str| {
        let bytes = data.and_then(|data| data.get(key)).map(|value| value.0.clone());
        String::from_utf8(bytes.unwrap_or_default()).unwrap_or_else(|_| "(not text)".to_owned())
    };
    let [certificate, key, authorities, authority_key] = Keyring::KEYS.map(text);
    Keyring { certificate, key, authorities, authority_key }
}

fn data(keyring: &Keyring) -> BTreeMap<String, ByteString> {
    let Keyring { certificate, key, authorities, authority_key } = keyring;
    let texts = [certificate, key, authorities, authority_key];
    let bytes = texts.map(|text| ByteString(text.clone().into_bytes()));
    Keyring::KEYS.map(str::to_owned).into_iter().zip(bytes).collect()
}

/// What to change so that every entry has `bundle` (base64); `None` if it does. The name of each
/// entry is tested, since by the time of the patch it may stand elsewhere.
///
/// Not server-side apply, although that would do the same: it would make us an owner of the entries
/// themselves, and then whoever applies a configuration with one entry less, by server-side apply
/// too, is refused (`webhooks[1].sideEffects: Required value`; tried on Kubernetes 1.34). A JSON
/// patch makes us the owner of `caBundle` alone.
fn bundle_patch(configuration: &Value, bundle: &str) -> Option<json_patch::Patch> {
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

#[cfg(test)]
mod tests;
