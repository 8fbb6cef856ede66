//! Flags and environment: read here, checked here, all mistakes at once.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use imdslet_core::settings::{FLAGS, Flag, Given, Settings};

/// How long requests in flight may take once the program is told to end. The API server waits at
/// most 30 s for an answer, by default 10.
pub const GRACE: Duration = Duration::from_secs(10);

/// How the program runs.
#[derive(Debug)]
pub struct Config {
    /// Where admission is served, over TLS.
    pub listen: SocketAddr,
    /// Where health is served, in plain HTTP.
    pub health_listen: SocketAddr,
    /// Where the CA's certificate is written, for whoever must trust it.
    pub ca_out: Option<PathBuf>,
    /// The file with the objects.
    pub manifests: PathBuf,
    /// What holds for every pod.
    pub settings: Settings,
}

/// Why the program cannot run as it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The command line is wrong, or asks for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A file that a flag names cannot be read.
    #[error("--{flag}: cannot read {path}: {cause}")]
    Unreadable {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Values that cannot be used.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Settings(Vec<imdslet_core::settings::Mistake>),
}

impl Config {
    /// Reads the process' arguments and environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with every wrong setting at once.
    pub fn from_process() -> Result<Self, ConfigError> {
        Self::of(&command().try_get_matches()?)
    }

    fn of(matches: &ArgMatches) -> Result<Self, ConfigError> {
        let mut given = given(matches);
        if let Some(path) =
            given.get("extra-ca").and_then(|paths| paths.last()).filter(|path| !path.is_empty())
        {
            let path = PathBuf::from(path);
            let read = fs::read_to_string(&path);
            let pem =
                read.map_err(|cause| ConfigError::Unreadable { flag: "extra-ca", path, cause })?;
            given.insert("extra-ca", vec![pem]);
        }
        let one = |name: &str| matches.get_one::<SocketAddr>(name).copied();
        Ok(Self {
            listen: one("listen").unwrap_or(SocketAddr::from(([0, 0, 0, 0], 8443))),
            health_listen: one("health-listen").unwrap_or(SocketAddr::from(([0, 0, 0, 0], 8080))),
            ca_out: matches.get_one("ca-out").cloned(),
            manifests: matches.get_one("manifests").cloned().unwrap_or_default(),
            settings: Settings::read(&given).map_err(ConfigError::Settings)?,
        })
    }
}

/// The command line of the program.
#[must_use]
pub fn command() -> Command {
    let addr = |name: &'static str, help: &'static str, default: &'static str| {
        own(name, "ADDR", help).value_parser(value_parser!(SocketAddr)).default_value(default)
    };
    let path = |name: &'static str, help: &'static str| {
        own(name, "FILE", help).value_parser(value_parser!(PathBuf))
    };
    Command::new("imdslet-webhook")
        .version(env!("CARGO_PKG_VERSION"))
        .about("imdslet's mutating admission webhook")
        .arg(addr("listen", "Where admission is served, over TLS", "0.0.0.0:8443"))
        .arg(addr("health-listen", "Where health is served, in plain HTTP", "0.0.0.0:8080"))
        .arg(path("ca-out", "Where to write the certificate of the CA that was made"))
        .arg(
            path("manifests", "JSON List of identities, bindings, exceptions and namespaces")
                .required(true),
        )
        .args(FLAGS.iter().map(setting))
}

/// A flag of this program alone.
fn own(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    let variable = format!("IMDSLET_{}", name.to_uppercase().replace('-', "_"));
    Arg::new(name).long(name).value_name(value).env(variable).hide_env(true).help(help)
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

fn given(matches: &ArgMatches) -> Given {
    let values = |flag: &Flag| matches.get_many::<String>(flag.name).map(Iterator::cloned);
    FLAGS.iter().filter_map(|flag| Some((flag.name, values(flag)?.collect()))).collect()
}
