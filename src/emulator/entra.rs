//! The emulator without its network: configuration, keys, and what is answered to whom.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use http::StatusCode;
use imdslet_certs::Authority;
use serde_json::Value;

use super::assertion;
use super::bindings::{Denial, IdentityBindings};
use super::certificate;
use super::config::{Application, Config, Tenant};
use super::jwt::{Jwks, KeyError, KeyName, SigningKey};
use super::refusal::{Ids, Refusal};
use super::request::{Credential, TokenRequest, client_id};
use super::requests::{Caller, Counts, End, Requests};
use super::token::{Grant, Proof, issue};

/// Why the emulator does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No key for access tokens.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No CA or serving certificate; usually a name that is no DNS name.
    #[error(transparent)]
    Certificate(#[from] imdslet_certs::Error),
    /// TLS refuses the certificate.
    #[error("the serving certificate cannot be used: {0}")]
    Tls(rustls::Error),
    /// The listener has no address.
    #[error("the listener has no address: {0}")]
    Listener(io::Error),
}

/// The emulator. Its keys are made at the start and last as long as it does.
pub struct Entra {
    authority: Authority,
    key: SigningKey,
    /// Replaced as a whole: each call sees one configuration from its beginning to its end.
    config: RwLock<Arc<Config>>,
    counts: Counts,
}

/// A call of the token endpoint.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) tenant: &'a str,
    /// The URL that it was posted to.
    pub(super) endpoint: &'a str,
    pub(super) body: &'a [u8],
}

/// A token and how many seconds it is valid.
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) expires_in: u64,
}

/// Why a caller gets no token.
#[derive(Debug)]
pub(super) enum Refused {
    /// Entra ID says so.
    ByEntra(Refusal),
    /// AKS's token proxy says so, and has not asked Entra ID.
    ByProxy(Denial),
}

impl Entra {
    /// Makes the CA and the key that signs tokens.
    ///
    /// # Errors
    ///
    /// [`StartError`] if they cannot be made, which a working random source rules out.
    pub fn new(config: Config, now: SystemTime) -> Result<Self, StartError> {
        Ok(Self {
            authority: Authority::generate("imdslet Entra ID emulator", now)?,
            key: SigningKey::generate(KeyName::Entra)?,
            config: RwLock::new(Arc::new(config)),
            counts: Counts::default(),
        })
    }

    /// The CA that clients must trust, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// The public keys of its access tokens, for [`super::verify_access_token`].
    #[must_use]
    pub fn signing_jwks(&self) -> Jwks {
        Jwks { keys: vec![self.key.public().clone()] }
    }

    /// The calls of the token endpoint until now.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.counts.read()
    }

    /// Takes another configuration for the calls that begin from now on.
    pub fn replace(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether a client that asks for `name` in TLS means the token proxy.
    pub(super) fn is_proxy(&self, name: &str) -> bool {
        self.config().identity_bindings.as_ref().is_some_and(|proxy| proxy.is_asked_as(name))
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Decides a token request.
    pub(super) async fn token(
        &self,
        config: &Config,
        call: Call<'_>,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        // Entra ID looks at the tenant before it looks at anything else.
        config.tenant(call.tenant)?;
        let request = TokenRequest::parse(call.body)?;
        let (tenant, application) = find(config, call.tenant, &request)?;
        let proof = prove(&request.credential, application, call.endpoint, config, now).await?;
        self.issue(config, tenant, application, &request.audience, proof, now)
    }

    /// Decides a token request that came to the token proxy of `bindings`.
    pub(super) async fn token_through(
        &self,
        bindings: &IdentityBindings,
        config: &Config,
        call: Call<'_>,
        now: SystemTime,
    ) -> Result<Issued, Refused> {
        let request = TokenRequest::parse(call.body)?;
        bindings.check(&request, config, now).await?;
        let (tenant, application) = find(config, call.tenant, &request)?;
        Ok(self.issue(config, tenant, application, &request.audience, Proof::Assertion, now)?)
    }

    fn issue(
        &self,
        config: &Config,
        tenant: &Tenant,
        application: &Application,
        asked: &str,
        proof: Proof,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        let grant = Grant {
            tenant: &tenant.id,
            client_id: &application.client_id,
            object_id: &application.object_id,
            audience: tenant.audience(asked)?,
            proof,
        };
        let access_token =
            issue(&grant, &self.key, config.token_lifetime, now).map_err(|error| {
                tracing::error!(%error, reason = "SigningFailed", "cannot issue a token");
                Refusal::Internal
            })?;
        Ok(Issued { access_token, expires_in: config.token_lifetime.as_secs() })
    }

    /// Counts a call by what was answered.
    pub(super) fn count(&self, caller: Caller, refused: Option<&Refused>) {
        self.counts.add(caller, refused.map_or(End::Issued, Refused::end));
    }
}

impl Refused {
    pub(super) fn end(&self) -> End {
        match self {
            Self::ByEntra(refusal) => End::Refused(refusal.code()),
            Self::ByProxy(denial) => End::Denied(denial.reason()),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::ByEntra(refusal) => refusal.status(),
            Self::ByProxy(denial) => denial.status(),
        }
    }

    /// Stable name for logs. Never carries what a client sent.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::ByEntra(refusal) => refusal.reason(),
            Self::ByProxy(denial) => denial.reason(),
        }
    }

    pub(super) fn body(&self, ids: &Ids, now: SystemTime) -> Value {
        match self {
            Self::ByEntra(refusal) => refusal.body(ids, now),
            Self::ByProxy(denial) => denial.body(),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::ByEntra(refusal)
    }
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        Self::ByProxy(denial)
    }
}

impl Caller {
    /// The caller of a token request, whether or not the request is in order.
    pub(super) fn of(config: &Config, tenant: &str, body: &[u8]) -> Self {
        let Ok(tenant) = config.tenant(tenant) else {
            return Self::default();
        };
        let client_id = client_id(body)
            .and_then(|id| tenant.application(&id))
            .map(|application| application.client_id.clone());
        Self { tenant: Some(tenant.id.clone()), client_id, ..Self::default() }
    }
}

/// The tenant, and the application that asks.
fn find<'a>(
    config: &'a Config,
    tenant: &str,
    request: &TokenRequest,
) -> Result<(&'a Tenant, &'a Application), Refusal> {
    let tenant = config.tenant(tenant)?;
    let application = tenant.application(&request.client_id).ok_or_else(|| {
        let client_id = request.client_id.clone();
        Refusal::UnknownClient { client_id, tenant: tenant.id.clone() }
    })?;
    Ok((tenant, application))
}

async fn prove(
    credential: &Credential,
    application: &Application,
    endpoint: &str,
    config: &Config,
    now: SystemTime,
) -> Result<Proof, Refusal> {
    match credential {
        Credential::Assertion(assertion) if certificate::is_meant(assertion, application) => {
            certificate::check(assertion, application, endpoint, now)?;
            Ok(Proof::Assertion)
        }
        Credential::Assertion(assertion) => {
            assertion::check(assertion, application, config, now).await?;
            Ok(Proof::Assertion)
        }
        Credential::Secret(given) => {
            // All are compared, so that the time does not tell which one was nearly right.
            let right = application.secrets.iter().filter(|secret| secret.is(given)).count();
            if right > 0 {
                return Ok(Proof::Secret);
            }
            if application.expired_secrets.iter().any(|secret| secret.is(given)) {
                return Err(Refusal::ExpiredSecret(application.client_id.clone()));
            }
            Err(Refusal::WrongSecret(application.client_id.clone()))
        }
    }
}
