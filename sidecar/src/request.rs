//! What a client asks for, or why it is refused. Pure: nothing here reads a file or a clock.

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use imdslet_core::names::{APP_SERVICE_PATH, HEADER_VARIABLE, IMDS_PATH, LINK_LOCAL};

use crate::cache::Want;
use crate::query::{BadQuery, Query};
use crate::resource::{BadResource, Resource};
use crate::secret::Secret;

/// The largest form that is read: a resource and an id, with room for their encoding.
pub(crate) const LARGEST_FORM: usize = 16 * 1024;

/// The path that tells what the sidecar holds.
const STATE_PATH: &str = "/state";

/// The path that tells what the sidecar has counted.
const METRICS_PATH: &str = "/metrics";

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    Token(TokenRequest<'a>),
    /// The tenant of an identity.
    Info(Selector<'a>),
    State,
    Metrics,
}

/// A token that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRequest<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) resource: Resource,
    pub(crate) selector: Selector<'a>,
    pub(crate) want: Want,
}

/// The protocol that a client speaks. It decides how the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Azure's Instance Metadata Service.
    Imds,
    /// App Service, api-version 2019-08-01.
    AppService2019,
    /// App Service, api-version 2017-09-01.
    AppService2017,
}

/// The way by which a request came, served or not, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    Imds,
    AppService2019,
    AppService2017,
    CloudShell,
    Info,
    State,
    Metrics,
    Other,
}

impl Route {
    /// The route of `request`: its path, and for a token the protocol that its headers claim.
    pub(crate) fn of(request: &Parts) -> Self {
        match Place::of(request.uri.path()) {
            Some(Place::Token) => match Deciding::of(&request.headers).app_service() {
                Some((.., Protocol::AppService2019)) => Self::AppService2019,
                Some((.., Protocol::AppService2017)) => Self::AppService2017,
                _ if request.method == Method::POST => Self::CloudShell,
                _ => Self::Imds,
            },
            Some(Place::Info) => Self::Info,
            Some(Place::State) => Self::State,
            Some(Place::Metrics) => Self::Metrics,
            None => Self::Other,
        }
    }

    /// Stable name for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::AppService2019 => "app-service-2019",
            Self::AppService2017 => "app-service-2017",
            Self::CloudShell => "cloud-shell",
            Self::Info => "info",
            Self::State => "state",
            Self::Metrics => "metrics",
            Self::Other => "other",
        }
    }
}

/// Which identity a client means. What is given must all be of the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "they are the names of the parameters")]
pub(crate) struct Selector<'a> {
    pub(crate) client_id: Option<Cow<'a, str>>,
    pub(crate) object_id: Option<Cow<'a, str>>,
    pub(crate) resource_id: Option<Cow<'a, str>>,
}

/// Why a request is refused before it is asked who it is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A web page whose name was pointed to this address would send its own host.
    #[error(
        "the Host header must name the pod's own endpoint: 127.0.0.1, localhost, [::1] or \
         169.254.169.254"
    )]
    ForeignHost,
    #[error(
        "requests with the header `{0}` are not served: ask directly, without a proxy or a browser"
    )]
    Forwarded(&'static str),
    #[error(
        "nothing is served at this path; tokens are at {IMDS_PATH} and {APP_SERVICE_PATH}, and no \
         other request is passed on"
    )]
    NotHere,
    #[error("only {0} is served at this path")]
    Method(&'static str),
    #[error(
        "the form of the request is larger than {LARGEST_FORM} bytes; send `resource` and one id"
    )]
    FormTooLarge,
    #[error("the form of the request did not arrive in time; send it at once")]
    FormLate,
    #[error("the form of the request did not arrive whole; send it again")]
    FormCut,
    /// Word for word what Azure answers: SDKs probe for it.
    #[error("Required metadata header not specified")]
    NoHeader,
    #[error(
        "the value of the header `{0}` is not this pod's; send what IDENTITY_HEADER or MSI_SECRET \
         say in the same pod"
    )]
    WrongHeader(&'static str),
    #[error(
        "the header `{0}` cannot be checked, because this sidecar was started without \
         {HEADER_VARIABLE}; ask at {IMDS_PATH} with `Metadata: true`, or recreate the pod"
    )]
    UncheckedHeader(&'static str),
    #[error("{0}")]
    Query(BadQuery),
    #[error(
        "the query parameter `resource` is missing; add the service that the token is for, such as \
         resource=https://vault.azure.net"
    )]
    NoResource,
    #[error("{0}")]
    Resource(BadResource),
    #[error("{0} is served on the loopback addresses only; ask 127.0.0.1")]
    LoopbackOnly(&'static str),
    #[error(
        "nothing but {METRICS_PATH} is served at this port; tokens are given on the pod's loopback \
         alone"
    )]
    OnlyMetrics,
}

impl Refusal {
    /// Stable name for logs and metrics. Never carries user input.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::ForeignHost => "ForeignHost",
            Self::Forwarded(_) => "Forwarded",
            Self::NotHere => "NotHere",
            Self::Method(_) => "Method",
            Self::FormTooLarge => "FormTooLarge",
            Self::FormLate => "FormLate",
            Self::FormCut => "FormCut",
            Self::NoHeader => "NoHeader",
            Self::WrongHeader(_) => "WrongHeader",
            Self::UncheckedHeader(_) => "UncheckedHeader",
            Self::Query(_) => "BadQuery",
            Self::NoResource => "NoResource",
            Self::Resource(_) => "BadResource",
            Self::LoopbackOnly(_) => "LoopbackOnly",
            Self::OnlyMetrics => "OnlyMetrics",
        }
    }
}

/// The headers that decide, found in one pass. A value that is sent twice counts once, the first.
#[derive(Default)]
struct Deciding<'a> {
    host: Option<&'a HeaderValue>,
    hosts: usize,
    /// A header that says that somebody else sent it.
    forwarded: Option<&'static str>,
    identity_header: Option<&'a HeaderValue>,
    secret: Option<&'a HeaderValue>,
    metadata: Option<&'a HeaderValue>,
}

/// What is served, by its path.
#[derive(Clone, Copy)]
enum Place {
    Token,
    Info,
    State,
    Metrics,
}

impl<'a> Deciding<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            let slot = match name.as_str() {
                "host" => {
                    found.hosts += 1;
                    &mut found.host
                }
                "metadata" => &mut found.metadata,
                "x-identity-header" => &mut found.identity_header,
                "secret" => &mut found.secret,
                other => {
                    found.forwarded = found.forwarded.or_else(|| forwards(other));
                    continue;
                }
            };
            slot.get_or_insert(value);
        }
        found
    }

    /// The header of App Service, how it is called, its value and what it says. 2019 first: clients
    /// send `Metadata: true` beside it, or not.
    fn app_service(&self) -> Option<(&'static str, &'a HeaderValue, Protocol)> {
        let first = self
            .identity_header
            .map(|value| ("X-IDENTITY-HEADER", value, Protocol::AppService2019));
        first.or_else(|| self.secret.map(|value| ("secret", value, Protocol::AppService2017)))
    }
}

/// How a header is called by which a proxy or a browser tells that it is one.
fn forwards(name: &str) -> Option<&'static str> {
    match name {
        "x-forwarded-for" => Some("X-Forwarded-For"),
        "origin" => Some("Origin"),
        // Browsers send all of them at once. Node.js's `fetch`, and so msal-node, sends the mode
        // alone, which says nothing of where a request comes from.
        "sec-fetch-mode" => None,
        _ => name.starts_with("sec-fetch-").then_some("Sec-Fetch-…"),
    }
}

impl Place {
    /// Whole segments are compared and nothing is decoded or resolved first, so that no spelling
    /// (`..`, `%2e`, `\`) of another path ends here, nor one of these elsewhere (CVE-2022-23551).
    fn of(path: &str) -> Option<Self> {
        // As it is documented, and nearly always sent.
        if path == IMDS_PATH || path == APP_SERVICE_PATH {
            return Some(Self::Token);
        }
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        match segments.next() {
            // As NMI: `/{type:(?i:metadata)}/identity/oauth2/token` (v1.8, server.go).
            Some(first) if first.eq_ignore_ascii_case("metadata") => {
                if segments.clone().eq(["identity", "info"]) {
                    return Some(Self::Info);
                }
                segments.eq(["identity", "oauth2", "token"]).then_some(Self::Token)
            }
            Some("msi") => segments.eq(["token"]).then_some(Self::Token),
            Some("state") => segments.next().is_none().then_some(Self::State),
            Some("metrics") => segments.next().is_none().then_some(Self::Metrics),
            _ => None,
        }
    }

    /// Cloud Shell's clients ask for a token by a form.
    fn methods(self) -> &'static str {
        match self {
            Self::Token => "GET, POST",
            Self::Info | Self::State | Self::Metrics => "GET",
        }
    }
}

/// Decides what `request` asks for. `form` is the body of a POST, which says what a query may say
/// too; `header` is what App Service's headers must carry.
pub(crate) fn decide<'a>(
    request: &'a Parts,
    form: &'a str,
    header: Option<&Secret>,
) -> Result<Ask<'a>, Refusal> {
    let deciding = Deciding::of(&request.headers);
    let local = guard(request, &deciding)?;
    let place = Place::of(request.uri.path()).ok_or(Refusal::NotHere)?;
    let is_served = match request.method {
        Method::GET => true,
        Method::POST => matches!(place, Place::Token),
        _ => false,
    };
    if !is_served {
        return Err(Refusal::Method(place.methods()));
    }
    match place {
        Place::State if local => return Ok(Ask::State),
        Place::State => return Err(Refusal::LoopbackOnly(STATE_PATH)),
        Place::Metrics if local => return Ok(Ask::Metrics),
        Place::Metrics => return Err(Refusal::LoopbackOnly(METRICS_PATH)),
        Place::Token | Place::Info => {}
    }
    let protocol = protocol(&deciding, header)?;
    let query = request.uri.query().unwrap_or_default();
    let query = Query::parse(query, form).map_err(Refusal::Query)?;
    let selector = Selector {
        client_id: query.client_id,
        object_id: query.object_id,
        resource_id: query.resource_id,
    };
    if matches!(place, Place::Info) {
        return Ok(Ask::Info(selector));
    }
    let resource = query.resource.ok_or(Refusal::NoResource)?;
    let resource = Resource::parse(resource.into_owned()).map_err(Refusal::Resource)?;
    let want = if query.bypass_cache { Want::Anew } else { Want::Any };
    Ok(Ask::Token(TokenRequest { protocol, resource, selector, want }))
}

/// Decides whether `request`, which came to the port of the metrics, asks for them. Whatever host
/// it names: there is nothing to steal by a false one.
pub(crate) fn decide_scrape(request: &Parts) -> Result<(), Refusal> {
    match (Place::of(request.uri.path()), &request.method) {
        (Some(Place::Metrics), &Method::GET) => Ok(()),
        (Some(Place::Metrics), _) => Err(Refusal::Method(Place::Metrics.methods())),
        _ => Err(Refusal::OnlyMetrics),
    }
}

/// Lets through what a program in the pod would send; says whether it named a loopback address.
fn guard(request: &Parts, deciding: &Deciding<'_>) -> Result<bool, Refusal> {
    let (Some(host), 1) = (deciding.host, deciding.hosts) else {
        return Err(Refusal::ForeignHost);
    };
    let host = host.to_str().map_err(|_| Refusal::ForeignHost)?;
    let local = is_local(host)?;
    // A client that takes us for its proxy names the host a second time.
    if let Some(authority) = request.uri.authority() {
        is_local(authority.as_str())?;
    }
    match deciding.forwarded {
        Some(name) => Err(Refusal::Forwarded(name)),
        None => Ok(local),
    }
}

/// Whether `host`, with or without a port, is a loopback name (and not the link-local address).
fn is_local(host: &str) -> Result<bool, Refusal> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::ForeignHost);
    }
    match name {
        "127.0.0.1" | "[::1]" => Ok(true),
        LINK_LOCAL => Ok(false),
        _ if name.eq_ignore_ascii_case("localhost") => Ok(true),
        _ => Err(Refusal::ForeignHost),
    }
}

/// The headers alone decide, since both paths are one handler.
fn protocol(deciding: &Deciding<'_>, expected: Option<&Secret>) -> Result<Protocol, Refusal> {
    if let Some((name, value, protocol)) = deciding.app_service() {
        let expected = expected.ok_or(Refusal::UncheckedHeader(name))?;
        return if expected.matches(value.as_bytes()) {
            Ok(protocol)
        } else {
            Err(Refusal::WrongHeader(name))
        };
    }
    match deciding.metadata {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"true") => Ok(Protocol::Imds),
        _ => Err(Refusal::NoHeader),
    }
}

#[cfg(test)]
mod tests;
