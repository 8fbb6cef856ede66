//! A cluster of any size, as aad-pod-identity leaves it: the same one for the same size.

use serde_json::{Value, json};

/// Workloads of one namespace.
const PER_NAMESPACE: usize = 20;

/// A List of everything that a cluster with `workloads` labelled workloads has, in which little is
/// wrong: each namespace has an identity, a binding and accounts; every hundredth workload has a label
/// that nothing selects, every ninetieth is on its node's network, every fiftieth has two
/// identities. Each Deployment has a pod, with what the API server adds to it.
#[must_use]
pub fn crowd(workloads: usize) -> Value {
    let mut items = Vec::new();
    for at in 0..workloads.div_ceil(PER_NAMESPACE) {
        let namespace = format!("team-{at:03}");
        items.push(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
        }));
        items.extend(identity(&namespace, "app", at, "app"));
        items.extend(identity(&namespace, "second", at + 500_000, "both"));
        for account in ["default", "app", "jobs"] {
            items.push(json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": account, "namespace": namespace},
            }));
        }
        items.push(json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": "app-too", "namespace": namespace},
            "spec": {"azureIdentity": "app", "selector": format!("{namespace}-both")},
        }));
        let first = at * PER_NAMESPACE;
        for number in first..(first + PER_NAMESPACE).min(workloads) {
            items.extend(workload(&namespace, number));
        }
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn identity(namespace: &str, name: &str, number: usize, selector: &str) -> [Value; 2] {
    let resource = format!(
        "/subscriptions/5b000000-0000-4000-8000-000000000000/resourcegroups/{namespace}/providers/\
         Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    );
    [
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "clientID": format!("c0000000-0000-4000-8000-{number:012}"), "resourceID": resource,
            },
        }),
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"azureIdentity": name, "selector": format!("{namespace}-{selector}")},
        }),
    ]
}

fn workload(namespace: &str, number: usize) -> Vec<Value> {
    let name = format!("app-{number:05}");
    let label = match number {
        _ if number % 100 == 99 => "nothing-selects-this".to_owned(),
        _ if number % 50 == 49 => format!("{namespace}-both"),
        _ => format!("{namespace}-app"),
    };
    let is_job = number % 10 == 9;
    let spec = json!({
        "serviceAccountName": if is_job { "jobs" } else { "app" },
        "hostNetwork": number % 90 == 89,
        "containers": [{
            "name": "app", "image": format!("registry.example/{name}:1"),
            "env": [{"name": "LOG_LEVEL", "value": "info"}],
        }],
    });
    let pod =
        json!({"metadata": {"labels": {"app": name, "aadpodidbinding": label}}, "spec": spec});
    let metadata = json!({"name": name, "namespace": namespace});
    if is_job {
        return vec![json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata,
            "spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": pod}}},
        })];
    }
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {"template": pod},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{name}-5d4f7c9b8-x2x7v"), "namespace": namespace,
                "labels": {"app": name, "aadpodidbinding": label, "pod-template-hash": "5d4f7c9b8"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                    "name": format!("{name}-5d4f7c9b8"),
                }],
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}],
            },
            "spec": spec,
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }),
    ]
}
