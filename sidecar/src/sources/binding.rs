//! Type 0 with `imdslet.dev/source: binding`: AKS identity bindings.
//!
//! A token proxy of AKS inside the cluster takes Entra ID's place: it takes the same request with a
//! service account token for an audience of its own. What is sent, and whom it trusts, is as the
//! published SDKs do it (azidentity 1.14, `internal/customtokenproxy`).

use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use imdslet_core::arguments::ServeArgs;
use imdslet_core::contract::PodIdentity;
use imdslet_core::names::{BINDING_CA_FILE, BINDING_TOKEN_FILE};
use rustls::pki_types::CertificateDer;

use super::Wanted;
use super::exchange::Exchange;
use super::federated::service_account_token;
use crate::claims::Claims;
use crate::config;
use crate::fault::Fault;
use crate::source::Fetched;
use crate::transport::Proxied;

/// Why AKS's token proxy gave no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BindingFault {
    #[error(
        "identity {identity} has the source `binding`, and this pod's sidecar was not given the \
         token proxy; recreate the pod, with --binding-proxy set"
    )]
    NotConfigured { identity: String },
    #[error(
        "the CA of the token proxy cannot be read ({why}); --binding-ca-config-map names the \
         ConfigMap of the pod's namespace that has it as ca.crt"
    )]
    NoCa { why: String },
    #[error(
        "the token proxy {proxy} cannot be asked ({why}); look at the pod's egress rules, and at \
         --binding-proxy"
    )]
    NoAnswer { proxy: String, why: String },
    #[error(
        "the certificate of the token proxy {proxy} is not trusted ({why}); look at --binding-sni, \
         and at the ConfigMap with its CA (--binding-ca-config-map)"
    )]
    Untrusted { proxy: String, why: String },
    #[error(
        "the token proxy does not let service account {subject} be identity {identity} (status \
         {status}); give it the verb use-managed-identity for {client_id} of API group \
         cid.wi.aks.azure.com (ClusterRole and ClusterRoleBinding)"
    )]
    NotAllowed { identity: String, client_id: String, subject: String, status: u16 },
}

impl BindingFault {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotConfigured { .. } => StatusCode::BAD_REQUEST,
            Self::NotAllowed { .. } => StatusCode::FORBIDDEN,
            Self::NoCa { .. } | Self::NoAnswer { .. } | Self::Untrusted { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotConfigured { .. } => "NoBindingProxy",
            Self::NoCa { .. } => "NoBindingCa",
            Self::NoAnswer { .. } => "BindingNoAnswer",
            Self::Untrusted { .. } => "BindingUntrusted",
            Self::NotAllowed { .. } => "BindingNotAllowed",
        }
    }
}

pub(super) async fn fetch(args: &ServeArgs, wanted: Wanted<'_>) -> Result<Fetched, Fault> {
    let identity = wanted.identity;
    let Some(proxy) = &args.binding else {
        return Err(BindingFault::NotConfigured { identity: identity.name.clone() }.into());
    };
    let assertion = service_account_token(&args.dir.join(BINDING_TOKEN_FILE))?;
    // Read for each fetch, as the token is: once an hour, and no change is missed.
    let ca = certificates(&args.dir.join(BINDING_CA_FILE))?;
    let proxied = Proxied::new(&ca, &proxy.url, proxy.sni.as_deref())
        .map_err(|why| BindingFault::NoCa { why })?;
    let claims = Claims::of(assertion.reveal());
    let exchange = Exchange {
        wanted,
        tenant: &identity.tenant_id,
        authority: &args.authority,
        claims: &claims,
    };
    let received = exchange.assertion(&(Arc::new(proxied) as _), assertion).await;
    received.map(Fetched::from).map_err(|fault| of_proxy(fault, &proxy.url, identity, &claims))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BindingFault> {
    let no_ca = |why: String| BindingFault::NoCa { why: format!("{}: {why}", path.display()) };
    let pem = std::fs::read(path).map_err(|error| no_ca(error.to_string()))?;
    config::certificates(&pem).map_err(no_ca)
}

/// What a fault means where the proxy was asked in Entra ID's place.
fn of_proxy(fault: Fault, proxy: &str, identity: &PodIdentity, claims: &Claims) -> Fault {
    let proxy = proxy.to_owned();
    match fault {
        Fault::NoAnswer { why, .. } => BindingFault::NoAnswer { proxy, why }.into(),
        Fault::Untrusted { why, .. } => BindingFault::Untrusted { proxy, why }.into(),
        Fault::Deadline { after, .. } => Fault::Deadline { authority: proxy, after },
        // What it says itself is Kubernetes' way of saying no, and not Entra ID's.
        Fault::BadAnswer { status: status @ (401 | 403), .. } => BindingFault::NotAllowed {
            identity: identity.name.clone(),
            client_id: identity.client_id.clone(),
            subject: claims.sub.clone().unwrap_or_else(|| "unknown".to_owned()),
            status,
        }
        .into(),
        Fault::BadAnswer { status, .. } => Fault::BadAnswer { authority: proxy, status },
        fault => fault,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::resource::Resource;
    use crate::testing::{identity, serve_args};

    #[tokio::test]
    async fn what_a_pod_lacks_is_told_before_anything_is_sent() {
        let resource = Resource::parse("r".to_owned()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut args = ServeArgs { dir: dir.path().to_owned(), ..serve_args() };
        let identity = identity("web/db", '1');
        let fault = fetch(&args, Wanted::new(&identity, &resource)).await.unwrap_err();
        assert_eq!((fault.reason(), fault.status().as_u16()), ("NoBindingProxy", 400));
        args.binding = Some(imdslet_core::arguments::TokenProxy {
            url: "https://token-proxy.invalid".to_owned(),
            sni: None,
        });
        let fault = fetch(&args, Wanted::new(&identity, &resource)).await.unwrap_err();
        assert_eq!((fault.reason(), fault.status().as_u16()), ("NoServiceAccountToken", 503));
        fs::write(dir.path().join(BINDING_TOKEN_FILE), "a.s.a").unwrap();
        for (ca, problem) in [
            (None, "No such file"),
            (Some(""), "no certificate"),
            (
                Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
                "binding-ca.crt: ",
            ),
            (Some("-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n"), ""),
        ] {
            if let Some(ca) = ca {
                fs::write(dir.path().join(BINDING_CA_FILE), ca).unwrap();
            }
            let fault = fetch(&args, Wanted::new(&identity, &resource)).await.unwrap_err();
            assert_eq!((fault.reason(), fault.status().as_u16()), ("NoBindingCa", 503), "{ca:?}");
            assert!(fault.to_string().contains(problem), "{fault}");
            assert!(fault.to_string().contains("--binding-ca-config-map"), "{fault}");
        }
    }

    #[test]
    fn the_proxy_stands_where_entra_id_would() {
        let authority = || "https://login.example".to_owned();
        let why = || "why".to_owned();
        let claims =
            Claims { sub: Some("system:serviceaccount:web:app".to_owned()), ..Claims::default() };
        for (fault, reason, status, part) in [
            (
                Fault::NoAnswer { authority: authority(), why: why() },
                "BindingNoAnswer",
                503,
                "token proxy https://proxy.example cannot be asked (why)",
            ),
            (
                Fault::Untrusted { authority: authority(), why: why() },
                "BindingUntrusted",
                503,
                "--binding-sni",
            ),
            (
                Fault::Deadline { authority: authority(), after: Duration::from_secs(9) },
                "Deadline",
                503,
                "https://proxy.example did not answer within 9 s",
            ),
            (
                Fault::BadAnswer { authority: authority(), status: 403 },
                "BindingNotAllowed",
                403,
                "service account system:serviceaccount:web:app be identity web/db",
            ),
            (
                Fault::BadAnswer { authority: authority(), status: 404 },
                "BadAnswer",
                503,
                "https://proxy.example answered 404",
            ),
            (Fault::Throttled { retry_after: None }, "Throttled", 429, "fewer requests"),
        ] {
            let fault = of_proxy(fault, "https://proxy.example", &identity("web/db", '1'), &claims);
            assert_eq!((fault.reason(), fault.status().as_u16()), (reason, status));
            assert!(fault.to_string().contains(part), "{fault}");
        }
    }
}
