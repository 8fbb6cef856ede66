//! The projected files, as the kubelet lays them out.
//!
//! `DIR/identities.json` leads through `DIR/..data`, which the kubelet turns from one folder to
//! the next by a rename. Requests compare where it leads with what was read, those that arrived
//! together by one look: a `readlink` is cheaper than a request, and no event can be missed.

use std::borrow::Cow;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use imdslet_core::contract::{FORMAT, PodIdentities};
use imdslet_core::names::IDENTITIES_FILE;
use rustix::fs::{CWD, readlinkat_raw};
use serde::Deserialize;

/// Longer than the names that the kubelet gives its folders, which have some 30 bytes.
const LONGEST_NAME: usize = 256;

/// How many requests one look is good for. A runtime that always has something to do asks the
/// network in the middle of a turn, and what arrived then is later than the turn's look.
const MOST_OF_A_TURN: u32 = 32;

/// The turns of a runtime of one thread, counted. A turn begins when the network was waited for, and
/// ends when everything that had arrived by then is done: what is looked at within a turn is as
/// new as any request of it.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<AtomicU64>);

/// The pod's identities as they stand in the volume.
pub(crate) struct Volume {
    dir: PathBuf,
    /// `DIR/..data`, as the system call takes it. None where there can be no such path.
    data: Option<CString>,
    /// None where nobody counts them: each request is then a turn.
    turns: Option<Turns>,
    // Not tokio's: it is never held across an await.
    read: Mutex<Option<Read>>,
}

/// What stood there when it was looked at last.
struct Read {
    generation: Generation<'static>,
    view: Arc<View>,
    /// The turn of that look, and how many requests it is still good for.
    turn: Option<u64>,
    left: u32,
}

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The last that could be read; `None` if none ever could.
    pub(crate) pod: Option<PodIdentities>,
    /// Why the file that is there now cannot be used.
    pub(crate) problem: Option<String>,
}

/// What distinguishes one writing of the files from the next.
#[derive(Debug, PartialEq, Eq)]
enum Generation<'a> {
    /// Where `..data` leads.
    Folder(Cow<'a, [u8]>),
    /// Files that nobody projected: when it was written, and its length.
    File(Option<SystemTime>, u64),
    Missing,
    /// Like none that is looked at: what was there could not be read, so it is read again.
    Unread,
}

/// Why a file cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("{0}; look at the volume `imdslet`")]
    Read(String),
    #[error(
        "it is no JSON of identities ({0}); the controller writes it anew, or recreate the pod"
    )]
    Parse(String),
    #[error(
        "its version {0} is newer than {FORMAT}, which this sidecar understands; recreate the pod"
    )]
    Newer(u32),
}

impl Generation<'_> {
    fn into_owned(self) -> Generation<'static> {
        match self {
            Self::Folder(name) => Generation::Folder(name.into_owned().into()),
            Self::File(written, length) => Generation::File(written, length),
            Self::Missing => Generation::Missing,
            Self::Unread => Generation::Unread,
        }
    }
}

impl Turns {
    /// Another turn begins.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn current(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Volume {
    pub(crate) fn new(dir: PathBuf, turns: Option<Turns>) -> Self {
        let data = CString::new(dir.join("..data").into_os_string().into_vec()).ok();
        Self { dir, data, turns, read: Mutex::new(None) }
    }

    /// What stands in the files now, and whether that is new.
    pub(crate) fn view(&self) -> (Arc<View>, bool) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turns.as_ref().map(Turns::current);
        if let Some(read) = &mut *read
            && turn.is_some()
            && read.turn == turn
            && read.left > 0
        {
            read.left -= 1;
            return (Arc::clone(&read.view), false);
        }
        // First where it leads, then what is there: if it turns in between, the next request
        // finds another generation and reads again.
        let mut name = [0; LONGEST_NAME];
        let generation = self.generation(&mut name);
        let left = MOST_OF_A_TURN - 1;
        if let Some(known) = &mut *read
            && known.generation == generation
        {
            (known.turn, known.left) = (turn, left);
            return (Arc::clone(&known.view), false);
        }
        let last = read.take().map(|read| read.view);
        let (view, is_whole) = self.load(last.as_deref());
        let is_new = last.as_deref() != Some(&view);
        let view = last.filter(|_| !is_new).unwrap_or_else(|| Arc::new(view));
        let generation = if is_whole { generation.into_owned() } else { Generation::Unread };
        *read = Some(Read { generation, view: Arc::clone(&view), turn, left });
        (view, is_new)
    }

    /// One system call and no allocation, where it is as the kubelet lays it out. `name` is room
    /// for where the link leads.
    fn generation<'a>(&self, name: &'a mut [u8; LONGEST_NAME]) -> Generation<'a> {
        match self.data.as_deref().map(|data| readlinkat_raw(CWD, data, &mut name[..])) {
            // It may lead further than there was room for.
            Some(Ok(LONGEST_NAME)) => {
                if let Ok(folder) = fs::read_link(self.dir.join("..data")) {
                    return Generation::Folder(folder.into_os_string().into_vec().into());
                }
            }
            Some(Ok(length)) => {
                return Generation::Folder(name.get(..length).unwrap_or_default().into());
            }
            Some(Err(_)) | None => {}
        }
        match fs::metadata(self.dir.join(IDENTITIES_FILE)) {
            Ok(file) => Generation::File(file.modified().ok(), file.len()),
            Err(_) => Generation::Missing,
        }
    }

    /// What stands in the file, and whether that is all that this writing of it will ever say: a
    /// read may fail by what passes, such as running out of file descriptors.
    fn load(&self, last: Option<&View>) -> (View, bool) {
        let path = self.dir.join(IDENTITIES_FILE);
        let text = fs::read_to_string(&path).map_err(|error| Unusable::Read(error.to_string()));
        match text.and_then(|text| parse(&text)) {
            Ok(pod) => {
                // Token renewals turn the folder too, and change nothing.
                if last.and_then(|view| view.pod.as_ref()) != Some(&pod) {
                    let names: Vec<_> =
                        pod.identities.iter().map(|identity| identity.name.as_str()).collect();
                    tracing::info!(
                        hold = pod.hold,
                        identities = names.join(", "),
                        "identities read"
                    );
                }
                (View { pod: Some(pod), problem: None }, true)
            }
            Err(why) => {
                let problem = format!("{} cannot be used: {why}", path.display());
                let pod = last.and_then(|view| view.pod.clone());
                if last.and_then(|view| view.problem.as_ref()) != Some(&problem) {
                    let kept_last = pod.is_some();
                    tracing::error!(kept_last, error = problem, "identities not read");
                }
                (View { pod, problem: Some(problem) }, !matches!(why, Unusable::Read(_)))
            }
        }
    }
}

pub(crate) fn parse(text: &str) -> Result<PodIdentities, Unusable> {
    /// Read by itself first: a newer format may differ in everything else.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }

    if text.trim().is_empty() {
        // A copy made by `kubectl debug --copy-to` has no annotation: not ours to hold.
        return Ok(PodIdentities { version: FORMAT, ..PodIdentities::default() });
    }
    let wrong = |error: serde_json::Error| Unusable::Parse(error.to_string());
    let Version { version } = serde_json::from_str(text).map_err(wrong)?;
    if version > FORMAT {
        return Err(Unusable::Newer(version));
    }
    serde_json::from_str(text).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use imdslet_core::contract::{PodIdentity, Source};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{identity, pod, project};

    fn text(pod: &PodIdentities) -> String {
        serde_json::to_string(pod).unwrap()
    }

    fn names(view: &View) -> Option<Vec<&str>> {
        let pod = view.pod.as_ref()?;
        Some(pod.identities.iter().map(|identity| identity.name.as_str()).collect())
    }

    #[test]
    fn the_next_look_sees_what_the_kubelet_turned_to() {
        let dir = tempfile::tempdir().unwrap();
        project(dir.path(), "..1", &[(IDENTITIES_FILE, &text(&pod([identity("web/db", '1')])))]);
        let volume = Volume::new(dir.path().to_owned(), None);
        let (view, fresh) = volume.view();
        assert_eq!((names(&view), fresh), (Some(vec!["web/db"]), true));
        assert!(!volume.view().1);

        project(dir.path(), "..2", &[(IDENTITIES_FILE, &text(&pod([])))]);
        fs::remove_dir_all(dir.path().join("..1")).unwrap();
        let (view, fresh) = volume.view();
        assert_eq!((names(&view), fresh), (Some(vec![]), true));
        assert!(!volume.view().1);
    }

    #[test]
    fn one_look_is_good_for_what_arrived_together_and_for_no_more_than_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let turns = Turns::default();
        let volume = Volume::new(dir.path().to_owned(), Some(turns.clone()));
        let mut last = 0;
        let mut turn_folder = |count: usize| {
            let one = || identity("web/db", '1');
            let all = std::iter::repeat_with(one).take(count).collect();
            let pod = PodIdentities { version: FORMAT, hold: false, identities: all };
            last += 1;
            project(dir.path(), &format!("..{last}"), &[(IDENTITIES_FILE, &text(&pod))]);
        };
        let count = || names(&volume.view().0).unwrap().len();
        turn_folder(1);
        assert_eq!(count(), 1);
        turn_folder(2);
        assert_eq!(count(), 1, "what came together with it");
        turns.begin();
        assert_eq!(count(), 2, "what came later");
        turn_folder(3);
        let same = (0..100).take_while(|_| count() == 2).count();
        assert_eq!(same, 31, "a turn without an end");
        assert_eq!(count(), 3);
    }

    #[test]
    fn a_file_that_nobody_projected_is_followed_by_its_time_and_length() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(IDENTITIES_FILE);
        fs::write(&file, text(&pod([identity("web/db", '1')]))).unwrap();
        let volume = Volume::new(dir.path().to_owned(), None);
        assert_eq!(names(&volume.view().0), Some(vec!["web/db"]));
        fs::write(&file, text(&pod([]))).unwrap();
        assert_eq!(names(&volume.view().0), Some(vec![]));
        assert!(!volume.view().1);
    }

    #[test]
    fn what_cannot_be_used_keeps_the_last_that_could() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::new(dir.path().to_owned(), None);
        let (view, _) = volume.view();
        assert_eq!(view.pod, None);
        assert!(view.problem.as_deref().unwrap().contains("No such file"));
        assert!(!volume.view().1, "it is told once");

        project(dir.path(), "..1", &[(IDENTITIES_FILE, &text(&pod([identity("web/db", '1')])))]);
        assert_eq!(volume.view().0.problem, None);
        let broken = [
            ("..2", "{\"version\":1,", "no JSON of identities"),
            ("..3", r#"{"version":2,"identities":{"all":"different"}}"#, "version 2 is newer"),
            ("..4", r#"{"identities":[]}"#, "missing field `version`"),
        ];
        for (generation, content, problem) in broken {
            project(dir.path(), generation, &[(IDENTITIES_FILE, content)]);
            let (view, fresh) = volume.view();
            assert_eq!((names(&view), fresh), (Some(vec!["web/db"]), true), "{content}");
            assert!(view.problem.as_deref().unwrap().contains(problem), "{:?}", view.problem);
        }
        project(dir.path(), "..5", &[(IDENTITIES_FILE, &text(&pod([])))]);
        assert_eq!(*volume.view().0, View { pod: Some(pod([])), problem: None });
    }

    #[test]
    fn what_could_not_be_read_is_read_again_before_the_kubelet_turns() {
        let dir = tempfile::tempdir().unwrap();
        project(dir.path(), "..1", &[(IDENTITIES_FILE, &text(&pod([identity("web/db", '1')])))]);
        let volume = Volume::new(dir.path().to_owned(), None);
        assert_eq!(names(&volume.view().0), Some(vec!["web/db"]));
        // In place of what passes: nobody can read a folder.
        project(dir.path(), "..2", &[]);
        let file = dir.path().join("..2").join(IDENTITIES_FILE);
        fs::create_dir(&file).unwrap();
        let (view, is_new) = volume.view();
        assert_eq!((names(&view), is_new), (Some(vec!["web/db"]), true));
        assert!(view.problem.as_deref().unwrap().contains("directory"), "{:?}", view.problem);
        assert!(!volume.view().1, "it is told once");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, text(&pod([]))).unwrap();
        let (view, is_new) = volume.view();
        assert_eq!((&*view, is_new), (&View { pod: Some(pod([])), problem: None }, true));
    }

    #[test]
    fn an_empty_file_holds_nobody() {
        for empty in ["", "\n"] {
            assert_eq!(parse(empty), Ok(pod([])));
        }
    }

    fn any_identity() -> impl Strategy<Value = PodIdentity> {
        let sources = [
            Source::Federated,
            Source::Binding,
            Source::Managed,
            Source::Secret,
            Source::Certificate,
        ];
        let text = ".{0,20}";
        let several = || prop::collection::vec(text, 0..3);
        let ids = (text, text, prop::option::of(text), prop::option::of(text));
        let more = (prop::option::of(text), prop::option::of(several()), several());
        (prop::sample::select(sources.to_vec()), ids, more, text).prop_map(
            |(source, (name, client_id, resource_id, object_id), more, tenant_id)| {
                let (secret, allowed_resources, auxiliary_tenant_ids) = more;
                PodIdentity {
                    name,
                    source,
                    client_id,
                    resource_id,
                    object_id,
                    tenant_id,
                    auxiliary_tenant_ids,
                    allowed_resources,
                    secret,
                }
            },
        )
    }

    fn any_pod() -> impl Strategy<Value = PodIdentities> {
        (any::<bool>(), prop::collection::vec(any_identity(), 0..4))
            .prop_map(|(hold, identities)| PodIdentities { version: FORMAT, hold, identities })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_and_no_part_of_it_is(pod in any_pod(), at in any::<prop::sample::Index>()) {
            let whole = text(&pod);
            prop_assert_eq!(parse(&whole), Ok(pod));
            // As a file that is written while it is read: nothing, which holds nobody, or refused.
            let ends: Vec<_> = (1..whole.len()).filter(|end| whole.is_char_boundary(*end)).collect();
            let part = &whole[..ends[at.index(ends.len())]];
            prop_assert!(matches!(parse(part), Err(Unusable::Parse(_))), "{}", part);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", version in any::<i64>()) {
            parse(&text).ok();
            let known = format!("{{\"version\":{version},\"identities\":{text}}}");
            if let Ok(pod) = parse(&known) {
                prop_assert!(pod.version <= FORMAT);
            }
        }
    }
}
