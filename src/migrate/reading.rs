//! Reads the files of a dump, or a cluster: all of it, so that everything that is wrong is told at once.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lean::{Lean, lean};
use crate::documents::{Place, ReadError, Source, read_as, sources};
use crate::live::{Cluster, Kind, LiveError};

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

    /// Takes in the objects of a text, `name` being what it is called. `watch` is told how many bytes of
    /// it are read.
    ///
    /// # Errors
    ///
    /// [`ReadError`], for what is first wrong with it; the objects before that were taken.
    pub fn add(
        &mut self,
        name: &str,
        text: &mut dyn Read,
        watch: &mut dyn FnMut(usize),
    ) -> Result<(), ReadError> {
        read_as(name, text, watch, &mut |place, lean| self.take(place, lean))
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
            unread.failed.push(ReadError::empty(file));
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
    let mut progress = Progress::new(source.name(), Instant::now());
    let mut watch = |at| {
        if let Some(line) = progress.line(Instant::now(), || of_file(at, size)) {
            tell(line);
        }
    };
    dump.add(&source.name(), &mut bytes, &mut watch)
}

/// Reads all objects of a cluster that a plan may need, page by page, and keeps of each what [`read`]
/// keeps of those in files.
///
/// # Errors
///
/// [`LiveError`], if any of them cannot be read.
pub async fn read_live(cluster: &Cluster, tell: &mut dyn FnMut(String)) -> Result<Dump, LiveError> {
    let mut progress = Progress::new(cluster.server().to_owned(), Instant::now());
    let mut seen = |kind: &Kind, count: usize| {
        if let Some(line) = progress.line(Instant::now(), || format!("{count} {}", kind.word())) {
            tell(line);
        }
    };
    let objects = cluster.read(&mut lean, &mut seen).await?;
    Ok(Dump { documents: 0, objects })
}

/// How often a person who waits is told something.
const OFTEN: Duration = Duration::from_secs(2);

/// Tells a person who waits how far something is read.
struct Progress {
    name: String,
    started: Instant,
    told: Instant,
}

impl Progress {
    fn new(name: String, now: Instant) -> Self {
        Self { name, started: now, told: now }
    }

    /// A line, if it is time for one; `read` says what was read.
    fn line(&mut self, now: Instant, read: impl FnOnce() -> String) -> Option<String> {
        if now.duration_since(self.told) < OFTEN {
            return None;
        }
        self.told = now;
        let seconds = now.duration_since(self.started).as_secs();
        Some(format!("{}: {} read, {seconds} s", self.name, read()))
    }
}

/// How much of a file is read, and of how much, if that is known: a pipe may end at any time.
fn of_file(at: usize, size: Option<u64>) -> String {
    let at = u64::try_from(at).unwrap_or(u64::MAX);
    let read = at / MEGABYTE;
    match size {
        Some(size) => {
            let (share, size) = (at.saturating_mul(100) / size.max(1), size / MEGABYTE);
            format!("{read} of {size} MB ({share} %)")
        }
        None => format!("{read} MB"),
    }
}

const MEGABYTE: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_every_two_seconds() {
        let start = Instant::now();
        let mut progress = Progress::new("dump.yaml".to_owned(), start);
        let mut line = |megabytes: usize, size, seconds| {
            let read = || of_file(megabytes * 1_000_000, size);
            progress.line(start + Duration::from_secs(seconds), read)
        };
        let size = Some(200 * MEGABYTE);
        assert_eq!(line(20, size, 1), None);
        let said = line(50, size, 2);
        assert_eq!(said.as_deref(), Some("dump.yaml: 50 of 200 MB (25 %) read, 2 s"));
        assert_eq!(line(60, size, 3), None);
        let said = line(200, size, 9);
        assert_eq!(said.as_deref(), Some("dump.yaml: 200 of 200 MB (100 %) read, 9 s"));
        let said = line(50, None, 11);
        assert_eq!(said.as_deref(), Some("dump.yaml: 50 MB read, 11 s"));
        assert!(line(0, Some(0), 13).is_some());
    }
}
