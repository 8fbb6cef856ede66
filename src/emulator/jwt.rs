//! JSON Web Tokens signed with RS256, and the keys that sign and verify them.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The one algorithm, since Entra supports no other for federated credentials.
pub(super) const RS256: &str = "RS256";

/// A set of public keys (RFC 7517).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwks {
    /// The keys, those of other kinds than RSA too.
    pub keys: Vec<Jwk>,
}

/// A public key (RFC 7517, RFC 7518). Members that are not needed here are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// Kind of key, such as `RSA`.
    pub kty: String,
    /// What it is for, such as `sig`.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    /// The algorithm that it is for, such as `RS256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Its name, which a token's header repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Thumbprint of its certificate. Entra's keys have it, and it is the same as `kid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x5t: Option<String>,
    /// Modulus of an RSA key, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// Exponent of an RSA key, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
}

impl Jwks {
    /// Whether any key can verify RS256.
    pub(super) fn is_usable(&self) -> bool {
        self.keys.iter().any(Jwk::is_usable)
    }

    /// The key with this name that can verify RS256.
    pub(super) fn find(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid.as_deref() == Some(kid) && key.is_usable())
    }
}

impl Jwk {
    fn is_usable(&self) -> bool {
        self.kty == "RSA"
            && self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.alg.as_deref().is_none_or(|alg| alg == RS256)
            && self.n.is_some()
            && self.e.is_some()
    }

    /// An RSA key by its numbers, big-endian.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        // DER has a zero before a number whose first bit is set.
        let number = |bytes: &[u8]| {
            let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
            Some(URL_SAFE_NO_PAD.encode(bytes.get(start..).unwrap_or_default()))
        };
        Self {
            kty: "RSA".to_owned(),
            usage: None,
            alg: None,
            kid: None,
            x5t: None,
            n: number(modulus),
            e: number(exponent),
        }
    }

    /// Whether the token was signed with this key, by RS256.
    pub(super) fn verifies<C>(&self, token: &Unverified<'_, C>) -> bool {
        self.verifies_by(token, Algorithm::RS256)
    }

    /// Whether the token was signed with this key, by `algorithm`. Keys under 2048 bits verify nothing.
    pub(super) fn verifies_by<C>(&self, token: &Unverified<'_, C>, algorithm: Algorithm) -> bool {
        let (Some(n), Some(e)) = (&self.n, &self.e) else { return false };
        let Ok(key) = DecodingKey::from_rsa_components(n, e) else { return false };
        jsonwebtoken::crypto::verify(token.signature, token.message.as_bytes(), &key, algorithm)
            .unwrap_or(false)
    }
}

/// Why there is no key or no signature.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {cause}")]
pub struct KeyError {
    what: &'static str,
    cause: String,
}

/// How a key is named in `kid`.
#[derive(Clone, Copy)]
pub(super) enum KeyName {
    /// As Entra does it: 27 characters, SHA-1, also as `x5t`.
    Entra,
    /// As kube-apiserver does it: SHA-256 of the public key (`pkg/serviceaccount/jwt.go`).
    Kubernetes,
}

/// An RSA key of 2048 bits that signs.
pub(super) struct SigningKey {
    key: EncodingKey,
    public: Jwk,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl SigningKey {
    pub(super) fn generate(name: KeyName) -> Result<Self, KeyError> {
        let unspecified = |_| KeyError {
            what: "generate an RSA key",
            cause: "the cryptography library gives no reason".to_owned(),
        };
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(unspecified)?;
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(unspecified)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(unspecified)?;
        let hash = match name {
            KeyName::Entra => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            KeyName::Kubernetes => &digest::SHA256,
        };
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(hash, public.as_ref()));
        let number = |big_endian: &[u8]| Some(URL_SAFE_NO_PAD.encode(big_endian));
        let public = Jwk {
            kty: "RSA".to_owned(),
            usage: Some("sig".to_owned()),
            alg: Some(RS256.to_owned()),
            x5t: matches!(name, KeyName::Entra).then(|| kid.clone()),
            kid: Some(kid),
            n: number(pair.public_key().modulus().big_endian_without_leading_zero()),
            e: number(pair.public_key().exponent().big_endian_without_leading_zero()),
        };
        // The only form in which jsonwebtoken takes PKCS#8.
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(private.as_ref())
        );
        let key = EncodingKey::from_rsa_pem(pem.as_bytes())
            .map_err(|error| KeyError { what: "use an RSA key", cause: error.to_string() })?;
        Ok(Self { key, public })
    }

    pub(super) fn public(&self) -> &Jwk {
        &self.public
    }

    /// Signs `claims`; `typ` is the header's, which Kubernetes leaves out.
    pub(super) fn sign(
        &self,
        typ: Option<&str>,
        claims: &impl Serialize,
    ) -> Result<String, KeyError> {
        let header = Header {
            typ: typ.map(str::to_owned),
            kid: self.public.kid.clone(),
            x5t: self.public.x5t.clone(),
            ..Header::new(Algorithm::RS256)
        };
        jsonwebtoken::encode(&header, claims, &self.key)
            .map_err(|error| KeyError { what: "sign a token", cause: error.to_string() })
    }
}

/// A token taken apart. Nothing in it is proven until [`Jwk::verifies`] says so.
pub(super) struct Unverified<'a, C> {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    /// Thumbprints of the certificate that signed, by SHA-1 and by SHA-256.
    pub(super) x5t: Option<String>,
    pub(super) x5t_s256: Option<String>,
    pub(super) claims: C,
    /// What is signed: header and claims as they came.
    message: &'a str,
    signature: &'a str,
}

#[derive(Deserialize)]
struct UnverifiedHeader {
    alg: String,
    kid: Option<String>,
    x5t: Option<String>,
    #[serde(rename = "x5t#S256")]
    x5t_s256: Option<String>,
    typ: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

impl<'a, C: DeserializeOwned> Unverified<'a, C> {
    /// Takes a token in its compact form apart, or says what keeps it from being one.
    pub(super) fn parse(token: &'a str) -> Result<Self, &'static str> {
        let (message, signature) =
            token.rsplit_once('.').ok_or("it has not three parts with dots between")?;
        let (header, claims) =
            message.split_once('.').ok_or("it has not three parts with dots between")?;
        if claims.contains('.') {
            return Err("it has not three parts with dots between");
        }
        let header: UnverifiedHeader = part(header).ok_or("its header is not readable")?;
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err("its header type must be 'JWT'");
        }
        if header.crit.is_some() {
            return Err("its header demands extensions that are not known");
        }
        let claims =
            part(claims).ok_or("its claims are not readable, or one is missing or given twice")?;
        let UnverifiedHeader { alg, kid, x5t, x5t_s256, .. } = header;
        Ok(Self { alg, kid, x5t, x5t_s256, claims, message, signature })
    }
}

fn part<T: DeserializeOwned>(encoded: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// Whole seconds since the Unix epoch, as tokens count time.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_a_key_signs_its_public_half_verifies_and_no_other() {
        let key = SigningKey::generate(KeyName::Entra).unwrap();
        let other = SigningKey::generate(KeyName::Entra).unwrap();
        let token = key.sign(Some("JWT"), &json!({"a": 1})).unwrap();
        let parsed = Unverified::<Value>::parse(&token).unwrap();
        assert_eq!((parsed.alg.as_str(), &parsed.kid), (RS256, &key.public().kid));
        assert_eq!(parsed.claims, json!({"a": 1}));
        assert!(key.public().verifies(&parsed));
        assert!(!other.public().verifies(&parsed));
    }

    #[test]
    fn changed_claims_are_not_verified() {
        let key = SigningKey::generate(KeyName::Kubernetes).unwrap();
        let token = key.sign(None, &json!({"sub": "a"})).unwrap();
        let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(r#"{"sub":"b"}"#);
        let forged = parts.join(".");
        assert!(!key.public().verifies(&Unverified::<Value>::parse(&forged).unwrap()));
    }

    #[test]
    fn keys_are_named_as_their_models_name_them() {
        let entra = SigningKey::generate(KeyName::Entra).unwrap().public().clone();
        assert_eq!(entra.kid.as_ref().unwrap().len(), 27);
        assert_eq!(entra.kid, entra.x5t);
        let kubernetes = SigningKey::generate(KeyName::Kubernetes).unwrap().public().clone();
        assert_eq!(kubernetes.kid.unwrap().len(), 43);
        assert_eq!(kubernetes.x5t, None);
    }

    #[test]
    fn what_is_no_token_is_not_taken_apart() {
        let header = |json: &str| format!("{}.e30.x", URL_SAFE_NO_PAD.encode(json));
        for token in [
            String::new(),
            "not-a-token".to_owned(),
            "a.b".to_owned(),
            "a.b.c.d".to_owned(),
            "!.e30.x".to_owned(),
            header("{}"),
            header(r#"{"alg":"RS256","typ":"JWE"}"#),
            header(r#"{"alg":"RS256","crit":["b64"]}"#),
        ] {
            assert!(Unverified::<Value>::parse(&token).is_err(), "{token}");
        }
    }

    #[test]
    fn only_keys_for_rs256_are_found() {
        type Change = fn(&mut Jwk);

        let key = SigningKey::generate(KeyName::Kubernetes).unwrap().public().clone();
        let kid = key.kid.clone().unwrap();
        let cases: [(&str, Change); 5] = [
            ("another kind", |key| key.kty = "EC".to_owned()),
            ("for encryption", |key| key.usage = Some("enc".to_owned())),
            ("for another algorithm", |key| key.alg = Some("RS512".to_owned())),
            ("without a modulus", |key| key.n = None),
            ("without a name", |key| key.kid = None),
        ];
        for (name, change) in cases {
            let mut changed = key.clone();
            change(&mut changed);
            assert_eq!(Jwks { keys: vec![changed] }.find(&kid), None, "{name}");
        }
        assert!(Jwks { keys: vec![key] }.find(&kid).is_some());
    }
}
