//! Objects without what no plan reads, left out while they are read: what the API server keeps for
//! itself, most of a dump's bytes, and what a Secret holds, which is nobody's business here.
//!
//! A List may have a hundred thousand of them. Each is kept as its text, which takes a tenth of what its
//! parts do.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value, json};

/// The objects of a document, lean, as JSON each; none if the document is no object.
#[derive(Debug, PartialEq)]
pub(super) struct Lean(pub(super) Option<Vec<Box<str>>>);

impl<'de> Deserialize<'de> for Lean {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut objects = Vec::new();
        let reader = Reader { part: Part::Object, objects: &mut objects };
        match reader.deserialize(deserializer)? {
            Seen::Items => {}
            Seen::One(value) if value.is_object() => objects.push(value.to_string().into()),
            Seen::One(_) => return Ok(Self(None)),
        }
        Ok(Self(Some(objects)))
    }
}

/// What is being read.
#[derive(Clone, Copy)]
enum Part {
    /// An object, or a list of them.
    Object,
    /// The elements of a list.
    Items,
    /// The metadata of an object.
    Metadata,
}

impl Part {
    fn is_left_out(self, key: &str) -> bool {
        match self {
            Self::Object => matches!(key, "status" | "data" | "binaryData" | "stringData"),
            Self::Metadata => key == "managedFields",
            Self::Items => false,
        }
    }

    /// What stands under a key; `None` if that is read whole.
    fn inside(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Object, "items") => Some(Self::Items),
            (Self::Object, "metadata") => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// An object that was read as a whole, lean, as JSON.
pub(super) fn lean(mut object: Value) -> Box<str> {
    leave_out(&mut object, Part::Object);
    if let Some(metadata) = object.get_mut("metadata") {
        leave_out(metadata, Part::Metadata);
    }
    object.to_string().into()
}

fn leave_out(value: &mut Value, part: Part) {
    if let Some(entries) = value.as_object_mut() {
        entries.retain(|key, _| !part.is_left_out(key));
    }
}

/// Reads a part, and adds the elements of lists to `objects`.
struct Reader<'a> {
    part: Part,
    objects: &'a mut Vec<Box<str>>,
}

/// What was read.
enum Seen {
    /// Elements of a list, which are among the objects now.
    Items,
    /// Anything else.
    One(Value),
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Seen;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Seen, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Seen, A::Error> {
        let Self { part, objects } = self;
        let before = objects.len();
        let mut has_items = false;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if part.is_left_out(&key) {
                entries.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match part.inside(&key) {
                Some(part) => match entries.next_value_seed(Reader { part, objects })? {
                    Seen::One(value) => value,
                    Seen::Items => {
                        has_items = true;
                        json!([])
                    }
                },
                None => entries.next_value()?,
            };
            map.insert(key, value);
        }
        if has_items {
            let kind = map.get("kind").and_then(Value::as_str);
            if kind.is_some_and(|kind| kind.ends_with("List")) {
                return Ok(Seen::Items);
            }
            // They are parts of something else, or of a list that was cut off.
            objects.truncate(before);
        }
        Ok(Seen::One(Value::Object(map)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Seen, A::Error> {
        let Self { part, objects } = self;
        let Part::Items = part else {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                list.push(element);
            }
            return Ok(Seen::One(Value::Array(list)));
        };
        loop {
            let reader = Reader { part: Part::Object, objects };
            match elements.next_element_seed(reader)? {
                Some(Seen::One(value)) => objects.push(value.to_string().into()),
                Some(Seen::Items) => {}
                None => return Ok(Seen::Items),
            }
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Seen, E> {
        Ok(Seen::One(Value::from(text)))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Seen, E> {
        Ok(Seen::One(Value::from(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Seen, E> {
        Ok(Seen::One(Value::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Seen, E> {
        Ok(Seen::One(Value::from(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Seen, E> {
        Ok(Seen::One(Value::from(value)))
    }

    fn visit_unit<E: Error>(self) -> Result<Seen, E> {
        Ok(Seen::One(Value::Null))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::read_as;

    fn read(text: &str) -> Vec<Value> {
        let mut read = Vec::new();
        let mut take = |_, Lean(objects): Lean| {
            let objects = objects.unwrap().into_iter();
            read.extend(objects.map(|text| serde_json::from_str::<Value>(&text).unwrap()));
            Ok(())
        };
        read_as("dump", &mut text.as_bytes(), &mut |_| {}, &mut take).unwrap();
        read
    }

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
        let text = list(&[&fat, &list(&[&fat]), &json!({"kind": "PodList", "items": []})]);
        // JSON is YAML too, and then goes through the other parser.
        for text in [text.to_string(), format!("---\n{text}")] {
            assert_eq!(read(&text), [kept.clone(), kept.clone()]);
        }
        assert_eq!(*lean(fat.clone()), *kept.to_string());
        assert_eq!(read(&fat.to_string()), [kept]);
    }

    #[test]
    fn items_of_what_is_no_list_are_no_objects() {
        for (text, expected) in [
            (
                r#"{"items": [{"kind": "Pod"}], "kind": "Menu"}"#,
                json!({"items": [], "kind": "Menu"}),
            ),
            (r#"{"items": [{"items": [], "kind": "List"}, 1]}"#, json!({"items": []})),
            (r#"{"kind": "List", "items": null}"#, json!({"kind": "List", "items": null})),
        ] {
            assert_eq!(read(text), [expected], "{text}");
        }
        let text = r#"{"kind": "List", "items": [1, {"items": "none"}, [{"items": []}]]}"#;
        let expected = [json!(1), json!({"items": "none"}), json!([{"items": []}])];
        assert_eq!(read(text), expected);
    }

    #[test]
    fn a_document_that_is_no_object_has_none() {
        for value in [json!([1, -1, "x"]), json!(null), json!("text")] {
            assert_eq!(serde_json::from_value::<Lean>(value).unwrap(), Lean(None));
        }
    }
}
