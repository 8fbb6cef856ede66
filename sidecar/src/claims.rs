//! What a token says about itself.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Some claims of a token, read without checking its signature: they are shown and compared, and
/// decide nothing about trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Claims {
    pub(crate) iss: Option<String>,
    pub(crate) sub: Option<String>,
    /// The first one, where there are several.
    #[serde(deserialize_with = "first")]
    pub(crate) aud: Option<String>,
    pub(crate) oid: Option<String>,
    pub(crate) tid: Option<String>,
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

/// `aud` is one text or a list of them (RFC 7519, section 4.1.3).
fn first<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let first = value.as_array().map_or(Some(&value), |list| list.first());
    Ok(first.and_then(Value::as_str).map(str::to_owned))
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
        for (aud, first) in [
            (r#"["a","b"]"#, Some("a")),
            (r#""a""#, Some("a")),
            ("[]", None),
            ("1", None),
            ("null", None),
        ] {
            let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"aud":{aud},"nbf":7}}"#));
            let claims = Claims::of(&format!("e30.{payload}.c2ln"));
            assert_eq!((claims.aud.as_deref(), claims.nbf), (first, Some(7)), "{aud}");
        }
        for text in ["", "opaque", "a.b.c", "..", "e30.e30.e30"] {
            assert_eq!(Claims::of(text), Claims::default(), "{text}");
        }
    }
}
