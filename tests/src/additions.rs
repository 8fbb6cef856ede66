//! What a patch may do to a pod: add, and the design's named exceptions.

use imdslet_core::names::{IDENTITIES, VERSION};
use serde_json::Value;

/// Checks that everything of `before` is still in `after`.
///
/// Objects keep their keys, lists keep their items in order and without gaps, all other values
/// stay. A null is an absence. The exceptions (invariant 4): our own two annotations, and the
/// values of `NO_PROXY` and `no_proxy`, which may get longer at the end.
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
                if !is_ours && !is_extended_list(&path, before, key, now) {
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
    }
}
