//! How many tokens were given, told once a minute. Pure: what is counted is an argument.
//!
//! Each token has a line of its own when it is fetched, and one when it is first given after a
//! fetch that nobody waited for: a refresh, or a search for an object id. All that follows is
//! counted: a line for each request would fill the node's disk.

use std::cmp::Reverse;

/// Lines of one summary. An app asks for a handful of resources; the others are told together.
const LINES: usize = 32;

/// How often the token of one identity for one resource was asked for and given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) identity: String,
    pub(crate) resource: String,
    pub(crate) times: u64,
}

/// The summary of a minute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Those given most, and the most first.
    pub(crate) listed: Vec<Given>,
    /// How often all others were.
    pub(crate) others: u64,
}

impl Summary {
    /// Sums up `given`, and the `dropped` ones whose identity or resource is not held any more.
    pub(crate) fn of(mut given: Vec<Given>, dropped: u64) -> Self {
        given.sort_by(|one, other| {
            let order = |given: &Given| Reverse(given.times);
            order(one).cmp(&order(other)).then_with(|| {
                (&one.identity, &one.resource).cmp(&(&other.identity, &other.resource))
            })
        });
        let rest = given.split_off(given.len().min(LINES));
        let others = rest.iter().fold(dropped, |sum, given| sum.saturating_add(given.times));
        Self { listed: given, others }
    }

    /// Writes it to the log; nothing where nothing was given.
    pub(crate) fn tell(&self) {
        for Given { identity, resource, times } in &self.listed {
            tracing::info!(identity, resource, times, "tokens given");
        }
        if self.others > 0 {
            tracing::info!(times = self.others, "tokens of other resources given");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(resource: usize, times: u64) -> Given {
        Given { identity: "web/db".to_owned(), resource: format!("r{resource:03}"), times }
    }

    #[test]
    fn the_most_asked_are_listed_and_the_others_counted() {
        let few = Summary::of(vec![given(1, 2), given(2, 9), given(0, 2)], 0);
        assert_eq!(few.listed, [given(2, 9), given(0, 2), given(1, 2)]);
        assert_eq!(few.others, 0);

        let many = Summary::of((0..200).map(|number| given(number, 3)).collect(), 7);
        assert_eq!((many.listed.len(), many.others), (LINES, 7 + 3 * (200 - 32)));
        assert_eq!(many.listed.last(), Some(&given(31, 3)));
        assert_eq!(Summary::of(Vec::new(), 0), Summary { listed: Vec::new(), others: 0 });
    }
}
