//! The program itself: what it says, where it listens, how it ends.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

fn program(dir: &Path, more: &[&str]) -> Command {
    let manifests = dir.join("manifests.json");
    fs::write(&manifests, r#"{"kind": "List", "items": []}"#).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_imdslet-webhook"));
    command
        .env_clear()
        .args(["--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0"])
        .arg(format!("--manifests={}", manifests.display()))
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The address of the event `listening` of one server.
fn address(child: &mut Child, server: &str) -> String {
    let log = BufReader::new(child.stdout.take().unwrap());
    let mut events = log.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let event = events.find(|event| event["message"] == "listening" && event["server"] == server);
    event.unwrap()["addr"].as_str().unwrap().to_owned()
}

#[test]
fn it_says_where_it_listens_writes_its_ca_and_ends_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let mut child = program(dir.path(), &[&format!("--ca-out={}", ca.display())]).spawn().unwrap();
    let mut health = TcpStream::connect(address(&mut child, "health")).unwrap();
    assert!(fs::read_to_string(ca).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    health.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    health.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn every_wrong_setting_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path(), &["--cloud=mars", "--port=1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "imdslet-webhook: --cloud (IMDSLET_CLOUD) is `mars`; it must be `public` or `usgov` or `china`\n\
         --port (IMDSLET_PORT) is `1`; it must be a port from 1024 to 65535\n"
    );
}

#[test]
fn manifests_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path(), &["--extra-ca=/nowhere/ca.pem"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--extra-ca: cannot read /nowhere/ca.pem"), "{said}");
}
