//! What `imdslet token` is told.

use clap::Args;

use super::Format;
use super::request::{Protocol, Selector, Wanted};

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
    pub output: Format,
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
