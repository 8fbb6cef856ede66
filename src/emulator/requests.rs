//! How often tokens were asked for, by whom and with what outcome.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Different outcomes that are counted apart. Names are counted only where the configuration has
/// them, so that more than this takes a configuration that is replaced again and again.
const MOST: usize = 10_000;

/// The answer to `GET /_emulator/requests`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// All calls of the token endpoint since the start, and all of the token proxy.
    pub token_calls: u64,
    /// They, by tenant, client and outcome.
    pub outcomes: Vec<Outcome>,
    /// Those that are in no row because there were too many different ones.
    pub other_calls: u64,
}

/// One row of the counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The tenant's id, if the configuration has it.
    pub tenant: Option<String>,
    /// The client id, if the tenant has it.
    pub client_id: Option<String>,
    /// `issued`, the code such as `700213`, or Kubernetes' word such as `Forbidden`.
    pub outcome: String,
    /// Whether they came to the token proxy of identity bindings; left out where they did not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub through_proxy: bool,
    /// How often.
    pub count: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Issued,
    /// By Entra ID, with its code.
    Refused(u32),
    /// By the token proxy itself.
    Denied(&'static str),
}

/// Who called for a token: tenant and client, where the configuration has them, and by which way.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) tenant: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) through_proxy: bool,
}

type Row = (Caller, End);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issued => f.write_str("issued"),
            Self::Refused(code) => code.fmt(f),
            Self::Denied(reason) => f.write_str(reason),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<(BTreeMap<Row, u64>, Requests)>);

impl Counts {
    pub(super) fn add(&self, caller: Caller, end: End) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, totals) = &mut *counts;
        totals.token_calls += 1;
        let row = (caller, end);
        if rows.len() < MOST || rows.contains_key(&row) {
            *rows.entry(row).or_default() += 1;
        } else {
            totals.other_calls += 1;
        }
    }

    pub(super) fn read(&self) -> Requests {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, totals) = &*counts;
        let outcomes = rows.iter().map(|((caller, end), count)| Outcome {
            tenant: caller.tenant.clone(),
            client_id: caller.client_id.clone(),
            outcome: end.to_string(),
            through_proxy: caller.through_proxy,
            count: *count,
        });
        Requests { outcomes: outcomes.collect(), ..totals.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(tenant: Option<&str>, client_id: Option<&str>) -> Caller {
        let [tenant, client_id] = [tenant, client_id].map(|name| name.map(str::to_owned));
        Caller { tenant, client_id, through_proxy: false }
    }

    #[test]
    fn calls_are_counted_by_who_and_what() {
        let counts = Counts::default();
        let (known, nobody) = (caller(Some("t"), Some("c")), Caller::default());
        counts.add(known.clone(), End::Issued);
        counts.add(known.clone(), End::Refused(700_213));
        counts.add(known, End::Issued);
        counts.add(nobody.clone(), End::Refused(90002));
        counts.add(Caller { through_proxy: true, ..nobody }, End::Denied("Forbidden"));
        assert_eq!(
            serde_json::to_value(counts.read()).unwrap(),
            serde_json::json!({
                "tokenCalls": 5,
                "outcomes": [
                    {"tenant": null, "clientId": null, "outcome": "90002", "count": 1},
                    {"tenant": null, "clientId": null, "outcome": "Forbidden",
                     "throughProxy": true, "count": 1},
                    {"tenant": "t", "clientId": "c", "outcome": "issued", "count": 2},
                    {"tenant": "t", "clientId": "c", "outcome": "700213", "count": 1},
                ],
                "otherCalls": 0,
            })
        );
    }

    #[test]
    fn the_counts_do_not_grow_without_end() {
        let counts = Counts::default();
        for client in 0..=MOST {
            counts.add(caller(None, Some(&client.to_string())), End::Issued);
        }
        counts.add(caller(None, Some("0")), End::Issued);
        let read = counts.read();
        assert_eq!(read.outcomes.len(), MOST);
        assert_eq!((read.token_calls, read.other_calls), (MOST as u64 + 2, 1));
    }
}
