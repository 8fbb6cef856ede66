//! What the fuzz targets (`tests/fuzz`) reach: whatever reads bytes from outside, as pure functions
//! that tell only what became of the bytes. No part of the program calls them.

use http::{HeaderName, HeaderValue, Request};
use imdslet_core::contract::PodIdentity;

use crate::answer::Problem;
use crate::request::{Selector, decide};
use crate::secret::Secret;
use crate::selection::select;
use crate::volume;

/// The status of the refusal of a request, or 200 where it would be served.
///
/// `None` for what never gets that far: hyper does not let it through.
#[must_use]
pub fn request(method: &str, uri: &str, headers: &[(&[u8], &[u8])], form: &str) -> Option<u16> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name).ok()?;
        request = request.header(name, HeaderValue::from_bytes(value).ok()?);
    }
    let (head, ()) = request.body(()).ok()?.into_parts();
    let header = Secret::new("uid");
    let refused = decide(&head, form, Some(&header)).err();
    Some(refused.map_or(200, |refusal| Problem::from(refusal).answer().status().as_u16()))
}

/// How many identities of the annotation's text answer to their own client id.
///
/// # Errors
///
/// What stands in the log where the text cannot be used.
pub fn identities(text: &str) -> Result<usize, String> {
    let pod = volume::parse(text).map_err(|error| error.to_string())?;
    let answers = |identity: &&PodIdentity| {
        let client_id = Some(identity.client_id.as_str().into());
        select(&pod, &Selector { client_id, ..Selector::default() }, |_, _| false).is_ok()
    };
    Ok(pod.identities.iter().filter(answers).count())
}
