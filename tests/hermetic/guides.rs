//! The guides: each command in them is run by a test, and every reason that a program can give is
//! explained to whoever is on call.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use imdslet::documents;
use imdslet_tests::programs::{Ended, program};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The texts of the files below a folder whose names end so, by path.
fn texts(folder: &Path, end: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(texts(&path, end));
        } else if path.to_str().unwrap().ends_with(end) {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// The blocks of code of a guide: what is said of each, and its lines.
fn blocks(guide: &str) -> Vec<(&str, &str)> {
    guide.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap()).collect()
}

/// Runs a block as a reader would: with the command on the path, an estate in `dump.yaml`, a
/// manifest in `app.yaml`, and an `az` that knows an issuer and takes every credential.
fn run(block: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = root().join("tests/fixtures");
    fs::copy(fixtures.join("migrate/small.yaml"), folder.path().join("dump.yaml")).unwrap();
    fs::copy(fixtures.join("inject/good/bound.yaml"), folder.path().join("app.yaml")).unwrap();
    let az = folder.path().join("az");
    fs::write(&az, "#!/bin/sh\n[ \"$1\" != aks ] || echo https://issuer.example/\n").unwrap();
    fs::set_permissions(&az, fs::Permissions::from_mode(0o755)).unwrap();
    let own = program("imdslet");
    let path =
        format!("{}:{}:/usr/bin:/bin", folder.path().display(), own.parent().unwrap().display());
    let mut command = Command::new("/bin/sh");
    Ended::of(command.args(["-eu", "-c", block]).current_dir(&folder).env_clear().env("PATH", path))
}

#[test]
fn readme_installs_as_the_guide_does() {
    let read = |path| fs::read_to_string(root().join(path)).unwrap();
    let (readme, guide) = (read("README.md"), read("docs/guides/operator.md"));
    let install = |page| blocks(str::split_once(page, "## Install\n").unwrap().1)[0];
    let (_, short) = install(&readme);
    let (said, long) = install(&guide);
    assert!(said.starts_with("sh e2e="), "a test runs the guide's");
    assert!(short.contains(long), "{short}{long}");
    let built = short.lines().filter(|line| line.starts_with("manifests/"));
    assert!(built.into_iter().all(|script| root().join(script).is_file()), "{short}");
}

#[test]
fn each_command_of_the_guides_is_run_by_a_test() {
    let suite: String =
        texts(&root().join("tests/e2e/suite"), ".py").into_iter().map(|(_, text)| text).collect();
    let mut ran = 0;
    for (path, guide) in texts(&root().join("docs/guides"), ".md") {
        for (said, block) in blocks(&guide) {
            let place = format!("{}: {block}", path.display());
            match said.split_once(' ') {
                Some(("sh", "run")) => {
                    let ended = run(block);
                    assert_eq!(ended.code, Some(0), "{place}{}{}", ended.stdout, ended.stderr);
                    ran += 1;
                }
                Some(("sh", how)) => {
                    let test = how.strip_prefix("e2e=").unwrap_or_else(|| panic!("{place}"));
                    assert!(suite.contains(&format!("def {test}(t):")), "no test {test}: {place}");
                    // It runs the blocks that name it.
                    let call = format!("guide({test}");
                    assert!(suite.contains(&call), "{test} does not run its blocks: {place}");
                }
                _ => {
                    assert_eq!(said, "yaml", "{place}");
                    documents::parse(&place, block, &mut Vec::new()).unwrap();
                }
            }
        }
    }
    assert!(ran >= 3, "the guides are not read");
}

/// The words that a program gives as reasons: in the functions that name them, beside `reason` in
/// what it logs, and with what it counts.
fn reasons(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let production = source.split("mod tests {").next().unwrap();
    for start in ["fn reason(&self) -> &'static str {", "fn reason(self) -> &'static str {"] {
        for body in production.split(start).skip(1) {
            let body = body.split("\n    }\n").next().unwrap();
            found.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    for start in ["reason = \"", "reason: \""] {
        let words = production.split(start).skip(1);
        found.extend(words.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    let counted = production.split("Self::new(\"").skip(1);
    let counted = counted.filter_map(|rest| rest.split_once("\", \"")?.1.split_once("\")"));
    found.extend(counted.map(|(word, _)| word.to_owned()));
    found.retain(|word| {
        word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric)
    });
    found
}

/// What a table of a page explains: the words between backticks in its first two columns, of which
/// some tables have the object in the first.
fn explained(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix('|'));
    let heads = rows.flat_map(|row| row.split('|').take(2));
    heads.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_reason_is_explained_on_the_page_of_operations_and_not_in_the_guide() {
    let read = |path| fs::read_to_string(root().join(path)).unwrap();
    let (page, guide) = (read("docs/operations.md"), read("docs/guides/on-call.md"));
    let (_, told) = page.split_once("\n## Reasons\n").unwrap();
    let told = explained(told.split("\n## ").next().unwrap());
    let mut all = BTreeSet::new();
    for folder in ["src/core", "webhook/src", "sidecar/src", "certs/src"] {
        for (path, source) in texts(&root().join(folder), ".rs") {
            // What `imdslet explain` says of the bindings that somebody may have meant.
            if !path.ends_with("tests.rs") && !path.ends_with("core/explain.rs") {
                all.extend(reasons(&source));
            }
        }
    }
    assert!(all.len() > 120, "the sources are not read: {all:?}");
    let missing: Vec<_> = all.iter().filter(|one| !told.contains(one.as_str())).collect();
    assert!(missing.is_empty(), "not in \"Reasons\" of docs/operations.md: {missing:?}");
    // Whoever is on call finds there what to look at first, and each reason there alone.
    let twice = guide.lines().find(|line| line.starts_with("| `"));
    assert_eq!(twice, None, "the guide explains it too");
}
