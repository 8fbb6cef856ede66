//! What `imdslet explain` is told.

use clap::Args;

use super::{Format, Target};
use crate::config::SettingsArgs;
use crate::live::ObjectsArgs;

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
    /// What decides, and what is decided about.
    #[command(flatten)]
    pub objects: ObjectsArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Namespace of objects and targets that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// The settings of the webhook.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What a target may be, and what the exit code means.
const EXPLAIN_HELP: &str = "\
A target is KIND/NAME or KIND/NAMESPACE/NAME: a pod, what makes pods, an
AzureIdentity or an AzureIdentityBinding. The files must have what decides
about it: AzureIdentities, bindings and exceptions, and the namespace where
that has annotations.

Exit code 0: all that ask for an identity have one, 1: one of them has none, or a
binding or an identity gives nothing, 3: it could not be found out.";
