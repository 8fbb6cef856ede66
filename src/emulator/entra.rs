//! The emulator without its network: configuration, keys, and what is answered to whom.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use imdslet_certs::Authority;

use super::assertion;
use super::certificate;
use super::config::{Application, Config};
use super::jwt::{Jwks, KeyError, KeyName, SigningKey};
use super::refusal::Refusal;
use super::request::{Credential, TokenRequest, client_id};
use super::requests::{Counts, Requests};
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

/// Who calls, as far as the configuration knows them.
#[derive(Default)]
pub(super) struct Caller {
    pub(super) tenant: Option<String>,
    pub(super) client_id: Option<String>,
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
        let Call { tenant, endpoint, body } = call;
        let (tenant, applications) = config.tenant(tenant)?;
        let request = TokenRequest::parse(body)?;
        let application =
            applications.get(&request.client_id.to_ascii_lowercase()).ok_or_else(|| {
                let client_id = request.client_id.clone();
                Refusal::UnknownClient { client_id, tenant: tenant.to_owned() }
            })?;
        let proof = prove(&request.credential, application, endpoint, config, now).await?;
        let grant = Grant {
            tenant,
            client_id: &application.client_id,
            object_id: &application.object_id,
            audience: &request.audience,
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
    pub(super) fn count(&self, caller: &Caller, refusal: Option<&Refusal>) {
        let Caller { tenant, client_id } = caller;
        self.counts.add(tenant.clone(), client_id.clone(), refusal.map(Refusal::code));
    }
}

impl Caller {
    /// The caller of a token request, whether or not the request is in order.
    pub(super) fn of(config: &Config, tenant: &str, body: &[u8]) -> Self {
        let Ok((tenant, applications)) = config.tenant(tenant) else {
            return Self::default();
        };
        let client_id = client_id(body)
            .and_then(|id| applications.get(&id.to_ascii_lowercase()))
            .map(|application| application.client_id.clone());
        Self { tenant: Some(tenant.to_owned()), client_id }
    }
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
