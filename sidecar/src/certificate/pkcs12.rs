//! Keys and certificates out of PKCS#12.

use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error;
use zeroize::Zeroizing;

use super::{CertificateError, Found, pem};

pub(super) fn read(der: &[u8], password: &str) -> Result<Found, CertificateError> {
    let archive = Pkcs12Archive::from_pkcs12(der, password).map_err(|error| reason(&error, der))?;
    let keys = archive.keys.iter().map(|bag| pem::pkcs8(Zeroizing::new(bag.key.as_der().to_vec())));
    Ok(Found {
        keys: keys.collect::<Result<_, _>>()?,
        certificates: archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect(),
    })
}

fn reason(error: &Error, der: &[u8]) -> CertificateError {
    match error {
        // A file without a MAC, decrypted by the wrong password, is found out by its padding.
        Error::MacError(_) | Error::Pkcs5Error(_) | Error::UnpadError => CertificateError::Password,
        Error::UnsupportedEncryptionScheme
        | Error::UnsupportedMacAlgorithm
        | Error::InvalidParameters => CertificateError::Encryption,
        // What a SEQUENCE begins with.
        _ if !der.starts_with(&[0x30]) => CertificateError::Unknown,
        _ => CertificateError::Damaged("PKCS#12"),
    }
}
