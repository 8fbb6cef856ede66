//! Prints a cluster of the size that is asked for, as JSON: `estate 2000`.

use std::io::{self, Write};
use std::process::ExitCode;

use imdslet_tests::estates::crowd;

fn main() -> ExitCode {
    let Some(workloads) = std::env::args().nth(1).and_then(|size| size.parse().ok()) else {
        writeln!(io::stderr(), "estate WORKLOADS").ok();
        return ExitCode::from(2);
    };
    let text = format!("{:#}\n", crowd(workloads));
    ExitCode::from(u8::from(io::stdout().write_all(text.as_bytes()).is_err()))
}
