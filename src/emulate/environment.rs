//! Variables as lines for a shell.

use imdslet_core::shell::quoted;

/// The lines that set `variables` in a POSIX shell.
#[must_use]
pub(super) fn shell(variables: &[(String, String)]) -> String {
    let line = |(name, value): &(String, String)| format!("export {name}={}\n", quoted(value));
    variables.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_each_value_as_it_is() {
        let values = [
            "",
            "plain",
            "http://127.0.0.1:2579/msi/token",
            "it's $HOME `x` \"q\" \\",
            "a b\nc",
            "~",
            "[x]*",
        ];
        for value in values {
            let lines = shell(&[("VALUE".to_owned(), value.to_owned())]);
            let script = format!("{lines}printf %s \"$VALUE\"");
            let said = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), value, "{lines}");
        }
        let plain = shell(&[("A".to_owned(), "http://h:1/x".to_owned())]);
        assert_eq!(plain, "export A=http://h:1/x\n");
    }
}
