use proptest::prelude::*;

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/certificates/", $name)).as_slice()
    };
}

fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    pem::read(std::str::from_utf8(pem).unwrap(), "").unwrap().certificates
}

fn error(content: &[u8], password: &str) -> CertificateError {
    ClientCertificate::parse(content, password).unwrap_err()
}

#[test]
fn every_form_gives_the_key_its_certificate_and_those_above_but_the_root() {
    let leaf = &certificates(fixture!("leaf.crt"))[0];
    let cases = [
        ("PBES2", fixture!("new.p12"), "s3cret", 2),
        ("PBES2, no password", fixture!("new-no-password.p12"), "", 1),
        ("RC2 and 3DES", fixture!("old.p12"), "s3cret", 2),
        ("RC2 and 3DES, no password", fixture!("old-no-password.p12"), "", 1),
        ("PKCS#8", fixture!("pkcs8.pem"), "", 2),
        ("PKCS#8, a password that nothing needs", fixture!("pkcs8.pem"), "x", 2),
        ("PKCS#1", fixture!("pkcs1.pem"), "", 1),
        ("PKCS#8, encrypted", fixture!("encrypted.pem"), "s3cret", 1),
    ];
    for (name, content, password, length) in cases {
        let read = ClientCertificate::parse(content, password).unwrap();
        let chain: Vec<_> = read.chain().collect();
        assert_eq!((chain[0], chain.len()), (leaf.as_slice(), length), "{name}");
        if let [_, above] = chain[..] {
            let (_, above) = X509Certificate::from_der(above).unwrap();
            assert_eq!(above.subject().to_string(), "CN=intermediate", "{name}");
        }
    }
}

#[test]
fn what_cannot_be_used_is_told_apart() {
    use CertificateError as E;

    let old_pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                   DEK-Info: AES-256-CBC,00\n\nAAEC\n-----END RSA PRIVATE KEY-----\n";
    let cases: [(&str, &[u8], &str, CertificateError); 12] = [
        ("a wrong password", fixture!("new.p12"), "secret", E::Password),
        ("no password", fixture!("old.p12"), "", E::Password),
        ("a password where there is none", fixture!("new-no-password.p12"), "x", E::Password),
        ("a wrong password of PEM", fixture!("encrypted.pem"), "", E::Password),
        ("a key on a curve", fixture!("ec.p12"), "s3cret", E::NotRsa),
        ("a key on a curve in PEM", fixture!("ec.pem"), "", E::NotRsa),
        ("another's key", fixture!("mismatch.pem"), "", E::NoCertificate),
        ("no key", fixture!("leaf.crt"), "", E::NoKey),
        ("OpenSSL's old encryption", old_pem.as_bytes(), "s3cret", E::OldPem),
        ("nothing", b"", "", E::Unknown),
        ("a text", b"MIIKWgIBAzCC", "", E::Unknown),
        ("no end", b"-----BEGIN CERTIFICATE-----\nAAEC", "", E::Damaged("a PEM block has no end")),
    ];
    for (name, content, password, expected) in cases {
        assert_eq!(error(content, password), expected, "{name}");
    }
    let two = [fixture!("pkcs8.pem"), fixture!("pkcs1.pem")].concat();
    assert_eq!(error(&two, ""), E::SeveralKeys(2));
}

#[test]
fn a_file_that_was_cut_off_is_refused_wherever_it_was() {
    for (content, password) in
        [(fixture!("new-no-password.p12"), ""), (fixture!("old.p12"), "s3cret")]
    {
        for length in (0..content.len()).step_by(61) {
            let refused = error(&content[..length], password);
            let is_told =
                matches!(refused, CertificateError::Damaged(_) | CertificateError::Unknown);
            assert!(is_told, "{length}: {refused:?}");
        }
    }
}

#[test]
fn time_is_looked_at_when_it_signs() {
    let expired = ClientCertificate::parse(fixture!("expired.p12"), "s3cret").unwrap();
    let told = |now| expired.out_of_time(now);
    // 2020-01-01 to 2021-01-01, both at midnight.
    assert_eq!(
        told(1_577_836_799).unwrap().split(';').next(),
        Some("its certificate is valid from 2020-01-01 on")
    );
    assert_eq!((told(1_577_836_800), told(1_609_459_200)), (None, None));
    assert_eq!(
        told(1_609_459_201).unwrap().split(';').next(),
        Some("its certificate expired on 2021-01-01")
    );
    assert!(told(u64::MAX).is_some());
}

#[test]
fn the_certificate_that_is_valid_longest_is_taken_of_several_for_one_key() {
    let with_old = [fixture!("expired.crt"), fixture!("pkcs1.pem")].concat();
    let read = ClientCertificate::parse(&with_old, "").unwrap();
    assert_eq!(read.out_of_time(1_900_000_000), None);
}

#[test]
fn debug_shows_no_key() {
    let read = ClientCertificate::parse(fixture!("pkcs1.pem"), "").unwrap();
    assert!(format!("{read:?}").len() < 100);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn no_bytes_make_it_panic(content in proptest::collection::vec(any::<u8>(), 0..400), password in ".{0,9}") {
        prop_assert!(ClientCertificate::parse(&content, &password).is_err());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{password}\n-----END PRIVATE KEY-----\n");
        prop_assert!(ClientCertificate::parse(pem.as_bytes(), &password).is_err());
    }

    #[test]
    fn one_changed_byte_makes_it_panic_neither(at in 0..2293_usize, byte in any::<u8>()) {
        let mut content = fixture!("old-no-password.p12").to_vec();
        content[at] = byte;
        // Most are refused by the MAC; a byte of a name or of nothing may change.
        if let Ok(read) = ClientCertificate::parse(&content, "") {
            prop_assert!(read.chain().count() > 0);
        }
    }
}
