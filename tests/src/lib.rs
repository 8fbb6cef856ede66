//! The harness of imdslet's suites: cases in files, rules that every patch keeps, volumes, and
//! the real programs as child processes.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

pub mod additions;
pub mod cases;
pub mod estates;
pub mod programs;
pub mod volumes;
