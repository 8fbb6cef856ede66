//! What the authors of a pod and of its namespace have chosen, by annotations.
//!
//! The pod's word counts first, then its namespace's, then the installation's settings.

use serde_json::Value;

use crate::arguments::Mode;
use crate::names::{ENDPOINT, PORT, RESOURCES, SIDECAR_MODE, SKIP_CONTAINERS, WHEN_UNBOUND};
use crate::objects::{NamespaceSettings, list_of};
use crate::pod::PodView;
use crate::resources::parse_resources;
use crate::settings::{Endpoint, PORT_RANGE, Settings, WhenUnbound, Word, parse_port};

/// The annotations that a person may set on a pod or a namespace.
pub(crate) const KEYS: [&str; 6] =
    [ENDPOINT, WHEN_UNBOUND, SKIP_CONTAINERS, RESOURCES, PORT, SIDECAR_MODE];

/// What was chosen for one pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choices {
    pub(crate) endpoint: Endpoint,
    pub(crate) when_unbound: WhenUnbound,
    pub(crate) skip_containers: Vec<String>,
    pub(crate) resources: Option<Value>,
    pub(crate) port: u16,
    pub(crate) sidecar: Mode,
}

/// An annotation whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: metadata.annotations[{key}] {problem}")]
pub struct AnnotationError {
    /// `pod` or `Namespace NAME`.
    pub object: String,
    /// The annotation.
    pub key: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Choices {
    /// Reads the annotations strictly: a value that is not understood is an error and no default.
    pub(crate) fn read(
        pod: &PodView<'_>,
        namespace: (&str, Option<&NamespaceSettings>),
        settings: &Settings,
    ) -> Result<Self, AnnotationError> {
        let given = Annotations { pod, namespace };
        Ok(Self {
            endpoint: given.word(ENDPOINT, settings.endpoint)?,
            when_unbound: given.word(WHEN_UNBOUND, settings.when_unbound)?,
            sidecar: given.word(SIDECAR_MODE, settings.sidecar)?,
            skip_containers: given
                .read(SKIP_CONTAINERS, |text| Ok(list_of(text).collect()))?
                .unwrap_or_default(),
            resources: given.read(RESOURCES, parse_resources)?,
            port: given
                .read(PORT, |text| {
                    parse_port(text).ok_or_else(|| format!("is `{text}`; it must be {PORT_RANGE}"))
                })?
                .unwrap_or(settings.port),
        })
    }
}

struct Annotations<'a> {
    pod: &'a PodView<'a>,
    namespace: (&'a str, Option<&'a NamespaceSettings>),
}

impl Annotations<'_> {
    fn word<T: Word>(&self, key: &'static str, default: T) -> Result<T, AnnotationError> {
        let read =
            |text: &str| T::parse(text).map_err(|words| format!("is `{text}`; it must be {words}"));
        Ok(self.read(key, read)?.unwrap_or(default))
    }

    fn read<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, AnnotationError> {
        let (name, settings) = self.namespace;
        let (object, text) = if let Some(text) = self.pod.annotation(key) {
            ("pod".to_owned(), text)
        } else if let Some(text) = settings.and_then(|settings| settings.annotations.get(key)) {
            (format!("Namespace {name}"), text.as_str())
        } else {
            return Ok(None);
        };
        parse(text).map(Some).map_err(|problem| AnnotationError { object, key, problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Given;
    use serde_json::json;

    fn choices(pod: &Value, namespace: &[(&str, &str)]) -> Result<Choices, String> {
        let text = json!({"metadata": {"annotations": pod}}).to_string();
        let settings = NamespaceSettings {
            annotations: namespace
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            is_disabled: false,
        };
        Choices::read(
            &PodView::read(&text).unwrap(),
            ("web", Some(&settings)),
            &Settings::read(&Given::new()).unwrap(),
        )
        .map_err(|error| error.to_string())
    }

    #[test]
    fn the_pod_speaks_before_its_namespace_and_that_before_the_settings() {
        let choice = choices(
            &json!({PORT: "9000", SKIP_CONTAINERS: "a; b;"}),
            &[(PORT, "9001"), (SIDECAR_MODE, "container")],
        );
        let choice = choice.unwrap();
        assert_eq!(choice.port, 9000);
        assert_eq!(choice.sidecar, Mode::Container);
        assert_eq!(choice.endpoint, Endpoint::Env);
        assert_eq!(choice.skip_containers, ["a", "b"]);
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_values_allowed() {
        let cases = [
            (ENDPOINT, "ENV", "is `ENV`; it must be `env` or `link-local`"),
            (WHEN_UNBOUND, "", "is ``; it must be `wait` or `deny`"),
            (SIDECAR_MODE, "true", "is `true`; it must be `native` or `container`"),
            (PORT, "80", "is `80`; it must be a port from 1024 to 65535"),
            (PORT, "2579 ", "is `2579 `; it must be a port from 1024 to 65535"),
            (RESOURCES, "[]", "must be a JSON object with `requests` and `limits`"),
        ];
        for (key, value, problem) in cases {
            assert_eq!(
                choices(&json!({key: value}), &[]).unwrap_err(),
                format!("pod: metadata.annotations[{key}] {problem}")
            );
            assert_eq!(
                choices(&json!({}), &[(key, value)]).unwrap_err(),
                format!("Namespace web: metadata.annotations[{key}] {problem}")
            );
        }
    }
}
