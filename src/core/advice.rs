//! What a person should know who applies a workload, a binding or an identity.
//!
//! The warnings of pods that a controller makes are seen by nobody; those given here stand in the
//! terminal of whoever runs `kubectl apply`. Nothing is ever refused or changed.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::admission::admit;
use crate::index::Index;
use crate::names::POD_LABEL;
use crate::objects::{AzureIdentity, AzureIdentityBinding, Object, ObjectName};
use crate::pod::PodView;
use crate::resolve::{usable, usable_identity};
use crate::settings::{Endpoint, Scope, Settings};
use crate::warning::Warning;

/// The part of a workload that says what its pods are like.
#[derive(Deserialize)]
struct Workload<'a> {
    #[serde(default)]
    kind: String,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    spec: Option<Spec<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    template: Option<&'a RawValue>,
    /// Of a CronJob.
    #[serde(borrow, default)]
    job_template: Option<JobTemplate<'a>>,
}

#[derive(Deserialize)]
struct JobTemplate<'a> {
    #[serde(borrow, default)]
    spec: Option<JobSpec<'a>>,
}

#[derive(Deserialize)]
struct JobSpec<'a> {
    #[serde(borrow, default)]
    template: Option<&'a RawValue>,
}

impl<'a> Workload<'a> {
    fn template(&self) -> Option<&'a RawValue> {
        let spec = self.spec.as_ref()?;
        let of_job = || spec.job_template.as_ref()?.spec.as_ref()?.template;
        spec.template.or_else(of_job)
    }
}

/// What there is to say of a workload with a pod template, JSON, that is applied in `namespace`.
///
/// Nothing of one that cannot be read: the API server says it better.
#[must_use]
pub fn of_workload(
    index: &Index,
    settings: &Settings,
    namespace: &str,
    json: &str,
) -> Vec<Warning> {
    let Ok(workload) = serde_json::from_str::<Workload<'_>>(json) else { return Vec::new() };
    let Some(Ok(pod)) = workload.template().map(|template| PodView::read(template.get())) else {
        return Vec::new();
    };
    if pod.selector().is_none() {
        return misplaced(&workload, &pod).into_iter().collect();
    }
    match admit(index, settings, namespace, &pod) {
        Ok(admission) => admission.warnings,
        Err(refusal) => vec![Warning::WillBeRefused(refusal.to_string())],
    }
}

/// The label on the workload, where a person meant its pods.
fn misplaced(workload: &Workload<'_>, pod: &PodView<'_>) -> Option<Warning> {
    // The label of the workload itself is read as a pod's would be.
    let outside = format!("{{\"metadata\":{}}}", workload.metadata?.get());
    let is_outside = PodView::read(&outside).ok()?.selector().is_some();
    // An empty label on the template is how a person opts out.
    let is_misplaced = is_outside && pod.label(POD_LABEL).is_none();
    is_misplaced.then(|| Warning::LabelOnWorkload(workload.kind.clone()))
}

/// What there is to say of a custom resource.
#[must_use]
pub fn of_resource(index: &Index, settings: &Settings, object: &Object) -> Vec<Warning> {
    if let Some(fault) = object.fault() {
        return vec![Warning::BrokenObject(fault.clone())];
    }
    match object {
        Object::Identity(name, Ok(identity)) => {
            of_identity(settings, name, identity).into_iter().collect()
        }
        Object::Binding(name, Ok(binding)) => {
            of_binding(index, settings, name, binding).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// What pods of its own namespace would be told of an AzureIdentity.
pub(crate) fn of_identity(
    settings: &Settings,
    name: &ObjectName,
    identity: &AzureIdentity,
) -> Option<Warning> {
    let own = &name.namespace;
    let given = usable_identity(settings, own, name.clone(), identity, Endpoint::Env);
    given.err().map(Warning::GivesNothing)
}

/// What pods of its own namespace would be told of an AzureIdentityBinding.
pub(crate) fn of_binding(
    index: &Index,
    settings: &Settings,
    name: &ObjectName,
    binding: &AzureIdentityBinding,
) -> Option<Warning> {
    let own = &*name.namespace;
    if let Err(skip) = usable(index, settings, own, name, binding, Endpoint::Env) {
        return Some(Warning::GivesNothing(skip));
    }
    let is_usable = |(other, binding): &(&ObjectName, &AzureIdentityBinding)| {
        usable(index, settings, own, other, binding, Endpoint::Env).is_ok()
    };
    let first = index.bindings(Scope::Namespaced, own, &binding.selector).find(is_usable);
    let shadow = first
        .filter(|(first, shadow)| *first < name && shadow.azure_identity != binding.azure_identity);
    shadow.map(|(first, _)| Warning::Shadowed(first.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::Given;

    fn settings() -> Settings {
        let given: Given = [("tenant-id", vec!["contoso.example".to_owned()])].into();
        Settings::read(&given).unwrap()
    }

    fn resource(kind: &str, name: &str, spec: &Value) -> Object {
        let value = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "web"}, "spec": spec,
        });
        Object::read(&value, "web").unwrap().unwrap()
    }

    fn identity(name: &str) -> Object {
        let spec = json!({"clientID": "11111111-1111-1111-1111-111111111111"});
        resource("AzureIdentity", name, &spec)
    }

    fn binding(name: &str, identity: &str) -> Object {
        let spec = json!({"azureIdentity": identity, "selector": "db"});
        resource("AzureIdentityBinding", name, &spec)
    }

    fn workload(kind: &str, labels: &Value, template: &Value) -> Value {
        let pod = json!({
            "metadata": {"labels": template}, "spec": {"containers": [{"name": "app"}]},
        });
        let spec = match kind {
            "CronJob" => json!({"jobTemplate": {"spec": {"template": pod}}}),
            _ => json!({"template": pod}),
        };
        json!({"kind": kind, "metadata": {"name": "app", "labels": labels}, "spec": spec})
    }

    fn reasons(warnings: &[Warning]) -> Vec<&'static str> {
        warnings.iter().map(Warning::reason).collect()
    }

    #[test]
    fn a_workload_gets_the_warnings_that_its_pods_would_get() {
        let index: Index = [identity("a"), binding("1", "a")].into_iter().collect();
        let (none, db) = (json!({}), json!({"aadpodidbinding": "db"}));
        let other = json!({"aadpodidbinding": "other"});
        let opted_out = json!({"aadpodidbinding": ""});
        for kind in ["Deployment", "CronJob"] {
            for (labels, template, expected) in [
                (&none, &none, &[][..]),
                (&none, &db, &[]),
                (&db, &db, &[]),
                (&none, &other, &["Unbound"]),
                (&db, &none, &["LabelOnWorkload"]),
                (&db, &opted_out, &[]),
            ] {
                let json = workload(kind, labels, template).to_string();
                let warnings = of_workload(&index, &settings(), "web", &json);
                assert_eq!(reasons(&warnings), expected, "{json}");
            }
        }
    }

    #[test]
    fn a_template_whose_pods_are_refused_says_so_at_once() {
        let mut deployment = workload("Deployment", &json!({}), &json!({"aadpodidbinding": "db"}));
        deployment["spec"]["template"]["metadata"]["annotations"] =
            json!({"imdslet.dev/when-unbound": "deny"});
        let index = Index::default();
        let warnings = of_workload(&index, &settings(), "web", &deployment.to_string());
        assert_eq!(
            warnings[0].to_string(),
            "imdslet will refuse the pods of this template: no AzureIdentityBinding has spec.selector \
             `db`; create one, or remove the aadpodidbinding label from the pod \
             (imdslet.dev/when-unbound: deny)"
        );
    }

    #[test]
    fn what_has_no_template_is_nothing_to_speak_of() {
        for json in ["{}", "[1]", "x", r#"{"spec":{}}"#, r#"{"spec":{"jobTemplate":{}}}"#] {
            assert_eq!(of_workload(&Index::default(), &settings(), "web", json), []);
        }
    }

    #[test]
    fn a_resource_is_told_what_keeps_it_from_giving_anything() {
        let index: Index = [identity("a"), identity("b"), binding("1", "a"), binding("0", "gone")]
            .into_iter()
            .collect();
        let broken = resource("AzureIdentity", "x", &json!({"type": 7}));
        let spec = json!({"azureIdentity": "a", "selector": ""});
        let cases = [
            (identity("a"), &[][..]),
            (broken, &["InvalidObject"]),
            (binding("2", "gone"), &["NoIdentity"]),
            // The first binding that can be used is the default, and it has the same identity.
            (binding("2", "a"), &[]),
            (binding("2", "b"), &["Shadowed"]),
            (binding("00", "b"), &[]),
            (binding("1", "a"), &[]),
            (resource("AzureIdentityBinding", "3", &spec), &["InvalidObject"]),
        ];
        for (object, expected) in cases {
            let warnings = of_resource(&index, &settings(), &object);
            assert_eq!(reasons(&warnings), expected, "{object:?}");
        }
        let no_tenant = Settings::read(&Given::default()).unwrap();
        let warnings = of_resource(&index, &no_tenant, &identity("a"));
        assert_eq!(reasons(&warnings), ["NoTenant"]);
    }
}
