//! What is wrong with the custom resources of a cluster, for as long as it is. Whoever applied them
//! may not have been there to read a warning, and the pods that wait for them tell only their own
//! owners.

use crate::advice::{of_binding, of_identity};
use crate::index::Index;
use crate::live::Standing;
use crate::objects::{Kind, ObjectName};
use crate::settings::Settings;
use crate::warning::Warning;

/// Something that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What the object is.
    pub kind: Kind,
    /// Which one.
    pub object: ObjectName,
    /// The reason of the Event.
    pub reason: &'static str,
    /// What is wrong, where, and what to do.
    pub text: String,
    /// Somebody may want it so: it is enough to have said it once.
    pub may_be_meant: bool,
}

impl Trouble {
    fn new(kind: Kind, object: &ObjectName, warning: &Warning) -> Self {
        let reason = match warning {
            // Of a binding everything else is somebody else's fault.
            Warning::GivesNothing(_) if kind == Kind::AzureIdentityBinding => {
                Standing::STILL_UNBOUND
            }
            _ => warning.reason(),
        };
        Self {
            kind,
            object: object.clone(),
            reason,
            text: warning.to_string(),
            may_be_meant: matches!(warning, Warning::Shadowed(_)),
        }
    }
}

/// All that is wrong with the objects of `index`.
#[must_use]
pub fn troubles(index: &Index, settings: &Settings) -> Vec<Trouble> {
    let identities = index.identities().filter_map(|(name, identity)| {
        let warning = match identity {
            Err(fault) => Some(Warning::BrokenObject((**fault).clone())),
            Ok(identity) => of_identity(settings, name, identity),
        };
        Some(Trouble::new(Kind::AzureIdentity, name, &warning?))
    });
    let bindings = index.all_bindings().filter_map(|(name, binding)| {
        let warning = of_binding(index, settings, name, binding)?;
        Some(Trouble::new(Kind::AzureIdentityBinding, name, &warning))
    });
    let broken = index
        .broken()
        .map(|(kind, name, fault)| Trouble::new(kind, name, &Warning::BrokenObject(fault.clone())));
    identities.chain(bindings).chain(broken).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::Object;
    use crate::settings::Given;

    const ID: &str = "11111111-1111-1111-1111-111111111111";

    fn object(kind: &str, name: &str, spec: &Value) -> Object {
        let value = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "web"}, "spec": spec,
        });
        Object::read(&value, "web").unwrap().unwrap()
    }

    fn binding(name: &str, identity: &str) -> Object {
        object("AzureIdentityBinding", name, &json!({"azureIdentity": identity, "selector": "db"}))
    }

    #[test]
    fn what_is_wrong_is_said_of_the_object_whose_fault_it_is_and_of_the_bindings_to_it() {
        let index: Index = [
            object("AzureIdentity", "good", &json!({"clientID": ID})),
            object("AzureIdentity", "other", &json!({"clientID": ID})),
            object("AzureIdentity", "broken", &json!({"clientID": "x"})),
            object(
                "AzureIdentity",
                "partner",
                &json!({
                    "type": 1, "clientID": ID, "clientPassword": {"name": "s"},
                    "adEndpoint": "https://login.partner.example/",
                }),
            ),
            binding("a", "good"),
            binding("b", "other"),
            binding("c", "broken"),
            binding("d", "gone"),
            object("AzureIdentityBinding", "e", &json!({"azureIdentity": "good"})),
            object("AzurePodIdentityException", "f", &json!({"podLabels": {"app": 7}})),
        ]
        .into_iter()
        .collect();
        let settings = Settings::read(&Given::from([("tenant-id", vec!["c.example".to_owned()])]));
        let found = troubles(&index, &settings.unwrap());
        let words = [
            ("AzureIdentity", "web/broken", "InvalidObject", "spec.clientID is `x`"),
            ("AzureIdentity", "web/partner", "AuthorityNotAllowed", "--allow-authority"),
            ("AzureIdentityBinding", "web/b", "Shadowed", "AzureIdentityBinding web/a"),
            ("AzureIdentityBinding", "web/c", "StillUnbound", "spec.clientID is `x`"),
            ("AzureIdentityBinding", "web/d", "StillUnbound", "web/gone does not exist"),
            ("AzureIdentityBinding", "web/e", "InvalidObject", "spec.selector is missing"),
            ("AzurePodIdentityException", "web/f", "InvalidObject", "spec.podLabels"),
        ];
        assert_eq!(found.len(), words.len(), "{found:#?}");
        for (trouble, (kind, object, reason, text)) in found.iter().zip(words) {
            let Trouble { kind: found, object: name, .. } = trouble;
            assert_eq!((found.name(), name.to_string().as_str()), (kind, object));
            assert_eq!(trouble.reason, reason, "{object}");
            assert!(trouble.text.contains(text), "{object}: {}", trouble.text);
            assert_eq!(trouble.may_be_meant, reason == "Shadowed", "{object}");
        }
    }
}
