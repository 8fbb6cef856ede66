use serde_json::{Value, json};

use super::super::testing::{CLIENT, CLUSTER, ISSUER, TENANT, config, credential, parsed};
use super::*;

/// The configuration of the tests with the value at `pointer` replaced.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = config();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Object(object) => drop(object.insert(name.to_owned(), value)),
        Value::Array(array) => array.push(value),
        _ => panic!("{pointer}"),
    }
    config
}

fn mistake(config: &Value) -> String {
    Config::parse(&config.to_string(), None).err().expect("a mistake").to_string()
}

#[test]
fn yaml_and_json_say_the_same() {
    let json = parsed(&config());
    let yaml = serde_yaml::to_string(&config()).unwrap();
    let yaml = Config::parse(&yaml, None).ok().unwrap();
    for config in [json, yaml] {
        let tenant = config.tenant(&TENANT.to_uppercase()).unwrap();
        assert_eq!(tenant.id, TENANT);
        let credentials = config.credentials(tenant.application(CLIENT).unwrap());
        assert_eq!(serde_json::to_value(credentials).unwrap(), json!([credential()]));
        assert!(config.keys(ISSUER).is_some());
        assert_eq!(config.token_lifetime, Duration::from_hours(1));
        assert!(config.faults.is_none());
    }
}

#[test]
fn durations_are_written_as_people_write_them() {
    for (text, seconds) in [("5s", 5), ("1h", 3600), ("1h 30m", 5400), ("2 minutes", 120)] {
        let config = parsed(&with("/tokenLifetime", json!(text)));
        assert_eq!(config.token_lifetime.as_secs(), seconds, "{text}");
    }
}

#[test]
fn each_mistake_names_its_field_and_what_is_allowed() {
    for (pointer, value, expected) in [
        ("/tenant", json!([]), "unknown field `tenant`, expected one of `tenants`"),
        ("/tenants/0/applications/0/certificate", json!([]), "unknown field `certificate`"),
        (
            "/tenants/0/applications/0/certificates",
            json!(["x"]),
            "applications[0].certificates[0]: it must be one certificate in PEM",
        ),
        (
            "/tenants/0/applications/0/certificateFiles",
            json!(["x"]),
            "applications[0].certificateFiles[0]: this configuration came without a folder",
        ),
        (
            "/tenants/0/id",
            json!("contoso.com"),
            "tenants[0].id is `contoso.com`; it must be a GUID",
        ),
        (
            "/tenants/0/applications/0/clientId",
            json!("x"),
            "tenants[0].applications[0].clientId is",
        ),
        ("/tenants/0/applications/0/objectId", json!(""), "tenants[0].applications[0].objectId is"),
        ("/tenants/0/applications/0/secrets", json!([""]), "an empty secret is none"),
        (
            "/tenants/0/applications/-",
            json!({"clientId": CLIENT, "objectId": CLIENT}),
            "tenants[0].applications[2].clientId repeats",
        ),
        ("/tenants/-", json!({"id": TENANT}), "tenants[1].id repeats"),
        (
            "/issuers/0/issuer",
            json!("http://x"),
            "issuers[0].issuer is `http://x`; it must be an https",
        ),
        ("/issuers/0/issuer", json!("https://x?y"), "issuers[0].issuer is"),
        ("/issuers/0/issuer", json!("https://x "), "issuers[0].issuer is"),
        ("/issuers/0/caFile", json!("ca.pem"), "issuers[0]: keep one of"),
        ("/issuers/0/jwks", json!({"keys": []}), "issuers[0].jwks: there is no RSA key"),
        (
            "/issuers/-",
            json!({"issuer": ISSUER, "jwks": CLUSTER.jwks()}),
            "issuers[1].issuer repeats",
        ),
        (
            "/issuers/-",
            json!({"issuer": "https://x", "jwksFile": "x"}),
            "issuers[1].jwksFile: this",
        ),
        ("/issuers/-", json!({"issuer": "https://x", "ca": "x"}), "issuers[1].ca: the trusted"),
        ("/federatedCredentials/0/clientId", json!(TENANT), "which no tenant has"),
        ("/federatedCredentials/0/clientId", json!("x"), "federatedCredentials[0].clientId is `x`"),
        ("/federatedCredentials/0/issuer", json!("x"), "federatedCredentials[0].issuer is `x`"),
        ("/federatedCredentials/0/subject", json!(""), "federatedCredentials[0].subject is ``"),
        (
            "/federatedCredentials/0/subject",
            json!("x".repeat(601)),
            "federatedCredentials[0].subject",
        ),
        ("/federatedCredentials/0/audiences", json!(["a", "b"]), "is `a, b`; it must be a list of"),
        ("/federatedCredentials/0/audiences", json!([]), "federatedCredentials[0].audiences is ``"),
        ("/federatedCredentials/0/name", json!("a.b"), "federatedCredentials[0].name is `a.b`"),
        (
            "/federatedCredentials/-",
            credential(),
            "federatedCredentials[1].issuer and .subject repeats",
        ),
        ("/tokenLifetime", json!("soon"), "`soon` is no duration; write one such as `250ms`"),
        (
            "/tokenLifetime",
            json!(5),
            "tokenLifetime: invalid type: integer `5`, expected a duration",
        ),
        ("/tokenLifetime", json!("1500ms"), "tokenLifetime is `1.5s`; it must be whole seconds"),
        ("/tokenLifetime", json!("0s"), "tokenLifetime is `0ns`"),
        ("/tokenLifetime", json!("-5s"), "`-5s` is no duration"),
        ("/tokenLifetime", json!("29h"), "from `1s` to `28h`"),
        ("/faults", json!({}), "faults: nothing would happen"),
        ("/faults", json!({"status": 404}), "faults.status is `404`; it must be 429, or from 500"),
        (
            "/faults",
            json!({"status": 503, "share": 1.5}),
            "faults.share is `1.5`; it must be a number",
        ),
        ("/faults", json!({"status": 503, "share": -0.1}), "faults.share is `-0.1`"),
        ("/faults", json!({"delay": "1h"}), "faults.delay is `3600s`; it must be at most `10m`"),
        ("/faults", json!({"delay": "1s", "retryAfter": 1}), "faults.retryAfter: it is a header"),
    ] {
        let mistake = mistake(&with(pointer, value));
        assert!(mistake.contains(expected), "{pointer}: {mistake}");
    }
}

#[test]
fn each_mistake_in_the_name_of_a_resource_is_named() {
    for (pointer, value, expected) in [
        (
            "/tenants/0/resources",
            json!(["orders"]),
            "tenants[0].resources[0] is `orders`; it must be the URI of an application",
        ),
        (
            "/tenants/0/applications/0/identifierUris",
            json!(["api://orders/.default"]),
            "tenants[0].applications[0].identifierUris[0] is `api://orders/.default`; it must be a",
        ),
        (
            "/tenants/0/applications/-",
            json!({"clientId": TENANT, "objectId": CLIENT, "identifierUris": ["api://a", "api://a"]}),
            "tenants[0].applications[2].identifierUris[1] repeats",
        ),
    ] {
        let mistake = mistake(&with(pointer, value));
        assert!(mistake.contains(expected), "{pointer}: {mistake}");
    }
}

#[test]
fn each_mistake_of_identity_bindings_is_named() {
    for (entry, expected) in [
        (
            json!({"sni": "localhost"}),
            "identityBindings.sni is `localhost`; it must be a DNS name with a dot",
        ),
        (json!({"sni": "10.0.0.1"}), "identityBindings.sni is `10.0.0.1`"),
        (json!({"bindings": []}), "identityBindings: missing field `sni`"),
        (
            json!({"sni": "a.b", "bindings": [{"clientId": "x"}]}),
            "identityBindings.bindings[0].clientId is `x`; it must be a GUID",
        ),
        (
            json!({"sni": "a.b", "bindings": [{"clientId": TENANT}]}),
            "identityBindings.bindings[0].clientId is `11111111-aaaa-4111-8111-111111111111`, which",
        ),
        (
            json!({"sni": "a.b", "bindings": [{"clientId": CLIENT}, {"clientId": CLIENT}]}),
            "identityBindings.bindings[1].clientId repeats",
        ),
    ] {
        let mistake = mistake(&with("/identityBindings", entry));
        assert!(mistake.contains(expected), "{mistake}");
    }
}

#[test]
fn a_mistake_never_quotes_a_secret() {
    let secrets = "/tenants/0/applications/0/secrets";
    for value in [json!("hunter2"), json!([{"hunter2": 1}]), json!([12_345])] {
        let mistake = mistake(&with(secrets, value));
        assert!(mistake.contains("must be a list of strings"), "{mistake}");
        assert!(!mistake.contains("hunter2") && !mistake.contains("12345"), "{mistake}");
    }
}

#[test]
fn azure_has_no_room_for_a_21st_credential() {
    let mut config = config();
    for at in 1..=20 {
        let mut another = credential();
        another["subject"] = json!(format!("system:serviceaccount:web:db-{at}"));
        config["federatedCredentials"].as_array_mut().unwrap().push(another);
    }
    assert!(mistake(&config).starts_with("federatedCredentials[20].clientId is"));
}

#[test]
fn files_are_found_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entra.yaml");
    let mut config = config();
    config["issuers"] = json!([{"issuer": ISSUER, "jwksFile": "keys.json"}]);
    fs::write(&path, config.to_string()).unwrap();
    let missing = Config::load(&path).err().unwrap().to_string();
    assert!(missing.contains("keys.json cannot be read: No such file"), "{missing}");

    let keys = folder.path().join("keys.json");
    fs::write(&keys, "{\"password\": 1}").unwrap();
    let unreadable = Config::load(&path).err().unwrap().to_string();
    assert!(unreadable.ends_with("keys.json is no JSON Web Key Set"), "{unreadable}");

    fs::write(&keys, serde_json::to_string(&CLUSTER.jwks()).unwrap()).unwrap();
    assert!(Config::load(&path).is_ok());
}

#[test]
fn an_issuer_may_publish_its_keys_under_a_ca_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let authority = imdslet_certs::Authority::generate("ca", std::time::SystemTime::now()).unwrap();
    fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    for entry in [
        json!({"issuer": ISSUER}),
        json!({"issuer": ISSUER, "ca": authority.pem()}),
        json!({"issuer": ISSUER, "caFile": "ca.pem"}),
    ] {
        let config = with("/issuers", json!([entry]));
        let config = Config::parse(&config.to_string(), Some(folder.path())).ok().unwrap();
        assert!(matches!(config.keys(ISSUER), Some(Keys::Published(_))), "{entry}");
    }
}
