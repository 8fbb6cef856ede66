//! Any bytes as the certificate of a type 2 identity: they are read, or refused with a reason. A
//! password may stand before them, with `|` between.

#![no_main]

use imdslet_sidecar::certificate::ClientCertificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (password, content) = match bytes.iter().take(16).position(|byte| *byte == b'|') {
        Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default()),
        None => (&[][..], bytes),
    };
    let password = String::from_utf8_lossy(password);
    if let Err(error) = ClientCertificate::parse(content, &password) {
        assert!(!error.to_string().is_empty());
    }
});
