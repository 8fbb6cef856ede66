//! What an operator sets once for a cluster: the same for the webhook and for `imdslet inject`.

/// An Azure cloud: it decides authority and audience where neither is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cloud {
    /// Azure's public cloud.
    #[default]
    Public,
    /// Azure Government (United States).
    UsGov,
    /// Azure operated by 21Vianet (China).
    China,
}

impl Cloud {
    /// Base URL of Entra ID in this cloud.
    /// Source: Entra's documentation, "National clouds".
    #[must_use]
    pub fn authority(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGov => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }

    /// Audience of service account tokens that Entra ID exchanges in this cloud.
    /// Source: Entra's documentation, "Important considerations and restrictions for federated
    /// identity credentials".
    #[must_use]
    pub fn audience(self) -> &'static str {
        match self {
            Self::Public => "api://AzureADTokenExchange",
            Self::UsGov => "api://AzureADTokenExchangeUSGov",
            Self::China => "api://AzureADTokenExchangeChina",
        }
    }
}
