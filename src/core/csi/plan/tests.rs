use serde_json::{Value, json};

use super::*;
use crate::index::Change;
use crate::objects::{Kind, Object};
use crate::settings::Given;

/// Objects in a few words.
#[derive(Clone, Default)]
struct Cluster(Index);

impl Cluster {
    fn with(mut self, value: &Value) -> Self {
        let object = Object::read(value, "web").unwrap().unwrap();
        self.0.apply(Change::Applied(Box::new(object)));
        self
    }

    fn without(mut self, kind: Kind, name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        self.0.apply(Change::Deleted(kind, ObjectName::new(namespace, name)));
        self
    }

    /// A class that asks NMI.
    fn asks(self, name: &str, vault: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        self.with(&json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid of {name}")},
            "spec": {"provider": "azure",
                "parameters": {"usePodIdentity": "true", "keyvaultName": vault}},
        }))
    }

    fn identity(self, name: &str, client: u8, more: &Value) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        let mut spec = json!({
            "clientID": format!("00000000-0000-0000-0000-{client:012}"), "tenantID": "t.example",
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.with(&json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec}))
    }

    fn binding(self, name: &str, selector: &str, identity: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        self.with(&json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": selector, "azureIdentity": identity},
        }))
    }

    /// An identity and its binding, both in `namespace`.
    fn bound(self, namespace: &str, selector: &str, client: u8) -> Self {
        let name = format!("{namespace}/i{client}");
        let binding = format!("{namespace}/b{client}-{selector}");
        self.identity(&name, client, &json!({})).binding(
            &binding,
            selector,
            &name[namespace.len() + 1..],
        )
    }

    fn plan(&self, uses: &[(&str, &PodUse)]) -> Plan {
        self.plan_with(&[], uses)
    }

    fn plan_with(&self, given: &[(&'static str, &str)], uses: &[(&str, &PodUse)]) -> Plan {
        let given: Given =
            given.iter().map(|(flag, value)| (*flag, vec![(*value).to_owned()])).collect();
        plan(&self.0, &Settings::read(&given).unwrap(), uses.iter().copied())
    }

    /// Does what the plan for these pods says.
    fn carried_out(mut self, uses: &[(&str, &PodUse)]) -> Self {
        for (name, step) in self.plan(uses).steps {
            let (Step::Create(derived) | Step::Replace(derived, _)) = step else {
                self.0.apply(Change::Deleted(Kind::SecretProviderClass, name));
                continue;
            };
            let mut object = derived.object(Some("7"));
            object["metadata"]["uid"] = json!("derived");
            self = self.with(&object);
        }
        self
    }
}

fn pod(selector: &str, class: &str) -> PodUse {
    PodUse {
        selector: selector.to_owned(),
        classes: [class.to_owned()].into(),
        uid: "u".to_owned(),
        is_pending: true,
    }
}

fn name_of(class: &str, selector: &str) -> String {
    Origin { class: class.to_owned(), selector: selector.to_owned() }.name()
}

/// `verb namespace/class selector client` for each step.
fn told(plan: &Plan) -> Vec<String> {
    let tell = |(name, step): (&ObjectName, &Step)| match step {
        Step::Create(derived) => format!("create {}", words(derived)),
        Step::Replace(derived, version) => format!("replace {version} {}", words(derived)),
        Step::Delete(uid) => format!("delete {uid} {name}"),
    };
    plan.steps.iter().map(tell).collect()
}

fn words(derived: &Derived) -> String {
    let Derived { name, origin, spec, .. } = derived;
    let client = spec["parameters"]["clientID"].as_str().unwrap_or("nobody");
    let client = client.trim_start_matches(['0', '-']);
    format!("{}/{} {} {client}", name.namespace, origin.class, origin.selector)
}

#[test]
fn there_is_one_for_each_class_and_each_selector_that_its_namespace_binds() {
    let cluster = Cluster::default()
        .asks("web/kv", "v")
        .asks("web/other", "v")
        .asks("ops/kv", "v")
        .bound("web", "db", 1)
        .bound("web", "queue", 2);
    let namespaced = [("scope", "namespaced")];
    let mut steps = told(&cluster.plan_with(&namespaced, &[]));
    steps.sort();
    assert_eq!(
        steps,
        [
            "create web/kv db 1",
            "create web/kv queue 2",
            "create web/other db 1",
            "create web/other queue 2"
        ]
    );
    // In the scope of the cluster, few selectors of other namespaces count too.
    let plan = cluster.plan(&[]);
    assert_eq!(plan.steps.len(), 6);
    assert!(plan.is_needed);
    let done = cluster.carried_out(&[]);
    assert_eq!(done.plan(&[]), Plan { is_needed: true, there: 6, ..Plan::default() });
}

#[test]
fn many_selectors_of_other_namespaces_count_only_where_a_pod_needs_them() {
    let many = (0..=u8::try_from(FOREIGN).unwrap())
        .fold(Cluster::default().asks("web/kv", "v").bound("web", "own", 99), |cluster, client| {
            cluster.bound("ops", &format!("s{client}"), client)
        });
    assert_eq!(told(&many.plan(&[])), ["create web/kv own 99"]);
    let waiting = pod("s3", "kv");
    let mut steps = told(&many.plan(&[("web", &waiting)]));
    steps.sort();
    assert_eq!(steps, ["create web/kv own 99", "create web/kv s3 3"]);
    // A pod of another namespace is none of this one's, and neither is one of another class.
    let elsewhere = [("ops", &waiting), ("web", &pod("s4", "none"))];
    assert_eq!(told(&many.plan(&elsewhere)), ["create web/kv own 99"]);
}

#[test]
fn the_identity_is_the_first_one_by_which_the_provider_can_ask() {
    let managed = json!({
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
        "metadata": {"name": "m", "annotations": {"imdslet.dev/source": "managed"}},
        "spec": {"clientID": "00000000-0000-0000-0000-000000000007"},
    });
    let secret = json!({"type": 1, "clientPassword": {"name": "s", "namespace": "web"}});
    let cluster = Cluster::default()
        .asks("web/kv", "v")
        .identity("web/sp", 1, &secret)
        .identity("web/b", 2, &json!({}))
        .identity("web/c", 3, &json!({}))
        .with(&managed)
        .binding("web/0", "db", "sp")
        .binding("web/1", "db", "m")
        .binding("web/2", "db", "b")
        .binding("web/3", "db", "c")
        .binding("web/4", "none", "sp");
    let steps = told(&cluster.plan_with(&[("allow-managed", "true")], &[]));
    assert_eq!(steps, ["create web/kv db 2"]);
}

#[test]
fn it_follows_the_original_and_the_binding() {
    let cluster = Cluster::default().asks("web/kv", "v").bound("web", "db", 1).carried_out(&[]);
    assert_eq!(told(&cluster.plan(&[])), Vec::<String>::new());
    let edited = cluster.clone().asks("web/kv", "vault-2");
    assert_eq!(told(&edited.plan(&[])), ["replace 7 web/kv db 1"]);
    let moved = cluster.clone().identity("web/i1", 5, &json!({}));
    assert_eq!(told(&moved.plan(&[])), ["replace 7 web/kv db 5"]);
    let unbound = cluster.clone().without(Kind::AzureIdentityBinding, "web/b1-db");
    // First it gives nothing: a pod that has lost its label may have it still.
    assert_eq!(told(&unbound.plan(&[])), ["replace 7 web/kv db nobody"]);
    let unbound = unbound.carried_out(&[]);
    assert_eq!(told(&unbound.plan(&[])), [format!("delete derived web/{}", name_of("kv", "db"))]);
    let gone = cluster.without(Kind::SecretProviderClass, "web/kv");
    assert_eq!(told(&gone.plan(&[])).len(), 1);
}

#[test]
fn one_that_a_pod_uses_stays_and_gives_nothing_once_the_binding_is_gone() {
    let name = name_of("kv", "db");
    let running = pod("db", &name);
    let uses = [("web", &running)];
    let cluster = Cluster::default().asks("web/kv", "v").bound("web", "db", 1).carried_out(&[]);
    let unbound = cluster.clone().without(Kind::AzureIdentityBinding, "web/b1-db");
    let plan = unbound.plan(&uses);
    assert_eq!(told(&plan), ["replace 7 web/kv db nobody"]);
    assert!(plan.steps.values().all(Step::takes_away));
    assert!(!plan.is_needed);
    let revoked = unbound.carried_out(&uses);
    assert_eq!(told(&revoked.plan(&uses)), Vec::<String>::new());
    // Bound again, it gives again; without the pod it goes.
    let again = revoked.clone().bound("web", "db", 2);
    assert_eq!(told(&again.plan(&uses)), ["replace 7 web/kv db 2"]);
    assert_eq!(told(&revoked.plan(&[])), [format!("delete derived web/{name}")]);
    // A label that was edited since changes nothing for the pod.
    let relabelled = pod("other", &name);
    assert_eq!(told(&cluster.plan(&[("web", &relabelled)])), Vec::<String>::new());
    // An original that does not ask any more has nothing to say about it.
    let silent = cluster.with(&json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
        "metadata": {"name": "kv"}, "spec": {"provider": "azure", "parameters": {}},
    }));
    assert_eq!(told(&silent.plan(&uses)), Vec::<String>::new());
    assert_eq!(told(&silent.plan(&[])), [format!("delete derived web/{name}")]);
    // But its binding has.
    let moved = silent.clone().identity("web/i1", 5, &json!({}));
    assert_eq!(told(&moved.plan(&uses)), ["replace 7 web/kv db 5"]);
    let unbound = silent.without(Kind::AzureIdentityBinding, "web/b1-db");
    assert_eq!(told(&unbound.plan(&uses)), ["replace 7 web/kv db nobody"]);
    assert_eq!(told(&unbound.carried_out(&uses).plan(&uses)), Vec::<String>::new());
}

#[test]
fn what_is_not_ours_is_never_touched() {
    let name = name_of("kv", "db");
    let mut foreign = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
        "metadata": {"name": name}, "spec": {"provider": "azure",
            "parameters": {"usePodIdentity": "true"}},
    });
    let cluster = Cluster::default().asks("web/kv", "v").bound("web", "db", 1).with(&foreign);
    let plan = cluster.plan(&[]);
    assert_eq!(plan.taken.iter().map(words).collect::<Vec<_>>(), ["web/kv db 1"]);
    assert!(!plan.steps.contains_key(&ObjectName::new("web", &*name)), "{plan:?}");
    // Nor where nothing wants its name.
    foreign["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "imdslet"});
    let unwanted = Cluster::default().with(&foreign);
    assert_eq!(unwanted.plan(&[]), Plan::default());
}

#[test]
fn a_pods_volumes_are_read_and_those_that_have_ended_use_nothing() {
    let pod_in = |phase: &str, driver: &str| {
        json!({
            "metadata": {"name": "p", "uid": "u", "labels": {"aadpodidbinding": "db"}},
            "spec": {"volumes": [
                {"name": "a", "csi": {"driver": driver, "readOnly": true,
                    "volumeAttributes": {"secretProviderClass": "kv", "other": "x"}}},
                {"name": "b", "csi": {"driver": driver}},
                {"name": "c", "emptyDir": {}},
            ]},
            "status": {"phase": phase},
        })
        .to_string()
    };
    let read = |phase| PodUse::read(&pod_in(phase, DRIVER));
    let expected = pod("db", "kv");
    assert_eq!(read("Pending"), Some(expected.clone()));
    assert_eq!(read("Running"), Some(PodUse { is_pending: false, ..expected }));
    assert_eq!(read("Succeeded"), None);
    // A new one of the node's network would be left alone too.
    let on_node =
        pod_in("Pending", DRIVER).replacen(r#""spec":{"#, r#""spec":{"hostNetwork":true,"#, 1);
    assert!(!PodUse::read(&on_node).unwrap().is_pending, "{on_node}");
    assert_eq!(PodUse::read(&pod_in("Running", "disk.csi.azure.com")), None);
}

#[test]
fn a_pod_that_came_too_early_is_known_by_what_it_names() {
    let early = pod("db", "kv");
    let cluster = Cluster::default().asks("web/kv", "v").bound("web", "db", 1);
    assert_eq!(early.outdated(&cluster.0, "web"), None, "the class is just being made");
    let done = cluster.carried_out(&[]);
    let both = (name_of("kv", "db"), "kv".to_owned());
    assert_eq!(early.outdated(&done.0, "web"), Some(both));
    let runs = PodUse { is_pending: false, ..early.clone() };
    for (right, namespace) in [
        (&runs, "web"),
        (&pod("db", &name_of("kv", "db")), "web"),
        (&pod("other", "kv"), "web"),
        (&early, "ops"),
    ] {
        assert_eq!(right.outdated(&done.0, namespace), None, "{right:?}");
    }
    let disabled = done.with(&json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "web", "labels": {"imdslet.dev/injection": "disabled"}}}));
    assert_eq!(early.outdated(&disabled.0, "web"), None, "a new one would be left alone too");
}
