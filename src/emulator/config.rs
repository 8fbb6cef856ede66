//! The configuration, checked: what is in here can be served.

mod error;
mod tenant;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{StatusCode, Uri};
use imdslet_core::id::{is_guid, is_tenant};

pub use error::ConfigError;
pub(super) use error::{repeated, value};
pub(super) use tenant::{Application, Tenant};

use super::bindings::IdentityBindings;
use super::faults::{Fault, Faults};
use super::file::{ConfigFile, FaultsEntry, FederatedCredential, IssuerEntry};
use super::jwt::Jwks;
use super::keys::{Keys, Published};
use super::refusal::Refusal;
use crate::https::Trust;

/// How long an access token is valid unless `tokenLifetime` says otherwise.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// The longest `tokenLifetime`: what Entra gives to clients with continuous access evaluation.
const LONGEST_LIFETIME: Duration = Duration::from_hours(28);

/// The longest `faults.delay`.
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// The largest file that the configuration may name, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Azure's limit of federated credentials for one application or identity.
const MOST_CREDENTIALS: usize = 20;

/// Azure's limit for a credential's issuer and subject, in characters.
const LONGEST_TEXT: usize = 600;

/// What the emulator knows and how it behaves.
pub struct Config {
    /// By lower-case id, as all that is keyed by a GUID: GUIDs have no letter case.
    tenants: BTreeMap<String, Tenant>,
    credentials: BTreeMap<String, Vec<FederatedCredential>>,
    issuers: BTreeMap<String, Keys>,
    pub(super) identity_bindings: Option<IdentityBindings>,
    pub(super) token_lifetime: Duration,
    pub(super) faults: Option<Faults>,
    /// Where relative paths start.
    pub(super) folder: Option<PathBuf>,
}

impl Config {
    /// Reads the configuration and the files that it names. Relative paths in it start at its
    /// own folder.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        Self::parse(&text, Some(path.parent().unwrap_or(Path::new(""))))
    }

    /// Reads a configuration from YAML or JSON text. Relative paths in it start at `folder`;
    /// without one there can be none.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn parse(text: &str, folder: Option<&Path>) -> Result<Self, ConfigError> {
        let file: ConfigFile =
            serde_yaml::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let tenants = tenant::all(file.tenants, folder)?;
        let credentials = credentials(file.federated_credentials, &tenants)?;
        let known = |field, id: &str| known_client(field, id, &tenants);
        let bindings = file.identity_bindings.map(|entry| IdentityBindings::read(entry, known));
        let bindings = bindings.transpose()?;
        let mut issuers = BTreeMap::new();
        for (at, entry) in file.issuers.into_iter().enumerate() {
            let field = format!("issuers[{at}]");
            let issuer = entry.issuer.clone();
            let keys = keys(&field, entry, folder)?;
            if issuers.insert(issuer.clone(), keys).is_some() {
                return Err(repeated(format!("{field}.issuer"), &issuer));
            }
        }
        Ok(Self {
            tenants,
            credentials,
            issuers,
            identity_bindings: bindings,
            token_lifetime: token_lifetime(file.token_lifetime)?,
            faults: file.faults.as_ref().map(faults).transpose()?,
            folder: folder.map(Path::to_owned),
        })
    }

    /// The tenant with this id.
    pub(super) fn tenant(&self, id: &str) -> Result<&Tenant, Refusal> {
        match self.tenants.get(&id.to_ascii_lowercase()) {
            Some(tenant) => Ok(tenant),
            None if is_tenant(id) => Err(Refusal::UnknownTenant(id.to_owned())),
            None => Err(Refusal::InvalidTenant(id.to_owned())),
        }
    }

    /// The federated credentials of an application.
    pub(super) fn credentials(&self, application: &Application) -> &[FederatedCredential] {
        self.credentials.get(&application.client_id).map_or(&[], Vec::as_slice)
    }

    /// Where the keys of an issuer come from.
    pub(super) fn keys(&self, issuer: &str) -> Option<&Keys> {
        self.issuers.get(issuer)
    }
}

/// Checks what Azure checks when a federated credential is created.
fn credentials(
    entries: Vec<FederatedCredential>,
    tenants: &BTreeMap<String, Tenant>,
) -> Result<BTreeMap<String, Vec<FederatedCredential>>, ConfigError> {
    let mut credentials: BTreeMap<String, Vec<FederatedCredential>> = BTreeMap::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let field = format!("federatedCredentials[{at}]");
        let client_id = known_client(format!("{field}.clientId"), &entry.client_id, tenants)?;
        credential(&field, &entry)?;
        let others = credentials.entry(client_id).or_default();
        if others.iter().any(|o| o.issuer == entry.issuer && o.subject == entry.subject) {
            let value = format!("{} with {}", entry.issuer, entry.subject);
            return Err(repeated(format!("{field}.issuer and .subject"), &value));
        }
        others.push(entry);
        if others.len() > MOST_CREDENTIALS {
            return Err(value(
                format!("{field}.clientId"),
                "the 21st of one identity",
                "among at most 20 federated credentials of one identity, which is Azure's limit",
            ));
        }
    }
    Ok(credentials)
}

fn credential(field: &str, entry: &FederatedCredential) -> Result<(), ConfigError> {
    https_url(format!("{field}.issuer"), &entry.issuer)?;
    if entry.subject.is_empty() || entry.subject.chars().count() > LONGEST_TEXT {
        return Err(value(
            format!("{field}.subject"),
            &entry.subject,
            "a text of 1 to 600 characters such as `system:serviceaccount:NAMESPACE:NAME`",
        ));
    }
    match entry.audiences.as_slice() {
        [audience] if !audience.is_empty() => {}
        audiences => {
            return Err(value(
                format!("{field}.audiences"),
                &audiences.join(", "),
                "a list of exactly one audience, which is Azure's limit",
            ));
        }
    }
    let is_name = |name: &str| {
        (3..=120).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
    };
    match &entry.name {
        Some(name) if !is_name(name) => Err(value(
            format!("{field}.name"),
            name,
            "3 to 120 letters, digits, `-` or `_`, the first a letter or digit, as Azure demands",
        )),
        _ => Ok(()),
    }
}

fn keys(field: &str, entry: IssuerEntry, folder: Option<&Path>) -> Result<Keys, ConfigError> {
    https_url(format!("{field}.issuer"), &entry.issuer)?;
    let problem = |field: String, problem: String| ConfigError::Entry { field, problem };
    let given = |keys: Jwks, field: String| {
        if keys.is_usable() {
            return Ok(Keys::Given(keys));
        }
        Err(problem(field, "there is no RSA key for RS256, and Entra accepts no other".to_owned()))
    };
    let published = |trust: Trust, field: &str| {
        Published::new(&entry.issuer, trust)
            .map(|published| Keys::Published(Box::new(published)))
            .map_err(|error| problem(field.to_owned(), error.to_string()))
    };
    let only = |pem: &str, field: String| match Trust::nobody().and(pem) {
        Ok(trust) => published(trust, &field),
        Err(error) => Err(problem(field, error.to_string())),
    };
    match (entry.jwks, entry.jwks_file, entry.ca, entry.ca_file) {
        (None, None, None, None) => published(Trust::web(), field),
        (Some(keys), None, None, None) => given(keys, format!("{field}.jwks")),
        (None, Some(path), None, None) => {
            let field = format!("{field}.jwksFile");
            let path = in_folder(&field, &path, folder)?;
            // Neither what is in the file nor serde's words for it, which quote it.
            let keys = serde_json::from_str(&read(&path)?).map_err(|_| {
                problem(field.clone(), format!("{} is no JSON Web Key Set", path.display()))
            })?;
            given(keys, field)
        }
        (None, None, Some(pem), None) => only(&pem, format!("{field}.ca")),
        (None, None, None, Some(path)) => {
            let field = format!("{field}.caFile");
            only(&read(&in_folder(&field, &path, folder)?)?, field)
        }
        _ => Err(problem(
            field.to_owned(),
            "keep one of `jwks`, `jwksFile`, `ca` and `caFile`; without any the keys are fetched \
             from the issuer, trusting the CAs of the web"
                .to_owned(),
        )),
    }
}

fn faults(entry: &FaultsEntry) -> Result<Faults, ConfigError> {
    let field = |name: &str| format!("faults.{name}");
    let delay = entry.delay.unwrap_or_default();
    if delay > LONGEST_DELAY {
        return Err(value(field("delay"), &format!("{delay:?}"), "at most `10m`"));
    }
    let status = match entry.status {
        None => None,
        Some(status @ (429 | 500..=599)) => StatusCode::from_u16(status).ok(),
        Some(status) => {
            return Err(value(field("status"), &status.to_string(), "429, or from 500 to 599"));
        }
    };
    let share = entry.share.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&share) {
        return Err(value(field("share"), &share.to_string(), "a number from 0 to 1"));
    }
    if entry.retry_after.is_some() && status.is_none() {
        let problem = "it is a header of a refusal; give `status` too".to_owned();
        return Err(ConfigError::Entry { field: field("retryAfter"), problem });
    }
    if entry.delay.is_none() && status.is_none() {
        let problem = "nothing would happen; give `delay`, `status` or both".to_owned();
        return Err(ConfigError::Entry { field: "faults".to_owned(), problem });
    }
    Ok(Faults::new(Fault { delay, status, retry_after: entry.retry_after }, share))
}

fn token_lifetime(lifetime: Option<Duration>) -> Result<Duration, ConfigError> {
    let lifetime = lifetime.unwrap_or(TOKEN_LIFETIME);
    let whole = lifetime.subsec_nanos() == 0 && !lifetime.is_zero();
    if whole && lifetime <= LONGEST_LIFETIME {
        return Ok(lifetime);
    }
    let expected = "whole seconds, from `1s` to `28h`";
    Err(value("tokenLifetime".to_owned(), &format!("{lifetime:?}"), expected))
}

fn guid(field: String, id: &str) -> Result<String, ConfigError> {
    if is_guid(id) {
        return Ok(id.to_ascii_lowercase());
    }
    Err(value(field, id, "a GUID such as `11111111-2222-3333-4444-555555555555`"))
}

/// The client id of an application that some tenant has.
fn known_client(
    field: String,
    id: &str,
    tenants: &BTreeMap<String, Tenant>,
) -> Result<String, ConfigError> {
    let client_id = guid(field.clone(), id)?;
    if tenants.values().any(|tenant| tenant.application(&client_id).is_some()) {
        return Ok(client_id);
    }
    Err(ConfigError::NoApplication { field, client_id })
}

fn https_url(field: String, url: &str) -> Result<(), ConfigError> {
    let is_https = url.starts_with("https://")
        && url.len() <= LONGEST_TEXT
        && !url.contains(['?', '#', '@'])
        && url.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    if is_https {
        return Ok(());
    }
    Err(value(field, url, "an https URL without query, as the issuer has it in `iss`"))
}

fn in_folder(field: &str, path: &Path, folder: Option<&Path>) -> Result<PathBuf, ConfigError> {
    match folder {
        Some(folder) => Ok(folder.join(path)),
        None => Err(ConfigError::Entry {
            field: field.to_owned(),
            problem: "this configuration came without a folder that a file could be in; give the \
                      content as `jwks`, `ca` or `certificates`"
                .to_owned(),
        }),
    }
}

/// Reads a text file, but nothing endless such as a pipe.
fn read(path: &Path) -> Result<String, ConfigError> {
    let error = |cause| ConfigError::Read { path: path.to_owned(), cause };
    let metadata = fs::metadata(path).map_err(error)?;
    if !metadata.is_file() || metadata.len() > LARGEST_FILE {
        return Err(error(io::Error::other("it is not a file of at most 1 MiB")));
    }
    fs::read_to_string(path).map_err(error)
}

#[cfg(test)]
mod tests;
