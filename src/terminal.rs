//! What may be shown to a person.

/// `line` without what would steer a terminal. Whoever may create a pod chooses words that an
/// operator's terminal shows: a container's log, the fields of an object.
pub(crate) fn plain(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal_and_letters_stay() {
        assert_eq!(plain("√ a\u{1b}[2Jb\rc\u{9b}31m\nd"), "√ a?[2Jb?c?31m?d");
    }
}
