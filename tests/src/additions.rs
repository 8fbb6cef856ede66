//! What a patch may do to a pod: add, and the design's named exceptions.

use imdslet_core::names::{IDENTITIES, VERSION};
use serde_json::Value;

/// Checks that everything of `before` is still in `after`.
///
/// Objects keep their keys, lists keep their items in order and without gaps, all other values
/// stay. A null is an absence. The exceptions (invariant 4): our own two annotations, the values of
/// `NO_PROXY` and `no_proxy`, which may get longer at the end, and the class of a Secrets Store
/// volume, which may be a derived one.
///
/// # Errors
///
/// The path of the first value that is not there any more.
pub fn only_adds(before: &Value, after: &Value) -> Result<(), String> {
    check("", before, after)
}

fn check(path: &str, before: &Value, after: &Value) -> Result<(), String> {
    match (before, after) {
        (Value::Null, _) => Ok(()),
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let path = format!("{path}/{key}");
                let Some(now) = new.get(key) else { return Err(format!("{path} is gone")) };
                let is_ours = [IDENTITIES, VERSION].contains(&key.as_str())
                    && path == format!("/metadata/annotations/{key}");
                let is_exception = is_ours
                    || is_extended_list(&path, before, key, now)
                    || is_derived_class(&path, value, now);
                if !is_exception {
                    check(&path, value, now)?;
                }
            }
            Ok(())
        }
        (Value::Array(old), Value::Array(new)) => {
            let more = new.len().checked_sub(old.len());
            let more = more.ok_or_else(|| format!("{path} has fewer items"))?;
            let same_from = |start: usize| {
                let items = new.iter().skip(start);
                old.iter().zip(items).try_for_each(|(old, new)| check(path, old, new))
            };
            // What is new stands before all of the old ones, or after.
            same_from(more).or_else(|_| same_from(0))
        }
        _ if before == after => Ok(()),
        _ => Err(format!("{path} was {before} and is {after}")),
    }
}

/// Whether the class of a volume has become one that is derived from some class.
fn is_derived_class(path: &str, class: &Value, now: &Value) -> bool {
    let is_class = path.starts_with("/spec/volumes/csi/")
        && path.ends_with("/volumeAttributes/secretProviderClass");
    let hash = now.as_str().and_then(|now| Some(now.rsplit_once(".imdslet.")?.1));
    is_class
        && class.is_string()
        && hash.is_some_and(|hash| hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_extended_list(path: &str, variable: &Value, key: &str, now: &Value) -> bool {
    let text = |key: &str| variable.get(key).and_then(Value::as_str);
    let is_list = path.contains("/env/") && matches!(text("name"), Some("NO_PROXY" | "no_proxy"));
    // Commas and spaces at the end are no entries.
    let old = text("value").map(|old| old.trim_end().trim_end_matches(','));
    is_list
        && key == "value"
        && old.zip(now.as_str()).is_some_and(|(old, now)| now.starts_with(old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_gone_or_changed_is_named_by_its_path() {
        let pod = json!({"a": null, "b": [{"c": 1}, "x"], "d~/": {"e": "f"}});
        let cases = [
            (json!({"a": [1], "b": [{"c": 1, "n": 2}, "x"], "d~/": {"e": "f"}}), Ok(())),
            (json!({"b": [0, {"c": 1}, "x"], "d~/": {"e": "f"}}), Err("/a is gone")),
            (json!({"a": 1, "b": [0, {"c": 1}, "x"], "d~/": {"e": "f"}}), Ok(())),
            (json!({"a": 1, "b": [{"c": 1}, "x", 0], "d~/": {"e": "f"}}), Ok(())),
            (json!({"a": 1, "b": [{"c": 1}], "d~/": {"e": "f"}}), Err("/b has fewer items")),
            (
                json!({"a": 1, "b": [{"c": 1}, "x"], "d~/": {"e": "g"}}),
                Err("/d~//e was \"f\" and is \"g\""),
            ),
        ];
        for (after, expected) in cases {
            assert_eq!(only_adds(&pod, &after), expected.map_err(str::to_owned), "{after}");
        }
    }

    #[test]
    fn the_exceptions_are_the_designs() {
        let pod = |ours: &str, theirs: &str, name: &str, list: &str| {
            json!({
                "metadata": {"annotations": {"imdslet.dev/version": ours, "a": theirs}},
                "spec": {"containers": [{"env": [{"name": name, "value": list}]}]},
            })
        };
        let before = pod("1", "1", "NO_PROXY", "a,");
        assert_eq!(only_adds(&before, &pod("2", "1", "NO_PROXY", "a,b")), Ok(()));
        assert!(only_adds(&before, &pod("1", "2", "NO_PROXY", "a,")).is_err());
        assert!(only_adds(&before, &pod("1", "1", "NO_PROXY", "b")).is_err());
        let before = pod("1", "1", "PROXY", "a");
        assert!(only_adds(&before, &pod("1", "1", "PROXY", "a,b")).is_err());
        let pod = |class: &str, other: &str| {
            let attributes = json!({"secretProviderClass": class, "other": other});
            json!({"spec": {"volumes": [{"csi": {"volumeAttributes": attributes}}]}})
        };
        let before = pod("kv", "x");
        assert_eq!(only_adds(&before, &pod("kv.imdslet.0123abcd", "x")), Ok(()));
        assert!(only_adds(&before, &pod("kv.imdslet.0123abcdx", "x")).is_err());
        assert!(only_adds(&before, &pod("other", "x")).is_err());
        assert!(only_adds(&before, &pod("kv", "kv.imdslet.0123abcd")).is_err());
    }
}
