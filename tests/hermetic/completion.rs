//! The command line beside its tasks: completion, manual pages, the plugin's name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use imdslet_tests::programs::{Ended, command, program};

use crate::chain::folder;

fn run(args: &[&str]) -> Ended {
    Ended::of(command("imdslet").args(args))
}

/// The commands that the help of `path` lists, each with its whole path.
fn listed(path: &[String]) -> Vec<Vec<String>> {
    let help = Ended::of(command("imdslet").args(path).arg("--help"));
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{path:?}");
    let mut found = vec![path.to_vec()];
    let commands = help.stdout.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in commands.take_while(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap();
        // The long ones go on in lines of their own.
        if line.starts_with("  ") && !line.starts_with("   ") && name != "help" {
            found.extend(listed(&[path, &[name.to_owned()]].concat()));
        }
    }
    found
}

#[test]
fn the_help_of_every_command_is_a_snapshot() {
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("hermetic/snapshots");
    let commands = listed(&[]);
    assert!(commands.len() > 8, "{commands:?}");
    for path in commands {
        let name = ["help"].into_iter().chain(path.iter().map(String::as_str));
        let name = name.collect::<Vec<_>>().join("-");
        let file = snapshots.join(format!("hermetic__command__{name}.snap"));
        assert!(file.is_file(), "command::help_says_what_there_is lacks {name}");
    }
}

#[test]
fn the_help_of_every_command_fits_a_terminal_of_80_columns() {
    for path in listed(&[]) {
        let mut asked = command("imdslet");
        let help = Ended::of(asked.args(&path).arg("--help").env("COLUMNS", "80"));
        let wide: Vec<_> = help.stdout.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{path:?}: {wide:#?}");
    }
}

#[test]
fn kubectl_imdslet_is_called_so_in_its_own_help() {
    let path = folder();
    let plugin = path.path().join("kubectl-imdslet");
    symlink(program("imdslet"), &plugin).unwrap();
    let run = |args: &[&str]| Ended::of(Command::new(&plugin).env_clear().args(args));
    let help = run(&["token", "--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("Usage: kubectl imdslet token "), "{}", help.stdout);
    let wrong = run(&["token"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("Usage: kubectl imdslet token "), "{}", wrong.stderr);
    // It finds the programs beside the real one, not beside the link.
    let demo = run(&["demo"]);
    assert_eq!((demo.code, demo.stderr.as_str()), (Some(0), ""), "{}", demo.stdout);
}

#[test]
fn a_shell_loads_the_completion() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef imdslet"), ("fish", "complete -c")]
    {
        let ended = run(&["completion", shell]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(ended.stdout.contains(word), "{shell}: {}", ended.stdout);
    }
    let script = "set -eu; . /dev/stdin; COMP_WORDS=(imdslet emulate im); COMP_CWORD=2; \
                  _imdslet imdslet im emulate; echo \"${COMPREPLY[*]}\"";
    let mut bash = Command::new("bash");
    let source = folder();
    let file = source.path().join("imdslet.bash");
    fs::write(&file, run(&["completion", "bash"]).stdout).unwrap();
    let script = script.replace("/dev/stdin", file.to_str().unwrap());
    let ended = Ended::of(bash.args(["-c", &script]));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("imds\n", ""));
}

#[test]
fn every_command_has_a_manual_page() {
    let ended = run(&["man", "emulate", "imds"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.contains(".TH imdslet-emulate-imds 1"), "{}", ended.stdout);
    let pages = folder();
    let written = run(&["man", &format!("--out-dir={}", pages.path().display())]);
    assert_eq!((written.code, written.stdout.as_str(), written.stderr.as_str()), (Some(0), "", ""));
    for path in listed(&[]) {
        let name = [&["imdslet".to_owned()], &path[..]].concat().join("-");
        assert!(pages.path().join(format!("{name}.1")).is_file(), "{name}");
    }
    let wrong = run(&["man", "tokn"]);
    assert_eq!(wrong.code, Some(2));
    assert_eq!(wrong.stderr, "imdslet: there is no command `tokn`; `imdslet help` lists them\n");
}
