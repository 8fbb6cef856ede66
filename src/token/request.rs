//! What is asked, where and how: decided from the command line and the variables of the environment
//! as Azure's SDKs decide it (`docs/compatibility.md`).

use std::collections::BTreeMap;

use http::{Method, Uri};
use imdslet_core::names::LINK_LOCAL;

mod protocol;

pub use protocol::{Protocol, Selector};

/// Every variable that has a say.
pub const VARIABLES: [&str; 16] = [
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "ARM_MSI_ENDPOINT",
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_TOKEN_CREDENTIALS",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// What the environment says, by name. It has no `Debug`: two of the values are secrets.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<&'static str, String>);

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What the token is for; a scope that ends in `/.default` is cut as SDKs cut it.
    pub resource: String,
    /// Whose token.
    pub selector: Option<Selector>,
    /// As who; otherwise as the variables say.
    pub protocol: Option<Protocol>,
    /// Where; otherwise as the variables say.
    pub endpoint: Option<String>,
}

/// A request that is ready to be sent. It has no `Debug`: its header may be a secret.
#[derive(Clone)]
pub struct Question {
    /// As who.
    pub protocol: Protocol,
    /// Why as that one.
    pub because: String,
    /// What the token is for.
    pub resource: String,
    /// Where, with the query.
    pub url: String,
    /// The body of a POST; without one it is a GET.
    pub form: Option<String>,
    /// What an SDK in this environment may do otherwise.
    pub notes: Vec<String>,
    header: (&'static str, String),
}

/// Why it is not clear what to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unclear {
    /// One of two variables that make sense only together.
    #[error(
        "{set} is set and {missing} is not, which SDKs understand differently: some stop there, \
         others go on to {LINK_LOCAL}; set both or neither, or choose with --as"
    )]
    Half {
        /// The one that is there.
        set: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// Variables of a part of Azure that is not asked here.
    #[error(
        "{variable} is set, so SDKs ask as in {place}, which `imdslet token` cannot; unset it, or \
         choose with --as"
    )]
    Elsewhere {
        /// The variable.
        variable: &'static str,
        /// What it is a mark of.
        place: &'static str,
    },
    /// The protocol needs an endpoint that nobody named.
    #[error("--as {protocol} needs an endpoint: give --endpoint, or set {variable}")]
    NoEndpoint {
        /// The protocol.
        protocol: &'static str,
        /// Its variable.
        variable: &'static str,
    },
    /// The protocol needs a header whose value nobody gave.
    #[error(
        "--as {protocol} sends a value that the endpoint compares: set {variable}; in a pod it is \
         the pod's metadata.uid, and every container has it"
    )]
    NoHeader {
        /// The protocol.
        protocol: &'static str,
        /// Its variable.
        variable: &'static str,
    },
    /// Cloud Shell knows no identity but its own.
    #[error("--as cloudshell cannot name an identity; leave out {flag}")]
    NoSelector {
        /// The flag.
        flag: &'static str,
    },
    /// No URL that can be asked.
    #[error("the endpoint `{url}` cannot be asked; write http://HOST[:PORT][/PATH]")]
    Endpoint {
        /// What was given.
        url: String,
    },
    /// Nothing to ask for.
    #[error("--resource is empty; name what the token is for, such as https://vault.azure.net")]
    NoResource,
}

impl Variables {
    /// Takes those of [`VARIABLES`] that are set. An empty one counts as absent, as SDKs count it.
    pub fn new(read: impl Fn(&str) -> Option<String>) -> Self {
        let set = VARIABLES.iter().filter_map(|name| Some((*name, read(name)?)));
        Self(set.filter(|(_, value)| !value.is_empty()).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn has(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.0.contains_key(name))
    }
}

impl Question {
    /// Decides what is asked.
    ///
    /// # Errors
    ///
    /// [`Unclear`], with what must be said.
    pub fn new(wanted: &Wanted, variables: &Variables) -> Result<Self, Unclear> {
        let (protocol, because) = protocol(wanted, variables)?;
        let endpoint = endpoint(protocol, wanted, variables)?;
        let header = match protocol.secret() {
            None => ("Metadata", "true".to_owned()),
            Some((name, variable)) => {
                let protocol = protocol.as_str();
                let value = variables.get(variable);
                let value = value.ok_or(Unclear::NoHeader { protocol, variable })?;
                (name, value.to_owned())
            }
        };
        let resource = wanted.resource.strip_suffix("/.default").unwrap_or(&wanted.resource);
        if resource.is_empty() {
            return Err(Unclear::NoResource);
        }
        let mut notes = Vec::new();
        let selector = selector(protocol, wanted, variables, &mut notes)?;
        notes.extend(workload_identity(variables));
        notes.extend(proxy(&endpoint, variables));
        let mut fields = form_urlencoded::Serializer::new(String::new());
        fields.extend_pairs(protocol.api_version().map(|version| ("api-version", version)));
        fields.append_pair("resource", resource);
        if let Some(selector) = &selector {
            let (name, id) = selector.parameter(protocol);
            fields.append_pair(name, id);
        }
        let fields = fields.finish();
        let (url, form) = if protocol == Protocol::CloudShell {
            (endpoint, Some(fields))
        } else {
            (format!("{endpoint}?{fields}"), None)
        };
        Ok(Self { protocol, because, resource: resource.to_owned(), url, form, notes, header })
    }

    /// `POST` where there is a form.
    #[must_use]
    pub fn method(&self) -> Method {
        if self.form.is_some() { Method::POST } else { Method::GET }
    }

    /// The header that makes it this protocol. Its value may be a secret.
    #[must_use]
    pub fn header(&self) -> (&'static str, &str) {
        (self.header.0, &self.header.1)
    }
}

/// As `DefaultAzureCredential` of the current SDKs goes through the variables.
fn protocol(wanted: &Wanted, variables: &Variables) -> Result<(Protocol, String), Unclear> {
    let because = |names: &str| format!("{names} set");
    if let Some(protocol) = wanted.protocol {
        return Ok((protocol, format!("--as {}", protocol.as_str())));
    }
    if wanted.endpoint.is_some() {
        return Ok((Protocol::Imds, "--endpoint is given, and --as is not".to_owned()));
    }
    if variables.has(&["IDENTITY_ENDPOINT", "IDENTITY_HEADER"]) {
        let variable = "IDENTITY_SERVER_THUMBPRINT";
        if variables.has(&[variable]) {
            return Err(Unclear::Elsewhere { variable, place: "Service Fabric" });
        }
        let both = because("IDENTITY_ENDPOINT and IDENTITY_HEADER are");
        return Ok((Protocol::AppService, both));
    }
    if variables.has(&["IDENTITY_ENDPOINT"]) {
        let variable = "IMDS_ENDPOINT";
        if variables.has(&[variable]) {
            return Err(Unclear::Elsewhere { variable, place: "Azure Arc" });
        }
        return Err(Unclear::Half { set: "IDENTITY_ENDPOINT", missing: "IDENTITY_HEADER" });
    }
    if variables.has(&["MSI_ENDPOINT", "MSI_SECRET"]) {
        return Ok((Protocol::AppService2017, because("MSI_ENDPOINT and MSI_SECRET are")));
    }
    if variables.has(&["MSI_ENDPOINT"]) {
        return Ok((Protocol::CloudShell, "MSI_ENDPOINT is set, and MSI_SECRET is not".to_owned()));
    }
    let variable = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
    if variables.has(&[variable]) {
        return Ok((Protocol::Imds, because("AZURE_POD_IDENTITY_AUTHORITY_HOST is")));
    }
    Ok((Protocol::Imds, "no variable says otherwise".to_owned()))
}

/// The endpoint without a query. A URL without a path gets the protocol's own.
fn endpoint(protocol: Protocol, wanted: &Wanted, variables: &Variables) -> Result<String, Unclear> {
    let variable = protocol.variable();
    let given = wanted.endpoint.as_deref().or_else(|| variables.get(variable));
    let given = match (given, protocol) {
        (Some(given), _) => given.to_owned(),
        (None, Protocol::Imds) => format!("http://{LINK_LOCAL}"),
        (None, _) => return Err(Unclear::NoEndpoint { protocol: protocol.as_str(), variable }),
    };
    let unusable = || Unclear::Endpoint { url: given.clone() };
    let uri: Uri = given.parse().map_err(|_| unusable())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
        return Err(unusable());
    }
    let path = if matches!(uri.path(), "" | "/") { protocol.path() } else { "" };
    Ok(format!("{}{path}", given.strip_suffix('/').unwrap_or(&given)))
}

fn selector(
    protocol: Protocol,
    wanted: &Wanted,
    variables: &Variables,
    notes: &mut Vec<String>,
) -> Result<Option<Selector>, Unclear> {
    if protocol == Protocol::CloudShell {
        return match &wanted.selector {
            Some(selector) => Err(Unclear::NoSelector { flag: selector.flag() }),
            None => Ok(None),
        };
    }
    if wanted.selector.is_some() {
        return Ok(wanted.selector.clone());
    }
    let Some(id) = variables.get("AZURE_CLIENT_ID") else { return Ok(None) };
    notes.push(
        "the client id is that of AZURE_CLIENT_ID, as DefaultAzureCredential takes it; \
         ManagedIdentityCredential takes none"
            .to_owned(),
    );
    Ok(Some(Selector::ClientId(id.to_owned())))
}

/// A credential that goes before this one.
fn workload_identity(variables: &Variables) -> Option<String> {
    let names = ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"];
    let is_chosen = variables.get("AZURE_TOKEN_CREDENTIALS") == Some("ManagedIdentityCredential");
    (variables.has(&names) && !is_chosen).then(|| {
        "AZURE_FEDERATED_TOKEN_FILE, AZURE_CLIENT_ID and AZURE_TENANT_ID are set: \
         DefaultAzureCredential uses workload identity and does not ask here"
            .to_owned()
    })
}

/// A proxy that some SDKs would send the request to, its header included.
fn proxy(endpoint: &str, variables: &Variables) -> Option<String> {
    let either = |upper, lower| variables.get(upper).or_else(|| variables.get(lower));
    either("HTTP_PROXY", "http_proxy")?;
    let uri: Uri = endpoint.parse().ok()?;
    let host = uri.host()?;
    let direct = either("NO_PROXY", "no_proxy").unwrap_or_default();
    let is_direct =
        direct.split(',').any(|entry| matches!(entry.trim(), "*") || entry.trim() == host);
    (uri.scheme_str() == Some("http") && !is_direct).then(|| {
        format!(
            "HTTP_PROXY is set and NO_PROXY does not name {host}: Python and Rust send this request \
             to the proxy; this command does not"
        )
    })
}

#[cfg(test)]
mod tests;
