//! Service principals, types 1 and 2, end to end: the real sidecar, its mounted Secrets, and the
//! strict emulator.

use std::fs;
use std::path::Path;

use imdslet_tests::programs::{Running, Signal};
use imdslet_tests::volumes::turn;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::chain::{CLIENT, Entra, TENANT, folder, imds_for, sidecar_with};

const PARTNER: &str = "7e000000-0000-4000-8000-000000000001";
const VAULT: &str = "https://vault.azure.net";
const GRAPH: &str = "https://graph.microsoft.com";

/// A pod whose one identity is a service principal, and the Secret that it mounts.
struct Pod(TempDir);

impl Pod {
    fn new(source: &str, auxiliary: &[&str]) -> Self {
        let pod = Self(folder());
        let identities = json!({"version": 1, "hold": false, "identities": [{
            "name": "web/sp", "source": source, "clientId": CLIENT, "tenantId": TENANT,
            "auxiliaryTenantIds": auxiliary, "secret": "azure-sp",
        }]});
        fs::write(pod.path().join("identities.json"), identities.to_string()).unwrap();
        fs::create_dir_all(pod.path().join("secrets/azure-sp")).unwrap();
        pod
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Turns the volume of the Secret to another content, as the kubelet does.
    fn mount(&self, generation: &str, files: &[(&str, &[u8])]) {
        turn(&self.path().join("secrets/azure-sp"), generation, files);
    }

    fn sidecar(&self, entra: &Entra) -> (Running, u16) {
        let secrets = format!("--secrets-dir={}", self.path().join("secrets").display());
        sidecar_with(entra, self.path(), &[secrets])
    }
}

/// What tokens are for that nobody has asked for yet.
fn fresh(at: usize) -> String {
    format!("https://r{at}.example")
}

/// Has the emulator know the application in both tenants, by `credential`.
async fn know(entra: &Entra, credential: &Value) {
    let tenant = |id: &str, object_id: &str| {
        let mut application = json!({"clientId": CLIENT, "objectId": object_id});
        application.as_object_mut().unwrap().extend(credential.as_object().unwrap().clone());
        let resources: Vec<_> = (0..8).map(fresh).collect();
        json!({"id": id, "applications": [application], "resources": resources})
    };
    let tenants = [
        tenant(TENANT, "0b000000-0000-4000-8000-000000000001"),
        tenant(PARTNER, "0b000000-0000-4000-8000-000000000002"),
    ];
    let (status, said) = entra.put(&json!({"tenants": tenants}).to_string()).await;
    assert!((200..300).contains(&status), "{said}");
}

/// What a sidecar said until it ended well.
fn log_of(sidecar: Running) -> String {
    sidecar.signal(Signal::TERM);
    let ended = sidecar.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout + &ended.stderr
}

#[tokio::test]
async fn a_client_secret_becomes_tokens_of_every_tenant_and_may_be_rotated() {
    let entra = Entra::start();
    know(&entra, &json!({"secrets": ["0ld~s3cret"]})).await;
    let pod = Pod::new("secret", &[PARTNER]);
    pod.mount("..1", &[("clientSecret", b"0ld~s3cret\n")]);
    let (sidecar, port) = pod.sidecar(&entra);
    let (status, body) = imds_for(port, VAULT);
    assert_eq!((status, body.as_array().map(Vec::len)), (200, Some(2)), "{body}");
    for (at, tenant) in [TENANT, PARTNER].into_iter().enumerate() {
        let token = body[at]["access_token"].as_str().unwrap();
        let claims = entra.verify_of(tenant, token, VAULT).await;
        assert_eq!((claims.appid.as_str(), claims.appidacr.as_str()), (CLIENT, "1"));
    }

    // The application has another secret, then the Secret too; what is held is served throughout.
    know(&entra, &json!({"secrets": ["n3w~s3cret"]})).await;
    let (status, refused) = imds_for(port, "https://management.azure.com");
    assert_eq!(status, 400, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("AADSTS7000215"), "{refused}");
    assert_eq!(imds_for(port, VAULT).1[0]["access_token"], body[0]["access_token"]);
    pod.mount("..2", &[("clientSecret", b"n3w~s3cret")]);
    let (status, body) = imds_for(port, GRAPH);
    assert_eq!(status, 200, "{body}");
    entra.verify_of(TENANT, body[0]["access_token"].as_str().unwrap(), GRAPH).await;

    let log = log_of(sidecar);
    assert!(!log.contains("s3cret") && !log.contains("eyJ"), "{log}");
}

#[tokio::test]
async fn a_secret_that_comes_late_is_waited_for() {
    let entra = Entra::start();
    know(&entra, &json!({"secrets": ["s3cret"]})).await;
    let pod = Pod::new("secret", &[]);
    let (sidecar, port) = pod.sidecar(&entra);
    let (status, body) = imds_for(port, VAULT);
    assert_eq!(status, 503, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("Secret web/azure-sp of AzureIdentity web/sp"), "{message}");
    pod.mount("..1", &[("clientSecret", b"s3cret")]);
    let (status, body) = imds_for(port, GRAPH);
    assert_eq!(status, 200, "{body}");
    drop(sidecar);
}

#[tokio::test]
async fn a_certificate_becomes_tokens_by_either_algorithm_and_may_be_rotated() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/certificates");
    let fixture = |name: &str| fs::read(fixtures.join(name)).unwrap();
    let registered =
        |name: &str| json!({"certificates": [String::from_utf8(fixture(name)).unwrap()]});
    let entra = Entra::start();
    know(&entra, &registered("leaf.crt")).await;
    let pod = Pod::new("certificate", &[]);
    let (sidecar, port) = pod.sidecar(&entra);
    let mut resources = (0..).map(fresh);
    let mut ask = || {
        let resource = resources.next().unwrap();
        let (status, body) = imds_for(port, &resource);
        (status, body, resource)
    };
    let kinds: [(&str, &[u8], &[u8]); 5] = [
        ("new.p12", b"s3cret", b""),
        ("old.p12", b"s3cret", b"RS256"),
        ("old-no-password.p12", b"", b""),
        ("encrypted.pem", b"s3cret", b""),
        ("pkcs1.pem", b"", b"PS256"),
    ];
    for (name, password, algorithm) in kinds {
        let content = fixture(name);
        let keys = [("certificate", &*content), ("password", password), ("algorithm", algorithm)];
        pod.mount(&format!("..{name}"), &keys);
        let (status, body, resource) = ask();
        assert_eq!(status, 200, "{name}: {body}");
        let token = body["access_token"].as_str().unwrap();
        let claims = entra.verify_of(TENANT, token, &resource).await;
        assert_eq!((claims.appid.as_str(), claims.appidacr.as_str()), (CLIENT, "2"), "{name}");
    }

    // One that is not registered.
    know(&entra, &registered("other.crt")).await;
    let (status, refused, _) = ask();
    assert_eq!(status, 400, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("AADSTS700027"), "{refused}");
    let log = log_of(sidecar);
    assert!(!log.contains("s3cret") && !log.contains("eyJ"), "{log}");
}
