//! The explanation as a tree for people.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::terminal::plain;

use super::{
    BindingChain, Explained, Gives, IdentityChain, Matched, Need, PodChain, Said, Step, Verdict,
};

/// A line, and what belongs under it.
#[derive(Debug, Default)]
struct Node {
    text: String,
    below: Vec<Node>,
}

impl Node {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), below: Vec::new() }
    }

    fn with(text: impl Into<String>, below: Vec<Node>) -> Self {
        Self { text: text.into(), below }
    }
}

pub(super) fn write(explained: &Explained) -> String {
    let mut text = String::new();
    let pods = explained.pods.iter().map(pod);
    let bindings = explained.bindings.iter().map(binding);
    let identities = explained.identities.iter().map(identity);
    for node in pods.chain(bindings).chain(identities) {
        text.push_str(&plain(&node.text));
        text.push('\n');
        draw(&node.below, "", &mut text);
    }
    text
}

fn draw(nodes: &[Node], before: &str, text: &mut String) {
    for (at, node) in nodes.iter().enumerate() {
        let is_last = at + 1 == nodes.len();
        let (branch, under) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        // Writing to a String cannot fail.
        writeln!(text, "{before}{branch}{}", plain(&node.text)).ok();
        draw(&node.below, &format!("{before}{under}"), text);
    }
}

fn pod(chain: &PodChain) -> Node {
    let mut below = Vec::new();
    match &chain.label {
        Some(label) => below.push(Node::new(format!("label aadpodidbinding: {label}"))),
        None => below.push(Node::new("no label aadpodidbinding on its pods")),
    }
    if chain.label.is_some() && chain.bindings.is_empty() {
        below.push(Node::new("no AzureIdentityBinding with that selector"));
    }
    // What is left as it is would get nothing by the best of bindings.
    if chain.outcome != Verdict::Untouched {
        below.extend(chain.bindings.iter().map(|one| step(one, &chain.service_account)));
    }
    below.extend(chain.near.iter().map(|near| said("nearly", near)));
    below.extend(chain.warnings.iter().map(|warning| said("warning", warning)));
    if let Some(told) = &chain.told {
        let told = if told.is_empty() { "none".to_owned() } else { told.join(", ") };
        below.push(Node::new(format!("its sidecar was told: {told}")));
    }
    below.push(Node::new(verdict(chain)));
    Node::with(&chain.object, below)
}

fn verdict(chain: &PodChain) -> String {
    let given: Vec<_> = chain.bindings.iter().filter(|step| step.gives.is_some()).collect();
    let default = given.iter().find(|step| step.is_default).map(|step| step.identity.as_str());
    let why = match (chain.reason, &chain.message) {
        (Some(reason), Some(message)) => format!(" ({reason}): {message}"),
        _ => String::new(),
    };
    match chain.outcome {
        Verdict::Served => {
            let default =
                default.map(|name| format!("; its default is {name}")).unwrap_or_default();
            let count = given.len();
            format!("=> it gets {count} {}{default}", plural(count, "identity", "identities"))
        }
        Verdict::Waiting => format!("=> it waits for an identity{why}"),
        Verdict::Untouched => format!("=> it gets nothing from imdslet{why}"),
        Verdict::Refused => format!("=> it is refused{why}"),
    }
}

fn step(step: &Step, account: &str) -> Node {
    let mut below = Vec::new();
    if let Some(gives) = &step.gives {
        let default = if step.is_default { ", the default" } else { "" };
        let identity = format!("AzureIdentity {}{default}", step.identity);
        below.push(Node::with(identity, given(gives, account)));
    }
    if let Some(skipped) = &step.skipped {
        below.push(said("gives nothing", skipped));
    }
    Node::with(format!("AzureIdentityBinding {}", step.binding), below)
}

fn given(gives: &Gives, account: &str) -> Vec<Node> {
    let mut below = vec![
        Node::new(format!("client id {}", gives.client_id)),
        Node::new(format!("source {}", gives.source)),
    ];
    if let Some(allowed) = &gives.allowed_resources {
        below.push(Node::new(format!("tokens for {} alone", allowed.join(", "))));
    }
    below.extend(needs(&gives.needs, account));
    below
}

fn needs(need: &Need, account: &str) -> Vec<Node> {
    match need {
        Need::FederatedCredential { issuer, subject, audience, command } => {
            let issuer = issuer.as_deref().unwrap_or("that of the cluster (--issuer)");
            let what = vec![
                Node::new(format!("issuer {issuer}")),
                Node::new(format!("subject {subject}")),
                Node::new(format!("audience {audience}")),
                Node::new(command.clone()),
            ];
            vec![
                Node::new(format!("service account {account}")),
                Node::with("needs a federated credential", what),
            ]
        }
        Need::IdentityBinding { subject, resource } => vec![
            Node::new(format!("service account {account}")),
            Node::new(format!("needs the verb use-managed-identity on {resource} for {subject}")),
        ],
        Need::NodeIdentity => vec![Node::new("needs to be assigned to the node's scale set")],
        Need::Secret { name } => vec![Node::new(format!("needs Secret {name}"))],
    }
}

fn binding(chain: &BindingChain) -> Node {
    let mut below = Vec::new();
    if !chain.identity.is_empty() {
        below.push(Node::new(format!("selector {}", chain.selector)));
        below.push(Node::new(format!("AzureIdentity {}", chain.identity)));
    }
    below.extend(chain.problem.iter().map(|problem| said("wrong", problem)));
    below.extend(chain.note.iter().map(|note| said("note", note)));
    below.extend(chain.pods.iter().map(matched));
    let given = chain.pods.iter().filter(|pod| pod.gives).count();
    let all = chain.pods.len();
    below.push(Node::new(format!(
        "=> {all} {} the label; it gives {given} of them an identity",
        plural(all, "pod or workload has", "pods or workloads have")
    )));
    Node::with(&chain.object, below)
}

fn identity(chain: &IdentityChain) -> Node {
    let mut below = Vec::new();
    below.extend(chain.client_id.iter().map(|id| Node::new(format!("client id {id}"))));
    below.extend(chain.source.iter().map(|source| Node::new(format!("source {source}"))));
    below.extend(chain.problem.iter().map(|problem| said("wrong", problem)));
    below.extend(chain.bindings.iter().map(binding));
    if chain.bindings.is_empty() {
        below.push(Node::new("no AzureIdentityBinding of its namespace names it"));
    }
    below.extend(chain.accounts.iter().flat_map(|one| needs(&one.needs, &one.service_account)));
    let pods = chain.bindings.iter().flat_map(|binding| &binding.pods);
    let served: BTreeSet<_> = pods.filter(|pod| pod.gives).map(|pod| &pod.object).collect();
    let served = served.len();
    let who = plural(served, "pod or workload gets", "pods or workloads get");
    below.push(Node::new(format!("=> {served} {who} it")));
    Node::with(&chain.object, below)
}

fn matched(pod: &Matched) -> Node {
    let what = match (pod.gives, pod.is_default) {
        (true, true) => "gets it, as its default",
        (true, false) => "gets it, beside its default",
        (false, _) => "gets nothing by it",
    };
    let below = pod.skipped.iter().map(|skipped| said("why", skipped)).collect();
    Node::with(format!("{} {what}", pod.object), below)
}

fn said(what: &str, Said { reason, message }: &Said) -> Node {
    Node::new(format!("{what} ({reason}): {message}"))
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}
