//! A certificate that somebody else keeps in files: cert-manager in a Secret that is mounted, or a
//! person. Nothing is written, here or in the cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use imdslet_certs::{Resolver, Serving};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{CERTIFICATE, First};
use crate::config::FILES_LOOK;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// As a Secret of type `kubernetes.io/tls` has them.
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";
/// cert-manager adds it; whoever has no CA of their own leaves it out.
const AUTHORITIES_FILE: &str = "ca.crt";

/// Why the files cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// One cannot be read.
    #[error(
        "{path} cannot be read ({cause}); mount a folder with {CERTIFICATE_FILE} and {KEY_FILE} at --tls-dir"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// They hold no certificate that can be shown.
    #[error("{dir}: {cause}; mend the certificate where it is made")]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// Why.
        cause: String,
    },
}

impl FilesError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "CertificateUnreadable",
            Self::Unusable { .. } => "CertificateNotServed",
        }
    }
}

/// The two files as they were read.
#[derive(PartialEq, Eq)]
struct Pair {
    certificate: String,
    key: String,
    authorities: String,
}

/// Follows the files of a folder.
pub struct Files {
    dir: PathBuf,
    names: Vec<String>,
    readiness: Readiness,
    metrics: Metrics,
    first: Option<oneshot::Sender<First>>,
    shown: Option<(Arc<Resolver>, Pair)>,
}

impl Files {
    /// For the certificate in `dir`, which should be for `names`. The first one goes to `first`;
    /// until then `readiness` is blocked.
    #[must_use]
    pub fn new(
        dir: PathBuf,
        names: Vec<String>,
        readiness: Readiness,
        metrics: Metrics,
        first: oneshot::Sender<First>,
    ) -> Self {
        readiness.set(CERTIFICATE, true, "not read yet");
        Self { dir, names, readiness, metrics, first: Some(first), shown: None }
    }

    /// Runs for as long as the program.
    pub async fn run(mut self) -> &'static str {
        loop {
            match self.look(SystemTime::now()) {
                Ok(None) => {
                    self.readiness.clear(CERTIFICATE);
                }
                Ok(Some(warning)) => {
                    if self.readiness.set(CERTIFICATE, false, &warning) {
                        tracing::warn!(warning, reason = "CertificateDoubtful", "certificate");
                    }
                }
                // What is shown stays.
                Err(trouble) => {
                    let blocks = self.shown.is_none();
                    if self.readiness.set(CERTIFICATE, blocks, &trouble.to_string()) {
                        let reason = trouble.reason();
                        tracing::error!(%trouble, reason, "the certificate cannot be shown");
                    }
                }
            }
            // A look costs three small reads, and needs no event that could be missed: not of the
            // file, nor of the link before it, nor of the folder above.
            sleep(FILES_LOOK).await;
        }
    }

    /// Shows what the files hold now. A warning where that is shown although it looks wrong.
    fn look(&mut self, now: SystemTime) -> Result<Option<String>, FilesError> {
        let pair = read(&self.dir)?;
        let unusable = |cause: &dyn std::fmt::Display| FilesError::Unusable {
            dir: self.dir.clone(),
            cause: cause.to_string(),
        };
        let is_shown = self.shown.as_ref().is_some_and(|(_, shown)| *shown == pair);
        let serving =
            Serving::from_pem(&pair.certificate, &pair.key).map_err(|error| unusable(&error))?;
        let warning = warning(&serving, &pair.authorities, &self.names, now);
        if is_shown {
            return Ok(warning);
        }
        if let Some(ends) = serving.ends() {
            self.metrics.certificate(ends);
        }
        if let Some((resolver, shown)) = &mut self.shown {
            resolver.replace(serving).map_err(|error| unusable(&error))?;
            *shown = pair;
            tracing::info!(reason = "CertificateReplaced", "serving with a new certificate");
        } else {
            let resolver = Resolver::new(serving).map_err(|error| unusable(&error))?;
            let resolver = Arc::new(resolver);
            if let Some(first) = self.first.take() {
                let authorities = pair.authorities.clone();
                // Whoever waited for it has ended, and then so does the program.
                let _ = first.send(First { resolver: resolver.clone(), authorities });
            }
            self.shown = Some((resolver, pair));
        }
        Ok(warning)
    }
}

/// What a client would object to. It is shown all the same: what the API server was told to trust
/// is not known here.
fn warning(
    serving: &Serving,
    authorities: &str,
    names: &[String],
    now: SystemTime,
) -> Option<String> {
    let name = names.first().map(std::slice::from_ref).unwrap_or_default();
    let trusted = if authorities.trim().is_empty() { serving.pem() } else { authorities };
    match serving.verify(trusted, name, now) {
        // Whose CA it is, is known to others alone: its time and names have been judged, and no more
        // can be.
        Err(imdslet_certs::Unusable::NotTrusted(_)) if authorities.trim().is_empty() => None,
        Err(cause) => Some(format!("{CERTIFICATE_FILE} {cause}")),
        Ok(()) => None,
    }
}

/// Reads the files, all of one writing: the kubelet turns `..data` from one folder to the next.
fn read(dir: &Path) -> Result<Pair, FilesError> {
    let dir = match fs::read_link(dir.join("..data")) {
        Ok(data) => dir.join(data),
        Err(_) => dir.to_owned(),
    };
    let file = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(|error| (path, error))
    };
    let needed = |name: &str| {
        file(name)
            .map_err(|(path, error)| FilesError::Unreadable { path, cause: error.to_string() })
    };
    Ok(Pair {
        certificate: needed(CERTIFICATE_FILE)?,
        key: needed(KEY_FILE)?,
        authorities: file(AUTHORITIES_FILE).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use imdslet_certs::Authority;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000)
    }

    /// Lays a certificate out as the kubelet does.
    fn lay(dir: &Path, generation: &str, authority: &Authority, name: &str) {
        let serving = authority.issue(&[name.to_owned()], now()).unwrap();
        let folder = dir.join(generation);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(CERTIFICATE_FILE), serving.pem()).unwrap();
        fs::write(folder.join(KEY_FILE), serving.key_pem()).unwrap();
        fs::write(folder.join(AUTHORITIES_FILE), authority.pem()).unwrap();
        symlink(generation, dir.join("..next")).unwrap();
        fs::rename(dir.join("..next"), dir.join("..data")).unwrap();
    }

    fn files(dir: &Path) -> (Files, oneshot::Receiver<First>) {
        let (sender, first) = oneshot::channel();
        let names = vec!["imdslet-webhook.web.svc".to_owned()];
        let (readiness, metrics) = (Readiness::default(), Metrics::default());
        (Files::new(dir.to_owned(), names, readiness, metrics, sender), first)
    }

    #[test]
    fn a_certificate_is_shown_as_soon_as_it_is_there_and_when_it_is_turned() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::generate("CA", now()).unwrap();
        let (mut files, mut first) = files(dir.path());
        let trouble = files.look(now()).unwrap_err();
        assert!(trouble.to_string().contains("tls.crt cannot be read"), "{trouble}");
        assert!(first.try_recv().is_err());

        lay(dir.path(), "..1", &authority, "imdslet-webhook.web.svc");
        assert_eq!(files.look(now()), Ok(None));
        assert_eq!(first.try_recv().ok().unwrap().authorities, authority.pem());
        let shown = |files: &Files| files.shown.as_ref().unwrap().1.certificate.clone();
        let before = shown(&files);
        lay(dir.path(), "..2", &authority, "imdslet-webhook.web.svc");
        fs::remove_dir_all(dir.path().join("..1")).unwrap();
        assert_eq!(files.look(now()), Ok(None));
        assert_ne!(shown(&files), before);
        assert!(files.metrics.render().contains("expiry_timestamp_seconds 17595"));
    }

    #[test]
    fn what_cannot_be_shown_leaves_what_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::generate("CA", now()).unwrap();
        lay(dir.path(), "..1", &authority, "imdslet-webhook.web.svc");
        let (mut files, _first) = files(dir.path());
        files.look(now()).unwrap();
        fs::write(dir.path().join("..1").join(KEY_FILE), "half").unwrap();
        let trouble = files.look(now()).unwrap_err().to_string();
        assert!(trouble.contains("has no private key in it"), "{trouble}");
        assert!(files.shown.is_some());
    }

    #[test]
    fn what_a_client_would_object_to_is_said_and_shown() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::generate("CA", now()).unwrap();
        lay(dir.path(), "..1", &authority, "elsewhere.example");
        let (mut files, _first) = files(dir.path());
        let warning = files.look(now()).unwrap().unwrap();
        assert!(warning.contains("imdslet-webhook.web.svc"), "{warning}");
        assert!(files.shown.is_some());
        let late = files.look(now() + Duration::from_hours(24 * 366)).unwrap().unwrap();
        assert!(late.contains("has expired on"), "{late}");
    }

    #[test]
    fn a_lone_certificate_without_its_ca_is_judged_by_time_and_names() {
        let authority = Authority::generate("CA", now()).unwrap();
        for (name, expected) in [
            ("imdslet-webhook.web.svc", None),
            ("elsewhere.example", Some("imdslet-webhook.web.svc")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            lay(dir.path(), "..1", &authority, name);
            fs::remove_file(dir.path().join("..1").join(AUTHORITIES_FILE)).unwrap();
            let (mut files, _first) = files(dir.path());
            let warning = files.look(now()).unwrap();
            assert_eq!(warning.is_some(), expected.is_some(), "{name}: {warning:?}");
            assert!(warning.unwrap_or_default().contains(expected.unwrap_or_default()), "{name}");
            let late = files.look(now() + Duration::from_hours(24 * 366)).unwrap().unwrap();
            assert!(late.contains("has expired on"), "{late}");
        }
    }

    #[test]
    fn a_chain_is_shown_whole_and_files_without_a_link_before_them_are_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::generate("CA", now()).unwrap();
        let serving = authority.issue(&["imdslet-webhook.web.svc".to_owned()], now()).unwrap();
        let chain = format!("{}{}", serving.pem(), authority.pem());
        fs::write(dir.path().join(CERTIFICATE_FILE), &chain).unwrap();
        fs::write(dir.path().join(KEY_FILE), serving.key_pem()).unwrap();
        let (mut files, mut first) = files(dir.path());
        assert_eq!(files.look(now()), Ok(None));
        assert_eq!(first.try_recv().ok().unwrap().authorities, "");
        assert_eq!(files.shown.as_ref().unwrap().1.certificate, chain);
    }
}
