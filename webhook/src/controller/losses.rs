//! Whether what is there is taken away. A first look by which most of it would go is not acted upon:
//! what this replica does not know, it may just not have seen.

use imdslet_core::names::{GROUP, LET_GO};

/// Fewer than so many may all be meant.
pub(super) const MANY: usize = 10;

/// Whether what is there is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Losses {
    /// Not before it is known of how many.
    #[default]
    Unknown,
    /// They are too many to be meant.
    Held,
    /// As they come. It stays so.
    Free,
}

/// What weighing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weighed {
    /// Nothing.
    Same,
    /// From now on they are held.
    Holds,
    /// From now on they are taken as they come.
    Frees,
}

impl Losses {
    /// Weighs `lost`, how many of `there` would go. `lets_go`: a person has said that what is missing
    /// is meant to be gone.
    pub(super) fn weigh(&mut self, there: usize, lost: usize, lets_go: bool) -> Weighed {
        let is_meant = lets_go || there < MANY || lost * 2 <= there;
        let next = if is_meant || *self == Self::Free { Self::Free } else { Self::Held };
        match (std::mem::replace(self, next), next) {
            (before, now) if before == now => Weighed::Same,
            (_, Self::Held) => Weighed::Holds,
            _ => Weighed::Frees,
        }
    }
}

/// What an operator is told of losses that are held: what would go, and what ends it.
pub(super) fn held(what: &str, goes_on: &str) -> String {
    format!(
        "{what}. See that no CRD, AzureIdentity, AzureIdentityBinding or setting (AZURE_TENANT_ID) is \
         missing: it goes on when {goes_on}. If it is meant: kubectl annotate crd \
         azureidentitybindings.{GROUP} {LET_GO}=true"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_many_are_held_until_they_are_few_and_never_again() {
        use Weighed::{Frees, Holds, Same};
        // (there, lost, lets_go, before, what it changes)
        for (there, lost, lets_go, before, expected) in [
            (0, 0, false, Losses::Unknown, Frees),
            (9, 9, false, Losses::Unknown, Frees),
            (10, 5, false, Losses::Unknown, Frees),
            (10, 6, false, Losses::Unknown, Holds),
            (10, 10, true, Losses::Unknown, Frees),
            (10, 6, false, Losses::Held, Same),
            (10, 6, true, Losses::Held, Frees),
            (10, 5, false, Losses::Held, Frees),
            // Most of them are gone by now, and those that are left may be meant.
            (9, 9, false, Losses::Held, Frees),
            (100, 100, false, Losses::Free, Same),
        ] {
            let mut losses = before;
            let context = format!("{lost} of {there}, {lets_go}, {before:?}");
            assert_eq!(losses.weigh(there, lost, lets_go), expected, "{context}");
            let now = if expected == Holds || (expected, before) == (Same, Losses::Held) {
                Losses::Held
            } else {
                Losses::Free
            };
            assert_eq!(losses, now, "{context}");
        }
    }
}
