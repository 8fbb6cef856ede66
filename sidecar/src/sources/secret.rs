//! Type 1: a service principal with the client secret of a Secret in the pod's namespace.

use std::sync::Arc;

use imdslet_core::arguments::ServeArgs;

use super::Wanted;
use super::exchange::Exchange;
use super::mounted::{Mounted, MountedFault};
use super::tenants::fetch_each;
use crate::claims::Claims;
use crate::fault::Fault;
use crate::secret::Secret;
use crate::source::Fetched;
use crate::transport::Post;

/// The key that the documents of aad-pod-identity told people to use.
const KEY: &str = "clientSecret";

pub(super) async fn fetch(
    args: &ServeArgs,
    https: &Arc<dyn Post>,
    wanted: Wanted<'_>,
) -> Result<Fetched, Fault> {
    let identity = wanted.identity;
    let secret = client_secret(&Mounted::read(args, identity)?)?;
    let (secret, claims) = (&secret, &Claims::default());
    let authority = args.authority_of(&identity.name);
    fetch_each(identity, |tenant| async move {
        Exchange { wanted, tenant, authority, claims }.secret(https, secret).await
    })
    .await
}

/// The value of `clientSecret`, else of the only key. NMI took the first key that its map gave it,
/// whatever its name (v1.8, `pkg/nmi/standard.go:193-197`), so another name works for one key.
///
/// Line ends at the end are not part of it: editors and `echo` leave them, Entra ID makes no secret
/// with one, and NMI, which sent them along, was refused.
fn client_secret(mounted: &Mounted) -> Result<Secret, MountedFault> {
    let keys = mounted.keys();
    let content = match (mounted.get(KEY), &keys[..]) {
        (Some(content), _) => content,
        (None, [only]) => mounted.get(only).unwrap_or_default(),
        (None, []) => return Err(mounted.missing(&format!("key `{KEY}`"))),
        (None, several) => {
            return Err(mounted.unusable(&format!(
                "it has no key `{KEY}`, and which of `{}` is meant cannot be told; name it `{KEY}`",
                several.join("`, `")
            )));
        }
    };
    let text = std::str::from_utf8(content)
        .map_err(|_| mounted.unusable("the client secret is not UTF-8; put the text there"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(mounted.unusable("the client secret is empty; put its value there")),
        text => Ok(Secret::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &[(&str, &[u8])]) -> Result<String, (&'static str, String)> {
        client_secret(&Mounted::of("web/sp", "web/azure-sp", keys))
            .map(|secret| secret.reveal().to_owned())
            .map_err(|fault| (fault.reason(), fault.to_string()))
    }

    #[test]
    fn the_documented_key_is_taken_else_the_only_one() {
        let cases: [&[(&str, &[u8])]; 6] = [
            &[("clientSecret", b"s3cret")],
            &[("clientSecret", b"s3cret"), ("clientId", b"other")],
            &[("clientsecret", b"s3cret")],
            &[("anything", b"s3cret\n")],
            &[("anything", b"s3cret\r\n")],
            &[("clientSecret", b"s3cret\n\n")],
        ];
        for keys in cases {
            assert_eq!(read(keys).as_deref(), Ok("s3cret"), "{keys:?}");
        }
        assert_eq!(read(&[("clientSecret", b" s3 cret ")]).as_deref(), Ok(" s3 cret "));
    }

    #[test]
    fn what_cannot_be_told_is_refused_by_the_names_of_the_keys() {
        let (reason, message) = read(&[("b", b"s3cret"), ("a", b"s3cret")]).unwrap_err();
        assert_eq!(reason, "SecretUnusable");
        assert_eq!(
            message,
            "Secret web/azure-sp of AzureIdentity web/sp cannot be used: it has no key \
             `clientSecret`, and which of `a`, `b` is meant cannot be told; name it `clientSecret`"
        );
        for wrong in [&b""[..], b"\n", b"\xff\xfe"] {
            assert_eq!(read(&[("clientSecret", wrong)]).unwrap_err().0, "SecretUnusable");
        }
        assert_eq!(read(&[]).unwrap_err().0, "SecretMissing");
    }
}
