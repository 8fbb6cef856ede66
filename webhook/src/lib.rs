//! imdslet's mutating admission webhook.
//!
//! A request is decided from a snapshot that is already there: [`watch`] tells what is in the
//! cluster, [`feed`] makes the snapshot of it, [`service`] reads that, [`server`] is the HTTP around
//! it. Nothing on a request's path waits. [`certificates`] keeps what the API server must trust.

pub mod certificates;
pub mod config;
pub mod controller;
pub mod feed;
pub mod metrics;
pub mod problem;
pub mod readiness;
mod review;
pub mod server;
pub mod service;
pub mod settings;
pub mod watch;

#[cfg(test)]
mod testing;
