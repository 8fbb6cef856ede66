//! Whether a tenant is known for identities that name none, as those of aad-pod-identity do.

use std::collections::BTreeSet;

use imdslet_core::contract::Source;
use imdslet_core::id::is_tenant;
use imdslet_core::missed::missed;
use imdslet_core::objects::{Credential, Object, ObjectName};
use serde_json::{Value, json};

use super::facts::{Facts, Seen, text};
use super::installed::deployment;
use super::report::{Check, Verdict};

const WHAT: (&str, &str) = ("tenant", "the tenant of every identity is known");
const FLAG: &str = "--tenant-id";
const VARIABLE: &str = "AZURE_TENANT_ID";

/// By what imdslet is set to, and by the identities that there are.
pub(super) fn check(facts: &Facts) -> Check {
    let setting = match Setting::of(facts) {
        Ok(setting) => setting,
        Err(why) => return Check::unknown(WHAT, &why),
    };
    let Setting { name, place, remedy, .. } = &setting;
    match setting.tenant.as_deref() {
        None => Check::found(
            WHAT,
            Verdict::Note,
            format!("{name} of {place} refers to another place, which is not read"),
            "see that it names a tenant: without one, the webhook's log has a warning at its start",
        ),
        Some("") => by_identities(facts, remedy),
        Some(tenant) if is_tenant(tenant) => {
            Check::passed(WHAT.0, format!("identities that name no tenant are of {tenant}"))
        }
        Some(tenant) => {
            let message = format!(
                "{name} of {place} is `{tenant}`; it must be a tenant id (GUID) or a tenant's domain \
                 name, and no replica starts with it"
            );
            Check::found(WHAT, Verdict::Failed, message, remedy)
        }
    }
}

/// The tenant that imdslet is given.
struct Setting {
    /// What it is called there.
    name: &'static str,
    place: String,
    /// Empty if there is none, as the program takes it; `None`: not to be read there.
    tenant: Option<String>,
    /// How it is set.
    remedy: String,
}

impl Setting {
    fn of(facts: &Facts) -> Seen<Self> {
        let namespace = &facts.namespace;
        let config = format!("ConfigMap {namespace}/imdslet-config");
        let workers = facts.workers.as_ref().map_err(Clone::clone)?;
        let webhook = deployment(workers, "imdslet-webhook", namespace);
        let container = webhook.and_then(|one| one.pointer("/spec/template/spec/containers/0"));
        if let Some((name, tenant)) = container.and_then(own_tenant) {
            let place = format!("Deployment {namespace}/imdslet-webhook");
            let remedy =
                format!("set {name} right in {place}, or leave it out: it counts before {config}");
            return Ok(Self { name, place, tenant, remedy });
        }
        let settings = facts.settings.as_ref().map_err(Clone::clone)?;
        let tenant = settings.get(VARIABLE).map(|tenant| tenant.trim().to_owned());
        let remedy = format!(
            "set {VARIABLE} in {config}, then kubectl -n {namespace} rollout restart deployment \
             (Helm: the value tenantId)"
        );
        Ok(Self { name: VARIABLE, place: config, tenant: Some(tenant.unwrap_or_default()), remedy })
    }
}

/// What a container itself sets, and what it is called: an argument counts before a variable, and that
/// before those of a ConfigMap. The last one counts, also if it is empty.
fn own_tenant(container: &Value) -> Option<(&'static str, Option<String>)> {
    let lists = ["command", "args"].into_iter();
    let words = lists.filter_map(|list| container.get(list)?.as_array()).flatten();
    let mut words = words.filter_map(Value::as_str);
    let mut argument = None;
    while let Some(word) = words.next() {
        if word == FLAG {
            argument = words.next();
        } else if let Some(value) = word.strip_prefix(FLAG).and_then(|rest| rest.strip_prefix('='))
        {
            argument = Some(value);
        }
    }
    // The kubelet puts variables in.
    let written = |text: &str| (!text.contains("$(")).then(|| text.trim().to_owned());
    if let Some(argument) = argument {
        return Some((FLAG, written(argument)));
    }
    let variables = container.get("env")?.as_array()?;
    let variable = variables.iter().rev().find(|one| text(one, "/name") == VARIABLE)?;
    let is_reference = variable.get("valueFrom").is_some();
    let tenant = if is_reference { None } else { written(text(variable, "/value")) };
    Some((VARIABLE, tenant))
}

/// No tenant is set: whether some pod would need one.
fn by_identities(facts: &Facts, remedy: &str) -> Check {
    let identities = match &facts.identities {
        Ok(identities) => identities,
        Err(why) => return Check::unknown(WHAT, why),
    };
    let without: Vec<_> = identities.iter().filter_map(without_tenant).collect();
    if without.is_empty() {
        if identities.is_empty() {
            let message = "no tenant is set: an AzureIdentity that names none will get no tokens";
            return Check::found(WHAT, Verdict::Warning, message, remedy);
        }
        return Check::passed(WHAT.0, "every AzureIdentity names its tenant");
    }
    let bindings = match (&facts.bindings, &facts.index) {
        (Ok(bindings), Ok(_)) => bindings,
        (Err(why), _) | (_, Err(why)) => return Check::unknown(WHAT, why),
    };
    let bound: BTreeSet<_> = bindings.iter().filter_map(bound_identity).collect();
    let is_used = |name: &ObjectName| bound.contains(name) && !is_left_alone(facts, name);
    let (used, spare): (Vec<_>, Vec<_>) = without.into_iter().partition(is_used);
    let (verdict, names, why) = if used.is_empty() {
        let why = "; no AzureIdentityBinding names it, or the pods of its namespace are left alone";
        (Verdict::Warning, spare, why)
    } else {
        (Verdict::Failed, used, "")
    };
    let message = format!("no tenant is set, and AzureIdentity {}{why}", none_of(&names));
    Check::found(WHAT, verdict, message, remedy)
}

fn none_of(names: &[ObjectName]) -> String {
    let [first, rest @ ..] = names else { return String::new() };
    match rest.len() {
        0 => format!("{first} names none"),
        1 => format!("{first} names none, nor does 1 more"),
        more => format!("{first} names none, nor do {more} more"),
    }
}

/// Its name, if it names no tenant and needs one.
fn without_tenant(value: &Value) -> Option<ObjectName> {
    let Ok(Some(Object::Identity(name, Ok(identity)))) = Object::read(value, "default") else {
        return None;
    };
    // The node's metadata service knows it.
    let needs_none = matches!(identity.credential, Credential::Managed(Source::Managed));
    (identity.tenant_id.is_none() && !needs_none).then_some(name)
}

/// The identity that a binding names, if the binding can be used.
fn bound_identity(value: &Value) -> Option<ObjectName> {
    let Ok(Some(Object::Binding(name, Ok(binding)))) = Object::read(value, "default") else {
        return None;
    };
    Some(ObjectName::new(&*name.namespace, &*binding.azure_identity))
}

/// Whether a labelled pod beside it is meant to have no sidecar.
fn is_left_alone(facts: &Facts, name: &ObjectName) -> bool {
    let pod = json!({"metadata": {"labels": {"aadpodidbinding": &name.name}}}).to_string();
    facts.index.as_ref().is_ok_and(|index| missed(&pod, &name.namespace, index).is_none())
}

#[cfg(test)]
mod tests {
    use imdslet_core::index::Index;

    use super::super::testing::healthy;
    use super::*;
    use Verdict::{Failed, Note, Passed, Unknown, Warning};

    fn object(kind: &str, name: &str, spec: &Value, annotations: &Value) -> Value {
        json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind, "spec": spec,
            "metadata": {"namespace": "web", "name": name, "annotations": annotations}})
    }

    fn identity(name: &str, spec: &Value, annotations: &Value) -> Value {
        let mut spec = spec.clone();
        spec["clientID"] = json!("c0000000-0000-4000-8000-000000000001");
        object("AzureIdentity", name, &spec, annotations)
    }

    fn unnamed(name: &str) -> Value {
        identity(name, &json!({}), &json!({}))
    }

    fn binding(identity: &str) -> Value {
        let spec = json!({"azureIdentity": identity, "selector": "db"});
        object("AzureIdentityBinding", identity, &spec, &json!({}))
    }

    /// An installation with this in its ConfigMap, and these identities.
    fn facts(tenant: &str, identities: Vec<Value>) -> Facts {
        Facts {
            settings: Ok([(VARIABLE.to_owned(), tenant.to_owned())].into()),
            identities: Ok(identities),
            ..healthy()
        }
    }

    fn of_webhook(facts: &mut Facts) -> &mut Value {
        &mut facts.workers.as_mut().unwrap()[0]["spec"]["template"]["spec"]["containers"][0]
    }

    /// All that is said.
    fn told(facts: &Facts, verdict: Verdict, words: &str) -> String {
        let check = check(facts);
        let said = format!("{}; {:?}; {:?}", check.title, check.message, check.remedy);
        assert_eq!(check.verdict, verdict, "{said}");
        assert!(said.contains(words), "{words}: {said}");
        said
    }

    #[test]
    fn identities_that_name_no_tenant_need_that_of_the_installation() {
        let named = identity("a", &json!({"TenantID": "contoso.example"}), &json!({}));
        let by_annotation =
            identity("b", &json!({}), &json!({"imdslet.dev/tenant-id": "contoso.example"}));
        let managed = identity("c", &json!({}), &json!({"imdslet.dev/source": "managed"}));
        let each_names_its_own = vec![named.clone(), by_annotation, managed];
        for (tenant, identities, verdict, words) in [
            ("contoso.example", vec![unnamed("d")], Passed, "are of contoso.example"),
            // As the program reads it: a block of YAML ends with a line.
            ("contoso.example\n", vec![unnamed("d")], Passed, "are of contoso.example;"),
            ("contoso", vec![], Failed, "imdslet-config is `contoso`; it must be a tenant id"),
            ("", each_names_its_own, Passed, "every AzureIdentity names its tenant"),
            (" ", vec![], Warning, "an AzureIdentity that names none will get no tokens"),
            ("", vec![named, unnamed("d")], Failed, "AzureIdentity web/d names none\""),
            ("", vec![unnamed("d"), unnamed("e")], Failed, "web/d names none, nor does 1 more"),
        ] {
            let mut facts = facts(tenant, identities);
            facts.bindings = Ok(vec![binding("d"), binding("e")]);
            let said = told(&facts, verdict, words);
            let set = "set AZURE_TENANT_ID in ConfigMap imdslet-system/imdslet-config";
            assert_eq!(said.contains(set), verdict != Passed, "{said}");
        }
    }

    #[test]
    fn what_the_deployment_sets_counts_before_the_config_map() {
        let variable = |value: &str| json!([{"name": VARIABLE, "value": value}]);
        let (other, none) = ("are of other.example;", "names none");
        for (args, env, verdict, words) in [
            (json!([]), variable("other.example\n"), Passed, other),
            (json!(["--tenant-id=other.example"]), Value::Null, Passed, other),
            (json!(["--role=admission", "--tenant-id", "other.example"]), json!([]), Passed, other),
            (json!(["--tenant-id=other.example"]), variable("third.example"), Passed, other),
            (json!([]), variable("other"), Failed, "AZURE_TENANT_ID of Deployment imdslet-system/"),
            (
                json!(["--tenant-id=other"]),
                json!([]),
                Failed,
                "set --tenant-id right in Deployment",
            ),
            // As good as none, and there before that of the ConfigMap. The API server keeps no empty value.
            (json!(["--tenant-id="]), json!([]), Failed, none),
            (json!([]), json!([{"name": VARIABLE}]), Failed, none),
            (
                json!([]),
                json!([{"name": VARIABLE, "valueFrom": {}}]),
                Note,
                "refers to another place",
            ),
            (json!(["--tenant-id=$(TENANT)"]), json!([]), Note, "--tenant-id of Deployment"),
            (
                json!(["--tenant-ids=x"]),
                json!([{"name": "X", "value": "x"}]),
                Passed,
                "contoso.example",
            ),
        ] {
            let mut facts = facts("contoso.example", vec![unnamed("d")]);
            facts.bindings = Ok(vec![binding("d")]);
            of_webhook(&mut facts)["args"] = args;
            of_webhook(&mut facts)["env"] = env;
            told(&facts, verdict, words);
        }
        let mut facts = facts("", vec![unnamed("d")]);
        of_webhook(&mut facts)["args"] = json!(["--tenant-id=other.example"]);
        facts.settings = Err("forbidden".to_owned());
        told(&facts, Passed, other);
    }

    #[test]
    fn an_identity_that_no_pod_of_ours_can_use_is_worth_a_warning_and_no_more() {
        let mut facts = facts("", vec![unnamed("d"), unnamed("e")]);
        facts.bindings = Ok(vec![binding("other")]);
        told(
            &facts,
            Warning,
            "web/d names none, nor does 1 more; no AzureIdentityBinding names it",
        );
        // The one that is used is named, and it alone.
        facts.bindings = Ok(vec![binding("e")]);
        told(&facts, Failed, "AzureIdentity web/e names none\"");
        // One of another namespace is another.
        let mut elsewhere = binding("e");
        elsewhere["metadata"]["namespace"] = json!("ops");
        facts.bindings = Ok(vec![elsewhere]);
        told(&facts, Warning, "web/d names none");
        facts.bindings = Ok(vec![binding("d"), binding("e")]);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "web", "labels": {"imdslet.dev/injection": "disabled"}}});
        let object = Object::read(&namespace, "web").unwrap().unwrap();
        facts.index = Ok([object].into_iter().collect::<Index>());
        told(&facts, Warning, "the pods of its namespace are left alone");
    }

    #[test]
    fn what_cannot_be_read_is_not_judged() {
        let unseen = || "forbidden".to_owned();
        let none = || facts("", vec![unnamed("d")]);
        for facts in [
            Facts { settings: Err(unseen()), ..none() },
            Facts { workers: Err(unseen()), ..none() },
            Facts { identities: Err(unseen()), ..none() },
            Facts { bindings: Err(unseen()), ..none() },
            Facts { index: Err(unseen()), ..none() },
        ] {
            told(&facts, Unknown, "forbidden");
        }
        // Whatever they are, they have one.
        let known = Facts { identities: Err(unseen()), ..facts("contoso.example", Vec::new()) };
        told(&known, Passed, "are of contoso.example");
    }
}
