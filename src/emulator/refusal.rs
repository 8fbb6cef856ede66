//! Why a token is not issued, with Entra's codes and words.

use std::time::SystemTime;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Entra's advice where an assertion matches no federated credential.
const FEDERATION: &str = "Check your federated identity credential Subject, Audience and Issuer \
    against the presented assertion. \
    https://learn.microsoft.com/entra/workload-id/workload-identity-federation";

/// A refusal. The message is Entra's `error_description` without its code and trailer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "Tenant '{0}' not found. Check to make sure you have the correct tenant ID and are \
         signing into the correct cloud. Check with your subscription administrator, this may \
         happen if there are no active subscriptions for the tenant."
    )]
    UnknownTenant(String),
    #[error(
        "Specified tenant identifier '{0}' is neither a valid DNS name, nor a valid external domain."
    )]
    InvalidTenant(String),
    #[error("Invalid request. Request is malformed or invalid: {0}.")]
    MalformedRequest(&'static str),
    #[error("The request body must contain the following parameter: '{0}'.")]
    MissingParameter(&'static str),
    #[error("The app requested an unsupported grant type '{0}'.")]
    UnsupportedGrant(String),
    #[error(
        "Application with identifier '{client_id}' was not found in the directory '{tenant}'. \
         This can happen if the application has not been installed by the administrator of the \
         tenant or consented to by any user in the tenant. You may have sent your authentication \
         request to the wrong tenant."
    )]
    UnknownClient { client_id: String, tenant: String },
    #[error(
        "The provided value for scope {0} is not valid. Client credential flows must have a scope \
         value with /.default suffixed to the resource identifier (application ID URI)."
    )]
    InvalidScope(String),
    #[error(
        "The resource principal named {resource} was not found in the tenant named {tenant}. This \
         can happen if the application has not been installed by the administrator of the tenant \
         or consented to by any user in the tenant. You might have sent your authentication \
         request to the wrong tenant."
    )]
    UnknownResource { resource: String, tenant: String },
    #[error(
        "'client_assertion', 'client_secret' or 'request' is required for the \
         'client_credentials' grant type."
    )]
    NoCredential,
    #[error(
        "Invalid client secret provided. Ensure the secret being sent in the request is the \
         client secret value, not the client secret ID, for a secret added to app '{0}'."
    )]
    WrongSecret(String),
    #[error(
        "The provided client secret keys for app '{0}' are expired. Visit the Azure portal to create \
         new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate \
         credentials for added security: https://aka.ms/certCreds."
    )]
    ExpiredSecret(String),
    #[error(
        "Invalid JWT token. '{0}' is not a supported signature algorithm. Supported signing \
         algorithms are: 'RS256, PS256'."
    )]
    UnsupportedOwnAlgorithm(String),
    #[error(
        "Invalid JWT token. No certificate SHA-1 thumbprint, certificate SHA-256 thumbprint, nor \
         keyId specified in token header."
    )]
    NoThumbprint,
    #[error(
        "The certificate with identifier used to sign the client assertion is not registered on \
         application. [Reason - The key was not found., Thumbprint of key used by client: '{0}']"
    )]
    UnknownCertificate(String),
    #[error(
        "The certificate with identifier used to sign the client assertion is expired on application. \
         [Reason - The key used is expired., Thumbprint of key used by client: '{thumbprint}', Found \
         key 'Start={from}, End={until}']"
    )]
    ExpiredCertificate { thumbprint: String, from: String, until: String },
    #[error("Client assertion application identifier doesn't match 'client_id' parameter.")]
    OtherApplication,
    #[error(
        "Client assertion audience claim does not match Realm issuer ('{0}'). Review the \
         documentation at \
         https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."
    )]
    OtherEndpoint(String),
    #[error("JWT token is invalid or malformed: {0}.")]
    MalformedAssertion(&'static str),
    #[error(
        "Invalid JWT token. '{0}' is not a supported signature algorithm. Supported signing \
         algorithms are: 'RS256'."
    )]
    UnsupportedAlgorithm(String),
    #[error("The client '{0}' has no configured federated identity credentials.")]
    NoFederatedCredential(String),
    #[error(
        "No matching federated identity record found for presented assertion issuer '{0}'. \
         {FEDERATION}"
    )]
    Issuer(String),
    #[error(
        "No matching federated identity record found for presented assertion audience '{0}'. \
         {FEDERATION}"
    )]
    Audience(String),
    #[error(
        "No matching federated identity record found for presented assertion subject '{0}'. \
         {FEDERATION}"
    )]
    Subject(String),
    #[error(
        "No matching federated identity record found for presented assertion subject '{0}'. The \
         subject matches with case-insensitive comparison, but not with case-sensitive comparison. \
         {FEDERATION}"
    )]
    SubjectCase(String),
    #[error(
        "The certificate with identifier {kid} used to sign the federated credential could not be \
         found in the metadata of identity provider {issuer}. Please validate that your Identity \
         Provider's metadata exposes the key used to sign the incoming token."
    )]
    UnknownKey { kid: String, issuer: String },
    #[error("Client assertion failed signature validation.")]
    Signature,
    #[error(
        "Client assertion is not within its valid time range. Current time: {now}, assertion \
         valid from {from}, expiry time of assertion {until}. Review the documentation at \
         https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."
    )]
    NotInTime { now: String, from: String, until: String },
    #[error("Request to External OIDC endpoint failed: {problem}. Issuer: '{issuer}'.")]
    KeysUnavailable { issuer: String, problem: String },
    #[error("The server is configured to refuse this call (faults.status {0}).")]
    Fault(StatusCode),
    #[error("The server cannot sign a token.")]
    Internal,
}

impl Refusal {
    /// The number in `AADSTS<code>`.
    pub(super) fn code(&self) -> u32 {
        self.row().0
    }

    /// OAuth's `error`.
    pub(super) fn error(&self) -> &'static str {
        self.row().1
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Fault(status) => *status,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ if self.error() == "invalid_client" => StatusCode::UNAUTHORIZED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Stable name for logs. Never carries what a client sent.
    pub(super) fn reason(&self) -> &'static str {
        self.row().2
    }

    /// Code, `error` and reason. All of `invalid_client` are 401, the others 400.
    fn row(&self) -> (u32, &'static str, &'static str) {
        match self {
            Self::UnknownTenant(_) => (90002, "invalid_request", "UnknownTenant"),
            Self::InvalidTenant(_) => (900_023, "invalid_request", "InvalidTenant"),
            Self::MalformedRequest(_) => (9_002_313, "invalid_request", "MalformedRequest"),
            Self::MissingParameter(_) => (900_144, "invalid_request", "MissingParameter"),
            Self::UnsupportedGrant(_) => (70003, "unsupported_grant_type", "UnsupportedGrant"),
            Self::UnknownClient { .. } => (700_016, "unauthorized_client", "UnknownClient"),
            Self::InvalidScope(_) => (1_002_012, "invalid_scope", "InvalidScope"),
            Self::UnknownResource { .. } => (500_011, "invalid_resource", "UnknownResource"),
            Self::NoCredential => (7_000_216, "invalid_client", "NoCredential"),
            Self::WrongSecret(_) => (7_000_215, "invalid_client", "WrongSecret"),
            Self::ExpiredSecret(_) => (7_000_222, "invalid_client", "ExpiredSecret"),
            Self::NoThumbprint => (5_002_723, "invalid_client", "NoThumbprint"),
            Self::UnknownCertificate(_) => (700_027, "invalid_client", "UnknownCertificate"),
            Self::ExpiredCertificate { .. } => (700_027, "invalid_client", "ExpiredCertificate"),
            Self::OtherApplication => (700_021, "invalid_client", "OtherApplication"),
            Self::OtherEndpoint(_) => (700_023, "invalid_client", "OtherEndpoint"),
            Self::MalformedAssertion(_) => (50027, "invalid_request", "MalformedAssertion"),
            Self::UnsupportedAlgorithm(_) | Self::UnsupportedOwnAlgorithm(_) => {
                (5_002_738, "invalid_client", "UnsupportedAlgorithm")
            }
            Self::NoFederatedCredential(_) => (70025, "invalid_client", "NoFederatedCredential"),
            Self::Issuer(_) => (700_211, "invalid_client", "IssuerMismatch"),
            Self::Audience(_) => (700_212, "invalid_client", "AudienceMismatch"),
            Self::Subject(_) => (700_213, "invalid_client", "SubjectMismatch"),
            Self::SubjectCase(_) => (7_002_138, "invalid_client", "SubjectCaseMismatch"),
            Self::UnknownKey { .. } => (7_000_272, "invalid_client", "UnknownKey"),
            Self::Signature => (700_027, "invalid_client", "WrongSignature"),
            Self::NotInTime { .. } => (700_024, "invalid_client", "NotInTime"),
            Self::KeysUnavailable { .. } => (50166, "invalid_request", "KeysUnavailable"),
            Self::Fault(StatusCode::TOO_MANY_REQUESTS) => {
                (90055, "temporarily_unavailable", "Fault")
            }
            Self::Fault(_) => (90033, "temporarily_unavailable", "Fault"),
            Self::Internal => (90020, "server_error", "Internal"),
        }
    }

    /// The body of the answer.
    pub(super) fn body(&self, ids: &Ids, now: SystemTime) -> Value {
        let code = self.code();
        let time = timestamp(now, "%Y-%m-%d %H:%M:%SZ");
        let Ids { trace, correlation } = ids;
        json!({
            "error": self.error(),
            "error_description": format!(
                "AADSTS{code}: {self} Trace ID: {trace} Correlation ID: {correlation} \
                 Timestamp: {time}"
            ),
            "error_codes": [code],
            "timestamp": time,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
        })
    }
}

/// What identifies one call in Entra's logs and in ours.
pub(super) struct Ids {
    pub(super) trace: String,
    /// The client's own, where it sends one.
    pub(super) correlation: String,
}

/// The time in UTC, as `strftime` writes it; empty for a time that no calendar has.
pub(super) fn timestamp(time: SystemTime, format: &str) -> String {
    Timestamp::try_from(time)
        .map_or_else(|_| String::new(), |time| time.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_reads_as_entras() {
        let ids = Ids { trace: "trace-1".to_owned(), correlation: "correlation-1".to_owned() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let body = Refusal::Subject("system:serviceaccount:web:Db".to_owned()).body(&ids, now);
        assert_eq!(
            body,
            json!({
                "error": "invalid_client",
                "error_description": "AADSTS700213: No matching federated identity record found \
                    for presented assertion subject 'system:serviceaccount:web:Db'. Check your \
                    federated identity credential Subject, Audience and Issuer against the \
                    presented assertion. \
                    https://learn.microsoft.com/entra/workload-id/workload-identity-federation \
                    Trace ID: trace-1 Correlation ID: correlation-1 \
                    Timestamp: 2026-09-21 14:13:20Z",
                "error_codes": [700_213],
                "timestamp": "2026-09-21 14:13:20Z",
                "trace_id": "trace-1",
                "correlation_id": "correlation-1",
                "error_uri": "https://login.microsoftonline.com/error?code=700213",
            })
        );
    }

    #[test]
    fn every_refusal_has_its_code_error_and_status() {
        let text = String::new;
        for (refusal, code, error, status) in [
            (Refusal::UnknownTenant(text()), 90002, "invalid_request", 400),
            (Refusal::InvalidTenant(text()), 900_023, "invalid_request", 400),
            (Refusal::MalformedRequest(""), 9_002_313, "invalid_request", 400),
            (Refusal::MissingParameter(""), 900_144, "invalid_request", 400),
            (Refusal::UnsupportedGrant(text()), 70003, "unsupported_grant_type", 400),
            (
                Refusal::UnknownClient { client_id: text(), tenant: text() },
                700_016,
                "unauthorized_client",
                400,
            ),
            (Refusal::InvalidScope(text()), 1_002_012, "invalid_scope", 400),
            (
                Refusal::UnknownResource { resource: text(), tenant: text() },
                500_011,
                "invalid_resource",
                400,
            ),
            (Refusal::NoCredential, 7_000_216, "invalid_client", 401),
            (Refusal::WrongSecret(text()), 7_000_215, "invalid_client", 401),
            (Refusal::MalformedAssertion(""), 50027, "invalid_request", 400),
            (Refusal::UnsupportedAlgorithm(text()), 5_002_738, "invalid_client", 401),
            (Refusal::NoFederatedCredential(text()), 70025, "invalid_client", 401),
            (Refusal::Issuer(text()), 700_211, "invalid_client", 401),
            (Refusal::Audience(text()), 700_212, "invalid_client", 401),
            (Refusal::Subject(text()), 700_213, "invalid_client", 401),
            (Refusal::SubjectCase(text()), 7_002_138, "invalid_client", 401),
            (Refusal::Signature, 700_027, "invalid_client", 401),
            (Refusal::UnknownKey { kid: text(), issuer: text() }, 7_000_272, "invalid_client", 401),
            (
                Refusal::NotInTime { now: text(), from: text(), until: text() },
                700_024,
                "invalid_client",
                401,
            ),
            (
                Refusal::KeysUnavailable { issuer: text(), problem: text() },
                50166,
                "invalid_request",
                400,
            ),
            (Refusal::Fault(StatusCode::TOO_MANY_REQUESTS), 90055, "temporarily_unavailable", 429),
            (
                Refusal::Fault(StatusCode::SERVICE_UNAVAILABLE),
                90033,
                "temporarily_unavailable",
                503,
            ),
            (Refusal::Internal, 90020, "server_error", 500),
        ] {
            let got = (refusal.code(), refusal.error(), refusal.status().as_u16());
            assert_eq!(got, (code, error, status), "{}", refusal.reason());
        }
    }
}
