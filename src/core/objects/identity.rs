//! What an AzureIdentity says.

use serde_json::Value;

use super::ObjectName;
use crate::contract::Source;
use crate::fields::{FieldError, Fields};
use crate::id::{is_guid, is_identity_resource_id, is_object_name, is_tenant};
use crate::names::{ALLOWED_RESOURCES, OBJECT_ID, SOURCE, TENANT_ID};

/// What an AzureIdentity says.
///
/// A cluster may have ten thousand, and all are kept: no text here has room to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureIdentity {
    /// How it proves itself.
    pub credential: Credential,
    /// `spec.clientID`, a GUID.
    pub client_id: Box<str>,
    /// `spec.resourceID`; of types 1 and 2 only if it is one.
    pub resource_id: Option<Box<str>>,
    /// Annotation `imdslet.dev/tenant-id`, else `spec.tenantID`.
    pub tenant_id: Option<Box<str>>,
    /// `spec.auxiliaryTenantIDs`; it counts for type 1 only, as it always did.
    pub auxiliary_tenant_ids: Box<[String]>,
    /// Annotation `imdslet.dev/object-id`, a GUID.
    pub object_id: Option<Box<str>>,
    /// Annotation `imdslet.dev/allowed-resources`.
    pub allowed_resources: Option<Box<[String]>>,
    /// `spec.adEndpoint`; it counts for types 1 and 2 only.
    pub ad_endpoint: Option<Box<str>>,
    /// Annotation `aadpodidentity.k8s.io/Behavior: namespaced`: for pods of its own namespace only.
    pub is_namespaced: bool,
}

/// How an AzureIdentity proves itself, by `spec.type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Type 0, a user-assigned managed identity; one of the three sources that it may have.
    Managed(Source),
    /// Type 1, a service principal with the secret of this Secret.
    Secret(Box<ObjectName>),
    /// Type 2, a service principal with the certificate of this Secret.
    Certificate(Box<ObjectName>),
}

impl AzureIdentity {
    pub(super) fn read(name: &ObjectName, value: &Value) -> Result<Self, FieldError> {
        let spec = Fields::of("spec", value.get("spec"))?;
        let annotations = Annotations(value);
        let client_id = spec.text("clientID")?.ok_or_else(|| {
            spec.error("clientID", "is missing; set it to the client id of the identity, a GUID")
        })?;
        if !is_guid(client_id) {
            return Err(spec.error(
                "clientID",
                format!("is `{client_id}`; it must be the client id of the identity, a GUID"),
            ));
        }
        let credential = Credential::read(name, &spec, &annotations)?;
        Ok(Self {
            auxiliary_tenant_ids: auxiliary_tenant_ids(&spec, &credential)?,
            resource_id: resource_id(&spec, &credential)?,
            credential,
            client_id: client_id.into(),
            tenant_id: tenant_id(&spec, &annotations)?,
            object_id: annotations.checked(
                OBJECT_ID,
                is_guid,
                "must be the identity's object id (principal id), a GUID",
            )?,
            allowed_resources: annotations
                .get(ALLOWED_RESOURCES)
                .map(|list| list_of(list).collect()),
            ad_endpoint: spec.text("adEndpoint")?.map(Box::from),
            // Key and value exactly, as in aad-pod-identity v1.8.17, `pkg/mic/mic.go:574-653`.
            is_namespaced: annotations.get("aadpodidentity.k8s.io/Behavior") == Some("namespaced"),
        })
    }
}

impl Credential {
    fn read(
        name: &ObjectName,
        spec: &Fields<'_>,
        annotations: &Annotations<'_>,
    ) -> Result<Self, FieldError> {
        let source = match annotations.get(SOURCE) {
            None => Source::Federated,
            Some("binding") => Source::Binding,
            Some("managed") => Source::Managed,
            Some(other) => {
                return Err(FieldError::new(
                    format!("metadata.annotations[{SOURCE}]"),
                    format!("is `{other}`; it must be `binding` or `managed`"),
                ));
            }
        };
        match spec.integer("type")?.unwrap_or(0) {
            0 => Ok(Self::Managed(source)),
            1 => Ok(Self::Secret(Box::new(secret_of(name, spec)?))),
            2 => Ok(Self::Certificate(Box::new(secret_of(name, spec)?))),
            other => Err(spec.error(
                "type",
                format!(
                    "is {other}; it must be 0 (managed identity), 1 (service principal with a \
                     secret) or 2 (with a certificate)"
                ),
            )),
        }
    }
}

/// The items of an annotation that lists: `;` between, spaces around are not part of one.
pub(crate) fn list_of(text: &str) -> impl Iterator<Item = String> {
    text.split(';').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned)
}

/// The annotations of an object, as JSON.
struct Annotations<'a>(&'a Value);

impl<'a> Annotations<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.pointer("/metadata/annotations")?.get(key)?.as_str()
    }

    fn checked(
        &self,
        key: &str,
        is_right: fn(&str) -> bool,
        rule: &str,
    ) -> Result<Option<Box<str>>, FieldError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if is_right(value) => Ok(Some(value.into())),
            Some(value) => Err(FieldError::new(
                format!("metadata.annotations[{key}]"),
                format!("is `{value}`; it {rule}"),
            )),
        }
    }
}

/// aad-pod-identity judged that of type 0 alone: what was left in the others breaks none that works.
fn resource_id(spec: &Fields<'_>, credential: &Credential) -> Result<Option<Box<str>>, FieldError> {
    let Credential::Managed(_) = credential else {
        let left = spec.text("resourceID").ok().flatten().filter(|id| is_identity_resource_id(id));
        return Ok(left.map(Box::from));
    };
    match spec.text("resourceID")? {
        Some(id) if !is_identity_resource_id(id) => Err(spec.error(
            "resourceID",
            format!(
                "is `{id}`; it must be /subscriptions/ID/resourceGroups/GROUP/providers/\
                 Microsoft.ManagedIdentity/userAssignedIdentities/NAME"
            ),
        )),
        id => Ok(id.map(Box::from)),
    }
}

fn tenant_id(
    spec: &Fields<'_>,
    annotations: &Annotations<'_>,
) -> Result<Option<Box<str>>, FieldError> {
    let rule = "must be a tenant id (GUID) or a tenant's domain name";
    let annotated = annotations.checked(TENANT_ID, is_tenant, rule)?;
    if annotated.is_some() {
        return Ok(annotated);
    }
    match spec.text("tenantID")? {
        Some(id) if !is_tenant(id) => Err(spec.error("tenantID", format!("is `{id}`; it {rule}"))),
        id => Ok(id.map(Box::from)),
    }
}

/// Not even looked at where it does not count, so that it breaks no identity that works.
fn auxiliary_tenant_ids(
    spec: &Fields<'_>,
    credential: &Credential,
) -> Result<Box<[String]>, FieldError> {
    let Credential::Secret(_) = credential else { return Ok(Box::default()) };
    let ids = spec.texts("auxiliaryTenantIDs")?;
    match ids.iter().find(|id| !is_tenant(id)) {
        Some(id) => Err(spec.error(
            "auxiliaryTenantIDs",
            format!("has `{id}`; each must be a tenant id (GUID) or a tenant's domain name"),
        )),
        None => Ok(ids.into_iter().map(str::to_owned).collect()),
    }
}

/// The Secret of types 1 and 2. One that names no namespace lies beside the AzureIdentity: for
/// aad-pod-identity it lay nowhere and every request failed.
fn secret_of(identity: &ObjectName, spec: &Fields<'_>) -> Result<ObjectName, FieldError> {
    let reference = spec.object("clientPassword")?;
    let name = reference.text("name")?;
    if reference.is_absent() || name.is_none() {
        return Err(spec.error(
            "clientPassword.name",
            "is missing; types 1 and 2 need the name of the Secret that holds the credential",
        ));
    }
    let name = name.unwrap_or_default();
    if !is_object_name(name) {
        // It becomes part of a mount path: a wrong one would make the whole pod invalid.
        return Err(
            spec.error("clientPassword.name", format!("is `{name}`, which names no Secret"))
        );
    }
    let namespace = reference.text("namespace")?.unwrap_or(&identity.namespace);
    Ok(ObjectName::new(namespace, name))
}
