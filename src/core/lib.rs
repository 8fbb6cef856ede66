//! The decisions of imdslet.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no random number. What enters
//! as JSON leaves as a decision with its reason.

pub mod authority;
pub mod contract;
pub mod id;
pub mod names;
pub mod serve;
pub mod settings;
