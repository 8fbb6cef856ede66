//! The real programs end to end: `demo`, `emulate entra`, and a sidecar that asks it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use imdslet::emulator::{Claims, Jwks, LocalIssuer, ServiceAccountToken, verify_access_token};
use imdslet::https::{Client, Trust};
use imdslet_tests::programs::{Ended, Running, Signal, command, ends, processes_with, program};
use imdslet_tests::volumes::turn;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const TENANT: &str = "7e000000-0000-4000-8000-000000000000";
pub(crate) const CLIENT: &str = "c0000000-0000-4000-8000-000000000001";
const SECRET: &str = "0nly-for-tests";
const HEADER: &str = "d0000000-0000-4000-8000-000000000001";
const VAULT: &str = "https://vault.azure.net";

/// On the file system of the programs, and unlike any other test's.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn the_demo_tells_its_story_and_leaves_nothing_behind() {
    let temporary = folder();
    let ended = Ended::of(command("imdslet").arg("demo").env("TMPDIR", temporary.path()));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    let lines: Vec<_> = ended.stdout.lines().collect();
    for step in 1..=7 {
        let start = format!("[{step}/7] ");
        assert!(lines.iter().any(|line| line.starts_with(&start)), "{}", ended.stdout);
    }
    for line in [
        "AzureIdentity demoidentity: ClientID c0000000-0000-4000-8000-000000000001",
        "spec.initContainers",
        "200 {\"access_token\":\"eyJ",
        "verified: signature, iss https://sts.windows.net/7e000000-0000-4000-8000-000000000000/, \
         aud https://vault.azure.net, appid c0000000-0000-4000-8000-000000000001",
        "aud https://storage.azure.com",
        "400 {\"error\":\"invalid_request\"",
    ] {
        assert!(ended.stdout.contains(line), "`{line}` is missing: {}", ended.stdout);
    }
    assert_eq!(lines.last(), Some(&"All 7 steps are true."));
    // A token in a terminal is a token in a recording.
    let is_token = |word: &str| word.contains("eyJ") && word.len() > 200;
    assert!(!ended.stdout.split(['"', ' ']).any(is_token), "{}", ended.stdout);
    assert!(is_empty(temporary.path()), "{:?}", fs::read_dir(temporary.path()).unwrap().next());
    for (pid, line) in processes_with(temporary.path().to_str().unwrap()) {
        assert!(ends(pid), "{line} is left behind");
    }
}

#[test]
fn a_demo_that_is_kept_serves_until_it_is_told_to_end() {
    let temporary = folder();
    let mut demo =
        Running::start(command("imdslet").args(["demo", "--keep"]).env("TMPDIR", temporary.path()));
    demo.line(|line| line.starts_with("Still serving"));
    let host = demo.line(|line| line.contains("export AZURE_POD_IDENTITY_AUTHORITY_HOST="));
    let port = host.trim_end().rsplit_once(':').unwrap().1.parse().unwrap();
    demo.line(|line| line.contains("/state"));
    let (status, state) = get(port, "/state", "");
    assert_eq!(status, 200, "{state}");
    assert_eq!(state["hold"], false);
    let identity = &state["identities"][0];
    assert_eq!(
        (&identity["name"], &identity["default"]),
        (&json!("default/demoidentity"), &json!(true))
    );
    assert_eq!(identity["tokens"].as_array().unwrap().len(), 2);
    let children = processes_with(temporary.path().to_str().unwrap());
    assert_eq!(children.len(), 2, "the webhook and the sidecar: {children:?}");
    assert!(!is_empty(temporary.path()));

    demo.signal(Signal::TERM);
    assert_eq!(demo.ended().code, Some(0));
    for (pid, line) in children {
        assert!(ends(pid), "{line} is left behind");
    }
    assert!(is_empty(temporary.path()));
}

#[test]
fn a_demo_without_the_other_programs_says_how_to_build_them() {
    let alone = folder();
    let path = alone.path().join("imdslet");
    fs::hard_link(program("imdslet"), &path).unwrap();
    let run = || {
        let mut command = std::process::Command::new(&path);
        Ended::of(command.env_clear().arg("demo").env("TMPDIR", alone.path()))
    };
    let missing = |name: &str| {
        format!(
            "imdslet: {name} is not in {}, beside imdslet; build all programs: cargo build \
             --release\n",
            alone.path().display()
        )
    };
    let ended = run();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    assert_eq!(ended.stderr, missing("imdslet-webhook"));
    // What cannot be run is no webhook.
    fs::write(alone.path().join("imdslet-webhook"), "").unwrap();
    assert_eq!(run().stderr, missing("imdslet-sidecar"));
    fs::write(alone.path().join("imdslet-sidecar"), "").unwrap();
    let ended = run();
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("imdslet-webhook does not start: "), "{}", ended.stderr);
    assert_eq!(fs::read_dir(alone.path()).unwrap().count(), 3, "nothing else is left behind");
}

/// `imdslet emulate entra` with one application, and an issuer that it trusts.
pub(crate) struct Entra {
    running: Running,
    addr: SocketAddr,
    pub(crate) ca: String,
    client: Client,
    pub(crate) issuer: LocalIssuer,
    _folder: TempDir,
}

impl Entra {
    pub(crate) fn start() -> Self {
        let folder = folder();
        let issuer = LocalIssuer::generate("https://issuer.example").unwrap();
        fs::write(folder.path().join("jwks.json"), json!(issuer.jwks()).to_string()).unwrap();
        // Paths start at the file's own folder, not at the program's.
        let config = format!(
            "tenants: [{{id: {TENANT}, applications: [{{clientId: {CLIENT}, \
             objectId: 0b000000-0000-4000-8000-000000000001, secrets: [{SECRET}], \
             identifierUris: ['api://imdslet-demo']}}]}}]\n\
             issuers: [{{issuer: 'https://issuer.example', jwksFile: jwks.json}}]\n\
             federatedCredentials: [{{clientId: {CLIENT}, issuer: 'https://issuer.example', \
             subject: 'system:serviceaccount:web:db', audiences: ['api://AzureADTokenExchange']}}]\n"
        );
        let (file, ca) = (folder.path().join("entra.yaml"), folder.path().join("ca.pem"));
        fs::write(&file, config).unwrap();
        let mut running = Running::start(&mut emulate(&file, "127.0.0.1:0", Some(&ca)));
        let addr = running.listening(None);
        let ca = fs::read_to_string(ca).unwrap();
        let client = Client::new(Trust::nobody().and(&ca).unwrap()).unwrap();
        Self { running, addr, ca, client, issuer, _folder: folder }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    /// A token by client secret.
    async fn token(&self, secret: &str) -> (u16, Value) {
        self.token_by(&[("client_secret", secret)]).await
    }

    /// What the application is answered that asks for a token with this credential.
    pub(crate) async fn token_by(&self, credential: &[(&str, &str)]) -> (u16, Value) {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", CLIENT)
            .append_pair("scope", "https://vault.azure.net/.default")
            .extend_pairs(credential)
            .finish();
        let request = Request::post(self.url(&format!("/{TENANT}/oauth2/v2.0/token")))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = self.client.request(request.body(form.into()).unwrap()).await.unwrap();
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
    }

    /// A token of the pod's service account, as its cluster makes it.
    pub(crate) fn service_account_token(&self, audience: &str) -> String {
        let token = ServiceAccountToken {
            namespace: "web",
            service_account: "db",
            pod_name: "web-1",
            pod_uid: HEADER,
            audience,
            lifetime: Duration::from_hours(1),
        };
        self.issuer.service_account_token(&token, SystemTime::now()).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(&self.url(path)).await.unwrap();
        serde_json::from_slice(answer.body()).unwrap()
    }

    async fn verify(&self, token: &str) -> Claims {
        self.verify_of(TENANT, token, VAULT).await
    }

    pub(crate) async fn verify_of(&self, tenant: &str, token: &str, audience: &str) -> Claims {
        let keys = self.get(&format!("/{tenant}/discovery/v2.0/keys")).await;
        let keys: Jwks = serde_json::from_value(keys).unwrap();
        verify_access_token(token, &keys, audience, tenant, SystemTime::now()).unwrap()
    }

    pub(crate) async fn put(&self, config: &str) -> (u16, String) {
        let request = Request::put(self.url("/_emulator/config"));
        let request = request.body(Full::new(Bytes::from(config.to_owned()))).unwrap();
        let answer = self.client.request(request).await.unwrap();
        (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// All that it said until it ended well.
    pub(crate) fn end(self) -> String {
        self.running.signal(Signal::TERM);
        let ended = self.running.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout + &ended.stderr
    }
}

fn emulate(config: &Path, listen: &str, ca: Option<&Path>) -> std::process::Command {
    let mut command = command("imdslet");
    command.args(["emulate", "entra", "--listen", listen]).arg("--config").arg(config);
    if let Some(ca) = ca {
        command.arg("--ca-out").arg(ca);
    }
    command
}

#[tokio::test]
async fn the_emulator_gives_tokens_and_takes_another_configuration() {
    let entra = Entra::start();
    let (status, body) = entra.token(SECRET).await;
    assert_eq!(status, 200, "{body}");
    let claims = entra.verify(body["access_token"].as_str().unwrap()).await;
    assert_eq!((claims.appid.as_str(), claims.aud.as_str()), (CLIENT, VAULT));
    let (status, body) = entra.token("wrong").await;
    assert_eq!((status, &body["error"]), (401, &json!("invalid_client")), "{body}");

    // What is wrong changes nothing.
    let (status, said) = entra.put("tenants: [{id: x}]").await;
    assert_eq!(status, 400, "{said}");
    assert!(said.contains("tenants[0].id"), "{said}");
    assert_eq!(entra.token(SECRET).await.0, 200);
    let (status, said) = entra.put(&format!("tenants: [{{id: {TENANT}}}]")).await;
    assert!((200..300).contains(&status), "{status} {said}");
    let (status, body) = entra.token(SECRET).await;
    assert_eq!(status, 400, "{body}");
    assert!(body["error_description"].as_str().unwrap().starts_with("AADSTS700016"), "{body}");
    assert_eq!(entra.get("/_emulator/requests").await["tokenCalls"], 4);

    let log = entra.end();
    assert!(!log.contains(SECRET) && !log.contains("eyJ"), "{log}");
}

#[test]
fn an_emulator_that_cannot_start_says_why() {
    let folder = folder();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let good = file("good.yaml", &format!("tenants: [{{id: {TENANT}}}]"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let cases = [
        (
            file("broken.yaml", "tenants: ["),
            "127.0.0.1:0",
            3,
            "broken.yaml: the configuration is not understood",
        ),
        (file("typo.yaml", "tenant: []"), "127.0.0.1:0", 3, "unknown field `tenant`"),
        (file("id.yaml", "tenants: [{id: x}]"), "127.0.0.1:0", 3, "tenants[0].id is `x`"),
        (
            file(
                "keys.yaml",
                "tenants: []\nissuers: [{issuer: 'https://i.example', jwksFile: gone}]",
            ),
            "127.0.0.1:0",
            3,
            "gone cannot be read",
        ),
        (folder.path().join("none.yaml"), "127.0.0.1:0", 3, "none.yaml cannot be read"),
        (good.clone(), &taken.to_string(), 3, "is another program there?"),
        (good.clone(), "localhost", 2, "invalid value 'localhost' for '--listen <ADDR>'"),
    ];
    for (config, listen, code, said) in cases {
        let ended = Ended::of(&mut emulate(&config, listen, None));
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(said), "`{said}`: {}", ended.stderr);
    }
    let nowhere = folder.path().join("no/such/folder/ca.pem");
    let ended = Ended::of(&mut emulate(&good, "127.0.0.1:0", Some(&nowhere)));
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("--ca-out: cannot write "), "{}", ended.stderr);
}

/// 5. No token, secret or assertion reaches a log, here with the real ones on both sides.
#[tokio::test]
async fn nothing_secret_is_in_a_log() {
    let entra = Entra::start();
    let (pod, assertion) = pod(&entra, &json!([identity(TENANT)]));
    let sidecar = sidecar(&entra, pod.path());
    let port = sidecar.1;
    let (status, body) = imds(port);
    assert_eq!(status, 200, "{body}");
    let token = body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(entra.verify(&token).await.appid, CLIENT);
    // A refusal, which an error message could quote.
    let header = format!("X-IDENTITY-HEADER: {HEADER}x\r\n");
    let query = format!("/msi/token?api-version=2019-08-01&resource={VAULT}");
    assert_eq!(get(port, &query, &header).0, 403);

    sidecar.0.signal(Signal::TERM);
    let ended = sidecar.0.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains(r#""result":"fetched""#), "{}", ended.stdout);
    let logs = [("sidecar", ended.stdout + &ended.stderr), ("Entra ID", entra.end())];
    for (who, log) in logs {
        for secret in [&token, assertion.as_str(), HEADER, SECRET] {
            // A part of it is too much as well.
            for part in secret.split('.') {
                assert!(!log.contains(part), "{part} of {secret} is in the log of {who}: {log}");
            }
        }
    }
}

/// 7. Credentials go only where the sidecar's own arguments say: whoever edits the annotation
/// gains nothing. More in the sidecar's own tests: `an_authority_that_is_not_trusted_gets_no_assertion`,
/// `refusals_and_redirects_are_told_and_not_followed`.
#[tokio::test]
async fn an_annotation_sends_no_credential_elsewhere() {
    let entra = Entra::start();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let url = format!("https://{}", elsewhere.local_addr().unwrap());
    let other_tenant = "7e000000-0000-4000-8000-00000000000f";
    let mut edited = identity(other_tenant);
    for key in ["authority", "authorityHost", "adEndpoint", "endpoint", "tokenEndpoint"] {
        edited[key] = json!(url);
    }
    let (pod, _) = pod(&entra, &json!([edited]));
    let (sidecar, port) = sidecar(&entra, pod.path());
    let (status, body) = imds(port);
    assert_eq!(status, 400, "{body}");
    assert!(body.to_string().contains("AADSTS90002"), "{body}");
    let requests = entra.get("/_emulator/requests").await;
    assert_eq!(requests["tokenCalls"], 1, "{requests}");
    assert_eq!(requests["outcomes"][0]["outcome"], "90002", "{requests}");
    assert!(elsewhere.accept().is_err(), "it went where the annotation said");
    drop(sidecar);
}

/// A tenant that is no tenant could lead to another path of the authority.
#[tokio::test]
async fn a_tenant_that_is_none_is_not_asked_for() {
    let entra = Entra::start();
    let (pod, _) = pod(&entra, &json!([identity("../../_emulator")]));
    let (sidecar, port) = sidecar(&entra, pod.path());
    let (status, body) = imds(port);
    assert!([400, 503].contains(&status), "{status} {body}");
    assert_eq!(entra.get("/_emulator/requests").await["tokenCalls"], 0);
    drop(sidecar);
}

pub(crate) fn identity(tenant: &str) -> Value {
    json!({
        "name": "web/db", "source": "federated", "clientId": CLIENT, "resourceId": null,
        "objectId": null, "tenantId": tenant, "allowedResources": null, "secret": null,
    })
}

/// The volume of a pod as the kubelet lays it out, and the service account token in it.
pub(crate) fn pod(entra: &Entra, identities: &Value) -> (TempDir, String) {
    let pod = folder();
    let token = entra.service_account_token("api://AzureADTokenExchange");
    let content = json!({"version": 1, "hold": false, "identities": identities}).to_string();
    turn(pod.path(), "..1", &[("identities.json", &content), ("token", &token)]);
    (pod, token)
}

/// A sidecar that asks `entra`, and its port.
pub(crate) fn sidecar(entra: &Entra, dir: &Path) -> (Running, u16) {
    sidecar_with(entra, dir, &[])
}

pub(crate) fn sidecar_with(entra: &Entra, dir: &Path, more: &[String]) -> (Running, u16) {
    let mut command = command("imdslet-sidecar");
    command
        .args(["serve", "--port=0", "--mode=native"])
        .arg(format!("--dir={}", dir.display()))
        .arg(format!("--authority={}", entra.url("")))
        .args(more)
        .env("IMDSLET_HEADER", HEADER)
        .env("IMDSLET_EXTRA_CA", &entra.ca);
    let mut sidecar = Running::start(&mut command);
    let port = sidecar.listening(None).port();
    (sidecar, port)
}

fn imds(port: u16) -> (u16, Value) {
    imds_for(port, VAULT)
}

pub(crate) fn imds_for(port: u16, resource: &str) -> (u16, Value) {
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01";
    get(port, &format!("{path}&resource={resource}"), "Metadata: true\r\n")
}

/// Status and body of a GET from a sidecar.
fn get(port: u16, uri: &str, headers: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = format!(
        "GET {uri} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")))
}
