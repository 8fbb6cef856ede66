//! Reads the files of a dump: all of them, so that everything that is wrong is told at once.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lean::Lean;
use crate::documents::{Place, ReadError, Source, read_as, sources};

/// The objects of a dump, without what no plan needs. Each is made from its text when its turn comes, so
/// that a large dump is never in memory as more than that.
#[derive(Debug, Default)]
pub struct Dump {
    documents: usize,
    objects: Vec<(Arc<Place>, Box<str>)>,
}

impl Dump {
    /// The objects, in their order, each with its document.
    pub fn objects(self) -> impl Iterator<Item = (Arc<Place>, Value)> {
        // The texts are ours. One that could not be read would be refused for being no object.
        let read = |text: Box<str>| serde_json::from_str(&text).unwrap_or_default();
        self.objects.into_iter().map(move |(place, text)| (place, read(text)))
    }

    fn take(&mut self, place: Place, Lean(objects): Lean) -> Result<(), ReadError> {
        let Some(objects) = objects else { return Err(ReadError::NoObject(place)) };
        let place = Arc::new(place);
        self.documents += 1;
        self.objects.extend(objects.into_iter().map(|text| (Arc::clone(&place), text)));
        Ok(())
    }
}

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

/// Reads all objects of `files`, without what no plan needs. `tell` is given lines for a person who
/// waits.
///
/// # Errors
///
/// [`Unread`], with all that was wrong and all that was not.
pub fn read(files: &[PathBuf], tell: &mut dyn FnMut(String)) -> Result<Dump, Unread> {
    let mut dump = Dump::default();
    let mut unread = Unread { read: Vec::new(), failed: Vec::new() };
    for file in files {
        let inside = match sources(file) {
            Ok(inside) => inside,
            Err(error) => {
                unread.failed.push(error);
                continue;
            }
        };
        let (documents, failed) = (dump.documents, unread.failed.len());
        for source in inside {
            let (documents, objects) = (dump.documents, dump.objects.len());
            match read_one(&source, &mut dump, tell) {
                Ok(()) if dump.documents == documents => {}
                Ok(()) => unread.read.push((source.name(), dump.objects.len() - objects)),
                Err(error) => unread.failed.push(error),
            }
        }
        if dump.documents == documents && unread.failed.len() == failed {
            unread.failed.push(ReadError::Empty(file.display().to_string()));
        }
    }
    if unread.failed.is_empty() { Ok(dump) } else { Err(unread) }
}

fn read_one(
    source: &Source,
    dump: &mut Dump,
    tell: &mut dyn FnMut(String),
) -> Result<(), ReadError> {
    let (mut bytes, size) = source.open()?;
    let mut progress = Progress::new(source.name(), size, Instant::now());
    let mut watch = |at| {
        if let Some(line) = progress.line(at, Instant::now()) {
            tell(line);
        }
    };
    read_as(&source.name(), &mut bytes, &mut watch, &mut |place, lean| dump.take(place, lean))
}

/// How often a person who waits is told something.
const OFTEN: Duration = Duration::from_secs(2);

/// How far a file is read.
struct Progress {
    name: String,
    /// How long it is, if that is known: a pipe may end at any time.
    size: Option<u64>,
    started: Instant,
    told: Instant,
}

impl Progress {
    fn new(name: String, size: Option<u64>, now: Instant) -> Self {
        Self { name, size, started: now, told: now }
    }

    /// A line, if it is time for one.
    fn line(&mut self, at: usize, now: Instant) -> Option<String> {
        if now.duration_since(self.told) < OFTEN {
            return None;
        }
        self.told = now;
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let read = at / MEGABYTE;
        let seconds = now.duration_since(self.started).as_secs();
        Some(match self.size {
            Some(size) => {
                let (share, size) = (at.saturating_mul(100) / size.max(1), size / MEGABYTE);
                format!("{}: {read} of {size} MB read ({share} %), {seconds} s", self.name)
            }
            None => format!("{}: {read} MB read, {seconds} s", self.name),
        })
    }
}

const MEGABYTE: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_every_two_seconds() {
        let start = Instant::now();
        let of = |size| Progress::new("dump.yaml".to_owned(), size, start);
        let line = |progress: &mut Progress, megabytes: usize, seconds| {
            progress.line(megabytes * 1_000_000, start + Duration::from_secs(seconds))
        };
        let mut progress = of(Some(200 * MEGABYTE));
        assert_eq!(line(&mut progress, 20, 1), None);
        let said = line(&mut progress, 50, 2);
        assert_eq!(said.as_deref(), Some("dump.yaml: 50 of 200 MB read (25 %), 2 s"));
        assert_eq!(line(&mut progress, 60, 3), None);
        let said = line(&mut progress, 200, 9);
        assert_eq!(said.as_deref(), Some("dump.yaml: 200 of 200 MB read (100 %), 9 s"));
        let said = line(&mut of(None), 50, 2);
        assert_eq!(said.as_deref(), Some("dump.yaml: 50 MB read, 2 s"));
        assert!(line(&mut of(Some(0)), 0, 2).is_some());
    }
}
