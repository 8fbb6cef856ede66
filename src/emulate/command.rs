//! A command that runs with the variables, and the copy of this program that serves in the
//! background.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// The last variable that is printed, with the process that is to be ended.
const PID: &str = "IMDSLET_EMULATOR_PID";

/// The variables with the process that serves, as the last one.
pub(super) fn with_pid(variables: &[(String, String)]) -> Vec<(String, String)> {
    let mut all = variables.to_vec();
    all.push((PID.to_owned(), std::process::id().to_string()));
    all
}

/// Runs `command` with `variables` beside its own, to its end; gives its exit code, or 128 and the
/// number of the signal that ended it, as shells do.
///
/// A terminal sends Ctrl-C to the command too, so it is for the command to end. SIGTERM and SIGHUP
/// are passed on.
pub(super) async fn run(
    command: &[OsString],
    variables: &[(String, String)],
) -> anyhow::Result<u8> {
    let (program, args) = command.split_first().context("no command was given")?;
    let shown = Path::new(program).display();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let variables = variables.iter().map(|(name, value)| (name, value));
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .envs(variables)
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    loop {
        // All are cancel-safe.
        let passed_on = tokio::select! {
            ended = child.wait() => return Ok(code(ended.context("cannot wait for the command")?)),
            _ = interrupt.recv() => continue,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        if let Some(pid) = pid {
            // It has ended just now, if this fails.
            kill_process(pid, passed_on).ok();
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Starts a copy of this program that serves in the background, and gives what it prints.
///
/// # Errors
///
/// What the copy says where it cannot serve.
pub fn in_the_background(program: &Path, args: Vec<OsString>) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in the terminal is for what runs there.
        .process_group(0)
        .spawn()
        .context("cannot start a copy of imdslet in the background")?;
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().context("the copy has no output")?);
    let last = format!("export {PID}=");
    loop {
        let before = said.len();
        if lines.read_line(&mut said).context("cannot read what the copy says")? == 0 {
            break;
        }
        if said.get(before..).is_some_and(|line| line.starts_with(&last)) {
            return Ok(said);
        }
    }
    let mut words = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut words).context("cannot read what the copy says")?;
    }
    bail!("{}", words.trim().trim_start_matches("imdslet: "))
}
