//! A JSON Patch (RFC 6902) as the text that it is sent as.
//!
//! Operation by operation is written at once. As trees of values, which json-patch's own types
//! hold, they were built, walked and dropped again, and that was most of what an admission cost.

use std::fmt;

use json_patch::jsonptr::{PointerBuf, Token};
use serde::Serialize;

/// What is to be done to an object. It is written in this file alone, and so is always a patch.
#[derive(Clone, PartialEq, Eq)]
pub struct Patch {
    json: Vec<u8>,
    len: usize,
}

impl Patch {
    /// How many operations it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its JSON.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.json
    }

    /// Its operations, for whoever applies or looks at them.
    ///
    /// # Errors
    ///
    /// None that could happen: what is written here can be read.
    pub fn operations(&self) -> Result<json_patch::Patch, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.json))
    }
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A patch while it is written, its operations in the order in which they apply.
pub(crate) struct Edits {
    json: Vec<u8>,
    len: usize,
}

/// What the patch of a usual pod fits into.
const USUAL: usize = 8 * 1024;

impl Edits {
    pub(crate) fn new() -> Self {
        let mut json = Vec::with_capacity(USUAL);
        json.push(b'[');
        Self { json, len: 0 }
    }

    pub(crate) fn add<const N: usize>(&mut self, path: [&str; N], value: &impl Serialize) {
        self.push("add", path, value);
    }

    pub(crate) fn replace<const N: usize>(&mut self, path: [&str; N], value: &impl Serialize) {
        self.push("replace", path, value);
    }

    fn push<const N: usize>(&mut self, op: &str, path: [&str; N], value: &impl Serialize) {
        #[derive(Serialize)]
        struct Operation<'a, T> {
            op: &'a str,
            path: PointerBuf,
            value: &'a T,
        }

        let path = PointerBuf::from_tokens(path.map(Token::new));
        if self.len > 0 {
            self.json.push(b',');
        }
        // Into memory, plain structs of texts and numbers: this cannot fail.
        serde_json::to_writer(&mut self.json, &Operation { op, path, value }).ok();
        self.len += 1;
    }

    pub(crate) fn finish(mut self) -> Patch {
        self.json.push(b']');
        Patch { json: self.json, len: self.len }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_a_patch() {
        let mut edits = Edits::new();
        edits.add(["metadata", "annotations", "imdslet.dev/a~b"], &"say \"so\"");
        edits.replace(["spec", "containers", "0"], &json!({"name": "app"}));
        let patch = edits.finish();
        assert_eq!((patch.len(), patch.is_empty()), (2, false));
        let expected = json!([
            {"op": "add", "path": "/metadata/annotations/imdslet.dev~1a~0b", "value": "say \"so\""},
            {"op": "replace", "path": "/spec/containers/0", "value": {"name": "app"}},
        ]);
        assert_eq!(json!(patch.operations().unwrap()), expected);
    }

    #[test]
    fn one_that_does_nothing_is_a_patch_too() {
        let patch = Edits::new().finish();
        assert!(patch.is_empty());
        assert_eq!(patch.to_string(), "[]");
        assert!(patch.operations().unwrap().is_empty());
    }
}
