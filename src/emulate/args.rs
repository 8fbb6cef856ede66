//! What `imdslet emulate` is told.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use imdslet_core::id::is_guid;

use crate::emulator::is_resource;

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
    /// What tokens can be for beside Azure's own services, such as api://orders; can be repeated
    #[arg(long, value_name = "URI", value_parser = resource)]
    pub resource: Vec<String>,
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

fn resource(text: &str) -> Result<String, &'static str> {
    is_resource(text).then(|| text.to_owned()).ok_or(
        "it must be the URI of an application such as api://orders, without /.default, or its \
         client id",
    )
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
