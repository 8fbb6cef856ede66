//! Flags and environment: read here, checked here, all mistakes at once.

mod line;
mod mistake;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use imdslet_certs::{Limits, OldestTls};
use imdslet_core::settings::{FLAGS, Flag, Given, Settings};
use tracing::level_filters::LevelFilter;

use self::line::{LOG_LEVEL, Line, ROLE, TLS_MIN_VERSION};
pub use self::mistake::{ConfigError, Mistake};
use crate::feed::{self, Event};

/// How long requests in flight may take once the program is told to end. The API server waits at
/// most 30 s for an answer, by default 10.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long admissions go on after the program is told to end: the kubelet must see that it is not
/// ready, and every node must hear of that, before nobody answers any more.
pub const LINGER: Duration = Duration::from_secs(5);

/// What the API server, and whoever else reaches the port, is granted. The API server opens more
/// connections under load, and keeps idle ones for 90 s: it should be the one that closes them.
pub const LIMITS: Limits = Limits { connections: 1024, head: Duration::from_mins(2) };

/// The same for those who ask for health and metrics.
pub const HEALTH_LIMITS: Limits = Limits { connections: 64, head: Duration::from_mins(2) };

/// How long the body of a request may take: less than `timeoutSeconds`, after which nobody waits.
pub const BODY_DEADLINE: Duration = Duration::from_secs(4);

/// A page of a list comes by then, or is asked for again.
pub const LIST_DEADLINE: Duration = Duration::from_mins(1);

/// The API server says by then what a CRD is like, or the watch that needs to know begins anew.
pub const DEFINITION_DEADLINE: Duration = Duration::from_secs(5);

/// How often is looked for a kind that somebody else defines, while it cannot be read.
pub const ABSENT_LOOK: Duration = Duration::from_secs(10);

/// How often the CSIDriver object is looked at, while a derived class is needed.
pub const DRIVER_LOOK: Duration = Duration::from_mins(10);

/// A watch has begun by then, or is asked for again.
pub const WATCH_START_DEADLINE: Duration = Duration::from_secs(30);

/// How long the API server is asked to keep a watch open. Short, since a connection that has died
/// in silence is noticed only at the end of it.
pub const WATCH_LIFE: Duration = Duration::from_mins(2);

/// How long after [`WATCH_LIFE`] we end a watch ourselves.
pub const WATCH_SLACK: Duration = Duration::from_secs(15);

/// A kind whose watch has failed for this long is reported as stale. Longer than an API server
/// takes to restart and than the backoff's longest step, 30 s, twice over.
pub const STALE_AFTER: Duration = Duration::from_mins(1);

/// A change of the Secret or the webhook configuration is made by then, or is tried again.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// A write of the controller, to a pod or about one, is made by then, or is tried again.
pub const POD_DEADLINE: Duration = Duration::from_secs(10);

/// How often a folder with a certificate is looked at.
pub const FILES_LOOK: Duration = Duration::from_secs(1);

/// The API server says the time by then, or the last one that it said is carried on.
pub const CLOCK_DEADLINE: Duration = Duration::from_secs(2);

/// How long the API server's time is carried on before it is asked again.
pub const CLOCK_LIFE: Duration = Duration::from_mins(10);

/// How often the certificate is looked at when nothing happens: for its age.
pub const RECHECK: Duration = Duration::from_hours(1);

/// The API server says its version by then, or is asked again.
pub const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// Where the kubelet tells a pod its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Where the program runs if nothing says so.
const DEFAULT_NAMESPACE: &str = "imdslet-system";

/// What the program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers the API server.
    Admission,
    /// Keeps running pods right.
    Controller,
}

/// Where the objects come from.
#[derive(Debug)]
pub enum Objects {
    /// The cluster.
    Cluster,
    /// A file, for trying it out, with these in it. No cluster is needed.
    File(Vec<Event>),
}

/// How the program runs.
#[derive(Debug)]
pub struct Config {
    /// What it is for.
    pub role: Role,
    /// Where admission is served, over TLS.
    pub listen: SocketAddr,
    /// Where health is served, in plain HTTP.
    pub health_listen: SocketAddr,
    /// Where the CA's certificate is written, for whoever must trust it.
    pub ca_out: Option<PathBuf>,
    /// The folder with a certificate that somebody else makes.
    pub tls_dir: Option<PathBuf>,
    /// The oldest TLS version that admission is served by.
    pub oldest_tls: OldestTls,
    /// The least that is worth a line of the log.
    pub log_level: LevelFilter,
    /// Where the objects come from.
    pub objects: Objects,
    /// The namespace that the program runs in.
    pub namespace: String,
    /// The name of this replica: the pod's name.
    pub replica: String,
    /// What was given for the settings. It has been checked.
    given: Given,
}

impl Config {
    /// Reads the process' arguments and environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with every mistake at once.
    pub fn from_process() -> Result<Self, ConfigError> {
        Self::of(&command().try_get_matches()?)
    }

    fn of(matches: &ArgMatches) -> Result<Self, ConfigError> {
        let mut line = Line::new(matches);
        let given = line.settings();
        let (role, objects) = sources(&mut line);
        let config = Self {
            role,
            listen: line.addr("listen", SocketAddr::from(([0, 0, 0, 0], 8443))),
            health_listen: line.addr("health-listen", SocketAddr::from(([0, 0, 0, 0], 8080))),
            ca_out: ca_out(&mut line),
            tls_dir: tls_dir(&mut line),
            oldest_tls: line.oldest_tls(),
            log_level: line.log_level(),
            objects,
            namespace: variable("POD_NAMESPACE")
                .or_else(own_namespace)
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            replica: variable("POD_NAME")
                .or_else(|| variable("HOSTNAME"))
                .unwrap_or_else(|| format!("imdslet-webhook-{}", std::process::id())),
            given,
        };
        line.judged(config)
    }

    /// What holds for every pod, in a cluster of `version` unless the operator gave one.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Mistakes`] if `version` is none.
    pub fn settings(&self, version: Option<&str>) -> Result<Settings, ConfigError> {
        let mut given = self.given.clone();
        if let Some(version) = version
            && self.depends_on_version()
        {
            given.insert("kubernetes-version", vec![version.to_owned()]);
        }
        Ok(Settings::read(&given)?)
    }

    /// Whether the cluster's version decides anything: neither it nor what follows from it is given.
    #[must_use]
    pub fn depends_on_version(&self) -> bool {
        let is_given = |flag| {
            let values = self.given.get(flag).and_then(|values: &Vec<String>| values.last());
            values.is_some_and(|value| !value.trim().is_empty())
        };
        !is_given("kubernetes-version") && !is_given("sidecar")
    }
}

/// The command line of the program.
#[must_use]
pub fn command() -> Command {
    let addr = |name: &'static str, help: &'static str, default: &'static str| {
        own(name, "ADDR", help).default_value(default)
    };
    let path = |name: &'static str, help: &'static str| {
        // Not a parser of paths, which would refuse the empty values that charts make.
        own(name, "FILE", help).value_parser(value_parser!(OsString))
    };
    Command::new("imdslet-webhook")
        .version(env!("CARGO_PKG_VERSION"))
        .about("imdslet's mutating admission webhook and its controller")
        .arg(
            own("role", "ROLE", "What the program is for")
                .value_parser(ROLE)
                .default_value("admission"),
        )
        .arg(addr("listen", "Where admission is served, over TLS", "0.0.0.0:8443"))
        .arg(addr("health-listen", "Where health is served, in plain HTTP", "0.0.0.0:8080"))
        .arg(path("ca-out", "Where to write the certificate of the CA that was made"))
        .arg(path(
            "tls-dir",
            "Folder with tls.crt and tls.key, which cert-manager or a person keeps; without it \
             the webhook makes and renews its certificate itself",
        ))
        .arg(
            own("tls-min-version", "VERSION", "The oldest TLS version that admission is served by")
                .value_parser(TLS_MIN_VERSION)
                .default_value("1.3"),
        )
        .arg(
            own("log-level", "LEVEL", "The least that is logged")
                .value_parser(LOG_LEVEL)
                .default_value("info"),
        )
        .arg(path(
            "manifests",
            "JSON List of identities, bindings, exceptions and namespaces to go by instead of \
                 the cluster's",
        ))
        .args(FLAGS.iter().map(setting))
}

/// A flag of this program alone.
fn own(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).env(line::variable(name)).hide_env(true).help(help)
}

/// A flag that the command has too.
fn setting(flag: &Flag) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .env(flag.variable)
        .help(flag.help)
        .action(ArgAction::Append);
    if flag.value.is_empty() {
        // `--flag` and `--flag=false` both, since a chart writes the second one.
        arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
    } else {
        arg.value_name(flag.value)
    }
}

/// What the program is for, and where it has the objects from.
fn sources(line: &mut Line<'_>) -> (Role, Objects) {
    let role = line.role();
    let Some(path) = line.path("manifests") else { return (role, Objects::Cluster) };
    if role == Role::Controller {
        line.mistakes.push(Mistake::ControllerOfFile);
    }
    let Some(text) = line.read("manifests", &path) else { return (role, Objects::Cluster) };
    match feed::events_of(&text) {
        Ok(events) => (role, Objects::File(events)),
        Err(error) => {
            let cause = error.to_string();
            line.mistakes.push(Mistake::Content { flag: "manifests", path, cause });
            (role, Objects::Cluster)
        }
    }
}

/// Its folder is there, or the file could not be written when it is time.
fn ca_out(line: &mut Line<'_>) -> Option<PathBuf> {
    let path = line.path("ca-out")?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let (path, remedy) = (folder.to_owned(), "make it, or write the file elsewhere");
        line.mistakes.push(Mistake::NoFolder { flag: "ca-out", path, remedy });
    }
    Some(path)
}

/// A folder is mounted before the program starts, or never. What is in it may come later, and is
/// waited for.
fn tls_dir(line: &mut Line<'_>) -> Option<PathBuf> {
    let path = line.path("tls-dir")?;
    if !path.is_dir() {
        let remedy = "mount one with tls.crt and tls.key there";
        line.mistakes.push(Mistake::NoFolder { flag: "tls-dir", path: path.clone(), remedy });
    }
    Some(path)
}

/// An environment variable that the downward API sets.
#[expect(clippy::disallowed_methods, reason = "this is config.rs")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn own_namespace() -> Option<String> {
    let namespace = fs::read_to_string(NAMESPACE_FILE).ok()?.trim().to_owned();
    (!namespace.is_empty()).then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["imdslet-webhook"].iter().chain(arguments);
        let matches =
            command().try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        Config::of(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn the_cluster_is_the_source_unless_a_file_is_given() {
        assert_eq!(config(&[]).unwrap().role, Role::Admission);
        assert!(matches!(config(&[]).unwrap().objects, Objects::Cluster));
        assert!(matches!(config(&["--manifests="]).unwrap().objects, Objects::Cluster));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.json");
        fs::write(&file, r#"{"items": []}"#).unwrap();
        let manifests = format!("--manifests={}", file.display());
        let objects = config(&[&manifests]).unwrap().objects;
        assert!(matches!(&objects, Objects::File(events) if events.len() == 1), "{objects:?}");
        assert_eq!(config(&["--role=controller"]).unwrap().role, Role::Controller);
        assert_eq!(
            config(&["--role=controller", &manifests]).unwrap_err(),
            "--role controller works on a cluster; leave --manifests out"
        );
        assert_eq!(
            config(&["--role=both"]).unwrap_err(),
            "--role (IMDSLET_ROLE) is `both`; it must be `admission` or `controller`"
        );
    }

    #[test]
    fn tls_1_3_is_spoken_unless_1_2_is_asked_for() {
        assert_eq!(config(&[]).unwrap().oldest_tls, OldestTls::V1_3);
        let folder = tempfile::tempdir().unwrap();
        let dir = format!("--tls-dir={}", folder.path().display());
        let older = config(&["--tls-min-version=1.2", &dir]).unwrap();
        assert_eq!(
            (older.oldest_tls, older.tls_dir.as_deref()),
            (OldestTls::V1_2, Some(folder.path()))
        );
        assert!(config(&["--tls-min-version=1.1"]).unwrap_err().ends_with("`1.2` or `1.3`"));
    }

    #[test]
    fn what_is_logged_is_chosen_by_a_word() {
        let level = |arguments: &[&str]| config(arguments).map(|config| config.log_level);
        assert_eq!(level(&[]), Ok(LevelFilter::INFO));
        assert_eq!(level(&["--log-level=debug"]), Ok(LevelFilter::DEBUG));
        // Not 0 to 5 or `off`, as tracing would have it, and no `trace`: nothing is said there.
        for other in ["trace", "off", "2", "DEBUG", ""] {
            let refused = level(&[&format!("--log-level={other}")]).unwrap_err();
            assert!(refused.ends_with("`error` or `warn` or `info` or `debug`"), "{refused}");
        }
    }

    #[test]
    fn the_clusters_version_counts_where_none_is_given() {
        use imdslet_core::arguments::Mode;
        let mode = |arguments: &[&str], version| {
            config(arguments).unwrap().settings(version).map(|settings| settings.sidecar).ok()
        };
        assert_eq!(mode(&[], Some("1.31+")), Some(Mode::Container));
        assert_eq!(mode(&[], Some("1.34")), Some(Mode::Native));
        assert_eq!(mode(&[], None), Some(Mode::Native));
        assert_eq!(mode(&[], Some("new")), None);
        assert_eq!(mode(&["--kubernetes-version=1.30"], Some("1.34")), Some(Mode::Container));
        assert_eq!(mode(&["--sidecar=native"], Some("1.31")), Some(Mode::Native));
    }
}
