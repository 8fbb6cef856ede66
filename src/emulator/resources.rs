//! What a tenant's tokens can be for.

mod azure;

use std::collections::BTreeSet;

use imdslet_core::id::is_guid;

/// The longest URI of an application that Azure takes, in characters.
const LONGEST_URI: usize = 255;

/// The resources that a tenant knows: Microsoft's own services, and those that it was told.
#[derive(Default)]
pub(super) struct Resources {
    named: BTreeSet<String>,
}

/// A resource that the tenant knows, as the client spells it; so stands it in `aud`.
#[derive(Clone, Copy)]
pub(super) struct Audience<'a>(&'a str);

impl Resources {
    /// Adds one; `false` if it was there.
    pub(super) fn add(&mut self, resource: &str) -> bool {
        self.named.insert(spelled(resource))
    }

    /// What the client asks for, if the tenant knows it.
    ///
    /// A slash at the end makes no difference to Microsoft's services, which are known with it and
    /// without. To others it does.
    pub(super) fn find<'a>(&self, asked: &'a str) -> Option<Audience<'a>> {
        let known = azure::has(asked) || self.named.contains(&spelled(asked));
        known.then_some(Audience(asked))
    }
}

impl Audience<'_> {
    pub(super) fn as_str(&self) -> &str {
        self.0
    }
}

/// GUIDs have no letter case.
fn spelled(resource: &str) -> String {
    if is_guid(resource) { resource.to_ascii_lowercase() } else { resource.to_owned() }
}

/// Whether an application could have this as its URI, such as `api://orders`.
pub(super) fn is_uri(text: &str) -> bool {
    let parts = text.split_once(':').filter(|(_, rest)| !rest.trim_start_matches('/').is_empty());
    text.len() <= LONGEST_URI
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && !text.ends_with("/.default")
        && parts.is_some_and(|(scheme, _)| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        })
}

/// Whether `text` can be the `resource` of a request: the URI of an application, or its id.
pub(crate) fn is_resource(text: &str) -> bool {
    is_guid(text) || is_uri(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "c0000000-0000-4000-8000-00000000000a";

    #[test]
    fn microsofts_services_are_known_in_every_cloud_by_uri_and_by_id() {
        let resources = Resources::default();
        for known in [
            "https://vault.azure.net",
            "https://vault.azure.net/",
            "https://vault.usgovcloudapi.net",
            "https://vault.azure.cn",
            "https://database.windows.net/",
            "https://database.usgovcloudapi.net/",
            "https://management.core.windows.net/",
            "https://management.chinacloudapi.cn",
            "https://graph.microsoft.com",
            "https://storage.azure.com/",
            "00000003-0000-0000-C000-000000000000",
            "cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
            // Instances of their own, where the service has these.
            "https://account.blob.core.windows.net",
            "https://account.documents.azure.com/",
            "https://cluster.westeurope.kusto.windows.net",
        ] {
            assert_eq!(resources.find(known).map(|found| found.0), Some(known));
        }
    }

    #[test]
    fn what_nobody_has_named_is_not_known() {
        let resources = Resources::default();
        for unknown in [
            "",
            "https://nowhere.example",
            "api://orders",
            APP,
            // Usual mistakes: one vault, one server, a secret, no scheme.
            "https://myvault.vault.azure.net",
            "https://server.database.windows.net",
            "https://vault.azure.net/secrets/one",
            "https://vault.azure.net//",
            "http://vault.azure.net",
            "vault.azure.net",
            // Of a domain that only looks like Microsoft's.
            "https://blob.core.windows.net.evil.example",
            "https://evilblob.core.windows.net",
            "https://.blob.core.windows.net",
            "https://user@x.blob.core.windows.net",
            "https://x.blob.core.windows.net/container",
            "00000003-0000-0000-c000-000000000000/",
        ] {
            assert!(resources.find(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn what_is_named_is_known_exactly_so_and_ids_in_any_letter_case() {
        let mut resources = Resources::default();
        assert!(resources.add("api://orders"));
        assert!(!resources.add("api://orders"));
        assert!(resources.add(APP));
        assert!(!resources.add(&APP.to_uppercase()));
        assert!(resources.find("api://orders").is_some());
        assert!(resources.find(&APP.to_uppercase()).is_some());
        assert!(resources.find("api://orders/").is_none());
        assert!(resources.find("api://Orders").is_none());
    }

    #[test]
    fn a_resource_is_a_uri_or_an_id() {
        for good in ["api://orders", "https://orders.example", "urn:orders:prod", APP] {
            assert!(is_resource(good), "{good}");
        }
        assert!(!is_uri(APP));
        let long = format!("api://{}", "x".repeat(250));
        for bad in
            ["", "orders", "api://", "://x", "1a:x", "api://a b", "api://orders/.default", &long]
        {
            assert!(!is_resource(bad), "{bad}");
        }
    }
}
