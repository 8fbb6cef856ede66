//! What stays wrong with objects and workloads, and when that is said. No I/O: the time is an
//! argument.
//!
//! All that is wrong is looked at as a whole, at most once a second however much changes, and
//! compared with what was wrong before. What has come is said after a while, since what mends it may
//! be just coming; what stays is said again, less and less often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::about::About;
use super::events::Note;
use super::ledger::{FIRST_REPEAT, LAST_REPEAT, PATIENCE};

/// How long after a change everything is looked at: what changes meanwhile is looked at together.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How many are said at one time, and how long the others wait then: a setting that makes every
/// object wrong must not keep the Events of pods from being sent.
const AT_ONCE: usize = 32;
const PAUSE: Duration = Duration::from_secs(1);

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) text: String,
    /// To be said once and not again, since somebody may want it so.
    pub(super) once: bool,
}

/// What is wrong with what, under which reason.
pub(super) type AllWrong = BTreeMap<(About, &'static str), Wrong>;

/// What is wrong, and when it is said.
#[derive(Default)]
pub(super) struct Reminders {
    wrong: BTreeMap<(About, &'static str), Entry>,
    timers: BTreeSet<(Instant, (About, &'static str))>,
    /// When everything is looked at next.
    look: Option<Instant>,
}

struct Entry {
    wrong: Wrong,
    due: Option<Instant>,
    interval: Duration,
}

impl Entry {
    fn is_told(&self) -> bool {
        self.interval > FIRST_REPEAT
    }
}

impl Reminders {
    /// Something has changed that may make things right or wrong.
    pub(super) fn changed(&mut self, now: Instant) {
        self.look.get_or_insert(now + LOOK_AFTER);
    }

    /// Whether everything is to be looked at now.
    pub(super) fn wants_a_look(&self, now: Instant) -> bool {
        self.look.is_some_and(|at| at <= now)
    }

    /// Takes in all that is wrong now.
    pub(super) fn look(&mut self, all: AllWrong, now: Instant) {
        self.look = None;
        let Self { wrong, timers, .. } = self;
        wrong.retain(|key, entry| {
            let stays = all.contains_key(key);
            if let (false, Some(due)) = (stays, entry.due) {
                timers.remove(&(due, key.clone()));
            }
            stays
        });
        for (key, now_wrong) in all {
            // Other words for it, such as another number of pods, make it no news.
            if let Some(entry) = wrong.get_mut(&key) {
                entry.wrong = now_wrong;
                continue;
            }
            let due = now + PATIENCE;
            timers.insert((due, key.clone()));
            let entry = Entry { wrong: now_wrong, due: Some(due), interval: FIRST_REPEAT };
            wrong.insert(key, entry);
        }
    }

    /// What is to be said now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Note> {
        let mut keys = Vec::new();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            keys.extend(self.timers.pop_first().map(|(_, key)| key));
        }
        // What was never said comes first; what is said again can wait.
        keys.sort_by_key(|key| self.wrong.get(key).is_some_and(Entry::is_told));
        let mut notes = Vec::new();
        for key in keys {
            let Some(entry) = self.wrong.get_mut(&key) else { continue };
            let next = if notes.len() >= AT_ONCE {
                Some(now + PAUSE)
            } else {
                let (about, reason) = key.clone();
                let message = entry.wrong.text.clone();
                notes.push(Note { about, reason, is_warning: !entry.wrong.once, message });
                let again = now + entry.interval;
                entry.interval = (entry.interval * 2).min(LAST_REPEAT);
                (!entry.wrong.once).then_some(again)
            };
            entry.due = next;
            self.timers.extend(next.map(|at| (at, key)));
        }
        notes
    }

    /// When there is something to do, if nothing happens.
    pub(super) fn wake(&self) -> Option<Instant> {
        let due = self.timers.first().map(|(at, _)| *at);
        due.into_iter().chain(self.look).min()
    }
}

#[cfg(test)]
mod tests {
    use imdslet_core::objects::{Kind, ObjectName};

    use super::*;

    fn wrong<const N: usize>(all: [(&str, &'static str, &str); N]) -> AllWrong {
        let entry = |(name, reason, text): (&str, &'static str, &str)| {
            let about = About::resource(Kind::AzureIdentityBinding, &ObjectName::new("web", name));
            ((about, reason), Wrong { text: text.to_owned(), once: reason == "Shadowed" })
        };
        all.into_iter().map(entry).collect()
    }

    struct Bench {
        reminders: Reminders,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { reminders: Reminders::default(), now: Instant::now() }
        }

        fn look(&mut self, all: AllWrong) {
            self.reminders.look(all, self.now);
        }

        /// What is said within `wait`, each with the seconds since its beginning.
        fn said(&mut self, wait: u64) -> Vec<(u64, String)> {
            let (began, end) = (self.now, self.now + Duration::from_secs(wait));
            let mut said = Vec::new();
            while let Some(at) = self.reminders.wake().filter(|at| *at <= end) {
                let notes = self.reminders.due(at);
                let seconds = (at - began).as_secs();
                said.extend(notes.into_iter().map(|note| (seconds, note.message)));
            }
            self.now = end;
            said
        }
    }

    #[test]
    fn what_stays_wrong_is_said_after_a_while_and_then_less_and_less_often() {
        let mut bench = Bench::new();
        bench.look(wrong([("a", "StillUnbound", "x")]));
        let times: Vec<_> = bench.said(20_000).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [5, 65, 185, 425, 905, 1865, 3785, 7385, 10985, 14585, 18185]);
    }

    #[test]
    fn what_is_mended_in_time_is_never_said_and_what_comes_back_is_news() {
        let mut bench = Bench::new();
        bench.look(wrong([("a", "StillUnbound", "x")]));
        assert!(bench.said(4).is_empty());
        bench.look(wrong([]));
        assert_eq!((bench.said(9999), bench.reminders.wake()), (Vec::new(), None));
        bench.look(wrong([("a", "StillUnbound", "x")]));
        assert_eq!(bench.said(6), [(5, "x".to_owned())]);
    }

    #[test]
    fn other_words_for_the_same_are_said_when_it_is_due_and_what_may_be_meant_only_once() {
        let mut bench = Bench::new();
        bench.look(wrong([("a", "StillUnbound", "1 pod"), ("b", "Shadowed", "y")]));
        assert_eq!(bench.said(6), [(5, "1 pod".to_owned()), (5, "y".to_owned())]);
        bench.look(wrong([("a", "StillUnbound", "2 pods"), ("b", "Shadowed", "y")]));
        assert_eq!(bench.said(60), [(59, "2 pods".to_owned())]);
        bench.look(wrong([("b", "Shadowed", "y")]));
        assert!(bench.said(9999).is_empty());
    }

    #[test]
    fn many_at_once_are_spread_and_none_is_left_out() {
        let mut bench = Bench::new();
        let name = |number: usize| format!("b{number:03}");
        let all = (0..100).flat_map(|number| wrong([(&*name(number), "InvalidObject", "x")]));
        bench.look(all.collect());
        let mut counts = BTreeMap::new();
        for (at, _) in bench.said(20) {
            *counts.entry(at).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([(5, 32), (6, 32), (7, 32), (8, 4)]));
    }

    #[test]
    fn what_is_news_does_not_wait_for_what_is_said_again() {
        let mut bench = Bench::new();
        let name = |number: usize| format!("b{number:04}");
        let old = || (0..3000).flat_map(|number| wrong([(&*name(number), "X", "old")]));
        bench.look(old().collect());
        bench.said(3000);
        bench.look(old().chain(wrong([("news", "X", "new")])).collect());
        let found = bench.said(10).into_iter().find(|(_, text)| text == "new");
        assert_eq!(found, Some((5, "new".to_owned())));
    }

    #[test]
    fn everything_is_looked_at_once_however_much_changes() {
        let mut reminders = Reminders::default();
        let now = Instant::now();
        for number in 0..10 {
            reminders.changed(now + Duration::from_millis(number));
        }
        assert_eq!(reminders.wake(), Some(now + LOOK_AFTER));
        assert!(!reminders.wants_a_look(now) && reminders.wants_a_look(now + LOOK_AFTER));
        reminders.look(AllWrong::new(), now + LOOK_AFTER);
        assert_eq!(reminders.wake(), None);
    }
}
