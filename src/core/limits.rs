//! What a LimitRange allows a container.

use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// The limits for containers of a LimitRange, by resource.
///
/// Its `default` and `defaultRequest` are not kept: they fill what a container leaves out, which of the
/// sidecar is at most its CPU limit, and lie within the bounds themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitRange {
    bounds: Vec<Bounds>,
}

/// The bounds of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bounds {
    resource: String,
    min: Option<String>,
    max: Option<String>,
    max_ratio: Option<String>,
}

/// Request and limit of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) request: String,
    pub(crate) limit: Option<String>,
}

impl Amount {
    /// Has a limit, `at_least` where there is none yet, and a request as large.
    pub(crate) fn guarantee(&mut self, at_least: &str) {
        self.cap(at_least);
        if let Some(limit) = &self.limit {
            self.request.clone_from(limit);
        }
    }

    /// Has a limit, `at_least` and no less than the request where there is none yet.
    pub(crate) fn cap(&mut self, at_least: &str) {
        let limit = self.limit.get_or_insert_with(|| at_least.to_owned());
        raise(limit, &self.request);
    }
}

impl LimitRange {
    pub(crate) fn read(value: &Value) -> Self {
        let items = value.pointer("/spec/limits").and_then(Value::as_array);
        let containers = items
            .into_iter()
            .flatten()
            .filter(|item| item.get("type").and_then(Value::as_str) == Some("Container"));
        Self { bounds: containers.flat_map(bounds_of).collect() }
    }

    /// Moves `amount` of `resource` as far as this LimitRange demands, with the LimitRange's own
    /// numbers, so that nothing is rounded.
    pub(crate) fn fit(&self, resource: &str, amount: &mut Amount) {
        for bounds in self.bounds.iter().filter(|bounds| bounds.resource == resource) {
            if let Some(min) = &bounds.min {
                raise(&mut amount.request, min);
                if let Some(limit) = &mut amount.limit {
                    raise(limit, min);
                }
            }
            if let Some(max) = &bounds.max {
                // A maximum demands a limit, be it as large as the maximum.
                let limit = amount.limit.get_or_insert_with(|| max.clone());
                lower(limit, max);
                lower(&mut amount.request, max);
            }
            if let Some(ratio) = &bounds.max_ratio {
                // A ratio demands both; equal ones satisfy every ratio.
                let limit = amount.limit.get_or_insert_with(|| amount.request.clone());
                if Quantity::exceeds(limit, &amount.request, ratio) == Some(true) {
                    amount.request.clone_from(limit);
                }
            }
        }
    }
}

fn raise(amount: &mut String, min: &str) {
    if Quantity::compare(amount, min) == Some(std::cmp::Ordering::Less) {
        min.clone_into(amount);
    }
}

fn lower(amount: &mut String, max: &str) {
    if Quantity::compare(amount, max) == Some(std::cmp::Ordering::Greater) {
        max.clone_into(amount);
    }
}

fn bounds_of(item: &Value) -> Vec<Bounds> {
    let quantities = |key: &str| item.get(key).and_then(Value::as_object);
    let (min, max) = (quantities("min"), quantities("max"));
    let ratio = quantities("maxLimitRequestRatio");
    let bound = |map: Option<&Map<String, Value>>, resource: &str| {
        map?.get(resource).and_then(quantity_text)
    };
    ["cpu", "memory"]
        .into_iter()
        .map(|resource| Bounds {
            resource: resource.to_owned(),
            min: bound(min, resource),
            max: bound(max, resource),
            max_ratio: bound(ratio, resource),
        })
        .collect()
}

/// A quantity is written as a string or as a number.
pub(crate) fn quantity_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fitted(limits: &Value, request: &str, limit: Option<&str>) -> (String, Option<String>) {
        let range = LimitRange::read(&json!({"spec": {"limits": [limits]}}));
        let mut amount = Amount { request: request.to_owned(), limit: limit.map(str::to_owned) };
        range.fit("cpu", &mut amount);
        (amount.request, amount.limit)
    }

    #[test]
    fn the_sidecar_is_moved_into_the_range_and_no_further() {
        let container = |key: &str, value: &str| json!({"type": "Container", key: {"cpu": value}});
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            (container("min", "50m"), "5m", None, ("50m".to_owned(), None)),
            (container("min", "1m"), "5m", None, ("5m".to_owned(), None)),
            (container("min", "200m"), "5m", Some("100m"), ("200m".to_owned(), some("200m"))),
            (container("max", "50m"), "5m", Some("100m"), ("5m".to_owned(), some("50m"))),
            (container("max", "1"), "5m", None, ("5m".to_owned(), some("1"))),
            (container("max", "2m"), "5m", None, ("2m".to_owned(), some("2m"))),
            (
                container("maxLimitRequestRatio", "10"),
                "5m",
                Some("100m"),
                ("100m".to_owned(), some("100m")),
            ),
            (
                container("maxLimitRequestRatio", "20"),
                "5m",
                Some("100m"),
                ("5m".to_owned(), some("100m")),
            ),
            (container("maxLimitRequestRatio", "2"), "5m", None, ("5m".to_owned(), some("5m"))),
            (json!({"type": "Pod", "min": {"cpu": "1"}}), "5m", None, ("5m".to_owned(), None)),
        ];
        for (limits, request, limit, expected) in cases {
            assert_eq!(fitted(&limits, request, limit), expected, "{limits}");
        }
    }
}
