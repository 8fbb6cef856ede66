//! `imdslet token` asks the real sidecar in front of the stand-in for Entra ID.

use std::collections::BTreeMap;
use std::net::TcpListener;

use imdslet_tests::programs::{Ended, Running, Signal, command};
use serde_json::Value;

use crate::chain::{CLIENT, folder};
use crate::emulate::variables;

const OTHER: &str = "c0000000-0000-4000-8000-000000000002";

/// A token endpoint of two identities, and the variables that lead to it.
struct Endpoint {
    variables: BTreeMap<String, String>,
    running: Option<Running>,
    _folder: tempfile::TempDir,
}

impl Endpoint {
    fn start() -> Self {
        let temporary = folder();
        let ids = [CLIENT, OTHER].map(|id| format!("--client-id={id}"));
        let mut imdslet = command("imdslet");
        imdslet.args(["emulate", "imds"]).args(ids).env("TMPDIR", temporary.path());
        let mut running = Running::start(&mut imdslet);
        let variables = variables(&mut running);
        Self { variables, running: Some(running), _folder: temporary }
    }

    /// `imdslet token`, with those of the variables whose names are in `set`.
    fn ask(&self, set: &[&str], args: &[&str]) -> Ended {
        let set = set.iter().map(|name| (name, &self.variables[*name]));
        ask(command("imdslet").envs(set), args)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Told to end, and not killed, it takes its sidecar along.
        if let Some(running) = self.running.take() {
            running.signal(Signal::TERM);
            assert_eq!(running.ended().code, Some(0));
        }
    }
}

fn ask(imdslet: &mut std::process::Command, args: &[&str]) -> Ended {
    Ended::of(imdslet.args(["token", "--resource=https://vault.azure.net"]).args(args))
}

const APP_SERVICE: [&str; 2] = ["IDENTITY_ENDPOINT", "IDENTITY_HEADER"];
const OLD: [&str; 2] = ["MSI_ENDPOINT", "MSI_SECRET"];
const POD: [&str; 1] = ["AZURE_POD_IDENTITY_AUTHORITY_HOST"];

#[test]
fn every_protocol_gets_the_default_identity_and_the_one_that_is_named() {
    let endpoint = Endpoint::start();
    let terraform = ["ARM_MSI_ENDPOINT"];
    for (set, protocol, flag) in [
        (&APP_SERVICE[..], "appservice", None),
        (&OLD[..], "appservice-2017", None),
        (&OLD[..1], "cloudshell", None),
        (&POD[..], "imds", None),
        (&terraform[..], "terraform", Some("--as=terraform")),
    ] {
        let args: Vec<_> = ["-ojson"].into_iter().chain(flag).collect();
        let ended = endpoint.ask(set, &args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{protocol}");
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(report["as"], protocol);
        assert_eq!(report["claims"]["appid"], CLIENT, "{protocol}");
        assert!(report["expiresOn"].as_str().unwrap().ends_with('Z'), "{report}");
        assert_eq!(report["notes"], Value::Array(Vec::new()), "{protocol}");
        assert!(!ended.stdout.contains("eyJ"), "a token is in the report");
        let other = format!("--client-id={OTHER}");
        let ended = endpoint.ask(set, &[&args[..], &[&other]].concat());
        if protocol == "cloudshell" {
            assert_eq!(ended.code, Some(2));
            assert!(ended.stderr.contains("leave out --client-id"), "{}", ended.stderr);
        } else {
            let report: Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(report["claims"]["appid"], OTHER, "{protocol}");
        }
    }
}

/// The text for a person, with what differs from run to run replaced.
#[test]
fn a_person_reads_what_was_asked_and_what_came() {
    let endpoint = Endpoint::start();
    let ended = endpoint.ask(&APP_SERVICE, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let port = endpoint.variables["IDENTITY_ENDPOINT"].replace("http://127.0.0.1:", "");
    let port = port.split('/').next().unwrap();
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(
        lines[0].replace(port, "PORT"),
        "asked     GET http://127.0.0.1:PORT/msi/token?api-version=2019-08-01&\
         resource=https%3A%2F%2Fvault.azure.net"
    );
    assert_eq!(lines[1], "as        appservice: IDENTITY_ENDPOINT and IDENTITY_HEADER are set");
    assert!(lines[2].starts_with("answer    200 after "), "{}", lines[2]);
    assert!(lines[3].starts_with("token     Bearer, "), "{}", lines[3]);
    assert!(lines[4].starts_with("expires   20") && lines[4].ends_with(" min)"), "{}", lines[4]);
    assert_eq!((lines[5], lines[6]), ("claims", "  aud       https://vault.azure.net"));
    let end = lines.iter().find(|line| line.starts_with("  exp ")).unwrap();
    assert!(end.contains("Z (in 59 min)"), "{end}");
    assert!(!ended.stdout.contains("eyJ"), "a token is in a terminal");
}

#[test]
fn raw_is_the_token_and_nothing_else() {
    let endpoint = Endpoint::start();
    let ended = endpoint.ask(&APP_SERVICE, &["--raw"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let token = ended.stdout.strip_suffix('\n').unwrap();
    assert!(token.starts_with("eyJ") && token.split('.').count() == 3 && !token.contains('\n'));
    let ended =
        endpoint.ask(&APP_SERVICE, &["--raw", "--object-id=00000000-0000-4000-8000-0000000000ff"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.starts_with("the endpoint answers 400: "), "{}", ended.stderr);
}

#[test]
fn a_refusal_is_told_in_the_endpoints_words_with_a_remedy() {
    let endpoint = Endpoint::start();
    let unknown = "--client-id=00000000-0000-4000-8000-0000000000ff";
    let ended = endpoint.ask(&POD, &[unknown]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""));
    assert!(ended.stdout.contains("\nproblem   the endpoint answers 400: "), "{}", ended.stdout);
    assert!(ended.stdout.contains("\nremedy    GET /state "), "{}", ended.stdout);
    let ended = endpoint.ask(&POD, &[unknown, "-o", "json"]);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, &report["status"]), (Some(1), &400.into()));
    assert!(report["remedy"].is_string() && report.get("claims").is_none(), "{report}");

    // Another pod's header.
    let mut imdslet = command("imdslet");
    imdslet.env("IDENTITY_ENDPOINT", &endpoint.variables["IDENTITY_ENDPOINT"]);
    let ended = ask(imdslet.env("IDENTITY_HEADER", "s0mebody-elses"), &[]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("remedy    if IDENTITY_HEADER is from elsewhere"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("s0mebody-elses"), "the header is printed");
}

#[test]
fn where_nobody_answers_it_says_what_to_look_at() {
    // Bound, but not listening to: connections wait or are refused, and nobody else gets the port.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let ended = ask(&mut command("imdslet"), &[&format!("--endpoint=http://127.0.0.1:{port}")]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    let (what, remedy) = ended.stderr.split_once('\n').unwrap();
    assert!(what.starts_with("imdslet: http://127.0.0.1:"), "{what}");
    assert!(what.contains("does not answer"), "{what}");
    assert!(remedy.starts_with("in a pod: does it have the label"), "{remedy}");
    // Something that is no token endpoint.
    let mut imdslet = command("imdslet");
    let ended = ask(imdslet.env("IDENTITY_ENDPOINT", "http://127.0.0.1:1/"), &[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("IDENTITY_HEADER is not"), "{}", ended.stderr);
}
