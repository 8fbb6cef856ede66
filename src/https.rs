//! An HTTP client that trusts what it is told to, for calls that must end: each has a deadline and
//! a largest answer.
//!
//! Plain http is spoken too, since the sidecar's endpoint on loopback has no certificate. Redirects
//! are never followed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, request};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use imdslet_core::with_causes;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// How long a call may take, unless [`Client::with_deadline`] says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes: 1 MiB, many times a key set or a token.
pub const LARGEST_ANSWER: usize = 1024 * 1024;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text given as trusted certificates has none, or a broken one.
    #[error(
        "the trusted certificates cannot be read: {0}; give PEM text with `CERTIFICATE` blocks"
    )]
    Trust(String),
    /// The TLS library refuses the settings, which are fixed.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    /// The URL or a header cannot stand in a request.
    #[error("`{url}` cannot be asked: {cause}")]
    Request {
        /// What was to be asked.
        url: String,
        /// What is wrong with it.
        cause: http::Error,
    },
    /// No connection, no TLS, or no answer on it.
    #[error("{url} does not answer: {cause}")]
    Send {
        /// What was asked.
        url: String,
        /// The chain of causes, outermost first.
        cause: String,
    },
    /// The answer was not complete in time.
    #[error("{url} did not answer within {after:?}")]
    Deadline {
        /// What was asked.
        url: String,
        /// The time that it had.
        after: Duration,
    },
    /// The answer is longer than what is read.
    #[error("{url} answered with more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The most that is read, in bytes.
        limit: usize,
    },
}

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub struct Trust {
    roots: RootCertStore,
}

impl Trust {
    /// The CAs of the web.
    #[must_use]
    pub fn web() -> Self {
        Self { roots: webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect() }
    }

    /// Nobody, to start from with [`Trust::and`].
    #[must_use]
    pub fn nobody() -> Self {
        Self { roots: RootCertStore::empty() }
    }

    /// Also the CAs in this PEM text.
    ///
    /// # Errors
    ///
    /// [`Error::Trust`] if there is no certificate in it or one that cannot be a CA.
    pub fn and(mut self, pem: &str) -> Result<Self, Error> {
        let error = |cause: &dyn ToString| Error::Trust(cause.to_string());
        let before = self.roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|cause| error(&cause))?;
            self.roots.add(certificate).map_err(|cause| error(&cause))?;
        }
        if self.roots.len() == before {
            return Err(error(&"there is no certificate in the text"));
        }
        Ok(self)
    }
}

/// A client with its own connection pool. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    deadline: Duration,
}

impl Client {
    /// A client that believes `trust` and gives each call [`DEADLINE`].
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] if the TLS versions do not fit the cipher suites, which those of ring do.
    pub fn new(trust: Trust) -> Result<Self, Error> {
        // The provider is named, since the program links two and so has no default.
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(trust.roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let inner = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { inner, deadline: DEADLINE })
    }

    /// The same client with another deadline for each call, from the connection to the last byte.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// `GET url`.
    ///
    /// # Errors
    ///
    /// As [`Client::request`].
    pub async fn get(&self, url: &str) -> Result<Response<Bytes>, Error> {
        self.send(url, Request::get(url), Bytes::new()).await
    }

    /// `POST url` with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Client::request`].
    pub async fn post_json(
        &self,
        url: &str,
        body: &serde_json::Value,
    ) -> Result<Response<Bytes>, Error> {
        let request = Request::post(url).header(CONTENT_TYPE, "application/json");
        self.send(url, request, body.to_string().into()).await
    }

    /// Sends `request`, whose URI must be absolute, and reads the whole answer, whatever its status.
    ///
    /// # Errors
    ///
    /// [`Error::Send`], [`Error::Deadline`] or [`Error::TooLarge`]; a status such as 404 is none.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Error> {
        let url = request.uri().to_string();
        match tokio::time::timeout(self.deadline, self.exchange(&url, request)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline { url, after: self.deadline }),
        }
    }

    async fn send(
        &self,
        url: &str,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Bytes>, Error> {
        let request = request
            .body(Full::new(body))
            .map_err(|cause| Error::Request { url: url.to_owned(), cause })?;
        self.request(request).await
    }

    async fn exchange(
        &self,
        url: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Error> {
        let response = self
            .inner
            .request(request)
            .await
            .map_err(|error| Error::Send { url: url.to_owned(), cause: with_causes(&error) })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| {
            let url = url.to_owned();
            if error.is::<LengthLimitError>() {
                Error::TooLarge { url, limit: LARGEST_ANSWER }
            } else {
                Error::Send { url, cause: with_causes(error.as_ref()) }
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::{get, post};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// A plain server on a port of its own; it ends with the set.
    async fn server() -> (String, JoinSet<()>) {
        let router = Router::new()
            .route("/never", get(std::future::pending::<()>))
            .route("/large", get(|| async { vec![b'x'; LARGEST_ANSWER + 1] }))
            .route("/moved", get(|| async { (http::StatusCode::FOUND, [("location", "/large")]) }))
            .route("/echo", post(echo));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", tcp.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(tcp, router).await.unwrap() });
        (url, tasks)
    }

    async fn echo(headers: HeaderMap, body: String) -> String {
        format!("{}: {body}", headers[CONTENT_TYPE].to_str().unwrap())
    }

    fn client() -> Client {
        Client::new(Trust::nobody()).unwrap()
    }

    #[tokio::test]
    async fn a_body_arrives_as_json_and_a_status_is_no_error() {
        let (url, _tasks) = server().await;
        let body = serde_json::json!({"a": ["b c"]});
        let answer = client().post_json(&format!("{url}/echo"), &body).await.unwrap();
        assert_eq!(answer.body(), r#"application/json: {"a":["b c"]}"#);
        let answer = client().get(&format!("{url}/nowhere")).await.unwrap();
        assert_eq!(answer.status(), 404);
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_like_any_other() {
        let (url, _tasks) = server().await;
        let answer = client().get(&format!("{url}/moved")).await.unwrap();
        assert_eq!(answer.status(), 302);
    }

    #[tokio::test]
    async fn every_call_ends() {
        let (url, _tasks) = server().await;
        let hasty = client().with_deadline(Duration::from_millis(20));
        let error = hasty.get(&format!("{url}/never")).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{url}/never did not answer within 20ms"));
        let error = client().get(&format!("{url}/large")).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{url}/large answered with more than 1048576 bytes"));
    }

    #[tokio::test]
    async fn an_error_names_the_url_and_the_cause() {
        // Bound, but not listening: connections are refused, and nobody else gets the port.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}/", socket.local_addr().unwrap());
        let error = client().get(&url).await.unwrap_err().to_string();
        assert!(error.starts_with(&url) && error.contains("refused"), "{error}");
        let error = client().get("not a url").await.unwrap_err().to_string();
        assert!(error.starts_with("`not a url` cannot be asked"), "{error}");
    }

    #[test]
    fn trust_without_a_certificate_is_refused() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(Trust::nobody().and(pem), Err(Error::Trust(_))), "{pem}");
        }
    }
}
