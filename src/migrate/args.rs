//! What `imdslet migrate` is told.

use std::path::PathBuf;

use clap::Args;

use super::{Format, Issuer};
use crate::config::SettingsArgs;
use crate::live::{LiveArgs, objects};

/// `imdslet migrate`.
#[derive(Debug, Args)]
#[command(after_help = MIGRATE_HELP, group(objects()))]
pub struct MigrateArgs {
    /// File or folder of a cluster's objects, or - for stdin; can be repeated
    #[arg(short, long = "filename", value_name = "FILE", num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Which cluster to read instead.
    #[command(flatten)]
    pub live: LiveArgs,
    /// Issuer of the cluster's service account tokens, exact to the slash; --live can tell it
    #[arg(long, value_name = "URL", required_unless_present = "live")]
    pub issuer: Option<Issuer>,
    /// How to print the plan
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
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
