//! Reads the files of a dump: all of them, so that everything that is wrong is told at once.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::lean::Lean;
use crate::documents::{Document, ReadError, parse_as, sources};
use crate::workloads::objects;

/// Not everything could be read.
#[derive(Debug, thiserror::Error)]
pub struct Unread {
    /// Each file that could be read, and how many objects it has.
    read: Vec<(String, usize)>,
    /// What could not.
    failed: Vec<ReadError>,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no plan is made of a part of the objects")?;
        for error in &self.failed {
            write!(f, "\nfailed: {error}")?;
        }
        for (file, count) in &self.read {
            write!(f, "\nread: {file}, {count} objects")?;
        }
        Ok(())
    }
}

/// Reads all documents of `files`, without what no plan needs. `tell` is given lines for a person
/// who waits.
///
/// # Errors
///
/// [`Unread`], with all that was wrong and all that was not.
pub fn read(files: &[PathBuf], tell: &mut dyn FnMut(String)) -> Result<Vec<Document>, Unread> {
    let mut documents = Vec::new();
    let mut unread = Unread { read: Vec::new(), failed: Vec::new() };
    for file in files {
        let inside = match sources(file) {
            Ok(inside) => inside,
            Err(error) => {
                unread.failed.push(error);
                continue;
            }
        };
        let all_before = documents.len();
        let failed_before = unread.failed.len();
        for source in inside {
            let before = documents.len();
            let read = source.text().and_then(|text| {
                let mut progress = Progress::new(source.name(), text.len(), Instant::now());
                let mut watch = |at| {
                    if let Some(line) = progress.line(at, Instant::now()) {
                        tell(line);
                    }
                };
                parse_as::<Lean>(&source.name(), &text, &mut watch, &mut documents)
            });
            let own = documents.get(before..).unwrap_or_default();
            let count = own.iter().map(|document| objects(&document.value).len()).sum();
            match read {
                Ok(()) if own.is_empty() => {}
                Ok(()) => unread.read.push((source.name(), count)),
                Err(error) => unread.failed.push(error),
            }
        }
        if documents.len() == all_before && unread.failed.len() == failed_before {
            unread.failed.push(ReadError::Empty(file.display().to_string()));
        }
    }
    if unread.failed.is_empty() { Ok(documents) } else { Err(unread) }
}

/// How often a person who waits is told something.
const OFTEN: Duration = Duration::from_secs(2);

/// How far a file is read.
struct Progress {
    name: String,
    size: usize,
    started: Instant,
    told: Instant,
}

impl Progress {
    fn new(name: String, size: usize, now: Instant) -> Self {
        Self { name, size, started: now, told: now }
    }

    /// A line, if it is time for one.
    fn line(&mut self, at: usize, now: Instant) -> Option<String> {
        if now.duration_since(self.told) < OFTEN {
            return None;
        }
        self.told = now;
        let share = at.saturating_mul(100) / self.size.max(1);
        let (read, size) = (at / MEGABYTE, self.size / MEGABYTE);
        let seconds = now.duration_since(self.started).as_secs();
        Some(format!("{}: {read} of {size} MB read ({share} %), {seconds} s", self.name))
    }
}

const MEGABYTE: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_every_two_seconds() {
        let start = Instant::now();
        let mut progress = Progress::new("dump.yaml".to_owned(), 200 * MEGABYTE, start);
        let mut line =
            |at, seconds| progress.line(at * MEGABYTE, start + Duration::from_secs(seconds));
        assert_eq!(line(20, 1), None);
        assert_eq!(line(50, 2).as_deref(), Some("dump.yaml: 50 of 200 MB read (25 %), 2 s"));
        assert_eq!(line(60, 3), None);
        assert_eq!(line(200, 9).as_deref(), Some("dump.yaml: 200 of 200 MB read (100 %), 9 s"));
        let mut empty = Progress::new("empty".to_owned(), 0, start);
        assert!(empty.line(0, start + OFTEN).is_some());
    }
}
