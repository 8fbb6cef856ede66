//! What the sidecar asks of its node. The rules were tried on a real kubelet (1.34).

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use crate::limits::{Amount, LimitRange, quantity_text};
use crate::pod::{Container, PodView, Resources};
use crate::quantity::Quantity;

/// The least limit of memory for every sidecar of a cluster. One takes 3 MiB (`docs/performance.md`);
/// what is less is a slip such as `16` for `16Mi`, and no labelled pod would start.
const LEAST_MEMORY: &str = "8Mi";

/// What an operator wants sidecars to ask of their nodes, where pod and namespace say nothing. A
/// resource that is not named here has the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preset {
    cpu: Option<Amount>,
    memory: Option<Amount>,
}

impl Preset {
    /// Reads `limits` and `requests` of CPU and memory, as JSON.
    ///
    /// `Err` says what is wrong with it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let value = parse_resources(text)?;
        let named = ["requests", "limits"].into_iter().filter_map(|key| value.get(key));
        let named = named.filter_map(Value::as_object).flat_map(Map::keys);
        if let Some(other) =
            named.into_iter().find(|name| !["cpu", "memory"].contains(&name.as_str()))
        {
            return Err(format!("has `{other}`; only `cpu` and `memory` are allowed"));
        }
        let amount = |resource: &str| {
            let of = |key: &str| value.get(key)?.get(resource).and_then(quantity_text);
            let (request, limit) = (of("requests"), of("limits"));
            // A request that is left out is set to the limit by the API server.
            let request = request.or_else(|| limit.clone())?;
            Some(Amount { request, limit })
        };
        let preset = Self { cpu: amount("cpu"), memory: amount("memory") };
        for (resource, amount) in [("cpu", &preset.cpu), ("memory", &preset.memory)] {
            let Some(Amount { request, limit: Some(limit) }) = amount else { continue };
            if Quantity::compare(request, limit) == Some(Ordering::Greater) {
                return Err(format!("has a request of {resource} above its limit"));
            }
            if resource == "memory"
                && Quantity::compare(limit, LEAST_MEMORY) == Some(Ordering::Less)
            {
                return Err(format!("has a limit of memory below {LEAST_MEMORY}"));
            }
        }
        Ok(preset)
    }
}

/// The sidecar's `resources`, by the first rule that fits. `None`: it has none.
///
/// 1. `chosen`, from the annotation, as it is;
/// 2. a pod with resources of its own (pod level) has no room for more: none;
/// 3. a pod that is Guaranteed stays so: requests = limits;
/// 4. where every container has a CPU limit, so has the sidecar, since a ResourceQuota may ask it;
/// 5. `preset`, and for what it does not name the default.
///
/// 3 and 4 add to `preset` what it leaves out, and take nothing from it. The amounts of 3 to 5 are
/// moved into the namespace's LimitRanges.
pub(crate) fn sidecar_resources<'a>(
    pod: &PodView<'_>,
    chosen: Option<&Value>,
    preset: &Preset,
    limits: impl Iterator<Item = &'a LimitRange>,
) -> Option<Value> {
    if let Some(chosen) = chosen {
        return Some(chosen.clone());
    }
    if pod.spec.as_ref().is_some_and(|spec| spec.resources.is_some()) {
        return None;
    }
    let amount = |preset: &Option<Amount>, request: &str, limit: Option<&str>| {
        preset.clone().unwrap_or_else(|| Amount {
            request: request.to_owned(),
            limit: limit.map(str::to_owned),
        })
    };
    let mut cpu = amount(&preset.cpu, "5m", None);
    let mut memory = amount(&preset.memory, "16Mi", Some("16Mi"));
    let containers = || pod.foreign().map(|(_, _, container)| container);
    if containers().all(is_guaranteed) {
        cpu.guarantee("50m");
        memory.guarantee("16Mi");
    } else if containers().all(|container| limit(container, "cpu").is_some()) {
        cpu.cap("100m");
    }
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
        request.is_none_or(|request| Quantity::compare(&request, &limit) == Some(Ordering::Equal))
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
        preset_resources(pod, &Preset::default()).map(|value| value.to_string())
    }

    fn preset_resources(pod: &Value, preset: &Preset) -> Option<Value> {
        let text = pod.to_string();
        let pod = PodView::read(&text).unwrap();
        sidecar_resources(&pod, None, preset, std::iter::empty())
    }

    /// (preset, in a pod without limits, with CPU limits everywhere, Guaranteed), each as
    /// `CPU request/limit memory request/limit`.
    #[test]
    fn a_preset_is_kept_and_so_is_the_quality_of_service_of_a_pod() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        let pods = [
            pod(json!({})),
            pod(json!({"limits": {"cpu": "1"}})),
            pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
        ];
        let cases = [
            (json!({}), ["5m/- 16Mi/16Mi", "5m/100m 16Mi/16Mi", "50m/50m 16Mi/16Mi"]),
            (
                json!({"limits": {"memory": "32Mi"}}),
                ["5m/- 32Mi/32Mi", "5m/100m 32Mi/32Mi", "50m/50m 32Mi/32Mi"],
            ),
            (
                json!({"requests": {"memory": "8Mi"}, "limits": {"memory": "32Mi", "cpu": "20m"}}),
                ["20m/20m 8Mi/32Mi", "20m/20m 8Mi/32Mi", "20m/20m 32Mi/32Mi"],
            ),
            (
                json!({"requests": {"cpu": "200m", "memory": "24Mi"}}),
                ["200m/- 24Mi/-", "200m/200m 24Mi/-", "200m/200m 24Mi/24Mi"],
            ),
        ];
        for (preset, expected) in cases {
            let preset = Preset::read(&preset.to_string()).unwrap();
            for (pod, expected) in pods.iter().zip(expected) {
                let value = preset_resources(pod, &preset).unwrap();
                let one =
                    |key: &str, name: &str| value[key][name].as_str().unwrap_or("-").to_owned();
                let both = |name| format!("{}/{}", one("requests", name), one("limits", name));
                let got = format!("{} {}", both("cpu"), both("memory"));
                assert_eq!(got, expected, "{preset:?} in {pod}");
            }
        }
    }

    #[test]
    fn a_preset_that_would_keep_every_pod_from_starting_is_refused() {
        let cases = [
            ("5m", "is not JSON: trailing characters at line 1 column 2"),
            (r#"{"limits":{"disk":"1Gi"}}"#, "has `disk`; only `cpu` and `memory` are allowed"),
            (
                r#"{"limits":{"cpu":"5m"},"requests":{"cpu":1}}"#,
                "has a request of cpu above its limit",
            ),
            (r#"{"limits":{"memory":16}}"#, "has a limit of memory below 8Mi"),
            (r#"{"limits":{"memory":"16m"}}"#, "has a limit of memory below 8Mi"),
        ];
        for (text, expected) in cases {
            assert_eq!(Preset::read(text).unwrap_err(), expected, "{text}");
        }
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
