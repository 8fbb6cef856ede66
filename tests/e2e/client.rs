//! The application of the tests: asks for tokens by the variables that it was given, and prints one
//! line of JSON for each thing that happens, with the time in milliseconds since the Unix epoch.
//!
//! `client once` asks once and ends, 0 if there was a token; `client serve` asks once, then waits
//! for SIGTERM; `client loop` asks every 50 ms. `--resource=R` says for what.
//!
//! One file and only the standard library, so that `rustc` alone makes it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

fn main() -> ExitCode {
    // As a container's first process it would ignore SIGTERM otherwise.
    end_on_sigterm();
    let args: Vec<String> = std::env::args().collect();
    let task = args.get(1).map(String::as_str).unwrap_or("once");
    let resource = args.iter().find_map(|arg| arg.strip_prefix("--resource="));
    let resource = resource.unwrap_or("https://vault.azure.net");
    println!("{{\"at\": {}, \"started\": true}}", now());
    let mut is_ok = ask(resource);
    while task == "loop" {
        sleep(Duration::from_millis(50));
        is_ok = ask(resource);
    }
    while task == "serve" {
        sleep(Duration::from_secs(3600));
    }
    ExitCode::from(u8::from(!is_ok))
}

/// Asks for a token and prints the answer; whether there was one.
fn ask(resource: &str) -> bool {
    let started = now();
    match exchange(resource) {
        Ok((status, body)) => {
            let after = now() - started;
            println!(
                "{{\"at\": {started}, \"after\": {after}, \"status\": {status}, \"body\": {body}}}"
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
fn exchange(resource: &str) -> Result<(u16, String), String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let (endpoint, header) = (variable("IDENTITY_ENDPOINT")?, variable("IDENTITY_HEADER")?);
    let rest = endpoint.strip_prefix("http://").ok_or("IDENTITY_ENDPOINT is no http URL")?;
    let (host, path) = rest.split_once('/').ok_or("IDENTITY_ENDPOINT has no path")?;
    let io = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(host).map_err(io)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(io)?;
    let request = format!(
        "GET /{path}?api-version=2019-08-01&resource={resource} HTTP/1.1\r\nHost: {host}\r\n\
         X-IDENTITY-HEADER: {header}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(io)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no body")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or("the answer has no status")?, body.to_owned()))
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
