//! A pod's folder as the kubelet lays it out, and the sidecar that reads it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The pod's service account token.
pub(crate) const ASSERTION: &str = "s3rvice.acc0unt.t0";

/// The pod's uid.
pub(crate) const HEADER: &str = "4d1b6c1e-92a4-4a53-9d6e-0f7f3a3c2b10";

/// `identities.json` of a pod that is not bound yet.
pub(crate) fn waiting() -> String {
    json!({"version": 1, "hold": true, "identities": []}).to_string()
}

/// `identities.json` of a pod with these identities.
pub(crate) fn bound(names: &[&str]) -> String {
    let identities: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            json!({
                "name": name,
                "source": "federated",
                "clientId": format!("c0000000-0000-0000-0000-00000000000{at}"),
                "tenantId": format!("70000000-0000-0000-0000-00000000000{at}"),
            })
        })
        .collect();
    json!({"version": 1, "hold": false, "identities": identities}).to_string()
}

/// The program, without arguments.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imdslet-sidecar"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// The exit code and the line of a startup probe of the sidecar on `port`.
pub(crate) fn probe(port: u16) -> (Option<i32>, String) {
    let output = program().arg("probe").arg(format!("--port={port}")).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

pub(crate) fn pid(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap()
}

/// The folder that the kubelet projects.
pub(crate) struct Pod(TempDir);

impl Pod {
    pub(crate) fn new(identities: &str) -> Self {
        let pod = Self::empty();
        pod.turn("..1", identities);
        pod
    }

    /// Before the kubelet has written anything.
    pub(crate) fn empty() -> Self {
        let pod = Self(tempfile::tempdir().unwrap());
        for name in ["identities.json", "token"] {
            pod.project(name);
        }
        pod
    }

    pub(crate) fn dir(&self) -> std::path::Display<'_> {
        self.0.path().display()
    }

    /// Projects a file that not every pod has, with its next turn.
    pub(crate) fn project(&self, name: &str) {
        symlink(Path::new("..data").join(name), self.0.path().join(name)).unwrap();
    }

    /// Writes the files to a new folder and renames `..data` to lead there, as the kubelet does.
    pub(crate) fn turn(&self, generation: &str, identities: &str) {
        self.turn_with(generation, identities, &[]);
    }

    /// The same, with more files.
    pub(crate) fn turn_with(&self, generation: &str, identities: &str, more: &[(&str, &str)]) {
        let token = format!("{ASSERTION}\n");
        let own = [("identities.json", identities), ("token", &token)];
        self.turn_to(generation, &[&own, more].concat());
    }

    /// The same, with these files and no other.
    pub(crate) fn turn_to(&self, generation: &str, files: &[(&str, &str)]) {
        let dir = self.0.path();
        fs::create_dir(dir.join(generation)).unwrap();
        for (name, content) in files {
            fs::write(dir.join(generation).join(name), content).unwrap();
        }
        symlink(generation, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    }
}

/// A running sidecar; dropping it ends it.
pub(crate) struct Sidecar {
    pub(crate) child: Child,
    pub(crate) port: u16,
    log: BufReader<ChildStdout>,
    /// What was read of the log so far.
    read: String,
}

impl Sidecar {
    pub(crate) fn start(pod: &Pod, settings: &[String]) -> Self {
        Self::start_in(pod.0.path(), settings)
    }

    /// Starts it on `dir`. `settings` are arguments, and variables as `NAME=value`.
    pub(crate) fn start_in(dir: &Path, settings: &[String]) -> Self {
        let (args, variables): (Vec<_>, Vec<_>) =
            settings.iter().partition(|setting| setting.starts_with("--"));
        let mut command = program();
        command
            .args(["serve", "--port=0", "--authority=https://login.invalid", "--mode=native"])
            .arg(format!("--dir={}", dir.display()))
            .args(args)
            .env("IMDSLET_HEADER", HEADER)
            .envs(variables.iter().map(|variable| variable.split_once('=').unwrap()))
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        let mut sidecar = Self { child, port: 0, log, read: String::new() };
        let event = sidecar.event("listening").unwrap();
        let (host, port) = event["addr"].as_str().unwrap().rsplit_once(':').unwrap();
        assert_eq!(host, "127.0.0.1");
        sidecar.port = port.parse().unwrap();
        sidecar
    }

    /// Reads the log up to the event with this message.
    pub(crate) fn event(&mut self, message: &str) -> Option<Value> {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            let event: Value = serde_json::from_str(&line).unwrap();
            self.read.push_str(&line);
            if event["message"] == message {
                return Some(event);
            }
            line.clear();
        }
        None
    }

    /// Whether the log that was read so far holds `text`.
    pub(crate) fn said(&self, text: &str) -> bool {
        self.read.contains(text)
    }

    /// Status and body of the answer to a GET with more header lines.
    pub(crate) fn get(&self, uri: &str, headers: &str) -> (u16, Value) {
        let answer = self.raw(uri, headers);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    pub(crate) fn imds(&self, query: &str) -> (u16, Value) {
        self.get(&format!("/metadata/identity/oauth2/token?{query}"), "Metadata: true\r\n")
    }

    pub(crate) fn raw(&self, uri: &str, headers: &str) -> String {
        ask(self.port, uri, headers)
    }

    /// Sends the signal, and gives the whole log once the program has ended well.
    pub(crate) fn end(self, signal: Signal) -> String {
        kill_process(pid(&self.child), signal).unwrap();
        self.ended()
    }

    /// The whole log, once the program has ended well.
    pub(crate) fn ended(mut self) -> String {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{rest}");
        std::mem::take(&mut self.read) + &rest
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Ended already, if the test came to its end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The whole answer to a GET with more header lines.
pub(crate) fn ask(port: u16, uri: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = format!(
        "GET {uri} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
