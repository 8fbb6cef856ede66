//! The CRD of a kind, asked for when something is missing.

use std::collections::BTreeMap;

use imdslet_core::hold::Definition;
use imdslet_core::names::LET_GO;
use kube::Client;
use kube::api::{GetParams, Request};
use serde::Deserialize;
use tokio::time::timeout;

use crate::config::DEFINITION_DEADLINE;
use crate::problem::{Ask, Problem};

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A CRD without its schema.
#[derive(Deserialize)]
struct Partial {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Option<String>,
    /// As text, as it is compared.
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

/// What the API server says of the CRD `name`.
///
/// # Errors
///
/// [`Problem`], if it could not be asked; without the right to, it is
/// [`Definition::Unreadable`].
pub(super) async fn get(client: &Client, name: &'static str) -> Result<Definition, Problem> {
    let ask = Ask {
        verb: "get",
        group: "apiextensions.k8s.io",
        resource: "customresourcedefinitions",
        name: Some(name),
    };
    let request = Request::new(PATH).get_metadata(name, &GetParams::default());
    let request = request.map_err(|error| Problem::Unanswered(error.to_string()))?;
    match timeout(DEFINITION_DEADLINE, client.request::<Partial>(request)).await {
        Ok(Ok(Partial { metadata })) => Ok(Definition::Present {
            is_ending: metadata.deletion_timestamp.is_some(),
            lets_go: metadata
                .annotations
                .is_some_and(|all| all.get(LET_GO).is_some_and(|value| value == "true")),
            created: metadata.creation_timestamp.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
        }),
        Ok(Err(error)) => match Problem::of(ask, &error) {
            Problem::Refused { code: 404, .. } => Ok(Definition::Missing),
            problem @ Problem::Forbidden { .. } => {
                let reason = problem.reason();
                tracing::warn!(%problem, reason, "cannot tell a lost CRD from deleted objects");
                Ok(Definition::Unreadable)
            }
            problem => Err(problem),
        },
        Err(_) => Err(Problem::late(DEFINITION_DEADLINE)),
    }
}
