//! A CA and what it issues.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

/// A day, the unit of certificate lifetimes.
const DAY: Duration = Duration::from_hours(24);

/// How long a CA is valid. Long, since replacing it means telling everyone who trusts it.
const CA_LIFETIME: Duration = DAY.saturating_mul(10 * 365);

/// How long a serving certificate is valid. Apple's and the CA/Browser Forum's limits do not bind
/// a private CA; a year leaves a cluster that nobody touches time to rotate.
const SERVING_LIFETIME: Duration = DAY.saturating_mul(365);

/// Certificates are valid from this long before they were made, for clients whose clock is late.
const BACKDATED: Duration = Duration::from_hours(1);

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
}

/// A certificate for servers, with its key.
pub struct Serving {
    /// The certificate. The CA is not in it: whoever connects must know that already.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
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
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// The CA's certificate, for whoever must trust it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
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
        })
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
