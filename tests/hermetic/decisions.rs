//! What a plan of the move leaves to a person: each reason for a decision is brought about.

use std::collections::BTreeSet;

use imdslet::migrate::{Plan, Reason};
use serde_json::{Value, json};

use crate::migrate::{ISSUER, NASTY, planned};

/// A cluster in which nothing must be decided, as far as its objects say.
fn estate() -> Vec<Value> {
    let resource = "/subscriptions/a0000000-0000-4000-8000-00000000000a/resourceGroups/apps/providers/\
                    Microsoft.ManagedIdentity/userAssignedIdentities/db";
    vec![
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": "db", "namespace": "web"},
            "spec": {"clientID": "c0000000-0000-4000-8000-000000000001", "resourceID": resource},
        }),
        binding("db", "db"),
        deployment("web", "shop", "registry.example/shop:1"),
    ]
}

fn binding(name: &str, identity: &str) -> Value {
    json!({
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
        "metadata": {"name": name, "namespace": "web"},
        "spec": {"azureIdentity": identity, "selector": "db"},
    })
}

fn deployment(namespace: &str, name: &str, image: &str) -> Value {
    let label = if namespace == "web" { "db" } else { "" };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {
            "metadata": {"labels": {"app": name, "aadpodidbinding": label}},
            "spec": {"containers": [{"name": "app", "image": image}]},
        }},
    })
}

/// The labelled Deployment with annotations on its pods.
fn annotated(annotations: &Value) -> Value {
    let mut shop = deployment("web", "shop", "registry.example/shop:1");
    shop["spec"]["template"]["metadata"]["annotations"] = annotations.clone();
    shop
}

/// The plan of `objects`, with settings by which nothing else must be decided.
fn plan(objects: &[Value], issuer: &str) -> Plan {
    let list = json!({"kind": "List", "items": objects}).to_string();
    let given = [
        ("tenant-id", "contoso.example"),
        ("sidecar-image", "registry.example/imdslet-sidecar:0.1.0"),
    ];
    planned(&[&list], &given, issuer).unwrap()
}

/// Each decision, by its reason and object.
fn decided(plan: &Plan) -> Vec<(Reason, &str)> {
    plan.decisions.iter().map(|one| (one.reason, one.object.as_str())).collect()
}

#[test]
fn each_reason_is_given_for_what_it_is_about_alone() {
    assert_eq!(decided(&plan(&estate(), ISSUER)), []);
    let with = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut objects = estate();
        change(&mut objects);
        plan(&objects, ISSUER)
    };
    let mut met: BTreeSet<_> = plan_of_nasty().into_iter().collect();
    let mirror = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "agent-node1", "namespace": "web", "labels": {"aadpodidbinding": "db"},
            "annotations": {"kubernetes.io/config.mirror": "5d1c"},
        },
        "spec": {"containers": [{"name": "app", "image": "registry.example/agent"}]},
    });
    let plain = json!({"imdslet.dev/sidecar": "container"});
    for (reason, object, plan) in [
        (Reason::StaticPod, "Pod/web/agent-node1", with(&|objects| objects.push(mirror.clone()))),
        (Reason::Warning, "Deployment/web/shop", with(&|objects| objects[2] = annotated(&plain))),
        (
            Reason::Images,
            "Registry/acr.example",
            with(&|objects| {
                objects[2] = deployment("web", "shop", "acr.example/shop:1");
                // What AKS itself is made of is not from there, in any cluster.
                let image = "mcr.microsoft.com/oss/kubernetes/coredns:1";
                objects.push(deployment("kube-system", "coredns", image));
            }),
        ),
        (
            Reason::PolicyEngine,
            "Deployment/gatekeeper-system/gatekeeper-controller",
            with(&|objects| {
                let image = "registry.example/openpolicyagent/gatekeeper:v3";
                objects.push(deployment("gatekeeper-system", "gatekeeper-controller", image));
            }),
        ),
        (
            Reason::PrivateIssuer,
            "Issuer/https://kubernetes.default.svc.cluster.local",
            plan(&estate(), "https://kubernetes.default.svc.cluster.local"),
        ),
    ] {
        assert_eq!(decided(&plan), [(reason, object)]);
        met.insert(reason);
    }
    // A binding that gives nothing, beside one that does; two of one selector are one decision more.
    let skipped = with(&|objects| objects.push(binding("other", "gone")));
    assert_eq!(
        decided(&skipped),
        [
            (Reason::SkippedBinding, "Deployment/web/shop"),
            (Reason::DuplicateSelector, "AzureIdentityBinding/web/other"),
        ]
    );
    met.insert(Reason::SkippedBinding);
    assert_eq!(met, Reason::ALL.iter().copied().collect(), "of each reason there is an example");
}

/// The reasons of an estate that has most of what may be wrong; its golden has what is said of each.
fn plan_of_nasty() -> Vec<Reason> {
    let plan = planned(&[NASTY], &[], ISSUER).unwrap();
    plan.decisions.into_iter().map(|one| one.reason).collect()
}

#[test]
fn an_issuer_out_of_reach_matters_only_to_those_who_prove_themselves_by_it() {
    let mut objects = estate();
    objects[0]["spec"] = json!({
        "type": 1, "clientID": "c0000000-0000-4000-8000-000000000001", "tenantID": "contoso.example",
        "clientPassword": {"name": "sp", "namespace": "web"},
    });
    let plan = plan(&objects, "https://cluster-1a2b.hcp.westeurope.azmk8s.io");
    assert_eq!(decided(&plan), []);
}

#[test]
fn where_no_pod_has_the_label_there_is_nothing_to_keep_off() {
    let mut objects = estate();
    objects[2] = deployment("ops", "tool", "registry.example/tool:1");
    let plan = plan(&objects, ISSUER);
    assert_eq!(decided(&plan), [(Reason::UnusedBinding, "AzureIdentityBinding/web/db")]);
    let steps: Vec<_> = plan.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(
        steps,
        ["backup", "credentials", "install", "remove-parts", "remove-finalizers", "uninstall"]
    );
}
