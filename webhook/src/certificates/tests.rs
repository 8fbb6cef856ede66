use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use imdslet_certs::{Fault, Unusable};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::configuration::{Bundles, bundles};
use super::secret::data;
use super::*;

mod keeping;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000)
}

/// As they are where the program listens on all addresses.
fn names_in(namespace: &str) -> Vec<String> {
    names(namespace, ([0, 0, 0, 0], 8443).into())
}

fn ring() -> Keyring {
    Keyring::generate(&names_in("web"), &[], now()).unwrap()
}

fn secret(keyring: &Keyring) -> Secret {
    Secret { data: Some(data(keyring)), ..Secret::default() }
}

fn done(secret: Option<&Secret>) -> (&'static str, Option<Fault>) {
    match next(&keyring(secret), None, "", &names_in("web"), now()).unwrap() {
        Step::Keep(_) => ("kept", None),
        Step::Write { reason, fault, .. } => (reason, fault),
    }
}

#[test]
fn a_secret_is_read_as_it_was_written() {
    let ring = ring();
    assert!(keyring(Some(&secret(&ring))) == ring);
    assert_eq!(done(Some(&secret(&ring))), ("kept", None));
}

#[test]
fn nothing_is_filled_and_rubbish_is_replaced() {
    assert_eq!(done(None), ("CertificateMade", None));
    assert_eq!(done(Some(&Secret::default())), ("CertificateMade", None));
    let mut rubbish = secret(&ring());
    let bytes = ByteString(vec![0xff, 0xfe]);
    rubbish.data.as_mut().unwrap().insert("tls.crt".to_owned(), bytes);
    let fault = Fault { key: "tls.crt", cause: Unusable::NoCertificate };
    assert_eq!(done(Some(&rubbish)), ("CertificateMade", Some(fault)));
    let other = Keyring::generate(&names_in("other"), &[], now()).unwrap();
    assert_eq!(done(Some(&secret(&other))), ("CertificateRenewed", None));
}

/// A configuration as a platform has rewritten it (AKS does), with these bundles.
fn configuration(first: &str, second: &str) -> Value {
    let selector =
        json!({"matchExpressions": [{"key": "control-plane", "operator": "DoesNotExist"}]});
    json!({"webhooks": [
        {"name": "pods.imdslet.dev", "clientConfig": {"caBundle": first, "service": {}},
         "namespaceSelector": selector},
        {"name": "advise.imdslet.dev", "clientConfig": {"caBundle": second, "service": {}},
         "namespaceSelector": selector},
    ]})
}

fn patch(configuration: &Value, ours: &str, is_late: bool) -> (Value, bool) {
    let Bundles { patch, has_more } = bundles(configuration, ours, is_late, now());
    (serde_json::to_value(&patch).unwrap(), has_more)
}

#[test]
fn every_entry_gets_the_bundle_and_nothing_else_is_changed() {
    let ours = ring().authorities;
    let bundle = BASE64.encode(&ours);
    let mut emptied = configuration(&bundle, "");
    let expected = json!([
        {"op": "test", "path": "/webhooks/1/name", "value": "advise.imdslet.dev"},
        {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": bundle},
    ]);
    assert_eq!(patch(&emptied, &ours, false), (expected.clone(), false));
    emptied["webhooks"][1]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    assert_eq!(patch(&emptied, &ours, false), (expected, false));
    assert_eq!(patch(&configuration(&bundle, &bundle), &ours, true), (Value::Null, false));
    assert_eq!(patch(&json!({}), &ours, true), (Value::Null, false));
}

#[test]
fn what_another_replica_has_told_stays_for_a_while() {
    let (ours, theirs) = (ring().authorities, ring().authorities);
    let both = BASE64.encode(format!("{theirs}{ours}"));
    let told = configuration(&both, &both);
    assert_eq!(patch(&told, &ours, false), (Value::Null, true));
    let (late, has_more) = patch(&told, &ours, true);
    assert_eq!(late[1]["value"], json!(BASE64.encode(&ours)));
    assert!(!has_more);
}

#[test]
fn an_address_that_is_listened_on_is_one_of_the_names() {
    for (listen, last) in [
        ("0.0.0.0:8443", "::1"),
        ("[::]:8443", "::1"),
        ("127.0.0.1:0", "::1"),
        ("10.0.0.7:8443", "10.0.0.7"),
        ("[fd00::7]:8443", "fd00::7"),
    ] {
        let names = names("web", listen.parse().unwrap());
        assert_eq!(names.first().unwrap(), "imdslet-webhook.web.svc");
        assert_eq!(names.last().unwrap(), last, "{listen}");
    }
}
