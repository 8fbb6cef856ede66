//! Programs of imdslet that the command starts, and ends with itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::https::{Client, Trust};

/// How long a program may take to listen. It needs milliseconds.
const START: Duration = Duration::from_secs(10);

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It is not where it is built.
    #[error("{name} is not in {folder}, beside imdslet; build all programs: cargo build --release")]
    Missing {
        /// The program.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// There is no place for its files.
    #[error("cannot make a temporary folder: {cause}; set TMPDIR to one that can be written")]
    Folder {
        /// Why not.
        cause: String,
    },
    /// It cannot be started, or has ended before it was ready.
    #[error("{program} does not start: {cause}")]
    NotStarted {
        /// The program.
        program: String,
        /// Its own words, or the system's.
        cause: String,
    },
}

/// Why a program does not run on in the place of this one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotBecome {
    /// Nobody has started this.
    #[error("the program that started this has ended")]
    Orphan,
    /// The system refuses.
    #[error("cannot run {program}: {cause}")]
    Refused {
        /// The program.
        program: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// Becomes a program that is killed when the process `parent`, which has started this one, ends in
/// whatever way. Where the system has no such thing it becomes the program all the same.
#[must_use]
pub fn become_child(parent: u32, program: &OsStr, args: &[OsString]) -> NotBecome {
    let refused =
        |cause| NotBecome::Refused { program: Path::new(program).display().to_string(), cause };
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        // It stays in force for the program that this becomes (prctl(2), PR_SET_PDEATHSIG).
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            return refused(error.into());
        }
        // It may have ended before that.
        let own = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
        if own != Some(parent) {
            return NotBecome::Orphan;
        }
    }
    refused(std::process::Command::new(program).args(args).exec())
}

/// What starts `program` so that it ends with this process, also where that is killed: the command
/// beside it, which becomes it. The kernel counts the thread that starts it for the parent, so that must be
/// one that does not end before.
fn ending_with_this(program: &Path) -> Command {
    let imdslet = program.with_file_name("imdslet");
    // A plugin of kubectl may have been copied under another name, and its programs with it.
    if !imdslet.is_file() {
        return Command::new(program);
    }
    let mut command = Command::new(imdslet);
    command.arg("become").arg(std::process::id().to_string()).arg("--").arg(program);
    command
}

/// A program that runs. It is killed when this is dropped.
pub(crate) struct Program {
    /// The line with which it was started.
    pub(crate) command: String,
    addrs: BTreeMap<String, SocketAddr>,
    // Kept for what happens when they are dropped.
    child: Child,
    _log: JoinSet<()>,
}

/// The program `name` in `folder`.
pub(crate) fn find(folder: &Path, name: &str) -> Result<PathBuf, ProgramError> {
    let path = folder.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(ProgramError::Missing { name: name.to_owned(), folder: folder.to_owned() })
    }
}

/// A temporary folder that is removed when it is dropped; its name begins with `prefix`.
pub(crate) fn folder(prefix: &str) -> Result<TempDir, ProgramError> {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir();
    folder.map_err(|error| ProgramError::Folder { cause: error.to_string() })
}

impl Program {
    /// Starts `program` with this environment alone, and waits until each of `servers` listens.
    /// A server is the field `server` of the event `listening`; `""` is the first event without.
    pub(crate) async fn start(
        program: &Path,
        args: &[String],
        environment: &[(String, String)],
        servers: &[&str],
    ) -> anyhow::Result<Self> {
        let shown = program.display().to_string();
        let failed = |cause: String| ProgramError::NotStarted { program: shown.clone(), cause };
        let mut child = ending_with_this(program)
            .args(args)
            .env_clear()
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let stdout = child.stdout.take().context("the program has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let addrs = match timeout(START, listening(&mut lines, servers)).await {
            Ok(Ok(addrs)) => addrs,
            Ok(Err(last_line)) => return Err(failed(last_words(child, last_line).await).into()),
            Err(_) => return Err(failed(format!("it does not listen after {START:?}")).into()),
        };
        let mut log = JoinSet::new();
        // A pipe that nobody reads would stop the program once it is full.
        log.spawn(drain(lines));
        let command = format!("{shown} {}", args.join(" "));
        Ok(Self { command, addrs, child, _log: log })
    }

    /// Where `server` listens.
    pub(crate) fn addr(&self, server: &str) -> anyhow::Result<SocketAddr> {
        self.addrs.get(server).copied().with_context(|| format!("{server} does not listen"))
    }

    /// The port of [`Program::addr`].
    pub(crate) fn port(&self, server: &str) -> anyhow::Result<u16> {
        Ok(self.addr(server)?.port())
    }

    /// Waits for an end that nobody asked for.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("{} has ended: {status}", self.command),
            Err(error) => anyhow::anyhow!("{} has ended: {error}", self.command),
        }
    }

    /// Waits until the program says that it is ready.
    pub(crate) async fn until_ready(&self) -> anyhow::Result<()> {
        let client = Client::new(Trust::nobody())?;
        let url = format!("http://{}/readyz", self.addr("health")?);
        let ready = async {
            loop {
                if client.get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(START, ready).await {
            Ok(()) => Ok(()),
            Err(_) => bail!("{url} does not get ready within {START:?}"),
        }
    }
}

/// Reads on until each of `servers` listens, and gives their addresses; the last line, if the program
/// says nothing more before.
async fn listening(
    lines: &mut Lines<BufReader<ChildStdout>>,
    servers: &[&str],
) -> Result<BTreeMap<String, SocketAddr>, String> {
    let mut addrs = BTreeMap::new();
    let mut said = String::new();
    while servers.iter().any(|server| !addrs.contains_key(*server)) {
        match lines.next_line().await {
            Ok(Some(line)) => {
                note_address(&line, &mut addrs);
                said = line;
            }
            _ => return Err(said),
        }
    }
    Ok(addrs)
}

/// Why a program has ended: its standard error, or the last line of its log, and how it ended.
async fn last_words(mut child: Child, last_line: String) -> String {
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut words).await.ok();
    }
    let status = child.wait().await.map_or_else(|e| e.to_string(), |s| s.to_string());
    let mut said = [words.trim(), last_line.trim()].into_iter();
    let words = said.find(|words| !words.is_empty()).unwrap_or("it says nothing");
    format!("{words} ({status})")
}

fn note_address(line: &str, addrs: &mut BTreeMap<String, SocketAddr>) {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return };
    let field = |name: &str| event.get(name).and_then(Value::as_str);
    if field("message") == Some("listening")
        && let Some(addr) = field("addr").and_then(|addr| addr.parse().ok())
    {
        addrs.entry(field("server").unwrap_or_default().to_owned()).or_insert(addr);
    }
}

async fn drain(mut lines: Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(_)) = lines.next_line().await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_quoted_with_how_it_ended() {
        for (script, expected) in [
            ("echo all; echo why >&2; exit 7", "/bin/sh does not start: why (exit status: 7)"),
            ("echo all; exit 7", "/bin/sh does not start: all (exit status: 7)"),
            ("exit 7", "/bin/sh does not start: it says nothing (exit status: 7)"),
        ] {
            let args = ["-c".to_owned(), script.to_owned()];
            let ended = Program::start(Path::new("/bin/sh"), &args, &[], &[""]).await;
            assert_eq!(ended.err().unwrap().to_string(), expected);
        }
    }
}
