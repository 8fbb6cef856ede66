//! A Bicep file.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::super::Plan;

const TAIL: &str = "
// One after another: Azure allows one change of an identity at a time.
@batchSize(1)
resource federatedCredentials 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = [for credential in credentials: if (toLower(credential.subscription) == toLower(subscription().subscriptionId) && toLower(credential.resourceGroup) == toLower(resourceGroup().name)) {
  name: '${credential.identity}/${credential.name}'
  properties: {
    issuer: credential.issuer
    subject: credential.subject
    audiences: [
      credential.audience
    ]
  }
}]
";

pub(super) fn write(plan: &Plan) -> String {
    let groups: BTreeSet<_> =
        plan.placed().map(|(place, _)| (place.subscription, place.resource_group)).collect();
    let mut text =
        "// Made by `imdslet migrate`. Deploy it to each of these resource groups, where it\n\
                    // creates the credentials of the identities that are there:\n"
            .to_owned();
    for (subscription, group) in groups {
        writeln!(text, "//   subscription {subscription}, resource group {group}").ok();
    }
    for line in plan.unplaced() {
        writeln!(text, "// {line}").ok();
    }
    text.push_str("\nvar credentials = [\n");
    for (place, credential) in plan.placed() {
        let fields = [
            ("subscription", place.subscription),
            ("resourceGroup", place.resource_group),
            ("identity", place.identity),
            ("name", credential.name.as_deref().unwrap_or_default()),
            ("issuer", &credential.issuer),
            ("subject", &credential.subject),
            ("audience", credential.audiences.first().map_or("", String::as_str)),
        ];
        text.push_str("  {\n");
        for (key, value) in fields {
            writeln!(text, "    {key}: {}", quoted(value)).ok();
        }
        text.push_str("  }\n");
    }
    text.push_str("]\n");
    text.push_str(TAIL);
    text
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'").replace("${", r"\${"))
}
