//! Cases of admission, each a file.

use std::fs;
use std::path::Path;

use imdslet::documents;
use imdslet::inject::index;
use imdslet_core::admission::{Admission, Refusal, admit};
use imdslet_core::index::Index;
use imdslet_core::pod::PodView;
use imdslet_core::settings::{FLAGS, Given, Settings};
use serde_json::Value;

/// A pod, and all that decides about it.
pub struct Case {
    /// What it shows: the first line of the file.
    pub what: String,
    /// The lines `# --flag=value` that follow.
    pub settings: Settings,
    /// All documents but the last one.
    pub index: Index,
    /// The last document.
    pub pod: Value,
}

impl Case {
    /// Reads the case in `file`.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let mut comments = text.lines().map_while(|line| line.strip_prefix("# "));
        let what = comments.next().expect("a case begins with a comment").to_owned();
        let mut given = Given::new();
        for line in comments {
            let (name, value) = line
                .strip_prefix("--")
                .and_then(|flag| flag.split_once('='))
                .expect("a setting is written `# --flag=value`");
            let flag = FLAGS.iter().find(|flag| flag.name == name).expect("a setting that exists");
            given.entry(flag.name).or_default().push(value.replace("\\n", "\n"));
        }
        let mut documents = Vec::new();
        documents::parse(&file.display().to_string(), &text, &mut documents).unwrap();
        let pod = documents.pop().expect("the last document is the pod").value;
        // What is wrong with an object is the case's own matter.
        let index = index(&documents, "default", &mut Vec::new());
        Self { what, settings: Settings::read(&given).unwrap(), index, pod }
    }

    /// Decides about `pod` instead of the case's own.
    ///
    /// # Errors
    ///
    /// [`Refusal`] as [`admit`] gives it.
    pub fn admit(&self, pod: &Value) -> Result<Admission, Refusal> {
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap();
        let text = pod.to_string();
        admit(&self.index, &self.settings, namespace, &PodView::read(&text)?)
    }
}
