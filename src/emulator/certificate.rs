//! Whether a client assertion was signed by a certificate of the application.

use std::time::SystemTime;

use aws_lc_rs::digest::{Algorithm as Hash, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::assertion::{in_time, when};
use super::config::Application;
use super::jwt::{Jwk, Unverified, seconds};
use super::refusal::Refusal;

/// A certificate that is registered with an application.
pub(super) struct Certificate {
    /// By SHA-1 and by SHA-256, base64url.
    x5t: String,
    x5t_s256: String,
    key: Jwk,
    /// From when until when it is valid, in seconds since the Unix epoch.
    valid: (u64, u64),
}

#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: Option<u64>,
    /// Entra's documentation demands it, and says nothing of what happens without.
    jti: String,
}

impl Certificate {
    /// Reads the one certificate of a PEM text.
    pub(super) fn parse(pem: &str) -> Result<Self, &'static str> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let Ok([der]) = all.as_deref() else { return Err("it must be one certificate in PEM") };
        let unreadable = "the certificate cannot be read";
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| unreadable)?;
        let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() else {
            return Err("its key is no RSA key, and Entra accepts no other");
        };
        let thumbprint = |by: &'static Hash| URL_SAFE_NO_PAD.encode(digest(by, der));
        let validity = certificate.validity();
        let time = |seconds: i64| u64::try_from(seconds).unwrap_or_default();
        Ok(Self {
            x5t: thumbprint(&SHA1_FOR_LEGACY_USE_ONLY),
            x5t_s256: thumbprint(&SHA256),
            key: Jwk::rsa(key.modulus, key.exponent),
            valid: (time(validity.not_before.timestamp()), time(validity.not_after.timestamp())),
        })
    }

    fn is(&self, token: &Unverified<'_, Claims>) -> bool {
        let same = |given: &Option<String>, own: &String| given.as_ref().is_none_or(|x| x == own);
        same(&token.x5t, &self.x5t) && same(&token.x5t_s256, &self.x5t_s256)
    }
}

/// Whether an assertion means to be signed by a certificate: it names one, or its issuer is the
/// application itself, which no identity provider is called.
pub(super) fn is_meant(assertion: &str, application: &Application) -> bool {
    Unverified::<Issuer>::parse(assertion).is_ok_and(|token| {
        token.x5t.is_some()
            || token.x5t_s256.is_some()
            || token.claims.iss.is_some_and(|iss| application.is(&iss))
    })
}

#[derive(Deserialize)]
struct Issuer {
    iss: Option<String>,
}

/// Checks an assertion for `endpoint`, the URL that it was posted to: form, algorithm, certificate,
/// signature, application, audience, time.
pub(super) fn check(
    assertion: &str,
    application: &Application,
    endpoint: &str,
    now: SystemTime,
) -> Result<(), Refusal> {
    let token = Unverified::<Claims>::parse(assertion).map_err(Refusal::MalformedAssertion)?;
    let algorithm = match token.alg.as_str() {
        "RS256" => Algorithm::RS256,
        "PS256" => Algorithm::PS256,
        _ => return Err(Refusal::UnsupportedOwnAlgorithm(token.alg)),
    };
    if token.x5t.is_none() && token.x5t_s256.is_none() {
        return Err(Refusal::NoThumbprint);
    }
    let named = || token.x5t_s256.clone().or_else(|| token.x5t.clone()).unwrap_or_default();
    let registered = application.certificates.iter().find(|certificate| certificate.is(&token));
    let Some(certificate) = registered else {
        return Err(Refusal::UnknownCertificate(named()));
    };
    if !certificate.key.verifies_by(&token, algorithm) {
        return Err(Refusal::Signature);
    }
    let (from, until) = certificate.valid;
    if !(from..=until).contains(&seconds(now)) {
        let (thumbprint, from, until) = (named(), when(from), when(until));
        return Err(Refusal::ExpiredCertificate { thumbprint, from, until });
    }
    let claims = &token.claims;
    if !application.is(&claims.iss) || !application.is(&claims.sub) {
        return Err(Refusal::OtherApplication);
    }
    if claims.aud != endpoint {
        return Err(Refusal::OtherEndpoint(claims.aud.clone()));
    }
    if claims.jti.is_empty() {
        return Err(Refusal::MalformedAssertion("its claim 'jti' is empty"));
    }
    in_time(Some(claims.nbf).max(claims.iat), claims.exp, now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::super::testing::{CLIENT, OTHER_CLIENT, TENANT, config, parsed};
    use super::*;

    const ENDPOINT: &str = "https://login.example/t/oauth2/v2.0/token";
    const KEY: &str = include_str!("../../tests/fixtures/certificates/pkcs1.pem");
    const LEAF: &str = include_str!("../../tests/fixtures/certificates/leaf.crt");
    const EXPIRED: &str = include_str!("../../tests/fixtures/certificates/expired.crt");
    const NOW: u64 = 1_800_000_000;

    fn sign(header: &Header, claims: &Value) -> String {
        let (_, key) = KEY.split_once("-----END CERTIFICATE-----").unwrap();
        let key = EncodingKey::from_rsa_pem(key.trim().as_bytes()).unwrap();
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }

    fn header(certificate: &str, algorithm: Algorithm) -> Header {
        let x5t_s256 = Certificate::parse(certificate).ok().map(|read| read.x5t_s256);
        Header { x5t_s256, ..Header::new(algorithm) }
    }

    fn claims() -> Value {
        json!({"iss": CLIENT, "sub": CLIENT, "aud": ENDPOINT, "jti": "1", "nbf": NOW, "exp": NOW + 600})
    }

    fn code(certificates: &[&str], assertion: &str) -> Option<u32> {
        let mut config = config();
        config["tenants"][0]["applications"][0]["certificates"] = json!(certificates);
        let config = parsed(&config);
        let application = config.tenant(TENANT).unwrap().application(CLIENT).unwrap();
        assert!(is_meant(assertion, application), "{assertion}");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        check(assertion, application, ENDPOINT, now).err().map(|refusal| refusal.code())
    }

    #[test]
    fn either_algorithm_and_either_thumbprint_prove_the_application() {
        for algorithm in [Algorithm::RS256, Algorithm::PS256] {
            let mut header = header(LEAF, algorithm);
            assert_eq!(code(&[EXPIRED, LEAF], &sign(&header, &claims())), None);
            header.x5t = Certificate::parse(LEAF).ok().map(|read| read.x5t);
            assert_eq!(code(&[LEAF], &sign(&header, &claims())), None);
            header.x5t_s256 = None;
            assert_eq!(code(&[LEAF], &sign(&header, &claims())), None);
            // Two that do not belong together.
            header.x5t_s256 = Certificate::parse(EXPIRED).ok().map(|read| read.x5t_s256);
            assert_eq!(code(&[LEAF, EXPIRED], &sign(&header, &claims())), Some(700_027));
        }
    }

    #[test]
    fn each_claim_decides() {
        let cases = [
            ("iss", json!(OTHER_CLIENT), 700_021),
            ("sub", json!(OTHER_CLIENT), 700_021),
            ("aud", json!("https://login.example/other/oauth2/v2.0/token"), 700_023),
            ("aud", json!("https://login.example/t/oauth2/token"), 700_023),
            ("aud", json!([ENDPOINT]), 50027),
            ("exp", json!(NOW), 700_024),
            ("nbf", json!(NOW + 301), 700_024),
            ("iat", json!(NOW + 301), 700_024),
            ("jti", json!(""), 50027),
            ("jti", Value::Null, 50027),
            ("nbf", Value::Null, 50027),
            ("exp", Value::Null, 50027),
        ];
        for (claim, value, expected) in cases {
            let mut claims = claims();
            claims[claim] = value;
            let assertion = sign(&header(LEAF, Algorithm::PS256), &claims);
            assert_eq!(code(&[LEAF], &assertion), Some(expected), "{claim}");
        }
    }

    #[test]
    fn the_certificate_decides() {
        let good = sign(&header(LEAF, Algorithm::PS256), &claims());
        let other = include_str!("../../tests/fixtures/certificates/other.crt");
        assert_eq!(code(&[], &good), Some(700_027), "none is registered");
        assert_eq!(code(&[other], &good), Some(700_027), "another is registered");
        let forged = sign(&header(other, Algorithm::PS256), &claims());
        assert_eq!(code(&[other], &forged), Some(700_027), "signed by another's key");
        let expired = sign(&header(EXPIRED, Algorithm::PS256), &claims());
        assert_eq!(code(&[EXPIRED], &expired), Some(700_027), "expired");
        let nameless = sign(&Header::new(Algorithm::PS256), &claims());
        assert_eq!(code(&[LEAF], &nameless), Some(5_002_723), "without a thumbprint");
        let unknown = sign(&header(LEAF, Algorithm::RS512), &claims());
        assert_eq!(code(&[LEAF], &unknown), Some(5_002_738), "another algorithm");
        let (message, _) = good.rsplit_once('.').unwrap();
        assert_eq!(code(&[LEAF], &format!("{message}.")), Some(700_027), "no signature");
    }

    #[test]
    fn only_certificates_with_an_rsa_key_can_be_registered() {
        let parse = |pem: &str| Certificate::parse(pem).err();
        assert!(parse(LEAF).is_none());
        for wrong in [
            "",
            "x",
            &LEAF.repeat(2),
            "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n",
        ] {
            assert!(parse(wrong).is_some(), "{wrong}");
        }
        let curve = include_str!("../../tests/fixtures/certificates/ec.pem");
        assert_eq!(parse(curve), Some("its key is no RSA key, and Entra accepts no other"));
    }
}
