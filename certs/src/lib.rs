//! The certificates of imdslet's servers: a CA, the serving certificate that it issues, and the
//! TLS listener that shows it.
//!
//! Nothing here reads a clock: the time of issue is an argument, so that a rotation plan can be
//! tested without waiting for it. A running server takes a new certificate through
//! [`Resolver::replace`], without a new connection being refused in between.

mod authority;
mod keyring;
mod listener;
mod parsed;
mod resolver;
mod rotation;
mod server;

pub use authority::{Authority, Error, Serving};
pub use keyring::{Fault, Held, Keyring, Renewal, SETTLED};
pub use listener::TlsListener;
pub use parsed::Unusable;
pub use resolver::{OldestTls, Resolver, server_config};
pub use rotation::{Step, Tell, next, tell};
pub use rustls::ServerConfig;
pub use server::{Limits, serve};
