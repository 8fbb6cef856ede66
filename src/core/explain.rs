//! Why a pod gets the identities that it gets, and why not the others: what [`crate::admission`]
//! decides by, for people.

use crate::admission::{Admission, Refusal, admit};
use crate::advice::of_binding;
use crate::choices::Choices;
use crate::fields::FieldError;
use crate::index::Index;
use crate::objects::{Kind, ObjectName};
use crate::pod::PodView;
use crate::reserved::own_sidecar;
use crate::resolve::{Skip, Usable, usable, usable_identity};
use crate::running::Fittings;
use crate::settings::{Endpoint, Scope, Settings};
use crate::warning::Warning;

/// All that decides about one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Its label.
    pub selector: String,
    /// What becomes of it.
    pub admission: Result<Admission, Refusal>,
    /// The bindings with that selector, in the order in which they are tried.
    pub considered: Vec<Considered>,
    /// Bindings that somebody may have meant for it.
    pub near: Vec<Near>,
}

/// A binding that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The binding.
    pub binding: ObjectName,
    /// The AzureIdentity that it names.
    pub identity: ObjectName,
    /// What it gives, or why nothing.
    pub given: Result<Usable, Skip>,
    /// An earlier one gives the same.
    pub is_repeated: bool,
}

/// A binding that does not match, and nearly would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Near {
    /// But for letter case.
    #[error(
        "AzureIdentityBinding {binding} has spec.selector `{selector}`: letter case counts; write \
         both alike"
    )]
    LetterCase {
        /// The binding.
        binding: ObjectName,
        /// Its selector.
        selector: String,
    },
    /// But for its namespace.
    #[error(
        "AzureIdentityBinding {0} is in another namespace, and --scope is namespaced; bind the pods \
         in their own"
    )]
    OtherNamespace(ObjectName),
    /// It cannot be read.
    #[error("AzureIdentityBinding {0} matches nothing as it stands: {1}")]
    Broken(ObjectName, FieldError),
}

impl Near {
    /// Stable name for programs that read it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::LetterCase { .. } => "LetterCase",
            Self::OtherNamespace(_) => "OtherNamespace",
            Self::Broken(..) => "InvalidObject",
        }
    }
}

/// Explains the pod of `namespace`; `None` if it has no label, or an empty one.
#[must_use]
pub fn explain(
    index: &Index,
    settings: &Settings,
    namespace: &str,
    pod: &PodView<'_>,
) -> Option<Chain> {
    let selector = pod.selector()?;
    let endpoint = endpoint_of(index, settings, namespace, pod);
    let mut considered: Vec<Considered> = Vec::new();
    for (name, binding) in index.bindings(settings.scope, namespace, selector) {
        let given = usable(index, settings, namespace, name, binding, endpoint);
        let is_repeated = given.is_ok() && considered.iter().any(|one| one.given == given);
        considered.push(Considered {
            binding: name.clone(),
            identity: ObjectName::new(&*name.namespace, &*binding.azure_identity),
            given,
            is_repeated,
        });
    }
    Some(Chain {
        selector: selector.to_owned(),
        admission: admit(index, settings, namespace, pod),
        considered,
        near: near(index, settings, namespace, selector),
    })
}

/// What there is to say of a binding whatever pods there are: what it gives in its own namespace, or
/// why nothing. `None` if there is no such binding that can be read.
#[must_use]
pub fn explain_binding(
    index: &Index,
    settings: &Settings,
    name: &ObjectName,
) -> Option<(String, Considered, Option<Warning>)> {
    let (_, binding) = index.all_bindings().find(|(other, _)| *other == name)?;
    let given = usable(index, settings, &name.namespace, name, binding, Endpoint::Env);
    let considered = Considered {
        binding: name.clone(),
        identity: ObjectName::new(&*name.namespace, &*binding.azure_identity),
        given,
        is_repeated: false,
    };
    Some((binding.selector.to_string(), considered, of_binding(index, settings, name, binding)))
}

/// What there is to say of an AzureIdentity whatever pods there are: what it gives in its own namespace,
/// or why nothing, and the bindings that name it. `None` if there is no such identity.
#[must_use]
pub fn explain_identity(
    index: &Index,
    settings: &Settings,
    name: &ObjectName,
) -> Option<(Result<Usable, Warning>, Vec<ObjectName>)> {
    let given = match index.identity(name)? {
        Err(fault) => Err(Warning::BrokenObject((**fault).clone())),
        Ok(identity) => {
            let own = &name.namespace;
            let given = usable_identity(settings, own, name.clone(), identity, Endpoint::Env);
            given.map_err(Warning::GivesNothing)
        }
    };
    let bindings = index.all_bindings().filter(|(binding, one)| {
        binding.namespace == name.namespace && one.azure_identity == name.name
    });
    Some((given, bindings.map(|(binding, _)| binding.clone()).collect()))
}

/// How its containers ask, as admission decides it; as the settings have it where it is refused.
fn endpoint_of(index: &Index, settings: &Settings, namespace: &str, pod: &PodView<'_>) -> Endpoint {
    if let Ok(Some((list, _, sidecar))) = own_sidecar(pod) {
        return Fittings::of(pod, list, sidecar).endpoint;
    }
    let choices = Choices::read(pod, (namespace, index.namespace(namespace)), settings);
    choices.map_or(settings.endpoint, |choices| choices.endpoint)
}

fn near(index: &Index, settings: &Settings, namespace: &str, selector: &str) -> Vec<Near> {
    let others = index.all_bindings().filter_map(|(name, binding)| {
        let is_same = *binding.selector == *selector;
        let is_away = settings.scope == Scope::Namespaced && name.namespace != namespace;
        match (is_same, is_away) {
            (true, true) => Some(Near::OtherNamespace(name.clone())),
            (false, false) if binding.selector.eq_ignore_ascii_case(selector) => {
                let selector = binding.selector.to_string();
                Some(Near::LetterCase { binding: name.clone(), selector })
            }
            _ => None,
        }
    });
    let broken = index.broken().filter_map(|(kind, name, fault)| {
        let is_near = kind == Kind::AzureIdentityBinding && name.namespace == namespace;
        is_near.then(|| Near::Broken(name.clone(), fault.clone()))
    });
    others.chain(broken).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::Outcome;
    use crate::objects::Object;
    use crate::settings::Given;

    fn object(kind: &str, name: &str, spec: &Value) -> Object {
        let (namespace, name) = name.split_once('/').unwrap();
        let value = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        Object::read(&value, namespace).unwrap().unwrap()
    }

    fn binding(name: &str, selector: &str, identity: &str) -> Object {
        let spec = json!({"azureIdentity": identity, "selector": selector});
        object("AzureIdentityBinding", name, &spec)
    }

    fn settings(scope: &str) -> Settings {
        let given = [("tenant-id", "c.example"), ("scope", scope)];
        let given: Given = given.map(|(flag, value)| (flag, vec![value.to_owned()])).into();
        Settings::read(&given).unwrap()
    }

    fn estate() -> Index {
        let identity = |name, client| {
            let id = format!("00000000-0000-0000-0000-{client:012}");
            object("AzureIdentity", name, &json!({"clientID": id}))
        };
        [
            identity("web/one", 1),
            identity("ops/two", 2),
            binding("web/a", "db", "gone"),
            binding("web/b", "db", "one"),
            binding("web/c", "db", "one"),
            binding("web/d", "DB", "one"),
            binding("ops/e", "db", "two"),
            binding("ops/f", "other", "two"),
            object("AzureIdentityBinding", "web/g", &json!({"azureIdentity": "one"})),
        ]
        .into_iter()
        .collect()
    }

    fn chain(scope: &str, pod: &Value) -> Option<Chain> {
        let text = pod.to_string();
        explain(&estate(), &settings(scope), "web", &PodView::read(&text).unwrap())
    }

    fn pod(label: &str) -> Value {
        json!({"metadata": {"name": "p", "labels": {"aadpodidbinding": label}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]}})
    }

    fn words(chain: &Chain) -> Vec<(String, String, bool)> {
        let of = |one: &Considered| {
            let given = match &one.given {
                Ok(usable) => usable.identity.name.clone(),
                Err(skip) => skip.reason().to_owned(),
            };
            (one.binding.to_string(), given, one.is_repeated)
        };
        chain.considered.iter().map(of).collect()
    }

    #[test]
    fn each_binding_that_matches_is_told_with_what_it_gives_in_the_order_of_admission() {
        let chain = chain("cluster", &pod("db")).unwrap();
        let expected = [
            ("web/a", "NoIdentity", false),
            ("web/b", "web/one", false),
            ("web/c", "web/one", true),
            ("ops/e", "ops/two", false),
        ];
        let expected = expected.map(|(one, two, three)| (one.to_owned(), two.to_owned(), three));
        assert_eq!(words(&chain), expected);
        // It is what admission gives.
        let first = chain.considered.iter().filter(|one| !one.is_repeated);
        let given = first.filter_map(|one| Some(one.given.as_ref().ok()?.identity.name.clone()));
        let given: Vec<_> = given.collect();
        let Outcome::Injected { identities, .. } = chain.admission.unwrap().outcome else {
            panic!()
        };
        assert_eq!(given, identities);
    }

    #[test]
    fn what_was_nearly_meant_is_told_with_what_to_do() {
        let near = |scope, label| {
            let chain = chain(scope, &pod(label)).unwrap();
            chain.near.iter().map(|near| (near.reason(), near.to_string())).collect::<Vec<_>>()
        };
        let reasons = |found: &[(&'static str, String)]| -> Vec<_> {
            found.iter().map(|(reason, _)| *reason).collect()
        };
        let found = near("cluster", "db");
        assert_eq!(reasons(&found), ["LetterCase", "InvalidObject"]);
        assert!(found[0].1.contains("web/d has spec.selector `DB`"), "{found:?}");
        assert!(found[1].1.contains("web/g matches nothing"), "{found:?}");
        let found = near("namespaced", "db");
        assert_eq!(reasons(&found), ["OtherNamespace", "LetterCase", "InvalidObject"]);
        assert!(found[0].1.contains("ops/e is in another namespace"), "{found:?}");
        assert_eq!(reasons(&near("namespaced", "other")), ["OtherNamespace", "InvalidObject"]);
    }

    #[test]
    fn a_pod_that_did_not_ask_has_no_chain_and_a_refused_one_has() {
        assert_eq!(chain("cluster", &pod("")), None);
        let mut refused = pod("db");
        refused["metadata"]["annotations"] = json!({"imdslet.dev/endpoint": "x"});
        let chain = chain("cluster", &refused).unwrap();
        assert_eq!(chain.admission.unwrap_err().reason(), "InvalidAnnotation");
        assert_eq!(chain.considered.len(), 4);
    }

    #[test]
    fn a_binding_is_told_with_what_hides_it() {
        let name = |name: &str| {
            let (namespace, name) = name.split_once('/').unwrap();
            ObjectName::new(namespace, name)
        };
        let told = |of: &str| explain_binding(&estate(), &settings("cluster"), &name(of));
        let (selector, considered, warning) = told("web/a").unwrap();
        assert_eq!((&*selector, considered.identity), ("db", name("web/gone")));
        assert_eq!(considered.given.unwrap_err().reason(), "NoIdentity");
        assert_eq!(warning.unwrap().reason(), "NoIdentity");
        let (.., warning) = told("ops/e").unwrap();
        assert_eq!(warning, None);
        assert_eq!(told("web/x"), None);
    }

    #[test]
    fn an_identity_is_told_with_those_that_name_it() {
        let mut estate = estate();
        let broken = object("AzureIdentity", "web/broken", &json!({"clientID": "no GUID"}));
        estate.apply(crate::index::Change::Applied(Box::new(broken)));
        let told = |scope, namespace, name| {
            explain_identity(&estate, &settings(scope), &ObjectName::new(namespace, name))
        };
        let (given, bindings) = told("cluster", "web", "one").unwrap();
        assert_eq!(given.unwrap().identity.name, "web/one");
        let names: Vec<_> = bindings.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["web/b", "web/c", "web/d"]);
        let (given, bindings) = told("cluster", "web", "broken").unwrap();
        assert_eq!((given.unwrap_err().reason(), bindings.len()), ("InvalidObject", 0));
        assert_eq!(told("cluster", "ops", "one"), None);
    }
}
