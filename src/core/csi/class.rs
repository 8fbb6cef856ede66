//! What a SecretProviderClass says, and what the one says that takes its place.

use serde_json::{Map, Value, json};

use crate::names::{CLASS_GROUP, CLASS_KIND, MANAGED_BY, NAME_LIMIT, ORIGINAL, SELECTOR};
use crate::objects::ObjectName;
use crate::text::short_hash;

/// What stands between the original's name and the hash.
const INFIX: &str = ".imdslet.";

/// What a SecretProviderClass is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderClass {
    /// The Azure provider asks NMI for the tokens that it needs for this class.
    AsksNmi(Stored),
    /// We have made it.
    Derived(Origin, Stored),
    /// It has a name as those have that we make, and we have not made it.
    Namesake,
    /// Any other: not ours to change, and not in need of it.
    Other,
}

/// What is kept of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Empty for one that stands in a file.
    pub uid: String,
    /// The resource version; empty for one that stands in a file.
    pub version: String,
    /// The uids of its owners.
    pub owners: Vec<String>,
    /// It is being deleted.
    pub is_ending: bool,
    /// Its `spec`, whole.
    pub spec: Value,
}

/// What a derived class stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The original, in the same namespace.
    pub class: String,
    /// The label of the pods that it is for.
    pub selector: String,
}

impl ProviderClass {
    /// Reads a class. What is wrong with it is the driver's to say.
    pub(crate) fn read(name: &str, value: &Value) -> Self {
        if let Some(origin) = Origin::of(name, value) {
            return Self::Derived(origin, Stored::read(value));
        }
        if asks_nmi(value) {
            Self::AsksNmi(Stored::read(value))
        } else if name.contains(INFIX) {
            Self::Namesake
        } else {
            Self::Other
        }
    }
}

impl Stored {
    fn read(value: &Value) -> Self {
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let owners = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let uids = owners.into_iter().flatten().filter_map(|owner| owner.get("uid")?.as_str());
        Self {
            uid: text("/metadata/uid").to_owned(),
            version: text("/metadata/resourceVersion").to_owned(),
            owners: uids.map(str::to_owned).collect(),
            is_ending: value.pointer("/metadata/deletionTimestamp").is_some(),
            spec: value.get("spec").cloned().unwrap_or_default(),
        }
    }
}

impl Origin {
    /// What a class of ours stands for. One is ours that has our label and says what it stands for,
    /// and whose name follows from that.
    fn of(name: &str, value: &Value) -> Option<Self> {
        let metadata = value.get("metadata")?;
        let (key, ours) = MANAGED_BY;
        if metadata.get("labels")?.get(key)? != ours {
            return None;
        }
        let annotations = metadata.get("annotations")?;
        let said = |key: &str| Some(annotations.get(key)?.as_str()?.to_owned());
        let origin = Self { class: said(ORIGINAL)?, selector: said(SELECTOR)? };
        (origin.name() == name).then_some(origin)
    }

    /// The name of the derived class.
    pub(crate) fn name(&self) -> String {
        let hash = short_hash(&format!("{}\0{}", self.class, self.selector));
        let room = NAME_LIMIT - INFIX.len() - hash.len();
        // Names of objects are ASCII, and no part of one ends with either.
        let start = self.class.get(..room).unwrap_or(&self.class).trim_end_matches(['-', '.']);
        format!("{start}{INFIX}{hash}")
    }
}

/// A class that takes the place of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    /// Its name.
    pub name: ObjectName,
    /// What it stands for.
    pub origin: Origin,
    /// The uid of the original; empty if that stands in a file.
    pub owner: String,
    /// Its `spec`.
    pub spec: Value,
}

impl Derived {
    /// What takes the place of `original` for pods with this selector. Without a client id it gives
    /// nothing: so it stays for pods whose binding is gone.
    pub(crate) fn of(
        namespace: &str,
        origin: Origin,
        original: &Stored,
        client_id: Option<&str>,
    ) -> Self {
        let mut spec = original.spec.clone();
        if let Some(parameters) = spec.get_mut("parameters").and_then(Value::as_object_mut) {
            parameters.remove("usePodIdentity");
            parameters.remove("clientID");
            if let Some(client_id) = client_id {
                parameters.insert("clientID".to_owned(), json!(client_id));
            }
        }
        let name = ObjectName::new(namespace, origin.name());
        Self { name, origin, owner: original.uid.clone(), spec }
    }

    /// Whether it gives nothing.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.spec.pointer("/parameters/clientID").is_none()
    }

    /// Whether this is what is there.
    pub(crate) fn is_like(&self, there: &Stored) -> bool {
        let owner = Some(&self.owner).filter(|owner| !owner.is_empty());
        there.spec == self.spec && there.owners.iter().eq(owner)
    }

    /// The object. `version` is that of the one whose place it takes.
    #[must_use]
    pub fn object(&self, version: Option<&str>) -> Value {
        let (key, ours) = MANAGED_BY;
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(self.name.name));
        metadata.insert("namespace".to_owned(), json!(self.name.namespace));
        metadata.insert("labels".to_owned(), json!({key: ours}));
        let annotations = json!({ORIGINAL: self.origin.class, SELECTOR: self.origin.selector});
        metadata.insert("annotations".to_owned(), annotations);
        let api_version = format!("{CLASS_GROUP}/v1");
        if !self.owner.is_empty() {
            // It goes with the original, whoever is there to see it.
            let owner = json!({"apiVersion": api_version, "kind": CLASS_KIND,
                "name": self.origin.class, "uid": self.owner});
            metadata.insert("ownerReferences".to_owned(), json!([owner]));
        }
        if let Some(version) = version {
            metadata.insert("resourceVersion".to_owned(), json!(version));
        }
        json!({"apiVersion": api_version, "kind": CLASS_KIND, "metadata": metadata,
            "spec": self.spec})
    }
}

/// Whether the Azure provider asks NMI for this class. One that names a second way to a token is
/// refused by the provider, and stays as it is.
fn asks_nmi(value: &Value) -> bool {
    let text = |key: &str| value.pointer(key).and_then(Value::as_str).unwrap_or_default();
    let is_set = |key: &str| is_true(text(&format!("/spec/parameters/{key}")).trim());
    text("/spec/provider") == "azure"
        && is_set("usePodIdentity")
        && !is_set("useVMManagedIdentity")
        && !is_set("useAzureTokenProxy")
}

/// As Go's `strconv.ParseBool` has it, by which the provider reads its parameters
/// (secrets-store-csi-driver-provider-azure v1.8.2, `pkg/provider/types/parameters.go`).
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(parameters: &Value) -> Value {
        json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": "kv", "namespace": "web", "uid": "u-1", "resourceVersion": "7",
                "labels": {"team": "a"}, "annotations": {"note": "x"}},
            "spec": {
                "provider": "azure", "parameters": parameters, "unknown": [1, null],
                "secretObjects": [{"secretName": "s", "type": "Opaque"}],
            },
        })
    }

    fn origin(class: &str, selector: &str) -> Origin {
        Origin { class: class.to_owned(), selector: selector.to_owned() }
    }

    #[test]
    fn who_asks_nmi_is_read_as_the_provider_reads_it() {
        for (parameters, expected) in [
            (json!({"usePodIdentity": "true"}), true),
            (json!({"usePodIdentity": " T "}), true),
            (json!({"usePodIdentity": "1", "useVMManagedIdentity": "false"}), true),
            (json!({"usePodIdentity": "yes"}), false),
            (json!({"usePodIdentity": "false"}), false),
            (json!({"usePodIdentity": ""}), false),
            (json!({"usePodIdentity": true}), false),
            (json!({"UsePodIdentity": "true"}), false),
            (json!({"usePodIdentity": "true", "useVMManagedIdentity": "true"}), false),
            (json!({"usePodIdentity": "true", "useAzureTokenProxy": "True"}), false),
            (json!({}), false),
            (Value::Null, false),
        ] {
            let read = ProviderClass::read("kv", &class(&parameters));
            assert_eq!(matches!(read, ProviderClass::AsksNmi(_)), expected, "{parameters}");
        }
        let mut other = class(&json!({"usePodIdentity": "true"}));
        other["spec"]["provider"] = json!("vault");
        assert_eq!(ProviderClass::read("kv", &other), ProviderClass::Other);
    }

    #[test]
    fn a_derived_class_is_the_original_but_for_the_way_to_a_token() {
        let parameters = json!({
            "usePodIdentity": "true", "clientID": "before", "keyvaultName": "kv",
            "objects": "array:\n  - |\n    objectName: a\n", "tenantId": "t", "cloudName": "",
        });
        let original = Stored::read(&class(&parameters));
        let derived = Derived::of("web", origin("kv", "db"), &original, Some("c"));
        // printf 'kv\0db' | sha256sum
        assert_eq!(derived.name, ObjectName::new("web", "kv.imdslet.93eae0eb"));
        assert_eq!(
            derived.object(None),
            json!({
                "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
                "metadata": {
                    "name": "kv.imdslet.93eae0eb", "namespace": "web",
                    "labels": {"app.kubernetes.io/managed-by": "imdslet"},
                    "annotations": {
                        "imdslet.dev/secret-provider-class": "kv", "imdslet.dev/selector": "db",
                    },
                    "ownerReferences": [{
                        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
                        "kind": "SecretProviderClass", "name": "kv", "uid": "u-1",
                    }],
                },
                "spec": {
                    "provider": "azure", "unknown": [1, null],
                    "parameters": {
                        "clientID": "c", "keyvaultName": "kv", "tenantId": "t", "cloudName": "",
                        "objects": "array:\n  - |\n    objectName: a\n",
                    },
                    "secretObjects": [{"secretName": "s", "type": "Opaque"}],
                },
            })
        );
        assert_eq!(derived.object(Some("9"))["metadata"]["resourceVersion"], "9");
        let revoked = Derived::of("web", origin("kv", "db"), &original, None);
        assert!(revoked.spec["parameters"].get("clientID").is_none());
        assert_eq!(revoked.name, derived.name);
    }

    #[test]
    fn one_is_ours_that_says_so_and_is_named_by_what_it_says() {
        let original = Stored::read(&class(&json!({"usePodIdentity": "true"})));
        let derived = Derived::of("web", origin("kv", "db"), &original, Some("c"));
        let ours = derived.object(Some("9"));
        let read = |value: &Value| ProviderClass::read("kv.imdslet.93eae0eb", value);
        let ProviderClass::Derived(found, stored) = read(&ours) else { panic!("{ours}") };
        assert_eq!(found, derived.origin);
        assert!(derived.is_like(&stored));
        assert!(!matches!(ProviderClass::read("x", &ours), ProviderClass::Derived(..)));
        for (path, value) in [
            ("/metadata/labels/app.kubernetes.io~1managed-by", json!("Helm")),
            ("/metadata/annotations/imdslet.dev~1selector", json!("other")),
            ("/metadata/annotations/imdslet.dev~1secret-provider-class", json!("other")),
            ("/metadata/annotations", json!(null)),
        ] {
            let mut changed = ours.clone();
            *changed.pointer_mut(path).unwrap() = value;
            assert_eq!(read(&changed), ProviderClass::Namesake, "{path}");
        }
    }

    #[test]
    fn a_derived_class_is_told_from_its_original_by_whatever_somebody_changed() {
        let original = Stored::read(&class(&json!({"usePodIdentity": "true"})));
        let derived = Derived::of("web", origin("kv", "db"), &original, Some("c"));
        for (path, value) in [
            ("/spec/parameters/clientID", json!("d")),
            ("/spec/secretObjects", json!([])),
            ("/metadata/ownerReferences/0/uid", json!("u-2")),
            ("/metadata/ownerReferences", json!([])),
        ] {
            let mut there = derived.object(None);
            *there.pointer_mut(path).unwrap() = value;
            assert!(!derived.is_like(&Stored::read(&there)), "{path}");
        }
    }

    #[test]
    fn a_long_name_is_cut_and_stays_a_name() {
        let long = format!("{}.{}", "a".repeat(235), "b".repeat(17));
        let name = origin(&long, "db").name();
        assert!(name.starts_with(&"a".repeat(235)) && name.len() == 252, "{name}");
        assert!(name[235..].starts_with(".imdslet."), "{name}");
        assert_ne!(name, origin(&format!("{long}c"), "db").name());
        assert_ne!(origin("kv", "db").name(), origin("kv", "dbx").name());
        assert_eq!(origin(&"a".repeat(236), "db").name().len(), 253);
    }
}
