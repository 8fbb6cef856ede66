//! The program itself: what it says, where it listens, how it ends.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// The program with the objects of a file, of which there are none.
fn program(dir: &Path, more: &[&str]) -> Command {
    let manifests = dir.join("manifests.json");
    fs::write(&manifests, r#"{"kind": "List", "items": []}"#).unwrap();
    let mut command = of_a_cluster();
    command.arg(format!("--manifests={}", manifests.display())).args(more);
    command
}

fn of_a_cluster() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imdslet-webhook"));
    command
        .env_clear()
        .args(["--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Reads the log on until one of the servers listens; its address.
fn address(log: &mut BufReader<ChildStdout>, server: &str) -> String {
    let mut events = log.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let event = events.find(|event| event["message"] == "listening" && event["server"] == server);
    event.unwrap()["addr"].as_str().unwrap().to_owned()
}

/// The program, which runs and is ended with its test.
struct Running {
    child: Child,
    log: BufReader<ChildStdout>,
    health: String,
    admission: String,
    tls: Arc<ClientConfig>,
}

/// A connection of the API server's kind.
type Connection = StreamOwned<ClientConnection, TcpStream>;

impl Running {
    fn start(dir: &Path) -> Self {
        let ca = dir.join("ca.pem");
        let mut child = program(dir, &[&format!("--ca-out={}", ca.display())]).spawn().unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let health = address(&mut log, "health");
        let admission = address(&mut log, "admission");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { child, log, health, admission, tls: Arc::new(tls) }
    }

    /// What the kubelet is told.
    fn healthy(&self, path: &str) -> String {
        get(&self.health, path)
    }

    /// Begins a request whose body is announced and not sent. The answer's first line: whether the
    /// body is wanted.
    fn announce(&self, length: usize) -> (Connection, String) {
        let tcp = TcpStream::connect(&self.admission).unwrap();
        let name = "localhost".try_into().unwrap();
        let mut tls = StreamOwned::new(ClientConnection::new(self.tls.clone(), name).unwrap(), tcp);
        write!(
            tls,
            "POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
        .unwrap();
        let answer = head(&mut tls);
        (tls, answer)
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, if the test came to its end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn get(addr: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(addr).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// The head of an answer, to its empty line.
fn head(connection: &mut Connection) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A review of a pod without the label.
fn review() -> String {
    let request = json!({
        "uid": "1", "operation": "CREATE", "namespace": "web",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "object": {"metadata": {"name": "web-1"}, "spec": {"containers": [{"name": "app"}]}},
    });
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
        .to_string()
}

#[test]
fn it_says_where_it_listens_writes_its_ca_and_ends_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Running::start(dir.path());
    let ca = fs::read_to_string(dir.path().join("ca.pem")).unwrap();
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"));
    let answer = program.healthy("/healthz");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    program.terminate();
    assert!(program.child.wait().unwrap().success());
}

/// Bodies of 8 MiB that are on their way take all the room that there is for bodies.
#[test]
fn health_answers_while_admission_has_no_room_and_says_so_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let program = Running::start(dir.path());
    let mut on_their_way = Vec::new();
    let began = Instant::now();
    let refused = loop {
        let (connection, answer) = program.announce(8 * 1024 * 1024);
        if !answer.starts_with("HTTP/1.1 100") {
            break answer;
        }
        on_their_way.push(connection);
        // What is on its way is given up after four seconds, and on a slow machine that was before.
        let is_slow = began.elapsed() > Duration::from_secs(3);
        assert!(on_their_way.len() <= 8 || is_slow, "there is room for more than 64 MiB");
        assert!(on_their_way.len() < 100, "nobody is ever refused");
    };
    assert!(on_their_way.len() >= 8 || began.elapsed() > Duration::from_secs(3), "{refused}");
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: 1\r\n"), "{refused}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = program.healthy(path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let numbers = program.healthy("/metrics");
    let counted = r#"outcome="unanswered",reason="Overloaded"} 1"#;
    assert!(numbers.contains(counted), "{numbers}");
}

#[test]
fn told_to_end_it_is_not_ready_answers_what_is_in_flight_and_is_gone_within_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Running::start(dir.path());
    let body = review();
    let (mut connection, answer) = program.announce(body.len());
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    program.terminate();
    let began = Instant::now();
    let readiness = loop {
        let readiness = program.healthy("/readyz");
        if readiness.starts_with("HTTP/1.1 503") {
            break readiness;
        }
        assert!(began.elapsed() < Duration::from_secs(3), "it is still ready: {readiness}");
    };
    assert!(readiness.ends_with("shutting down\n"), "{readiness}");
    assert!(program.healthy("/healthz").starts_with("HTTP/1.1 200"), "it is alive to its end");

    connection.write_all(body.as_bytes()).unwrap();
    let answer = head(&mut connection);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Its connection is closed, so that whoever asks next asks somebody else.
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["response"]["allowed"], true, "{answer}");

    assert!(program.child.wait().unwrap().success());
    let mut rest = String::new();
    program.log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(r#""reason":"Finished""#), "{rest}");
}

/// An API server that is slow to tell its version, while everything else is there, would else leave a
/// replica that is ready and refuses connections.
#[test]
fn it_is_not_ready_before_it_listens_for_admissions() {
    let dir = tempfile::tempdir().unwrap();
    // Takes connections, and says nothing.
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = dir.path().join("kubeconfig");
    let server = format!("http://{}", api.local_addr().unwrap());
    let cluster = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]});
    fs::write(&config, cluster.to_string()).unwrap();
    let mut child = of_a_cluster().env("KUBECONFIG", config).spawn().unwrap();
    let health = address(&mut BufReader::new(child.stdout.take().unwrap()), "health");
    let answer = get(&health, "/readyz");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("waiting: admission server, for "), "{answer}");
}

#[test]
fn every_wrong_setting_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("namespaces.json");
    fs::write(&file, r#"{"web": {"httpsProxy": "socks5://me:p4ss@proxy.example"}}"#).unwrap();
    let file = format!("--namespace-settings={}", file.display());
    let resources = r#"--sidecar-resources={"limits":{"memory":"16"}}"#;
    let wrong = ["--cloud=mars", "--port=1", resources, &file];
    let output = program(dir.path(), &wrong).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "imdslet-webhook: --cloud (IMDSLET_CLOUD) is `mars`; it must be `public` or `usgov` or `china`\n\
         --namespace-settings (IMDSLET_NAMESPACE_SETTINGS) is `(a file)`; it must be a file whose \
         `web.httpsProxy` is http://[USER[:PASSWORD]@]HOST[:PORT]\n\
         --sidecar-resources (IMDSLET_SIDECAR_RESOURCES) is `{\"limits\":{\"memory\":\"16\"}}`; it must be \
         requests and limits of cpu and memory, as JSON; this has a limit of memory below 8Mi\n\
         --port (IMDSLET_PORT) is `1`; it must be a port from 1024 to 65535\n"
    );
}

/// One of each sort: a word, an address, a setting, what is in a file, a file and a folder that are
/// not there, and two flags that do not go together.
#[test]
fn a_mistake_of_each_sort_is_named_in_one_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("ca.pem"), "none").unwrap();
    fs::write(path("manifests.json"), "{}").unwrap();
    let mut webhook = Command::new(env!("CARGO_BIN_EXE_imdslet-webhook"));
    webhook
        .env_clear()
        .args(["--role=controller", "--log-level=loud", "--listen=8443"])
        .arg("--namespace-settings=/nowhere/namespaces.json")
        .arg(format!("--extra-ca={}", path("ca.pem")))
        .arg(format!("--manifests={}", path("manifests.json")))
        .arg(format!("--tls-dir={}", path("tls")))
        .arg(format!("--ca-out={}", path("out/ca.pem")))
        .env("IMDSLET_TLS_MIN_VERSION", "1.1")
        .env("IMDSLET_CLOUD", "mars");
    let output = webhook.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let said: Vec<_> = said.trim_start_matches("imdslet-webhook: ").lines().collect();
    let manifests = format!("--manifests: {}: ", path("manifests.json"));
    let expected = [
        "--namespace-settings: cannot read /nowhere/namespaces.json: No such file or directory (os error 2)",
        "--cloud (IMDSLET_CLOUD) is `mars`; it must be `public` or `usgov` or `china`",
        "--extra-ca (IMDSLET_EXTRA_CA) is `(a file)`; it must be a PEM file with certificates",
        "--role controller works on a cluster; leave --manifests out",
        &manifests,
        "--listen (IMDSLET_LISTEN) is `8443`; it must be an address with a port, such as 0.0.0.0:8443",
        &format!(
            "--ca-out: there is no folder {}; make it, or write the file elsewhere",
            path("out")
        ),
        &format!(
            "--tls-dir: there is no folder {}; mount one with tls.crt and tls.key there",
            path("tls")
        ),
        "--tls-min-version (IMDSLET_TLS_MIN_VERSION) is `1.1`; it must be `1.2` or `1.3`",
        "--log-level (IMDSLET_LOG_LEVEL) is `loud`; it must be `error` or `warn` or `info` or `debug`",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}\n{expected}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for flag in ["--extra-ca", "--namespace-settings"] {
        let output = program(dir.path(), &[&format!("{flag}=/nowhere/file")]).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("{flag}: cannot read /nowhere/file")), "{said}");
    }
}
