//! Where a command is told to read a cluster's objects.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::Access;
use crate::issuer::Issuer;

/// The objects of a cluster: in files, or in the cluster itself.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("objects").required(true).args(["files", "live"])))]
pub struct ObjectsArgs {
    /// File or folder of a cluster's objects, or - for stdin; can be repeated
    #[arg(short, long = "filename", value_name = "FILE", num_args = 1)]
    pub files: Vec<PathBuf>,
    /// Read the cluster of the kubeconfig instead of files; nothing is written
    #[arg(long)]
    pub live: bool,
    /// With --live: the kubeconfig [default: that of kubectl]
    #[arg(long, value_name = "FILE", requires = "live")]
    pub kubeconfig: Option<PathBuf>,
    /// With --live: the context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "live")]
    pub context: Option<String>,
    /// Issuer of the cluster's service account tokens, exact to the slash; --live can tell it
    #[arg(long, value_name = "URL")]
    pub issuer: Option<Issuer>,
}

impl ObjectsArgs {
    /// The cluster, if one is meant.
    #[must_use]
    pub fn access(&self) -> Option<Access> {
        let Self { kubeconfig, context, .. } = self;
        self.live.then(|| Access { kubeconfig: kubeconfig.clone(), context: context.clone() })
    }
}
