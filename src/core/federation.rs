//! What must exist in Azure for a service account to be an identity, and the command that makes it.

use std::fmt;
use std::net::IpAddr;

use crate::id::{IdentityResource, identity_resource};
use crate::shell::quoted;
use crate::text::short_hash;

/// The longest name that Azure takes for a federated credential.
const LONGEST_NAME: usize = 120;

/// A federated credential that is not there, as far as it is known what it must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingCredential<'a> {
    /// Resource id of the user-assigned managed identity.
    pub resource_id: Option<&'a str>,
    /// The `iss` of the service account token.
    pub issuer: Option<&'a str>,
    /// The `sub` of the service account token.
    pub subject: Option<&'a str>,
    /// The `aud` of the service account token.
    pub audience: Option<&'a str>,
}

/// The name of the credential for `subject` of `issuer`: the same for every run and every program,
/// and another one for every other pair, since creating a credential replaces one of its name.
///
/// Azure takes 3 to 120 letters, digits, `-` and `_`, the first one no sign. Source: the Azure
/// documentation, "Important considerations and restrictions for federated identity credentials".
///
/// ```
/// use imdslet_core::federation::credential_name;
/// let name = credential_name("https://issuer.example/", "system:serviceaccount:web:app");
/// assert_eq!(name, "imdslet-web-app-6bac724e");
/// ```
#[must_use]
pub fn credential_name(issuer: &str, subject: &str) -> String {
    let who = subject.strip_prefix("system:serviceaccount:").unwrap_or(subject);
    let readable: String = format!("imdslet-{who}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .collect();
    let hash = short_hash(&format!("{issuer}\n{subject}"));
    // All of it is ASCII by now.
    let longest = LONGEST_NAME - hash.len() - 1;
    format!("{}-{hash}", readable.get(..longest).unwrap_or(&readable))
}

/// Whether the URL alone tells that Entra ID cannot read an issuer's keys, so that no credential for it
/// works: a name or an address of the inside of a cluster or a company, or the API server of AKS, which
/// is the issuer there until an OIDC issuer is enabled and shows its keys to nobody who is not known.
///
/// ```
/// use imdslet_core::federation::is_out_of_reach;
/// assert!(is_out_of_reach("https://kubernetes.default.svc.cluster.local"));
/// assert!(!is_out_of_reach("https://westeurope.oic.prod-aks.azure.com/TENANT/CLUSTER/"));
/// ```
#[must_use]
pub fn is_out_of_reach(issuer: &str) -> bool {
    let Some(rest) = issuer.strip_prefix("https://") else { return true };
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse().is_ok_and(|address| is_inside(&address));
    }
    let host = host.split(':').next().unwrap_or_default();
    if let Ok(address) = host.parse() {
        return is_inside(&address);
    }
    // The domain of a cluster may be anybody's, so its beginning tells.
    !host.contains('.')
        || host.starts_with("kubernetes.default.svc")
        || [".svc", ".local", ".localhost", ".internal", ".azmk8s.io"]
            .iter()
            .any(|end| host.ends_with(end))
}

fn is_inside(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

impl MissingCredential<'_> {
    /// What stands in the command in capitals, for a person to fill in.
    #[must_use]
    pub fn to_fill_in(&self) -> Vec<&'static str> {
        let identity = ["IDENTITY", "GROUP", "SUBSCRIPTION"];
        let resource = self.resource_id.and_then(identity_resource);
        let of_identity = identity.into_iter().filter(|_| resource.is_none());
        let others =
            [(self.issuer, "ISSUER"), (self.subject, "SUBJECT"), (self.audience, "AUDIENCE")];
        let of_token = others.into_iter().filter(|(value, _)| value.is_none());
        of_identity.chain(of_token.map(|(_, word)| word)).collect()
    }
}

/// The command of the Azure CLI that creates the credential. Values are quoted for a POSIX shell:
/// they come from a token and from an annotation, and people paste the line.
impl fmt::Display for MissingCredential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuer = self.issuer.unwrap_or("ISSUER");
        let subject = self.subject.unwrap_or("SUBJECT");
        let IdentityResource { subscription, resource_group, name } =
            self.resource_id.and_then(identity_resource).unwrap_or(IdentityResource {
                subscription: "SUBSCRIPTION",
                resource_group: "GROUP",
                name: "IDENTITY",
            });
        f.write_str("az identity federated-credential create")?;
        for (option, value) in [
            ("name", credential_name(issuer, subject).as_str()),
            ("identity-name", name),
            ("resource-group", resource_group),
            ("subscription", subscription),
            ("issuer", issuer),
            ("subject", subject),
            ("audiences", self.audience.unwrap_or("AUDIENCE")),
        ] {
            write!(f, " --{option} {}", quoted(&one_line(value)))?;
        }
        Ok(())
    }
}

/// What is pasted must be one line, and must not steer the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/00000000-1111-2222-3333-444444444444/resourceGroups/rg/\
        providers/Microsoft.ManagedIdentity/userAssignedIdentities/app";

    fn credential() -> MissingCredential<'static> {
        MissingCredential {
            resource_id: Some(ID),
            issuer: Some("https://issuer.example/"),
            subject: Some("system:serviceaccount:web:app"),
            audience: Some("api://AzureADTokenExchange"),
        }
    }

    #[test]
    fn the_command_is_whole_and_can_be_pasted() {
        assert_eq!(
            credential().to_string(),
            "az identity federated-credential create --name imdslet-web-app-6bac724e \
             --identity-name app --resource-group rg \
             --subscription 00000000-1111-2222-3333-444444444444 \
             --issuer https://issuer.example/ --subject system:serviceaccount:web:app \
             --audiences api://AzureADTokenExchange"
        );
        assert!(credential().to_fill_in().is_empty());
    }

    #[test]
    fn what_is_not_known_is_to_be_filled_in() {
        for resource_id in [None, Some("demoidentity")] {
            let credential = MissingCredential { resource_id, ..credential() };
            assert_eq!(credential.to_fill_in(), ["IDENTITY", "GROUP", "SUBSCRIPTION"]);
            let command = credential.to_string();
            assert!(
                command.contains(
                    "--identity-name IDENTITY --resource-group GROUP --subscription SUBSCRIPTION "
                ),
                "{command}"
            );
        }
        let nothing =
            MissingCredential { issuer: None, subject: None, audience: None, ..credential() };
        assert_eq!(nothing.to_fill_in(), ["ISSUER", "SUBJECT", "AUDIENCE"]);
        let command = nothing.to_string();
        assert!(
            command.ends_with("--issuer ISSUER --subject SUBJECT --audiences AUDIENCE"),
            "{command}"
        );
    }

    #[test]
    fn a_value_of_more_than_one_line_stays_in_its_word_and_its_line() {
        let subject = Some("a\nreboot; 'x'\u{1b}[2J");
        let command = MissingCredential { subject, ..credential() }.to_string();
        assert!(command.contains(r" --subject 'a?reboot; '\''x'\''?[2J' "), "{command}");
    }

    #[test]
    fn an_issuer_of_the_inside_is_told_by_its_url() {
        for issuer in [
            "http://issuer.example/",
            "https://kubernetes.default.svc",
            "https://Kubernetes.default.svc.corp.example",
            "https://cluster-1a2b3c4d.hcp.westeurope.azmk8s.io",
            "https://cluster-1a2b3c4d.hcp.westeurope.azmk8s.io:443/",
            "https://api.lab.internal:6443",
            "https://oidc.corp.local/c1",
            "https://localhost:8443",
            "https://10.0.0.1:6443",
            "https://172.31.0.1/",
            "https://[fd00::1]:6443/",
            "https://[::1]",
            "https://",
        ] {
            assert!(is_out_of_reach(issuer), "{issuer}");
        }
        for issuer in [
            "https://westeurope.oic.prod-aks.azure.com/1/2/",
            "https://account.blob.core.windows.net/oidc/",
            "https://oidc.eks.eu-west-1.amazonaws.com/id/1",
            "https://issuer.example:8443",
            "https://20.1.2.3/",
            "https://172.32.0.1/",
            "https://[2001:db8::1]/",
            "https://internal.example/",
        ] {
            assert!(!is_out_of_reach(issuer), "{issuer}");
        }
    }

    #[test]
    fn a_name_is_what_azure_takes_and_nobody_elses() {
        let long = format!("system:serviceaccount:{}:{}", "n".repeat(63), "a.b".repeat(84));
        let pairs = [
            ("https://i.example", "system:serviceaccount:web:app"),
            ("https://i.example/", "system:serviceaccount:web:app"),
            ("https://i.example/", "system:serviceaccount:web:app.v1"),
            ("https://i.example/", "system:serviceaccount:web:app-v1"),
            ("https://i.example/", "system:serviceaccount:web-app:v1"),
            ("https://i.example/", &long),
            ("https://i.example/", "repo:org/näme"),
            ("", ""),
        ];
        let mut names: Vec<_> =
            pairs.map(|(issuer, subject)| credential_name(issuer, subject)).to_vec();
        for name in &names {
            assert!((3..=120).contains(&name.len()), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
                "{name}"
            );
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), pairs.len());
    }
}
