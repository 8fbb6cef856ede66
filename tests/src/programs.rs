//! The real programs as child processes, which end with their test.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};
use serde_json::Value;

/// The program `name`, as cargo built it for the profile of this test.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is not built: `cargo build`, or `cargo test` for all packages, builds it",
        path.display()
    );
    path
}

/// The program `name` with an empty environment and no input.
#[must_use]
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.env_clear().stdin(Stdio::null());
    command
}

/// A program that runs. It is killed when this is dropped.
pub struct Running {
    child: Child,
    log: BufReader<ChildStdout>,
    said: String,
}

/// How a program ended, and all that it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal killed it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ended {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Self {
        let is_busy = |error: &io::Error| error.kind() == io::ErrorKind::ExecutableFileBusy;
        let mut output = command.output();
        // A program that was written just now: a child of another test that is on its way to its own
        // program has inherited the file, open for writing.
        for _ in 0..10_000 {
            if !output.as_ref().is_err_and(is_busy) {
                break;
            }
            std::thread::yield_now();
            output = command.output();
        }
        let output = output.unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Running {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        Self { child, log, said: String::new() }
    }

    /// Reads on until a line of standard output is `wanted`.
    pub fn line(&mut self, mut wanted: impl FnMut(&str) -> bool) -> String {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            self.said.push_str(&line);
            if wanted(line.trim_end()) {
                return line;
            }
            line.clear();
        }
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        panic!("the program ended before it said so: {}{stderr}", self.said);
    }

    /// Reads on until the event `listening`, of the server with this name if there are several.
    pub fn listening(&mut self, server: Option<&str>) -> SocketAddr {
        let is_it = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|event| {
                let text = |key: &str| event.get(key).and_then(Value::as_str);
                text("message") == Some("listening") && text("server") == server
            })
        };
        let event: Value = serde_json::from_str(&self.line(is_it)).unwrap();
        event.get("addr").and_then(Value::as_str).unwrap().parse().unwrap()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end.
    #[must_use]
    pub fn ended(mut self) -> Ended {
        let mut stdout = std::mem::take(&mut self.said);
        let mut stderr = String::new();
        self.log.read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Ended { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, if the test came to its end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The processes of this machine that have `text` in their command line. One that has ended and
/// was not waited for has none.
#[must_use]
pub fn processes_with(text: &str) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        // It may have ended meanwhile.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push((pid, line));
        }
    }
    found
}

/// Whether the process ends, or has ended, within ten seconds.
#[must_use]
pub fn ends(pid: Pid) -> bool {
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let mut waiting = [PollFd::new(&handle, PollFlags::IN)];
    let deadline = Timespec { tv_sec: 10, tv_nsec: 0 };
    poll(&mut waiting, Some(&deadline)).unwrap() == 1
}
