//! Tokens from Entra ID, for the pod's service account token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientMethodOptions, ClientOptions, RetryOptions, Transport, Url};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions,
};
use imdslet_core::contract::{PodIdentity, Source};
use imdslet_core::id::{is_guid, is_tenant};
use imdslet_core::names::TOKEN_FILE;
use imdslet_core::serve::ServeArgs;
use tokio::time::timeout;

use crate::claims::Claims;
use crate::config::FETCH_DEADLINE;
use crate::fault::{Attempt, Fault, judge};
use crate::resource::Resource;
use crate::secret::Secret;
use crate::source::{Fetch, Fetched};
use crate::transport::{Confined, Post};

/// Entra ID, as the arguments name it.
pub(crate) struct Entra {
    args: Arc<ServeArgs>,
    https: Arc<dyn Post>,
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

impl Entra {
    pub(crate) fn new(args: Arc<ServeArgs>, https: Arc<dyn Post>) -> Self {
        Self { args, https }
    }

    /// The service account token. The kubelet renews the file long before the token ends, so it
    /// is read for each fetch.
    fn assertion(&self) -> Result<Secret, Fault> {
        let path: PathBuf = self.args.dir.join(TOKEN_FILE);
        let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        match read.as_deref().map(str::trim) {
            Ok("") => Err(Fault::NoAssertion { why: format!("{} is empty", path.display()) }),
            Ok(token) => Ok(Secret::new(token)),
            Err(why) => Err(Fault::NoAssertion { why: format!("{}: {why}", path.display()) }),
        }
    }
}

#[async_trait]
impl Fetch for Entra {
    async fn fetch(&self, identity: &PodIdentity, resource: &Resource) -> Result<Fetched, Fault> {
        check(identity)?;
        let assertion = self.assertion()?;
        let claims = Claims::of(assertion.reveal());
        let authority = self.args.authority_of(&identity.name);
        let no_answer = |why: String| {
            let authority = authority.to_owned();
            // What rustls says of a certificate that it does not trust.
            if why.contains("certificate") {
                Fault::Untrusted { authority, why }
            } else {
                Fault::NoAnswer { authority, why }
            }
        };
        let url = format!("{authority}/{}/oauth2/v2.0/token", identity.tenant_id);
        let allowed = Url::parse(&url).map_err(|error| no_answer(error.to_string()))?;
        let confined = Confined::new(Arc::clone(&self.https), allowed);
        // A new one for each fetch: its own cache has one lock for all scopes, and refreshes in the
        // foreground.
        let credential = ClientAssertionCredential::new(
            identity.tenant_id.clone(),
            identity.client_id.clone(),
            Assertion(assertion),
            Some(options(authority, &confined)),
        )
        .map_err(|error| no_answer(error.to_string()))?;
        let scope = resource.scope();
        let scopes = [scope.as_str()];
        match timeout(FETCH_DEADLINE, credential.get_token(&scopes, None)).await {
            Err(_) => {
                Err(Fault::Deadline { authority: authority.to_owned(), after: FETCH_DEADLINE })
            }
            Ok(Ok(token)) => Ok(Fetched {
                access_token: Secret::new(token.token.secret()),
                expires_on: SystemTime::from(token.expires_on),
            }),
            Ok(Err(error)) => Err(match confined.take() {
                Some(Ok(reply)) => judge(&reply, &Attempt { identity, authority, claims: &claims }),
                Some(Err(why)) => no_answer(why),
                None => no_answer(error.to_string()),
            }),
        }
    }
}

/// Ids become part of a URL; they come from an annotation that others may edit.
fn check(identity: &PodIdentity) -> Result<(), Fault> {
    if identity.source != Source::Federated {
        return Err(Fault::Source {
            identity: identity.name.clone(),
            source_name: identity.source.as_str(),
        });
    }
    let bad =
        |field, expected| Err(Fault::BadId { identity: identity.name.clone(), field, expected });
    if !is_guid(&identity.client_id) {
        return bad("the client id", "GUID");
    }
    if !is_tenant(&identity.tenant_id) {
        return bad("the tenant", "GUID or domain name");
    }
    Ok(())
}

fn options(authority: &str, confined: &Arc<Confined>) -> ClientAssertionCredentialOptions {
    let mut cloud = CustomConfiguration::default();
    authority.clone_into(&mut cloud.authority_host);
    ClientAssertionCredentialOptions {
        client_options: ClientOptions {
            // The cache decides when to ask again; the default is 8 tries in 60 s.
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::<Confined>::clone(confined))),
            cloud: Some(Arc::new(cloud.into())),
            ..ClientOptions::default()
        },
    }
}

#[cfg(test)]
mod tests;
