//! By what one may think that a pod's programs read none of the variables that imdslet adds. No
//! spec says it for sure: what has none of these hints may know only Azure's address all the same.

use imdslet_core::names::LINK_LOCAL;
use serde_json::Value;

use super::surroundings::containers;
use super::text;

/// Images that ask Azure's own address by its number, by what their source says. Source:
/// aad-pod-identity v1.8.17, `cmd/demo/main.go` and `test/image/identityvalidator`.
const IMAGES: [&str; 2] = ["aad-pod-identity/demo", "aad-pod-identity/identityvalidator"];

/// The first hint that a container gives, in words.
pub(super) fn knows_only_the_address(pod: &Value) -> Option<String> {
    containers(pod).find_map(|container| {
        let name = text(container, "/name");
        let image = text(container, "/image");
        if let Some(known) = IMAGES.iter().find(|known| image.contains(**known)) {
            return Some(format!("container `{name}` has the image …{known}"));
        }
        let place = ["command", "args", "env"].into_iter().find(|field| {
            let values = container.get(field).and_then(Value::as_array).into_iter().flatten();
            { values }.any(|value| {
                let said = value.as_str().unwrap_or_else(|| text(value, "/value"));
                said.contains(LINK_LOCAL) && !is_proxy_exception(text(value, "/name"))
            })
        })?;
        Some(format!("container `{name}` has the metadata service's address in its {place}"))
    })
}

/// `NO_PROXY` has the address so that it is asked for directly.
fn is_proxy_exception(variable: &str) -> bool {
    variable.eq_ignore_ascii_case("NO_PROXY")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_spec_tells_of_its_programs() {
        let address = "the metadata service's address in its";
        for (container, expected) in [
            (json!({"command": ["curl", "http://169.254.169.254/metadata"]}), Some("command")),
            (json!({"args": ["-c", "wget 169.254.169.254"]}), Some("args")),
            (json!({"env": [{"name": "URL", "value": "http://169.254.169.254"}]}), Some("env")),
            (json!({"env": [{"name": "NO_PROXY", "value": "169.254.169.254"}]}), None),
            (json!({"env": [{"name": "no_proxy", "value": "10.0.0.1,169.254.169.254"}]}), None),
            (json!({"env": [{"name": "URL"}], "args": ["serve"]}), None),
        ] {
            let mut container = container;
            container["name"] = json!("app");
            let pod = json!({"spec": {"containers": [container]}});
            let expected = expected.map(|place| format!("container `app` has {address} {place}"));
            assert_eq!(knows_only_the_address(&pod), expected, "{pod}");
        }
        let image = "mcr.microsoft.com/oss/azure/aad-pod-identity/demo:v1.8";
        let pod = json!({"spec": {"initContainers": [{"name": "first", "image": image}]}});
        let expected = "container `first` has the image …aad-pod-identity/demo";
        assert_eq!(knows_only_the_address(&pod).as_deref(), Some(expected));
    }
}
