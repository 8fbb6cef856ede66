//! The `imdslet` command and the stand-ins that it brings along.

pub mod check;
pub mod completion;
pub mod config;
pub mod demo;
pub mod documents;
pub mod emulate;
pub mod emulator;
pub mod explain;
mod family;
pub mod https;
pub mod inject;
pub mod issuer;
pub mod live;
pub mod migrate;
mod node;
pub mod programs;
mod terminal;
pub mod token;
pub mod workloads;
