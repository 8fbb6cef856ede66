//! Client assertions: what a certificate signs to prove to Entra ID who asks. Pure but for the
//! random number in a signature.

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::{Engine, encoded_len};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::certificate::ClientCertificate;
use crate::secret::Secret;

/// How long an assertion may be used: sent at once, it needs no more than what clocks differ by.
const LIFETIME: u64 = 600;

/// How an assertion is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// What Entra ID asks for, and newer Microsoft libraries send.
    #[default]
    Ps256,
    /// What they sent before, and NMI did.
    Rs256,
}

/// What an assertion says.
pub(crate) struct Statement<'a> {
    /// The token endpoint that it is for.
    pub(crate) audience: &'a str,
    pub(crate) client_id: &'a str,
    /// Unlike that of any other assertion.
    pub(crate) id: String,
    /// In seconds since the Unix epoch.
    pub(crate) now: u64,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    #[serde(rename = "x5t#S256")]
    x5t_s256: String,
    /// By SHA-1: all that readers of the time of RS256 look for.
    #[serde(skip_serializing_if = "Option::is_none")]
    x5t: Option<String>,
    x5c: Vec<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
}

impl Algorithm {
    /// By its name in a token's header.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Ps256, Self::Rs256].into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ps256 => "PS256",
            Self::Rs256 => "RS256",
        }
    }

    fn encoding(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Ps256 => &RSA_PSS_SHA256,
            Self::Rs256 => &RSA_PKCS1_SHA256,
        }
    }
}

/// Signs `statement`. `None` where the system has no random numbers.
pub(crate) fn sign(
    certificate: &ClientCertificate,
    algorithm: Algorithm,
    statement: &Statement<'_>,
) -> Option<Secret> {
    let leaf = certificate.chain().next()?;
    let thumbprint = |by| URL_SAFE_NO_PAD.encode(digest(by, leaf));
    let header = Header {
        alg: algorithm.name(),
        typ: "JWT",
        x5t_s256: thumbprint(&SHA256),
        x5t: (algorithm == Algorithm::Rs256).then(|| thumbprint(&SHA1_FOR_LEGACY_USE_ONLY)),
        x5c: certificate.chain().map(|der| STANDARD.encode(der)).collect(),
    };
    let Statement { audience, client_id, ref id, now } = *statement;
    let claims = Claims {
        aud: audience,
        iss: client_id,
        sub: client_id,
        jti: id,
        iat: now,
        nbf: now,
        exp: now.saturating_add(LIFETIME),
    };
    let mut signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).ok()?),
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).ok()?)
    );
    let mut signature = Zeroizing::new(vec![0; certificate.key().public().modulus_len()]);
    certificate
        .key()
        .sign(algorithm.encoding(), &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .ok()?;
    // Room for all of it first: a text that grows leaves copies behind that nobody clears.
    signed.reserve_exact(1 + encoded_len(signature.len(), false)?);
    signed.push('.');
    URL_SAFE_NO_PAD.encode_string(&signature, &mut signed);
    Some(Secret::new(signed))
}
