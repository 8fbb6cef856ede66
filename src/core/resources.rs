//! What the sidecar asks of its node. The rules were tried on a real kubelet (1.34).

use serde_json::{Map, Value, json};

use crate::limits::{Amount, LimitRange, quantity_text};
use crate::pod::{Container, PodView, Resources};
use crate::quantity::Quantity;

/// The sidecar's `resources`, by the first rule that fits. `None`: it has none.
///
/// 1. `chosen`, from the annotation, as it is;
/// 2. a pod with resources of its own (pod level) has no room for more: none;
/// 3. a pod that is Guaranteed stays so: requests = limits;
/// 4. where every container has a CPU limit, so has the sidecar, since a ResourceQuota may ask it;
/// 5. the default.
///
/// The amounts of 3 to 5 are moved into the namespace's LimitRanges.
pub(crate) fn sidecar_resources<'a>(
    pod: &PodView<'_>,
    chosen: Option<&Value>,
    limits: impl Iterator<Item = &'a LimitRange>,
) -> Option<Value> {
    if let Some(chosen) = chosen {
        return Some(chosen.clone());
    }
    if pod.spec.as_ref().is_some_and(|spec| spec.resources.is_some()) {
        return None;
    }
    let amount = |request: &str, limit: Option<&str>| Amount {
        request: request.to_owned(),
        limit: limit.map(str::to_owned),
    };
    let containers = || pod.foreign().map(|(_, _, container)| container);
    let (mut cpu, mut memory) = if containers().all(is_guaranteed) {
        (amount("50m", Some("50m")), amount("16Mi", Some("16Mi")))
    } else if containers().all(|container| limit(container, "cpu").is_some()) {
        (amount("5m", Some("100m")), amount("16Mi", Some("16Mi")))
    } else {
        (amount("5m", None), amount("16Mi", Some("16Mi")))
    };
    for limits in limits {
        limits.fit("cpu", &mut cpu);
        limits.fit("memory", &mut memory);
    }
    Some(to_json(&cpu, &memory))
}

/// Reads the annotation `imdslet.dev/resources`: `limits` and `requests` of quantities.
///
/// `Err` says what is wrong with it.
pub(crate) fn parse_resources(text: &str) -> Result<Value, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let Some(map) = value.as_object() else {
        return Err("must be a JSON object with `requests` and `limits`".to_owned());
    };
    for (key, amounts) in map {
        if key != "limits" && key != "requests" {
            return Err(format!("has `{key}`; only `requests` and `limits` are allowed"));
        }
        let Some(amounts) = amounts.as_object() else {
            return Err(format!("has a `{key}` that is no object of quantities"));
        };
        for (resource, amount) in amounts {
            let text = quantity_text(amount).unwrap_or_default();
            if Quantity::parse(&text).is_none() {
                return Err(format!("has no quantity such as 16Mi or 50m in {key}.{resource}"));
            }
        }
    }
    Ok(value)
}

fn to_json(cpu: &Amount, memory: &Amount) -> Value {
    let mut limits = Map::new();
    for (resource, amount) in [("cpu", cpu), ("memory", memory)] {
        if let Some(limit) = &amount.limit {
            limits.insert(resource.to_owned(), json!(limit));
        }
    }
    json!({
        "requests": {"cpu": cpu.request, "memory": memory.request},
        "limits": limits,
    })
}

/// Whether a container has limits for CPU and memory and requests no less.
fn is_guaranteed(container: &Container<'_>) -> bool {
    ["cpu", "memory"].into_iter().all(|resource| {
        let Some(limit) = limit(container, resource) else { return false };
        let request = container.resources.as_ref().and_then(|r| amount(&r.requests, resource));
        // A request that is left out is set to the limit by the API server.
        request.is_none_or(|request| {
            Quantity::compare(&request, &limit) == Some(std::cmp::Ordering::Equal)
        })
    })
}

fn limit(container: &Container<'_>, resource: &str) -> Option<String> {
    container.resources.as_ref().and_then(|r: &Resources<'_>| amount(&r.limits, resource))
}

type Amounts<'a> = Option<
    std::collections::BTreeMap<crate::text::Text<'a>, Option<&'a serde_json::value::RawValue>>,
>;

fn amount(amounts: &Amounts<'_>, resource: &str) -> Option<String> {
    let raw = (*amounts.as_ref()?.get(resource)?)?.get();
    quantity_text(&serde_json::from_str(raw).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(pod: &Value) -> Option<String> {
        let text = pod.to_string();
        let pod = PodView::read(&text).unwrap();
        sidecar_resources(&pod, None, std::iter::empty()).map(|value| value.to_string())
    }

    #[test]
    fn the_quality_of_service_of_a_pod_is_kept() {
        let guaranteed =
            json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "1000m"}});
        let limited = json!({"limits": {"cpu": "1"}});
        let pod = |first: &Value, second: &Value| {
            json!({"spec": {
                "containers": [{"name": "a", "resources": first}],
                "initContainers": [{"name": "b", "resources": second}],
            }})
        };
        let same =
            r#"{"requests":{"cpu":"50m","memory":"16Mi"},"limits":{"cpu":"50m","memory":"16Mi"}}"#;
        let with_limit =
            r#"{"requests":{"cpu":"5m","memory":"16Mi"},"limits":{"cpu":"100m","memory":"16Mi"}}"#;
        let default = r#"{"requests":{"cpu":"5m","memory":"16Mi"},"limits":{"memory":"16Mi"}}"#;
        let cases = [
            (pod(&guaranteed, &guaranteed), Some(same)),
            (pod(&guaranteed, &limited), Some(with_limit)),
            (pod(&limited, &json!({})), Some(default)),
            (pod(&json!(null), &json!(null)), Some(default)),
            (json!({"spec": {"resources": {"limits": {"cpu": "1"}}, "containers": []}}), None),
        ];
        for (pod, expected) in cases {
            let expected: Option<Value> = expected.map(|text| serde_json::from_str(text).unwrap());
            let got: Option<Value> =
                resources(&pod).map(|text| serde_json::from_str(&text).unwrap());
            assert_eq!(got, expected, "{pod}");
        }
    }

    #[test]
    fn the_annotation_is_parsed_strictly() {
        assert!(parse_resources(r#"{"requests":{"cpu":"5m","memory":16777216}}"#).is_ok());
        let cases = [
            ("lots", "is not JSON: expected value at line 1 column 1"),
            ("[]", "must be a JSON object with `requests` and `limits`"),
            (r#"{"limit":{}}"#, "has `limit`; only `requests` and `limits` are allowed"),
            (r#"{"limits":5}"#, "has a `limits` that is no object of quantities"),
            (r#"{"limits":{"cpu":"lots"}}"#, "has no quantity such as 16Mi or 50m in limits.cpu"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_resources(text).unwrap_err(), expected);
        }
    }
}
