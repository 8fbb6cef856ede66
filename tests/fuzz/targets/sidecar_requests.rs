//! Any head of a request, and any form: it is served or refused with a status that clients know, and
//! a token path is never "not there", which clients take for a reason to look elsewhere.

#![no_main]

use imdslet_sidecar::fuzzing::request;
use libfuzzer_sys::fuzz_target;

/// The first line is `METHOD URI`, each further line a header, and what follows an empty line is the
/// form.
fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let Some(Ok(first)) = lines.next().map(str::from_utf8) else { return };
    let Some((method, uri)) = first.split_once(' ') else { return };
    let rest = lines.next().unwrap_or_default();
    let end = rest.windows(2).position(|pair| pair == b"\n\n").unwrap_or(rest.len());
    let (head, form) = rest.split_at(end);
    let headers: Vec<_> = head
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            Some((name, value.get(1..)?.trim_ascii()))
        })
        .collect();
    let form = String::from_utf8_lossy(form.trim_ascii_start());
    let Some(status) = request(method, uri, &headers, &form) else { return };
    assert!(matches!(status, 200 | 400 | 403 | 404 | 405 | 413), "{status}");
    let path = uri.split('?').next().unwrap_or_default();
    if matches!(path, "/msi/token" | "/metadata/identity/oauth2/token") {
        assert_ne!(status, 404);
    }
});
