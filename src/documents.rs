//! Kubernetes objects in files: many documents, Lists, YAML or JSON, folders, `-` for stdin.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it was read.
    pub place: Place,
    /// What it says.
    pub value: Value,
}

/// Where a document was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub file: String,
    /// The document in it, the first one is 1.
    pub number: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.number)
    }
}

/// Why files cannot be read as documents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {file}: {cause}")]
    File {
        /// The file.
        file: String,
        /// Why.
        cause: io::Error,
    },
    /// A file has no object.
    #[error("{0} has no object in it")]
    Empty(String),
    /// The bytes are no text.
    #[error("{0} is not UTF-8 text; save it as UTF-8")]
    Encoding(String),
    /// A folder has no file that could be one of manifests.
    #[error("{0} is a folder without a .yaml, .yml or .json file")]
    EmptyFolder(String),
    /// The text is neither YAML nor JSON.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong, with the line where the parser has it.
        problem: String,
    },
    /// A document is no object.
    #[error("{0}: a document must be a Kubernetes object; this is none")]
    NoObject(Place),
}

/// Something with documents in it.
#[derive(Debug)]
pub(crate) enum Source {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// As it was named.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "(stdin)".to_owned(),
            Self::File(file) => file.display().to_string(),
        }
    }

    /// Its text, whole.
    ///
    /// # Errors
    ///
    /// [`ReadError::File`] or [`ReadError::Encoding`].
    pub(crate) fn text(&self) -> Result<String, ReadError> {
        let text = match self {
            Self::Stdin => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map(|_| text)
            }
            Self::File(file) => fs::read_to_string(file),
        };
        text.map_err(|cause| ReadError::of(self.name(), cause))
    }
}

impl ReadError {
    fn of(file: String, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::InvalidData => Self::Encoding(file),
            _ => Self::File { file, cause },
        }
    }
}

/// What a name of the command line stands for: a file, standard input, the manifests of a folder.
///
/// # Errors
///
/// [`ReadError::File`] or [`ReadError::EmptyFolder`], for a folder.
pub(crate) fn sources(file: &Path) -> Result<Vec<Source>, ReadError> {
    if file == Path::new("-") {
        return Ok(vec![Source::Stdin]);
    }
    if !file.is_dir() {
        return Ok(vec![Source::File(file.to_owned())]);
    }
    let name = file.display().to_string();
    let inside = manifests_of(file).map_err(|cause| ReadError::of(name.clone(), cause))?;
    if inside.is_empty() {
        return Err(ReadError::EmptyFolder(name));
    }
    Ok(inside.into_iter().map(Source::File).collect())
}

/// Reads all documents of `files`, in their order; empty documents are left out and not counted.
///
/// # Errors
///
/// [`ReadError`], for the first thing that cannot be read.
pub fn read(files: &[PathBuf]) -> Result<Vec<Document>, ReadError> {
    let mut documents = Vec::new();
    for file in files {
        let before = documents.len();
        for source in sources(file)? {
            parse(&source.name(), &source.text()?, &mut documents)?;
        }
        if documents.len() == before {
            return Err(ReadError::Empty(file.display().to_string()));
        }
    }
    Ok(documents)
}

/// The manifests that lie in a folder itself, by name, as kubectl takes them.
fn manifests_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the documents of one text.
///
/// # Errors
///
/// [`ReadError::Syntax`] or [`ReadError::NoObject`], for the first document that is wrong.
pub fn parse(file: &str, text: &str, documents: &mut Vec<Document>) -> Result<(), ReadError> {
    parse_as::<Value>(file, text, &mut |_| {}, documents)
}

/// Reads the documents of one text, each as a `T` first. `watch` is told how many bytes of the text
/// are read, as long as these are YAML; JSON takes no time.
///
/// # Errors
///
/// As [`parse`].
pub(crate) fn parse_as<T: DeserializeOwned + Into<Value>>(
    file: &str,
    text: &str,
    watch: &mut dyn FnMut(usize),
    documents: &mut Vec<Document>,
) -> Result<(), ReadError> {
    // Editors on Windows write one.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let place = |number| Place { file: file.to_owned(), number };
    let mut values: Vec<T> = Vec::new();
    if !is_json(text) {
        yaml(text, watch, &place, &mut values)?;
        return take(values, place, documents);
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter();
    while let Some(value) = stream.next() {
        let end = stream.byte_offset();
        match value {
            Ok(value) => values.push(value),
            // One of YAML may follow one of JSON. The lines before it count for what is said of it.
            Err(_) if is_yaml_from(text, end) => {
                let (before, rest) = text.split_at(end);
                let lines = "\n".repeat(before.matches('\n').count());
                yaml(&format!("{lines}{rest}"), watch, &place, &mut values)?;
                break;
            }
            Err(error) => {
                let place = place(values.len() + 1);
                return Err(ReadError::Syntax { place, problem: error.to_string() });
            }
        }
    }
    take(values, place, documents)
}

/// Whether a document of YAML begins at a byte of a text.
fn is_yaml_from(text: &str, at: usize) -> bool {
    text.get(at..).is_some_and(|rest| rest.starts_with("---"))
}

fn yaml<T: DeserializeOwned>(
    text: &str,
    watch: &mut dyn FnMut(usize),
    place: &impl Fn(usize) -> Place,
    values: &mut Vec<T>,
) -> Result<(), ReadError> {
    let mut bytes = Watched { rest: text.as_bytes(), read: 0, watch };
    for value in serde_saphyr::read_with_options::<_, T>(&mut bytes, as_kubectl()) {
        values.push(value.map_err(|error| {
            let place = place(values.len() + 1);
            let problem = error.without_snippet().to_string();
            // A hint for programmers, not for people.
            let problem = problem.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
            ReadError::Syntax { place, problem }
        })?);
    }
    Ok(())
}

/// A text that says how much of it was read.
struct Watched<'a> {
    rest: &'a [u8],
    read: usize,
    watch: &'a mut dyn FnMut(usize),
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(buffer)?;
        self.read += count;
        (self.watch)(self.read);
        Ok(count)
    }
}

/// Whether a text is meant as JSON. Much of YAML is no JSON, but much of broken JSON is YAML.
fn is_json(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('{').map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with('"') || inside.starts_with('}'))
}

fn take<T: Into<Value>>(
    values: Vec<T>,
    place: impl Fn(usize) -> Place,
    documents: &mut Vec<Document>,
) -> Result<(), ReadError> {
    for (at, value) in values.into_iter().enumerate() {
        let (place, value) = (place(at + 1), value.into());
        if !value.is_object() {
            return Err(ReadError::NoObject(place));
        }
        documents.push(Document { place, value });
    }
    Ok(())
}

/// YAML as kubectl reads it, which is 1.1: `0644` is a number, and `yes` is a boolean.
fn as_kubectl() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // A dump of a large cluster has millions of nodes. What must end is the growth of aliases,
        // which has bounds of its own.
        budget: None,
        legacy_octal_numbers: true,
        strict_booleans: false,
        reject_unsupported_tags: true,
    }
}

/// Documents as YAML, each after a `---`. What YAML 1.1 would take for another type is quoted.
///
/// # Errors
///
/// The emitter's message, for what YAML cannot hold; JSON values are never that.
pub fn to_yaml<'a>(
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<String, serde_saphyr::ser::Error> {
    // Lines are never folded: the pod's identities are one long one.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let mut text = String::new();
    for value in values {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string_with_options(value, options.clone())?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(text: &str) -> Result<Vec<Value>, String> {
        let mut documents = Vec::new();
        parse("app.yaml", text, &mut documents).map_err(|error| error.to_string())?;
        Ok(documents.into_iter().map(|document| document.value).collect())
    }

    #[test]
    fn many_documents_and_empty_ones() {
        let text = "# first\n---\na: 1\n---\n# nothing\n---\nb: {c: [1, x]}\n";
        assert_eq!(values(text).unwrap(), [json!({"a": 1}), json!({"b": {"c": [1, "x"]}})]);
        assert_eq!(values(r#"{"a": 1}"#).unwrap(), [json!({"a": 1})]);
        assert_eq!(values("{a: 1}").unwrap(), [json!({"a": 1})]);
        assert_eq!(values("").unwrap(), Vec::<Value>::new());
    }

    #[test]
    fn anchors_merges_and_keys_that_are_no_strings() {
        let text = "base: &b {x: 1}\nmore: {<<: *b, y: 2}\nlabels: {1: a, true: b}\n";
        let expected = json!({
            "base": {"x": 1}, "more": {"y": 2, "x": 1}, "labels": {"1": "a", "true": "b"},
        });
        assert_eq!(values(text).unwrap(), [expected]);
    }

    #[test]
    fn a_mistake_is_named_with_file_document_and_line() {
        let cases = [
            ("a: 1\n---\nb: [\n", "document 2: unclosed bracket '[' at line 3, column 4"),
            ("a: 1\na: 2\n", "document 1: duplicate mapping key: a at line 2, column 1"),
            ("- a\n", "document 1: a document must be a Kubernetes object; this is none"),
            ("a: !secret x\n", "document 1: unsupported tag `!secret` at line 1, column 12"),
            ("{\"a\": ", "document 1: EOF while parsing a value at line 1 column 6"),
            ("{\"a\": 1}\n{\"b\": }", "document 2: expected value at line 2 column 7"),
        ];
        for (text, expected) in cases {
            assert_eq!(values(text).unwrap_err(), format!("app.yaml, {expected}"));
        }
    }

    #[test]
    fn scalars_are_what_kubectl_takes_them_for() {
        let text = "mode: 0644\nhost: no\ntty: yes\ncount: 1_000\nquoted: ['0644', \"no\", '1']\n";
        let expected = json!({
            "mode": 420, "host": false, "tty": true, "count": 1000, "quoted": ["0644", "no", "1"],
        });
        assert_eq!(values(text).unwrap(), [expected]);
    }

    #[test]
    fn json_objects_may_follow_one_another_and_a_byte_order_mark_is_no_content() {
        assert_eq!(values("{\"a\":1}\n{\"b\":2}").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(values("\u{feff}a: 1\n").unwrap(), [json!({"a": 1})]);
    }

    #[test]
    fn json_and_yaml_may_follow_one_another_in_a_file() {
        let expected = [json!({"a": 1}), json!({"b": 2}), json!({"c": 3})];
        for text in [
            "{\"a\": 1}\n{\"b\": 2}\n---\nc: 3\n",
            "{\"a\": 1}\n---\nb: 2\n---\n{\"c\": 3}\n",
            "a: 1\n---\n{\"b\": 2}\n---\nc: 3\n",
        ] {
            assert_eq!(values(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in [
            ("{\"a\": 1}\n---\nb: [\n", "2: unclosed bracket '[' at line 3, column 4"),
            ("{\"a\": 1}\nb: 2\n", "2: expected value at line 2 column 1"),
        ] {
            assert_eq!(values(text).unwrap_err(), format!("app.yaml, document {expected}"));
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let words = [
            "yes",
            "No",
            "on",
            "y",
            "1_000",
            "0b1_1",
            "12:30:45",
            "2001-01-01",
            "<<",
            "=",
            "~",
            "",
            "null",
            "plain",
            "a: b",
            "two\nlines",
            "two\nlines\n",
            " ",
            "it's",
            "0644",
            "1e3",
            "\u{7}",
            "\u{1f512}",
            "- x",
            "#no comment",
            "{",
            "%",
        ];
        let long = "word ".repeat(100);
        let value =
            json!({"words": words, "on": {"yes": 1, "1": 2}, "long": long, "empty": [{}, []]});
        let text = to_yaml([&value]).unwrap();
        assert_eq!(values(&text).unwrap(), [value]);
        // And by a parser of YAML 1.2.
        let other: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(other["words"], json!(words));
    }
}
