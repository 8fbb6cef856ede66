//! The command line, read with all of its mistakes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgMatches, Command};
use imdslet_certs::OldestTls;
use imdslet_core::settings::{FLAGS, Flag, Given, Settings};
use tracing::level_filters::LevelFilter;

use super::Role;
use super::mistake::{ConfigError, Mistake};

/// What was given, and what is wrong with it so far.
pub(super) struct Line<'a> {
    matches: &'a ArgMatches,
    pub(super) mistakes: Vec<Mistake>,
}

impl<'a> Line<'a> {
    pub(super) fn new(matches: &'a ArgMatches) -> Self {
        Self { matches, mistakes: Vec::new() }
    }

    /// The settings, of a flag that names a file its content.
    pub(super) fn settings(&mut self) -> Given {
        let matches = self.matches;
        let values = |flag: &Flag| matches.get_many::<String>(flag.name).map(Iterator::cloned);
        let given = FLAGS.iter().filter_map(|flag| Some((flag.name, values(flag)?.collect())));
        let mut given: Given = given.collect();
        for Flag { name: flag, .. } in FLAGS.iter().filter(|flag| flag.is_file) {
            // What cannot be read is a mistake of its own, and none of its content.
            let path = given.remove(flag).and_then(|paths| paths.last().cloned());
            let path = path.filter(|path| !path.is_empty()).map(PathBuf::from);
            if let Some(text) = path.and_then(|path| self.read(flag, &path)) {
                given.insert(flag, vec![text]);
            }
        }
        if let Err(mistakes) = Settings::read(&given) {
            self.mistakes.extend(mistakes.into_iter().map(Mistake::Setting));
        }
        given
    }

    /// An address to listen on.
    pub(super) fn addr(&mut self, flag: &'static str, default: SocketAddr) -> SocketAddr {
        let Some(text) = self.matches.get_one::<String>(flag) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.mistake(flag, text, format!("an address with a port, such as {default}"));
            default
        })
    }

    /// One of the words that the flag can have.
    fn word(&mut self, flag: &'static str, Words(words): Words) -> Option<&'a str> {
        let text = self.matches.get_one::<String>(flag)?.as_str();
        if words.contains(&text) {
            return Some(text);
        }
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        self.mistake(flag, text, words.join(" or "));
        None
    }

    /// What the program is for.
    pub(super) fn role(&mut self) -> Role {
        match self.word("role", ROLE) {
            Some("controller") => Role::Controller,
            _ => Role::Admission,
        }
    }

    pub(super) fn oldest_tls(&mut self) -> OldestTls {
        match self.word("tls-min-version", TLS_MIN_VERSION) {
            Some("1.2") => OldestTls::V1_2,
            _ => OldestTls::V1_3,
        }
    }

    pub(super) fn log_level(&mut self) -> LevelFilter {
        let level = self.word("log-level", LOG_LEVEL).and_then(|level| level.parse().ok());
        level.unwrap_or(LevelFilter::INFO)
    }

    /// A file or folder.
    pub(super) fn path(&self, flag: &str) -> Option<PathBuf> {
        let path = self.matches.get_one::<OsString>(flag).filter(|path| !path.is_empty());
        path.map(PathBuf::from)
    }

    pub(super) fn read(&mut self, flag: &'static str, path: &Path) -> Option<String> {
        let text = fs::read_to_string(path);
        text.map_err(|cause| {
            let path = path.to_owned();
            self.mistakes.push(Mistake::Unreadable { flag, path, cause });
        })
        .ok()
    }

    /// `config`, if nothing is wrong.
    pub(super) fn judged<T>(self, config: T) -> Result<T, ConfigError> {
        if self.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Mistakes(self.mistakes))
        }
    }

    fn mistake(&mut self, flag: &'static str, value: &str, expected: String) {
        let (variable, value) = (variable(flag), value.to_owned());
        self.mistakes.push(Mistake::Flag { flag, variable, value, expected });
    }
}

/// The words that a flag of this program can be.
#[derive(Clone, Copy)]
pub(super) struct Words(&'static [&'static str]);

pub(super) const ROLE: Words = Words(&["admission", "controller"]);
pub(super) const TLS_MIN_VERSION: Words = Words(&["1.2", "1.3"]);
pub(super) const LOG_LEVEL: Words = Words(&["error", "warn", "info", "debug"]);

/// Takes any text: clap would end at the first that is wrong. The help shows the words all the same.
impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().copied().map(PossibleValue::new)))
    }
}

/// The variable that stands in for a flag of this program alone.
pub(super) fn variable(flag: &str) -> String {
    format!("IMDSLET_{}", flag.to_uppercase().replace('-', "_"))
}
