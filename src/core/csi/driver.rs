//! What the CSIDriver object must say so that the provider gets the pod's token.

use serde_json::{Value, json};

use crate::names::DRIVER;

/// The audience of the service account token by which the Azure provider asks Entra ID, in every
/// cloud (secrets-store-csi-driver-provider-azure v1.8.2).
pub const AUDIENCE: &str = "api://AzureADTokenExchange";

/// What keeps the provider from a pod's token. Each message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverFault {
    /// There is no such object.
    #[error(
        "CSIDriver {DRIVER} does not exist, so no Secrets Store volume is mounted; install \
         secrets-store-csi-driver"
    )]
    Missing,
    /// The kubelet is not told to hand out a token.
    #[error(
        "CSIDriver {DRIVER} has no spec.tokenRequests for {AUDIENCE}, so the Azure provider gets no \
         token of a pod's service account and mounts nothing; install secrets-store-csi-driver with \
         --set 'tokenRequests[0].audience={AUDIENCE}', or: kubectl patch csidriver {DRIVER} --type \
         merge -p '{{\"spec\":{{\"tokenRequests\":{0}}}}}'"
    )]
    NoTokenRequest(
        /// What `spec.tokenRequests` should be: what is there, and what is missing.
        Value,
    ),
}

impl DriverFault {
    /// What is wrong with the CSIDriver object, `None` being that there is none.
    #[must_use]
    pub fn of(driver: Option<&Value>) -> Option<Self> {
        let Some(driver) = driver else { return Some(Self::Missing) };
        let requests = driver.pointer("/spec/tokenRequests").and_then(Value::as_array);
        let mut requests = requests.cloned().unwrap_or_default();
        if requests.iter().any(|one| one.get("audience").is_some_and(|one| one == AUDIENCE)) {
            return None;
        }
        requests.push(json!({"audience": AUDIENCE}));
        Some(Self::NoTokenRequest(Value::Array(requests)))
    }

    /// Stable name for logs and events.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "CSIDriverMissing",
            Self::NoTokenRequest(_) => "NoTokenRequest",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_must_be_told_to_hand_out_a_token_for_entra_id() {
        let driver = |requests: Value| json!({"spec": {"tokenRequests": requests}});
        let ours = r#"{"audience":"api://AzureADTokenExchange"}"#;
        for (driver, expected) in [
            (None, Some("CSIDriverMissing install secrets-store-csi-driver".to_owned())),
            (Some(json!({"spec": {}})), Some(format!("NoTokenRequest [{ours}]}}}}'"))),
            (Some(driver(json!(null))), Some(format!("NoTokenRequest [{ours}]}}}}'"))),
            (
                Some(driver(json!([{"audience": "x"}]))),
                Some(format!(r#"NoTokenRequest [{{"audience":"x"}},{ours}]}}}}'"#)),
            ),
            (Some(driver(json!([{"audience": "x"}, {"audience": AUDIENCE}]))), None),
        ] {
            let fault = DriverFault::of(driver.as_ref());
            let told = fault.map(|fault| (fault.reason(), fault.to_string()));
            match (told, expected) {
                (None, None) => {}
                (Some((reason, text)), Some(expected)) => {
                    let (expected_reason, end) = expected.split_once(' ').unwrap();
                    assert_eq!(reason, expected_reason);
                    assert!(text.ends_with(end), "{text}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
