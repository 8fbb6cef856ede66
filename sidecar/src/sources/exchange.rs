//! One request to Entra ID for one token, by azure_identity over a transport of ours.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{Secret as AzureSecret, TokenCredential};
use azure_core::http::{ClientMethodOptions, ClientOptions, RetryOptions, Transport, Url};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions,
};
use tokio::time::timeout_at;

use super::Wanted;
use crate::cause::Attempt;
use crate::claims::Claims;
use crate::config::FETCH_DEADLINE;
use crate::fault::{Fault, judge};
use crate::secret::Secret;
use crate::source::Received;
use crate::transport::{Confined, NoReply, Post};

/// A token that is asked for.
pub(super) struct Exchange<'a> {
    pub(super) wanted: Wanted<'a>,
    /// One of the identity's tenants.
    pub(super) tenant: &'a str,
    pub(super) authority: &'a str,
    /// Of the assertion, for what a refusal says; a client secret has none.
    pub(super) claims: &'a Claims,
}

/// What proves to Entra ID who asks.
#[derive(Debug)]
struct Assertion(Secret);

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.reveal().to_owned())
    }
}

impl Exchange<'_> {
    /// Exchanges `assertion` for a token.
    pub(super) async fn assertion(
        &self,
        https: &Arc<dyn Post>,
        assertion: Secret,
    ) -> Result<Received, Fault> {
        let confined = self.confined(https)?;
        // A new one for each fetch: its own cache has one lock for all scopes, and refreshes in the
        // foreground.
        let options =
            ClientAssertionCredentialOptions { client_options: options(self.authority, &confined) };
        let credential = ClientAssertionCredential::new(
            self.tenant.to_owned(),
            self.wanted.identity.client_id.clone(),
            Assertion(assertion),
            Some(options),
        )
        .map_err(|error| self.no_answer(error.to_string()))?;
        self.ask(credential, &confined).await
    }

    /// Exchanges a client secret for a token.
    pub(super) async fn secret(
        &self,
        https: &Arc<dyn Post>,
        secret: &Secret,
    ) -> Result<Received, Fault> {
        let confined = self.confined(https)?;
        let options =
            ClientSecretCredentialOptions { client_options: options(self.authority, &confined) };
        let credential = ClientSecretCredential::new(
            self.tenant,
            self.wanted.identity.client_id.clone(),
            AzureSecret::from(secret.reveal().to_owned()),
            Some(options),
        )
        .map_err(|error| self.no_answer(error.to_string()))?;
        self.ask(credential, &confined).await
    }

    async fn ask(
        &self,
        credential: Arc<dyn TokenCredential>,
        confined: &Confined,
    ) -> Result<Received, Fault> {
        let scope = self.wanted.resource.scope();
        let scopes = [scope.as_str()];
        match timeout_at(self.wanted.ends, credential.get_token(&scopes, None)).await {
            Err(_) => {
                Err(Fault::Deadline { authority: self.authority.to_owned(), after: FETCH_DEADLINE })
            }
            Ok(Ok(token)) => Ok(Received {
                access_token: Secret::new(token.token.secret()),
                expires_on: SystemTime::from(token.expires_on),
            }),
            Ok(Err(error)) => Err(match confined.take() {
                Some(Ok(reply)) => judge(
                    &reply,
                    &Attempt {
                        identity: self.wanted.identity,
                        tenant: self.tenant,
                        authority: self.authority,
                        claims: self.claims,
                    },
                ),
                Some(Err(NoReply { why, is_untrusted: true })) => {
                    Fault::Untrusted { authority: self.authority.to_owned(), why }
                }
                Some(Err(NoReply { why, is_untrusted: false })) => self.no_answer(why),
                None => self.no_answer(error.to_string()),
            }),
        }
    }

    /// Where it is asked for.
    pub(super) fn endpoint(&self) -> String {
        format!("{}/{}/oauth2/v2.0/token", self.authority, self.tenant)
    }

    /// A transport that lets this exchange's one request through.
    fn confined(&self, https: &Arc<dyn Post>) -> Result<Arc<Confined>, Fault> {
        let allowed =
            Url::parse(&self.endpoint()).map_err(|error| self.no_answer(error.to_string()))?;
        Ok(Confined::new(Arc::clone(https), allowed))
    }

    fn no_answer(&self, why: String) -> Fault {
        Fault::NoAnswer { authority: self.authority.to_owned(), why }
    }
}

fn options(authority: &str, confined: &Arc<Confined>) -> ClientOptions {
    let mut cloud = CustomConfiguration::default();
    authority.clone_into(&mut cloud.authority_host);
    ClientOptions {
        // The cache decides when to ask again; the default is 8 tries in 60 s.
        retry: RetryOptions::none(),
        transport: Some(Transport::new(Arc::<Confined>::clone(confined))),
        cloud: Some(Arc::new(cloud.into())),
        ..ClientOptions::default()
    }
}
