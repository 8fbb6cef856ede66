//! Secrets Store volumes whose SecretProviderClass asks NMI.
//!
//! The Azure provider runs on the node and mounts before any container of the pod starts, so no
//! sidecar can answer it: it has to be told another way to a token. For each such class and each
//! selector that is bound to an identity, the controller keeps a **derived class**, which is the
//! original with `usePodIdentity` taken away and `clientID` set; the webhook points the pod's
//! volume to it.
//!
//! The name of a derived class is made of the original's name and the selector, not of the
//! identity: when the binding changes, the class is changed, and pods that run follow it.

mod class;
mod driver;
mod plan;
mod volumes;

pub use class::{Derived, Origin, ProviderClass, Stored};
pub use driver::{AUDIENCE, DriverFault};
pub use plan::{Plan, PodUse, Step, plan};
pub(crate) use volumes::{CLASS_ATTRIBUTE, Redirect, redirects};
