//! The kinds that are watched.

use imdslet_core::names::{CLASS_GROUP, CLASS_KIND, GROUP};
use imdslet_core::objects::Kind;

/// A kind, and where the API server has it.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) kind: Kind,
    /// As [`Kind`] prints it.
    pub(super) name: &'static str,
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    /// Somebody else defines it, and may not have: it is done without where it cannot be read.
    pub(super) is_optional: bool,
}

pub(super) const SOURCES: [Source; 6] = [
    source(Kind::AzureIdentity, "AzureIdentity", GROUP, "azureidentities"),
    source(Kind::AzureIdentityBinding, "AzureIdentityBinding", GROUP, "azureidentitybindings"),
    source(
        Kind::AzurePodIdentityException,
        "AzurePodIdentityException",
        GROUP,
        "azurepodidentityexceptions",
    ),
    source(Kind::Namespace, "Namespace", "", "namespaces"),
    source(Kind::LimitRange, "LimitRange", "", "limitranges"),
    Source {
        is_optional: true,
        ..source(Kind::SecretProviderClass, CLASS_KIND, CLASS_GROUP, "secretproviderclasses")
    },
];

const fn source(
    kind: Kind,
    name: &'static str,
    group: &'static str,
    resource: &'static str,
) -> Source {
    Source { kind, name, group, resource, is_optional: false }
}
