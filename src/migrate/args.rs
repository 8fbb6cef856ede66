//! What `imdslet migrate` is told.

use clap::Args;

use super::Format;
use crate::config::SettingsArgs;
use crate::live::ObjectsArgs;

/// `imdslet migrate`.
#[derive(Debug, Args)]
#[command(
    after_help = MIGRATE_HELP,
    // Nothing else follows that a list of files could swallow.
    mut_arg("files", |files| files.num_args(1..)),
    mut_arg("issuer", |issuer| issuer.required_unless_present("live"))
)]
pub struct MigrateArgs {
    /// What is to be moved.
    #[command(flatten)]
    pub objects: ObjectsArgs,
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
