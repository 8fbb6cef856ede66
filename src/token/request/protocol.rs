//! The protocols by which SDKs ask, and how each names an identity.

use clap::ValueEnum;
use imdslet_core::names::{APP_SERVICE_PATH, IMDS_PATH};

/// As who to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Protocol {
    /// Azure's metadata service; at AZURE_POD_IDENTITY_AUTHORITY_HOST, or 169.254.169.254
    Imds,
    /// App Service since 2019, by IDENTITY_ENDPOINT: all current SDKs in a pod
    #[value(name = "appservice")]
    AppService,
    /// App Service of 2017, by MSI_ENDPOINT and MSI_SECRET: adal and SDKs of its age
    #[value(name = "appservice-2017")]
    AppService2017,
    /// Azure Cloud Shell, by MSI_ENDPOINT alone
    #[value(name = "cloudshell")]
    CloudShell,
    /// Terraform's azurerm provider, by ARM_MSI_ENDPOINT
    Terraform,
}

/// Which identity, where it is not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By its client id.
    ClientId(String),
    /// By its object id, also named principal id.
    ObjectId(String),
    /// By its resource id in Azure.
    ResourceId(String),
}

impl Protocol {
    /// The name after `--as`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::AppService => "appservice",
            Self::AppService2017 => "appservice-2017",
            Self::CloudShell => "cloudshell",
            Self::Terraform => "terraform",
        }
    }

    /// The variable that names its endpoint.
    pub(super) fn variable(self) -> &'static str {
        match self {
            Self::Imds => "AZURE_POD_IDENTITY_AUTHORITY_HOST",
            Self::AppService => "IDENTITY_ENDPOINT",
            Self::AppService2017 | Self::CloudShell => "MSI_ENDPOINT",
            Self::Terraform => "ARM_MSI_ENDPOINT",
        }
    }

    /// The header that it must send, and the variable with its value.
    pub(in crate::token) fn secret(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::AppService => Some(("X-IDENTITY-HEADER", "IDENTITY_HEADER")),
            Self::AppService2017 => Some(("secret", "MSI_SECRET")),
            _ => None,
        }
    }

    pub(super) fn api_version(self) -> Option<&'static str> {
        match self {
            Self::Imds | Self::Terraform => Some("2018-02-01"),
            Self::AppService => Some("2019-08-01"),
            Self::AppService2017 => Some("2017-09-01"),
            Self::CloudShell => None,
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Imds | Self::Terraform => IMDS_PATH,
            Self::AppService | Self::AppService2017 | Self::CloudShell => APP_SERVICE_PATH,
        }
    }
}

impl Selector {
    pub(super) fn flag(&self) -> &'static str {
        match self {
            Self::ClientId(_) => "--client-id",
            Self::ObjectId(_) => "--object-id",
            Self::ResourceId(_) => "--resource-id",
        }
    }

    /// The query parameter, under the name that current SDKs give it.
    pub(super) fn parameter(&self, protocol: Protocol) -> (&'static str, &str) {
        match (self, protocol) {
            (Self::ClientId(id), Protocol::AppService2017) => ("clientid", id),
            (Self::ClientId(id), _) => ("client_id", id),
            (Self::ObjectId(id), _) => ("object_id", id),
            (Self::ResourceId(id), Protocol::AppService) => ("mi_res_id", id),
            (Self::ResourceId(id), _) => ("msi_res_id", id),
        }
    }
}
