//! What the environment says, read once, and every deadline of what is waited for.

use std::time::Duration;

use imdslet_core::names::{EXTRA_CA_VARIABLE, HEADER_VARIABLE};
use imdslet_core::proxy::{NoProxy, Proxy};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::secret::Secret;

/// Until a TCP connection to Entra ID stands.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Until a token is there, name resolution and TLS included. Clients wait longer: the least
/// patient one recorded gives up after 10 s or more.
pub(crate) const FETCH_DEADLINE: Duration = Duration::from_secs(9);

/// Until a client has sent the head of a request; also how long a connection may be idle.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Until a client has sent the form of a POST, which is a few hundred bytes.
pub(crate) const FORM_DEADLINE: Duration = Duration::from_secs(5);

/// Until a client has taken an answer, from the moment on at which the system's buffers took no more.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Until what is in flight has ended after SIGTERM. A sidecar that lingers delays the end of its
/// pod, which is over already: all of its apps are gone.
pub(crate) const GRACE: Duration = Duration::from_millis(800);

/// Until the sidecar has told the probe its state. The kubelet's own deadline is one second.
pub(crate) const PROBE_DEADLINE: Duration = Duration::from_millis(800);

/// What the environment says.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What App Service's headers must carry: the pod's uid.
    pub(crate) header: Option<Secret>,
    /// Certificates that are trusted beside the public ones.
    pub(crate) extra_ca: Vec<CertificateDer<'static>>,
    /// How Entra ID is reached.
    pub(crate) proxies: Proxies,
}

/// How what is outside of the pod is reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    pub(crate) https: Option<Proxy>,
    pub(crate) none: NoProxy,
}

/// What is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A variable that is not UTF-8.
    #[error("the variable {0} is not UTF-8; set it to text, or leave it out")]
    NotUtf8(&'static str),
    /// A PEM that holds no certificate.
    #[error(
        "the variable {EXTRA_CA_VARIABLE} holds no PEM of certificates ({0}); correct --extra-ca"
    )]
    ExtraCa(String),
    /// A proxy that cannot be used. Its credentials are not shown.
    #[error(
        "the variable HTTPS_PROXY names no HTTP proxy; it must be \
         http://[USER[:PASSWORD]@]HOST[:PORT] (--https-proxy)"
    )]
    Proxy,
}

impl Config {
    /// Reads the environment. An empty variable counts as absent.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], for the first variable that cannot be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        let config = Self::new(variable(HEADER_VARIABLE)?, variable(EXTRA_CA_VARIABLE)?)?;
        // As curl and Go do it: the one in capitals first.
        let https = variable("HTTPS_PROXY")?.or(variable("https_proxy")?);
        let none = variable("NO_PROXY")?.or(variable("no_proxy")?);
        Ok(Self { proxies: Proxies::new(https, none)?, ..config })
    }

    fn new(header: Option<String>, extra_ca: Option<String>) -> Result<Self, ConfigError> {
        Ok(Self {
            header: header.map(Secret::new),
            extra_ca: extra_ca
                .map_or(Ok(Vec::new()), |pem| certificates(pem.as_bytes()))
                .map_err(ConfigError::ExtraCa)?,
            proxies: Proxies::default(),
        })
    }
}

impl Proxies {
    fn new(https: Option<String>, none: Option<String>) -> Result<Self, ConfigError> {
        let https = https.map(|url| Proxy::parse(&url).ok_or(ConfigError::Proxy)).transpose()?;
        Ok(Self { https, none: NoProxy::parse(&none.unwrap_or_default()) })
    }

    /// The proxy through which `host` is reached at `port`, if any.
    pub(crate) fn of(&self, host: &str, port: u16) -> Option<&Proxy> {
        self.https.as_ref().filter(|_| !self.none.covers(host, port))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn variable(name: &'static str) -> Result<Option<String>, ConfigError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(ConfigError::NotUtf8(name)),
    }
}

/// The certificates of `pem`, or why there are none.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err("no certificate found".to_owned()),
        read => read.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_certificates_are_read_or_refused() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        let two = Config::new(None, Some(pem.repeat(2))).unwrap();
        assert_eq!(two.extra_ca.len(), 2);
        for wrong in ["junk", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            let refused = Config::new(None, Some(wrong.to_owned()));
            assert!(matches!(refused, Err(ConfigError::ExtraCa(_))), "{wrong}");
        }
        assert!(Config::new(None, None).unwrap().extra_ca.is_empty());
    }

    #[test]
    fn a_proxy_is_used_but_where_none_is_wanted() {
        let text = |text: &str| Some(text.to_owned());
        let proxies = Proxies::new(text("http://proxy.example:3128"), text("b.example")).unwrap();
        let proxy = proxies.of("a.example", 443).unwrap();
        assert_eq!(proxy.to_string(), "http://proxy.example:3128");
        assert_eq!(proxies.of("b.example", 443), None);
        assert_eq!(Proxies::default().of("a.example", 443), None);
        let refused = Proxies::new(text("https://me:p4ss@proxy.example"), None).unwrap_err();
        assert_eq!(refused, ConfigError::Proxy);
        assert!(!refused.to_string().contains("p4ss"));
    }

    #[test]
    fn the_header_is_not_printed() {
        let config = Config::new(Some("b4f1".to_owned()), None).unwrap();
        assert!(!format!("{config:?}").contains("b4f1"));
    }
}
