//! A strict stand-in for Microsoft Entra ID: what Entra refuses, it refuses, with the same codes.
//!
//! It knows the tenants, applications and federated credentials of its [`Config`], verifies client
//! assertions with the keys of the issuers that are configured there, and signs access tokens of
//! the shape that Azure's services expect. No token is issued unless every check holds.
//!
//! Where its documentation is silent about Entra, the emulator takes the stricter reading:
//!
//! * Issuer, subject and audience are compared byte for byte. An assertion has one audience.
//! * Assertions of federated credentials are signed with RS256 and carry `kid`, `iss`, `sub`, `aud` and `exp`.
//! * `exp` is taken at its word; `nbf` and `iat` may lie five minutes ahead.
//!
//! An application's own assertions are signed with RS256 or PS256 by one of its `certificates` (PEM,
//! or `certificateFiles`), carry `x5t` or `x5t#S256`, `iss`, `sub`, `aud`, `jti`, `nbf` and `exp`, and
//! are for the URL that they are posted to.
//!
//! What it is told, as YAML or JSON:
//!
//! ```
//! # use imdslet::emulator::Config;
//! let config = Config::parse(
//!     "
//! tenants:
//!   - id: 11111111-1111-4111-8111-111111111111
//!     applications:
//!       - clientId: 22222222-2222-4222-8222-222222222222
//!         objectId: 33333333-3333-4333-8333-333333333333
//!         secrets: [only-for-tests]
//!         identifierUris: [api://orders]
//!     resources: [api://somebody-elses]
//! issuers:
//!   - issuer: https://issuer.example/cluster/
//! federatedCredentials:
//!   - clientId: 22222222-2222-4222-8222-222222222222
//!     issuer: https://issuer.example/cluster/
//!     subject: system:serviceaccount:web:db
//!     audiences: [api://AzureADTokenExchange]
//! identityBindings:
//!   sni: 1a2b3c4d.ests.aks
//!   bindings:
//!     - clientId: 22222222-2222-4222-8222-222222222222
//!       subjects: [system:serviceaccount:web:db]
//! tokenLifetime: 5m
//! faults: {delay: 250ms, status: 429, retryAfter: 2, share: 0.1}
//! ",
//!     None,
//! )?;
//! # let _ = config;
//! # Ok::<(), imdslet::emulator::ConfigError>(())
//! ```
//!
//! A tenant knows the resources that Microsoft's services are, in every cloud; its applications, by
//! `clientId` and `identifierUris`; and what `resources` names. Any other is refused with 500011, and
//! only to who has proved to be the client.
//!
//! An issuer's keys are in `jwks` or `jwksFile`; without these they are fetched from it, trusting
//! the CA in `ca` or `caFile`, or else those of the web. Paths start at the configuration's folder.
//!
//! With `identityBindings` it plays the token proxy of AKS identity bindings too, at the same address:
//! whoever asks for `sni` in TLS meets a certificate for that name and a server that lets nothing but
//! the token request through. It takes service account tokens for the audience
//! `api://AKSIdentityBinding` alone, from any of `issuers`, and `subjects` are the service accounts
//! that may use the identity (the verb `use-managed-identity`); no federated credential is asked for.
//! What it refuses itself is a Status of Kubernetes' API: 401, 403, or 404 for any other request.
//!
//! `PUT /_emulator/config` takes the same and replaces it as a whole, `GET /_emulator/requests`
//! answers with [`Requests`].
//!
//! Whoever can reach it can change its configuration and so get any token: it listens on loopback
//! unless told otherwise, and its tokens open nothing but what trusts its key.

mod assertion;
mod bindings;
mod certificate;
mod config;
mod entra;
mod faults;
mod file;
mod issuer;
mod jwt;
mod keys;
mod metadata;
mod proxy;
mod refusal;
mod request;
mod requests;
mod resources;
mod server;
#[cfg(test)]
mod testing;
mod token;

pub use config::{Config, ConfigError};
pub use entra::{Entra, StartError};
pub use file::FederatedCredential;
pub(crate) use issuer::stable_id;
pub use issuer::{LocalIssuer, ServiceAccountToken};
pub use jwt::{Jwk, Jwks, KeyError};
pub use requests::{Outcome, Requests};
pub(crate) use resources::is_resource;
pub use server::{Server, router};
pub use token::{Claims, TokenError, verify_access_token};
