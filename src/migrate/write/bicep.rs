//! A Bicep file: for each identity one loop, whose rounds come one after another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::super::Plan;
use super::Place;
use crate::emulator::FederatedCredential;

const TYPE: &str =
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31";

pub(super) fn write(plan: &Plan) -> String {
    let mut identities: BTreeMap<Identity, Vec<&FederatedCredential>> = BTreeMap::new();
    for (place, credential) in plan.placed() {
        identities.entry(Identity::of(place)).or_default().push(credential);
    }
    let groups: BTreeSet<_> = identities.keys().map(|identity| &identity.group).collect();

    let mut text =
        "// Made by `imdslet migrate`. Deploy it to each of these resource groups, where \
                    it creates the\n// credentials of the identities that are there:\n"
            .to_owned();
    for (subscription, group) in &groups {
        writeln!(text, "//   subscription {subscription}, resource group {group}").ok();
    }
    for line in plan.unplaced() {
        writeln!(text, "// {line}").ok();
    }
    for (number, (subscription, group)) in groups.iter().enumerate() {
        writeln!(
            text,
            "\nvar isGroup{number} = (toLower(subscription().subscriptionId) == {}) && \
             (toLower(resourceGroup().name) == {})",
            quoted(subscription),
            quoted(group)
        )
        .ok();
    }
    for (number, (identity, credentials)) in identities.iter().enumerate() {
        let group = groups.iter().position(|group| **group == identity.group);
        one(&mut text, (number, group.unwrap_or_default()), &identity.name, credentials);
    }
    text
}

/// An identity, as Azure tells them apart: without regard to letter case.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    /// Subscription and resource group.
    group: (String, String),
    name: String,
}

impl Identity {
    fn of(place: Place<'_>) -> Self {
        Self {
            group: (place.subscription.to_lowercase(), place.resource_group.to_lowercase()),
            name: place.identity.to_lowercase(),
        }
    }
}

/// The credentials of one identity. Azure allows one change of an identity at a time.
fn one(
    text: &mut String,
    (number, group): (usize, usize),
    identity: &str,
    credentials: &[&FederatedCredential],
) {
    writeln!(text, "\nvar credentials{number} = isGroup{group} ? [").ok();
    for credential in credentials {
        let fields = [
            ("name", format!("{identity}/{}", credential.name.as_deref().unwrap_or_default())),
            ("issuer", credential.issuer.clone()),
            ("subject", credential.subject.clone()),
            ("audience", credential.audiences.first().cloned().unwrap_or_default()),
        ];
        text.push_str("  {\n");
        for (key, value) in fields {
            writeln!(text, "    {key}: {}", quoted(&value)).ok();
        }
        text.push_str("  }\n");
    }
    writeln!(
        text,
        "] : []\n\n@batchSize(1)\nresource identity{number} '{TYPE}' = [for credential in \
         credentials{number}: {{\n  name: credential.name\n  properties: {{\n    issuer: \
         credential.issuer\n    subject: credential.subject\n    audiences: [\n      \
         credential.audience\n    ]\n  }}\n}}]"
    )
    .ok();
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'").replace("${", r"\${"))
}
