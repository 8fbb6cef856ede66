//! The token endpoint of one pod.
//!
//! It answers like Azure's Instance Metadata Service (and App Service's two protocols) on the
//! pod's loopback, with tokens that it fetches from Entra ID for the identities that the webhook
//! wrote into the pod's annotation. It links no Kubernetes client.
//!
//! What decides is pure: [`schedule`], [`certificate`], and inside `request`, `selection`, `fault`, `answer`,
//! `metrics`. What
//! waits is at the edge: `volume` reads the projected files, `sources` ask Entra ID, `cache` has one
//! fetch in flight for each token, `listener` accepts connections, `address` prepares the pod's
//! loopback for link-local mode.

#[cfg(target_os = "linux")]
mod address;
mod answer;
mod assertion;
mod audit;
mod cache;
mod cause;
pub mod certificate;
mod claims;
mod config;
mod fault;
#[doc(hidden)]
pub mod fuzzing;
mod listener;
mod metrics;
mod probe;
mod query;
mod request;
mod resource;
pub mod schedule;
mod secret;
mod selection;
mod serve;
mod server;
mod source;
mod sources;
mod state;
#[cfg(test)]
mod testing;
mod transport;
mod volume;

#[cfg(target_os = "linux")]
pub use address::{Added, AddressError, add_address};
pub use config::{Config, ConfigError};
pub use probe::{Verdict, probe};
pub use serve::{ServeError, serve};
pub use volume::Turns;
