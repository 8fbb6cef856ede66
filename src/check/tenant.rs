//! Whether a tenant is known for identities that name none, as those of aad-pod-identity do.

use std::collections::BTreeMap;

use imdslet_core::contract::Source;
use imdslet_core::objects::{Credential, Object, ObjectName};
use serde_json::Value;

use super::facts::Seen;
use super::report::{Check, Verdict};

const WHAT: (&str, &str) = ("tenant", "the tenant of every identity is known");

/// By what imdslet is set to in `namespace`, and by the identities that there are.
pub(super) fn check(
    settings: &Seen<BTreeMap<String, String>>,
    identities: &Seen<Vec<Value>>,
    namespace: &str,
) -> Check {
    let settings = match settings {
        Ok(settings) => settings,
        Err(why) => return Check::unknown(WHAT, why),
    };
    let tenant = settings.get("AZURE_TENANT_ID").map(String::as_str).unwrap_or_default();
    if !tenant.is_empty() {
        return Check::passed(WHAT.0, format!("identities that name no tenant are of {tenant}"));
    }
    let identities = match identities {
        Ok(identities) => identities,
        Err(why) => return Check::unknown(WHAT, why),
    };
    let without: Vec<_> = identities.iter().filter_map(without_tenant).collect();
    let remedy = format!(
        "set AZURE_TENANT_ID in ConfigMap {namespace}/imdslet-config, then kubectl -n {namespace} \
         rollout restart deployment (Helm: the value tenantId)"
    );
    match without.as_slice() {
        [] if identities.is_empty() => Check::found(
            WHAT,
            Verdict::Warning,
            "no tenant is set: an AzureIdentity that names none will get no tokens",
            remedy,
        ),
        [] => Check::passed(WHAT.0, "every AzureIdentity names its tenant"),
        [first, rest @ ..] => {
            let more = if rest.is_empty() {
                String::new()
            } else {
                format!(", nor do {} more", rest.len())
            };
            let message = format!("no tenant is set, and AzureIdentity {first} names none{more}");
            Check::found(WHAT, Verdict::Failed, message, remedy)
        }
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
