//! How often tokens were asked for, by whom and with what outcome.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Different outcomes that are counted apart. Names are counted only where the configuration has
/// them, so that more than this takes a configuration that is replaced again and again.
const MOST: usize = 10_000;

/// The answer to `GET /_emulator/requests`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// All calls of the token endpoint since the start.
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
    /// `issued`, or the code such as `700213`.
    pub outcome: String,
    /// How often.
    pub count: u64,
}

/// Tenant, client, and the code; no code where a token was issued.
type Row = (Option<String>, Option<String>, Option<u32>);

#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<(BTreeMap<Row, u64>, Requests)>);

impl Counts {
    pub(super) fn add(&self, tenant: Option<String>, client_id: Option<String>, code: Option<u32>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, totals) = &mut *counts;
        totals.token_calls += 1;
        let row = (tenant, client_id, code);
        if rows.len() < MOST || rows.contains_key(&row) {
            *rows.entry(row).or_default() += 1;
        } else {
            totals.other_calls += 1;
        }
    }

    pub(super) fn read(&self) -> Requests {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, totals) = &*counts;
        let outcomes = rows.iter().map(|((tenant, client_id, code), count)| Outcome {
            tenant: tenant.clone(),
            client_id: client_id.clone(),
            outcome: code.map_or_else(|| "issued".to_owned(), |code| code.to_string()),
            count: *count,
        });
        Requests { outcomes: outcomes.collect(), ..totals.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_who_and_what() {
        let counts = Counts::default();
        let name = |text: &str| Some(text.to_owned());
        counts.add(name("t"), name("c"), None);
        counts.add(name("t"), name("c"), Some(700_213));
        counts.add(name("t"), name("c"), None);
        counts.add(None, None, Some(90002));
        assert_eq!(
            serde_json::to_value(counts.read()).unwrap(),
            serde_json::json!({
                "tokenCalls": 4,
                "outcomes": [
                    {"tenant": null, "clientId": null, "outcome": "90002", "count": 1},
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
            counts.add(None, Some(client.to_string()), None);
        }
        counts.add(None, Some("0".to_owned()), None);
        let read = counts.read();
        assert_eq!(read.outcomes.len(), MOST);
        assert_eq!((read.token_calls, read.other_calls), (MOST as u64 + 2, 1));
    }
}
