//! Whether a tenant is known for identities that name none, as those of aad-pod-identity do.

use std::collections::BTreeMap;

use imdslet_core::contract::Source;
use imdslet_core::id::is_tenant;
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
    let remedy = format!(
        "set AZURE_TENANT_ID in ConfigMap {namespace}/imdslet-config, then kubectl -n {namespace} \
         rollout restart deployment (Helm: the value tenantId)"
    );
    if !tenant.is_empty() && !is_tenant(tenant) {
        let message = format!(
            "AZURE_TENANT_ID is `{tenant}`; it must be a tenant id (GUID) or a tenant's domain name, and no \
             replica starts with it"
        );
        return Check::found(WHAT, Verdict::Failed, message, remedy);
    }
    if !tenant.is_empty() {
        return Check::passed(WHAT.0, format!("identities that name no tenant are of {tenant}"));
    }
    let identities = match identities {
        Ok(identities) => identities,
        Err(why) => return Check::unknown(WHAT, why),
    };
    let without: Vec<_> = identities.iter().filter_map(without_tenant).collect();
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
                format!(", nor {} {} more", if rest.len() == 1 { "does" } else { "do" }, rest.len())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(name: &str, spec: &Value, annotations: &Value) -> Value {
        let mut spec = spec.clone();
        spec["clientID"] = json!("c0000000-0000-4000-8000-000000000001");
        json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity", "spec": spec,
            "metadata": {"namespace": "web", "name": name, "annotations": annotations}})
    }

    fn settings(tenant: &str) -> BTreeMap<String, String> {
        [("AZURE_TENANT_ID".to_owned(), tenant.to_owned())].into()
    }

    #[test]
    fn identities_that_name_no_tenant_need_that_of_the_installation() {
        let unnamed = |name| identity(name, &json!({}), &json!({}));
        let named = identity("a", &json!({"TenantID": "contoso.example"}), &json!({}));
        let by_annotation =
            identity("b", &json!({}), &json!({"imdslet.dev/tenant-id": "contoso.example"}));
        let managed = identity("c", &json!({}), &json!({"imdslet.dev/source": "managed"}));
        let (passed, warning, failed) = (Verdict::Passed, Verdict::Warning, Verdict::Failed);
        let each_names_its_own = vec![named.clone(), by_annotation, managed];
        for (tenant, identities, verdict, words) in [
            ("contoso.example", vec![unnamed("d")], passed, "are of contoso.example"),
            ("contoso", vec![], failed, "AZURE_TENANT_ID is `contoso`; it must be a tenant id"),
            ("", each_names_its_own, passed, "every AzureIdentity names its tenant"),
            ("", vec![], warning, "an AzureIdentity that names none will get no tokens"),
            ("", vec![named, unnamed("d")], failed, "AzureIdentity web/d names none"),
            ("", vec![unnamed("d"), unnamed("e")], failed, "web/d names none, nor does 1 more"),
        ] {
            let check = check(&Ok(settings(tenant)), &Ok(identities), "system");
            let said = check.message.as_ref().unwrap_or(&check.title);
            assert!(said.contains(words), "{said}");
            assert_eq!(check.verdict, verdict, "{said}");
            let remedy = check.remedy.unwrap_or_default();
            assert_eq!(remedy.contains("ConfigMap system/imdslet-config"), verdict != passed);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_judged() {
        let unseen = || Err("forbidden".to_owned());
        assert_eq!(check(&unseen(), &Ok(Vec::new()), "n").verdict, Verdict::Unknown);
        assert_eq!(
            check(&Ok(settings("")), &Err("forbidden".to_owned()), "n").verdict,
            Verdict::Unknown
        );
        // Whatever they are, they have one.
        let known = Ok(settings("contoso.example"));
        assert_eq!(check(&known, &Err("forbidden".to_owned()), "n").verdict, Verdict::Passed);
    }
}
