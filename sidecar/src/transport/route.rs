//! The way to a server: straight, or through a tunnel of an HTTP proxy.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use imdslet_core::proxy::Proxy;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::config::{CONNECT_DEADLINE, Proxies};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Connects. What is said then, TLS included, no proxy understands.
#[derive(Clone)]
pub(super) struct Route {
    proxies: Proxies,
    tcp: HttpConnector,
}

impl Route {
    pub(super) fn new(proxies: Proxies) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
        Self { proxies, tcp }
    }

    /// The proxy on the way to `server`, if any.
    pub(super) fn proxy_of(&self, server: &Uri) -> Option<&Proxy> {
        self.proxies.of(server.host()?, server.port_u16().unwrap_or(443))
    }

    fn tunnel(&self, proxy: &Proxy) -> Result<Tunnel<HttpConnector>, BoxError> {
        let tunnel = Tunnel::new(proxy.to_string().parse()?, self.tcp.clone());
        let Some(credentials) = &proxy.credentials else { return Ok(tunnel) };
        let header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(credentials)))?;
        Ok(tunnel.with_auth(header))
    }
}

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        match self.proxy_of(&server).map(|proxy| self.tunnel(proxy)) {
            None => {
                let straight = self.tcp.call(server);
                Box::pin(async { straight.await.map_err(Into::into) })
            }
            Some(Ok(mut tunnel)) => {
                let through = tunnel.call(server);
                Box::pin(async { through.await.map_err(Into::into) })
            }
            Some(Err(error)) => Box::pin(async { Err(error) }),
        }
    }
}
