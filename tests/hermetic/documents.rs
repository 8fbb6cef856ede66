//! What the documents say of the tests is true.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imdslet_webhook::metrics::Metrics;

/// A file that may hold a test: its path from the root of the repository, and its text.
struct Source(PathBuf, String);

impl Source {
    /// Whether it is the module `path`, such as `cache/tests`: by its place, or inside of its parent.
    fn is_module(&self, path: &Path) -> bool {
        let own = self.0.with_extension("");
        let inside = path.file_name().is_some_and(|name| name == "tests")
            && path.parent().is_some_and(|parent| own.ends_with(parent))
            && self.1.contains("mod tests {");
        own.ends_with(path) || inside
    }

    /// Whether it is the file `path`, in whose last part one `*` may stand for anything.
    fn is_file(&self, path: &str) -> bool {
        let Some((start, end)) = path.split_once('*') else { return self.0.ends_with(path) };
        let name = self.0.file_name().and_then(|name| name.to_str()).unwrap();
        name.starts_with(start) && name.ends_with(end)
    }

    /// Whether a test of that name is here, and is run.
    fn has(&self, test: &str) -> bool {
        let starts = ["fn", "async fn", "def"].map(|word| format!("{word} {test}("));
        let mut above = Vec::new();
        for line in self.1.lines().map(str::trim_start) {
            if starts.iter().any(|start| line.starts_with(start)) {
                return above.into_iter().any(is_mark) || self.lists(test);
            }
            let goes_on = ["#", "@", "//"].iter().any(|start| line.starts_with(start));
            if !goes_on {
                above.clear();
            }
            above.push(line);
        }
        false
    }

    /// Whether it is in the list of tests of a suite that marks none.
    fn lists(&self, test: &str) -> bool {
        let list = self.1.split_once("\nTESTS = ").map_or("", |(_, list)| list);
        let list = list.split([')', ']']).next().unwrap_or_default();
        list.split(|c: char| !c.is_alphanumeric() && c != '_').any(|name| name == test)
    }
}

/// Whether this line has the function below it run as a test.
fn is_mark(line: &str) -> bool {
    line == "#[test]" || line.starts_with("#[tokio::test") || line == "@test" || line == "@heavy"
}

fn collect(dir: &Path, root: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, root, found);
        } else if [".rs", ".py", ".yaml"].iter().any(|end| name.ends_with(end)) {
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source(path.strip_prefix(root).unwrap().to_owned(), text));
        }
    }
}

/// What stands between backticks in the column `test` of each table.
fn named(document: &str) -> Vec<&str> {
    let mut has_tests = false;
    let mut named = Vec::new();
    for line in document.lines() {
        let Some(row) = line.strip_prefix('|') else {
            has_tests = false;
            continue;
        };
        let last = row.trim_end().trim_end_matches('|').rsplit('|').next().unwrap().trim();
        if last == "test" {
            has_tests = true;
        } else if has_tests && !last.starts_with("---") {
            assert!(last.contains('`'), "a row names no test: {row}");
            named.extend(last.split('`').skip(1).step_by(2));
        }
    }
    named
}

fn is_there(name: &str, sources: &[Source]) -> bool {
    match name.split_once(": ") {
        Some((module, test)) if module == "e2e" || module == "clients" => {
            let suite = format!("tests/{module}/suite");
            sources.iter().any(|source| source.0.starts_with(&suite) && source.has(test))
        }
        Some((module, test)) => {
            let path = PathBuf::from(module.replace("::", "/"));
            sources.iter().any(|source| source.is_module(&path) && source.has(test))
        }
        None if name.contains('.') => sources.iter().any(|source| source.is_file(name)),
        None if name.contains("::") => {
            let path = PathBuf::from(name.replace("::", "/"));
            let (module, test) = (path.parent().unwrap(), path.file_name().unwrap());
            let test = test.to_str().unwrap();
            sources.iter().any(|source| {
                source.is_module(&path) || (source.is_module(module) && source.has(test))
            })
        }
        None => sources.iter().any(|source| source.has(name)),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

#[test]
fn every_test_that_a_table_of_the_documents_names_is_there() {
    let root = root();
    let mut sources = Vec::new();
    for dir in ["src", "webhook", "sidecar", "certs", "tests"] {
        collect(&root.join(dir), &root, &mut sources);
    }
    assert!(!is_there("cache::tests: no_such_test", &sources));
    assert!(!is_there("no_such_module::tests", &sources));
    assert!(!is_there("no-such-file-*.yaml", &sources));
    assert!(is_there("cache::tests::an_expired_token_is_never_served", &sources));
    assert!(is_there("programs_are_static_and_say_nothing_of_the_machine", &sources));
    // Functions of these files that nobody runs as tests.
    for helper in ["hermetic::documents: is_mark", "e2e: pod_patcher", "blobs"] {
        assert!(!is_there(helper, &sources), "{helper} is no test");
    }

    for (document, at_least) in [("docs/compatibility.md", 40), ("docs/security.md", 20)] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let named = named(&text);
        assert!(named.len() > at_least, "the tables of {document} are not read: {named:?}");
        let missing: Vec<_> = named.into_iter().filter(|name| !is_there(name, &sources)).collect();
        assert!(missing.is_empty(), "{document} names tests that are not there: {missing:?}");
    }
}

/// aad-pod-identity wrote these into its resources, and no release of it ever read them.
#[test]
fn what_nobody_ever_read_is_read_by_nothing() {
    let root = root();
    let mut core = Vec::new();
    collect(&root.join("src/core"), &root, &mut core);
    for Source(path, text) in core {
        for field in ["weight", "adResourceID", "replicas"] {
            let reads = [format!("(\"{field}\")"), format!("get(\"{field}\"")];
            for read in reads {
                assert!(!text.contains(&read), "{} has {read}", path.display());
            }
        }
    }
}

#[test]
fn every_number_of_the_webhook_and_the_controller_is_explained() {
    let text = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let metrics = Metrics::default();
    // What has no value yet is not shown.
    metrics.published("AzureIdentity", 1, false);
    metrics.watch_restarted("AzureIdentity");
    metrics.patched("IdentityBound", Duration::ZERO);
    metrics.class_written("ClassCreated");
    let numbers = metrics.render();
    let names = numbers.lines().filter_map(|line| line.strip_prefix("# TYPE imdslet_"));
    let names: Vec<_> = names.map(|line| line.split(' ').next().unwrap()).collect();
    assert!(names.len() > 10, "{numbers}");
    for name in names {
        let is_there = text.contains(&format!("| `{name}")) || text.contains(&format!(", `{name}"));
        assert!(is_there, "docs/operations.md does not have imdslet_{name}");
    }
}

/// The part of a page below the heading with this anchor, made as those of rendered Markdown are.
fn section<'a>(page: &'a str, anchor: &str) -> Option<&'a str> {
    let is_heading = |line: &str| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        line.starts_with('#') && heading.replace(' ', "-") == anchor
    };
    let heading = page.lines().find(|line| is_heading(line))?;
    let (_, below) = page.split_once(&format!("\n{heading}\n"))?;
    below.split("\n## ").next()?.split("\n### ").next()
}

#[test]
fn every_alert_has_a_section_that_says_what_to_do() {
    let rules = fs::read_to_string(root().join("manifests/monitoring/rules.yaml")).unwrap();
    let mut told = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let alert = rule.lines().next().unwrap();
        let page = rule.lines().find_map(|line| line.trim().strip_prefix("runbook: ")).unwrap();
        let (file, anchor) = page.split_once('#').unwrap();
        let text = fs::read_to_string(root().join(file)).unwrap();
        let section = section(&text, anchor).unwrap_or_else(|| panic!("{file} has no #{anchor}"));
        assert!(section.contains(&format!("\n| `{alert}` |")), "{page} does not explain {alert}");
        told += 1;
    }
    assert!(told >= 10, "the rules are not read");
}

#[test]
fn links_of_a_page_lead_to_headings_that_are_there() {
    let docs = root().join("docs");
    let mut pages = vec![root().join("README.md")];
    for folder in [docs.clone(), docs.join("guides")] {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let mut followed = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            assert!(target.exists(), "{}: {link} leads to no file", page.display());
            if !anchor.is_empty() {
                let target = fs::read_to_string(target).unwrap();
                let is_there = section(&target, anchor).is_some();
                assert!(is_there, "{}: {link} leads to no heading", page.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "the links are not read");
}
