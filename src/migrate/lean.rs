//! Objects without what no plan reads, left out while they are read: what the API server keeps for
//! itself, most of a dump's bytes, and what a Secret holds, which is nobody's business here.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

/// A document, lean.
#[derive(Debug, PartialEq)]
pub(super) struct Lean(Value);

impl From<Lean> for Value {
    fn from(lean: Lean) -> Self {
        lean.0
    }
}

impl<'de> Deserialize<'de> for Lean {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Part::Object.deserialize(deserializer).map(Self)
    }
}

/// What is being read.
#[derive(Clone, Copy)]
enum Part {
    /// An object, or a list of them.
    Object,
    /// The metadata of one.
    Metadata,
}

impl Part {
    fn is_left_out(self, key: &str) -> bool {
        match self {
            Self::Object => matches!(key, "status" | "data" | "binaryData" | "stringData"),
            Self::Metadata => key == "managedFields",
        }
    }

    /// What stands under a key; `None` if that is read whole.
    fn inside(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Object, "items") => Some(Self::Object),
            (Self::Object, "metadata") => Some(Self::Metadata),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if self.is_left_out(&key) {
                entries.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match self.inside(&key) {
                Some(part) => entries.next_value_seed(part)?,
                None => entries.next_value()?,
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(self)? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documents::{Document, parse_as};

    #[test]
    fn what_no_plan_reads_is_left_out_at_every_depth_of_lists() {
        let object = |inner: &Value| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "labels": {"x": "1"}, "managedFields": [{"f:x": {}}]},
                "spec": {"status": 1, "data": [1.5, true, null], "metadata": {"managedFields": 1}},
                "status": {"phase": "Running"}, "data": {"password": "c2VjcmV0"},
                "stringData": inner, "binaryData": {},
            })
        };
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"status": 1, "data": [1.5, true, null], "metadata": {"managedFields": 1}},
        });
        let list = |items: &[&Value]| json!({"kind": "List", "items": items});
        let fat = object(&json!({"a": [{"b": -1}]}));
        let text = list(&[&fat, &list(&[&fat])]).to_string();
        // JSON is YAML too, and then goes through the other parser.
        for text in [text.clone(), format!("---\n{text}")] {
            let mut documents: Vec<Document> = Vec::new();
            parse_as::<Lean>("dump", &text, &mut |_| {}, &mut documents).unwrap();
            assert_eq!(documents[0].value, list(&[&kept, &list(&[&kept])]));
        }
    }

    #[test]
    fn what_is_no_object_is_read_all_the_same_for_others_to_refuse() {
        for value in [json!([1, -1, "x"]), json!(null), json!({"metadata": 1, "items": "none"})] {
            let Lean(read) = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(read, value);
        }
    }
}
