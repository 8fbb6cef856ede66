//! `imdslet explain` as a person meets it.

use std::path::Path;

use imdslet_tests::programs::{Ended, command};
use serde_json::{Value, json};

fn explain(args: &[&str]) -> Ended {
    let mut command = command("imdslet");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/explain");
    command.args(["explain", "--tenant-id", "contoso.example"]).args(args).current_dir(fixtures);
    Ended::of(&mut command)
}

fn json_of(args: &[&str]) -> Value {
    let args: Vec<_> = args.iter().copied().chain(["-o", "json"]).collect();
    serde_json::from_str(&explain(&args).stdout).unwrap()
}

fn shown(name: &str, ended: &Ended) {
    insta::with_settings!({omit_expression => true}, {
        insta::assert_snapshot!(name, ended.stdout);
    });
}

#[test]
fn every_labelled_pod_and_workload_is_explained_once_and_those_that_get_nothing_make_it_1() {
    let ended = explain(&["-f", "estate.yaml", "--issuer", "https://issuer.example/"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""));
    shown("all", &ended);
    let all = json_of(&["-f", "estate.yaml"]);
    let said: Vec<_> = all["pods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| (pod["object"].as_str().unwrap(), pod["outcome"].as_str().unwrap()))
        .collect();
    let expected = [
        ("Deployment/web/app", "served"),
        ("Pod/web/lost", "waiting"),
        ("Pod/web/host", "untouched"),
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_target_is_named_as_kubectl_names_it_and_served_ones_make_it_0() {
    for target in ["deploy/app", "Deployment/web/app", "deployments/app"] {
        let ended = explain(&["-f", "estate.yaml", "-n", "web", target]);
        assert_eq!(ended.code, Some(0), "{target}: {}", ended.stderr);
        assert!(ended.stdout.starts_with("Deployment/web/app\n"), "{}", ended.stdout);
    }
    let pod = json_of(&["-f", "estate.yaml", "-n", "web", "--pod", "app-1"])["pods"][0].clone();
    assert_eq!((&pod["object"], &pod["told"]), (&json!("Pod/web/app-1"), &json!(["web/one"])));
    let needs = &pod["bindings"][1]["gives"]["needs"];
    assert_eq!(needs["kind"], "FederatedCredential");
    assert_eq!(needs["subject"], "system:serviceaccount:web:app");
    assert_eq!(
        pod["bindings"][2]["gives"]["needs"],
        json!({"kind": "Secret", "name": "web/azure-sp"})
    );
    // What did not ask is no failure.
    let ended = explain(&["-f", "estate.yaml", "cronjob/web/nightly"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    assert!(ended.stdout.contains("(LabelOnWorkload)"), "{}", ended.stdout);
}

#[test]
fn a_binding_is_explained_by_whom_it_serves() {
    let named = ["a", "b", "c"].map(|name| format!("azureidentitybinding/web/{name}"));
    let mut args = vec!["-f", "estate.yaml"];
    args.extend(named.iter().map(String::as_str));
    let ended = explain(&args);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""));
    shown("bindings", &ended);
    // One that only comes second is as it may be meant.
    assert_eq!(explain(&["-f", "estate.yaml", &named[2]]).code, Some(0));
}

#[test]
fn an_identity_is_explained_by_who_uses_it_and_what_must_exist_for_them() {
    let ended =
        explain(&["-f", "estate.yaml", "-n", "web", "azureidentity/one", "azureidentities/sp"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    shown("identities", &ended);
    let identity =
        json_of(&["-f", "estate.yaml", "AzureIdentity/web/one"])["identities"][0].clone();
    assert_eq!(identity["clientId"], "c0000000-0000-4000-8000-000000000001");
    assert_eq!(identity["bindings"][0]["object"], "AzureIdentityBinding/web/b");
    assert_eq!(identity["accounts"][0]["needs"]["subject"], "system:serviceaccount:web:app");
    // One that gives nothing makes it 1.
    let ended = explain(&["-f", "estate.yaml", "--tenant-id", "", "azureidentity/web/one"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("wrong (NoTenant)"), "{}", ended.stdout);
}

#[test]
fn what_is_not_there_and_what_is_no_target_is_said() {
    let ended = explain(&["-f", "estate.yaml", "deploy/other"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    assert!(ended.stderr.contains("there is no Deployment/other among"), "{}", ended.stderr);
    let ended = explain(&["-f", "estate.yaml", "a/b/c/d"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("KIND/NAME or KIND/NAMESPACE/NAME"), "{}", ended.stderr);
    let ended = explain(&["-f", "../pods/no-label.yaml"]);
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("has the label aadpodidbinding"), "{}", ended.stderr);
}
