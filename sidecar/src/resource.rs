//! What a token is for: the `resource` of the request, and the scope that Entra ID takes for it.

/// Longer than any resource that Entra ID knows; a bound for what the cache keeps.
const LONGEST: usize = 2048;

/// The suffix that asks Entra ID's v2.0 endpoint for all that the application was granted.
const DEFAULT_SCOPE: &str = "/.default";

/// A `resource` as the client wrote it, safe to stand in a scope and in a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Resource(String);

/// What is wrong with a `resource`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadResource {
    #[error("the query parameter `resource` is longer than {LONGEST} bytes; shorten it")]
    TooLong,
    #[error(
        "the query parameter `resource` contains white space or control characters; send the URI \
         or application id of one Azure service, such as https://vault.azure.net"
    )]
    Character,
}

impl Resource {
    pub(crate) fn parse(text: String) -> Result<Self, BadResource> {
        if text.len() > LONGEST {
            return Err(BadResource::TooLong);
        }
        // A space would also part two scopes, and so ask for something that was not checked.
        let parts = |c: char| c.is_control() || c.is_whitespace();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) && text.chars().any(parts) {
            return Err(BadResource::Character);
        }
        Ok(Self(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Its beginning, for a line of a log: it is the client's text, and may be long.
    pub(crate) fn start(&self) -> &str {
        let end = self.0.char_indices().nth(200).map_or(self.0.len(), |(end, _)| end);
        self.0.get(..end).unwrap_or_default()
    }

    /// As the metadata service of a node takes it, which knows no scopes.
    pub(crate) fn as_v1(&self) -> &str {
        self.0.strip_suffix(DEFAULT_SCOPE).unwrap_or(&self.0)
    }

    /// The scope of Entra ID's v2.0 endpoint.
    ///
    /// A trailing slash stays: `https://database.windows.net/` gives
    /// `https://database.windows.net//.default`, which Entra ID answers with the audience
    /// including the slash, as the v1 `resource` did. Source: Entra's documentation, "Scopes and
    /// permissions", section "Trailing slash and .default".
    pub(crate) fn scope(&self) -> String {
        if self.0.ends_with(DEFAULT_SCOPE) {
            self.0.clone()
        } else {
            format!("{}{DEFAULT_SCOPE}", self.0)
        }
    }

    /// Whether this is `other`, a trailing slash on either aside.
    pub(crate) fn is(&self, other: &str) -> bool {
        let bare = |text| str::strip_suffix(text, '/').unwrap_or(text).to_owned();
        bare(&self.0) == bare(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(text: &str) -> Resource {
        Resource::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn the_scope_is_the_resource_verbatim() {
        for (text, scope) in [
            ("https://vault.azure.net", "https://vault.azure.net/.default"),
            ("https://database.windows.net/", "https://database.windows.net//.default"),
            ("https://vault.azure.net/.default", "https://vault.azure.net/.default"),
            ("api://app", "api://app/.default"),
            (
                "11111111-2222-3333-4444-555555555555",
                "11111111-2222-3333-4444-555555555555/.default",
            ),
        ] {
            assert_eq!(resource(text).scope(), scope);
            assert_eq!(format!("{}/.default", resource(text).as_v1()), scope);
        }
    }

    #[test]
    fn what_would_ask_for_two_scopes_is_refused() {
        for text in ["a b", "a\tb", "a\nb", "a\u{0}", "a\u{2028}b"] {
            assert_eq!(Resource::parse(text.to_owned()), Err(BadResource::Character), "{text:?}");
        }
        assert_eq!(Resource::parse("x".repeat(2049)), Err(BadResource::TooLong));
        assert!(Resource::parse("x".repeat(2048)).is_ok());
    }

    #[test]
    fn one_trailing_slash_makes_no_difference_to_what_is_allowed() {
        let vault = resource("https://vault.azure.net/");
        assert!(vault.is("https://vault.azure.net"));
        assert!(vault.is("https://vault.azure.net/"));
        assert!(!vault.is("https://vault.azure.net//"));
        assert!(!vault.is("https://VAULT.azure.net"));
        assert!(!vault.is("https://vault.azure.net.evil.example"));
    }
}
