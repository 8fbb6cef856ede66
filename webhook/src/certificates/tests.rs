use imdslet_certs::Unusable;
use serde_json::json;

use super::configuration::bundle_patch;
use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000)
}

fn ring() -> Keyring {
    Keyring::generate(&names("web"), None, now()).unwrap()
}

fn secret(keyring: &Keyring) -> Secret {
    Secret { data: Some(data(keyring)), ..Secret::default() }
}

fn planned(secret: Option<&Secret>) -> &'static str {
    let kept = keyring(secret);
    match plan(&kept, kept.read(&names("web"), now())) {
        Plan::Keep(_) => "keep",
        Plan::Renew(_) => "renew",
        Plan::Make => "make",
        Plan::Replace(_) => "replace",
    }
}

#[test]
fn a_secret_is_read_as_it_was_written() {
    let ring = ring();
    assert!(keyring(Some(&secret(&ring))) == ring);
    assert_eq!(planned(Some(&secret(&ring))), "keep");
}

#[test]
fn nothing_is_filled_and_rubbish_is_replaced() {
    assert_eq!(planned(None), "make");
    assert_eq!(planned(Some(&Secret::default())), "make");
    let mut rubbish = secret(&ring());
    let bytes = ByteString(vec![0xff, 0xfe]);
    rubbish.data.as_mut().unwrap().insert("tls.crt".to_owned(), bytes);
    assert_eq!(planned(Some(&rubbish)), "replace");
    let kept = keyring(Some(&rubbish));
    let fault = kept.read(&names("web"), now()).err().unwrap();
    assert_eq!(fault, Fault { key: "tls.crt", cause: Unusable::NoCertificate });
    let other = Keyring::generate(&names("other"), None, now()).unwrap();
    assert_eq!(planned(Some(&secret(&other))), "renew");
}

#[test]
fn every_entry_gets_the_bundle_and_nothing_else_is_changed() {
    let configuration = json!({"webhooks": [
        {"name": "pods.imdslet.dev", "clientConfig": {"caBundle": "b3Vycw==", "service": {}}},
        {"name": "advise.imdslet.dev", "clientConfig": {"service": {}}, "sideEffects": "None"},
    ]});
    let patch = bundle_patch(&configuration, "b3Vycw==").unwrap();
    assert_eq!(
        serde_json::to_value(&patch).unwrap(),
        json!([
            {"op": "test", "path": "/webhooks/1/name", "value": "advise.imdslet.dev"},
            {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": "b3Vycw=="},
        ])
    );
    let mut right = configuration;
    right["webhooks"][1]["clientConfig"]["caBundle"] = json!("b3Vycw==");
    assert_eq!(bundle_patch(&right, "b3Vycw=="), None);
    assert_eq!(bundle_patch(&json!({}), "b3Vycw=="), None);
}
