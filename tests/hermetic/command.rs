//! The real command on files: what it prints where, and how it ends.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imdslet::documents;
use imdslet_tests::programs::{Ended, command};
use serde_json::{Value, json};

/// `imdslet` in the folder of the fixtures, so that messages name files as people do.
fn imdslet(args: &[&str]) -> Command {
    let mut command = command("imdslet");
    command.args(args).current_dir(folder("fixtures/inject"));
    command
}

fn run(args: &[&str]) -> Ended {
    Ended::of(&mut imdslet(args))
}

fn fed(args: &[&str], input: &str) -> Ended {
    let mut command = imdslet(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn values(text: &str) -> Vec<Value> {
    let mut read = Vec::new();
    documents::parse("stdout", text, &mut read).unwrap();
    read.into_iter().map(|document| document.value).collect()
}

#[test]
fn help_says_what_there_is() {
    for (name, args) in [
        ("help", vec!["--help"]),
        ("help-inject", vec!["inject", "--help"]),
        ("help-inject-short", vec!["inject", "-h"]),
        ("help-check", vec!["check", "--help"]),
        ("help-explain", vec!["explain", "--help"]),
        ("help-migrate", vec!["migrate", "--help"]),
        ("help-demo", vec!["demo", "--help"]),
        ("help-emulate", vec!["emulate", "--help"]),
        ("help-emulate-entra", vec!["emulate", "entra", "--help"]),
        ("help-emulate-imds", vec!["emulate", "imds", "--help"]),
        ("help-token", vec!["token", "--help"]),
        ("help-completion", vec!["completion", "--help"]),
        ("help-man", vec!["man", "--help"]),
    ] {
        let ended = run(&args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{name}");
        insta::with_settings!({omit_expression => true}, {
            insta::assert_snapshot!(name, ended.stdout);
        });
    }
}

#[test]
fn yaml_comes_out_in_the_order_in_which_it_went_in() {
    let ended = run(&["inject", "-f", "good/bound.yaml"]);
    let summary = "pods: 1 with an identity, 0 waiting for one, 0 left alone\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), summary));
    insta::with_settings!({omit_expression => true}, {
        insta::assert_snapshot!("inject-yaml", ended.stdout);
    });
}

#[test]
fn the_three_formats_say_the_same() {
    let yaml = values(&run(&["inject", "-f", "good/bound.yaml", "-o", "yaml"]).stdout);
    let json = run(&["inject", "-f", "good/bound.yaml", "-o", "json"]).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["kind"], &json["items"]), (&json!("List"), &json!(yaml)));

    let patch = run(&["inject", "-f", "good/bound.yaml", "-o", "patch"]).stdout;
    let lines: Vec<Value> = patch.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [line] = lines.as_slice() else { panic!("{patch}") };
    assert_eq!(line["object"], "Pod/default/web");
    let mut pod =
        values(&fs::read_to_string(folder("fixtures/inject/good/bound.yaml")).unwrap()).remove(0);
    let patch: json_patch::Patch = serde_json::from_value(line["patch"].clone()).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    assert_eq!(pod, yaml[0]);
}

/// What is said before the summary.
fn warnings(ended: &Ended) -> &str {
    ended.stderr.split("pods: ").next().unwrap()
}

#[test]
fn its_own_result_comes_out_unchanged() {
    let demos = folder("../manifests/demo");
    for file in fs::read_dir(demos).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "md") {
            continue;
        }
        let args = ["inject", "--tenant-id=contoso.example", "-f"];
        let first = run(&[&args[..], &[file.to_str().unwrap()]].concat());
        assert_eq!((first.code, warnings(&first)), (Some(0), ""), "{}", file.display());
        let second = fed(&[&args[..], &["-"]].concat(), &first.stdout);
        assert_eq!((second.code, warnings(&second)), (Some(0), ""), "{}", file.display());
        assert_eq!(first.stdout, second.stdout, "{}", file.display());
    }
}

#[test]
fn a_class_that_asks_nmi_comes_with_the_one_that_takes_its_place() {
    let file = folder("../manifests/demo/4-secrets-store-csi.yaml");
    let ended = run(&["inject", "--tenant-id=contoso.example", "-f", file.to_str().unwrap()]);
    assert_eq!((ended.code, warnings(&ended)), (Some(0), ""));
    let documents = values(&ended.stdout);
    let [original, pod, .., derived] = documents.as_slice() else { panic!("{documents:?}") };
    let attributes = "/spec/volumes/0/csi/volumeAttributes/secretProviderClass";
    assert_eq!(pod.pointer(attributes), Some(&derived["metadata"]["name"]));
    let annotation = "/metadata/annotations/imdslet.dev~1secret-provider-class";
    assert_eq!(derived.pointer(annotation), Some(&original["metadata"]["name"]));
    let mut expected = original["spec"].clone();
    let parameters = expected["parameters"].as_object_mut().unwrap();
    parameters.remove("usePodIdentity").unwrap();
    parameters.insert("clientID".into(), json!("c0000000-0000-4000-8000-000000000041"));
    assert_eq!(derived["spec"], expected);
    // One that no pod names is not made.
    let only: String = ended.stdout.split("---\n").take(1).collect();
    let alone = fed(&["inject", "--tenant-id=contoso.example", "-f", "-"], &only);
    assert_eq!(values(&alone.stdout), values(&only));
}

#[test]
fn a_folder_is_read_and_objects_of_all_files_count_for_all() {
    let both = run(&["inject", "-f", "good", "-o", "patch"]);
    assert_eq!((both.code, warnings(&both)), (Some(0), ""));
    let each = ["-f", "good/bound.yaml", "-f", "good/workloads.json", "-o", "patch"];
    assert_eq!(run(&[&["inject"][..], &each].concat()).stdout, both.stdout);
    let objects: Vec<_> = both
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["object"].clone())
        .collect();
    assert_eq!(objects, ["Pod/default/web", "CronJob/default/nightly"]);
}

#[test]
fn a_namespace_is_filled_in_where_an_object_names_none() {
    let patch = run(&["inject", "-n", "web", "-f", "good", "-o", "patch"]);
    assert_eq!(patch.code, Some(0));
    let lines: Vec<_> = patch.stdout.lines().collect();
    assert!(lines[0].contains(r#""object":"Pod/web/web""#) && lines[0].contains("web/app"));
    // Its own namespace is `default`, where there is no binding; that of `web` serves it too.
    assert!(lines[1].contains("CronJob/default/nightly") && lines[1].contains("web/app"));
    let alone = run(&["inject", "-n", "web", "--scope=namespaced", "-f", "good", "-o", "patch"]);
    assert!(
        alone.stderr.contains("no AzureIdentityBinding in namespace `default` has"),
        "{}",
        alone.stderr
    );
}

#[test]
fn settings_come_from_variables_too_and_flags_win() {
    let args = ["inject", "-f", "good/bound.yaml", "-o", "patch"];
    let with = |args: &[&str]| {
        let mut command = imdslet(args);
        command.env("IMDSLET_PORT", "3000").env("AZURE_AUTHORITY_HOST", "https://login.example/");
        Ended::of(&mut command).stdout
    };
    let variables = with(&args);
    assert!(variables.contains("--port=3000"), "{variables}");
    assert!(variables.contains("--authority=https://login.example\""), "{variables}");
    assert!(with(&[&args[..], &["--port=4000"]].concat()).contains("--port=4000"));
}

#[test]
fn a_namespace_reaches_entra_id_in_its_own_way() {
    let patch = |namespace: &str| {
        let args = ["inject", "-f", "good/bound.yaml", "-o", "patch", "-n", namespace];
        let settings =
            ["--https-proxy=http://all.example:3128", "--namespace-settings=namespaces.json"];
        let ended = run(&[&args[..], &settings].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    let own = patch("behind-a-proxy");
    for (name, value) in [("HTTPS_PROXY", "http://own.example:8080"), ("NO_PROXY", ".svc")] {
        assert!(own.contains(&format!(r#"{{"name":"{name}","value":"{value}"}}"#)), "{own}");
    }
    let none = patch("without-one");
    assert!(none.contains("IMDSLET_HEADER") && !none.contains("HTTPS_PROXY"), "{none}");
    let other = patch("any-other");
    assert!(other.contains(r#"{"name":"HTTPS_PROXY","value":"http://all.example:3128"}"#));
}

/// (what is wrong, the arguments, how it ends). Each message is a snapshot.
#[test]
fn bad_input_is_answered_clearly_and_nothing_is_printed() {
    let cases: [(&str, &[&str], i32); 14] = [
        ("broken-yaml", &["inject", "-f", "bad/broken.yaml"], 3),
        ("broken-json", &["inject", "-f", "bad/broken.json"], 3),
        ("no-object", &["inject", "-f", "bad/no-object.yaml"], 3),
        ("no-file", &["inject", "-f", "nowhere.yaml"], 3),
        ("good-and-broken", &["inject", "-f", "good/bound.yaml", "-f", "bad/broken.yaml"], 3),
        ("no-extra-ca", &["inject", "-f", "good/bound.yaml", "--extra-ca=nowhere.pem"], 3),
        ("wrong-extra-ca", &["inject", "-f", "good/bound.yaml", "--extra-ca=bad/pods.yaml"], 2),
        ("pods", &["inject", "-f", "bad/pods.yaml"], 1),
        ("unbound-deny", &["inject", "-f", "good/workloads.json", "--when-unbound=deny"], 1),
        (
            "settings",
            &[
                "inject",
                "-f",
                "-",
                "--cloud=mars",
                "--port=80",
                "--tenant-id=../x",
                "--scope=all",
                "--authority=http://login.example",
                "--allow-authority=x",
                "--endpoint=",
                "--sidecar-run-as-user=0",
                "--kubernetes-version=2",
            ],
            2,
        ),
        ("no-task", &[], 2),
        ("unknown-task", &["explain"], 2),
        ("no-files", &["inject"], 2),
        ("unknown-format", &["inject", "-f", "-", "-o", "toml"], 2),
    ];
    for (name, args, code) in cases {
        let ended = run(args);
        assert_eq!(ended.code, Some(code), "{name}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{name}");
        insta::with_settings!({omit_expression => true}, {
            insta::assert_snapshot!(format!("bad-{name}"), ended.stderr);
        });
    }
}

/// One bad object never blocks the others: what it means for a pod is said there.
#[test]
fn objects_that_cannot_be_used_are_named_and_the_rest_is_printed() {
    let ended = run(&["inject", "-f", "bad/objects.yaml"]);
    assert_eq!(ended.code, Some(0));
    assert_eq!(values(&ended.stdout).len(), 8);
    insta::with_settings!({omit_expression => true}, {
        insta::assert_snapshot!("bad-objects", ended.stderr);
    });
}

#[test]
fn stdin_is_named_where_it_is_wrong() {
    let ended = fed(&["inject", "-f", "-"], "a: 1\n---\nb: {\n");
    assert_eq!(ended.code, Some(3));
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.starts_with("imdslet: (stdin), document 2: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 3"), "{}", ended.stderr);
    let empty = fed(&["inject", "-f", "-"], "");
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(3), ""));
    assert_eq!(empty.stderr, "imdslet: (stdin) has no object in it\n");
}

#[test]
fn what_looks_well_and_is_not_is_said() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, labels: {aadpodidbinding: db}}\n\
                spec: {template: {spec: {containers: [{name: app}]}}}\n---\n\
                apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n---\n\
                apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: b, labels: {aadpodidbinding: db, n: 5}}\n\
                spec: {containers: [{name: app}]}\n";
    let ended = fed(&["inject", "-f", "-"], text);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (
            Some(1),
            "warning: (stdin), document 3, Namespace/web: repeats (stdin), document 2; the last \
             one counts\n\
             warning: (stdin), document 1, Deployment/default/a: its own label aadpodidbinding does \
             not reach its pods; move it to the labels of the pod template\n\
             refused: (stdin), document 4, Pod/default/b: cannot read the pod at \
             `metadata.labels.n`: invalid type: integer `5`, expected a string; write it in quotes\n"
        )
    );
}

#[test]
fn a_folder_without_manifests_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(&["inject", "-f", folder.path().to_str().unwrap()]);
    assert_eq!(ended.code, Some(3));
    assert_eq!(
        ended.stderr,
        format!(
            "imdslet: {} is a folder without a .yaml, .yml or .json file\n",
            folder.path().display()
        )
    );
}

/// Whoever closes the pipe, as `head` does, has seen enough of the answer, and of nothing else.
#[test]
fn a_closed_pipe_changes_neither_what_is_said_nor_the_exit_code() {
    let nasty = "../migrate/nasty.json";
    for args in [
        vec!["inject", "-f", "good/bound.yaml"],
        vec!["migrate", "--issuer=https://issuer.example/", "-o", "json", "-f", nasty],
        vec!["explain", "-f", nasty],
        vec!["completion", "bash"],
        vec!["man", "migrate"],
    ] {
        let open = run(&args);
        assert!(open.code < Some(2) && !open.stdout.is_empty(), "{args:?}: {}", open.stderr);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = imdslet(&args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said), (open.code, open.stderr), "{args:?}");
    }
}
