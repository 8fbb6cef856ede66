//! What a token says about itself.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Some claims of a token, read without checking its signature: they are shown and compared, and
/// decide nothing about trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Claims {
    pub(crate) iss: Option<String>,
    pub(crate) sub: Option<String>,
    pub(crate) oid: Option<String>,
    pub(crate) nbf: Option<u64>,
}

impl Claims {
    /// The claims of `token`; none where it is no JWT.
    pub(crate) fn of(token: &str) -> Self {
        let payload = token.split('.').nth(1).unwrap_or_default();
        let json = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_tells_its_claims_and_anything_else_tells_none() {
        let payload =
            URL_SAFE_NO_PAD.encode(r#"{"iss":"https://i","sub":"s","aud":["a"],"nbf":7}"#);
        let claims = Claims::of(&format!("e30.{payload}.c2ln"));
        assert_eq!(claims.iss.as_deref(), Some("https://i"));
        assert_eq!(claims.sub.as_deref(), Some("s"));
        assert_eq!((claims.oid, claims.nbf), (None, Some(7)));
        for text in ["", "opaque", "a.b.c", "..", "e30.e30.e30"] {
            assert_eq!(Claims::of(text), Claims::default(), "{text}");
        }
    }
}
