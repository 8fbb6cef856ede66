//! What the unit tests build with.

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::Request;
use http::request::Parts;
use imdslet_core::arguments::{Mode, ServeArgs};
use imdslet_core::contract::{FORMAT, PodIdentities, PodIdentity, Source};

use crate::resource::Resource;
use crate::secret::Secret;
use crate::source::{Received, Token};

/// What IDENTITY_HEADER and MSI_SECRET were when the clients were recorded.
pub(crate) const HEADER: &str = "AbC-sEcReT-0123456789";

/// A moment on the wall clock: 2027-01-15 08:00:00 UTC.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

/// A GET of `uri` on 127.0.0.1 with `headers`.
pub(crate) fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(uri).header("Host", "127.0.0.1:2579");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The head of a request as it was on the wire.
pub(crate) fn raw(text: &str) -> Parts {
    let mut lines = text.trim_end().split("\r\n");
    let mut start = lines.next().unwrap().split(' ');
    let mut request = Request::builder().method(start.next().unwrap()).uri(start.next().unwrap());
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Arguments of a sidecar whose folder is not there.
pub(crate) fn serve_args() -> ServeArgs {
    ServeArgs {
        dir: "/nonexistent".into(),
        port: 0,
        authority: "https://login.microsoftonline.com".to_owned(),
        mode: Mode::Native,
        link_local: false,
        secrets_dir: None,
        authority_for: Vec::new(),
        binding: None,
        metrics_port: None,
    }
}

/// An identity whose ids all end in `digit`.
pub(crate) fn identity(name: &str, digit: char) -> PodIdentity {
    let guid = |first: &str| format!("{first}-0000-0000-0000-00000000000{digit}");
    PodIdentity {
        name: name.to_owned(),
        source: Source::Federated,
        client_id: guid("c0000000"),
        resource_id: Some(format!(
            "/subscriptions/s/resourcegroups/rg one/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-{digit}"
        )),
        object_id: None,
        tenant_id: guid("70000000"),
        auxiliary_tenant_ids: Vec::new(),
        allowed_resources: None,
        secret: None,
    }
}

pub(crate) fn pod(identities: impl Into<Vec<PodIdentity>>) -> PodIdentities {
    PodIdentities { version: FORMAT, hold: false, identities: identities.into() }
}

/// Lays `files` out as the kubelet does, in a new folder, and turns `..data` to it.
pub(crate) fn project(dir: &Path, generation: &str, files: &[(&str, &str)]) {
    use std::fs;
    use std::os::unix::fs::symlink;

    fs::create_dir(dir.join(generation)).unwrap();
    for (name, content) in files {
        fs::write(dir.join(generation).join(name), content).unwrap();
        if fs::symlink_metadata(dir.join(name)).is_err() {
            symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
        }
    }
    symlink(generation, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

/// The token of the identity `1` for `https://r/`, received at `now`, that lives for `life`.
pub(crate) fn token(access_token: &str, now: SystemTime, life: Duration) -> Token {
    let received = Received { access_token: Secret::new(access_token), expires_on: now + life };
    let resource = Resource::parse("https://r/".to_owned()).unwrap();
    Token::new(received.into(), &identity("web/db", '1'), &resource, now, 0).unwrap()
}
