//! What the sidecar counts, as `GET /metrics` tells it (Prometheus' text format, 0.0.4). Pure.
//!
//! No label carries what a client sent: routes, outcomes and reasons are names of ours, and an
//! identity's name comes from the pod's annotation, which is the webhook's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use http::StatusCode;

use crate::request::Route;

/// Identities that are counted by name. All others are counted as one, so that a pod whose
/// bindings change for ever has no endless series.
const IDENTITIES: usize = 32;

/// The name under which the others are counted. No identity's: those have a slash.
const OTHER: &str = "other";

/// The longest part of an identity's name that is told, in bytes.
const LONGEST_NAME: usize = 128;

/// Upper bounds of what a fetch takes, and how they are written, in seconds. A fetch is given up
/// after 9 s.
const BOUNDS: [(Duration, &str); 6] = [
    (Duration::from_millis(100), "0.1"),
    (Duration::from_millis(250), "0.25"),
    (Duration::from_millis(500), "0.5"),
    (Duration::from_secs(1), "1"),
    (Duration::from_millis(2500), "2.5"),
    (Duration::from_secs(5), "5"),
];

/// How a request or a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Ok,
    /// It will be again, until somebody changes something.
    Refused,
    /// It may be different the next time.
    Failed,
}

impl Outcome {
    /// The outcome of what is answered with `status`.
    pub(crate) fn of(status: StatusCode) -> Self {
        if status.is_success() {
            Self::Ok
        } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Self::Failed
        } else {
            Self::Refused
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The requests that were answered. Only the first of a kind allocates.
#[derive(Debug, Default)]
pub(crate) struct Requests(BTreeMap<(Route, Outcome, &'static str), u64>);

impl Requests {
    pub(crate) fn count(&mut self, route: Route, outcome: Outcome, reason: &'static str) {
        *self.0.entry((route, outcome, reason)).or_default() += 1;
    }

    /// Writes the series of the requests, and that of the program itself, to `text`.
    pub(crate) fn write(&self, text: &mut String) {
        let version = env!("CARGO_PKG_VERSION");
        head(text, "build_info", "gauge", "The program; always 1.");
        sample(text, "build_info", format_args!("version=\"{version}\""), 1);
        head(text, "requests_total", "counter", "Requests that were answered.");
        for ((route, outcome, reason), count) in &self.0 {
            let (route, outcome) = (route.as_str(), outcome.as_str());
            let labels =
                format_args!("route=\"{route}\",outcome=\"{outcome}\",reason=\"{reason}\"");
            sample(text, "requests_total", labels, count);
        }
    }
}

/// The fetches of tokens, by identity.
#[derive(Debug, Default)]
pub(crate) struct Fetches(BTreeMap<String, OfIdentity>);

#[derive(Debug, Default)]
struct OfIdentity {
    results: BTreeMap<(Outcome, &'static str), u64>,
    refresh_failures: u64,
    /// How many took no longer than each bound and longer than the one before.
    within: [u64; BOUNDS.len()],
    took: Duration,
}

/// One fetch of a token.
pub(crate) struct Fetched {
    pub(crate) outcome: Outcome,
    pub(crate) reason: &'static str,
    pub(crate) took: Duration,
    /// Whether there had been a token before.
    pub(crate) is_refresh: bool,
}

impl Fetches {
    pub(crate) fn count(&mut self, identity: &str, fetched: &Fetched) {
        let Fetched { outcome, reason, took, is_refresh } = fetched;
        let label = self.label(identity).to_owned();
        let counts = self.0.entry(label).or_default();
        *counts.results.entry((*outcome, reason)).or_default() += 1;
        counts.refresh_failures += u64::from(*is_refresh && *outcome != Outcome::Ok);
        counts.took = counts.took.saturating_add(*took);
        let mut slots = counts.within.iter_mut().zip(BOUNDS);
        if let Some((slot, _)) = slots.find(|(_, (bound, _))| took <= bound) {
            *slot += 1;
        }
    }

    /// Writes the series of the fetches to `text`. `lives` are the tokens that are held: whose
    /// they are, and for how long they are good.
    pub(crate) fn write<'a>(
        &self,
        text: &mut String,
        lives: impl Iterator<Item = (&'a str, Duration)>,
    ) {
        head(text, "fetches_total", "counter", "Fetches of tokens that ended.");
        for (name, OfIdentity { results, .. }) in &self.0 {
            let name = escaped(name);
            for ((outcome, reason), count) in results {
                let outcome = outcome.as_str();
                let labels =
                    format_args!("identity=\"{name}\",outcome=\"{outcome}\",reason=\"{reason}\"");
                sample(text, "fetches_total", labels, count);
            }
        }
        head(text, "fetch_duration_seconds", "histogram", "How long fetches of tokens took.");
        for (name, counts) in &self.0 {
            counts.write_durations(text, &escaped(name));
        }
        let help = "Fetches that failed or were refused where there had been a token before.";
        head(text, "refresh_failures_total", "counter", help);
        for (name, OfIdentity { refresh_failures, .. }) in &self.0 {
            let labels = format_args!("identity=\"{}\"", escaped(name));
            sample(text, "refresh_failures_total", labels, refresh_failures);
        }
        let mut nearest = BTreeMap::new();
        for (name, life) in lives {
            let least = nearest.entry(self.label(name)).or_insert(life);
            *least = life.min(*least);
        }
        let help = "Until the first of the tokens that are held expires.";
        head(text, "token_expiry_seconds", "gauge", help);
        for (name, life) in nearest {
            let labels = format_args!("identity=\"{}\"", escaped(name));
            sample(text, "token_expiry_seconds", labels, life.as_secs());
        }
    }

    /// The name under which `identity` is counted.
    fn label<'a>(&self, identity: &'a str) -> &'a str {
        let name = identity.get(..identity.floor_char_boundary(LONGEST_NAME)).unwrap_or(identity);
        if self.0.contains_key(name) || self.0.len() < IDENTITIES { name } else { OTHER }
    }
}

impl OfIdentity {
    fn write_durations(&self, text: &mut String, name: &str) {
        let mut sum = 0;
        for (count, (_, bound)) in self.within.iter().zip(BOUNDS) {
            sum += count;
            let labels = format_args!("identity=\"{name}\",le=\"{bound}\"");
            sample(text, "fetch_duration_seconds_bucket", labels, sum);
        }
        let all: u64 = self.results.values().sum();
        let labels = format_args!("identity=\"{name}\",le=\"+Inf\"");
        sample(text, "fetch_duration_seconds_bucket", labels, all);
        let labels = format_args!("identity=\"{name}\"");
        let took = format_args!("{}.{:06}", self.took.as_secs(), self.took.subsec_micros());
        sample(text, "fetch_duration_seconds_sum", labels, took);
        sample(text, "fetch_duration_seconds_count", labels, all);
    }
}

/// Writes what is said once of a metric. A `String` takes all that is written to it.
fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let name = format_args!("imdslet_sidecar_{name}");
    write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").ok();
}

fn sample(
    text: &mut String,
    name: &str,
    labels: std::fmt::Arguments<'_>,
    value: impl std::fmt::Display,
) {
    writeln!(text, "imdslet_sidecar_{name}{{{labels}}} {value}").ok();
}

/// `name` as it stands between quotes.
fn escaped(name: &str) -> String {
    name.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests;
