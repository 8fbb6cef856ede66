//! Certificates read back from PEM text that anybody may have written.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use time::OffsetDateTime;

/// Why a certificate or its key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// No certificate is in the text.
    #[error("has no certificate in it")]
    NoCertificate,
    /// A certificate is in the text and is broken.
    #[error("has a certificate that cannot be read: {0}")]
    Unreadable(String),
    /// No private key is in the text.
    #[error("has no private key in it")]
    NoKey,
    /// A private key is in the text and is broken, or of a kind that is not served.
    #[error("has a private key that cannot be used: {0}")]
    UnreadableKey(String),
    /// The key is another certificate's.
    #[error("does not belong to the certificate")]
    KeyMismatch,
    /// The certificate may not issue others.
    #[error("is not the certificate of a CA")]
    NotACa,
    /// Its time is over.
    #[error("has expired on {0}")]
    Expired(String),
    /// Its time has not begun: somebody's clock is wrong.
    #[error("is valid only from {0} on; compare the clocks")]
    NotYetValid(String),
    /// No trusted CA has issued it.
    #[error("is not a serving certificate of the CA in ca.crt: {0}")]
    NotTrusted(String),
    /// It is for other names.
    #[error("is not for the name `{0}`")]
    NotFor(String),
}

impl Unusable {
    /// Whether it is the key that cannot be used, not the certificate.
    pub(crate) fn is_of_the_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::UnreadableKey(_) | Self::KeyMismatch)
    }
}

/// What has to be known of a certificate.
pub(crate) struct Details {
    /// The public key, as SubjectPublicKeyInfo in DER.
    pub(crate) public_key: Vec<u8>,
    pub(crate) is_ca: bool,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Details {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Unusable> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| Unusable::Unreadable(error.to_string()))?;
        Ok(Self {
            public_key: parsed.public_key().raw.to_vec(),
            is_ca: parsed.is_ca(),
            not_before: at(parsed.validity().not_before.timestamp()),
            not_after: at(parsed.validity().not_after.timestamp()),
        })
    }

    /// # Errors
    ///
    /// [`Unusable::Expired`] or [`Unusable::NotYetValid`].
    pub(crate) fn valid_at(&self, now: SystemTime) -> Result<(), Unusable> {
        if now < self.not_before {
            return Err(Unusable::NotYetValid(day(self.not_before)));
        }
        if self.not_after < now {
            return Err(Unusable::Expired(day(self.not_after)));
        }
        Ok(())
    }
}

/// All certificates in `text`, of which there is one at least.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if all.is_empty() => Err(Unusable::NoCertificate),
        Ok(all) => Ok(all),
        Err(pem::Error::NoItemsFound) => Err(Unusable::NoCertificate),
        Err(error) => Err(Unusable::Unreadable(error.to_string())),
    }
}

pub(crate) fn first_certificate(text: &str) -> Result<CertificateDer<'static>, Unusable> {
    certificates(text)?.into_iter().next().ok_or(Unusable::NoCertificate)
}

/// The PEM text of one certificate.
pub(crate) fn to_pem(certificate: &CertificateDer<'_>) -> String {
    /// As RFC 7468 has it.
    const LINE: usize = 64;
    let base64 = BASE64.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, letter) in base64.chars().enumerate() {
        if at > 0 && at % LINE == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

fn at(unix: i64) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    // A year beyond what the clock can hold is as good as never.
    SystemTime::UNIX_EPOCH.checked_add(seconds).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn day(at: SystemTime) -> String {
    OffsetDateTime::from(at).date().to_string()
}
