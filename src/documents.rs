//! Kubernetes objects in files: many documents, Lists, YAML or JSON, folders, `-` for stdin.

mod text;

use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use text::Text;

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

    /// Its bytes, and how many they are, if that is known.
    ///
    /// # Errors
    ///
    /// [`ReadError::File`].
    pub(crate) fn open(&self) -> Result<(Box<dyn Read>, Option<u64>), ReadError> {
        match self {
            Self::Stdin => Ok((Box::new(io::stdin()), None)),
            Self::File(file) => {
                let opened = fs::File::open(file);
                let opened = opened.map_err(|cause| ReadError::of(self.name(), cause))?;
                let size = opened.metadata().ok().filter(fs::Metadata::is_file);
                Ok((Box::new(opened), size.map(|metadata| metadata.len())))
            }
        }
    }
}

impl ReadError {
    pub(crate) fn empty(file: &Path) -> Self {
        let is_stdin = file == Path::new("-");
        Self::Empty(if is_stdin { Source::Stdin.name() } else { file.display().to_string() })
    }

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
            let (mut bytes, _) = source.open()?;
            read_as(&source.name(), &mut bytes, &mut |_| {}, &mut whole(&mut documents))?;
        }
        if documents.len() == before {
            return Err(ReadError::empty(file));
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
    read_as(file, &mut text.as_bytes(), &mut |_| {}, &mut whole(documents))
}

/// Keeps each document whole.
fn whole(documents: &mut Vec<Document>) -> impl FnMut(Place, Value) -> Result<(), ReadError> {
    |place, value| {
        if !value.is_object() {
            return Err(ReadError::NoObject(place));
        }
        documents.push(Document { place, value });
        Ok(())
    }
}

/// Reads the documents of one text, each as a `T`, and gives them to `take`. `watch` is told how many
/// bytes of the text are read.
///
/// # Errors
///
/// As [`parse`], and what `take` refuses.
pub(crate) fn read_as<T: DeserializeOwned>(
    file: &str,
    source: &mut dyn Read,
    watch: &mut dyn FnMut(usize),
    take: &mut dyn FnMut(Place, T) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let unread = |cause| ReadError::of(file.to_owned(), cause);
    let text = Text::new(source, watch).map_err(unread)?;
    let is_json = text.is_json();
    let text = Shared(&RefCell::new(text));
    let mut documents = Documents { file, number: 0, take };
    let read = if is_json { json(text, &mut documents) } else { yaml(text, &mut documents) };
    // A parser has words of its own for a text that cannot be read, or takes it for its end.
    let trouble = text.0.borrow_mut().trouble();
    trouble.map_or(read, |trouble| Err(unread(trouble)))
}

/// Where the documents of a text go.
struct Documents<'a, T> {
    file: &'a str,
    number: usize,
    take: &'a mut dyn FnMut(Place, T) -> Result<(), ReadError>,
}

impl<T> Documents<'_, T> {
    /// Takes the next document, or says what is wrong with it.
    fn take(&mut self, document: Result<T, String>) -> Result<(), ReadError> {
        self.number += 1;
        let place = Place { file: self.file.to_owned(), number: self.number };
        match document {
            Ok(document) => (self.take)(place, document),
            Err(problem) => Err(ReadError::Syntax { place, problem }),
        }
    }
}

/// A text that a parser reads, and that can be looked at between its documents.
#[derive(Clone, Copy)]
struct Shared<'a, 'text>(&'a RefCell<Text<'text>>);

impl Read for Shared<'_, '_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(target)
    }
}

fn json<T: DeserializeOwned>(
    text: Shared<'_, '_>,
    documents: &mut Documents<'_, T>,
) -> Result<(), ReadError> {
    let mut values = serde_json::Deserializer::from_reader(text).into_iter::<T>();
    loop {
        // One of YAML may follow one of JSON, whose parser reads no further than its end.
        let next = text.0.borrow_mut().next();
        if next.is_ok_and(|next| next == Some(b'-')) {
            return yaml(text, documents);
        }
        let Some(value) = values.next() else { return Ok(()) };
        documents.take(value.map_err(|error| {
            let end = if error.is_eof() { "; it ends too early: is the file whole?" } else { "" };
            format!("{error}{end}")
        }))?;
    }
}

fn yaml<T: DeserializeOwned>(
    text: Shared<'_, '_>,
    documents: &mut Documents<'_, T>,
) -> Result<(), ReadError> {
    // The lines before it count for what is said of it.
    let before = "\n".repeat(text.0.borrow().lines());
    let mut bytes = before.as_bytes().chain(text);
    for value in serde_saphyr::read_with_options::<_, T>(&mut bytes, as_kubectl()) {
        documents.take(value.map_err(|error| {
            let problem = error.without_snippet().to_string();
            // A hint for programmers, not for people.
            problem.replace(", set DuplicateKeyPolicy in Options if acceptable", "")
        }))?;
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
            (
                "{\"a\": ",
                "document 1: EOF while parsing a value at line 1 column 6; it ends too early: is the file whole?",
            ),
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
