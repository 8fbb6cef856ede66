//! The client certificate of a service principal, out of PKCS#12 or PEM. Pure.

mod pem;
mod pkcs12;

use std::fmt;

use azure_core::time::OffsetDateTime;
use ring::signature::{KeyPair as _, RsaKeyPair};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// A certificate, its private key, and those that vouch for it.
pub struct ClientCertificate {
    key: RsaKeyPair,
    /// In DER: the certificate of the key first, each one issued by the next.
    chain: Vec<Vec<u8>>,
    valid: Validity,
}

/// In seconds since the Unix epoch, both included.
#[derive(Clone, Copy, Debug)]
struct Validity {
    from: i64,
    until: i64,
}

/// Why there is no certificate to sign with. Nothing of the content is ever part of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// It has neither form.
    #[error("it is neither PKCS#12 in DER (.pfx, .p12) nor PEM; put the file there as it is")]
    Unknown,
    /// It has the form, and cannot be read.
    #[error("it is damaged or incomplete ({0}); export it anew")]
    Damaged(&'static str),
    /// It is encrypted, and not by this password.
    #[error("the password is wrong; put the right one under the key `password`")]
    Password,
    /// It is encrypted by what nothing here can decrypt.
    #[error(
        "its encryption is not supported; export it with AES-256 and SHA-256, or with 3DES and SHA-1"
    )]
    Encryption,
    /// It is encrypted as OpenSSL did before PKCS#8, by a key from one round of MD5.
    #[error(
        "its private key is encrypted in OpenSSL's old way (`Proc-Type: 4,ENCRYPTED`), which is not \
         supported; convert it with `openssl pkcs8 -topk8 -in OLD.pem -out NEW.pem`, and put its \
         output there with the certificate"
    )]
    OldPem,
    /// It holds no private key.
    #[error("it holds no private key; export the certificate with its key")]
    NoKey,
    /// Which key to use cannot be told.
    #[error("it holds {0} private keys; keep the one of the certificate")]
    SeveralKeys(usize),
    /// The key is of another kind.
    #[error("its private key is no RSA key; Entra ID takes RSA keys of 2048 bits or more")]
    NotRsa,
    /// The key is an RSA key that must not be used.
    #[error("its RSA key cannot be used ({0}); Entra ID takes RSA keys of 2048 bits or more")]
    Key(String),
    /// No certificate belongs to the key.
    #[error("it holds no certificate of its private key; export both together")]
    NoCertificate,
}

/// What a file holds, before anything is chosen of it.
#[derive(Default)]
struct Found {
    keys: Vec<PrivateKey>,
    certificates: Vec<Vec<u8>>,
}

/// In DER.
enum PrivateKey {
    Pkcs8(Zeroizing<Vec<u8>>),
    Pkcs1(Zeroizing<Vec<u8>>),
    /// One that nobody needs to read.
    NotRsa,
}

impl ClientCertificate {
    /// Reads PKCS#12 in DER (RC2, 3DES or PBES2) or PEM (PKCS#8, also encrypted, or PKCS#1), which
    /// are told apart by what they look like. `password` is ignored where nothing is encrypted.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] for the first thing that is wrong.
    pub fn parse(content: &[u8], password: &str) -> Result<Self, CertificateError> {
        let text = std::str::from_utf8(content).ok().filter(|text| text.contains("-----BEGIN "));
        let found = match text {
            Some(text) => pem::read(text, password)?,
            None => pkcs12::read(content, password)?,
        };
        let key = match &found.keys[..] {
            [] => return Err(CertificateError::NoKey),
            [PrivateKey::NotRsa] => return Err(CertificateError::NotRsa),
            [PrivateKey::Pkcs8(der)] => RsaKeyPair::from_pkcs8(der),
            [PrivateKey::Pkcs1(der)] => RsaKeyPair::from_der(der),
            several => return Err(CertificateError::SeveralKeys(several.len())),
        };
        let key = key.map_err(|rejected| CertificateError::Key(rejected.to_string()))?;
        let (chain, valid) = chain(key.public_key().as_ref(), &found.certificates)?;
        Ok(Self { key, chain, valid })
    }

    pub(crate) fn key(&self) -> &RsaKeyPair {
        &self.key
    }

    /// In DER, the certificate of the key first. A root is not part of it: whoever trusts one has
    /// it.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(Vec::as_slice)
    }

    /// Why it is not valid at `now`, in seconds since the Unix epoch, if it is not.
    pub(crate) fn out_of_time(&self, now: u64) -> Option<String> {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let Validity { from, until } = self.valid;
        if now < from {
            return Some(format!(
                "its certificate is valid from {} on; wait, or look at the node's clock",
                date(from)
            ));
        }
        (now > until)
            .then(|| format!("its certificate expired on {}; put a new one there", date(until)))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("valid", &self.valid).finish_non_exhaustive()
    }
}

/// The certificate of the key, those above it without a root, and from when until when it is valid.
fn chain(
    public_key: &[u8],
    certificates: &[Vec<u8>],
) -> Result<(Vec<Vec<u8>>, Validity), CertificateError> {
    let mut parsed = Vec::new();
    for der in certificates {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|_| CertificateError::Damaged("a certificate cannot be read"))?;
        parsed.push((der, certificate));
    }
    let end = |certificate: &X509Certificate<'_>| certificate.validity().not_after.timestamp();
    // A certificate that was renewed with the same key may lie beside its successor.
    let leaf = (0..parsed.len())
        .filter(|at| {
            parsed.get(*at).is_some_and(|(_, certificate)| {
                *certificate.public_key().subject_public_key.data == *public_key
            })
        })
        .max_by_key(|at| parsed.get(*at).map(|(_, certificate)| end(certificate)));
    let Some(leaf) = leaf else { return Err(CertificateError::NoCertificate) };
    let (der, mut last) = parsed.swap_remove(leaf);
    let valid = Validity { from: last.validity().not_before.timestamp(), until: end(&last) };
    let mut chain = vec![der.clone()];
    // It ends: each turn takes one away.
    while let Some(at) = parsed.iter().position(|(_, above)| above.subject() == last.issuer()) {
        let (der, above) = parsed.swap_remove(at);
        if above.subject() == above.issuer() {
            break;
        }
        chain.push(der.clone());
        last = above;
    }
    Ok((chain, valid))
}

fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| "a day that no calendar has".to_owned(), |time| time.date().to_string())
}

#[cfg(test)]
mod tests;
