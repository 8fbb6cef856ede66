//! `imdslet`, the command.

mod commands;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::FromArgMatches;
use imdslet::completion::{self, ManError};
use imdslet::config::{self, BecomeArgs, CommandLine, ManArgs, SettingsError, Task};
use imdslet::demo;
use imdslet::emulate::{self, Emulate, ImdsArgs};
use imdslet::programs::{self, ProgramError};
use imdslet::token::request::{Question, Unclear};
use imdslet::token::{self, TokenArgs};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The answer is no: a pod refused, a step of the demo failed.
const NO: u8 = 1;
/// Used wrongly.
const USAGE: u8 = 2;
/// It could not be found out: unreadable input, a missing program, a busy port.
const UNKNOWN: u8 = 3;
/// Ended by a signal before it was done, as shells number SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    let matches = config::command_line(name.as_deref()).get_matches();
    let line = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let ended = match line.task {
        Task::Inject(args) => commands::inject(args),
        Task::Check(args) => block_on(commands::check(args)),
        Task::Explain(args) => commands::explain(args),
        Task::Migrate(args) => commands::migrate(args),
        Task::Demo(args) => block_on(run_demo(args.keep)),
        Task::Completion(args) => print(&completion::completion(args.shell)).map(|()| 0),
        Task::Man(args) => run_man(&args),
        Task::Become(args) => run_become(&args),
        Task::Token(args) => block_on(run_token(args)),
        Task::Emulate(Emulate::Entra(args)) => block_on(async move {
            start_log();
            let shutdown = CancellationToken::new();
            let ended = shutdown.clone();
            let mut serving = std::pin::pin!(emulate::entra(&args, shutdown));
            // Serving goes on after a signal until what is in flight is answered.
            // It listens for signals before it says that it serves.
            tokio::select! {
                biased;
                () = told_to_end() => ended.cancel(),
                served = &mut serving => return served.map(|()| 0),
            }
            serving.await.map(|()| 0)
        }),
        Task::Emulate(Emulate::Imds(args)) if args.env => run_in_the_background(),
        Task::Emulate(Emulate::Imds(args)) => block_on(run_imds(args)),
    };
    ExitCode::from(ended.unwrap_or_else(|error| {
        complain(&format!("imdslet: {error:#}"));
        if is_misuse(&error) { USAGE } else { UNKNOWN }
    }))
}

/// Whether the command line says something that cannot be meant.
fn is_misuse(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SettingsError::Mistakes(_)))
        || matches!(error.downcast_ref(), Some(ManError::Unknown(_)))
        || error.is::<Unclear>()
}

fn run_man(args: &ManArgs) -> anyhow::Result<u8> {
    match &args.out_dir {
        Some(folder) => Ok(completion::pages(folder).map(|()| 0)?),
        None => print(&completion::page(&args.command)?).map(|()| 0),
    }
}

fn run_become(args: &BecomeArgs) -> anyhow::Result<u8> {
    let (program, rest) = args.program.split_first().context("no program was given")?;
    Err(programs::become_child(args.parent, program, rest).into())
}

/// Writes an answer. Whoever closes the pipe, as `head` does, has seen enough of it: what is said on
/// standard error and the exit code are as they would be.
fn print(text: &[u8]) -> anyhow::Result<()> {
    print_by(|out| out.write_all(text))
}

/// The same of an answer that `write` writes piece by piece.
fn print_by(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

async fn run_imds(args: ImdsArgs) -> anyhow::Result<u8> {
    if args.command.is_empty() && !args.detached {
        start_log_on_stderr();
    }
    emulate::imds(&args, &own_folder()?, told_to_end()).await
}

/// The same command line without `--env`, in a process that stays.
fn run_in_the_background() -> anyhow::Result<u8> {
    let mut args: Vec<_> = std::env::args_os().skip(1).filter(|arg| arg != "--env").collect();
    args.push("--detached".into());
    let program = std::env::current_exe().context("cannot tell where imdslet itself is")?;
    let said = emulate::in_the_background(&program, args)?;
    io::stdout().write_all(said.as_bytes()).context("cannot print the variables")?;
    Ok(0)
}

/// Where the other programs lie.
fn own_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where imdslet itself is")?;
    Ok(program.parent().context("cannot tell where imdslet itself is")?.to_owned())
}

async fn run_demo(keep: bool) -> anyhow::Result<u8> {
    let folder = own_folder()?;
    // Dropping the story ends its programs and removes its files.
    tokio::select! {
        told = demo::run(&folder, keep) => match told {
            Ok(()) => Ok(0),
            Err(error) if error.is::<ProgramError>() => Err(error),
            Err(error) => {
                complain(&format!("\nThis step is not true: {error:#}"));
                Ok(NO)
            }
        },
        () = told_to_end() => Ok(if keep { 0 } else { INTERRUPTED }),
    }
}

async fn run_token(args: TokenArgs) -> anyhow::Result<u8> {
    let question = Question::new(&args.wanted(), &config::token_variables())?;
    let report = token::ask(question).await?;
    let text = if args.raw {
        for note in report.notes() {
            complain(&format!("note: {note}"));
        }
        report.refused().iter().for_each(|refused| complain(refused));
        report.token().map(|token| format!("{token}\n")).unwrap_or_default()
    } else {
        report.write(args.output)
    };
    print(text.as_bytes())?;
    Ok(if report.token().is_some() { 0 } else { NO })
}

fn block_on(task: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start threads")?.block_on(task)
}

/// Waits for SIGINT, SIGTERM, or for the terminal to be closed.
async fn told_to_end() {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    // All are cancel-safe.
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// For a command whose standard output is read by a shell.
fn start_log_on_stderr() {
    let log = tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false);
    log.with_writer(io::stderr).init();
}

fn start_log() {
    tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false).init();
}

fn complain(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
