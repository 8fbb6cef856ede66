//! What is wrong with how the program was told to run.

use std::fmt;
use std::io;
use std::path::PathBuf;

use imdslet_core::settings;

/// Why the program cannot run as it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The command line is no command line of this program's, or asks for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// Everything that is wrong, so that all can be mended at once.
    #[error("{}", Lines(.0))]
    Mistakes(Vec<Mistake>),
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Mistake {
    /// A value of a flag of this program alone.
    #[error("--{flag} ({variable}) is `{value}`; it must be {expected}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// The variable that stands in for it.
        variable: String,
        /// What was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A value of a setting.
    #[error(transparent)]
    Setting(settings::Mistake),
    /// A file that a flag names cannot be read.
    #[error("--{flag}: cannot read {path}: {cause}")]
    Unreadable {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file that a flag names holds something else.
    #[error("--{flag}: {path}: {cause}")]
    Content {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A folder that should be there when the program starts.
    #[error("--{flag}: there is no folder {path}; {remedy}")]
    NoFolder {
        /// The flag.
        flag: &'static str,
        /// The folder.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The controller has nothing to do without a cluster.
    #[error("--role controller works on a cluster; leave --manifests out")]
    ControllerOfFile,
}

impl ConfigError {
    /// Whether another command line would mend it. Else it is something on this machine.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        let is_usage = |mistake: &Mistake| {
            matches!(
                mistake,
                Mistake::Flag { .. } | Mistake::Setting(_) | Mistake::ControllerOfFile
            )
        };
        match self {
            Self::Usage(_) => true,
            Self::Mistakes(all) => all.iter().any(is_usage),
        }
    }
}

impl From<Vec<settings::Mistake>> for ConfigError {
    fn from(mistakes: Vec<settings::Mistake>) -> Self {
        Self::Mistakes(mistakes.into_iter().map(Mistake::Setting).collect())
    }
}

/// Each in a line of its own.
struct Lines<'a>(&'a [Mistake]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}
