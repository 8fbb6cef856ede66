//! A CA and what it issues.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use crate::parsed::{Details, Unusable, certificates, first_certificate, to_pem};

/// A day, the unit of certificate lifetimes.
const DAY: Duration = Duration::from_hours(24);

/// How long a CA is valid. Long, since replacing it means telling everyone who trusts it.
const CA_LIFETIME: Duration = DAY.saturating_mul(10 * 365);

/// How long a serving certificate is valid. Apple's and the CA/Browser Forum's limits do not bind
/// a private CA; a year leaves a cluster that nobody touches time to rotate.
const SERVING_LIFETIME: Duration = DAY.saturating_mul(365);

/// Certificates are valid from this long before they were made, for clients whose clock is late.
pub(crate) const BACKDATED: Duration = Duration::from_hours(1);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the {what}: {cause}")]
pub struct Error {
    what: &'static str,
    cause: rcgen::Error,
}

/// A certificate authority of one's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// A certificate for servers, with its key.
pub struct Serving {
    /// The certificate. The CA is not in it: whoever connects must know that already.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pem: String,
    key_pem: String,
}

impl Authority {
    /// Makes a CA with the common name `name`, valid for ten years from `now`.
    ///
    /// # Errors
    ///
    /// [`Error`] if the key cannot be generated, which a working random source rules out.
    pub fn generate(name: &str, now: SystemTime) -> Result<Self, Error> {
        let error = |cause| Error { what: "CA certificate", cause };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(error)?;
        let mut params = validity(CertificateParams::default(), now, CA_LIFETIME);
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).map_err(error)?.pem();
        let (not_before, not_after) = (now - BACKDATED, now + CA_LIFETIME);
        Ok(Self { issuer: Issuer::new(params, key), pem, not_before, not_after })
    }

    /// Reads a CA back from its certificate, the first in `pem`, and its key.
    ///
    /// # Errors
    ///
    /// [`Unusable`] if either cannot be read, if they do not belong together, if the certificate is
    /// no CA's, or if it is not valid at `now`.
    pub fn from_pem(pem: &str, key_pem: &str, now: SystemTime) -> Result<Self, Unusable> {
        let certificate = first_certificate(pem)?;
        let details = Details::of(&certificate)?;
        if !details.is_ca {
            return Err(Unusable::NotACa);
        }
        details.valid_at(now)?;
        if key_pem.trim().is_empty() {
            return Err(Unusable::NoKey);
        }
        let key = KeyPair::from_pem(key_pem)
            .map_err(|error| Unusable::UnreadableKey(error.to_string()))?;
        if key.subject_public_key_info() != details.public_key {
            return Err(Unusable::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| Unusable::Unreadable(error.to_string()))?;
        let Details { not_before, not_after, .. } = details;
        Ok(Self { issuer, pem: to_pem(&certificate), not_before, not_after })
    }

    /// The CA's certificate, for whoever must trust it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The CA's private key, for whoever keeps it.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When it was made, if it was made here.
    pub(crate) fn made(&self) -> SystemTime {
        self.not_before + BACKDATED
    }

    /// Whether what is issued at `now` will outlive the CA: time for a new one.
    #[must_use]
    pub fn is_ending(&self, now: SystemTime) -> bool {
        self.not_after < now + SERVING_LIFETIME
    }

    /// Issues a serving certificate for `names` (DNS names or IP addresses), valid for a year.
    ///
    /// # Errors
    ///
    /// [`Error`] if a name is neither a DNS name nor an IP address.
    pub fn issue(&self, names: &[String], now: SystemTime) -> Result<Serving, Error> {
        let error = |cause| Error { what: "serving certificate", cause };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(error)?;
        let params = CertificateParams::new(names).map_err(error)?;
        let mut params = validity(params, now, SERVING_LIFETIME);
        params.distinguished_name = common_name(names.first().map_or("imdslet", String::as_str));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(error)?;
        Ok(Serving {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

impl Serving {
    /// Reads a serving certificate back, its issuers behind it, and its key.
    ///
    /// # Errors
    ///
    /// [`Unusable`] if either cannot be read, or if they do not belong together.
    pub fn from_pem(pem: &str, key_pem: &str) -> Result<Self, Unusable> {
        let chain = certificates(pem)?;
        let key = match PrivateKeyDer::from_pem_slice(key_pem.as_bytes()) {
            Ok(key) => key,
            Err(pem::Error::NoItemsFound) => return Err(Unusable::NoKey),
            Err(error) => return Err(Unusable::UnreadableKey(error.to_string())),
        };
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &ring::default_provider()) {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(Unusable::KeyMismatch),
            Err(error) => return Err(Unusable::UnreadableKey(error.to_string())),
        }
        Ok(Self { chain, key, pem: pem.to_owned(), key_pem: key_pem.to_owned() })
    }

    /// The certificate, for whoever keeps it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The private key, for whoever keeps it.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// When it was made, if it was made here.
    pub(crate) fn made(&self) -> Option<SystemTime> {
        let leaf = Details::of(self.chain.first()?).ok()?;
        Some(leaf.not_before + BACKDATED)
    }

    /// When it ends.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        Some(Details::of(self.chain.first()?).ok()?.not_after)
    }

    /// Whether a client that trusts the CAs of `authorities` (PEM) takes the certificate at `now`
    /// for each of `names`.
    ///
    /// # Errors
    ///
    /// [`Unusable`]: time and names are judged before trust, so that [`Unusable::NotTrusted`] says that
    /// nothing else is wrong.
    pub fn verify(
        &self,
        authorities: &str,
        names: &[String],
        now: SystemTime,
    ) -> Result<(), Unusable> {
        let authorities = certificates(authorities)?;
        let unreadable = |error: webpki::Error| Unusable::Unreadable(error.to_string());
        let anchors = authorities.iter().map(webpki::anchor_from_trusted_cert);
        let anchors = anchors.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        let (leaf, issuers) = self.chain.split_first().ok_or(Unusable::NoCertificate)?;
        // Said first, because it names the day.
        Details::of(leaf)?.valid_at(now)?;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(unreadable)?;
        // Before trust, which cannot be judged where the CA is known to others alone.
        for name in names {
            let is_valid = ServerName::try_from(name.as_str())
                .is_ok_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok());
            if !is_valid {
                return Err(Unusable::NotFor(name.clone()));
            }
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            issuers,
            UnixTime::since_unix_epoch(since),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(|error| Unusable::NotTrusted(error.to_string()))?;
        Ok(())
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(mut params: CertificateParams, now: SystemTime, life: Duration) -> CertificateParams {
    let now = OffsetDateTime::from(now);
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
    params
}
