//! Whether pods reach the node's metadata service, and what that means to imdslet.

use std::net::Ipv4Addr;

use imdslet_core::names::{LINK_LOCAL, SOURCE};
use serde_json::Value;

use super::facts::{Facts, text};
use super::report::{Check, Verdict};

const WHAT: (&str, &str) =
    ("node-metadata", "the node's metadata service is open to whom it should be");

/// The port of the node's metadata service.
const PORT: u64 = 80;

/// By identities that need it, and by NetworkPolicies. That of AKS itself, which keeps all pods from it,
/// is nothing that an API server knows.
pub(super) fn check(facts: &Facts, is_installed: bool) -> Option<Check> {
    let identities = match &facts.identities {
        Ok(identities) => identities,
        Err(why) => return Some(Check::unknown(WHAT, why)),
    };
    let needing: Vec<_> = identities.iter().filter(|one| needs_it(one)).collect();
    if needing.is_empty() {
        return (!is_installed).then(nobody_needs_it);
    }
    let policies = match &facts.network_policies {
        Ok(policies) => policies,
        Err(why) => return Some(Check::unknown(WHAT, why)),
    };
    let kept = needing.iter().find_map(|identity| {
        let namespace = text(identity, "/metadata/namespace");
        Some((identity, namespace, blocking(policies, namespace)?))
    });
    let Some((identity, namespace, policy)) = kept else { return Some(untold(needing.len())) };
    Some(Check::found(
        WHAT,
        Verdict::Failed,
        format!(
            "AzureIdentity {namespace}/{} has imdslet.dev/source: managed, and NetworkPolicy \
             {namespace}/{policy} keeps the pods of its namespace from {LINK_LOCAL}",
            text(identity, "/metadata/name")
        ),
        "allow it to the pods that have the identity, or take the annotation away and give the \
         identity a federated credential",
    ))
}

const ASK: &str = "az aks show -g GROUP -n CLUSTER --query networkProfile.podLinkLocalAccess";

fn nobody_needs_it() -> Check {
    Check::found(
        WHAT,
        Verdict::Note,
        format!(
            "whether pods reach it cannot be told from here. imdslet does not need it; once NMI is \
             gone, what a pod asks of {LINK_LOCAL} is answered with the node's identities"
        ),
        format!(
            "{ASK} (AKS: `None` keeps all pods from it); elsewhere a NetworkPolicy does, which the \
             chart can write (networkPolicies.denyNodeIdentity)"
        ),
    )
}

fn untold(identities: usize) -> Check {
    let who = match identities {
        1 => "an AzureIdentity has imdslet.dev/source: managed and needs it".to_owned(),
        many => format!("{many} AzureIdentities have imdslet.dev/source: managed and need it"),
    };
    Check::found(
        WHAT,
        Verdict::Note,
        format!(
            "{who}. No NetworkPolicy keeps all pods of its namespace from it; whether AKS itself \
             does cannot be told from here"
        ),
        format!("{ASK} must not be `None`"),
    )
}

fn needs_it(identity: &Value) -> bool {
    let annotations = identity.pointer("/metadata/annotations");
    let source = annotations.and_then(|all| all.get(SOURCE));
    source.and_then(Value::as_str) == Some("managed")
}

/// The policy that keeps all pods of a namespace from it, if there is one and none that lets some.
fn blocking<'a>(policies: &'a [Value], namespace: &str) -> Option<&'a str> {
    let here = || policies.iter().filter(|one| text(one, "/metadata/namespace") == namespace);
    if here().any(lets_out) {
        return None;
    }
    here().find(|policy| is_for_all(policy)).map(|policy| text(policy, "/metadata/name"))
}

/// Whether a policy is about what leaves any pod of its namespace.
fn is_for_all(policy: &Value) -> bool {
    let selector = policy.pointer("/spec/podSelector").and_then(Value::as_object);
    let is_empty = |value: &Value| {
        value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
    };
    let types = policy.pointer("/spec/policyTypes").and_then(Value::as_array);
    selector.is_some_and(|selector| selector.values().all(is_empty))
        && types.is_some_and(|types| types.contains(&"Egress".into()))
}

fn lets_out(policy: &Value) -> bool {
    let rules = policy.pointer("/spec/egress").and_then(Value::as_array);
    rules.into_iter().flatten().any(|rule| {
        let list = |key: &str| rule.get(key).and_then(Value::as_array).filter(|l| !l.is_empty());
        list("to").is_none_or(|peers| peers.iter().any(is_there))
            && list("ports").is_none_or(|ports| ports.iter().any(is_port))
    })
}

fn is_there(peer: &Value) -> bool {
    let covers = |block: &Value| block.as_str().is_some_and(covers);
    let except = peer.pointer("/ipBlock/except").and_then(Value::as_array);
    peer.pointer("/ipBlock/cidr").is_some_and(covers) && !except.into_iter().flatten().any(covers)
}

/// Whether the address is in a block such as `10.0.0.0/8`.
fn covers(block: &str) -> bool {
    let parts = block.split_once('/').and_then(|(address, length)| {
        Some((address.parse::<Ipv4Addr>().ok()?, length.parse::<u32>().ok()?))
    });
    let (Some((address, length)), Ok(own)) = (parts, LINK_LOCAL.parse::<Ipv4Addr>()) else {
        return false;
    };
    let differing = u32::from(address) ^ u32::from(own);
    length == 0 || differing.checked_shr(32 - length.min(32)) == Some(0)
}

fn is_port(port: &Value) -> bool {
    let protocol = text(port, "/protocol");
    let number = |key: &str| port.get(key).and_then(Value::as_u64);
    let is_in = match (port.get("port"), number("port")) {
        (Some(_), Some(first)) => (first..=number("endPort").unwrap_or(first)).contains(&PORT),
        // Any port; or one by a name, which only the other end could tell.
        _ => true,
    };
    is_in && matches!(protocol, "" | "TCP")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_keeps_a_namespace_from_the_address_unless_one_lets_a_pod_out() {
        let policy = |selector: Value, egress: Value| {
            json!({"metadata": {"namespace": "web", "name": "p"},
                "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], "egress": egress}})
        };
        let to = |cidr: &str, except: &[&str]| json!([{"to": [{"ipBlock": {"cidr": cidr, "except": except}}]}]);
        let ports = |ports: Value| json!([{"ports": ports}]);
        let all = || json!({});
        let cases = [
            ("nothing leaves", policy(all(), json!([])), true),
            ("all leaves", policy(all(), json!([{}])), false),
            ("but this", policy(all(), to("0.0.0.0/0", &["169.254.169.254/32"])), true),
            ("but its net", policy(all(), to("0.0.0.0/0", &["169.254.0.0/16"])), true),
            ("but another", policy(all(), to("0.0.0.0/0", &["10.0.0.0/8"])), false),
            ("its net alone", policy(all(), to("169.254.0.0/16", &[])), false),
            ("another net", policy(all(), to("10.0.0.0/8", &[])), true),
            ("version 6", policy(all(), to("::/0", &[])), true),
            ("pods alone", policy(all(), json!([{"to": [{"podSelector": {}}]}])), true),
            ("its port", policy(all(), ports(json!([{"port": 1, "endPort": 80}]))), false),
            ("another port", policy(all(), ports(json!([{"port": 443}]))), true),
            ("names", policy(all(), ports(json!([{"port": 53, "protocol": "UDP"}]))), true),
            ("some pods", policy(json!({"matchLabels": {"a": "b"}}), json!([])), false),
        ];
        for (name, policy, is_kept) in cases {
            let policies = [policy];
            assert_eq!(blocking(&policies, "web").is_some(), is_kept, "{name}");
            assert_eq!(blocking(&policies, "ops"), None, "{name}");
        }
        // Policies add up: what one of them lets out is out.
        let lets = policy(json!({"matchLabels": {"a": "b"}}), json!([{}]));
        assert_eq!(blocking(&[policy(all(), json!([])), lets], "web"), None);
    }
}
