//! Strings that stay where they were read, short names for long ones, and errors as one line.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::{self, Write};
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use sha2::{Digest, Sha256};

/// A string of a JSON text, borrowed from it unless it holds an escape.
///
/// serde borrows a `Cow<str>` only as a direct field; inside lists and maps it copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;

        impl<'de> Visitor<'de> for Borrowed {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrowed)
    }
}

/// The first `bytes` of the SHA-256 of `text`, in hexadecimal digits.
pub(crate) fn hash(text: &str, bytes: usize) -> String {
    let mut digits = String::with_capacity(2 * bytes);
    for byte in Sha256::digest(text).iter().take(bytes) {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// A [`hash`] that is short enough for a name.
pub(crate) fn short_hash(text: &str) -> String {
    hash(text, 4)
}

/// An error with its causes, as one line: many libraries say only `client error` at the top.
///
/// Some repeat their causes themselves. What stands there already is not said twice.
#[must_use]
pub fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Failure {
        words: &'static str,
        source: Option<Box<Failure>>,
    }

    #[test]
    fn an_error_names_each_of_its_causes_once() {
        let cases = [
            (vec!["no route"], "no route"),
            (
                vec!["client error (Connect)", "tcp", "refused"],
                "client error (Connect): tcp: refused",
            ),
            // The causes of one that repeats its own are told all the same.
            (
                vec!["cannot ask: refused", "refused", "os error 111"],
                "cannot ask: refused: os error 111",
            ),
            (vec!["refused (by the kubelet)", "refused"], "refused (by the kubelet)"),
        ];
        for (words, expected) in cases {
            let cause = words
                .into_iter()
                .rev()
                .fold(None, |source, words| Some(Box::new(Failure { words, source })));
            assert_eq!(with_causes(&*cause.unwrap()), expected);
        }
    }
}
