//! Terraform resources, each waiting for the one before it on the same identity.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::Plan;

pub(super) fn write(plan: &Plan) -> String {
    let mut text =
        "# Made by `imdslet migrate`, for the provider azurerm 3 or 4. Those of one identity are\n\
                    # chained, since Azure allows one change of an identity at a time.\n"
            .to_owned();
    for line in plan.unplaced() {
        writeln!(text, "# {line}").ok();
    }
    let mut before: BTreeMap<String, String> = BTreeMap::new();
    for (place, credential) in plan.placed() {
        let name = credential.name.as_deref().unwrap_or_default();
        // A name is one of its kind for its identity, and a label for the file.
        let label =
            format!("{name}-{}", credential.client_id.to_ascii_lowercase()).replace('-', "_");
        let parent = place.resource_id();
        writeln!(text, "\nresource \"azurerm_federated_identity_credential\" \"{label}\" {{").ok();
        for (key, value) in [
            ("name               ", name),
            ("resource_group_name", place.resource_group),
            ("parent_id          ", &parent),
            ("issuer             ", &credential.issuer),
            ("subject            ", &credential.subject),
        ] {
            writeln!(text, "  {key} = {}", quoted(value)).ok();
        }
        let audience = credential.audiences.first().map_or("", String::as_str);
        writeln!(text, "  audience            = [{}]", quoted(audience)).ok();
        let identity = parent.to_ascii_lowercase();
        if let Some(before) = before.insert(identity, label) {
            writeln!(
                text,
                "  depends_on          = [azurerm_federated_identity_credential.{before}]"
            )
            .ok();
        }
        text.push_str("}\n");
    }
    text
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace("${", "$${").replace("%{", "%%{"))
}
