//! The token proxy's part of the server: it has the same address, and is told by the name that a
//! client asks for in TLS, as AKS does it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::IncomingStream;
use imdslet_certs::{Resolver, Serving, TlsListener};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::bindings::pass;
use super::entra::{Entra, Refused};
use super::requests::Caller;
use super::server::json_response;

/// The name that the client of a connection asked for in TLS.
#[derive(Clone)]
pub(super) struct AskedAs(Option<String>);

/// Marks a request that came to the token proxy and may pass it.
#[derive(Clone, Copy)]
pub(super) struct ThroughProxy;

/// Shows the token proxy's certificate to those who ask for it by its name, and the server's own to
/// all others.
pub(super) struct ByName {
    entra: Arc<Entra>,
    own: Resolver,
    /// The proxy's, and for which name. It is made when it is first asked for, since another
    /// configuration may bring another name.
    proxys: Mutex<Option<(String, Arc<Resolver>)>>,
}

impl Connected<IncomingStream<'_, TlsListener>> for AskedAs {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let (_, tls) = stream.io().get_ref();
        Self(tls.server_name().map(str::to_owned))
    }
}

/// Has the token proxy look at a request whose connection was asked for under its name.
pub(super) async fn at_the_proxy(
    State(entra): State<Arc<Entra>>,
    ConnectInfo(AskedAs(name)): ConnectInfo<AskedAs>,
    mut request: Request,
    next: Next,
) -> Response {
    if !name.is_some_and(|name| entra.is_proxy(&name)) {
        return next.run(request).await;
    }
    match pass(request.method(), request.uri()) {
        Ok(()) => {
            request.extensions_mut().insert(ThroughProxy);
            next.run(request).await
        }
        Err(denial) => {
            let body = denial.body();
            let denied = Refused::ByProxy(denial);
            tracing::warn!(reason = denied.reason(), "not let through by the token proxy");
            entra.count(Caller { through_proxy: true, ..Caller::default() }, Some(&denied));
            json_response(denied.status(), &body)
        }
    }
}

impl ByName {
    pub(super) fn new(serving: Serving, entra: Arc<Entra>) -> Result<Self, rustls::Error> {
        Ok(Self { entra, own: Resolver::new(serving)?, proxys: Mutex::new(None) })
    }

    fn of_proxy(&self, name: &str) -> Option<Arc<Resolver>> {
        if !self.entra.is_proxy(name) {
            return None;
        }
        let mut made = self.proxys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, resolver)) = &*made
            && of == name
        {
            return Some(Arc::clone(resolver));
        }
        let names = [name.to_owned()];
        let serving = match self.entra.authority().issue(&names, SystemTime::now()) {
            Ok(serving) => Resolver::new(serving).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match serving {
            Ok(resolver) => {
                let resolver = Arc::new(resolver);
                *made = Some((name.to_owned(), Arc::clone(&resolver)));
                Some(resolver)
            }
            Err(error) => {
                tracing::error!(error, reason = "NoCertificate", "no certificate for the proxy");
                None
            }
        }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name().and_then(|name| self.of_proxy(name)) {
            Some(proxys) => proxys.resolve(hello),
            None => self.own.resolve(hello),
        }
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").finish_non_exhaustive()
    }
}
