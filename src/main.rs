//! `imdslet`, the command.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::FromArgMatches;
use imdslet::check::{self, Verdict, Wanted};
use imdslet::completion::{self, ManError};
use imdslet::config::{
    self, CheckArgs, CommandLine, Emulate, ExplainArgs, ImdsArgs, InjectArgs, ManArgs, MigrateArgs,
    SettingsArgs, SettingsError, Task, TokenArgs, wants_no_colour,
};
use imdslet::demo;
use imdslet::documents::{self, Document};
use imdslet::emulate;
use imdslet::explain::{self, Target};
use imdslet::https::{self, Trust};
use imdslet::inject::inject;
use imdslet::live::{Access, Cluster, LiveError};
use imdslet::migrate;
use imdslet::programs::ProgramError;
use imdslet::token;
use imdslet::token::request::{Question, Unclear};
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
        Task::Inject(args) => run_inject(args),
        Task::Check(args) => block_on(run_check(args)),
        Task::Explain(args) => run_explain(args),
        Task::Migrate(args) => run_migrate(args),
        Task::Demo(args) => block_on(run_demo(args.keep)),
        Task::Completion(args) => print(&completion::completion(args.shell)),
        Task::Man(args) => run_man(&args),
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
        None => print(&completion::page(&args.command)?),
    }
}

fn print(text: &[u8]) -> anyhow::Result<u8> {
    io::stdout().write_all(text).context("cannot write to standard output")?;
    Ok(0)
}

fn run_inject(args: InjectArgs) -> anyhow::Result<u8> {
    let settings = args.settings.read()?;
    let documents = documents::read(&args.files)?;
    let injected = inject(documents, &settings, &args.namespace)?;
    for warning in &injected.warnings {
        complain(&format!("warning: {warning}"));
    }
    for refusal in &injected.refusals {
        complain(&format!("refused: {refusal}"));
    }
    if !injected.refusals.is_empty() {
        // Nothing at all, so that nobody applies half of it.
        return Ok(NO);
    }
    let text = injected.write(args.output).context("cannot write the result")?;
    io::stdout().write_all(text.as_bytes()).context("cannot write the result")?;
    complain(&injected.summary());
    Ok(0)
}

/// How long to wait before a cluster is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

async fn run_check(args: CheckArgs) -> anyhow::Result<u8> {
    if args.rbac {
        let role = documents::to_yaml([&check::cluster_role()])?;
        io::stdout().write_all(role.as_bytes()).context("cannot write the ClusterRole")?;
        return Ok(0);
    }
    let mut trust = Trust::web();
    if let Some(path) = &args.extra_ca {
        let pem = std::fs::read_to_string(path);
        let pem = pem.with_context(|| format!("--extra-ca: cannot read {}", path.display()))?;
        trust = trust.and(&pem).context("--extra-ca")?;
    }
    let web = https::Client::new(trust)?;
    let access = Access { kubeconfig: args.kubeconfig, context: args.context };
    let cluster = Cluster::connect(&access).await?;
    let wanted = Wanted { workloads: args.workload, namespace: args.namespace };
    let until = Instant::now() + args.wait.unwrap_or_default();
    let report = loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let seen = check::gather(&cluster, &web, &wanted, now).await;
        match seen.map(|facts| check::judge(&facts, env!("CARGO_PKG_VERSION"))) {
            Ok(report) if matches!(report.verdict(), Verdict::Passed | Verdict::Warning) => {
                break report;
            }
            done if Instant::now() + AGAIN > until => break done?,
            _ => tokio::time::sleep(AGAIN).await,
        }
    };
    let is_coloured = io::stdout().is_terminal() && !wants_no_colour();
    let text = report.write(args.output, is_coloured);
    io::stdout().write_all(text.as_bytes()).context("cannot write the result")?;
    Ok(match report.verdict() {
        Verdict::Passed | Verdict::Warning => 0,
        Verdict::Failed => NO,
        Verdict::Unknown => UNKNOWN,
    })
}

fn run_explain(mut args: ExplainArgs) -> anyhow::Result<u8> {
    let (documents, issuer) = match args.live.access() {
        Some(access) => of_cluster(&access, args.issuer, &mut args.settings)?,
        None => (documents::read(&args.files)?, args.issuer),
    };
    let settings = args.settings.read()?;
    let pods = args.pod.iter().map(|name| Target::pod(name));
    let targets: Vec<_> = args.targets.into_iter().chain(pods).collect();
    let issuer = issuer.as_ref().map(migrate::Issuer::as_str);
    let explained = explain::explain(&documents, &settings, issuer, &args.namespace, &targets)?;
    for problem in &explained.problems {
        complain(&format!("warning: {problem}"));
    }
    let text = explained.write(args.output);
    io::stdout().write_all(text.as_bytes()).context("cannot write the explanation")?;
    Ok(if explained.is_fine() { 0 } else { NO })
}

fn run_migrate(mut args: MigrateArgs) -> anyhow::Result<u8> {
    let is_watched = io::stderr().is_terminal();
    let mut tell = |line: String| {
        if is_watched {
            complain(&line);
        }
    };
    let (documents, issuer) = match args.live.access() {
        Some(access) => of_cluster(&access, args.issuer, &mut args.settings)?,
        None => (migrate::read(&args.files, &mut tell)?, args.issuer),
    };
    let settings = args.settings.read()?;
    let issuer = issuer.context("the issuer is not known; name it by --issuer")?;
    let plan = migrate::plan(&documents, &settings, &issuer, &args.namespace)?;
    let text = plan.write(args.output);
    io::stdout().write_all(text.as_bytes()).context("cannot write the plan")?;
    for migrate::Decision { reason, object, message } in &plan.decisions {
        complain(&format!("decide: {object}: {}: {message}", reason.as_str()));
    }
    complain(&plan.summary());
    if let Some(next) = migrate::Plan::next(args.output) {
        complain(next);
    }
    Ok(if plan.decisions.is_empty() { 0 } else { NO })
}

/// The objects of a cluster, and its issuer where none was named. What imdslet is set to there counts
/// where no flag says otherwise.
fn of_cluster(
    access: &Access,
    issuer: Option<migrate::Issuer>,
    settings: &mut SettingsArgs,
) -> anyhow::Result<(Vec<Document>, Option<migrate::Issuer>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(async {
        let cluster = Cluster::connect(access).await?;
        let issuer = if let Some(issuer) = issuer {
            issuer
        } else {
            let issuer = cluster.issuer().await?;
            issuer.parse().with_context(|| format!("the cluster's issuer is `{issuer}`"))?
        };
        match cluster.settings().await {
            Ok(installed) => settings.fill(&installed),
            Err(error @ LiveError::Forbidden(_)) => complain(&format!(
                "warning: the settings of the installation are not known, and the flags count: {error}"
            )),
            Err(error) => return Err(error.into()),
        }
        Ok((cluster.documents().await?, Some(issuer)))
    })
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
    io::stdout().write_all(text.as_bytes()).context("cannot write what came back")?;
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
