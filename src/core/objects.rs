//! The custom resources of `aadpodidentity.k8s.io/v1`, and the other objects that decisions read.
//!
//! Only what a decision needs is kept. An AzureIdentity that cannot be used is kept too, with the
//! reason, so that the pod that asks for it can be told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::csi::ProviderClass;
use crate::fields::{FieldError, Fields};
use crate::limits::LimitRange;
use crate::names::{CLASS_GROUP, CLASS_KIND, GROUP, INJECTION, PREFIX};

mod identity;

pub(crate) use identity::list_of;
pub use identity::{AzureIdentity, Credential};

/// Namespace and name of an object. Ordered by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// The namespace; empty for objects that have none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// The name of an object in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The kinds of object that decisions read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `aadpodidentity.k8s.io/v1` AzureIdentity.
    AzureIdentity,
    /// `aadpodidentity.k8s.io/v1` AzureIdentityBinding.
    AzureIdentityBinding,
    /// `aadpodidentity.k8s.io/v1` AzurePodIdentityException.
    AzurePodIdentityException,
    /// `v1` Namespace.
    Namespace,
    /// `v1` LimitRange.
    LimitRange,
    /// `secrets-store.csi.x-k8s.io/v1` SecretProviderClass.
    SecretProviderClass,
}

/// What an AzureIdentityBinding says. Its `weight` was never read by anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureIdentityBinding {
    /// Name of an AzureIdentity in the binding's own namespace.
    pub azure_identity: String,
    /// The value of the pod's label, byte for byte. Shared with the index of bindings by selector.
    pub selector: Arc<str>,
}

/// What an AzurePodIdentityException says: pods of its namespace that have any of these labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzurePodIdentityException {
    /// Key and value; values are compared ignoring ASCII letter case, as before.
    pub pod_labels: Vec<(String, String)>,
}

/// What a Namespace says to us: defaults for its pods, and whether it takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSettings {
    /// Annotations with our prefix.
    pub annotations: BTreeMap<String, String>,
    /// Label `imdslet.dev/injection: disabled`.
    pub is_disabled: bool,
}

/// What an object says, or why it cannot be used. Small, since thousands are kept in maps, and
/// listed in one list before that; and shared, since each new state of the index copies one.
pub type Checked<T> = Result<Arc<T>, Box<FieldError>>;

/// An object that decisions read, with what was found wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// An AzureIdentity, or why it cannot be used.
    Identity(ObjectName, Checked<AzureIdentity>),
    /// An AzureIdentityBinding, or why it can match nothing.
    Binding(ObjectName, Checked<AzureIdentityBinding>),
    /// An AzurePodIdentityException, or why it excepts nothing.
    Exception(ObjectName, Result<AzurePodIdentityException, FieldError>),
    /// A Namespace.
    Namespace(ObjectName, NamespaceSettings),
    /// A LimitRange.
    LimitRange(ObjectName, LimitRange),
    /// A SecretProviderClass.
    Class(ObjectName, ProviderClass),
}

/// Why something is no object at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnObject {
    /// A field that every object has is missing.
    #[error("{field} is missing or empty; every Kubernetes object has one")]
    Missing {
        /// Path of the field.
        field: &'static str,
    },
    /// The group is ours, the kind is not.
    #[error(
        "kind `{kind}` does not exist in {api_version}; it has AzureIdentity, \
         AzureIdentityBinding, AzurePodIdentityException and AzureAssignedIdentity"
    )]
    UnknownKind {
        /// What `kind` says.
        kind: String,
        /// What `apiVersion` says.
        api_version: String,
    },
}

impl Object {
    /// Reads an object. `None` if it is of a kind that no decision reads.
    ///
    /// `default_namespace` stands in where a namespaced object names none, as in a manifest.
    ///
    /// # Errors
    ///
    /// [`NotAnObject`] if it has no kind, no apiVersion or no name, or if it claims to be of a kind
    /// that the group `aadpodidentity.k8s.io` does not have.
    pub fn read(value: &Value, default_namespace: &str) -> Result<Option<Self>, NotAnObject> {
        let api_version = required(value, "/apiVersion", "apiVersion")?;
        let kind = required(value, "/kind", "kind")?;
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(kind) = Kind::of(group, kind) else {
            return if group == GROUP && kind != "AzureAssignedIdentity" {
                Err(NotAnObject::UnknownKind {
                    kind: kind.to_owned(),
                    api_version: api_version.to_owned(),
                })
            } else {
                Ok(None)
            };
        };
        let name = required(value, "/metadata/name", "metadata.name")?;
        let namespace = match kind {
            Kind::Namespace => "",
            _ => text_at(value, "/metadata/namespace").unwrap_or(default_namespace),
        };
        let name = ObjectName::new(namespace, name);
        Ok(Some(match kind {
            Kind::AzureIdentity => {
                let identity = AzureIdentity::read(&name, value);
                Self::Identity(name, identity.map(Arc::new).map_err(Box::new))
            }
            Kind::AzureIdentityBinding => {
                let binding = AzureIdentityBinding::read(value);
                Self::Binding(name, binding.map(Arc::new).map_err(Box::new))
            }
            Kind::AzurePodIdentityException => {
                Self::Exception(name, AzurePodIdentityException::read(value))
            }
            Kind::Namespace => Self::Namespace(name, NamespaceSettings::read(value)),
            Kind::LimitRange => Self::LimitRange(name, LimitRange::read(value)),
            Kind::SecretProviderClass => {
                let class = ProviderClass::read(&name.name, value);
                Self::Class(name, class)
            }
        }))
    }

    /// Which object it is.
    #[must_use]
    pub fn id(&self) -> (Kind, &ObjectName) {
        match self {
            Self::Identity(name, _) => (Kind::AzureIdentity, name),
            Self::Binding(name, _) => (Kind::AzureIdentityBinding, name),
            Self::Exception(name, _) => (Kind::AzurePodIdentityException, name),
            Self::Namespace(name, _) => (Kind::Namespace, name),
            Self::LimitRange(name, _) => (Kind::LimitRange, name),
            Self::Class(name, _) => (Kind::SecretProviderClass, name),
        }
    }

    /// Why it cannot be used, if it cannot.
    #[must_use]
    pub fn fault(&self) -> Option<&FieldError> {
        match self {
            Self::Identity(_, identity) => identity.as_ref().err().map(|fault| &**fault),
            Self::Binding(_, binding) => binding.as_ref().err().map(|fault| &**fault),
            Self::Exception(_, exception) => exception.as_ref().err(),
            Self::Namespace(..) | Self::LimitRange(..) | Self::Class(..) => None,
        }
    }
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 6] = [
        Self::AzureIdentity,
        Self::AzureIdentityBinding,
        Self::AzurePodIdentityException,
        Self::Namespace,
        Self::LimitRange,
        Self::SecretProviderClass,
    ];

    fn of(group: &str, kind: &str) -> Option<Self> {
        match (group, kind) {
            (GROUP, "AzureIdentity") => Some(Self::AzureIdentity),
            (GROUP, "AzureIdentityBinding") => Some(Self::AzureIdentityBinding),
            (GROUP, "AzurePodIdentityException") => Some(Self::AzurePodIdentityException),
            ("", "Namespace") => Some(Self::Namespace),
            ("", "LimitRange") => Some(Self::LimitRange),
            (CLASS_GROUP, CLASS_KIND) => Some(Self::SecretProviderClass),
            _ => None,
        }
    }

    /// As `kind` says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AzureIdentity => "AzureIdentity",
            Self::AzureIdentityBinding => "AzureIdentityBinding",
            Self::AzurePodIdentityException => "AzurePodIdentityException",
            Self::Namespace => "Namespace",
            Self::LimitRange => "LimitRange",
            Self::SecretProviderClass => CLASS_KIND,
        }
    }

    /// The name of its CRD, if it is a custom resource of ours: what disappears with it is held.
    #[must_use]
    pub fn definition(self) -> Option<&'static str> {
        match self {
            Self::AzureIdentity => Some("azureidentities.aadpodidentity.k8s.io"),
            Self::AzureIdentityBinding => Some("azureidentitybindings.aadpodidentity.k8s.io"),
            Self::AzurePodIdentityException => {
                Some("azurepodidentityexceptions.aadpodidentity.k8s.io")
            }
            Self::Namespace | Self::LimitRange | Self::SecretProviderClass => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl AzureIdentityBinding {
    fn read(value: &Value) -> Result<Self, FieldError> {
        let spec = Fields::of("spec", value.get("spec"))?;
        let azure_identity = spec.text("azureIdentity")?.ok_or_else(|| {
            spec.error("azureIdentity", "is missing; set it to the name of an AzureIdentity")
        })?;
        let selector = spec.text("selector")?.ok_or_else(|| {
            spec.error("selector", "is missing; set it to the pods' aadpodidbinding label")
        })?;
        Ok(Self { azure_identity: azure_identity.to_owned(), selector: selector.into() })
    }
}

impl AzurePodIdentityException {
    fn read(value: &Value) -> Result<Self, FieldError> {
        let spec = Fields::of("spec", value.get("spec"))?;
        let labels = spec.object("podLabels")?.entries()?;
        let owned = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        Ok(Self { pod_labels: owned.collect() })
    }
}

impl NamespaceSettings {
    fn read(value: &Value) -> Self {
        let annotations = value.pointer("/metadata/annotations").and_then(Value::as_object);
        let ours = annotations
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with(PREFIX))
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        let label = value.pointer("/metadata/labels").and_then(|labels| labels.get(INJECTION));
        Self {
            annotations: ours.collect(),
            is_disabled: label.and_then(Value::as_str) == Some("disabled"),
        }
    }
}

fn required<'a>(
    value: &'a Value,
    pointer: &str,
    field: &'static str,
) -> Result<&'a str, NotAnObject> {
    text_at(value, pointer).ok_or(NotAnObject::Missing { field })
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Source;
    use serde_json::json;

    const ID: &str = "11111111-1111-1111-1111-111111111111";

    fn identity(spec: &Value, annotations: &Value) -> Result<Arc<AzureIdentity>, String> {
        let object = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": "app", "namespace": "web", "annotations": annotations},
            "spec": spec,
        });
        match Object::read(&object, "default").unwrap() {
            Some(Object::Identity(_, identity)) => identity.map_err(|error| error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_identity_is_read_in_the_letter_case_of_any_guide() {
        let resource = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i";
        let read = [
            identity(&json!({"type": 0, "resourceID": resource, "clientID": ID}), &json!(null)),
            identity(&json!({"type": 0, "ResourceID": resource, "ClientID": ID}), &json!(null)),
            identity(&json!({"resourceid": resource, "clientid": ID}), &json!({})),
        ];
        for identity in read {
            let identity = identity.unwrap();
            assert_eq!(*identity.client_id, *ID);
            assert_eq!(identity.resource_id.as_deref(), Some(resource));
            assert_eq!(identity.credential, Credential::Managed(Source::Federated));
        }
    }

    #[test]
    fn nested_keys_too() {
        let spec =
            json!({"Type": 1, "ClientID": ID, "ClientPassword": {"Name": "s", "Namespace": "n"}});
        let secret = Credential::Secret(Box::new(ObjectName::new("n", "s")));
        assert_eq!(identity(&spec, &json!(null)).unwrap().credential, secret);
    }

    #[test]
    fn each_fault_names_field_and_remedy() {
        let resource = "not-an-id";
        let cases = [
            (
                json!({}),
                "spec.clientID is missing; set it to the client id of the identity, a GUID",
            ),
            (
                json!({"clientID": "<clientid>"}),
                "spec.clientID is `<clientid>`; it must be the client id of the identity, a GUID",
            ),
            (
                json!({"clientID": ID, "type": 7}),
                "spec.type is 7; it must be 0 (managed identity), 1 (service principal with a \
                 secret) or 2 (with a certificate)",
            ),
            (
                json!({"clientID": ID, "resourceID": resource}),
                "spec.resourceID is `not-an-id`; it must be /subscriptions/ID/resourceGroups/GROUP\
                 /providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME",
            ),
            (
                json!({"clientID": ID, "type": 2}),
                "spec.clientPassword.name is missing; types 1 and 2 need the name of the Secret \
                 that holds the credential",
            ),
            (
                json!({"clientID": ID, "type": 1, "clientPassword": {"name": "a:b"}}),
                "spec.clientPassword.name is `a:b`, which names no Secret",
            ),
            (
                json!({"clientID": ID, "tenantID": "../x"}),
                "spec.tenantID is `../x`; it must be a tenant id (GUID) or a tenant's domain name",
            ),
            (
                json!({"clientID": ID, "type": 1, "clientPassword": {"name": "s"},
                       "auxiliaryTenantIDs": ["a.example", "b"]}),
                "spec.auxiliaryTenantIDs has `b`; each must be a tenant id (GUID) or a tenant's \
                 domain name",
            ),
            (
                json!({"clientID": ID, "type": 1, "clientPassword": {"name": "s"},
                       "auxiliaryTenantIDs": "a.example"}),
                "spec.auxiliaryTenantIDs must be a list of strings",
            ),
            (json!([]), "spec must be an object"),
        ];
        for (spec, expected) in cases {
            assert_eq!(identity(&spec, &json!(null)).unwrap_err(), expected);
        }
        let source = identity(&json!({"clientID": ID}), &json!({"imdslet.dev/source": "node"}));
        assert_eq!(
            source.unwrap_err(),
            "metadata.annotations[imdslet.dev/source] is `node`; it must be `binding` or `managed`"
        );
    }

    #[test]
    fn a_resource_id_of_types_1_and_2_breaks_nothing_and_counts_if_it_is_one() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/\
                  userAssignedIdentities/n";
        for kind in [1, 2] {
            for (given, expected) in
                [(json!("<resource id>"), None), (json!(7), None), (json!(id), Some(id))]
            {
                let spec = json!({"type": kind, "clientID": ID, "clientPassword": {"name": "s"},
                                  "resourceID": given});
                let identity = identity(&spec, &json!(null)).unwrap();
                assert_eq!(identity.resource_id.as_deref(), expected, "{kind} {given}");
            }
        }
    }

    #[test]
    fn auxiliary_tenants_count_for_type_1_alone() {
        let with = |kind: i64, ids: Value| {
            let spec = json!({"type": kind, "clientID": ID, "clientPassword": {"name": "s"},
                              "AuxiliaryTenantIDs": ids});
            identity(&spec, &json!(null)).unwrap().auxiliary_tenant_ids.clone()
        };
        assert_eq!(*with(1, json!(["b.example", "a.example"])), ["b.example", "a.example"]);
        assert!(with(1, json!(null)).is_empty());
        for kind in [0, 2] {
            assert!(with(kind, json!(["not a tenant"])).is_empty(), "{kind}");
        }
    }

    #[test]
    fn the_annotation_says_the_tenant_before_the_spec_does() {
        let spec = json!({"clientID": ID, "tenantID": "a.example"});
        let annotation = json!({"imdslet.dev/tenant-id": "b.example"});
        assert_eq!(identity(&spec, &annotation).unwrap().tenant_id.as_deref(), Some("b.example"));
    }

    #[test]
    fn an_unknown_kind_of_our_group_is_an_error_and_one_of_others_is_not_ours() {
        let object = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
        let typo = Object::read(&object("aadpodidentity.k8s.io/v1", "AzureIdentityBindings"), "d");
        assert!(matches!(typo, Err(NotAnObject::UnknownKind { .. })));
        assert_eq!(Object::read(&object("apps/v1", "Deployment"), "d"), Ok(None));
        assert_eq!(Object::read(&object("other.example/v1", "AzureIdentity"), "d"), Ok(None));
        let nameless = json!({"apiVersion": "v1", "kind": "Namespace"});
        assert_eq!(
            Object::read(&nameless, "d"),
            Err(NotAnObject::Missing { field: "metadata.name" })
        );
    }
}
