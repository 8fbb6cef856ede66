//! A Secret of types 1 and 2, as the kubelet mounts it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use http::StatusCode;
use imdslet_core::arguments::ServeArgs;
use imdslet_core::contract::PodIdentity;
use imdslet_core::id::is_object_name;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// The largest Secret that Kubernetes has, in bytes; a sidecar must not read more than that.
const LARGEST: u64 = 1024 * 1024;

const LEADS_OUT: &str = "its ..data leads out of the volume";

/// Why a Secret gives no credential. Nothing of what is in it is ever part of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MountedFault {
    #[error(
        "Secret {secret} of AzureIdentity {identity} has no {what} in this pod; create it in the \
         identity's namespace, and the pod has it about a minute later"
    )]
    Missing { identity: String, secret: String, what: String },
    #[error(
        "the Secret of AzureIdentity {identity} is not mounted in this pod: which ones are is fixed \
         when a pod is created; recreate the pod"
    )]
    NotMounted { identity: String },
    #[error("Secret {secret} of AzureIdentity {identity} cannot be used: {problem}")]
    Unusable { identity: String, secret: String, problem: String },
    #[error("Secret {secret} of AzureIdentity {identity} cannot be read ({why}); it is read again")]
    Unreadable { identity: String, secret: String, why: String },
}

/// The content of a Secret at one moment, cleared when it is dropped.
pub(super) struct Mounted {
    identity: String,
    /// `namespace/name`.
    secret: String,
    content: Content,
}

type Content = BTreeMap<String, Zeroizing<Vec<u8>>>;

impl MountedFault {
    /// What may come by itself is retried by clients, what somebody must mend is not.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Missing { .. } | Self::Unreadable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotMounted { .. } | Self::Unusable { .. } => StatusCode::BAD_REQUEST,
        }
    }

    /// Stable name for logs and metrics. Never carries user input.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "SecretMissing",
            Self::NotMounted { .. } => "SecretNotMounted",
            Self::Unusable { .. } => "SecretUnusable",
            Self::Unreadable { .. } => "SecretUnreadable",
        }
    }
}

impl Mounted {
    /// Reads the Secret of `identity`. The kubelet renews the files when the Secret changes, so
    /// they are read for each fetch.
    pub(super) fn read(args: &ServeArgs, identity: &PodIdentity) -> Result<Self, MountedFault> {
        let not_mounted = || MountedFault::NotMounted { identity: identity.name.clone() };
        // The name comes from an annotation that others may edit, and becomes part of a path.
        let name = identity.secret.as_deref().filter(|name| is_object_name(name));
        let (Some(name), Some(dir)) = (name, &args.secrets_dir) else { return Err(not_mounted()) };
        let namespace = identity.name.split_once('/').map_or("", |(namespace, _)| namespace);
        let secret = format!("{namespace}/{name}");
        match content(&dir.join(name)) {
            Ok(content) => Ok(Self { identity: identity.name.clone(), secret, content }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(not_mounted()),
            Err(error) => Err(MountedFault::Unreadable {
                identity: identity.name.clone(),
                secret,
                why: error.to_string(),
            }),
        }
    }

    /// The names of its keys, in order.
    pub(super) fn keys(&self) -> Vec<&str> {
        self.content.keys().map(String::as_str).collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.content.get(key).map(|value| value.as_slice())
    }

    pub(super) fn missing(&self, what: &str) -> MountedFault {
        MountedFault::Missing {
            identity: self.identity.clone(),
            secret: self.secret.clone(),
            what: what.to_owned(),
        }
    }

    pub(super) fn unusable(&self, problem: &str) -> MountedFault {
        MountedFault::Unusable {
            identity: self.identity.clone(),
            secret: self.secret.clone(),
            problem: problem.to_owned(),
        }
    }

    #[cfg(test)]
    pub(super) fn of(identity: &str, secret: &str, keys: &[(&str, &[u8])]) -> Self {
        let content = keys
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Zeroizing::new(value.to_vec())))
            .collect();
        Self { identity: identity.to_owned(), secret: secret.to_owned(), content }
    }
}

/// The files of `dir`, all of one generation: the link `..data` is followed once, so that a
/// certificate never meets the password of another.
fn content(dir: &Path) -> io::Result<Content> {
    loop {
        let generation = generation(dir)?;
        match files(&generation) {
            // The kubelet removes a generation once `..data` leads to the next one.
            Err(error)
                if error.kind() == ErrorKind::NotFound && self::generation(dir)? != generation => {}
            read => return read,
        }
    }
}

/// The folder beside `..data` to which that leads, as the kubelet makes it. Where there is no such
/// link, as where somebody runs the sidecar by hand, the files are in `dir`.
fn generation(dir: &Path) -> io::Result<PathBuf> {
    match fs::read_link(dir.join("..data")) {
        Ok(generation) => match generation.components().collect::<Vec<_>>()[..] {
            [Component::Normal(folder)] => Ok(dir.join(folder)),
            _ => Err(io::Error::other(LEADS_OUT)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(dir.to_owned()),
        Err(error) => Err(error),
    }
}

/// A generation is a folder, in which the kubelet writes plain files. What is a link there, a pipe or a
/// device, is no key of a Secret.
fn files(dir: &Path) -> io::Result<Content> {
    if fs::symlink_metadata(dir)?.is_symlink() {
        return Err(io::Error::other(LEADS_OUT));
    }
    let mut content = Content::new();
    let mut left = LARGEST;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // No key can be called `..something`: those are the kubelet's own.
        let (Ok(key), true) = (entry.file_name().into_string(), entry.file_type()?.is_file())
        else {
            continue;
        };
        if key.starts_with("..") {
            continue;
        }
        let value = read(&entry.path(), left)?;
        left -= value.len() as u64;
        content.insert(key, value);
    }
    Ok(content)
}

/// A file of `most` bytes at most, which is no link, also if it has become one.
fn read(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    // In one place from the start: what moves leaves behind what nobody clears.
    let mut value = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default()));
    file.take(length).read_to_end(&mut value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{identity, project, serve_args};

    fn read(dir: &Path, secret: Option<&str>) -> Result<Mounted, MountedFault> {
        let args = ServeArgs { secrets_dir: Some(dir.to_owned()), ..serve_args() };
        let mut identity = identity("web/sp", '1');
        identity.secret = secret.map(str::to_owned);
        Mounted::read(&args, &identity)
    }

    #[test]
    fn the_generation_that_data_leads_to_is_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("azure-sp");
        fs::create_dir(&dir).unwrap();
        project(&dir, "..1", &[("clientSecret", "one"), (".hidden", "x")]);
        let mounted = read(root.path(), Some("azure-sp")).ok().unwrap();
        assert_eq!(mounted.keys(), [".hidden", "clientSecret"]);
        assert_eq!(mounted.get("clientSecret"), Some(&b"one"[..]));
        project(&dir, "..2", &[("clientSecret", "two")]);
        let mounted = read(root.path(), Some("azure-sp")).ok().unwrap();
        assert_eq!(mounted.keys(), ["clientSecret"]);
        assert_eq!(mounted.get("clientSecret"), Some(&b"two"[..]));
    }

    #[test]
    fn files_without_a_generation_are_read_too() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("azure-sp/folder")).unwrap();
        fs::write(root.path().join("azure-sp/k"), "v").unwrap();
        assert_eq!(read(root.path(), Some("azure-sp")).ok().unwrap().keys(), ["k"]);
    }

    #[test]
    fn an_empty_volume_waits_for_its_secret_and_one_that_is_absent_does_not() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("azure-sp")).unwrap();
        let mounted = read(root.path(), Some("azure-sp")).ok().unwrap();
        let missing = mounted.missing("key `k`");
        assert_eq!((missing.status().as_u16(), missing.reason()), (503, "SecretMissing"));
        let message = missing.to_string();
        assert!(message.starts_with("Secret web/azure-sp of AzureIdentity web/sp has no key `k`"));
        fs::write(root.path().join("outside"), "x").unwrap();
        for secret in [None, Some("other"), Some("../azure-sp"), Some(".."), Some("")] {
            let fault = read(root.path(), secret).err().unwrap();
            let told = (fault.status().as_u16(), fault.reason());
            assert_eq!(told, (400, "SecretNotMounted"), "{secret:?}");
        }
    }

    #[test]
    fn links_lead_nowhere_but_from_data_to_a_folder_beside_it() {
        let link = |to: &str, from: &Path| std::os::unix::fs::symlink(to, from).unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("outside"), "another's").unwrap();
        let dir = root.path().join("azure-sp");
        fs::create_dir(&dir).unwrap();
        project(&dir, "..1", &[("k", "v")]);
        for (name, to) in [
            ("leads-out", "../../outside"),
            ("absolute", "/proc/self/environ"),
            ("dangling", "nowhere"),
            ("device", "/dev/zero"),
            ("folder", ".."),
            ("itself", "itself"),
            ("within", "k"),
        ] {
            link(to, &dir.join("..1").join(name));
        }
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("..1/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert_eq!(read(root.path(), Some("azure-sp")).ok().unwrap().keys(), ["k"]);

        link("../elsewhere", &dir.join("..2"));
        fs::create_dir(root.path().join("elsewhere")).unwrap();
        fs::write(root.path().join("elsewhere/k"), "another's").unwrap();
        for to in ["/", "..", "../azure-sp/..1", "..1/..", "../../azure-sp", "/proc/self", "..2"] {
            fs::remove_file(dir.join("..data")).unwrap();
            link(to, &dir.join("..data"));
            let fault = read(root.path(), Some("azure-sp")).err().unwrap();
            assert_eq!(fault.reason(), "SecretUnreadable", "{to}: {fault}");
            assert!(fault.to_string().contains("leads out of the volume"), "{to}: {fault}");
        }
        // One that could be read and is a link by the time that it is opened.
        assert!(fs::symlink_metadata(dir.join("k")).unwrap().is_symlink());
        super::read(&dir.join("k"), LARGEST).unwrap_err();
    }

    #[test]
    fn a_volume_that_holds_too_much_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("azure-sp")).unwrap();
        let file = fs::File::create(root.path().join("azure-sp/k")).unwrap();
        file.set_len(LARGEST + 1).unwrap();
        let fault = read(root.path(), Some("azure-sp")).err().unwrap();
        assert_eq!((fault.status().as_u16(), fault.reason()), (503, "SecretUnreadable"));
    }
}
