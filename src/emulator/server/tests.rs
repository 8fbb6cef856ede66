use std::sync::Mutex;
use std::time::Instant;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tower::ServiceExt as _;

use super::super::testing::{
    CLIENT, OBJECT, OTHER_CLIENT, TENANT, assertion, config, entra, fields, form,
};
use super::super::{Claims, Jwks, Outcome, TokenError, verify_access_token};
use super::*;
use crate::https::{Client, Trust};

const VAULT: &str = "https://vault.azure.net";

/// Status, headers and body of one call.
async fn call(entra: &Arc<Entra>, request: Request<Body>) -> (u16, HeaderMap, Value) {
    let router = router(entra.clone(), CancellationToken::new());
    let (head, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (head.status.as_u16(), head.headers, body)
}

/// The call for a token of an emulator at `base`, which may be empty.
fn token_request<B: From<String>>(base: &str, tenant: &str, fields: &[(&str, &str)]) -> Request<B> {
    Request::post(format!("{base}/{tenant}/oauth2/v2.0/token"))
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded;charset=utf-8")
        .body(form(fields).into())
        .unwrap()
}

async fn ask(entra: &Arc<Entra>, tenant: &str, fields: &[(&str, &str)]) -> (u16, Value) {
    let (status, _, body) = call(entra, token_request("", tenant, fields)).await;
    (status, body)
}

async fn put_config(entra: &Arc<Entra>, config: &str) -> (u16, Value) {
    let request = Request::put("/_emulator/config").body(Body::from(config.to_owned())).unwrap();
    let (status, _, body) = call(entra, request).await;
    (status, body)
}

async fn read(entra: &Arc<Entra>, path: &str) -> (u16, Value) {
    let request = Request::get(path).header("host", "login.example:8443");
    let (status, _, body) = call(entra, request.body(Body::empty()).unwrap()).await;
    (status, body)
}

fn verified(entra: &Entra, body: &Value) -> Result<Claims, TokenError> {
    let token = body["access_token"].as_str().unwrap();
    verify_access_token(token, &entra.signing_jwks(), VAULT, TENANT, SystemTime::now())
}

#[tokio::test]
async fn an_assertion_becomes_a_token() {
    let mut config = config();
    config["tokenLifetime"] = json!("5s");
    let entra = entra(&config);
    let assertion = assertion(SystemTime::now());
    // GUIDs have no letter case, and the token has them in the spelling of the configuration.
    let client = CLIENT.to_uppercase();
    let (status, body) = ask(&entra, &TENANT.to_uppercase(), &fields(&client, &assertion)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        body,
        json!({
            "token_type": "Bearer",
            "expires_in": 5,
            "ext_expires_in": 5,
            "access_token": body["access_token"],
        })
    );
    let claims = verified(&entra, &body).unwrap();
    assert_eq!((claims.appid.as_str(), claims.oid.as_str()), (CLIENT, OBJECT));
    assert_eq!((claims.exp - claims.iat, claims.appidacr.as_str()), (5, "2"));
}

#[tokio::test]
async fn each_secret_of_the_application_becomes_a_token_and_no_other() {
    let entra = entra(&config());
    for (secret, code) in [
        ("first", None),
        ("second", None),
        ("third", Some(7_000_215)),
        ("First", Some(7_000_215)),
        ("~past~", Some(7_000_222)),
    ] {
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("scope", "https://vault.azure.net/.default"),
            ("client_secret", secret),
        ];
        let (status, body) = ask(&entra, TENANT, &fields).await;
        assert_eq!(status, if code.is_some() { 401 } else { 200 }, "{secret}: {body}");
        if status == 200 {
            assert_eq!(verified(&entra, &body).unwrap().appidacr, "1");
        } else {
            assert_eq!(body["error_codes"], json!([code]));
            assert!(!body.to_string().contains(secret), "{body}");
        }
    }
}

/// Only who has proved to be the client hears what the tenant knows.
#[tokio::test]
async fn a_resource_that_the_tenant_does_not_know_is_refused_after_the_proof() {
    let mut config = config();
    config["tenants"][0]["applications"][1]["identifierUris"] = json!(["api://orders"]);
    config["tenants"][0]["resources"] = json!(["api://somebody-elses"]);
    let entra = entra(&config);
    let asking = |resource: &str, secret: &str| {
        let scope = format!("{resource}/.default");
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_secret", secret),
            ("scope", &scope),
        ];
        token_request("", TENANT, &fields)
    };
    for known in [VAULT, "api://orders", "api://somebody-elses", OTHER_CLIENT, CLIENT] {
        let (status, _, body) = call(&entra, asking(known, "first")).await;
        assert_eq!(status, 200, "{known}: {body}");
    }
    let unknown = "https://myvault.vault.azure.net";
    let (status, _, body) = call(&entra, asking(unknown, "first")).await;
    assert_eq!((status, &body["error"]), (400, &json!("invalid_resource")), "{body}");
    let words = format!(
        "AADSTS500011: The resource principal named {unknown} was not found in the tenant named \
         {TENANT}. "
    );
    assert!(body["error_description"].as_str().unwrap().starts_with(&words), "{body}");
    let (status, _, body) = call(&entra, asking(unknown, "wrong")).await;
    assert_eq!((status, &body["error"]), (401, &json!("invalid_client")), "{body}");
}

#[tokio::test]
async fn who_is_not_there_is_refused() {
    let entra = entra(&config());
    let assertion = assertion(SystemTime::now());
    for (name, tenant, client, status, code) in [
        ("unknown tenant", OBJECT, CLIENT, 400, 90002),
        ("unknown domain", "contoso.com", CLIENT, 400, 90002),
        ("no tenant", "a..b", CLIENT, 400, 900_023),
        ("unknown client", TENANT, OBJECT, 400, 700_016),
        ("client without credential", TENANT, OTHER_CLIENT, 401, 70025),
    ] {
        let (got, body) = ask(&entra, tenant, &fields(client, &assertion)).await;
        assert_eq!((got, &body["error_codes"]), (status, &json!([code])), "{name}: {body}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_form_has_no_parameters() {
    let entra = entra(&config());
    let request = Request::post(format!("/{TENANT}/oauth2/v2.0/token"))
        .header(CONTENT_TYPE, "application/json")
        .header("client-request-id", "0EC9C5C7-9C6B-4F26-8A3E-0F6F1E0C7B55")
        .body(Body::from(form(&fields(CLIENT, &assertion(SystemTime::now())))))
        .unwrap();
    let (status, headers, body) = call(&entra, request).await;
    assert_eq!((status, &body["error_codes"]), (400, &json!([900_144])));
    assert_eq!(headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(headers["cache-control"], "no-store, no-cache");
    assert_eq!(headers["x-ms-request-id"], body["trace_id"].as_str().unwrap());
    assert_eq!(body["correlation_id"], "0ec9c5c7-9c6b-4f26-8a3e-0f6f1e0c7b55");
}

#[tokio::test]
async fn faults_strike_their_share_of_calls() {
    let mut config = config();
    config["faults"] = json!({"status": 429, "retryAfter": 7, "share": 0.5});
    let entra = entra(&config);
    let assertion = assertion(SystemTime::now());
    let fields = fields(CLIENT, &assertion);
    assert_eq!(ask(&entra, TENANT, &fields).await.0, 200);
    let (status, headers, body) = call(&entra, token_request("", TENANT, &fields)).await;
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(body["error"], "temporarily_unavailable");
    assert_eq!(ask(&entra, TENANT, &fields).await.0, 200);

    config["faults"] = json!({"status": 503});
    assert_eq!(put_config(&entra, &config.to_string()).await.0, 204);
    let (status, headers, _) = call(&entra, token_request("", TENANT, &fields)).await;
    assert_eq!((status, headers.get(RETRY_AFTER)), (503, None));
}

#[tokio::test(start_paused = true)]
async fn a_delay_alone_ends_in_the_right_answer() {
    let mut config = config();
    config["faults"] = json!({"delay": "90s"});
    let entra = entra(&config);
    let began = tokio::time::Instant::now();
    let (status, body) = ask(&entra, TENANT, &fields(CLIENT, &assertion(SystemTime::now()))).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(began.elapsed().as_secs(), 90);
}

#[tokio::test]
async fn a_delay_does_not_hold_up_the_end() {
    let mut config = config();
    config["faults"] = json!({"delay": "10m"});
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let request: Request<Body> =
        token_request("", TENANT, &fields(CLIENT, &assertion(SystemTime::now())));
    let began = Instant::now();
    let response = router(entra(&config), shutdown).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(began.elapsed() < Duration::from_mins(1));
}

#[tokio::test]
async fn a_configuration_is_replaced_as_a_whole_or_not_at_all() {
    let entra = entra(&config());
    let assertion = assertion(SystemTime::now());
    let fields = fields(CLIENT, &assertion);

    let mut wrong = config();
    wrong["federatedCredentials"] = json!([]);
    wrong["tokenLifetime"] = json!("0s");
    let (status, body) = put_config(&entra, &wrong.to_string()).await;
    assert_eq!(status, 400);
    let error = "tokenLifetime is `0ns`; it must be whole seconds, from `1s` to `28h`";
    assert_eq!(body, json!({ "error": error }));
    assert_eq!(ask(&entra, TENANT, &fields).await.0, 200);

    wrong["tokenLifetime"] = json!("1m");
    let yaml = serde_yaml::to_string(&wrong).unwrap();
    assert_eq!(put_config(&entra, &yaml).await.0, 204);
    let (status, body) = ask(&entra, TENANT, &fields).await;
    assert_eq!((status, &body["error_codes"]), (401, &json!([70025])));
}

#[tokio::test]
async fn calls_are_counted_by_client_and_code() {
    let entra = entra(&config());
    let assertion = assertion(SystemTime::now());
    ask(&entra, TENANT, &fields(CLIENT, &assertion)).await;
    ask(&entra, TENANT, &fields(CLIENT, "x")).await;
    ask(&entra, TENANT, &fields("a stranger", &assertion)).await;
    let (status, body) = read(&entra, "/_emulator/requests").await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        json!({
            "tokenCalls": 3,
            "outcomes": [
                {"tenant": TENANT, "clientId": null, "outcome": "700016", "count": 1},
                {"tenant": TENANT, "clientId": CLIENT, "outcome": "issued", "count": 1},
                {"tenant": TENANT, "clientId": CLIENT, "outcome": "50027", "count": 1},
            ],
            "otherCalls": 0,
        })
    );
}

#[tokio::test]
async fn clients_discover_the_keys() {
    let entra = entra(&config());
    let path = format!("/{TENANT}/v2.0/.well-known/openid-configuration");
    let (status, body) = read(&entra, &path).await;
    assert_eq!(status, 200);
    let base = format!("https://login.example:8443/{TENANT}");
    assert_eq!(body["token_endpoint"], format!("{base}/oauth2/v2.0/token"));
    assert_eq!(body["jwks_uri"], format!("{base}/discovery/v2.0/keys"));

    let (_, body) = read(&entra, &format!("/{TENANT}/discovery/v2.0/keys")).await;
    assert_eq!(body["keys"][0]["kid"], body["keys"][0]["x5t"]);
    assert_eq!(serde_json::from_value::<Jwks>(body).unwrap(), entra.signing_jwks());
    let (status, body) = read(&entra, &format!("/{CLIENT}/discovery/v2.0/keys")).await;
    assert_eq!((status, &body["error_codes"]), (400, &json!([90002])));

    let query = format!("authorization_endpoint={base}/oauth2/v2.0/authorize");
    let (_, body) = read(&entra, &format!("/common/discovery/instance?{query}")).await;
    let expected = format!("{base}/v2.0/.well-known/openid-configuration");
    assert_eq!(body["tenant_discovery_endpoint"], expected);
}

#[tokio::test]
async fn a_client_that_trusts_the_ca_gets_its_token_over_tls_and_the_server_ends_when_told() {
    let entra = entra(&config());
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let names = ["login.example".to_owned(), "127.0.0.1".to_owned()];
    let server = Server::new(tcp, entra.clone(), &names, SystemTime::now()).unwrap();
    let (url, port) = (server.base_url(), server.addr().port());
    assert_eq!(url, format!("https://127.0.0.1:{port}"));
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.serve(shutdown.clone()));

    let client = Client::new(Trust::nobody().and(entra.ca_pem()).unwrap()).unwrap();
    let assertion = assertion(SystemTime::now());
    for host in ["127.0.0.1", "localhost"] {
        let base = format!("https://{host}:{port}");
        let request = token_request(&base, TENANT, &fields(CLIENT, &assertion));
        let answer = client.request(request).await.unwrap();
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(answer.status(), 200, "{body}");
        assert!(verified(&entra, &body).is_ok());
    }

    let stranger = Client::new(Trust::web()).unwrap();
    let error = stranger.get(&url).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");

    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), tasks.join_next()).await.unwrap();
    assert!(ended.unwrap().unwrap().is_ok());
}

/// Status and body of a request to `addr`, asked for as `name` in TLS.
async fn ask_as(name: &str, addr: SocketAddr, ca: &str, request: &str) -> (u16, Value) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// Of the whole server the token proxy shows one request: neither the configuration nor the keys.
#[tokio::test]
async fn any_other_request_does_not_pass_the_token_proxy() {
    let mut config = config();
    config["identityBindings"] = json!({"sni": "1a2b.ests.aks"});
    let entra = entra(&config);
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new(tcp, entra.clone(), &[], SystemTime::now()).unwrap();
    let addr = server.addr();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.serve(CancellationToken::new()));
    let keys = format!("GET /{TENANT}/discovery/v2.0/keys");
    for request in ["GET /_emulator/requests", "PUT /_emulator/config", keys.as_str()] {
        let (status, body) = ask_as("1a2b.ests.aks", addr, entra.ca_pem(), request).await;
        assert_eq!((status, &body["reason"]), (404, &json!("NotFound")), "{request}: {body}");
    }
    let counted = &entra.requests().outcomes[..];
    let [Outcome { outcome, through_proxy: true, count: 3, .. }] = counted else {
        panic!("{counted:?}");
    };
    assert_eq!(outcome, "NotFound");
    // The same server, asked for as itself; then under the name that the proxy has from now on.
    assert_eq!(ask_as("localhost", addr, entra.ca_pem(), &keys).await.0, 200);
    config["identityBindings"] = json!({"sni": "3c4d.ests.aks"});
    assert_eq!(put_config(&entra, &config.to_string()).await.0, 204);
    assert_eq!(ask_as("3c4d.ests.aks", addr, entra.ca_pem(), &keys).await.0, 404);
}

/// Takes what is logged in this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_credential_reaches_the_log_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // A lone subscriber would not be asked about events that another test's thread meets first
    // (tracing-core, `callsite::dispatchers::Rebuilder::JustOne`).
    let _second = tracing::Dispatch::new(
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).finish(),
    );
    let _logged = tracing::subscriber::set_default(subscriber);

    let entra = entra(&config());
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new(tcp, entra.clone(), &[], SystemTime::now()).unwrap();
    let base = server.base_url();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.serve(CancellationToken::new()));
    let client = Client::new(Trust::nobody().and(entra.ca_pem()).unwrap()).unwrap();

    let assertion = assertion(SystemTime::now());
    let request = token_request(&base, TENANT, &fields(CLIENT, &assertion));
    let answer = client.request(request).await.unwrap();
    let issued: Value = serde_json::from_slice(answer.body()).unwrap();
    let mut secret = fields(CLIENT, "hunter2").to_vec();
    secret.truncate(3);
    secret.push(("client_secret", "hunter2"));
    client.request(token_request(&base, TENANT, &secret)).await.unwrap();
    let put = Request::put(format!("{base}/_emulator/config"));
    let put = put.body(Bytes::from_static(b"tenants: hunter2").into()).unwrap();
    assert_eq!(client.request(put).await.unwrap().status(), 400);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for reason in ["Issued", "WrongSecret", "ConfigRefused"] {
        assert!(log.contains(&format!("reason=\"{reason}\"")), "{reason}: {log}");
    }
    let token = issued["access_token"].as_str().unwrap();
    let parts = assertion.split('.').chain(token.split('.')).chain(["hunter2"]);
    for part in parts {
        assert!(!log.contains(part), "{part}");
    }
}
