//! Keys and certificates out of PEM.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::{EncryptedPrivateKeyInfoRef, ObjectIdentifier, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use super::{CertificateError, Found, PrivateKey};

/// Rounds of PBKDF2 at most, as PKCS#12 has them here: a million take seconds.
const MOST_ROUNDS: u32 = 1_000_000;

/// RFC 8017, A.1.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A part of the text between BEGIN and END.
struct Block<'a> {
    label: &'a str,
    /// Base64 in one line.
    body: Zeroizing<String>,
    /// By what OpenSSL did before PKCS#8, told by a line `Proc-Type: 4,ENCRYPTED` (RFC 1421).
    is_encrypted: bool,
}

pub(super) fn read(text: &str, password: &str) -> Result<Found, CertificateError> {
    let mut found = Found::default();
    let mut lines = text.lines().map(str::trim);
    while let Some(block) = next(&mut lines)? {
        match block.label {
            "CERTIFICATE" => found.certificates.push(block.der()?.to_vec()),
            "RSA PRIVATE KEY" if block.is_encrypted => return Err(CertificateError::OldPem),
            "RSA PRIVATE KEY" => found.keys.push(PrivateKey::Pkcs1(block.der()?)),
            "PRIVATE KEY" => found.keys.push(pkcs8(block.der()?)?),
            "ENCRYPTED PRIVATE KEY" => {
                found.keys.push(pkcs8(decrypt(&block.der()?, password)?)?);
            }
            label if label.ends_with("PRIVATE KEY") => found.keys.push(PrivateKey::NotRsa),
            // Parameters of curves, requests, lists of revoked certificates.
            _ => {}
        }
    }
    Ok(found)
}

/// A key in PKCS#8 that is not encrypted.
pub(super) fn pkcs8(der: Zeroizing<Vec<u8>>) -> Result<PrivateKey, CertificateError> {
    let info = PrivateKeyInfoRef::try_from(der.as_slice())
        .map_err(|_| CertificateError::Damaged("the private key cannot be read"))?;
    if info.algorithm.oid == RSA { Ok(PrivateKey::Pkcs8(der)) } else { Ok(PrivateKey::NotRsa) }
}

fn decrypt(der: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let damaged = CertificateError::Damaged("the encrypted private key cannot be read");
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| damaged)?;
    // Its other derivation, scrypt, may want any amount of memory.
    match &info.encryption_algorithm {
        EncryptionScheme::Pbes2(parameters) => match &parameters.kdf {
            Kdf::Pbkdf2(kdf) if kdf.iteration_count <= MOST_ROUNDS => {}
            _ => return Err(CertificateError::Encryption),
        },
        _ => return Err(CertificateError::Encryption),
    }
    let key = info.decrypt(password).map_err(|_| CertificateError::Password)?;
    Ok(Zeroizing::new(key.as_bytes().to_vec()))
}

/// The next block; what stands between blocks is for people.
fn next<'a>(
    lines: &mut impl Iterator<Item = &'a str>,
) -> Result<Option<Block<'a>>, CertificateError> {
    let begin = |line: &'a str| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----");
    let Some(label) = lines.find_map(begin) else { return Ok(None) };
    let (mut parts, mut is_encrypted) = (Vec::new(), false);
    for line in lines {
        match line.strip_prefix("-----END ").and_then(|line| line.strip_suffix("-----")) {
            Some(end) if end == label => {
                // Made in one piece: a text that grows leaves copies behind that nobody clears.
                let body = Zeroizing::new(parts.concat());
                return Ok(Some(Block { label, body, is_encrypted }));
            }
            _ if line.contains(':') => is_encrypted |= line.contains("ENCRYPTED"),
            _ => parts.push(line),
        }
    }
    Err(CertificateError::Damaged("a PEM block has no end"))
}

impl Block<'_> {
    fn der(&self) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
        let damaged = CertificateError::Damaged("a PEM block is not base64");
        STANDARD.decode(self.body.as_bytes()).map(Zeroizing::new).map_err(|_| damaged)
    }
}
