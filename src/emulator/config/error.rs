//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It is neither YAML nor JSON, or has fields that do not exist.
    #[error("the configuration is not understood: {0}")]
    Syntax(String),
    /// A field has a value that it cannot have.
    #[error("{field} is `{value}`; it must be {expected}")]
    Value {
        /// Which field, as a path.
        field: String,
        /// What is there.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Two entries say the same.
    #[error("{field} repeats `{value}`; give it once")]
    Repeated {
        /// Which field, as a path.
        field: String,
        /// What is there for the second time.
        value: String,
    },
    /// A credential or a binding names an application that is not there.
    #[error(
        "{field} is `{client_id}`, which no tenant has; add it to `applications` of its tenant, or \
         take the entry out"
    )]
    NoApplication {
        /// Which field, as a path.
        field: String,
        /// The client id.
        client_id: String,
    },
    /// What the fields of an entry say together does not fit.
    #[error("{field}: {problem}")]
    Entry {
        /// Which field, as a path.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

pub(in crate::emulator) fn value(
    field: String,
    value: &str,
    expected: &'static str,
) -> ConfigError {
    ConfigError::Value { field, value: value.to_owned(), expected }
}

pub(in crate::emulator) fn repeated(field: String, value: &str) -> ConfigError {
    ConfigError::Repeated { field, value: value.to_owned() }
}
