//! Settings whose values are a few words.

use crate::arguments::Mode;

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

/// Which bindings a pod may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of every namespace, as aad-pod-identity did by default.
    Cluster,
    /// Those of its own namespace, as the managed mode and the AKS add-on did.
    Namespaced,
}

/// How an application asks for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// By variables that every container gets.
    Env,
    /// At 169.254.169.254, which the pod gets on its loopback interface.
    LinkLocal,
}

/// What becomes of a pod that is bound to no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnbound {
    /// It is admitted and waits for a binding.
    Wait,
    /// It is refused.
    Deny,
}

/// A value that a person chooses among a few words.
pub(crate) trait Word: Sized + Copy + 'static {
    /// Each word and what it means.
    const WORDS: &'static [(&'static str, Self)];

    /// `Err` lists the words.
    fn parse(text: &str) -> Result<Self, String> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| format!("`{word}`")).collect();
            words.join(" or ")
        })
    }
}

impl Word for Cloud {
    const WORDS: &'static [(&'static str, Self)] =
        &[("public", Self::Public), ("usgov", Self::UsGov), ("china", Self::China)];
}

impl Word for Scope {
    const WORDS: &'static [(&'static str, Self)] =
        &[("cluster", Self::Cluster), ("namespaced", Self::Namespaced)];
}

impl Word for Endpoint {
    const WORDS: &'static [(&'static str, Self)] =
        &[("env", Self::Env), ("link-local", Self::LinkLocal)];
}

impl Word for WhenUnbound {
    const WORDS: &'static [(&'static str, Self)] = &[("wait", Self::Wait), ("deny", Self::Deny)];
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("native", Self::Native), ("container", Self::Container)];
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
