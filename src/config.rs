//! The command line and the environment, read here and nowhere else. What a larger command is told stands
//! beside it, in its `args.rs`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand,
};
use clap_complete::Shell;
use imdslet_core::settings::{FLAGS, Flag, Given, Mistake, Settings};

use crate::check::CheckArgs;
use crate::emulate::Emulate;
use crate::explain::ExplainArgs;
use crate::inject::Format;
use crate::migrate::MigrateArgs;
use crate::token::TokenArgs;
use crate::token::request::Variables;

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
    /// Becomes a program that ends with whoever started it: how imdslet starts its programs.
    #[command(hide = true)]
    Become(BecomeArgs),
}

/// `imdslet become`.
#[derive(Debug, Args)]
pub struct BecomeArgs {
    /// The process that starts it.
    pub parent: u32,
    /// What it becomes.
    #[arg(last = true, required = true)]
    pub program: Vec<OsString>,
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

/// Whether a person asked for no colours (<https://no-color.org>).
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
#[must_use]
pub fn wants_no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// What the environment tells an SDK.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
#[must_use]
pub fn token_variables() -> Variables {
    Variables::new(|name| std::env::var(name).ok())
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
