//! imdslet's mutating admission webhook.
//!
//! A request is decided from a snapshot that is already there: [`feed`] publishes it, [`service`]
//! reads it, [`server`] is the HTTP around that. Nothing on a request's path waits.

pub mod certificates;
pub mod config;
pub mod controller;
pub mod feed;
mod review;
pub mod server;
pub mod service;
pub mod watch;
