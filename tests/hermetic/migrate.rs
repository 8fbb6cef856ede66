//! The plan of a move: what it says of estates made for the purpose, and that its output is taken
//! by those for whom it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use imdslet::emulator::Config;
use imdslet::issuer::Issuer;
use imdslet::migrate::{Dump, Format, Plan, Reason, plan};
use imdslet_core::settings::{self, Settings};
use imdslet_tests::estates::crowd;
use imdslet_tests::programs::{Ended, command};
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) const NASTY: &str = include_str!("../fixtures/migrate/nasty.json");
pub(crate) const ISSUER: &str = "https://issuer.example/cluster/";
const FORMATS: [&str; 6] = ["az", "bicep", "terraform", "json", "html", "steps"];

const NEXT: &str = "next: the same command with -o steps prints the move, the way back and what to \
                    remove, with every command\n";

/// The small estate, in a cluster of which nothing must be decided.
const SMALL: [&str; 4] = [
    "-f",
    "small.yaml",
    "--tenant-id=contoso.example",
    "--sidecar-image=registry.example/imdslet-sidecar:0.1.0",
];

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/migrate")
}

pub(crate) fn migrate(args: &[&str]) -> Ended {
    let mut command = command("imdslet");
    let issuer = format!("--issuer={ISSUER}");
    Ended::of(command.args(["migrate", &issuer]).args(args).current_dir(fixtures()))
}

/// The plan of these texts, as files of one name would have it.
pub(crate) fn planned(
    texts: &[&str],
    given: &[(&'static str, &str)],
    issuer: &str,
) -> Result<Plan, String> {
    let mut dump = Dump::default();
    for text in texts {
        let added = dump.add("dump.yaml", &mut text.as_bytes(), &mut |_| {});
        added.map_err(|error| error.to_string())?;
    }
    let given: settings::Given =
        given.iter().map(|(flag, value)| (*flag, vec![(*value).to_owned()])).collect();
    let settings = Settings::read(&given).unwrap();
    let issuer: Issuer = issuer.parse().unwrap();
    plan(dump.objects(), &settings, &issuer, "default").map_err(|error| error.to_string())
}

fn golden(name: &str, text: &str) {
    insta::with_settings!({omit_expression => true}, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn a_small_estate_is_planned_in_every_format() {
    for format in FORMATS {
        let ended = migrate(&SMALL.into_iter().chain(["-o", format]).collect::<Vec<_>>());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let next = if format == "steps" { "" } else { NEXT };
        let summary = ended.stderr.strip_suffix(next);
        assert_eq!(
            summary.unwrap(),
            "read: 1 AzureIdentity, 1 AzureIdentityBinding, 1 CronJob, 1 Deployment, 1 Namespace, \
             1 Pod\n\
             none read, so not planned with: AzurePodIdentityException, \
             SecretProviderClass, ServiceAccount\n\
             plan: 2 federated credentials for 1 identities, 0 things to decide\n"
        );
        golden(&format!("small-{format}"), &ended.stdout);
    }
}

#[test]
fn a_nasty_estate_is_planned_whole_and_says_what_must_be_decided() {
    for format in FORMATS {
        let ended = migrate(&["-f", "nasty.json", "-o", format]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        golden(&format!("nasty-{format}"), &ended.stdout);
        golden("nasty-decisions", ended.stderr.trim_end_matches(NEXT));
    }
}

fn as_json(plan: &Plan) -> String {
    let mut text = Vec::new();
    plan.write_to(&mut text, Format::Json).unwrap();
    String::from_utf8(text).unwrap()
}

/// The objects of a List, whatever Lists are in it.
fn flat(list: &Value) -> Vec<Value> {
    match list["items"].as_array() {
        Some(items) => items.iter().flat_map(flat).collect(),
        None => vec![list.clone()],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_files_and_objects_changes_nothing(
        order in Just(flat(&serde_json::from_str(NASTY).unwrap())).prop_shuffle(),
        cut in 0_usize..60,
    ) {
        let text = |items: &[Value]| json!({"kind": "List", "items": items}).to_string();
        let straight = as_json(&planned(&[NASTY], &[], ISSUER).unwrap());
        let (first, second) = order.split_at(cut);
        let turned = as_json(&planned(&[&text(first), &text(second)], &[], ISSUER).unwrap());
        prop_assert_eq!(straight, turned);
    }
}

/// What the plan says must exist is what makes the emulator issue tokens.
#[test]
fn the_emulator_reads_the_credentials_as_they_are_printed() {
    let small = fs::read_to_string(fixtures().join("small.yaml")).unwrap();
    for (cloud, audience) in [
        ("public", "api://AzureADTokenExchange"),
        ("usgov", "api://AzureADTokenExchangeUSGov"),
        ("china", "api://AzureADTokenExchangeChina"),
    ] {
        let plan = as_json(&planned(&[&small], &[("cloud", cloud)], ISSUER).unwrap());
        let plan: Value = serde_json::from_str(&plan).unwrap();
        let credentials = &plan["federatedCredentials"];
        assert_eq!(
            (&credentials[0]["subject"], &credentials[1]["subject"], &credentials[0]["audiences"]),
            (
                &json!("system:serviceaccount:web:default"),
                &json!("system:serviceaccount:web:shop"),
                &json!([audience])
            )
        );
        let config = json!({
            "tenants": [{
                "id": "11111111-1111-4111-8111-111111111111",
                "applications": [{
                    "clientId": credentials[0]["clientId"],
                    "objectId": "33333333-3333-4333-8333-333333333333",
                }],
            }],
            "federatedCredentials": credentials,
        });
        Config::parse(&config.to_string(), None).unwrap();
    }
}

/// Runs the script with an `az` that writes down its arguments and does as `answers` say, by its
/// subcommand and the number of credentials asked for, and with a `sleep` that does not sleep.
fn scripted(script: &str, answers: &str) -> (Ended, String) {
    let folder = tempfile::tempdir().unwrap();
    let tool = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let home = folder.path().display();
    tool("sleep", &format!("echo sleep \"$1\" >>'{home}/calls'"));
    tool(
        "az",
        &format!(
            "for word in \"$@\"; do printf '<%s>' \"$word\" >>'{home}/calls'; done\n\
             echo >>'{home}/calls'\n\
             n=$(grep -c '<create>' '{home}/calls')\n\
             case $3$n in {answers} *) exit 0 ;; esac"
        ),
    );
    fs::write(folder.path().join("plan.sh"), script).unwrap();
    let path = format!("{home}:/usr/bin:/bin");
    let mut command = Command::new("/bin/sh");
    let ended = Ended::of(command.arg(folder.path().join("plan.sh")).env_clear().env("PATH", path));
    (ended, fs::read_to_string(folder.path().join("calls")).unwrap())
}

#[test]
fn the_script_calls_az_once_for_each_credential_and_again_after_a_conflict() {
    let script = migrate(&["-f", "small.yaml"]).stdout;
    let conflict =
        "create1) echo 'ERROR: (ConcurrentFederatedIdentityCredentialsWrites) wait' >&2; exit 1 ;;";
    let (ended, calls) = scripted(&script, conflict);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(
        ended.stdout,
        "db: system:serviceaccount:web:default\ndb: system:serviceaccount:web:shop\n"
    );
    let calls: Vec<_> = calls.lines().collect();
    let [room, first, pause, again, second] = calls.as_slice() else { panic!("{calls:?}") };
    assert!(room.contains("<federated-credential><list>"), "{room}");
    assert!(room.contains("<length([?issuer != 'https://issuer.example/cluster/'])>"), "{room}");
    assert_eq!((pause, again), (&"sleep 5", first));
    assert!(
        second.starts_with(
            "<identity><federated-credential><create>\
             <--subscription><a0000000-0000-4000-8000-00000000000a>\
             <--resource-group><apps><--identity-name><db><--name><imdslet-web-shop-"
        ),
        "{second}"
    );
    assert!(
        second.ends_with(
            "<--issuer><https://issuer.example/cluster/>\
             <--subject><system:serviceaccount:web:shop>\
             <--audiences><api://AzureADTokenExchange><--output><none>"
        ),
        "{second}"
    );
}

#[test]
fn the_script_stops_at_what_no_repetition_mends_and_after_six_conflicts() {
    let script = migrate(&["-f", "small.yaml"]).stdout;
    let (ended, calls) = scripted(&script, "create1) echo 'ERROR: no rights' >&2; exit 1 ;;");
    assert_eq!(ended.code, Some(1));
    assert_eq!(calls.lines().filter(|call| call.contains("<create>")).count(), 1);
    assert_eq!(ended.stderr, "ERROR: no rights\nFAILED: db: system:serviceaccount:web:default\n");
    let (ended, calls) = scripted(&script, "create*) echo 'ERROR: (409) Conflict' >&2; exit 1 ;;");
    assert_eq!(ended.code, Some(1));
    assert_eq!(calls.lines().filter(|call| call.contains("<create>")).count(), 6);
}

#[test]
fn the_script_creates_nothing_where_other_clusters_have_left_no_room() {
    let script = migrate(&SMALL).stdout;
    let (ended, calls) = scripted(&script, "list0) echo 18 ;;");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(calls.lines().filter(|call| call.contains("<create>")).count(), 2);
    let (ended, calls) = scripted(&script, "list0) echo 19 ;;");
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (
            Some(1),
            "FAILED: db has 19 credentials of other issuers and needs 2 of this one: Azure takes 20\n"
        )
    );
    assert!(!calls.contains("<create>"), "{calls}");
    // Where they cannot be counted, Azure is who knows.
    for said in ["list0) echo 'ERROR: (AuthorizationFailed)' >&2; exit 1 ;;", "list0) echo '{}' ;;"]
    {
        let (ended, calls) = scripted(&script, said);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(calls.lines().filter(|call| call.contains("<create>")).count(), 2);
    }
}

#[test]
fn a_credential_that_is_there_under_another_name_is_enough() {
    let script = migrate(&SMALL).stdout;
    // It is documented as 400, and seen as a conflict.
    for code in ["BadRequest", "Conflict"] {
        let there = |subject: &str| {
            format!(
                "create1) echo 'ERROR: ({code}) Issuer and subject combination already exists for \
                 this Managed Identity.' >&2; exit 1 ;;\n\
                 list1) printf '{ISSUER}\t{subject}\tapi://AzureADTokenExchange\tmade-by-hand\n' ;;"
            )
        };
        let (ended, calls) = scripted(&script, &there("system:serviceaccount:web:default"));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(
            ended.stdout,
            "db: system:serviceaccount:web:default is there already, as made-by-hand\n\
             db: system:serviceaccount:web:shop\n"
        );
        assert!(!calls.contains("sleep"), "{calls}");
        let (ended, _) = scripted(&script, &there("system:serviceaccount:web:other"));
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    }
}

#[test]
fn no_name_in_a_dump_leaves_its_quotes() {
    let script = migrate(&["-f", "nasty.json"]).stdout;
    // One of its identities has room for none of its 21.
    let script: String =
        script.split_inclusive('\n').filter(|line| !line.starts_with("room ")).collect();
    let (ended, calls) = scripted(&script, "");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(calls.contains("<--resource-group><it's ${odd}>"), "{calls}");
}

/// All of it would be some megabytes, so the golden has what is counted, and every decision.
#[test]
fn two_thousand_workloads_are_planned_each() {
    let given = [
        ("tenant-id", "contoso.example"),
        ("sidecar-image", "registry.example/imdslet-sidecar:0.1.0"),
    ];
    let plan = planned(&[&crowd(2000).to_string()], &given, ISSUER).unwrap();
    let mut by_identity = BTreeMap::<_, usize>::new();
    let mut names = BTreeSet::new();
    for credential in &plan.federated_credentials {
        *by_identity.entry(credential.identity.clone().unwrap()).or_default() += 1;
        names.insert((credential.client_id.clone(), credential.name.clone().unwrap()));
    }
    assert_eq!(
        names.len(),
        plan.federated_credentials.len(),
        "no two of an identity have one name"
    );
    let steps = plan.steps.iter().map(|step| step.id.as_str()).collect::<Vec<_>>();
    let decisions: Vec<_> = plan
        .decisions
        .iter()
        .map(|one| format!("{} {}: {}", one.reason.as_str(), one.object, one.message))
        .collect();
    golden(
        "crowd",
        &format!(
            "{}\n\ncredentials: {by_identity:?}\n\nsteps: {}\n\n{}\n",
            plan.summary(),
            steps.join(" "),
            decisions.join("\n")
        ),
    );
}

#[test]
fn every_reason_is_explained() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md"));
    let text = text.unwrap();
    let section = text.split("## Moving from aad-pod-identity").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let explained: Vec<_> = rows
        .map(|row| row.split(" | ").next().unwrap())
        .flat_map(|reasons| reasons.split(", "))
        .map(|reason| reason.trim_matches('`'))
        .collect();
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(explained, reasons, "in the order of urgency");
}

#[test]
fn an_issuer_is_taken_to_the_slash_or_not_at_all() {
    for text in
        ["", "issuer.example", "http://issuer.example", "https://", "https://a?b", "https://a b"]
    {
        assert!(text.parse::<Issuer>().is_err(), "{text}");
    }
    let mut command = command("imdslet");
    let ended = Ended::of(command.args(["migrate", "-f", "-", "--issuer", "issuer.example"]));
    assert_eq!(ended.code, Some(2));
    golden("wrong-issuer", &ended.stderr);
}
