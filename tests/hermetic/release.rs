//! What a release is made of agrees with itself. What needs a build is `tests/release`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use imdslet::documents;
use imdslet_tests::programs::Ended;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The tags by which a text names one of the images.
fn tags(text: &str) -> Vec<&str> {
    ["imdslet-webhook:", "imdslet-sidecar:"]
        .iter()
        .flat_map(|image| text.split(image).skip(1))
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next().unwrap())
        .filter(|tag| tag.starts_with(|c: char| c.is_ascii_digit()))
        .map(|tag| tag.trim_end_matches('.'))
        .collect()
}

#[test]
fn the_version_is_one_everywhere() {
    let chart = root().join("manifests/chart/Chart.yaml");
    let [chart] = &documents::read(&[chart]).unwrap()[..] else { panic!("one document") };
    assert_eq!(chart.value["version"], VERSION);
    assert_eq!(chart.value["appVersion"], VERSION);

    for (path, at_least) in [("manifests/install.yaml", 4), ("Dockerfile", 2)] {
        let text = read(path);
        let tags = tags(&text);
        assert!(tags.len() >= at_least, "{path} names images so: {tags:?}");
        assert!(tags.iter().all(|tag| *tag == VERSION), "{path} names images so: {tags:?}");
    }
    for path in ["README.md", "docs/operations.md", "docs/chart.md", "docs/guides/operator.md"] {
        let text = read(path);
        assert!(tags(&text).iter().all(|tag| *tag == VERSION), "{path}: {:?}", tags(&text));
    }
    for path in ["Cargo.lock", "tests/fuzz/Cargo.lock"] {
        let (lock, ours) = (read(path), "name = \"imdslet-core\"\nversion = ");
        assert!(lock.contains(&format!("{ours}\"{VERSION}\"")), "{path}: cargo update --workspace");
    }
}

/// The first column of the table below `heading`, in which `VERSION` stands for this one.
fn table(page: &str, heading: &str) -> BTreeSet<String> {
    let (_, section) = page.split_once(heading).unwrap();
    section
        .lines()
        .skip_while(|line| !line.starts_with("| ---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .map(|name| name.replace("VERSION", VERSION))
        .collect()
}

#[test]
fn everything_that_a_release_has_is_documented() {
    let made = Ended::of(Command::new(root().join("manifests/release")).arg("--list"));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let made: BTreeSet<_> = made.stdout.lines().map(str::to_owned).collect();
    assert!(made.len() > 8, "{made:?}");
    assert_eq!(table(&read("docs/release.md"), "## What a release is"), made);
}

/// A file that no `COPY` brings would be missed by whoever has an engine, and by no other test.
#[test]
fn the_context_of_the_dockerfile_has_all_that_its_commands_name() {
    let (ignored, context) = (read(".dockerignore"), tempfile::tempdir().unwrap());
    for name in ignored.lines().filter_map(|line| line.strip_prefix('!')) {
        let (there, here) = (root().join(name), context.path().join(name));
        assert!(there.exists(), ".dockerignore names {name}");
        fs::create_dir_all(here.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(there, here).unwrap();
    }

    let dockerfile = read("Dockerfile");
    let commands: Vec<_> = dockerfile.lines().filter(|line| !line.starts_with('#')).collect();
    let scripts: Vec<_> = commands
        .iter()
        .flat_map(|line| line.split(' '))
        .filter(|word| word.starts_with("manifests/"))
        .collect();
    assert_eq!(scripts, ["manifests/static.sh"]);
    assert!(context.path().join(scripts[0]).exists(), ".dockerignore keeps {} out", scripts[0]);

    // Cargo reads the manifest of every member, whichever it builds.
    let mut cargo = Command::new(env!("CARGO"));
    let workspace =
        cargo.args(["metadata", "--format-version=1", "--no-deps"]).current_dir(context.path());
    let workspace = Ended::of(workspace);
    assert_eq!(workspace.code, Some(0), "{}", workspace.stderr);
}
