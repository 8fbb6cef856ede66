//! What a TLS server shows, replaceable while it runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::Serving;

/// The oldest TLS version that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldestTls {
    /// TLS 1.2, for clients that are not ours to choose.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Shows the serving certificate that was set last.
///
/// `ArcSwap`, because certificates change in asynchronous code while rustls asks in synchronous
/// code, on every handshake: a load is a few instructions and never waits.
#[derive(Debug)]
pub struct Resolver {
    current: ArcSwap<CertifiedKey>,
}

impl Resolver {
    /// Starts with `serving`.
    ///
    /// # Errors
    ///
    /// [`rustls::Error`] if the key is of a kind that rustls cannot sign with, or does not belong
    /// to the certificate.
    pub fn new(serving: Serving) -> Result<Self, rustls::Error> {
        Ok(Self { current: ArcSwap::from_pointee(certified(serving)?) })
    }

    /// Shows `serving` from the next handshake on. Open connections keep what they saw.
    ///
    /// # Errors
    ///
    /// As [`Resolver::new`]; what was shown before stays.
    pub fn replace(&self, serving: Serving) -> Result<(), rustls::Error> {
        self.current.store(Arc::new(certified(serving)?));
        Ok(())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// The TLS configuration of a server of ours: HTTP/1.1, no client certificates.
///
/// # Errors
///
/// [`rustls::Error`] if the versions do not fit the cipher suites, which those of ring do.
pub fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    oldest: OldestTls,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match oldest {
        OldestTls::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        OldestTls::V1_3 => &[&rustls::version::TLS13],
    };
    // The provider is named, since a program may link two and then has no default.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certified(serving: Serving) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(serving.chain, serving.key, &ring::default_provider())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject;
    use rustls::{
        ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConnection,
    };

    use super::*;
    use crate::Authority;

    /// The version that a client which speaks `versions` and a server agree on.
    fn agreed(
        oldest: OldestTls,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ProtocolVersion, rustls::Error> {
        let now = SystemTime::now();
        let authority = Authority::generate("CA", now).unwrap();
        let serving = authority.issue(&["localhost".to_owned()], now).unwrap();
        let config = server_config(Arc::new(Resolver::new(serving)?), oldest)?;
        let mut roots = RootCertStore::empty();
        roots.add(PemObject::from_pem_slice(authority.pem().as_bytes()).unwrap())?;
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let client = client.with_protocol_versions(versions)?.with_root_certificates(roots);
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client.with_no_client_auth()), name)?;
        let mut server = ServerConnection::new(Arc::new(config))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(server.protocol_version().unwrap())
    }

    #[test]
    fn tls_1_2_is_spoken_only_where_the_switch_says_so() {
        use rustls::version::{TLS12, TLS13};
        let (new, old) = (ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2);
        assert_eq!(agreed(OldestTls::V1_3, &[&TLS13, &TLS12]), Ok(new));
        assert_eq!(agreed(OldestTls::V1_2, &[&TLS13, &TLS12]), Ok(new));
        assert_eq!(agreed(OldestTls::V1_2, &[&TLS12]), Ok(old));
        assert!(matches!(
            agreed(OldestTls::V1_3, &[&TLS12]),
            Err(rustls::Error::PeerIncompatible(_))
        ));
    }
}
