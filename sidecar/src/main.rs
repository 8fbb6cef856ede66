//! The program in the pod: `serve` answers, `probe` is its startup probe, `address` prepares
//! link-local mode.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use imdslet_core::arguments::ServeArgs;
use imdslet_sidecar::{Config, ServeError, Turns, Verdict, probe, serve};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const USAGE: &str = "usage: imdslet-sidecar serve --dir=DIR --port=N --authority=URL \
                     --mode=native|container [--link-local] [--secrets-dir=DIR] \
                     [--authority-for=NS/NAME=URL]… [--binding-proxy=URL [--binding-sni=NAME]] \
                     [--metrics-port=N] | \
                     imdslet-sidecar probe --port=N | imdslet-sidecar address";

/// The answer is no.
const NO: u8 = 1;
/// Used wrongly.
const WRONG: u8 = 2;
/// It could not be found out.
const UNKNOWN: u8 = 3;

fn main() -> ExitCode {
    make_undumpable();
    // What is not UTF-8 is no argument that we know either.
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    ExitCode::from(match args.split_first() {
        Some((command, args)) if command == "serve" => run_serve(args),
        Some((command, args)) if command == "probe" => run_probe(args),
        Some((command, [])) if command == "address" => run_address(),
        _ => wrong(USAGE),
    })
}

/// Keeps a neighbour in a shared process namespace from reading the memory and files of this
/// process, tokens included.
fn make_undumpable() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // It cannot fail with this value (prctl(2)); without it the sidecar would still serve.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    }
}

fn run_serve(args: &[String]) -> u8 {
    let args = match ServeArgs::parse(args) {
        Ok(args) => args,
        Err(error) => return wrong(&format!("imdslet-sidecar: {error}")),
    };
    start_log();
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return WRONG;
        }
    };
    // One thread: a pod's tokens need no second one. Name resolution blocks, so it has its own,
    // which end soon after.
    let turns = Turns::default();
    let counted = turns.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(5))
        .on_thread_unpark(move || counted.begin())
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return UNKNOWN;
        }
    };
    let served = runtime.block_on(serve(args, config, turns));
    // A name resolution that hangs must not hold up the end of the pod.
    runtime.shutdown_background();
    match served {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            if matches!(error, ServeError::ExtraCa(_)) { WRONG } else { UNKNOWN }
        }
    }
}

fn run_probe(args: &[String]) -> u8 {
    let [arg] = args else { return wrong(USAGE) };
    let Some(port) = arg.strip_prefix("--port=").and_then(|port| port.parse().ok()) else {
        return wrong(USAGE);
    };
    let (line, code) = match probe(port) {
        Verdict::Started => return 0,
        Verdict::Held(line) => (line, NO),
        Verdict::Unknown(line) => (line, UNKNOWN),
    };
    writeln!(io::stdout(), "{line}").ok();
    code
}

#[cfg(target_os = "linux")]
fn run_address() -> u8 {
    use imdslet_core::names::LINK_LOCAL;
    use imdslet_sidecar::{Added, add_address};
    start_log();
    match add_address() {
        Ok(added) => {
            let already = added == Added::Before;
            tracing::info!(address = LINK_LOCAL, already, "the loopback has the address");
            0
        }
        Err(error) => {
            tracing::error!(%error, "cannot add the address");
            if error.is_no() { NO } else { UNKNOWN }
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn run_address() -> u8 {
    wrong("imdslet-sidecar: `address` needs Linux, where pods run")
}

/// JSON lines on standard output. Only our own events: libraries may print what they sent.
fn start_log() {
    let ours = Targets::new().with_target("imdslet_sidecar", LevelFilter::INFO);
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true);
    tracing_subscriber::registry().with(json).with(ours).init();
}

fn wrong(line: &str) -> u8 {
    writeln!(io::stderr(), "{line}").ok();
    WRONG
}
