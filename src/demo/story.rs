//! How the demo speaks.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::emulator::Claims;

/// A story of a known number of steps, told on standard output.
pub(super) struct Story {
    out: RefCell<io::Stdout>,
    steps: usize,
    told: Cell<usize>,
}

impl Story {
    pub(super) fn new(steps: usize) -> Self {
        Self { out: RefCell::new(io::stdout()), steps, told: Cell::new(0) }
    }

    pub(super) fn title(&self, text: &str) {
        self.say(&format!("imdslet demo\n\n{text}"));
    }

    pub(super) fn step(&self, text: &str) {
        self.told.set(self.told.get() + 1);
        self.say(&format!("\n[{}/{}] {text}", self.told.get(), self.steps));
    }

    pub(super) fn line(&self, text: &str) {
        self.say(&format!("      {text}"));
    }

    pub(super) fn question(&self, how: &str, line: &str) {
        self.say(&format!("\n    - {how}\n      {line}"));
    }

    /// What the demo replaces, and with what.
    pub(super) fn before_and_after(&self, was: &str, before: &str, is: &str, after: &str) {
        self.say(&format!("\n      {was:<10} {before}\n      {is:<10} {after}"));
    }

    pub(super) fn patch(&self, patch: &Patch) {
        for operation in patch.iter() {
            // The article's pod has nothing that is replaced.
            let PatchOperation::Add(add) = operation else { continue };
            if add.value.as_object().is_some_and(serde_json::Map::is_empty) {
                // The empty place for what follows.
                continue;
            }
            self.line(&readable(add.path.as_str()));
            let yaml = serde_yaml::to_string(&add.value).unwrap_or_else(|_| add.value.to_string());
            let mut inside = false;
            for line in yaml.lines() {
                inside |= line.contains("-----BEGIN");
                if !inside {
                    self.line(&format!("  + {line}"));
                } else if line.contains("-----END") {
                    self.line("  +     (the CA of the stand-in for Entra ID)");
                    inside = false;
                }
            }
        }
    }

    pub(super) fn claims(&self, claims: &Claims) {
        self.line(&format!(
            "verified: signature, iss {}, aud {}, appid {}, oid {}, {} s to live",
            claims.iss,
            claims.aud,
            claims.appid,
            claims.oid,
            claims.exp.saturating_sub(claims.iat)
        ));
    }

    pub(super) fn end(&self, text: &str) {
        self.say(&format!("\n{text}"));
    }

    pub(super) fn keep(&self, lines: &[String]) {
        self.say("\nStill serving; Ctrl-C ends it. To try by hand, in another terminal:\n");
        for line in lines {
            self.say(&format!("  {line}"));
        }
    }

    /// Whoever closed the pipe has read enough.
    fn say(&self, text: &str) {
        let mut out = self.out.borrow_mut();
        writeln!(out, "{text}").and_then(|()| out.flush()).ok();
    }
}

/// A JSON pointer as a path that people write.
fn readable(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1);
    parts.fold(String::new(), |path, part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part == "-" {
            format!("{path}[]")
        } else if part.contains('/') || part.bytes().all(|b| b.is_ascii_digit()) {
            format!("{path}[{part}]")
        } else if path.is_empty() {
            part
        } else {
            format!("{path}.{part}")
        }
    })
}

/// A body in one line, its token cut short.
pub(super) fn shortened(body: &Value) -> String {
    let mut body = body.clone();
    if let Some(Value::String(token)) = body.get_mut("access_token") {
        let start: String = token.chars().take(12).collect();
        *token = format!("{start}… ({} characters)", token.len());
    }
    body.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pointer_is_read_as_a_path() {
        assert_eq!(readable("/spec/containers/0/env/-"), "spec.containers[0].env[]");
        assert_eq!(
            readable("/metadata/annotations/imdslet.dev~1version"),
            "metadata.annotations[imdslet.dev/version]"
        );
    }

    #[test]
    fn a_token_is_never_printed_whole() {
        let line = shortened(&json!({"access_token": "header.payload.signature", "n": 1}));
        assert_eq!(line, r#"{"access_token":"header.paylo… (24 characters)","n":1}"#);
    }
}
