//! A string that must not be printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A token, an assertion, a password or a header value. Neither `Debug` nor a log shows its
/// content, and its memory is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(content: impl Into<String>) -> Self {
        Self(content.into())
    }

    /// The content, for the one place that sends it on.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the content, in a time that depends on the lengths alone.
    pub(crate) fn matches(&self, other: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let difference = own.iter().zip(other).fold(0, |all, (one, two)| all | (one ^ two));
        // Without the barrier the compiler may end the loop at the first difference.
        own.len() == other.len() && std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_content_matches() {
        let secret = Secret::new("b4f1");
        assert!(secret.matches(b"b4f1"));
        for other in ["", "b4f", "b4f2", "b4f11", "B4F1"] {
            assert!(!secret.matches(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn it_is_cleared_when_it_is_dropped() {
        fn is_cleared<T: ZeroizeOnDrop>(_: &T) {}
        let mut secret = Secret::new("b4f1");
        is_cleared(&secret);
        secret.zeroize();
        assert_eq!(secret.reveal(), "");
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new("b4f1")), "Secret(…)");
    }
}
