//! Kubernetes objects in files: many documents, Lists, YAML or JSON, folders, `-` for stdin.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

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

/// Reads all documents of `files`, in their order; empty documents count but are left out.
///
/// # Errors
///
/// [`ReadError`], for the first thing that cannot be read.
pub fn read(files: &[PathBuf]) -> Result<Vec<Document>, ReadError> {
    let mut documents = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let failed = |file: &Path| {
            let file = file.display().to_string();
            move |cause| ReadError::File { file, cause }
        };
        if name == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(failed(Path::new("(stdin)")))?;
            parse("(stdin)", &text, &mut documents)?;
        } else if file.is_dir() {
            let inside = manifests_of(file).map_err(failed(file))?;
            if inside.is_empty() {
                return Err(ReadError::EmptyFolder(name));
            }
            for file in inside {
                let text = fs::read_to_string(&file).map_err(failed(&file))?;
                parse(&file.display().to_string(), &text, &mut documents)?;
            }
        } else {
            let text = fs::read_to_string(file).map_err(failed(file))?;
            parse(&name, &text, &mut documents)?;
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
    // JSON first where it looks so: its own parser is stricter, and names its own mistakes.
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        documents.push(Document { place: Place { file: file.to_owned(), number: 1 }, value });
        return Ok(());
    }
    for (at, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let place = Place { file: file.to_owned(), number: at + 1 };
        let syntax = |problem: String| ReadError::Syntax { place: place.clone(), problem };
        let mut value =
            serde_yaml::Value::deserialize(document).map_err(|error| syntax(error.to_string()))?;
        value.apply_merge().map_err(|error| syntax(error.to_string()))?;
        match to_json(value).map_err(syntax)? {
            Value::Null => {}
            value @ Value::Object(_) => documents.push(Document { place, value }),
            _ => return Err(ReadError::NoObject(place)),
        }
    }
    Ok(())
}

/// YAML as kubectl reads it: keys that look like numbers or booleans are strings all the same.
fn to_json(value: serde_yaml::Value) -> Result<Value, String> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => Value::Bool(flag),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => serde_json::to_value(&number).map_err(|error| error.to_string())?,
        Yaml::Sequence(items) => {
            Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = match key {
                    Yaml::String(text) => text,
                    Yaml::Number(number) => number.to_string(),
                    Yaml::Bool(flag) => flag.to_string(),
                    _ => return Err("a key must be a string".to_owned()),
                };
                map.insert(key, to_json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => return Err(format!("Kubernetes knows no tag {}", tagged.tag)),
    })
}

/// Documents as YAML, each after a `---`, for the parsers of YAML 1.1 too, as kubectl's is.
///
/// # Errors
///
/// The emitter's message, for what YAML cannot hold; JSON values are never that.
pub fn to_yaml<'a>(
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<String, serde_yaml::Error> {
    let mut text = String::new();
    for value in values {
        text.push_str("---\n");
        text.push_str(&quoted_for_yaml_1_1(value)?);
    }
    Ok(text)
}

/// `serde_yaml` leaves `yes`, `on`, `1_000` or `<<` plain, which are strings in YAML 1.2 and are
/// none in 1.1. A mark that forces quotes is added to such strings and taken out of the text again.
fn quoted_for_yaml_1_1(value: &Value) -> Result<String, serde_yaml::Error> {
    let plain = serde_yaml::to_string(value)?;
    // One more mark than the text has places for is enough to find one that is not in it.
    let mark = (0..=plain.len())
        .map(|number| format!(" #quoted-{number}"))
        .find(|mark| !plain.contains(mark.as_str()))
        .unwrap_or_default();
    let marked = serde_yaml::to_string(&marked(value, &mark))?;
    Ok(marked.replace(&mark, ""))
}

fn marked(value: &Value, mark: &str) -> Value {
    let text = |text: &str| {
        if is_ambiguous(text) { format!("{text}{mark}") } else { text.to_owned() }
    };
    match value {
        Value::String(string) => Value::String(text(string)),
        Value::Array(items) => items.iter().map(|item| marked(item, mark)).collect(),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (text(key), marked(value, mark)));
            Value::Object(entries.collect())
        }
        other => other.clone(),
    }
}

/// Whether a plain scalar of this text could be something else than a string in YAML 1.1. Quotes
/// are never wrong, so numbers and dates are recognised by how they begin.
fn is_ambiguous(text: &str) -> bool {
    let is_simple = text.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\".contains(&b));
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || "+-.=<~".contains(c));
    let words = ["y", "n", "yes", "no", "on", "off"];
    is_simple && (begins || words.iter().any(|word| text.eq_ignore_ascii_case(word)))
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
            (
                "a: 1\n---\nb: [\n",
                "app.yaml, document 2: did not find expected node content at line 4",
            ),
            ("a: 1\na: 2\n", "app.yaml, document 1: duplicate entry with key \"a\""),
            ("- a\n", "app.yaml, document 1: a document must be a Kubernetes object; this is none"),
            ("a: !secret x\n", "app.yaml, document 1: Kubernetes knows no tag !secret"),
            ("{\"a\": ", "app.yaml, document 1: did not find expected node content"),
        ];
        for (text, expected) in cases {
            let error = values(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same_by_yaml_1_1_and_1_2() {
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
            "it's",
            "#quoted-0",
            "x #quoted-0",
        ];
        let value = json!({"words": words, "on": {"yes": 1}});
        let text = to_yaml([&value]).unwrap();
        for word in ["'yes'", "'No'", "'on'", "'1_000'", "'12:30:45'", "'<<'", "'2001-01-01'"] {
            assert!(text.contains(&format!("- {word}\n")), "{text}");
        }
        assert!(text.contains("\n'on':\n  'yes': 1\n"), "{text}");
        assert_eq!(values(&text).unwrap(), [value]);
    }
}
