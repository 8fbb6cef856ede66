//! Which cluster a command is told to read.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::Access;

/// Where the objects come from: files, in an argument `files`, or a cluster.
pub(crate) fn objects() -> ArgGroup {
    ArgGroup::new("objects").required(true).args(["files", "live"])
}

/// A cluster to read, instead of files.
#[derive(Debug, Args)]
pub struct LiveArgs {
    /// Read the cluster of the kubeconfig instead of files; nothing is written
    #[arg(long)]
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
