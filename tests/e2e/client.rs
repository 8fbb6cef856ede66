//! The application of the tests: asks for tokens by the variables that it was given, and prints one
//! line of JSON for each thing that happens, with the time in milliseconds since the Unix epoch.
//!
//! `client once` asks once and ends, 0 if there was a token; `client serve` asks once, then waits
//! for SIGTERM; `client loop` asks every 50 ms. `--resource=R` says for what. With `--link-local` it
//! is a client that knows no variable, and nothing but the address of Azure's metadata service.
//! `--path=P` asks for something else than a token; `--no-header` leaves out what a client must say.
//!
//! `client spy` tries to read what the sidecar's process keeps, by `/proc` of a shared process
//! namespace, and tells what it could read.
//!
//! One file and only the standard library, so that `rustc` alone makes it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

fn main() -> ExitCode {
    // As a container's first process it would ignore SIGTERM otherwise.
    end_on_sigterm();
    let args: Vec<String> = std::env::args().collect();
    let task = args.get(1).map(String::as_str).unwrap_or("once");
    let value = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name));
    let is_given = |name: &str| args.iter().any(|arg| arg == name);
    let resource = value("--resource=").unwrap_or("https://vault.azure.net");
    let way = || {
        let mut way = if is_given("--link-local") { link_local() } else { variables()? };
        if let Some(path) = value("--path=") {
            path.clone_into(&mut way.path);
        }
        if is_given("--no-header") {
            way.header.clear();
        }
        Ok(way)
    };
    println!("{{\"at\": {}, \"started\": true}}", now());
    if task == "spy" {
        spy();
        return ExitCode::SUCCESS;
    }
    let mut is_ok = ask(way, resource);
    while task == "loop" {
        sleep(Duration::from_millis(50));
        is_ok = ask(way, resource);
    }
    while task == "serve" {
        sleep(Duration::from_secs(3600));
    }
    ExitCode::from(u8::from(!is_ok))
}

/// How a client asks.
struct Way {
    /// Address and port.
    host: String,
    path: String,
    version: &'static str,
    /// Whole, with its end of line.
    header: String,
}

/// What came back.
struct Answer {
    status: u16,
    retry_after: Option<u64>,
    /// JSON.
    body: String,
}

/// Asks for a token and prints the answer; whether there was one.
fn ask(way: impl Fn() -> Result<Way, String>, resource: &str) -> bool {
    let started = now();
    match way().and_then(|way| exchange(&way, resource)) {
        Ok(Answer { status, retry_after, body }) => {
            let after = now() - started;
            let wait = retry_after.map_or("null".to_owned(), |seconds| seconds.to_string());
            println!(
                "{{\"at\": {started}, \"after\": {after}, \"status\": {status}, \
                 \"retryAfter\": {wait}, \"body\": {body}}}"
            );
            status == 200
        }
        Err(error) => {
            println!("{{\"at\": {started}, \"status\": 0, \"error\": {error:?}}}");
            false
        }
    }
}

/// As Azure's SDKs do it in App Service: `GET $IDENTITY_ENDPOINT` with `X-IDENTITY-HEADER`.
fn variables() -> Result<Way, String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let (endpoint, header) = (variable("IDENTITY_ENDPOINT")?, variable("IDENTITY_HEADER")?);
    let rest = endpoint.strip_prefix("http://").ok_or("IDENTITY_ENDPOINT is no http URL")?;
    let (host, path) = rest.split_once('/').ok_or("IDENTITY_ENDPOINT has no path")?;
    let header = format!("X-IDENTITY-HEADER: {header}\r\n");
    Ok(Way { host: host.to_owned(), path: path.to_owned(), version: "2019-08-01", header })
}

/// As they do it on a virtual machine.
fn link_local() -> Way {
    Way {
        host: "169.254.169.254:80".to_owned(),
        path: "metadata/identity/oauth2/token".to_owned(),
        version: "2018-02-01",
        header: "Metadata: true\r\n".to_owned(),
    }
}

fn exchange(way: &Way, resource: &str) -> Result<Answer, String> {
    let Way { host, path, version, header } = way;
    let io = |error: std::io::Error| error.to_string();
    let address: SocketAddr = host.parse().map_err(|_| format!("{host} is no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(io)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(io)?;
    let request = format!(
        "GET /{path}?api-version={version}&resource={resource} HTTP/1.1\r\nHost: {host}\r\n\
         {header}Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(io)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no body")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    };
    Ok(Answer {
        status: status.ok_or("the answer has no status")?,
        retry_after: header("Retry-After").and_then(|value| value.parse().ok()),
        body: body.to_owned(),
    })
}

/// Tries each of the ways to a process's secrets, once its sidecar is there.
fn spy() {
    let Some(sidecar) = std::iter::repeat_with(find_sidecar).take(600).find_map(|found| {
        sleep(Duration::from_millis(if found.is_none() { 100 } else { 0 }));
        found
    }) else {
        println!("{{\"at\": {}, \"found\": false}}", now());
        return;
    };
    let can = |what: &str, result: std::io::Result<()>| match result {
        Ok(()) => format!("\"{what}\": \"read\""),
        Err(error) => format!("\"{what}\": \"{:?}\"", error.kind()),
    };
    let read = |name: &str| File::open(sidecar.join(name))?.read_exact(&mut [0; 1]);
    let list = |name: &str| fs::read_dir(sidecar.join(name)).map(|_| ());
    let opened = fs::read(sidecar.join("fd/0")).map(|_| ());
    let told = [
        can("own", File::open("/proc/self/mem").map(|_| ())),
        can("environ", read("environ")),
        can("maps", read("maps")),
        can("mem", File::open(sidecar.join("mem")).map(|_| ())),
        can("fd", opened),
        can("root", list("root/")),
        can("token", read("root/var/run/imdslet/token")),
    ];
    println!("{{\"at\": {}, \"found\": true, {}}}", now(), told.join(", "));
}

fn find_sidecar() -> Option<PathBuf> {
    let is_sidecar = |path: &Path| {
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        name.trim() == "imdslet-sidecar"
    };
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().map(|entry| entry.path()).find(|path| is_sidecar(path))
}

fn now() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map(|since| since.as_millis()).unwrap_or_default()
}

fn end_on_sigterm() {
    unsafe extern "C" {
        fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
        fn _exit(status: i32) -> !;
    }
    extern "C" fn end(_: i32) {
        // SAFETY: async-signal-safe, as signal-safety(7) says.
        unsafe { _exit(0) }
    }
    // SAFETY: the handler does nothing but end the process.
    unsafe { signal(15, end) };
}
