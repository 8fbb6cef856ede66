//! The command line and the environment, read here and nowhere else.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use imdslet_core::settings::{FLAGS, Flag, Given, Mistake, Settings};

use crate::check;
use crate::explain::{self, Target};
use crate::inject::Format;
use crate::live::Access;
use crate::migrate::{self, Issuer};

/// Azure managed identities for pods, without a DaemonSet.
#[derive(Debug, Parser)]
#[command(name = "imdslet", version, about, max_term_width = 100)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What the command can do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Shows the whole chain on this machine: no cluster, no Azure, no root
    Demo(DemoArgs),
    /// Prints what the webhook would make of manifests, offline
    Inject(InjectArgs),
    /// Tells whether a cluster is ready, imdslet works there, and workloads get tokens
    Check(CheckArgs),
    /// Tells which identity a pod gets, by what, and why not another
    Explain(ExplainArgs),
    /// Plans the move from aad-pod-identity: what must exist in Azure, what must be decided
    Migrate(MigrateArgs),
    /// Serves a stand-in for a part of Azure
    #[command(subcommand)]
    Emulate(Emulate),
}

/// `imdslet demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Serve on after the last step, and print lines to try by hand
    #[arg(long)]
    pub keep: bool,
}

/// `imdslet inject`.
#[derive(Debug, Args)]
pub struct InjectArgs {
    /// File or folder of manifests, or - for stdin; can be repeated
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// The settings of the webhook.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// `imdslet check`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub struct CheckArgs {
    /// A pod or workload to follow down to its tokens; can be repeated
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced)]
    pub workload: Vec<(String, String)>,
    /// Namespace in which a pod is created by a dry run
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Look again until nothing has failed, for so long, such as 90s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: check::Format,
    /// Print a ClusterRole with all that is read, and do nothing else
    #[arg(long)]
    pub rbac: bool,
    /// PEM file of CAs to trust for the issuer, beside the web's
    #[arg(long, value_name = "FILE")]
    pub extra_ca: Option<PathBuf>,
    /// The kubeconfig [default: that of kubectl]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// What is done, and what the exit code means.
const CHECK_HELP: &str = "\
Nothing is written. A pod is created by a dry run, to see what would become of it.

Exit code 0: nothing has failed, 1: something has, 3: not everything could be seen.";

fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("it must be NAMESPACE/NAME".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "it must be a number with s, m or h, such as 90s".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Whether a person asked for no colours (<https://no-color.org>).
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
#[must_use]
pub fn wants_no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// `imdslet explain`.
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_HELP)]
pub struct ExplainArgs {
    /// What to explain; without it, every labelled pod and workload
    #[arg(value_name = "KIND/NAME")]
    pub targets: Vec<Target>,
    /// The pod of this name, as a target
    #[arg(long, value_name = "NAME")]
    pub pod: Vec<String>,
    /// File or folder of a cluster's objects, or - for stdin; can be repeated
    #[arg(
        short,
        long = "filename",
        value_name = "FILE",
        required_unless_present = "live",
        num_args = 1
    )]
    pub files: Vec<PathBuf>,
    /// Which cluster to read instead.
    #[command(flatten)]
    pub live: LiveArgs,
    /// Issuer of the cluster's service account tokens, exact to the slash
    #[arg(long, value_name = "URL")]
    pub issuer: Option<Issuer>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: explain::Format,
    /// Namespace of objects and targets that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// The settings of the webhook.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What a target may be, and what the exit code means.
const EXPLAIN_HELP: &str = "\
A target is KIND/NAME or KIND/NAMESPACE/NAME: a pod, what makes pods, or an
AzureIdentityBinding. The files must have what decides about it: AzureIdentities,
bindings and exceptions, and the namespace where that has annotations.

Exit code 0: all that ask for an identity have one, 1: one of them has none, or a
binding gives nothing, 3: it could not be found out.";

/// A cluster to read, instead of files.
#[derive(Debug, Args)]
pub struct LiveArgs {
    /// Read the cluster of the kubeconfig instead of files; nothing is written
    #[arg(long, conflicts_with = "files")]
    pub live: bool,
    /// With --live: the kubeconfig [default: that of kubectl]
    #[arg(long, value_name = "FILE", requires = "live")]
    pub kubeconfig: Option<PathBuf>,
    /// With --live: the context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "live")]
    pub context: Option<String>,
}

impl LiveArgs {
    /// The cluster, if one is meant.
    #[must_use]
    pub fn access(&self) -> Option<Access> {
        let Self { kubeconfig, context, .. } = self;
        self.live.then(|| Access { kubeconfig: kubeconfig.clone(), context: context.clone() })
    }
}

/// `imdslet migrate`.
#[derive(Debug, Args)]
#[command(after_help = MIGRATE_HELP)]
pub struct MigrateArgs {
    /// File or folder of a cluster's objects, or - for stdin; can be repeated
    #[arg(
        short,
        long = "filename",
        value_name = "FILE",
        required_unless_present = "live",
        num_args = 1..
    )]
    pub files: Vec<PathBuf>,
    /// Which cluster to read instead.
    #[command(flatten)]
    pub live: LiveArgs,
    /// Issuer of the cluster's service account tokens, exact to the slash; --live can tell it
    #[arg(long, value_name = "URL", required_unless_present = "live")]
    pub issuer: Option<Issuer>,
    /// How to print the plan
    #[arg(short, long, value_enum, default_value_t)]
    pub output: migrate::Format,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// The settings of the webhook.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// How the files are made, and what the exit code means.
const MIGRATE_HELP: &str = "\
The objects of a cluster, as files:
  kubectl get azureidentity,azureidentitybinding,azurepodidentityexception,\\
azureassignedidentity,deploy,sts,ds,job,cronjob,pod,sa,ns -A -o yaml > dump.yaml
and, where the Secrets Store driver is used, secretproviderclass in a dump of its own.

Nothing is changed, in the cluster or in Azure. Exit code 1: the plan is whole, and something
must be decided; it stands on stderr, and in -o json and -o html.";

/// `imdslet emulate`.
#[derive(Debug, Subcommand)]
pub enum Emulate {
    /// Microsoft Entra ID: exchanges service account tokens for access tokens, strictly
    Entra(EntraArgs),
}

/// `imdslet emulate entra`.
#[derive(Debug, Args)]
pub struct EntraArgs {
    /// YAML or JSON file of tenants, issuers and federated credentials
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where to listen, over TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8444")]
    pub listen: SocketAddr,
    /// Where to write the certificate of the CA, for whoever must trust it
    #[arg(long, value_name = "FILE")]
    pub ca_out: Option<PathBuf>,
}

/// The settings that the webhook has too, under the same names.
#[derive(Debug)]
pub struct SettingsArgs(Given);

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A file that a flag names cannot be read.
    #[error("--{flag}: cannot read {path}: {cause}")]
    Unreadable {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// Values that cannot be used.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<Mistake>),
}

impl SettingsArgs {
    /// Reads what was given, files included.
    ///
    /// # Errors
    ///
    /// [`SettingsError`], with every wrong value at once.
    pub fn read(mut self) -> Result<Settings, SettingsError> {
        let given = self.0.get("extra-ca").and_then(|paths| paths.last());
        if let Some(path) = given.filter(|path| !path.is_empty()).cloned() {
            let pem = fs::read_to_string(&path);
            let flag = "extra-ca";
            let pem = pem.map_err(|cause| SettingsError::Unreadable { flag, path, cause })?;
            self.0.insert(flag, vec![pem]);
        }
        Settings::read(&self.0).map_err(SettingsError::Mistakes)
    }
}

impl Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        command.next_help_heading("Settings, as the webhook has them").args(FLAGS.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |flag: &Flag| matches.get_many::<String>(flag.name).map(Iterator::cloned);
        let given = FLAGS.iter().filter_map(|flag| Some((flag.name, values(flag)?.collect())));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A flag of the settings. `--flag` and `--flag=false` both turn a switch, as for the webhook.
fn arg(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .env(flag.variable)
        .hide_env_values(true)
        .help(flag.help);
    let arg = arg.action(ArgAction::Append);
    if flag.value.is_empty() {
        arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg.value_name(flag.value)
    }
}
