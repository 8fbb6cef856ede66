//! Dumps that are less than a whole cluster, or more: what of them is planned with, and what is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use imdslet::documents;
use imdslet_tests::programs::{self, Ended};
use serde_json::json;

use crate::migrate::{ISSUER, fixtures, migrate, planned};

#[test]
fn a_part_of_a_dump_is_never_planned_with() {
    let small = fs::read_to_string(fixtures().join("small.yaml")).unwrap();
    // kubectl writes `items` before `kind`, so what is cut off is well-formed YAML without one.
    let cut = small.replacen("kind: List\n", "", 1);
    let binding = "apiVersion: aadpodidentity.k8s.io/v1\nkind: AzureIdentityBinding\n\
                   metadata: {name: a}\nspec: {azureIdentity: a, selector: a}\n";
    let other = binding.replace("selector: a", "selector: b");
    for (texts, expected) in [
        (
            vec![&*cut],
            "dump.yaml, document 1: has items and no kind, so it is a List that was cut off; dump \
             the objects again, whole",
        ),
        (
            vec![&small[..small.len() - 30]],
            "dump.yaml, document 1: unclosed bracket '{' at line 46, column 18",
        ),
        (
            vec![&*small, "kind: Pod\n"],
            "dump.yaml, document 1: apiVersion is missing or empty; every Kubernetes object has \
             one; no plan is made of a part of the objects",
        ),
        (
            vec![binding, &*other],
            "dump.yaml, document 1, AzureIdentityBinding/default/a: says something else than an \
             earlier AzureIdentityBinding/default/a; keep one of them",
        ),
        (
            vec![binding],
            "no pod and no workload was read; dump \
             azureidentity,azureidentitybinding and all workloads with `kubectl get … -A -o yaml`",
        ),
        (
            vec!["apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n"],
            "no AzureIdentityBinding was read; dump \
             azureidentity,azureidentitybinding and all workloads with `kubectl get … -A -o yaml`",
        ),
    ] {
        assert_eq!(planned(&texts, &[], ISSUER).err().as_deref(), Some(expected));
    }
}

/// kubectl writes the objects of a List first and what it is last, and well-formed YAML may end anywhere.
#[test]
fn wherever_a_dump_is_cut_it_is_refused() {
    let objects = "\
apiVersion: v1
items:
- apiVersion: aadpodidentity.k8s.io/v1
  kind: AzureIdentity
  metadata:
    name: db
    namespace: web
  spec:
    clientID: c0000000-0000-4000-8000-000000000001
- apiVersion: aadpodidentity.k8s.io/v1
  kind: AzureIdentityBinding
  metadata:
    name: db
    namespace: web
  spec:
    azureIdentity: db
    selector: db
- apiVersion: v1
  kind: Pod
  metadata:
    labels:
      aadpodidbinding: db
    name: shop
    namespace: web
  spec:
    containers:
    - image: registry.example/shop
      name: app
";
    let whole = format!("{objects}kind: List\nmetadata:\n  resourceVersion: \"\"\n");
    let plan = planned(&[&whole], &[], ISSUER).unwrap();
    assert_eq!(plan.federated_credentials.len(), 1);
    for end in 0..objects.len() + "kind: Lis".len() {
        assert!(planned(&[&whole[..end]], &[], ISSUER).is_err(), "{}", &whole[..end]);
    }
    let mut value = Vec::new();
    documents::parse("whole", &whole, &mut value).unwrap();
    let json = value[0].value.to_string();
    assert_eq!(planned(&[&json], &[], ISSUER).unwrap().federated_credentials.len(), 1);
    for end in 0..json.len() {
        assert!(planned(&[&json[..end]], &[], ISSUER).is_err(), "{}", &json[..end]);
    }
}

/// Name and content of a file.
type Given<'a> = (&'a str, &'a [u8]);

/// Runs migrate on files with these contents, as a user who may not read `locked.yaml`.
fn migrate_files(files: &[Given<'_>]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("imdslet");
    fs::copy(programs::program("imdslet"), &program).unwrap();
    let mut command = Command::new(program);
    command.env_clear().current_dir(folder.path()).args(["migrate", "--issuer", ISSUER]);
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let mode = if *name == "locked.yaml" { 0o000 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        command.args(["-f", name]);
    }
    // The superuser may read everything; anybody else who runs this test may not be another one.
    if fs::read(folder.path().join("locked.yaml")).is_ok() {
        command.uid(65534);
    }
    Ended::of(&mut command)
}

#[test]
fn bad_files_are_told_all_at_once_and_nothing_is_planned_with_the_good_ones() {
    let small = fs::read_to_string(fixtures().join("small.yaml")).unwrap();
    let half = &small[..small.len() / 2];
    let items = small.split("- apiVersion").take(4).collect::<Vec<_>>().join("- apiVersion");
    let cut_between = items.replacen("kind: List\n", "", 1);
    let no_pods = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\nspec: {}\n";
    let nested = "{\"kind\": \"List\", \"items\": [{\"kind\": \"List\", \"items\": [{\"kind\": ";
    let cases: [(&str, &[Given<'_>]); 9] = [
        ("cut in half", &[("dump.yaml", half.as_bytes())]),
        ("cut between objects", &[("dump.yaml", cut_between.as_bytes())]),
        (
            "cut inside of an object",
            &[("a.yaml", small.as_bytes()), ("b.yaml", no_pods.as_bytes())],
        ),
        ("cut inside of lists of lists", &[("dump.json", nested.as_bytes())]),
        ("no permission", &[("good.yaml", small.as_bytes()), ("locked.yaml", b"")]),
        ("empty", &[("good.yaml", small.as_bytes()), ("empty.yaml", b"# nothing\n")]),
        ("no text", &[("dump.yaml", b"\xff\xfe\x00"), ("good.yaml", small.as_bytes())]),
        ("no objects", &[("dump.yaml", b"- a\n- b\n")]),
        (
            "several",
            &[
                ("a.yaml", half.as_bytes()),
                ("good.yaml", small.as_bytes()),
                ("b.json", b"{\"kind\": \"List\"}\nand more"),
            ],
        ),
    ];
    let mut told = String::new();
    for (name, files) in cases {
        let ended = migrate_files(files);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{name}: {}", ended.stderr);
        told.extend([name, "\n", &ended.stderr, "\n"]);
    }
    insta::with_settings!({omit_expression => true}, {
        insta::assert_snapshot!("bad-files", told);
    });
}

#[test]
fn what_is_not_known_is_counted_and_formats_may_be_mixed() {
    let small = fs::read_to_string(fixtures().join("small.yaml")).unwrap();
    let unknown = json!({"kind": "List", "apiVersion": "v1", "items": [
        {"kind": "SecretList", "apiVersion": "v1", "items": [
            {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"b": "Yw=="}},
        ]},
        {"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {"name": "w"}},
        {"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {"name": "x"}},
    ]});
    let ended = migrate_files(&[("dump.yaml", format!("{unknown}\n---\n{small}").as_bytes())]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("left aside: 1 Secret, 2 Widget\n"), "{}", ended.stderr);
    let alone = migrate(&["-f", "small.yaml"]);
    assert_eq!(ended.stdout, alone.stdout);
}
