//! Service principals: what is sent for a client secret, to which tenants, and when nothing is.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::UnparsedPublicKey;
use serde_json::Value;

use super::*;
use crate::testing::project;

/// Entra ID behind `wire`, with a pod that mounts Secrets below the folder.
fn pod(wire: Arc<dyn Post>) -> (Sources, tempfile::TempDir) {
    let (sources, dir) = entra(&reply(200, TOKEN), None);
    let mut args = ServeArgs::clone(&sources.args);
    args.secrets_dir = Some(dir.path().to_owned());
    (Sources::new(Arc::new(args), wire, Arc::new(NoNode), Arc::new(now)), dir)
}

fn principal(auxiliary: &[&str]) -> PodIdentity {
    PodIdentity {
        source: Source::Secret,
        secret: Some("azure-sp".to_owned()),
        auxiliary_tenant_ids: auxiliary.iter().map(|tenant| (*tenant).to_owned()).collect(),
        ..identity("web/sp", '1')
    }
}

fn mount(dir: &Path, generation: &str, files: &[(&str, &str)]) {
    let dir = dir.join("azure-sp");
    fs::create_dir_all(&dir).unwrap();
    project(&dir, generation, files);
}

#[tokio::test]
async fn a_client_secret_is_posted_as_it_is_mounted_now() {
    let wire = reply(200, TOKEN);
    let (entra, dir) = pod(Arc::<Wire>::clone(&wire));
    mount(dir.path(), "..1", &[("clientSecret", "fir~st+&\n")]);
    let fetched = entra.fetch(&principal(&[]), &vault()).await.unwrap();
    assert_eq!(fetched.primary.access_token.reveal(), "a.b.c");
    assert!(fetched.auxiliary.is_empty());
    mount(dir.path(), "..2", &[("clientSecret", "second")]);
    entra.fetch(&principal(&[]), &vault()).await.unwrap();

    let sent = wire.sent.lock().unwrap();
    let [(url, first), (_, second)] = &sent[..] else { panic!("{} requests", sent.len()) };
    assert_eq!(
        url,
        "https://login.microsoftonline.com/70000000-0000-0000-0000-000000000001/oauth2/v2.0/token"
    );
    assert_eq!(
        first,
        "client_id=c0000000-0000-0000-0000-000000000001&client_secret=fir%7Est%2B%26&\
         grant_type=client_credentials&scope=https%3A%2F%2Fvault.azure.net%2F%2F.default"
    );
    assert!(second.contains("client_secret=second&"), "{second}");
}

#[tokio::test]
async fn a_client_secret_goes_to_the_identitys_own_authority() {
    let wire = reply(200, TOKEN);
    let (entra, dir) = pod(Arc::<Wire>::clone(&wire));
    mount(dir.path(), "..1", &[("clientSecret", "s3cret")]);
    let abroad = PodIdentity { name: "web/abroad".to_owned(), ..principal(&[]) };
    entra.fetch(&abroad, &vault()).await.unwrap();
    let sent = wire.sent.lock().unwrap();
    assert!(sent[0].0.starts_with("https://login.partner.example/70000000-"), "{}", sent[0].0);
}

#[tokio::test]
async fn without_its_secret_nothing_is_sent() {
    let wire = reply(200, TOKEN);
    let (entra, dir) = pod(Arc::<Wire>::clone(&wire));
    let fault = entra.fetch(&principal(&[]), &vault()).await.unwrap_err();
    assert_eq!((fault.reason(), fault.status().as_u16()), ("SecretNotMounted", 400));
    mount(dir.path(), "..1", &[]);
    let fault = entra.fetch(&principal(&[]), &vault()).await.unwrap_err();
    assert_eq!((fault.reason(), fault.status().as_u16()), ("SecretMissing", 503));
    mount(dir.path(), "..2", &[("a", "s3cret"), ("b", "s3cret")]);
    let fault = entra.fetch(&principal(&[]), &vault()).await.unwrap_err();
    assert_eq!((fault.reason(), fault.status().as_u16()), ("SecretUnusable", 400));
    assert!(!fault.to_string().contains("s3cret"), "{fault}");
    assert!(wire.sent.lock().unwrap().is_empty());
}

/// Answers with the name of the tenant that is asked, once all have been asked; refuses `refused`.
struct Tenants {
    all: tokio::sync::Barrier,
    refused: &'static str,
}

#[async_trait]
impl Post for Tenants {
    async fn post(&self, request: http::Request<Full<Bytes>>) -> Result<Reply, NoReply> {
        self.all.wait().await;
        let tenant = request.uri().path().split('/').nth(1).unwrap();
        if tenant == self.refused {
            let body = r#"{"error":"unauthorized_client","error_description":"AADSTS700016: No.","error_codes":[700016]}"#;
            return Ok(Reply {
                status: 400,
                retry_after: None,
                body: body.as_bytes().to_vec().into(),
            });
        }
        let body = format!(r#"{{"expires_in":3599,"access_token":"{tenant}"}}"#);
        Ok(Reply { status: 200, retry_after: None, body: body.as_bytes().to_vec().into() })
    }
}

#[tokio::test(start_paused = true)]
async fn all_tenants_are_asked_at_once_and_answered_in_their_order() {
    let entra = |refused| {
        let (entra, dir) = pod(Arc::new(Tenants { all: tokio::sync::Barrier::new(3), refused }));
        mount(dir.path(), "..1", &[("clientSecret", "s3cret")]);
        (entra, dir)
    };
    let identity = principal(&["b.example", "a.example"]);
    let (all, _dir) = entra("");
    let fetched = all.fetch(&identity, &vault()).await.unwrap();
    assert_eq!(fetched.primary.access_token.reveal(), identity.tenant_id);
    let auxiliary: Vec<_> = fetched.auxiliary.iter().map(|one| one.access_token.reveal()).collect();
    assert_eq!(auxiliary, ["b.example", "a.example"]);

    let (one_refuses, _dir) = entra("a.example");
    let fault = one_refuses.fetch(&identity, &vault()).await.unwrap_err();
    assert_eq!((fault.reason(), fault.status().as_u16()), ("UnknownApplication", 400));
    let message = fault.to_string();
    assert!(
        message.starts_with("auxiliary tenant a.example: tenant a.example has no application c0"),
        "{message}"
    );
}

/// The two parts of a JWT that are JSON, and its signature checked by the certificate.
fn checked(assertion: &str, by: &'static ring::signature::RsaParameters) -> (Value, Value) {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let (message, signature) = assertion.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let json = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let (header, claims): (Value, Value) = (json(header), json(claims));
    let leaf = STANDARD.decode(header["x5c"][0].as_str().unwrap()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(by, key)
        .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
    let thumbprint = ring::digest::digest(&ring::digest::SHA256, &leaf);
    assert_eq!(header["x5t#S256"], URL_SAFE_NO_PAD.encode(thumbprint));
    (header, claims)
}

#[tokio::test]
async fn a_certificate_signs_for_the_endpoint_that_is_asked() {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256};

    let certificate = include_str!("../../../../tests/fixtures/certificates/pkcs8.pem");
    let identity = PodIdentity { source: Source::Certificate, ..principal(&["fabrikam.example"]) };
    let wire = reply(200, TOKEN);
    let (entra, dir) = pod(Arc::<Wire>::clone(&wire));
    mount(dir.path(), "..1", &[("certificate", certificate)]);
    entra.fetch(&identity, &vault()).await.unwrap();
    mount(dir.path(), "..2", &[("certificate", certificate), ("algorithm", "RS256")]);
    entra.fetch(&identity, &vault()).await.unwrap();

    let sent = wire.sent.lock().unwrap();
    assert_eq!(sent.len(), 4);
    let mut ids = std::collections::BTreeSet::new();
    for (at, (url, body)) in sent.iter().enumerate() {
        let (_, assertion) = body.split_once("client_assertion=").unwrap();
        let (assertion, _) = assertion.split_once('&').unwrap();
        let (alg, by) = match at {
            0 | 1 => ("PS256", &RSA_PSS_2048_8192_SHA256),
            _ => ("RS256", &RSA_PKCS1_2048_8192_SHA256),
        };
        let (header, claims) = checked(assertion, by);
        assert_eq!((&header["alg"], &header["typ"]), (&alg.into(), &"JWT".into()));
        assert_eq!(header["x5t"].is_string(), alg == "RS256");
        assert_eq!(header["x5c"].as_array().unwrap().len(), 2, "no root");
        assert_eq!(claims["aud"], url.as_str());
        assert_eq!((&claims["iss"], &claims["sub"]), (&claims["sub"], &claims["iss"]));
        assert_eq!(claims["sub"], identity.client_id);
        // The clock of the tests.
        let times = ["iat", "nbf", "exp"].map(|claim| claims[claim].as_u64().unwrap());
        assert_eq!(times, [1_800_000_000, 1_800_000_000, 1_800_000_600]);
        ids.insert(claims["jti"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 4, "each has an id of its own");
}

#[tokio::test]
async fn a_certificate_whose_time_is_over_asks_nobody() {
    let key = include_str!("../../../../tests/fixtures/certificates/pkcs1.pem");
    let (_, key) = key.split_once("-----END CERTIFICATE-----").unwrap();
    let expired = include_str!("../../../../tests/fixtures/certificates/expired.crt");
    let identity = PodIdentity { source: Source::Certificate, ..principal(&[]) };
    let wire = reply(200, TOKEN);
    let (entra, dir) = pod(Arc::<Wire>::clone(&wire));
    mount(dir.path(), "..1", &[("tls.crt", expired), ("tls.key", key)]);
    let fault = entra.fetch(&identity, &vault()).await.unwrap_err();
    assert_eq!((fault.reason(), fault.status().as_u16()), ("SecretUnusable", 400));
    assert!(fault.to_string().contains("expired on 2021-01-01"), "{fault}");
    assert!(wire.sent.lock().unwrap().is_empty());
}
