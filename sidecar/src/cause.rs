//! Why Entra ID refuses, by its AADSTS codes: what each means, and what mends it. One table, which
//! `docs/operations.md` shows too.

use std::ops::RangeInclusive;

use http::StatusCode;
use imdslet_core::contract::{PodIdentity, Source};
use imdslet_core::federation::MissingCredential;

use crate::claims::Claims;

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// Stable name for logs and metrics.
    pub(crate) reason: &'static str,
    codes: &'static [RangeInclusive<u32>],
    /// The one source for which the codes mean this; `None`: for all others.
    source: Option<Source>,
    /// Of the answer to the client.
    pub(crate) status: StatusCode,
    /// Whether it may be over within seconds: what Entra ID does not know yet of something that is
    /// just being made.
    pub(crate) passes: bool,
    meaning: &'static str,
    remedy: &'static str,
}

/// For whom Entra ID was asked, and with what.
pub(crate) struct Attempt<'a> {
    pub(crate) identity: &'a PodIdentity,
    /// The one of the identity's tenants that was asked.
    pub(crate) tenant: &'a str,
    pub(crate) authority: &'a str,
    /// Of the assertion, which is the pod's service account token; a client secret has none.
    pub(crate) claims: &'a Claims,
}

const fn code(code: u32) -> RangeInclusive<u32> {
    code..=code
}

/// What holds of a row that says nothing else.
const PLAIN: Cause = Cause {
    reason: "",
    codes: &[],
    source: None,
    status: StatusCode::BAD_REQUEST,
    passes: false,
    meaning: "",
    remedy: "",
};

/// Sources: Entra's documentation, "Microsoft Entra authentication and authorization error codes",
/// and, where that has none, what Entra ID says at `https://login.microsoftonline.com/error`.
///
/// Words in braces are filled in, see [`Attempt::word`].
pub(crate) const TABLE: &[Cause] = &[
    Cause {
        reason: "NoIdentityBinding",
        codes: &[code(70_021), code(70_025), 700_211..=700_213],
        source: Some(Source::Binding),
        meaning: "identity {identity} (client id {client}) has no AKS identity binding for this \
                  cluster",
        remedy: "create it (az aks identity-binding create), or remove imdslet.dev/source from \
                 the AzureIdentity to use a federated credential",
        ..PLAIN
    },
    Cause {
        reason: "NoFederatedCredential",
        // 70025: the identity has none at all. 70021 is what 700211 to 700213 were before they were
        // told apart.
        codes: &[code(70_021), code(70_025), code(700_213)],
        passes: true,
        meaning: "no federated credential of identity {identity} (client id {client}) is for this \
                  pod's service account, subject {subject} of issuer {issuer}",
        remedy: "create it{fill-in}: {command}",
        ..PLAIN
    },
    Cause {
        reason: "WrongIssuer",
        codes: &[code(700_211)],
        meaning: "no federated credential of identity {identity} (client id {client}) has the \
                  issuer of this cluster",
        remedy: "set its issuer to {issuer}, exactly so",
        ..PLAIN
    },
    Cause {
        reason: "WrongAudience",
        codes: &[code(700_212)],
        meaning: "the federated credential of identity {identity} (client id {client}) has another \
                  audience than the pod's service account token",
        remedy: "set its audience to {audience}, or --audience to what it has",
        ..PLAIN
    },
    Cause {
        reason: "WrongLetterCase",
        codes: &[7_002_137..=7_002_138],
        meaning: "a federated credential of identity {identity} (client id {client}) differs from \
                  the pod's service account token in letter case alone",
        remedy: "set its subject to {subject}, its issuer to {issuer} and its audience to \
                 {audience}, exactly so",
        ..PLAIN
    },
    Cause {
        reason: "UnknownIssuerKey",
        codes: &[code(7_000_272)],
        meaning: "the key that signed the pod's service account token is not among those that \
                  Entra ID knows of issuer {issuer}",
        remedy: "publish the cluster's present keys there (kubectl get --raw /openid/v1/jwks); \
                 Entra ID may take some minutes to read them again",
        ..PLAIN
    },
    Cause {
        reason: "IssuerUnreachable",
        codes: &[code(50_166), 501_660..=501_669],
        meaning: "Entra ID cannot read the keys of issuer {issuer}",
        remedy: "make {issuer} and its .well-known/openid-configuration reachable from the \
                 internet, with a certificate of a public authority",
        ..PLAIN
    },
    Cause {
        reason: "WrongCertificate",
        codes: &[code(700_027)],
        source: Some(Source::Certificate),
        meaning: "the certificate in Secret {secret} is not registered at application {client} of \
                  identity {identity}, or its key is another's",
        remedy: "register that certificate at the application, or put the registered one and its \
                 key into the Secret",
        ..PLAIN
    },
    Cause {
        reason: "WrongSignature",
        codes: &[code(700_027)],
        meaning: "the signature of the pod's service account token is not by the key that issuer \
                  {issuer} publishes",
        remedy: "publish the cluster's present keys there (kubectl get --raw /openid/v1/jwks)",
        ..PLAIN
    },
    Cause {
        reason: "WrongSecret",
        codes: &[code(7_000_215)],
        meaning: "the client secret in Secret {secret} is not one of application {client}",
        remedy: "put the value of a client secret there, not its id",
        ..PLAIN
    },
    Cause {
        reason: "ExpiredSecret",
        codes: &[code(7_000_222)],
        meaning: "the client secret in Secret {secret} of application {client} has expired",
        remedy: "create a new one and put it into the Secret; it is read again at the next request",
        ..PLAIN
    },
    Cause {
        reason: "UnknownApplication",
        codes: &[code(700_016), code(7_000_229), code(50_034)],
        meaning: "tenant {tenant} has no application {client}",
        remedy: "correct spec.clientID of AzureIdentity {identity}, or its tenant",
        ..PLAIN
    },
    Cause {
        reason: "DisabledApplication",
        codes: &[code(7_000_112)],
        meaning: "application {client} of identity {identity} is disabled in tenant {tenant}",
        remedy: "enable it there, or bind another identity",
        ..PLAIN
    },
    Cause {
        reason: "UnknownTenant",
        codes: &[code(90_002), code(900_023)],
        meaning: "there is no tenant {tenant} at {authority}",
        remedy: "correct the tenant of AzureIdentity {identity}, or --cloud",
        ..PLAIN
    },
    Cause {
        reason: "UnknownResource",
        codes: &[code(500_011), code(50_001), code(70_011), code(1_002_012)],
        meaning: "the resource of the request is not known in tenant {tenant}",
        remedy: "correct `resource`: the URI or application id of a service, not of one vault, \
                 server or account of it; register in the tenant what is your own",
        ..PLAIN
    },
    Cause {
        reason: "AssertionTime",
        codes: &[code(700_024)],
        meaning: "what identity {identity} presents is not valid at this time",
        remedy: "compare the clocks of node and Entra ID, and see whether the kubelet renews the \
                 pod's service account token",
        ..PLAIN
    },
    Cause {
        reason: "DeniedByPolicy",
        // Conditional access; 501051 is an assignment that the application demands.
        codes: &[53_000..=53_999, 530_000..=539_999, code(501_051)],
        status: StatusCode::FORBIDDEN,
        meaning: "a policy of tenant {tenant} denies identity {identity} a token",
        remedy: "ask who manages Conditional Access for workload identities there",
        ..PLAIN
    },
];

/// What is not in the table.
const OTHER: Cause = Cause {
    reason: "Refused",
    meaning: "Entra ID refuses a token to identity {identity}",
    remedy: "look the code up at https://login.microsoftonline.com/error",
    ..PLAIN
};

impl Cause {
    /// The row for `code`, where an identity of `source` got it.
    pub(crate) fn of(code: Option<u32>, source: Source) -> &'static Self {
        let fits = |cause: &&Self| {
            code.is_some_and(|code| cause.codes.iter().any(|codes| codes.contains(&code)))
                && cause.source.is_none_or(|only| only == source)
        };
        TABLE.iter().find(fits).unwrap_or(&OTHER)
    }

    /// What it means for this attempt.
    pub(crate) fn meaning(&self, attempt: &Attempt<'_>) -> String {
        attempt.fill(self.meaning)
    }

    /// What mends it.
    pub(crate) fn remedy(&self, attempt: &Attempt<'_>) -> String {
        attempt.fill(self.remedy)
    }
}

impl Attempt<'_> {
    /// `template` with its words in braces filled in; what is filled in is not looked at again.
    fn fill(&self, template: &str) -> String {
        let mut pieces = template.split('{');
        let mut filled = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (word, rest) = piece.split_once('}').unwrap_or((piece, ""));
            filled.push_str(&self.word(word).unwrap_or_default());
            filled.push_str(rest);
        }
        filled
    }

    fn word(&self, word: &str) -> Option<String> {
        let claim = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
        Some(match word {
            "identity" => self.identity.name.clone(),
            "client" => self.identity.client_id.clone(),
            "secret" => self.identity.secret.clone().unwrap_or_default(),
            "tenant" => self.tenant.to_owned(),
            "authority" => self.authority.to_owned(),
            "issuer" => claim(&self.claims.iss),
            "subject" => claim(&self.claims.sub),
            "audience" => claim(&self.claims.aud),
            "command" => self.missing().to_string(),
            "fill-in" => self.fill_in(),
            _ => return None,
        })
    }

    fn missing(&self) -> MissingCredential<'_> {
        MissingCredential {
            resource_id: self.identity.resource_id.as_deref(),
            issuer: self.claims.iss.as_deref(),
            subject: self.claims.sub.as_deref(),
            audience: self.claims.aud.as_deref(),
        }
    }

    fn fill_in(&self) -> String {
        match &*self.missing().to_fill_in() {
            [] => String::new(),
            // The usual gap has a better way.
            [words @ .., last] if *last == "SUBSCRIPTION" => format!(
                " with {} and {last} of the managed identity (spec.resourceID of AzureIdentity {} \
                 would say them)",
                words.join(", "),
                self.identity.name
            ),
            words => format!(" with {} filled in", words.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::identity;

    /// What the operator reads.
    const OPERATIONS: &str = include_str!("../../docs/operations.md");

    fn claims() -> Claims {
        Claims {
            iss: Some("https://issuer.example/".to_owned()),
            sub: Some("system:serviceaccount:web:app".to_owned()),
            aud: Some("api://AzureADTokenExchange".to_owned()),
            ..Claims::default()
        }
    }

    fn texts(code: u32, identity: &PodIdentity) -> (String, String) {
        let attempt = Attempt {
            identity,
            tenant: &identity.tenant_id,
            authority: "https://login.example",
            claims: &claims(),
        };
        let cause = Cause::of(Some(code), identity.source);
        (cause.meaning(&attempt), cause.remedy(&attempt))
    }

    #[test]
    fn a_missing_credential_comes_with_the_command_that_makes_it() {
        let mut identity = identity("web/db", '1');
        let command = "az identity federated-credential create --name imdslet-web-app-6bac724e \
             --identity-name id-1 --resource-group 'rg one' --subscription s \
             --issuer https://issuer.example/ --subject system:serviceaccount:web:app \
             --audiences api://AzureADTokenExchange";
        for code in [70_021, 70_025, 700_213] {
            let (meaning, remedy) = texts(code, &identity);
            assert_eq!(
                meaning,
                "no federated credential of identity web/db (client id \
                 c0000000-0000-0000-0000-000000000001) is for this pod's service account, subject \
                 system:serviceaccount:web:app of issuer https://issuer.example/"
            );
            assert_eq!(remedy, format!("create it: {command}"));
        }
        identity.resource_id = None;
        let (_, remedy) = texts(700_213, &identity);
        assert!(
            remedy.starts_with(
                "create it with IDENTITY, GROUP and SUBSCRIPTION of the managed identity \
                 (spec.resourceID of AzureIdentity web/db would say them): az identity "
            ),
            "{remedy}"
        );
    }

    #[test]
    fn one_code_may_mean_two_things() {
        let mut identity = identity("web/db", '1');
        assert_eq!(Cause::of(Some(700_027), identity.source).reason, "WrongSignature");
        for code in [70_021, 70_025, 700_211, 700_212, 700_213] {
            assert_eq!(Cause::of(Some(code), Source::Binding).reason, "NoIdentityBinding");
            assert_ne!(Cause::of(Some(code), Source::Federated).reason, "NoIdentityBinding");
        }
        identity.source = Source::Certificate;
        identity.secret = Some("sp".to_owned());
        assert_eq!(Cause::of(Some(700_027), identity.source).reason, "WrongCertificate");
        let (meaning, _) = texts(700_027, &identity);
        assert!(meaning.starts_with("the certificate in Secret sp is not registered"), "{meaning}");
    }

    #[test]
    fn every_word_in_braces_is_known_and_nothing_is_left_of_it() {
        let identity = identity("web/db", '1');
        for cause in TABLE.iter().chain([&OTHER]) {
            for template in [cause.meaning, cause.remedy] {
                for piece in template.split('{').skip(1) {
                    let (word, _) = piece.split_once('}').unwrap();
                    let attempt = Attempt {
                        identity: &identity,
                        tenant: "t",
                        authority: "a",
                        claims: &Claims::default(),
                    };
                    assert!(attempt.word(word).is_some(), "{word}");
                }
                assert!(!template.ends_with('.'), "{template}");
            }
        }
    }

    /// What was filled in is text: braces in it mean nothing.
    #[test]
    fn a_claim_fills_in_nothing_of_its_own() {
        let identity = identity("web/db", '1');
        let claims = Claims { iss: Some("{client} {".to_owned()), ..Claims::default() };
        let attempt = Attempt { identity: &identity, tenant: "t", authority: "a", claims: &claims };
        let remedy = Cause::of(Some(700_211), identity.source).remedy(&attempt);
        assert_eq!(remedy, "set its issuer to {client} {, exactly so");
    }

    #[test]
    fn each_reason_and_each_code_is_documented() {
        for cause in TABLE.iter().chain([&OTHER]) {
            let row = format!("| `{}` |", cause.reason);
            let line = OPERATIONS.lines().find(|line| line.starts_with(&row));
            let line = line.unwrap_or_else(|| panic!("docs/operations.md has no row {row}"));
            for codes in cause.codes {
                for code in [codes.start(), codes.end()] {
                    assert!(line.contains(&code.to_string()), "{code} is not in {line}");
                }
            }
        }
    }
}
