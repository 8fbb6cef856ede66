//! What the program counts, for `GET /metrics`. No label carries a user's string.
//!
//! What is counted on the way of an admission is an atomic number that is there from the start:
//! neither a lock nor a look into a map that grows.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use imdslet_core::warning::Warning;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};
use tokio::time::Instant;

use crate::service::Decided;

/// Upper bounds of what an admission takes, in seconds. It takes some 20 µs of a core; what is more
/// has waited for one.
const ADMISSION: [f64; 10] = [5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.0];

/// Upper bounds of the time from a change to the patch of a pod, in seconds.
const LAG: [f64; 9] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

/// The reason under which one is counted that is not among [`Decided::ALL`].
const OTHER: &str = "Other";

/// The numbers of this process. Clones are the same numbers.
#[derive(Clone)]
pub struct Metrics(Arc<(Registry, Numbers)>);

struct Numbers {
    admissions: Vec<(Decided, Counter)>,
    other: Counter,
    durations: Arc<Durations>,
    warnings: Vec<(&'static str, Counter)>,
    objects: Family<Kind, Gauge>,
    held: Family<Kind, Gauge>,
    ages: Arc<Ages>,
    restarts: Family<Kind, Counter>,
    leader: Gauge,
    certificate: Gauge,
    patched: Family<Reason, Counter>,
    lag: Histogram,
    classes: Family<Reason, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Admitted {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("imdslet");
        let help = "The release of this program";
        let build: Family<Build, Gauge> = number(&mut registry, "build_info", help);
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        let numbers = Numbers::of(&mut registry);
        Self(Arc::new((registry, numbers)))
    }
}

impl Numbers {
    /// All of them at their start, in the order in which `registry` shows them.
    fn of(registry: &mut Registry) -> Self {
        let help = "Requests of the API server, by what became of them";
        let admissions: Family<Admitted, Counter> = number(registry, "admissions", help);
        let admitted = |decided: Decided| {
            let Decided { outcome, reason } = decided;
            admissions.get_or_create_owned(&Admitted { outcome, reason })
        };
        let durations = collected(registry);
        let help = "Warnings given with admissions";
        let warnings: Family<Reason, Counter> = number(registry, "warnings", help);
        let warned =
            |reason: &&'static str| (*reason, warnings.get_or_create_owned(&Reason { reason }));
        Self {
            admissions: Decided::ALL.iter().map(|one| (*one, admitted(*one))).collect(),
            other: admitted(Decided { outcome: "unanswered", reason: OTHER }),
            durations,
            warnings: Warning::REASONS.iter().chain([&OTHER]).map(warned).collect(),
            objects: number(registry, "snapshot_objects", "Objects that admission reads"),
            held: number(
                registry,
                "snapshot_held",
                "1 while the last objects of a kind stay in force although the cluster lists them no more",
            ),
            ages: collected(registry),
            restarts: number(registry, "watch_restarts", "Watches that were begun anew"),
            leader: number(registry, "leader", "1 on the controller that writes"),
            certificate: number(
                registry,
                "certificate_expiry_timestamp_seconds",
                "When the serving certificate ends, in seconds since the Unix epoch; 0 where there is none",
            ),
            patched: number(registry, "annotations_patched", "Annotations of pods written"),
            lag: lag(registry),
            classes: number(
                registry,
                "classes_written",
                "SecretProviderClasses made, changed and deleted for Secrets Store volumes",
            ),
        }
    }
}

/// A number that `registry` shows.
fn number<N: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> N {
    let number = N::default();
    registry.register(name, help, number.clone());
    number
}

/// What `registry` asks whenever it shows anything.
fn collected<C: Default>(registry: &mut Registry) -> Arc<C>
where
    Arc<C>: Collector,
{
    let collector = Arc::<C>::default();
    registry.register_collector(Box::new(collector.clone()));
    collector
}

fn lag(registry: &mut Registry) -> Histogram {
    let lag = Histogram::new(LAG);
    let help = "From a change of the cluster to the write of a pod's annotation";
    registry.register_with_unit("annotation_lag", help, Unit::Seconds, lag.clone());
    lag
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

impl Metrics {
    /// A request of the API server was decided within `took`.
    pub fn admitted(&self, decided: Decided, took: Duration) {
        let counter = self.0.1.admissions.iter().find(|(one, _)| *one == decided);
        counter.map_or(&self.0.1.other, |(_, counter)| counter).inc();
        self.0.1.durations.observe(took);
    }

    /// An admission came with a warning of this reason.
    pub fn warned(&self, reason: &'static str) {
        let warnings = &self.0.1.warnings;
        // The last one is for what is not among them.
        let counter = warnings.iter().find(|(one, _)| *one == reason).or(warnings.last());
        if let Some((_, counter)) = counter {
            counter.inc();
        }
    }

    /// The snapshot has `count` objects of `kind`; `held` where they are not the cluster's any more.
    pub fn published(&self, kind: &'static str, count: usize, held: bool) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.0.1.objects.get_or_create(&Kind { kind }).set(count);
        self.0.1.held.get_or_create(&Kind { kind }).set(held.into());
    }

    /// The API server has said something about `kind`, or that there is nothing to say.
    pub fn heard(&self, kind: &'static str) {
        self.0.1.ages.heard(kind);
    }

    /// A watch of `kind` was begun anew.
    pub fn watch_restarted(&self, kind: &'static str) {
        self.0.1.restarts.get_or_create(&Kind { kind }).inc();
    }

    /// Whether this replica leads.
    pub fn leads(&self, leads: bool) {
        self.0.1.leader.set(leads.into());
    }

    /// The certificate that is shown ends then.
    pub fn certificate(&self, ends: SystemTime) {
        let seconds = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.0.1.certificate.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// The annotation of a pod was written, `lag` after what made it necessary.
    pub fn patched(&self, reason: &'static str, lag: Duration) {
        self.0.1.patched.get_or_create(&Reason { reason }).inc();
        self.0.1.lag.observe(lag.as_secs_f64());
    }

    /// A derived SecretProviderClass was written.
    pub fn class_written(&self, reason: &'static str) {
        self.0.1.classes.get_or_create(&Reason { reason }).inc();
    }

    /// All of it, in the text format of OpenMetrics.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        text::encode(&mut text, &self.0.0).unwrap_or_default();
        text
    }
}

/// What admissions take, without prometheus-client's lock.
#[derive(Debug, Default)]
struct Durations {
    /// One for each bound, and one for what is above them.
    buckets: [AtomicU64; ADMISSION.len() + 1],
    nanoseconds: AtomicU64,
}

impl Durations {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = ADMISSION.iter().take_while(|bound| seconds > **bound).count();
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Collector for Durations {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let bounds = ADMISSION.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .zip(&self.buckets)
            .map(|(bound, bucket)| (bound, bucket.load(Ordering::Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        let mut metric = encoder.encode_descriptor(
            "admission_duration",
            "From the whole request to its answer",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// When the API server was last heard of each kind.
#[derive(Debug, Default)]
struct Ages(Mutex<Vec<(&'static str, Instant)>>);

impl Ages {
    fn heard(&self, kind: &'static str) {
        let mut ages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match ages.iter_mut().find(|(one, _)| *one == kind) {
            Some((_, last)) => *last = Instant::now(),
            None => ages.push((kind, Instant::now())),
        }
    }
}

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "snapshot_age",
            "Since the API server was last heard of a kind; a quiet watch is begun anew every two minutes",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (kind, last) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let age = ConstGauge::new(last.elapsed().as_secs_f64());
            age.encode(metric.encode_family(&Kind { kind })?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(text: &'a str, start: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim)
    }

    #[tokio::test(start_paused = true)]
    async fn each_number_stands_under_its_name() {
        let metrics = Metrics::default();
        let injected = Decided { outcome: "injected", reason: "Injected" };
        metrics.admitted(injected, Duration::from_micros(70));
        metrics.admitted(Decided { outcome: "?", reason: "?" }, Duration::from_secs(3));
        metrics.warned("Unbound");
        metrics.published("AzureIdentity", 7, true);
        metrics.heard("AzureIdentity");
        metrics.watch_restarted("AzureIdentity");
        metrics.leads(true);
        metrics.certificate(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
        metrics.patched("IdentityBound", Duration::from_millis(7));
        metrics.class_written("ClassCreated");
        tokio::time::advance(Duration::from_secs(9)).await;

        let text = metrics.render();
        for (start, value) in [
            (r#"imdslet_admissions_total{outcome="injected",reason="Injected"}"#, "1"),
            (r#"imdslet_admissions_total{outcome="unanswered",reason="Other"}"#, "1"),
            (r#"imdslet_admissions_total{outcome="refused",reason="Unbound"}"#, "0"),
            (r#"imdslet_admission_duration_seconds_bucket{le="0.00005"}"#, "0"),
            (r#"imdslet_admission_duration_seconds_bucket{le="0.0001"}"#, "1"),
            (r#"imdslet_admission_duration_seconds_bucket{le="2.0"}"#, "1"),
            (r#"imdslet_admission_duration_seconds_bucket{le="+Inf"}"#, "2"),
            ("imdslet_admission_duration_seconds_count", "2"),
            (r#"imdslet_warnings_total{reason="Unbound"}"#, "1"),
            (r#"imdslet_snapshot_objects{kind="AzureIdentity"}"#, "7"),
            (r#"imdslet_snapshot_held{kind="AzureIdentity"}"#, "1"),
            (r#"imdslet_snapshot_age_seconds{kind="AzureIdentity"}"#, "9.0"),
            (r#"imdslet_watch_restarts_total{kind="AzureIdentity"}"#, "1"),
            ("imdslet_leader ", "1"),
            ("imdslet_certificate_expiry_timestamp_seconds ", "1800000000"),
            (r#"imdslet_annotations_patched_total{reason="IdentityBound"}"#, "1"),
            (r#"imdslet_annotation_lag_seconds_bucket{le="0.01"}"#, "1"),
            (r#"imdslet_classes_written_total{reason="ClassCreated"}"#, "1"),
        ] {
            assert_eq!(line(&text, start), Some(value), "{start}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
