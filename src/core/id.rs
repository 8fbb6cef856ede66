//! What may stand in an id: nothing that could change the meaning of a URL that it enters.

/// Whether this is a GUID in its hyphenated form, in any letter case.
#[must_use]
pub fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether this is a tenant: a GUID or a domain name such as `contoso.onmicrosoft.com`.
#[must_use]
pub fn is_tenant(text: &str) -> bool {
    is_guid(text) || (text.contains('.') && is_domain_name(text))
}

/// Whether this is a name or address of dot-separated labels: letters, digits, inner hyphens.
#[must_use]
pub fn is_domain_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

/// Whether this can be the name of a Kubernetes object: a DNS subdomain in lower case.
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    is_domain_name(text) && !text.bytes().any(|b| b.is_ascii_uppercase())
}

/// What the Azure resource id of a user-assigned managed identity says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityResource<'a> {
    /// The subscription's id.
    pub subscription: &'a str,
    /// The resource group.
    pub resource_group: &'a str,
    /// The identity.
    pub name: &'a str,
}

/// Reads the Azure resource id of a user-assigned managed identity.
///
/// The segments of aad-pod-identity's check (v1.8.17, `pkg/utils/utils.go:22-28`), letter case
/// ignored as there; anchored, since an id with more around it is none.
#[must_use]
pub fn identity_resource(text: &str) -> Option<IdentityResource<'_>> {
    let segments: Vec<_> = text.split('/').collect();
    let ["", one, subscription, two, resource_group, three, provider, kind, name] = segments[..]
    else {
        return None;
    };
    let is = |(segment, name): (&str, &str)| segment.eq_ignore_ascii_case(name);
    let fixed = [
        (one, "subscriptions"),
        (two, "resourcegroups"),
        (three, "providers"),
        (provider, "microsoft.managedidentity"),
        (kind, "userassignedidentities"),
    ];
    let is_name =
        |name: &str| !name.is_empty() && !name.bytes().any(|b| b.is_ascii_control() || b == b'<');
    (fixed.into_iter().all(is) && [subscription, resource_group, name].into_iter().all(is_name))
        .then_some(IdentityResource { subscription, resource_group, name })
}

/// Whether this is the Azure resource id of a user-assigned managed identity.
#[must_use]
pub fn is_identity_resource_id(text: &str) -> bool {
    identity_resource(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_a_guid_in_any_letter_case() {
        assert!(is_guid("00000000-ABCD-abcd-0000-0123456789ab"));
        for text in ["", "00000000abcdabcd00000123456789ab", "<clientid>", "{0}", "../../x"] {
            assert!(!is_guid(text), "{text}");
        }
    }

    #[test]
    fn a_tenant_cannot_leave_its_place_in_the_url() {
        assert!(is_tenant("contoso.onmicrosoft.com"));
        assert!(is_tenant("11111111-2222-3333-4444-555555555555"));
        for text in ["", "common", "..", "a/b.c", "a.b?", "-a.b", "a..b", "a.b/../c"] {
            assert!(!is_tenant(text), "{text}");
        }
    }

    #[test]
    fn a_resource_id_names_a_managed_identity() {
        let id = "/subscriptions/s/resourcegroups/rg one/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-1";
        assert!(is_identity_resource_id(id));
        assert!(is_identity_resource_id(&id.to_uppercase()));
        assert_eq!(
            identity_resource(id),
            Some(IdentityResource { subscription: "s", resource_group: "rg one", name: "id-1" })
        );
        for text in [
            "",
            "demoidentity",
            "/subscriptions/s/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/",
            "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/x",
            "/subscriptions/<subid>/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x",
        ] {
            assert!(!is_identity_resource_id(text), "{text}");
        }
        assert!(!is_identity_resource_id(&format!("x{id}")));
    }
}
