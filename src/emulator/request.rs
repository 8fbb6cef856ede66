//! The form of a token request: the client credentials flow and no other.

use super::refusal::Refusal;

/// The one value of `client_assertion_type` (RFC 7523).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a client asks for. It has no `Debug`: the credential is in it.
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct TokenRequest {
    pub(super) client_id: String,
    /// What the token is for, as it stood before `/.default`.
    pub(super) audience: String,
    pub(super) credential: Credential,
}

#[cfg_attr(test, derive(PartialEq))]
pub(super) enum Credential {
    Assertion(String),
    Secret(String),
}

impl TokenRequest {
    /// Reads the body of a token request.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let form = Form::read(body)?;
        let grant = form.required("grant_type")?;
        if grant != "client_credentials" {
            return Err(Refusal::UnsupportedGrant(grant));
        }
        let client_id = form.required("client_id")?;
        let audience = audience(&form.required("scope")?)?;
        Ok(Self { client_id, audience, credential: form.credential()? })
    }
}

/// The client id of a token request, whatever else is wrong with it: for the counts.
pub(super) fn client_id(body: &[u8]) -> Option<String> {
    Form::read(body).ok()?.take("client_id")
}

struct Form(Vec<(String, String)>);

impl Form {
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(Refusal::MalformedRequest("a parameter is given twice"));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// The value of a parameter; an empty one counts as missing.
    fn take(&self, wanted: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(name, _)| name == wanted)?;
        Some(value.clone()).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<String, Refusal> {
        self.take(name).ok_or(Refusal::MissingParameter(name))
    }

    fn credential(&self) -> Result<Credential, Refusal> {
        match (self.take("client_assertion"), self.take("client_secret")) {
            (None, None) => Err(Refusal::NoCredential),
            (None, Some(secret)) => Ok(Credential::Secret(secret)),
            (Some(_), Some(_)) => {
                Err(Refusal::MalformedRequest("both client_assertion and client_secret are given"))
            }
            (Some(assertion), None) => {
                if self.required("client_assertion_type")? != JWT_BEARER {
                    return Err(Refusal::MalformedRequest(
                        "client_assertion_type must be \
                         'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'",
                    ));
                }
                Ok(Credential::Assertion(assertion))
            }
        }
    }
}

/// The `aud` for a scope: what stands before one `/.default`, with its own slash if it has one, as
/// in `https://database.windows.net//.default`.
fn audience(scope: &str) -> Result<String, Refusal> {
    match scope.strip_suffix("/.default") {
        Some(resource) if !resource.is_empty() && !resource.contains(char::is_whitespace) => {
            Ok(resource.to_owned())
        }
        _ => Err(Refusal::InvalidScope(scope.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("grant_type", "client_credentials"),
        ("client_id", "c"),
        ("scope", "https://vault.azure.net/.default"),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", "a.b.c"),
    ];

    /// The good request with some parameters replaced, or taken out where the value is empty.
    fn form(changes: &[(&str, &str)]) -> Vec<u8> {
        let mut fields = GOOD.to_vec();
        fields.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        fields.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into()
    }

    #[test]
    fn a_request_with_an_assertion_or_a_secret_is_read() {
        let request = TokenRequest::parse(&form(&[])).ok().unwrap();
        assert_eq!(request.client_id, "c");
        assert_eq!(request.audience, "https://vault.azure.net");
        assert!(request.credential == Credential::Assertion("a.b.c".to_owned()));

        let with_secret = form(&[
            ("client_assertion", ""),
            ("client_assertion_type", ""),
            ("client_secret", "s+&"),
        ]);
        let request = TokenRequest::parse(&with_secret).ok().unwrap();
        assert!(request.credential == Credential::Secret("s+&".to_owned()));
    }

    #[test]
    fn each_wrong_request_has_its_code() {
        for (name, changes, code) in [
            ("no grant type", &[("grant_type", "")][..], 900_144),
            ("another grant type", &[("grant_type", "password")], 70003),
            ("no client id", &[("client_id", "")], 900_144),
            ("no scope", &[("scope", "")], 900_144),
            ("a scope without /.default", &[("scope", "https://vault.azure.net")], 1_002_012),
            ("a scope of nothing", &[("scope", "/.default")], 1_002_012),
            ("two scopes", &[("scope", "a/.default b/.default")], 1_002_012),
            ("no credential", &[("client_assertion", "")], 7_000_216),
            ("no assertion type", &[("client_assertion_type", "")], 900_144),
            ("another assertion type", &[("client_assertion_type", "saml")], 9_002_313),
            ("two credentials", &[("client_secret", "s")], 9_002_313),
        ] {
            let refusal = TokenRequest::parse(&form(changes)).err().unwrap();
            assert_eq!(refusal.code(), code, "{name}");
        }
        assert_eq!(TokenRequest::parse(b"a=1&a=2").err().unwrap().code(), 9_002_313);
        assert_eq!(TokenRequest::parse(b"{\"json\": 1}").err().unwrap().code(), 900_144);
    }

    #[test]
    fn the_audience_is_what_stands_before_one_default() {
        for (scope, expected) in [
            ("https://vault.azure.net/.default", "https://vault.azure.net"),
            ("https://database.windows.net//.default", "https://database.windows.net/"),
            ("api://x/.default/.default", "api://x/.default"),
            (
                "00000003-0000-0000-c000-000000000000/.default",
                "00000003-0000-0000-c000-000000000000",
            ),
        ] {
            assert_eq!(audience(scope).unwrap(), expected);
        }
    }

    #[test]
    fn the_client_is_known_for_the_counts_though_the_request_is_wrong() {
        assert_eq!(client_id(&form(&[("scope", "")])).as_deref(), Some("c"));
        assert_eq!(client_id(b"x"), None);
    }
}
