//! The decisions of imdslet.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no random number. What enters
//! as JSON leaves as a decision with its reason.
//!
//! ```text
//! objects ─► Index ──┐
//!                    ├─► admission: choices ─► resolve ─► inject ─► a JSON patch
//! pod ─► PodView ────┘
//! ```

mod added;
pub mod admission;
pub mod advice;
pub mod arguments;
pub mod assigned;
pub mod authority;
mod choices;
pub mod contract;
pub mod csi;
pub mod explain;
pub mod federation;
mod fields;
pub mod hold;
pub mod id;
pub mod index;
mod inject;
mod limits;
pub mod live;
pub mod missed;
pub mod names;
pub mod objects;
pub mod patch;
pub mod pod;
pub mod proxy;
mod quantity;
mod reserved;
pub mod resolve;
mod resources;
pub mod running;
pub mod settings;
pub mod shell;
mod sidecar;
mod text;
pub mod troubles;
mod variables;
pub mod warning;

pub use choices::AnnotationError;
pub use fields::FieldError;
pub use limits::LimitRange;
pub use reserved::Reserved;
pub use text::with_causes;
