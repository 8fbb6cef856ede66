//! The list of ticks.

use std::fmt::Write;

use serde::Serialize;

use crate::terminal::plain;

/// How the list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A list of ticks for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Passed,
    /// It is no fault, and cannot be found out from here: how somebody may.
    Note,
    /// It works, and somebody should know.
    Warning,
    /// Something does not work.
    Failed,
    /// It could not be found out.
    Unknown,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// What should be true.
    pub title: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What was seen, where it is not as it should be.
    pub message: Option<String>,
    /// What to do then.
    pub remedy: Option<String>,
}

/// Checks that belong together.
#[derive(Debug, Serialize)]
pub struct Group {
    /// What they are about.
    pub name: String,
    /// The checks, in the order in which they build on each other.
    pub checks: Vec<Check>,
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In their order.
    pub groups: Vec<Group>,
}

impl Check {
    /// It is as it should be.
    pub(super) fn passed(name: &'static str, title: impl Into<String>) -> Self {
        let verdict = Verdict::Passed;
        Self { name, title: title.into(), verdict, message: None, remedy: None }
    }

    /// It is not.
    pub(super) fn found(
        (name, title): (&'static str, &str),
        verdict: Verdict,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (message, remedy) = (Some(message.into()), Some(remedy.into()));
        Self { name, title: title.to_owned(), verdict, message, remedy }
    }

    /// It could not be found out.
    pub(super) fn unknown((name, title): (&'static str, &str), why: &str) -> Self {
        Self {
            name,
            title: title.to_owned(),
            verdict: Verdict::Unknown,
            message: Some(why.to_owned()),
            remedy: None,
        }
    }
}

impl Report {
    /// The worst that was found; unknown counts less than failed, and a note for nothing.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let all = || self.groups.iter().flat_map(|group| &group.checks).map(|check| check.verdict);
        for worst in [Verdict::Failed, Verdict::Unknown, Verdict::Warning] {
            if all().any(|verdict| verdict == worst) {
                return worst;
            }
        }
        Verdict::Passed
    }

    /// Whether nothing has failed, and everything could be seen that was to be.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.open().is_empty()
    }

    /// The names of the checks that keep it from being fine.
    #[must_use]
    pub fn open(&self) -> Vec<&'static str> {
        let all = self.groups.iter().flat_map(|group| &group.checks);
        let open = all.filter(|one| matches!(one.verdict, Verdict::Failed | Verdict::Unknown));
        open.map(|one| one.name).collect()
    }

    /// As it is printed; with colours where `is_coloured`.
    #[must_use]
    pub fn write(&self, format: Format, is_coloured: bool) -> String {
        if format == Format::Json {
            return format!("{}\n", serde_json::to_string_pretty(self).unwrap_or_default());
        }
        let mut text = String::new();
        for Group { name, checks } in &self.groups {
            // Writing to a String cannot fail.
            writeln!(text, "{name}\n{}", "-".repeat(name.chars().count())).ok();
            for check in checks {
                check.write(&mut text, is_coloured);
            }
            text.push('\n');
        }
        let verdict = match self.verdict() {
            Verdict::Passed | Verdict::Note => "Status check results are √",
            Verdict::Warning => "Status check results are √, with warnings",
            Verdict::Failed => "Status check results are ×",
            Verdict::Unknown => "Status check results are not known: not everything could be seen",
        };
        text.push_str(verdict);
        text.push('\n');
        text
    }
}

impl Check {
    fn write(&self, text: &mut String, is_coloured: bool) {
        let (sign, colour) = match self.verdict {
            Verdict::Passed => ("√", "32"),
            Verdict::Note => ("i", "36"),
            Verdict::Warning => ("‼", "33"),
            Verdict::Failed => ("×", "31"),
            Verdict::Unknown => ("?", "33"),
        };
        let sign =
            if is_coloured { format!("\u{1b}[{colour}m{sign}\u{1b}[0m") } else { sign.to_owned() };
        writeln!(text, "{sign} {}", plain(&self.title)).ok();
        for line in [&self.message, &self.remedy].into_iter().flatten() {
            for line in line.lines() {
                writeln!(text, "    {}", plain(line)).ok();
            }
        }
    }
}
