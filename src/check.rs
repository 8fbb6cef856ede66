//! `imdslet check`: whether a cluster is ready for imdslet, whether imdslet works there, and how far
//! a workload gets.
//!
//! What is seen is gathered first (`gather`, `follow`), by an API server alone; each verdict is a function of
//! what was seen (`cluster`, `metadata`, `installed`, `tenant`, `stuck`, `workload`, `tokens`).

mod args;
mod cluster;
mod facts;
mod follow;
mod gather;
mod installed;
mod metadata;
mod report;
mod rights;
mod stuck;
mod tenant;
mod tokens;
mod workload;

pub use args::CheckArgs;
pub use facts::{Facts, Seen};
pub use gather::gather;
pub use report::{Check, Format, Group, Report, Verdict};
pub use rights::roles;

/// What a person wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `KIND/NAME` or `KIND/NAMESPACE/NAME`, or a pod's or workload's `NAMESPACE/NAME`.
    pub workloads: Vec<(String, String)>,
    /// Where a pod is created for a moment of thought, by a dry run.
    pub namespace: String,
}

/// Judges what was seen.
#[must_use]
pub fn judge(facts: &Facts, version: &str) -> Report {
    let mut groups = vec![cluster::group(facts)];
    groups.push(installed::group(facts, version));
    groups.extend(facts.workloads.iter().map(|one| workload::group(one, facts.now)));
    Report { groups }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
