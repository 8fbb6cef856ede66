//! Reading custom resources whose keys people have written in every letter case.
//!
//! aad-pod-identity up to 1.5 read `ResourceID` as `resourceid`; 1.6 and later read neither
//! (`docs/compatibility.md`). The guides that people followed use both.

use serde_json::{Map, Value};

/// What is wrong with one field of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct FieldError {
    /// Path of the field, in its documented spelling.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// The keys of one object, found in any ASCII letter case.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// The fields of the object at `path`; an absent or null object has none.
    pub(crate) fn of(path: &str, value: Option<&'a Value>) -> Result<Self, FieldError> {
        let map = match value {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => Some(map),
            Some(_) => return Err(FieldError::new(path, "must be an object")),
        };
        Ok(Self { path: path.to_owned(), map })
    }

    /// The documented spelling wins over others; among others, the first in byte order.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        let map = self.map?;
        let value = map.get(key).or_else(|| {
            let same = map.iter().filter(|(other, _)| other.eq_ignore_ascii_case(key));
            same.min_by_key(|(other, _)| *other).map(|(_, value)| value)
        });
        value.filter(|value| !value.is_null())
    }

    /// A string; absent and empty are the same, as they were for aad-pod-identity.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, FieldError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(key, "must be a string")),
        }
    }

    /// A whole number.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, FieldError> {
        let problem = "must be a whole number";
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                number.as_i64().map(Some).ok_or_else(|| self.error(key, problem))
            }
            Some(_) => Err(self.error(key, problem)),
        }
    }

    /// A list of strings; an absent one is empty.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&'a str>, FieldError> {
        let error = || self.error(key, "must be a list of strings");
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                list.iter().map(|item| item.as_str().ok_or_else(error)).collect()
            }
            Some(_) => Err(error()),
        }
    }

    /// The object under `key`.
    pub(crate) fn object(&self, key: &str) -> Result<Fields<'a>, FieldError> {
        Fields::of(&self.field(key), self.get(key))
    }

    /// Its keys as they are, with values that must be strings.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, &'a str)>, FieldError> {
        self.map
            .into_iter()
            .flatten()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key.as_str(), text.as_str())),
                _ => Err(self.error(key, "must be a string")),
            })
            .collect()
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.map.is_none()
    }

    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> FieldError {
        FieldError::new(self.field(key), problem)
    }

    fn field(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_found_in_any_letter_case() {
        for spec in [json!({"clientID": "x"}), json!({"ClientID": "x"}), json!({"clientid": "x"})] {
            let fields = Fields::of("spec", Some(&spec)).unwrap();
            assert_eq!(fields.text("clientID"), Ok(Some("x")));
        }
    }

    #[test]
    fn the_documented_spelling_wins() {
        let spec = json!({"CLIENTID": "a", "ClientID": "b", "clientID": "c"});
        let fields = Fields::of("spec", Some(&spec)).unwrap();
        assert_eq!(fields.text("clientID"), Ok(Some("c")));
        let spec = json!({"ClientID": "b", "CLIENTID": "a"});
        let fields = Fields::of("spec", Some(&spec)).unwrap();
        assert_eq!(fields.text("clientID"), Ok(Some("a")));
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let spec = json!({"clientID": 7, "clientPassword": "x", "type": "0"});
        let fields = Fields::of("spec", Some(&spec)).unwrap();
        let messages = [
            fields.text("clientID").unwrap_err().to_string(),
            fields.object("clientPassword").unwrap_err().to_string(),
            fields.integer("type").unwrap_err().to_string(),
        ];
        assert_eq!(
            messages,
            [
                "spec.clientID must be a string",
                "spec.clientPassword must be an object",
                "spec.type must be a whole number"
            ]
        );
    }
}
