//! The command line and the environment, read here and nowhere else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand,
};
use clap_complete::Shell;
use imdslet_core::id::is_guid;
use imdslet_core::settings::{FLAGS, Flag, Given, Mistake, Settings};

use crate::check;
use crate::explain::{self, Target};
use crate::inject::Format;
use crate::live::Access;
use crate::migrate::{self, Issuer};
use crate::token;
use crate::token::request::{Protocol, Selector, Variables, Wanted};

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
    /// Asks a token endpoint as Azure's SDKs do, and shows what came back
    Token(TokenArgs),
    /// Serves a stand-in for a part of Azure
    #[command(subcommand)]
    Emulate(Emulate),
    /// Prints what makes a shell complete this command line
    Completion(CompletionArgs),
    /// Prints a manual page
    Man(ManArgs),
}

/// The command line of a program that was called as `name`: kubectl runs `kubectl-imdslet` for
/// `kubectl imdslet`.
#[must_use]
pub fn command_line(name: Option<&OsStr>) -> Command {
    let file = name.map(Path::new).and_then(Path::file_stem);
    let is_plugin = file.is_some_and(|file| file == "kubectl-imdslet");
    CommandLine::command().bin_name(if is_plugin { "kubectl imdslet" } else { "imdslet" })
}

/// `imdslet completion`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETION_HELP)]
pub struct CompletionArgs {
    /// For which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Where each shell looks for it.
const COMPLETION_HELP: &str = "\
Where it goes:
  bash:  source <(imdslet completion bash)
  zsh:   imdslet completion zsh > \"${fpath[1]}/_imdslet\"
  fish:  imdslet completion fish > ~/.config/fish/completions/imdslet.fish";

/// `imdslet man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Which command; without one, imdslet itself
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Write the pages of all commands into a folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub out_dir: Option<PathBuf>,
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

/// `imdslet token`.
#[derive(Debug, Args)]
#[command(after_help = TOKEN_HELP)]
pub struct TokenArgs {
    /// What the token is for.
    #[arg(
        long,
        value_name = "URI",
        help = "What the token is for, such as https://vault.azure.net"
    )]
    pub resource: String,
    /// Whose token: the identity with this client id
    #[arg(long, value_name = "GUID", group = "selector")]
    pub client_id: Option<String>,
    /// Whose token: the identity with this object id
    #[arg(long, value_name = "GUID", group = "selector")]
    pub object_id: Option<String>,
    /// Whose token: the identity with this resource id in Azure
    #[arg(long, value_name = "ID", group = "selector")]
    pub resource_id: Option<String>,
    /// As who to ask; without it, as the variables that are set tell SDKs
    #[arg(long = "as", value_enum, value_name = "WHO")]
    pub protocol: Option<Protocol>,
    /// Where to ask, instead of where the variables say; a path is needed only if it is unusual
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// How to print what came back
    #[arg(short, long, value_enum, default_value_t)]
    pub output: token::Format,
    /// Print the token itself and nothing else: it is a secret
    #[arg(long, conflicts_with = "output")]
    pub raw: bool,
}

/// What is read beside the flags, and what the exit code means.
const TOKEN_HELP: &str = "\
The variables are those that SDKs read: IDENTITY_ENDPOINT and IDENTITY_HEADER first, then
MSI_ENDPOINT and MSI_SECRET, then AZURE_POD_IDENTITY_AUTHORITY_HOST, then 169.254.169.254.
AZURE_CLIENT_ID chooses the identity where no flag does. One request is sent, without a proxy.

Exit code 0: a token, 1: the endpoint refuses, 3: nobody answers.";

impl TokenArgs {
    /// What is wanted.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let selector = (self.client_id.clone().map(Selector::ClientId))
            .or_else(|| self.object_id.clone().map(Selector::ObjectId))
            .or_else(|| self.resource_id.clone().map(Selector::ResourceId));
        Wanted {
            resource: self.resource.clone(),
            selector,
            protocol: self.protocol,
            endpoint: self.endpoint.clone(),
        }
    }
}

/// What the environment tells an SDK.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
#[must_use]
pub fn token_variables() -> Variables {
    Variables::new(|name| std::env::var(name).ok())
}

/// `imdslet emulate`.
#[derive(Debug, Subcommand)]
pub enum Emulate {
    /// Microsoft Entra ID: exchanges service account tokens for access tokens, strictly
    Entra(EntraArgs),
    /// The token endpoint of a pod, on this machine: IMDS and App Service
    Imds(ImdsArgs),
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

/// The tenant of `emulate imds`, where nobody names one.
const EMULATED_TENANT: &str = "7e000000-0000-4000-8000-000000000000";

/// The identity of `emulate imds`, where nobody names one.
const EMULATED_CLIENT: &str = "c0000000-0000-4000-8000-000000000001";

/// `imdslet emulate imds`.
#[derive(Debug, Args)]
#[command(after_help = IMDS_HELP)]
pub struct ImdsArgs {
    /// Print the variables for a shell, serve on in the background, and return
    #[arg(long, conflicts_with = "command")]
    pub env: bool,
    /// Client id of an identity; can be repeated, the first is the default
    #[arg(long, value_name = "GUID", value_parser = guid, conflicts_with = "files")]
    pub client_id: Vec<String>,
    /// Tenant of identities that name none
    #[arg(long, value_name = "GUID", value_parser = guid, default_value = EMULATED_TENANT)]
    pub tenant_id: String,
    /// File or folder of AzureIdentity and AzureIdentityBinding, as in a cluster; can be repeated
    #[arg(short, long = "filename", value_name = "FILE", num_args = 1, requires = "label")]
    pub files: Vec<PathBuf>,
    /// Label aadpodidbinding of the pod that is played
    #[arg(long, value_name = "SELECTOR", requires = "files")]
    pub label: Option<String>,
    /// Namespace of the pod that is played, and of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// How long a token is valid, such as 90s or 1h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub token_lifetime: String,
    /// Port for tokens, on loopback alone; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Where the stand-in for Entra ID listens, over TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub entra_listen: SocketAddr,
    /// Where to write the certificate of its CA, for whoever verifies tokens
    #[arg(long, value_name = "FILE")]
    pub ca_out: Option<PathBuf>,
    /// Say nothing after the variables: nobody reads it.
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Command to run with the variables; everything ends with it
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn guid(text: &str) -> Result<String, &'static str> {
    let guid = is_guid(text).then(|| text.to_owned());
    guid.ok_or("it must be a GUID such as 11111111-2222-3333-4444-555555555555")
}

/// The three ways to use it.
const IMDS_HELP: &str = "\
Three ways to use it:
  imdslet emulate imds -- python app.py     runs one command, as env(1) does
  eval \"$(imdslet emulate imds --env)\"     for this shell; kill $IMDSLET_EMULATOR_PID ends it
  imdslet emulate imds                      prints the variables and serves until Ctrl-C

The keys of the tokens are at $IMDSLET_EMULATOR_AUTHORITY/TENANT/discovery/v2.0/keys. They open
nothing but what trusts them.

Exit code: that of COMMAND; without one 0 after a signal, 3 where something cannot start.";

impl ImdsArgs {
    /// The identities that are made up where no file names them.
    #[must_use]
    pub fn client_ids(&self) -> Vec<String> {
        if self.client_id.is_empty() {
            return vec![EMULATED_CLIENT.to_owned()];
        }
        self.client_id.clone()
    }
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
    /// Takes what an installation is set to by its variables, where nothing was given. Files that it
    /// names are not here.
    pub fn fill(&mut self, installed: &BTreeMap<String, String>) {
        for flag in FLAGS.iter().filter(|flag| !flag.is_file) {
            let value = installed.get(flag.variable).filter(|value| !value.is_empty());
            if let (Some(value), false) = (value, self.0.contains_key(flag.name)) {
                self.0.insert(flag.name, vec![value.clone()]);
            }
        }
    }

    /// Reads what was given, files included.
    ///
    /// # Errors
    ///
    /// [`SettingsError`], with every wrong value at once.
    pub fn read(mut self) -> Result<Settings, SettingsError> {
        for Flag { name: flag, .. } in FLAGS.iter().filter(|flag| flag.is_file) {
            let given = self.0.get(flag).and_then(|paths| paths.last());
            let Some(path) = given.filter(|path| !path.is_empty()).cloned() else { continue };
            let text = fs::read_to_string(&path);
            let text = text.map_err(|cause| SettingsError::Unreadable { flag, path, cause })?;
            self.0.insert(flag, vec![text]);
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
