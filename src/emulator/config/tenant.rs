//! A tenant: who is in it, and what its tokens can be for.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::certificate::Certificate;
use super::super::file::{ApplicationEntry, Secret, TenantEntry};
use super::super::refusal::Refusal;
use super::super::resources::{Audience, Resources, is_resource, is_uri};
use super::{ConfigError, guid, in_folder, read, repeated, value};

/// A tenant as it was configured.
pub(in crate::emulator) struct Tenant {
    /// In lower case.
    pub(in crate::emulator) id: String,
    /// By client id in lower case.
    applications: BTreeMap<String, Application>,
    resources: Resources,
}

/// An application or a user-assigned identity.
pub(in crate::emulator) struct Application {
    pub(in crate::emulator) client_id: String,
    pub(in crate::emulator) object_id: String,
    pub(in crate::emulator) secrets: Vec<Secret>,
    pub(in crate::emulator) expired_secrets: Vec<Secret>,
    pub(in crate::emulator) certificates: Vec<Certificate>,
}

impl Tenant {
    fn read(field: &str, entry: TenantEntry, folder: Option<&Path>) -> Result<Self, ConfigError> {
        let id = guid(format!("{field}.id"), &entry.id)?;
        let mut applications = BTreeMap::new();
        let mut resources = Resources::default();
        for (at, entry) in entry.applications.into_iter().enumerate() {
            let field = format!("{field}.applications[{at}]");
            for (at, uri) in entry.identifier_uris.iter().enumerate() {
                identifier_uri(format!("{field}.identifierUris[{at}]"), uri, &mut resources)?;
            }
            let application = application(&field, entry, folder)?;
            let client_id = application.client_id.clone();
            // By its id it is a resource of itself, as in Entra ID.
            resources.add(&client_id);
            if applications.insert(client_id.clone(), application).is_some() {
                return Err(repeated(format!("{field}.clientId"), &client_id));
            }
        }
        for (at, text) in entry.resources.iter().enumerate() {
            if !is_resource(text) {
                return Err(value(format!("{field}.resources[{at}]"), text, RESOURCE));
            }
            resources.add(text);
        }
        Ok(Self { id, applications, resources })
    }

    /// The application with this client id, in any letter case.
    pub(in crate::emulator) fn application(&self, client_id: &str) -> Option<&Application> {
        self.applications.get(&client_id.to_ascii_lowercase())
    }

    /// What a client asks a token for.
    pub(in crate::emulator) fn audience<'a>(
        &self,
        asked: &'a str,
    ) -> Result<Audience<'a>, Refusal> {
        self.resources.find(asked).ok_or_else(|| Refusal::UnknownResource {
            resource: asked.to_owned(),
            tenant: self.id.clone(),
        })
    }
}

impl Application {
    /// Whether `id` is its client id.
    pub(in crate::emulator) fn is(&self, id: &str) -> bool {
        self.client_id.eq_ignore_ascii_case(id)
    }
}

/// The tenants by id.
pub(super) fn all(
    entries: Vec<TenantEntry>,
    folder: Option<&Path>,
) -> Result<BTreeMap<String, Tenant>, ConfigError> {
    let mut tenants = BTreeMap::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let field = format!("tenants[{at}]");
        let tenant = Tenant::read(&field, entry, folder)?;
        let id = tenant.id.clone();
        if tenants.insert(id.clone(), tenant).is_some() {
            return Err(repeated(format!("{field}.id"), &id));
        }
    }
    Ok(tenants)
}

/// What can stand in `resources`.
const RESOURCE: &str =
    "the URI of an application such as `api://orders`, without `/.default`, or its client id";

fn identifier_uri(field: String, uri: &str, resources: &mut Resources) -> Result<(), ConfigError> {
    if !is_uri(uri) {
        return Err(value(field, uri, "a URI such as `api://orders`, without `/.default`"));
    }
    // Two applications of one tenant cannot have the same in Azure either.
    if resources.add(uri) { Ok(()) } else { Err(repeated(field, uri)) }
}

fn application(
    field: &str,
    entry: ApplicationEntry,
    folder: Option<&Path>,
) -> Result<Application, ConfigError> {
    if entry.secrets.iter().chain(&entry.expired_secrets).any(Secret::is_empty) {
        let problem = "an empty secret is none; take it out".to_owned();
        return Err(ConfigError::Entry { field: format!("{field}.secrets"), problem });
    }
    let certificate = |field: String, pem: &str| {
        Certificate::parse(pem)
            .map_err(|problem| ConfigError::Entry { field, problem: problem.to_owned() })
    };
    let mut certificates = Vec::new();
    for (at, pem) in entry.certificates.iter().enumerate() {
        certificates.push(certificate(format!("{field}.certificates[{at}]"), pem)?);
    }
    for (at, path) in entry.certificate_files.iter().enumerate() {
        let field = format!("{field}.certificateFiles[{at}]");
        let pem = read(&in_folder(&field, path, folder)?)?;
        certificates.push(certificate(field, &pem)?);
    }
    Ok(Application {
        client_id: guid(format!("{field}.clientId"), &entry.client_id)?,
        object_id: guid(format!("{field}.objectId"), &entry.object_id)?,
        secrets: entry.secrets,
        expired_secrets: entry.expired_secrets,
        certificates,
    })
}
