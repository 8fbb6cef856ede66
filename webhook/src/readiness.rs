//! Whether admission may be asked, and what a person should know about it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// What is not as it should be, by the part of the program that says so.
///
/// A part that `blocks` keeps the program from being ready. One that does not is a warning: both
/// replicas see the same API server, and both of them not ready would refuse every labelled pod.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Note>>>);

struct Note {
    blocks: bool,
    text: String,
    since: Instant,
}

impl Readiness {
    /// Says what is wrong with `part`. True if it has not been said like this before.
    #[expect(clippy::must_use_candidate, reason = "whether it is news is not the point of it")]
    pub fn set(&self, part: &'static str, blocks: bool, text: &str) -> bool {
        self.with(|notes| {
            let fresh = || Note { blocks, text: String::new(), since: Instant::now() };
            let note = notes.entry(part).or_insert_with(fresh);
            note.blocks = blocks;
            let is_new = note.text != text;
            if is_new {
                text.clone_into(&mut note.text);
            }
            is_new
        })
    }

    /// Says that nothing is wrong with `part`. True if something was.
    #[expect(clippy::must_use_candidate, reason = "whether it is news is not the point of it")]
    pub fn clear(&self, part: &'static str) -> bool {
        self.with(|notes| notes.remove(part).is_some())
    }

    /// Since when something is wrong with `part`.
    #[must_use]
    pub fn since(&self, part: &'static str) -> Option<Instant> {
        self.with(|notes| notes.get(part).map(|note| note.since))
    }

    /// Whether nothing blocks, and a line for each note.
    #[must_use]
    pub fn report(&self) -> (bool, String) {
        self.with(|notes| {
            let mut text = String::new();
            for (part, note) in notes.iter() {
                let kind = if note.blocks { "waiting" } else { "warning" };
                let age = note.since.elapsed().as_secs();
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{kind}: {part}, for {age} s: {}", note.text);
            }
            (!notes.values().any(|note| note.blocks), text)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<&'static str, Note>) -> T) -> T {
        // A panic between two of the lines above cannot leave a map that is no map.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_blocks_is_told_with_its_age_and_news_only_once() {
        let readiness = Readiness::default();
        assert_eq!(readiness.report(), (true, String::new()));
        assert!(readiness.set("A", true, "one"));
        assert!(!readiness.set("A", true, "one"));
        tokio::time::advance(std::time::Duration::from_secs(7)).await;
        assert!(readiness.set("A", true, "two"));
        assert_eq!(readiness.report(), (false, "waiting: A, for 7 s: two\n".to_owned()));
        assert!(!readiness.set("A", false, "two"));
        assert_eq!(readiness.report(), (true, "warning: A, for 7 s: two\n".to_owned()));
        assert!(readiness.clear("A"));
        assert!(!readiness.clear("A"));
    }
}
