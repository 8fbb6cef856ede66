//! What needs nothing but what `cargo test` has built: no network, no cluster, no fixed port.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod arrivals;
mod audiences;
mod bindings;
mod chain;
mod command;
mod completion;
mod decisions;
mod documents;
mod dumps;
mod emulate;
mod explain;
mod generators;
mod guides;
mod invariants;
mod live;
mod manifests;
mod migrate;
mod patches;
mod principals;
mod properties;
mod release;
mod token;
