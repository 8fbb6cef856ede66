//! The invariants of the design, each a test: `docs/architecture.md` names them.
//!
//! 4 (a pod is never re-encoded, and what is replaced) is
//! `properties::a_patch_applies_adds_only_and_is_final` and
//! `properties::unknown_fields_survive_byte_for_byte`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use imdslet::https::{Client, Trust};
use imdslet_core::index::Index;
use imdslet_core::settings::Settings;
use imdslet_tests::programs::{Running, Signal, command};
use imdslet_webhook::service::{Reviewed, Unanswerable, advise, review};
use serde_json::{Value, json};

/// Where the sources of what ships are.
const PACKAGES: [(&str, &str); 5] = [
    ("imdslet", "src"),
    ("imdslet-core", "src/core"),
    ("imdslet-certs", "certs/src"),
    ("imdslet-webhook", "webhook/src"),
    ("imdslet-sidecar", "sidecar/src"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// 1. The core does no I/O, reads no clock and draws no random number.
#[test]
fn the_core_neither_waits_nor_looks_nor_draws() {
    bans(
        "imdslet-core",
        &[
            "tokio",
            "mio",
            "hyper",
            "axum",
            "kube",
            "k8s-openapi",
            "rustls",
            "ring",
            "aws-lc-rs",
            "reqwest",
            "azure_core",
            "azure_identity",
            "rand",
            "getrandom",
            "uuid",
            "jiff",
            "time",
            "chrono",
            "tracing",
            "tempfile",
            "serde_yaml",
            "clap",
            "rustix",
        ],
    );
    let banned = [
        "std::fs",
        "std::io",
        "std::net::Tcp",
        "std::net::Udp",
        "std::process",
        "std::thread",
        "std::env::",
        "SystemTime",
        "Instant",
        "HashMap",
        "HashSet",
        "RandomState",
        "println!",
        "include_str!",
        "include_bytes!",
    ];
    for (path, text) in product("src/core") {
        for word in banned {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

/// 2. The sidecar links no Kubernetes client, and the webhook never calls Azure.
#[test]
fn the_sidecar_knows_no_kubernetes_and_the_webhook_no_azure() {
    bans("imdslet-sidecar", &["kube", "kube-core", "kube-client", "k8s-openapi"]);
    bans("imdslet-webhook", &["azure_core", "azure_identity", "typespec", "reqwest"]);
    // A client could be told any URL.
    for (path, text) in product("webhook/src") {
        for word in ["login.microsoftonline", "client_assertion", "oauth2/v2.0"] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

/// 3. The admission path never waits: the decision is a plain function of a snapshot.
#[test]
fn admission_never_waits() {
    // A function that could wait would have another type.
    type Decision = fn(&Index, &Settings, &[u8]) -> Result<Reviewed, Unanswerable>;
    let _: [Decision; 2] = [review, advise];
    for file in ["webhook/src/service.rs", "webhook/src/review.rs"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        for word in ["async ", ".await", "Mutex", "RwLock", "block_on", "std::fs", "recv("] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
    // The handler around it waits for the body, with a deadline, and for nothing else.
    let server = fs::read_to_string(root().join("webhook/src/server.rs")).unwrap();
    let waits: Vec<_> = server.lines().filter(|line| line.contains(".await")).collect();
    assert_eq!(waits.len(), 2, "{waits:?}");
    assert!(waits[0].contains("body(&hook, request)"), "{waits:?}");
    assert!(waits[1].contains("timeout(BODY_DEADLINE, Bytes::from_request"), "{waits:?}");
}

/// 5. No admission body reaches a log. For tokens: `chain::nothing_secret_is_in_a_log`.
#[tokio::test]
async fn no_admission_body_reaches_the_webhooks_log() {
    const MARKER: &str = "m4rk3r-that-is-nobodys-business";
    let folder = tempfile::tempdir().unwrap();
    let (mut webhook, client, url) = webhook(folder.path());
    let pod = |spec: Value, label: &str| {
        json!({
            "metadata": {
                "name": "web-1", "labels": {"aadpodidbinding": label, "app": MARKER},
                "annotations": {"note": MARKER},
            },
            "spec": spec,
        })
    };
    let container = |name: &str| {
        json!({
            "name": name, "image": MARKER, "args": [MARKER],
            "env": [{"name": "PASSWORD", "value": MARKER}, {"name": MARKER, "value": "1"}],
        })
    };
    let spec = json!({"containers": [container("app")], "unknown": MARKER});
    let two = json!({"containers": [container("imdslet"), container("imdslet")]});
    let mut mirror = pod(spec.clone(), "db");
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!(MARKER);
    for (pod, allowed) in [
        (mirror, true),
        (pod(spec.clone(), "db"), true),
        (pod(spec.clone(), ""), true),
        (pod(two, "db"), false),
        (pod(json!({"containers": [], "unknown": MARKER}), "db"), false),
    ] {
        let answer = client.post_json(&url, &reviewed(&pod)).await.unwrap();
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(answer["response"]["allowed"], allowed, "{answer}");
    }
    // What is wrong is told to whoever asked, and its words stay out of the log.
    let mut port = pod(spec.clone(), "db");
    port["metadata"]["annotations"] = json!({"imdslet.dev/port": MARKER});
    let env = pod(json!({"containers": [{"name": "app", "env": MARKER}]}), "db");
    let mount = json!({"containers": [{"name": MARKER, "volumeMounts": [{"name": "imdslet"}]}]});
    for body in [
        reviewed(&port),
        reviewed(&env),
        reviewed(&pod(mount, "db")),
        json!(MARKER),
        json!({"apiVersion": MARKER, "kind": MARKER}),
    ] {
        client.post_json(&url, &body).await.unwrap();
    }
    let mut update = reviewed(&pod(spec, "db"));
    update["request"]["operation"] = json!("UPDATE");
    assert_eq!(client.post_json(&url, &update).await.unwrap().status(), 200);
    let no_review = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": MARKER}});
    assert_eq!(client.post_json(&url, &no_review).await.unwrap().status(), 400);

    webhook.line(|line| line.contains("Unanswerable"));
    webhook.signal(Signal::TERM);
    let ended = webhook.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.matches(r#""pod":"web-1""#).count(), 6, "{}", ended.stdout);
    let debug = r#""level":"DEBUG","message":"admitted untouched""#;
    assert!(ended.stdout.contains(debug), "{}", ended.stdout);
    let log = ended.stdout + &ended.stderr;
    assert!(!log.contains(MARKER), "{log}");
}

/// The real webhook, which knows one binding, and how to ask it.
fn webhook(folder: &Path) -> (Running, Client, String) {
    let manifests = json!({"kind": "List", "items": [
        {
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"name": "app", "namespace": "web"},
            "spec": {"clientID": "c0000000-0000-4000-8000-000000000001", "tenantID": "contoso.example"},
        },
        {
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
            "metadata": {"name": "app", "namespace": "web"},
            "spec": {"azureIdentity": "app", "selector": "db"},
        },
    ]});
    let (file, ca) = (folder.join("manifests.json"), folder.join("ca.pem"));
    fs::write(&file, manifests.to_string()).unwrap();
    let mut command = command("imdslet-webhook");
    command
        .args(["--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0", "--log-level=debug"])
        .arg(format!("--manifests={}", file.display()))
        .arg(format!("--ca-out={}", ca.display()));
    let mut webhook = Running::start(&mut command);
    let url = format!("https://{}/mutate", webhook.listening(Some("admission")));
    let trust = Trust::nobody().and(&fs::read_to_string(ca).unwrap()).unwrap();
    let client = Client::new(trust).unwrap();
    (webhook, client, url)
}

fn reviewed(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "a0000000-0000-4000-8000-000000000001", "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "web", "object": pod,
        },
    })
}

/// 6. Only `main.rs` and `config.rs` read the environment.
#[test]
fn only_main_and_config_read_the_environment() {
    // The last one is clap's; `Command::env` of a program that is started is written `.envs(`.
    let words =
        ["env::var", "env::vars", "env::args", "env::current_exe", "env::current_dir", ".env("];
    let mut readers = BTreeSet::new();
    for (_, folder) in PACKAGES {
        for (path, text) in product(folder) {
            if words.iter().any(|word| text.contains(word)) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                assert!(["main.rs", "config.rs"].contains(&name.as_str()), "{}", path.display());
                readers.insert(name);
            }
        }
    }
    assert_eq!(readers.len(), 2, "the words are no longer those that are used: {readers:?}");
}

/// The arrows of the design, dev-dependencies included.
#[test]
fn packages_depend_on_each_other_as_the_design_draws_it() {
    let expected = [
        ("imdslet", vec!["imdslet-certs", "imdslet-core"]),
        ("imdslet-certs", vec![]),
        ("imdslet-core", vec![]),
        ("imdslet-plain", vec![]),
        ("imdslet-sidecar", vec!["imdslet-core"]),
        ("imdslet-webhook", vec!["imdslet-certs", "imdslet-core"]),
    ];
    let mut arrows = BTreeMap::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
        let ours: BTreeSet<_> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(name)
            .filter(|name| name.starts_with("imdslet"))
            .collect();
        arrows.insert(name(package), ours);
    }
    arrows.remove("imdslet-tests").expect("this package");
    let expected: BTreeMap<String, BTreeSet<String>> = expected
        .into_iter()
        .map(|(name, to)| (name.to_owned(), to.into_iter().map(str::to_owned).collect()))
        .collect();
    assert_eq!(arrows, expected);
}

/// It is no longer maintained: good enough for files on a person's machine, not for a server.
#[test]
fn no_server_parses_yaml() {
    for package in ["imdslet-core", "imdslet-certs", "imdslet-webhook", "imdslet-sidecar"] {
        bans(package, &["serde_yaml", "unsafe-libyaml"]);
    }
}

#[test]
fn no_package_has_unsafe_code() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("\nunsafe_code = \"forbid\"\n"));
    for package in metadata()["packages"].as_array().unwrap() {
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(manifest.contains("\n[lints]\nworkspace = true\n"), "{}", package["name"]);
    }
}

#[test]
fn no_file_is_long() {
    for (_, folder) in PACKAGES {
        for (path, text) in product(folder) {
            let lines = text.lines().count();
            assert!(lines <= 600, "{} has {lines} lines without its tests", path.display());
        }
    }
}

/// Changing one of them breaks a cluster, so they are seen at once.
#[test]
fn the_keys_of_annotations_and_labels_stand_in_one_file() {
    let is_key = |text: &str| {
        let name = text.strip_prefix("imdslet.dev/").unwrap_or_default();
        !name.is_empty() && name.chars().all(|one| one.is_ascii_lowercase() || one == '-')
    };
    let mut named = 0;
    for (_, folder) in PACKAGES {
        for (path, text) in product(folder) {
            // What stands between two quotation marks, or between two texts.
            let keys: Vec<_> = text.split('"').filter(|text| is_key(text)).collect();
            if path.ends_with("src/core/names.rs") {
                named += keys.len();
            } else {
                assert_eq!(keys, [] as [&str; 0], "{}: take them from names.rs", path.display());
            }
        }
    }
    assert!(named > 10, "only {named} keys were found in names.rs");
}

/// A file that no `mod` names is compiled by nobody, and nobody notices that it rots.
#[test]
fn every_source_file_belongs_to_a_target() {
    let mut reached = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for package in metadata()["packages"].as_array().unwrap() {
        for target in package["targets"].as_array().unwrap() {
            // A target of one package may lie in the folder of another's.
            let file = fs::canonicalize(target["src_path"].as_str().unwrap()).unwrap();
            folders.insert(file.parent().unwrap().to_owned());
            let children = file.parent().unwrap().to_owned();
            reach(&file, &children, &mut reached);
        }
    }
    let mut all = BTreeSet::new();
    for folder in &folders {
        all.extend(rust_files(folder));
    }
    let orphans: Vec<_> = all.difference(&reached).collect();
    assert_eq!(orphans, Vec::<&PathBuf>::new());
    assert!(reached.len() > 80, "only {} files were found", reached.len());
}

/// Follows `mod name;`, in `children` or in a file's own folder.
fn reach(file: &Path, children: &Path, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(file.to_owned()) {
        return;
    }
    for line in fs::read_to_string(file).unwrap().lines() {
        let line = line.trim_start();
        let declaration = ["pub(crate) mod ", "pub(super) mod ", "pub mod ", "mod "];
        let rest = declaration.iter().find_map(|start| line.strip_prefix(start));
        let Some(name) = rest.and_then(|rest| rest.strip_suffix(';')) else { continue };
        reach(&children.join(format!("{name}.rs")), &children.join(name), reached);
    }
}

/// Fails where one of `banned` is a dependency of what `package` builds.
fn bans(package: &str, banned: &[&str]) {
    let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none", "-f", "{p}"]);
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(package) && names.contains("serde_core"), "{tree}");
    for name in banned {
        assert!(!names.contains(name), "{package} must not depend on {name}");
    }
}

fn metadata() -> Value {
    serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps"])).unwrap()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(["--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {said}", args.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// The Rust files of a package, each without its unit tests. Packages may lie in one another.
fn product(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = root().join(folder);
    let others: Vec<_> = PACKAGES.iter().map(|(_, other)| root().join(other)).collect();
    let inner: Vec<_> =
        others.iter().filter(|other| **other != folder && other.starts_with(&folder)).collect();
    let is_test = |path: &Path| {
        let mut parts = path.strip_prefix(&folder).unwrap().components();
        path.ends_with("tests.rs")
            || path.ends_with("testing.rs")
            || parts.any(|part| part.as_os_str() == "tests")
    };
    let files: Vec<_> = rust_files(&folder)
        .into_iter()
        .filter(|path| !inner.iter().any(|inner| path.starts_with(inner)) && !is_test(path))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            (path, product)
        })
        .collect();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
