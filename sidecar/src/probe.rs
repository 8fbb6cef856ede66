//! `imdslet-sidecar probe`: the startup probe of a pod that was not bound at admission.
//!
//! What it says stands in `kubectl describe pod`.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use imdslet_core::names::POD_LABEL;
use serde::Deserialize;

use crate::config::PROBE_DEADLINE;

/// The largest state that is read.
const LARGEST_STATE: usize = 1024 * 1024;

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod's other containers may start.
    Started,
    /// They may not; why stands in the line.
    Held(String),
    /// It could not be found out; why stands in the line.
    Unknown(String),
}

/// The part of `/state` that the probe reads.
#[derive(Deserialize)]
struct Answer {
    hold: bool,
    #[serde(default)]
    identities: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    problem: Option<String>,
}

/// Asks the sidecar on `port` whether the pod may start.
#[must_use]
pub fn probe(port: u16) -> Verdict {
    match ask(port) {
        Ok(text) => judge(&text),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Verdict::Held(format!(
            "imdslet: the sidecar does not listen on 127.0.0.1:{port}; see its log"
        )),
        Err(error) => Verdict::Unknown(format!(
            "imdslet: the sidecar on 127.0.0.1:{port} does not answer ({error}); see its log"
        )),
    }
}

fn ask(port: u16) -> io::Result<String> {
    let deadline = Instant::now() + PROBE_DEADLINE;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left()?.max(Duration::from_millis(1))))?;
        match stream.read(&mut chunk)? {
            0 => break,
            read => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
        if answer.len() > LARGEST_STATE {
            return Err(io::Error::other("too much"));
        }
    }
    String::from_utf8(answer).map_err(|_| io::Error::other("not UTF-8"))
}

fn judge(answer: &str) -> Verdict {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match serde_json::from_str::<Answer>(body) {
        Ok(Answer { hold: true, .. }) => Verdict::Held(format!(
            "imdslet: no AzureIdentityBinding for this pod's {POD_LABEL} label can be used yet; the pod's events say why"
        )),
        // Without a single identity to serve, an app that starts now meets nothing but errors.
        Ok(Answer { problem: Some(problem), identities, .. }) if identities.is_empty() => {
            Verdict::Held(format!("imdslet: {problem}"))
        }
        Ok(_) => Verdict::Started,
        Err(error) => Verdict::Unknown(format!(
            "imdslet: what answers on the sidecar's port is not the sidecar ({error})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_why_the_pod_is_held() {
        let held = |line: &str| Verdict::Held(line.to_owned());
        let cases = [
            (r#"{"version":1,"hold":false,"identities":[]}"#, Verdict::Started),
            (
                r#"{"version":1,"hold":true,"identities":[]}"#,
                held(
                    "imdslet: no AzureIdentityBinding for this pod's aadpodidbinding label can be used yet; the pod's events say why",
                ),
            ),
            (r#"{"hold":false,"identities":[],"problem":"broken"}"#, held("imdslet: broken")),
            (
                r#"{"hold":false,"identities":[{"name":"a/b"}],"problem":"broken"}"#,
                Verdict::Started,
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(judge(&format!("HTTP/1.1 200 OK\r\n\r\n{body}")), expected, "{body}");
        }
        assert!(matches!(judge("220 smtp.example"), Verdict::Unknown(_)));
    }
}
