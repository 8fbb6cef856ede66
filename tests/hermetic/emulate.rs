//! `imdslet emulate imds`, and what asks it: a command, a shell, `imdslet token`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use imdslet::emulator::{Jwks, verify_access_token};
use imdslet::https::{Client, Trust};
use imdslet_tests::programs::{Ended, Running, Signal, command, ends, processes_with, program};
use rustix::process::Pid;
use serde_json::Value;

use crate::chain::{CLIENT, TENANT, folder};

const VAULT: &str = "https://vault.azure.net";

/// A shell that has `imdslet` on its path, and its temporary files in `temporary`.
fn shell(script: &str, temporary: &Path) -> Command {
    let mut shell = Command::new("sh");
    let programs = program("imdslet").parent().unwrap().display().to_string();
    shell.args(["-euc", script]).env_clear().env("TMPDIR", temporary);
    shell.env("PATH", format!("{programs}:/usr/bin:/bin")).stdin(std::process::Stdio::null());
    shell
}

/// The variables that `emulate imds` prints before it serves; none of them needs quotes.
pub(crate) fn variables(imdslet: &mut Running) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    imdslet.line(|line| {
        let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
        variables.insert(name.to_owned(), value.to_owned());
        name == "IMDSLET_EMULATOR_PID"
    });
    variables
}

fn nothing_is_left(temporary: &Path) {
    for (pid, line) in processes_with(temporary.to_str().unwrap()) {
        assert!(ends(pid), "{line} is left behind");
    }
    assert!(fs::read_dir(temporary).unwrap().next().is_none(), "files are left behind");
}

#[test]
fn a_command_has_the_variables_of_a_pod_and_everything_ends_with_it() {
    let temporary = folder();
    let ended = Ended::of(
        command("imdslet")
            .args(["emulate", "imds", "--", "sh", "-c", "env; exit 7"])
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", temporary.path())
            .env("OWN", "1"),
    );
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(7), ""));
    for name in [
        "OWN",
        "IDENTITY_ENDPOINT",
        "IDENTITY_HEADER",
        "MSI_ENDPOINT",
        "MSI_SECRET",
        "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        "ARM_MSI_ENDPOINT",
        "IMDSLET_EMULATOR_AUTHORITY",
    ] {
        let start = format!("{name}=");
        assert!(ended.stdout.lines().any(|line| line.starts_with(&start)), "{}", ended.stdout);
    }
    nothing_is_left(temporary.path());
}

#[test]
fn a_command_that_cannot_run_is_named_and_one_that_is_killed_is_counted_as_shells_do() {
    let temporary = folder();
    let run = |line: &[&str]| {
        let mut imdslet = command("imdslet");
        imdslet.args(["emulate", "imds", "--"]).args(line).env("TMPDIR", temporary.path());
        Ended::of(&mut imdslet)
    };
    let ended = run(&["/nowhere/app"]);
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.starts_with("imdslet: cannot run /nowhere/app: "), "{}", ended.stderr);
    assert_eq!(run(&["/bin/sh", "-c", "kill -9 $$"]).code, Some(137));
    nothing_is_left(temporary.path());
}

#[test]
fn a_signal_to_end_reaches_the_command() {
    let temporary = folder();
    let script = "trap 'echo told; exit 5' TERM; echo ready; while :; do wait; done";
    let mut running = Running::start(
        command("imdslet")
            .args(["emulate", "imds", "--", "/bin/sh", "-c", script])
            .env("TMPDIR", temporary.path()),
    );
    running.line(|line| line == "ready");
    running.signal(Signal::TERM);
    let ended = running.ended();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(5), "ready\ntold\n"));
    nothing_is_left(temporary.path());
}

/// As in a pipeline: variables by `eval`, any number of clients, and `kill`.
#[test]
fn a_shell_takes_the_variables_and_ends_what_serves() {
    let temporary = folder();
    let script = "eval \"$(imdslet emulate imds --env)\"
        trap 'kill $IMDSLET_EMULATOR_PID' EXIT
        imdslet token --resource https://vault.azure.net -o json
        echo \"$IMDSLET_EMULATOR_PID\"";
    let ended = Ended::of(&mut shell(script, temporary.path()));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let (report, pid) = ended.stdout.trim_end().rsplit_once('\n').unwrap();
    let report: Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["as"], "appservice");
    assert_eq!(report["claims"]["appid"], CLIENT);
    assert!(ends(Pid::from_raw(pid.parse().unwrap()).unwrap()), "{pid} is left behind");
    nothing_is_left(temporary.path());
}

#[test]
fn what_cannot_start_in_the_background_is_said_in_the_foreground() {
    let temporary = folder();
    let run = |args: &[&str]| {
        let mut imdslet = command("imdslet");
        imdslet.args(["emulate", "imds", "--env"]).args(args).env("TMPDIR", temporary.path());
        Ended::of(&mut imdslet)
    };
    for (flag, words) in [
        ("--token-lifetime=1ms", "tokenLifetime is `1ms`; it must be whole seconds"),
        ("--entra-listen=192.0.2.1:1", "--entra-listen: cannot listen on 192.0.2.1:1"),
    ] {
        let ended = run(&[flag]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{flag}");
        assert!(ended.stderr.contains(words), "{flag}: {}", ended.stderr);
        assert_eq!(ended.stderr.matches("imdslet: ").count(), 1, "{}", ended.stderr);
    }
    for flag in ["--client-id=me", "--tenant-id=../x"] {
        let ended = run(&[flag]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{flag}");
        assert!(ended.stderr.contains("must be a GUID"), "{flag}: {}", ended.stderr);
    }
    nothing_is_left(temporary.path());
}

/// Whoever is killed cannot clean up, so nobody is left who would have to.
#[test]
fn what_serves_ends_with_the_command_also_where_that_is_killed() {
    let temporary = folder();
    let mut imdslet = Running::start(
        command("imdslet").args(["emulate", "imds"]).env("TMPDIR", temporary.path()),
    );
    let variables = variables(&mut imdslet);
    assert_eq!(variables["IMDSLET_EMULATOR_PID"].parse().ok(), Some(imdslet.id()));
    let sidecars = processes_with(temporary.path().to_str().unwrap());
    let [(sidecar, line)] = sidecars.as_slice() else { panic!("{sidecars:?}") };
    assert!(line.contains("imdslet-sidecar serve "), "{line}");
    imdslet.signal(Signal::KILL);
    assert!(ends(*sidecar), "{line} is left behind");
    assert_eq!(imdslet.ended().code, None);
}

/// The page of the documentation, and the folder of the repository.
fn page() -> (String, std::path::PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    (fs::read_to_string(root.join("docs/emulator.md")).unwrap(), root)
}

#[test]
fn the_page_shows_the_files_that_are_tried() {
    let (page, root) = page();
    let shown: Vec<_> = page.split("<!-- ").skip(1).collect();
    assert_eq!(shown.len(), 4);
    for part in shown {
        let (file, rest) = part.split_once(" -->\n```").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let shown = rest.split("```\n").next().unwrap();
        assert_eq!(shown, fs::read_to_string(root.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn the_pipeline_of_the_documentation_runs() {
    let temporary = folder();
    let script = fs::read_to_string(page().1.join("docs/examples/emulator/pipeline.sh")).unwrap();
    let ended = Ended::of(&mut shell(&script, temporary.path()));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    assert!(ended.stdout.ends_with("the pipeline is through\n"), "{}", ended.stdout);
    nothing_is_left(temporary.path());
}

#[test]
fn the_lines_for_a_developer_run() {
    let (page, root) = page();
    let temporary = folder();
    let blocks = page.split("```sh\n").skip(1).map(|part| part.split("```").next().unwrap());
    let blocks: Vec<_> = blocks.map(|block| block.replace("python app.py", "env")).collect();
    let [run, eval, manifests, ..] = blocks.as_slice() else { panic!("{blocks:?}") };
    for lines in [run, eval] {
        let ended = Ended::of(&mut shell(lines, temporary.path()));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{lines}");
        assert!(ended.stdout.contains("IDENTITY_ENDPOINT=http://127.0.0.1:"), "{lines}");
    }
    let lines = format!(
        "eval \"$({})\"\nimdslet token --resource=https://vault.azure.net\n\
         kill \"$IMDSLET_EMULATOR_PID\"",
        manifests.trim()
    );
    let ended = Ended::of(shell(&lines, temporary.path()).current_dir(root));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{lines}");
    assert!(ended.stdout.contains("aud       https://vault.azure.net"), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_of_the_documentation_is_understood() {
    let file = page().1.join("docs/examples/emulator/entra.yaml");
    let mut entra = Running::start(
        command("imdslet").args(["emulate", "entra", "--listen=127.0.0.1:0", "--config"]).arg(file),
    );
    entra.listening(None);
    entra.signal(Signal::TERM);
    assert_eq!(entra.ended().code, Some(0));
}

/// In front of everything is the sidecar, and the tokens are signed by the emulator's keys.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_signed_by_the_keys_that_the_variables_lead_to() {
    let temporary = folder();
    let manifests = temporary.path().join("identities.yaml");
    fs::write(
        &manifests,
        format!(
            "{{apiVersion: aadpodidentity.k8s.io/v1, kind: AzureIdentity, metadata: {{name: db}}, \
             spec: {{type: 1, clientID: {CLIENT}, tenantID: {TENANT}, \
             clientPassword: {{name: x, namespace: y}}}}}}\n---\n\
             {{apiVersion: aadpodidentity.k8s.io/v1, kind: AzureIdentityBinding, \
             metadata: {{name: db}}, spec: {{azureIdentity: db, selector: db}}}}\n"
        ),
    )
    .unwrap();
    let ca = temporary.path().join("ca.pem");
    let mut imdslet = Running::start(
        command("imdslet")
            .args(["emulate", "imds", "--label=db", "--token-lifetime=90s", "-f"])
            .arg(&manifests)
            .arg(format!("--ca-out={}", ca.display()))
            .env("TMPDIR", temporary.path()),
    );
    let variables = variables(&mut imdslet);
    let mut token = command("imdslet");
    token.args(["token", "--raw", "--resource", VAULT]).envs(&variables);
    let token = Ended::of(&mut token);
    assert_eq!((token.code, token.stderr.as_str()), (Some(0), ""));
    let trust = Trust::nobody().and(&fs::read_to_string(&ca).unwrap()).unwrap();
    let authority = &variables["IMDSLET_EMULATOR_AUTHORITY"];
    let keys = format!("{authority}/{TENANT}/discovery/v2.0/keys");
    let keys = Client::new(trust).unwrap().get(&keys).await.unwrap();
    let keys: Jwks = serde_json::from_slice(keys.body()).unwrap();
    let now = SystemTime::now();
    let claims = verify_access_token(token.stdout.trim_end(), &keys, VAULT, TENANT, now).unwrap();
    assert_eq!((claims.appid.as_str(), claims.exp - claims.iat), (CLIENT, 90));
    imdslet.signal(Signal::TERM);
    assert_eq!(imdslet.ended().code, Some(0));
}
