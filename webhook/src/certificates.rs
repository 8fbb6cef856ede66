//! The serving certificate in the cluster: a Secret that both replicas share, and the `caBundle` of
//! the webhook configurations.
//!
//! Whichever replica comes first fills the Secret; optimistic concurrency decides, there is no
//! leader. Each replica shows what the Secret holds and follows it. The order of every change is:
//! Secret, then `caBundle`, then what is shown, so that no API server is shown a certificate whose
//! CA it has not been given. What is due is decided by `imdslet_certs::rotation`, by the API
//! server's clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use imdslet_certs::{Held, Keyring, Resolver, Step, next};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::config::RECHECK;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::readiness::Readiness;

mod clock;
mod configuration;
mod error;
pub mod files;
mod secret;

use clock::Clock;
use configuration::{CONFIGURATION, Configuration, Configured, Told};
pub use error::KeepError;
pub use secret::SECRET;
use secret::{SECRET_ASK, Secrets, keyring};

/// Who owns `caBundle`, as the API server keeps it.
const FIELD_MANAGER: &str = "imdslet-webhook";

/// The parts of [`Readiness`].
const CERTIFICATE: &str = "certificate";
const CA_BUNDLE: &str = "caBundle";

/// The names that the serving certificate is for: those of the Service, those by which a person
/// reaches it (`kubectl port-forward`), and the address that it listens on, where that is one.
#[must_use]
pub fn names(namespace: &str, listen: SocketAddr) -> Vec<String> {
    let mut names = vec![
        format!("imdslet-webhook.{namespace}.svc"),
        format!("imdslet-webhook.{namespace}.svc.cluster.local"),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let ip = listen.ip();
    if !ip.is_unspecified() && !ip.is_loopback() {
        names.push(ip.to_string());
    }
    names
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
    secrets: Secrets,
    configurations: [Configuration; 2],
    names: Vec<String>,
    readiness: Readiness,
    first: Option<oneshot::Sender<First>>,
    secret: Seen<Secret>,
    shown: Option<(Arc<Resolver>, Keyring)>,
    clock: Clock,
    /// Whether the API server has trusted us once.
    is_trusted: bool,
    metrics: Metrics,
    /// The reason why a watch failed last.
    failed: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Watched {
    Secret,
    Configuration(Configured),
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
        metrics: Metrics,
        first: oneshot::Sender<First>,
    ) -> Self {
        readiness.set(CERTIFICATE, true, "not read yet");
        readiness.set(CA_BUNDLE, true, "not applied yet");
        Self {
            secrets: Secrets::new(client, namespace),
            configurations: Configured::ALL.map(|of| Configuration::new(of, client)),
            names,
            readiness,
            first: Some(first),
            secret: Seen::Unknown,
            shown: None,
            clock: Clock::new(client.clone()),
            is_trusted: false,
            metrics,
            failed: None,
        }
    }

    /// Runs for as long as the program.
    pub async fn run(mut self) -> &'static str {
        let secrets = watcher::watch_object(self.secrets.api.clone(), SECRET);
        let mut secrets = Box::pin(secrets.default_backoff());
        let [mut mutating, mut validating] = self.configurations.each_ref().map(|configuration| {
            let seen = watcher::watch_object(configuration.api.clone(), CONFIGURATION);
            Box::pin(seen.default_backoff())
        });
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
                Some(seen) = mutating.next() => self.saw(Configured::Mutating, seen),
                Some(seen) = validating.next() => self.saw(Configured::Validating, seen),
                () = sleep_until(Instant::now() + pause) => {}
                else => return "the certificate's watch",
            }
        }
    }

    /// Does what is to be done now. When to look again, or `None`: soon, since something is wrong.
    async fn settle(&mut self) -> Option<Duration> {
        let now = self.clock.now(&self.readiness).await;
        let (keyring, held) = match self.certificate(now).await {
            Ok(Some(held)) => held,
            unsettled => {
                // Whatever becomes of the Secret, what is shown must be trusted meanwhile.
                let shown = self.shown.as_ref().map(|(_, shown)| shown.authorities.clone());
                if let Some(shown) = shown {
                    let _ = self.tell(&shown, now).await;
                }
                let Err(trouble) = unsettled else { return Some(RECHECK) };
                self.report(CERTIFICATE, &trouble);
                return None;
            }
        };
        let authorities = held.authorities.clone();
        let is_first = self.shown.is_none();
        if is_first && !self.shows(keyring.clone(), held) {
            return None;
        }
        self.readiness.clear(CERTIFICATE);
        let (mut pause, is_well) = match self.tell(&authorities, now).await {
            Ok(told) => told,
            Err(when) => return when,
        };
        // Only now: what is shown has a CA that the API server has been given.
        if self.shown.as_ref().is_some_and(|(_, shown)| *shown != keyring)
            && let Ok(held) = keyring.read(&self.names, now)
        {
            let shown = self.shown.as_ref();
            match shown.and_then(|(_, shown)| held.wait(shown, now)) {
                Some(rest) => pause = pause.min(rest),
                None if !self.shows(keyring, held) => return None,
                None => {}
            }
        }
        is_well.then_some(pause)
    }

    /// Shows what is `held`; whether that could be done.
    fn shows(&mut self, keyring: Keyring, held: Held) -> bool {
        let shown = self.show(keyring, held);
        if let Err(trouble) = &shown {
            self.report(CERTIFICATE, trouble);
        }
        shown.is_ok()
    }

    /// Gives the API server `authorities`: when to look again, and whether all is well.
    ///
    /// # Errors
    ///
    /// Whoever is to be shown a certificate does not have its CA yet: when to look again, as
    /// [`Keeper::settle`] says it.
    async fn tell(
        &mut self,
        authorities: &str,
        now: SystemTime,
    ) -> Result<(Duration, bool), Option<Duration>> {
        let (mut pause, mut is_well) = (RECHECK, true);
        for at in 0..self.configurations.len() {
            let Some(configuration) = self.configurations.get_mut(at) else { break };
            let of = configuration.of;
            match configuration.trusted(authorities, now).await {
                Ok(Told::Yes(rest)) => {
                    if of == Configured::Mutating {
                        self.is_trusted = true;
                    }
                    self.readiness.clear(of.part());
                    pause = rest.map_or(pause, |rest| pause.min(rest));
                }
                Ok(Told::NotYet(rest)) if of == Configured::Mutating => return Err(Some(rest)),
                Ok(Told::NotYet(rest)) => pause = pause.min(rest),
                Err(trouble) => {
                    self.report(of.part(), &trouble);
                    // Nothing waits for the one that advises.
                    if of == Configured::Mutating {
                        return Err(None);
                    }
                    is_well = false;
                }
            }
        }
        Ok((pause, is_well))
    }

    fn saw(&mut self, of: Configured, seen: Result<Option<DynamicObject>, watcher::Error>) {
        match seen {
            Err(error) => self.cannot_watch(Watched::Configuration(of), &error),
            Ok(object) => {
                let mut all = self.configurations.iter_mut();
                if let Some(configuration) = all.find(|one| one.of == of) {
                    configuration.seen = object.into();
                }
            }
        }
    }

    /// The keyring of the Secret, once it needs nothing; writes it where it needs something.
    async fn certificate(&mut self, now: SystemTime) -> Result<Option<(Keyring, Held)>, KeepError> {
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
            // What was told may be of another replica, which shows it.
            let told = self.configurations.first().map(Configuration::told).unwrap_or_default();
            let (next, done) = match next(&kept, shown, &told, &self.names, now)? {
                Step::Keep(held) => return Ok(Some((kept, *held))),
                Step::Write { keyring, reason, fault } => {
                    if let Some(fault) = fault {
                        tracing::warn!(
                            key = fault.key, %fault, secret = SECRET, reason = "SecretUnusable",
                            "something that works takes its place"
                        );
                    }
                    (keyring, reason)
                }
            };
            let Some(written) = self.secrets.write(secret, &next).await? else {
                return Ok(None);
            };
            tracing::info!(secret = SECRET, reason = done, "the Secret has a new certificate");
            self.secret = Seen::Is(written);
        }
        Ok(None)
    }

    fn show(&mut self, keyring: Keyring, held: Held) -> Result<(), KeepError> {
        let failed = |error: &dyn std::fmt::Display| KeepError::Serve(error.to_string());
        if let Some(ends) = held.serving.ends() {
            self.metrics.certificate(ends);
        }
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

    /// Before the API server has trusted us, this is why. Later it is told only when it is another
    /// problem than the last time: kube's watcher does not say when it works again.
    fn cannot_watch(&mut self, watched: Watched, error: &watcher::Error) {
        let (part, what, ask) = match watched {
            Watched::Secret => (CERTIFICATE, "cannot read the Secret", SECRET_ASK),
            Watched::Configuration(of) => {
                (of.part(), "cannot read the webhook configuration", of.ask("list"))
            }
        };
        let problem = Problem::of_watch(ask, error);
        if problem == Problem::Expired {
            return;
        }
        let trouble = KeepError::of(what, problem);
        if !self.is_trusted || part != CERTIFICATE && part != CA_BUNDLE {
            self.report(part, &trouble);
        } else if self.failed.replace(trouble.reason()) != Some(trouble.reason()) {
            tracing::warn!(part, %trouble, reason = trouble.reason(), "cannot watch; trying again");
        }
    }

    /// Once the API server has trusted us, trouble is a warning: what is shown is still right.
    fn report(&self, part: &'static str, trouble: &KeepError) {
        let blocks = !self.is_trusted && (part == CERTIFICATE || part == CA_BUNDLE);
        if self.readiness.set(part, blocks, &trouble.to_string()) {
            tracing::error!(
                part, %trouble, reason = trouble.reason(),
                "certificate or caBundle is not as it should be; trying again"
            );
        }
    }
}

#[cfg(test)]
mod tests;
