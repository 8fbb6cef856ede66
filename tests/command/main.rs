//! A test of the root package. Without one, `cargo test` would not build its program, which the
//! suites of `imdslet-tests` run.

use std::process::Command;

#[test]
fn the_command_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_imdslet")).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("imdslet {}\n", env!("CARGO_PKG_VERSION")));
}
