//! Out of the pod: HTTPS to Entra ID or to what stands in for it, HTTP to the node's metadata
//! service, and nothing else.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::{
    AsyncRawResponse, Body, HttpClient, Method, Request, Url, headers::Headers,
};
use bytes::Bytes;
use http::Uri;
use http::header::RETRY_AFTER;
use http::uri::Authority;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use imdslet_core::with_causes;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::config::Proxies;
use crate::fault::Reply;
use route::Route;

mod route;

/// The largest answer that is read. A token with many groups has some kilobytes.
const LARGEST_ANSWER: usize = 256 * 1024;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoReply {
    pub(crate) why: String,
    /// Whether the other side showed a certificate that is not trusted.
    pub(crate) is_untrusted: bool,
}

/// Posts a request. The seam at which tests see what would leave the pod.
#[async_trait]
pub(crate) trait Post: Send + Sync {
    /// Sends `request` and reads the answer whole.
    async fn post(&self, request: http::Request<Full<Bytes>>) -> Result<Reply, NoReply>;
}

/// Gets something from the node's metadata service. The seam at which tests stand in for the node.
#[async_trait]
pub(crate) trait Get: Send + Sync {
    /// Gets `path_and_query` and reads the answer whole.
    async fn get(&self, path_and_query: &str) -> Result<Reply, NoReply>;
}

/// One kind of client for all, for the sidecar's size.
type HttpsClient = Client<HttpsConnector<Route>, Full<Bytes>>;

/// HTTPS by rustls, through the proxy where there is one. Redirects are answers like others: they
/// are never followed.
pub(crate) struct Https {
    client: HttpsClient,
    route: Route,
}

impl Https {
    /// Trusts the public authorities and `extra`.
    pub(crate) fn new(
        extra: &[CertificateDer<'static>],
        proxies: Proxies,
    ) -> Result<Self, rustls::Error> {
        let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        for certificate in extra {
            roots.add(certificate.clone())?;
        }
        let route = Route::new(proxies);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(roots)?)
            .https_only()
            .enable_http1()
            .wrap_connector(route.clone());
        Ok(Self { client: client(connector), route })
    }
}

#[async_trait]
impl Post for Https {
    async fn post(&self, request: http::Request<Full<Bytes>>) -> Result<Reply, NoReply> {
        let proxy = self.route.proxy_of(request.uri()).map(ToString::to_string);
        let reply = receive(self.client.request(request)).await;
        // Whose fault it is would not be seen otherwise.
        reply.map_err(|NoReply { why, is_untrusted }| match proxy {
            Some(proxy) => NoReply { why: format!("by the proxy {proxy}: {why}"), is_untrusted },
            None => NoReply { why, is_untrusted },
        })
    }
}

/// HTTPS to one server that stands in for Entra ID, and to nowhere else: whatever a request's own
/// host is, its path is asked for there.
pub(crate) struct Proxied {
    server: Authority,
    client: HttpsClient,
}

impl Proxied {
    /// Trusts `ca` alone, and asks for the name `sni` in TLS where it is given.
    pub(crate) fn new(
        ca: &[CertificateDer<'static>],
        url: &str,
        sni: Option<&str>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
        }
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let server = uri.authority().cloned().ok_or_else(|| format!("{url} has no host"))?;
        let host = server.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(sni.unwrap_or(host).to_owned());
        let name = name.map_err(|error| error.to_string())?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(roots).map_err(|error| error.to_string())?)
            .https_only()
            .with_server_name_resolver(FixedServerNameResolver::new(name))
            .enable_http1()
            .wrap_connector(Route::new(Proxies::default()));
        Ok(Self { server, client: client(connector) })
    }
}

#[async_trait]
impl Post for Proxied {
    async fn post(&self, request: http::Request<Full<Bytes>>) -> Result<Reply, NoReply> {
        let (mut head, body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        uri.authority = Some(self.server.clone());
        head.uri = Uri::from_parts(uri).map_err(|error| NoReply::of(&error))?;
        receive(self.client.request(http::Request::from_parts(head, body))).await
    }
}

/// Plain HTTP to the node's metadata service, and to nowhere else; through no proxy, which would be
/// asked for its own node's identities.
pub(crate) struct Node {
    server: Authority,
    // This one speaks no TLS.
    client: HttpsClient,
}

impl Node {
    /// The node's own is at 169.254.169.254; tests have others.
    pub(crate) fn new(server: Authority) -> Result<Self, rustls::Error> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(RootCertStore::empty())?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Route::new(Proxies::default()));
        Ok(Self { server, client: client(connector) })
    }
}

#[async_trait]
impl Get for Node {
    async fn get(&self, path_and_query: &str) -> Result<Reply, NoReply> {
        let request = http::Request::get(format!("http://{}{path_and_query}", self.server))
            .header("Metadata", "true")
            .body(Full::default())
            .map_err(|error| NoReply::of(&error))?;
        receive(self.client.request(request)).await
    }
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    // Named, because a build of the whole workspace has a second provider.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn client(connector: HttpsConnector<Route>) -> HttpsClient {
    // One request for each token, an hour apart: a connection that is kept is memory and, by then,
    // closed at the other end.
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

/// Reads the answer whole.
async fn receive(answer: ResponseFuture) -> Result<Reply, NoReply> {
    let answer = answer.await.map_err(|error| NoReply::of(&error))?;
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| {
        // The other form, a date, is not what Entra ID sends.
        value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    });
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
    let body = body.map_err(|error| NoReply::of(error.as_ref()))?.to_bytes();
    Ok(Reply { status, retry_after, body: body.to_vec().into() })
}

/// The transport of one credential for one fetch: it posts to one URL, and keeps what came back.
///
/// azure_identity loses Entra ID's refusal where its text holds an escape, as the real ones do; so
/// the answer is kept here.
pub(crate) struct Confined {
    https: Arc<dyn Post>,
    allowed: Url,
    outcome: Mutex<Option<Result<Reply, NoReply>>>,
}

/// What must stand in an answer that brings a token. `expires_in` is bounded, because the moment
/// that azure_identity computes from it must exist.
#[derive(Deserialize)]
struct TokenAnswer<'a> {
    #[serde(borrow)]
    access_token: std::borrow::Cow<'a, str>,
    expires_in: u32,
}

impl Confined {
    pub(crate) fn new(https: Arc<dyn Post>, allowed: Url) -> Arc<Self> {
        Arc::new(Self { https, allowed, outcome: Mutex::new(None) })
    }

    /// What came back, or why nothing did; `None` if nothing was sent.
    pub(crate) fn take(&self) -> Option<Result<Reply, NoReply>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, outcome: Result<Reply, NoReply>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }
}

impl fmt::Debug for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confined").field("allowed", &self.allowed.as_str()).finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Confined {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        if *request.url() != self.allowed || request.method() != Method::Post {
            return Err(failed("credentials are posted to the identity's own authority alone"));
        }
        let request = convert(request).ok_or_else(|| failed("the request cannot be sent"))?;
        let mut reply = match self.https.post(request).await {
            Ok(reply) => reply,
            Err(why) => {
                self.keep(Err(why));
                return Err(failed("no answer"));
            }
        };
        let good = reply.status == 200
            && serde_json::from_slice::<TokenAnswer<'_>>(&reply.body)
                .is_ok_and(|answer| !answer.access_token.is_empty() && answer.expires_in > 0);
        if !good {
            self.keep(Ok(reply));
            return Err(failed("no token"));
        }
        let body = std::mem::take(&mut *reply.body);
        Ok(AsyncRawResponse::from_bytes(reply.status.into(), Headers::new(), body))
    }
}

fn convert(request: &Request) -> Option<http::Request<Full<Bytes>>> {
    let Body::Bytes(body) = request.body() else { return None };
    let mut converted = http::Request::post(request.url().as_str());
    for (name, value) in request.headers().iter() {
        converted = converted.header(name.as_str(), value.as_str());
    }
    converted.body(Full::new(body.clone())).ok()
}

fn failed(message: &'static str) -> Error {
    Error::with_message(ErrorKind::Other, message)
}

impl NoReply {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        Self { why: with_causes(error), is_untrusted: is_untrusted(error) }
    }
}

/// Whether rustls refused the certificate of the other side.
fn is_untrusted(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // The source of an I/O error is that of the error in it, which is thus left out.
        let within = error.downcast_ref().and_then(io::Error::get_ref);
        next = within.map(|within| within as &dyn StdError).or_else(|| error.source());
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Nothing may pass: what arrives here would have left the pod.
    struct Wire;

    #[async_trait]
    impl Post for Wire {
        async fn post(&self, request: http::Request<Full<Bytes>>) -> Result<Reply, NoReply> {
            panic!("{} was let through", request.uri());
        }
    }

    #[tokio::test]
    async fn a_credential_goes_to_the_authority_of_its_identity_alone() {
        let allowed = Url::parse("https://login.example/t.example/oauth2/v2.0/token").unwrap();
        let confined = Confined::new(Arc::new(Wire), allowed);
        for (method, url) in [
            (Method::Get, "https://login.example/t.example/oauth2/v2.0/token"),
            (Method::Post, "http://login.example/t.example/oauth2/v2.0/token"),
            (Method::Post, "https://login.example:8443/t.example/oauth2/v2.0/token"),
            (Method::Post, "https://login.example.evil.example/t.example/oauth2/v2.0/token"),
            (Method::Post, "https://evil.example/t.example/oauth2/v2.0/token"),
            (Method::Post, "https://login.example/other.example/oauth2/v2.0/token"),
            (Method::Post, "https://login.example/t.example/oauth2/v2.0/token?x=1"),
            (Method::Post, "https://login.example/t.example/oauth2/token"),
            (Method::Post, "https://x@login.example/t.example/oauth2/v2.0/token"),
        ] {
            let request = Request::new(Url::parse(url).unwrap(), method);
            assert!(confined.execute_request(&request).await.is_err(), "{url}");
            assert_eq!(confined.take(), None, "{url}");
        }
    }

    #[tokio::test]
    async fn plain_http_is_never_spoken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let request = http::Request::post(format!("http://{address}/")).body(Full::default());
        let https = Https::new(&[], Proxies::default()).unwrap();
        let NoReply { why, is_untrusted } = https.post(request.unwrap()).await.unwrap_err();
        assert!(why.contains("scheme") && !is_untrusted, "{why}");
    }

    /// A stand-in for the node that takes one request, exactly as Azure's takes it.
    #[tokio::test]
    async fn the_node_is_asked_in_plain_http_and_no_redirect_is_followed() {
        let node = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = node.local_addr().unwrap().to_string();
        let location = format!("http://{}/", elsewhere.local_addr().unwrap());
        let standing_in = async {
            let (mut stream, _) = node.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = format!(
                "HTTP/1.1 307 Gone\r\nRetry-After: 7\r\nLocation: {location}\r\n\
                 Content-Length: 2\r\n\r\nhi"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        };
        let client = Node::new(address.parse().unwrap()).unwrap();
        let (reply, head) = tokio::join!(client.get("/metadata/x?y=z"), standing_in);
        let retry_after = Some(Duration::from_secs(7));
        assert_eq!(reply, Ok(Reply { status: 307, retry_after, body: b"hi".to_vec().into() }));
        assert_eq!(
            head.to_ascii_lowercase(),
            format!("get /metadata/x?y=z http/1.1\r\nmetadata: true\r\nhost: {address}\r\n\r\n")
        );
        let followed = tokio::time::timeout(Duration::ZERO, elsewhere.accept()).await;
        assert!(followed.is_err(), "it went there");
    }
}
