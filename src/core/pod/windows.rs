//! Whether a pod can only run on Windows.

use serde::Deserialize;

use super::PodView;
use crate::text::Text;

/// The node labels that name the operating system; the second one is the old name.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Affinity<'a> {
    #[serde(borrow, default)]
    node_affinity: Option<NodeAffinity<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeAffinity<'a> {
    #[serde(borrow, default, rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<NodeSelector<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSelector<'a> {
    #[serde(borrow, default)]
    node_selector_terms: Option<Vec<NodeSelectorTerm<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSelectorTerm<'a> {
    #[serde(borrow, default)]
    match_expressions: Option<Vec<MatchExpression<'a>>>,
}

#[derive(Debug, Deserialize)]
struct MatchExpression<'a> {
    #[serde(borrow, default)]
    key: Text<'a>,
    #[serde(borrow, default)]
    operator: Text<'a>,
    #[serde(borrow, default)]
    values: Option<Vec<Text<'a>>>,
}

impl PodView<'_> {
    /// Whether the pod can only run on Windows: by its os field, node selector, or by every one of
    /// the alternatives that its required node affinity allows.
    pub(crate) fn is_windows(&self) -> bool {
        let Some(spec) = &self.spec else { return false };
        if spec.os.as_ref().is_some_and(|os| *os.name == *"windows") {
            return true;
        }
        let selects_windows = spec.node_selector.as_ref().is_some_and(|selector| {
            OS_LABELS.iter().any(|label| {
                selector.get(*label).and_then(|value| value.as_deref()) == Some("windows")
            })
        });
        selects_windows || spec.affinity.as_ref().is_some_and(Affinity::requires_windows)
    }
}

impl Affinity<'_> {
    fn requires_windows(&self) -> bool {
        let terms = self
            .node_affinity
            .as_ref()
            .and_then(|affinity| affinity.required.as_ref())
            .and_then(|required| required.node_selector_terms.as_deref())
            .unwrap_or_default();
        // Terms are alternatives, so one that allows Linux is enough.
        !terms.is_empty() && terms.iter().all(NodeSelectorTerm::requires_windows)
    }
}

impl NodeSelectorTerm<'_> {
    fn requires_windows(&self) -> bool {
        self.match_expressions.iter().flatten().any(|expression| {
            OS_LABELS.contains(&&*expression.key)
                && *expression.operator == *"In"
                && expression.values.as_ref().is_some_and(|values| {
                    !values.is_empty() && values.iter().all(|value| **value == *"windows")
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_is_recognised_wherever_a_pod_can_say_it() {
        let term = |os: &str| {
            format!(
                r#"{{"matchExpressions":[{{"key":"kubernetes.io/os","operator":"In","values":["{os}"]}}]}}"#
            )
        };
        let affinity = |terms: &str| {
            format!(
                r#"{{"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{terms}]}}}}}}}}"#
            )
        };
        let cases = [
            (r#"{"os":{"name":"windows"}}"#.to_owned(), true),
            (r#"{"os":{"name":"linux"}}"#.to_owned(), false),
            (r#"{"nodeSelector":{"kubernetes.io/os":"windows"}}"#.to_owned(), true),
            (r#"{"nodeSelector":{"beta.kubernetes.io/os":"windows"}}"#.to_owned(), true),
            (affinity(&term("windows")), true),
            (affinity(&format!("{},{}", term("windows"), term("linux"))), false),
            (affinity(""), false),
        ];
        for (spec, expected) in cases {
            let metadata = r#"{"labels":{"aadpodidbinding":"db"}}"#;
            let json = format!(r#"{{"metadata":{metadata},"spec":{spec}}}"#);
            assert_eq!(PodView::read(&json).unwrap().is_windows(), expected, "{spec}");
        }
    }
}
