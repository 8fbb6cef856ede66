//! Shell completion and manual pages, from the same source as the command line itself.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::config::CommandLine;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManError {
    /// No such command.
    #[error("there is no command `{}`; `imdslet help` lists them", .0.join(" "))]
    Unknown(Vec<String>),
    /// It cannot be written.
    #[error("cannot write {file}: {cause}")]
    Write {
        /// The file.
        file: String,
        /// Why.
        cause: io::Error,
    },
}

/// The script that `shell` loads.
#[must_use]
pub fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "imdslet", &mut script);
    script
}

/// The page of one command, of `imdslet` itself if `path` is empty.
///
/// # Errors
///
/// [`ManError::Unknown`].
pub fn page(path: &[String]) -> Result<Vec<u8>, ManError> {
    let root = built();
    let mut command = &root;
    for name in path {
        let found = command.get_subcommands().find(|sub| sub.get_name() == name);
        command = found.ok_or_else(|| ManError::Unknown(path.to_vec()))?;
    }
    Ok(render(command))
}

/// Writes the page of every command into `folder`, which is made.
///
/// # Errors
///
/// [`ManError::Write`].
pub fn pages(folder: &Path) -> Result<(), ManError> {
    let failed = |path: &Path| {
        let file = path.display().to_string();
        move |cause| ManError::Write { file, cause }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let root = built();
    let mut waiting = vec![&root];
    while let Some(command) = waiting.pop() {
        let path = folder.join(format!("{}.1", name(command)));
        fs::write(&path, render(command)).map_err(failed(&path))?;
        waiting.extend(documented(command));
    }
    Ok(())
}

/// The whole tree, each command with its full name.
fn built() -> Command {
    let mut root = CommandLine::command();
    root.build();
    root
}

fn documented(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
}

/// `imdslet-emulate-imds`.
fn name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn render(command: &Command) -> Vec<u8> {
    let mut page = Vec::new();
    // A vector takes everything.
    Man::new(command.clone().name(name(command))).render(&mut page).ok();
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command, with its full name.
    fn walk(command: &Command, found: &mut Vec<Command>) {
        found.push(command.clone());
        documented(command).for_each(|sub| walk(sub, found));
    }

    fn all() -> Vec<Command> {
        let mut found = Vec::new();
        walk(&built(), &mut found);
        found
    }

    #[test]
    fn the_help_of_every_command_fits_into_80_columns() {
        for command in all() {
            let name = name(&command);
            // What a terminal of that width shows, short and long.
            let mut narrow = command.term_width(80);
            for help in [narrow.render_help(), narrow.render_long_help()] {
                for line in help.to_string().lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                }
            }
        }
    }

    #[test]
    fn every_command_and_flag_is_completed_and_has_its_place_in_a_page() {
        let scripts = [Shell::Bash, Shell::Zsh, Shell::Fish]
            .map(|shell| String::from_utf8(completion(shell)).unwrap());
        for command in all() {
            let page = String::from_utf8(render(&command)).unwrap();
            assert!(page.contains(&format!(".TH {} 1", name(&command))), "{page}");
            let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
            for flag in flags.filter_map(|flag| flag.get_long()) {
                assert!(page.contains(&flag.replace('-', r"\-")), "{flag}: {page}");
                for script in &scripts {
                    assert!(script.contains(flag), "{flag}: {}", name(&command));
                }
            }
        }
    }

    #[test]
    fn a_page_is_named_as_the_command_is_typed() {
        let path = ["emulate", "imds"].map(str::to_owned);
        let page = String::from_utf8(page(&path).unwrap()).unwrap();
        assert!(page.contains("imdslet emulate imds"), "{page}");
        let error = super::page(&["emulat".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "there is no command `emulat`; `imdslet help` lists them");
    }
}
