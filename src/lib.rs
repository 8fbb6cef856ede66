//! The `imdslet` command and the stand-ins that it brings along.

pub mod emulator;
pub mod https;
