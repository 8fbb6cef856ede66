//! Words of a POSIX shell.

/// `text` as one word that a shell reads as it is, whatever is in it.
///
/// ```
/// use imdslet_core::shell::quoted;
/// assert_eq!(quoted("https://issuer.example/"), "https://issuer.example/");
/// assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
/// ```
#[must_use]
pub fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    // What begins with a hyphen looks like an option to whoever reads the line.
    if !text.is_empty() && !text.starts_with('-') && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_gets_out_of_its_word() {
        for (value, word) in [
            ("rg one", "'rg one'"),
            ("$(reboot)", "'$(reboot)'"),
            ("a'; reboot; '", r"'a'\''; reboot; '\'''"),
            ("`reboot`", "'`reboot`'"),
            ("a\nreboot", "'a\nreboot'"),
            ("--debug", "'--debug'"),
            ("", "''"),
            ("(a)_b.c-d", "'(a)_b.c-d'"),
        ] {
            assert_eq!(quoted(value), word);
        }
    }
}
