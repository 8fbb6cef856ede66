//! Type 2: a service principal with the certificate of a Secret in the pod's namespace.

use std::sync::Arc;

use imdslet_core::arguments::ServeArgs;
use imdslet_core::contract::PodIdentity;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Wanted;
use super::exchange::Exchange;
use super::mounted::{Mounted, MountedFault};
use super::tenants::fetch_each;
use crate::assertion::{Algorithm, Statement, sign};
use crate::certificate::{CertificateError, ClientCertificate};
use crate::claims::Claims;
use crate::config::FETCH_DEADLINE;
use crate::fault::Fault;
use crate::schedule::epoch;
use crate::secret::Secret;
use crate::source::{Fetched, Now};
use crate::transport::Post;

/// The key of the certificate, as the documents of aad-pod-identity have it.
const KEY: &str = "certificate";

/// What the Secret gives to sign with.
struct Signer {
    certificate: ClientCertificate,
    algorithm: Algorithm,
    mounted: Mounted,
}

pub(super) async fn fetch(
    args: &Arc<ServeArgs>,
    https: &Arc<dyn Post>,
    now: &Now,
    wanted: Wanted<'_>,
) -> Result<Fetched, Fault> {
    let identity = wanted.identity;
    let authority = args.authority_of(&identity.name);
    let (arguments, owned) = (Arc::clone(args), identity.clone());
    // Passwords are made expensive on purpose.
    let signer =
        aside(identity, wanted.ends, move || Signer::of(Mounted::read(&arguments, &owned)?));
    let signer = Arc::new(signer.await?);
    let (signer, claims, now) = (&signer, &Claims::default(), epoch(now()));
    fetch_each(identity, |tenant| async move {
        let exchange = Exchange { wanted, tenant, authority, claims };
        let (signer, client_id) = (Arc::clone(signer), identity.client_id.clone());
        let audience = exchange.endpoint();
        // An RSA key of 4096 bits takes 5 ms, and there is one signature for each tenant.
        let assertion = aside(identity, wanted.ends, move || {
            let id = Uuid::new_v4().to_string();
            let statement = Statement { audience: &audience, client_id: &client_id, id, now };
            signer.assertion(&statement)
        });
        exchange.assertion(https, assertion.await?).await
    })
    .await
}

/// Does what the processor needs long for in another thread, for which it may have to wait: the one
/// that answers has others to answer.
async fn aside<T: Send + 'static>(
    identity: &PodIdentity,
    ends: Instant,
    work: impl FnOnce() -> Result<T, MountedFault> + Send + 'static,
) -> Result<T, MountedFault> {
    let unreadable = |why: String| MountedFault::Unreadable {
        identity: identity.name.clone(),
        secret: identity.secret.clone().unwrap_or_default(),
        why,
    };
    match timeout_at(ends, spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        // It panics, or the sidecar ends.
        Ok(Err(error)) => Err(unreadable(error.to_string())),
        Err(_) => Err(unreadable(format!(
            "it was not worked through within {} s; is it encrypted with very many rounds, or is \
             the node's processor taken?",
            FETCH_DEADLINE.as_secs()
        ))),
    }
}

impl Signer {
    /// `certificate`, else `tls.crt` and `tls.key` as in a Secret of type `kubernetes.io/tls`;
    /// `password`, where it is encrypted; `algorithm`, for whoever needs RS256.
    fn of(mounted: Mounted) -> Result<Self, MountedFault> {
        let pair = match (mounted.get("tls.crt"), mounted.get("tls.key")) {
            (Some(certificate), Some(key)) => {
                Some(Zeroizing::new([certificate, b"\n", key].concat()))
            }
            _ => None,
        };
        let pair = pair.as_ref().map(|pair| pair.as_slice());
        let Some(content) = mounted.get(KEY).or(pair) else {
            return Err(match mounted.keys()[..] {
                [] => mounted.missing(&format!("key `{KEY}`")),
                ref keys => mounted.unusable(&format!(
                    "it has no key `{KEY}`, only `{}`; put the certificate there",
                    keys.join("`, `")
                )),
            });
        };
        let algorithm = match text(&mounted, "algorithm")?.trim() {
            "" => Algorithm::default(),
            name => Algorithm::named(name).ok_or_else(|| {
                mounted.unusable("its `algorithm` must be PS256, which is the default, or RS256")
            })?,
        };
        let certificate = certificate(content, text(&mounted, "password")?)
            .map_err(|error| mounted.unusable(&error.to_string()))?;
        Ok(Self { certificate, algorithm, mounted })
    }

    fn assertion(&self, statement: &Statement<'_>) -> Result<Secret, MountedFault> {
        if let Some(problem) = self.certificate.out_of_time(statement.now) {
            return Err(self.mounted.unusable(&problem));
        }
        sign(&self.certificate, self.algorithm, statement)
            .ok_or_else(|| self.mounted.unusable("its key signs nothing; export it anew"))
    }
}

/// The password as it is, as NMI took it, else without the line end that `echo` and editors leave.
fn certificate(content: &[u8], password: &str) -> Result<ClientCertificate, CertificateError> {
    let trimmed = password.trim_end_matches(['\r', '\n']);
    match ClientCertificate::parse(content, password) {
        Err(CertificateError::Password) if trimmed != password => {
            ClientCertificate::parse(content, trimmed)
        }
        read => read,
    }
}

/// The text under a key; empty where there is none.
fn text<'a>(mounted: &'a Mounted, key: &str) -> Result<&'a str, MountedFault> {
    std::str::from_utf8(mounted.get(key).unwrap_or_default())
        .map_err(|_| mounted.unusable(&format!("its `{key}` is not UTF-8; put the text there")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: &[u8] = include_bytes!("../../../tests/fixtures/certificates/new.p12");
    const PEM: &[u8] = include_bytes!("../../../tests/fixtures/certificates/pkcs8.pem");

    #[tokio::test]
    async fn work_that_does_not_end_in_time_is_given_up_and_named() {
        let (end, ended) = std::sync::mpsc::channel::<u8>();
        let mut identity = crate::testing::identity("web/sp", '1');
        identity.secret = Some("azure-cert".to_owned());
        // Until the test lets it.
        let work = move || Ok(ended.recv().unwrap());
        let fault = aside(&identity, Instant::now(), work).await.unwrap_err();
        end.send(0).unwrap();
        let text = fault.to_string();
        assert!(text.contains("azure-cert") && text.contains("within 9 s"), "{text}");
    }

    type Keys<'a> = &'a [(&'a str, &'a [u8])];

    fn read(keys: Keys<'_>) -> Result<Algorithm, (&'static str, String)> {
        Signer::of(Mounted::of("web/sp", "web/azure-cert", keys))
            .map(|signer| signer.algorithm)
            .map_err(|fault| (fault.reason(), fault.to_string()))
    }

    #[test]
    fn each_layout_of_a_secret_is_read() {
        let cases: [(Keys<'_>, Algorithm); 5] = [
            (&[("certificate", LEAF), ("password", b"s3cret")], Algorithm::Ps256),
            (&[("certificate", LEAF), ("password", b"s3cret\n")], Algorithm::Ps256),
            (&[("certificate", PEM), ("algorithm", b"RS256\n")], Algorithm::Rs256),
            (&[("certificate", PEM), ("tls.crt", b""), ("tls.key", b"")], Algorithm::Ps256),
            // Which part holds what is not asked.
            (&[("tls.crt", b""), ("tls.key", PEM)], Algorithm::Ps256),
        ];
        for (keys, algorithm) in cases {
            assert_eq!(read(keys), Ok(algorithm));
        }
    }

    #[test]
    fn what_cannot_be_used_says_why_and_shows_nothing_of_it() {
        let cases: [(Keys<'_>, &str, &str); 6] = [
            (&[], "SecretMissing", "has no key `certificate`"),
            (&[("cert", LEAF), ("pass", b"s3cret")], "SecretUnusable", "only `cert`, `pass`"),
            (&[("tls.crt", PEM)], "SecretUnusable", "only `tls.crt`"),
            (&[("certificate", LEAF)], "SecretUnusable", "the password is wrong"),
            (&[("certificate", PEM), ("algorithm", b"ES256")], "SecretUnusable", "must be PS256"),
            (&[("certificate", PEM), ("password", b"\xff")], "SecretUnusable", "is not UTF-8"),
        ];
        for (keys, reason, part) in cases {
            let (told, message) = read(keys).unwrap_err();
            assert_eq!(told, reason);
            assert!(message.contains(part) && !message.contains("s3cret"), "{message}");
        }
    }
}
