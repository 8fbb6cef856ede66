//! Type 0 with `imdslet.dev/source: managed`: the metadata service of the node.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use azure_core::http::Url;
use http::StatusCode;
use imdslet_core::arguments::ServeArgs;
use imdslet_core::contract::PodIdentity;
use imdslet_core::names::{IMDS_PATH, LINK_LOCAL};
use serde::Deserialize;
use serde_json::Value;

use super::Wanted;
use super::tries::until;
use crate::config::FETCH_DEADLINE;
use crate::fault::{Fault, Reply};
use crate::resource::Resource;
use crate::secret::Secret;
use crate::source::{Fetched, Received};
use crate::transport::{Get, NoReply};

/// Why the node's metadata service gave no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeFault {
    #[error(
        "identity {identity} has the source `managed`, which a pod in link-local mode cannot have: \
         its {LINK_LOCAL} is imdslet; use imdslet.dev/endpoint: env"
    )]
    Ourselves { identity: String },
    #[error(
        "the node's metadata service cannot be asked ({why}); see whether a NetworkPolicy keeps \
         this pod from {LINK_LOCAL}, and whether its node is a machine of Azure"
    )]
    NoAnswer { why: String },
    #[error("the node's metadata service is not ready (status {status}); it is asked again")]
    NotReady { status: u16, retry_after: Option<Duration> },
    #[error(
        "the node's metadata service refuses identity {identity} (client id {client_id}) a token \
         ({description}); assign it to the node's machine or scale set (az vmss identity assign)"
    )]
    Refused { identity: String, client_id: String, description: String },
    #[error(
        "what answers for the node's metadata service said {status} without a token; see what else \
         serves {LINK_LOCAL} on the node"
    )]
    BadAnswer { status: u16 },
}

#[derive(Deserialize)]
struct TokenAnswer<'a> {
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    /// Seconds since the Unix epoch, as a text or, from some, as a number.
    expires_on: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorAnswer {
    error: String,
    error_description: String,
}

impl NodeFault {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Ourselves { .. } | Self::Refused { .. } => StatusCode::BAD_REQUEST,
            Self::NoAnswer { .. } | Self::NotReady { .. } | Self::BadAnswer { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Ourselves { .. } => "ManagedInLinkLocal",
            Self::NoAnswer { .. } => "NodeNoAnswer",
            Self::NotReady { .. } => "NodeNotReady",
            Self::Refused { .. } => "NodeRefused",
            Self::BadAnswer { .. } => "NodeBadAnswer",
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotReady { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

pub(super) async fn fetch(
    args: &ServeArgs,
    node: &dyn Get,
    wanted: Wanted<'_>,
) -> Result<Fetched, Fault> {
    let Wanted { identity, resource, ends } = wanted;
    if args.link_local {
        return Err(NodeFault::Ourselves { identity: identity.name.clone() }.into());
    }
    let query = query(identity, resource)?;
    let received = until(
        ends,
        |fault| matches!(fault, Fault::Node(NodeFault::NotReady { .. })),
        || {
            NodeFault::NoAnswer { why: format!("no answer in {} s", FETCH_DEADLINE.as_secs()) }
                .into()
        },
        || ask(node, identity, &query),
    );
    Ok(received.await?.into())
}

/// Path and query of the request. Source: Azure's documentation, "How to use managed identities for
/// Azure resources on an Azure VM to acquire an access token".
fn query(identity: &PodIdentity, resource: &Resource) -> Result<String, NodeFault> {
    let url = Url::parse_with_params(
        &format!("http://{LINK_LOCAL}{IMDS_PATH}"),
        [
            ("api-version", "2018-02-01"),
            ("resource", resource.as_v1()),
            ("client_id", &identity.client_id),
        ],
    );
    let url = url.map_err(|error| NodeFault::NoAnswer { why: error.to_string() })?;
    Ok(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

async fn ask(node: &dyn Get, identity: &PodIdentity, query: &str) -> Result<Received, Fault> {
    let reply = node.get(query).await.map_err(|NoReply { why, .. }| NodeFault::NoAnswer { why })?;
    Ok(judge(&reply, identity)?)
}

/// What to make of an answer. 404, 410, 429 and 5xx pass, as the page above says ("Error handling");
/// 410 takes up to 70 s, longer than anybody waits for one answer.
fn judge(reply: &Reply, identity: &PodIdentity) -> Result<Received, NodeFault> {
    let Reply { status, retry_after, .. } = *reply;
    match status {
        200 => token(reply).ok_or(NodeFault::BadAnswer { status }),
        404 | 408 | 410 | 429 | 500.. => Err(NodeFault::NotReady { status, retry_after }),
        400..500 => {
            let ErrorAnswer { error, error_description } =
                serde_json::from_slice(&reply.body).unwrap_or_default();
            let description = if error_description.is_empty() { error } else { error_description };
            if description.is_empty() {
                return Err(NodeFault::BadAnswer { status });
            }
            Err(NodeFault::Refused {
                identity: identity.name.clone(),
                client_id: identity.client_id.clone(),
                description: description.chars().filter(|c| !c.is_control()).take(200).collect(),
            })
        }
        _ => Err(NodeFault::BadAnswer { status }),
    }
}

fn token(reply: &Reply) -> Option<Received> {
    let TokenAnswer { access_token, expires_on } = serde_json::from_slice(&reply.body).ok()?;
    let expires_on = match &expires_on {
        Value::String(text) => text.trim().parse().ok()?,
        number => number.as_u64()?,
    };
    // Bounded, so that the moment exists: the year 2106.
    let expires_on = Duration::from_secs(u32::try_from(expires_on).ok()?.into());
    (!access_token.is_empty()).then(|| Received {
        access_token: Secret::new(access_token),
        expires_on: SystemTime::UNIX_EPOCH + expires_on,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use imdslet_core::contract::Source;
    use tokio::time::Instant;

    use super::*;
    use crate::testing::{identity, serve_args};

    /// A node that gives these answers, one after another, and says when it was asked for what.
    struct Node {
        answers: Mutex<Vec<(u16, &'static str)>>,
        began: Instant,
        asked: Mutex<Vec<(u64, String)>>,
    }

    #[async_trait]
    impl Get for Node {
        async fn get(&self, path_and_query: &str) -> Result<Reply, NoReply> {
            let at = self.began.elapsed().as_secs();
            self.asked.lock().unwrap().push((at, path_and_query.to_owned()));
            let mut answers = self.answers.lock().unwrap();
            let last = answers.len() == 1;
            let (status, body) = if last { answers[0] } else { answers.remove(0) };
            let retry_after = (status == 429).then_some(Duration::from_secs(3));
            Ok(Reply { status, retry_after, body: body.as_bytes().to_vec().into() })
        }
    }

    const TOKEN: &str = r#"{"access_token":"h.t.s","client_id":"c","expires_in":"86399",
        "expires_on":"1800003600","ext_expires_in":"86399","not_before":"1799999999",
        "resource":"https://vault.azure.net","token_type":"Bearer"}"#;
    const NOT_FOUND: &str =
        r#"{"error":"invalid_request","error_description":"Identity not found"}"#;

    async fn fetch(
        answers: &[(u16, &'static str)],
        resource: &str,
    ) -> (Node, Result<Fetched, Fault>) {
        let node = Node {
            answers: Mutex::new(answers.to_vec()),
            began: Instant::now(),
            asked: Mutex::default(),
        };
        let mut identity = identity("web/db", '1');
        identity.source = Source::Managed;
        let resource = Resource::parse(resource.to_owned()).unwrap();
        let fetched = super::fetch(&serve_args(), &node, Wanted::new(&identity, &resource)).await;
        (node, fetched)
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_by_client_id_brings_a_token() {
        let (node, fetched) = fetch(&[(200, TOKEN)], "https://database.windows.net/").await;
        let received = fetched.unwrap().primary;
        assert_eq!(received.access_token.reveal(), "h.t.s");
        assert_eq!(received.expires_on, SystemTime::UNIX_EPOCH + Duration::from_hours(500_001));
        assert_eq!(
            *node.asked.lock().unwrap(),
            [(
                0,
                "/metadata/identity/oauth2/token?api-version=2018-02-01&\
                 resource=https%3A%2F%2Fdatabase.windows.net%2F&\
                 client_id=c0000000-0000-0000-0000-000000000001"
                    .to_owned()
            )]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_asked_again_until_the_deadline() {
        type Case = (&'static [(u16, &'static str)], &'static [u64], &'static str);
        let cases: [Case; 9] = [
            (&[(404, ""), (200, TOKEN)], &[0, 1], "token"),
            (&[(410, ""), (500, ""), (200, TOKEN)], &[0, 1, 3], "token"),
            (&[(503, "")], &[0, 1, 3, 7], "NodeNotReady"),
            (&[(410, "")], &[0, 1, 3, 7], "NodeNotReady"),
            (&[(429, ""), (200, TOKEN)], &[0, 3], "token"),
            (&[(429, "")], &[0, 3, 6], "NodeNotReady"),
            (&[(404, ""), (400, NOT_FOUND)], &[0, 1], "NodeRefused"),
            (&[(400, NOT_FOUND)], &[0], "NodeRefused"),
            (&[(403, "<html>")], &[0], "NodeBadAnswer"),
        ];
        for (answers, asked, outcome) in cases {
            let (node, fetched) = fetch(answers, "r").await;
            let got = fetched.map_or_else(|fault| fault.reason(), |_| "token");
            assert_eq!(got, outcome, "{answers:?}");
            let times: Vec<_> = node.asked.lock().unwrap().iter().map(|(at, _)| *at).collect();
            assert_eq!(times, asked, "{answers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_that_is_not_on_the_node_is_named() {
        let (_, fetched) = fetch(&[(400, NOT_FOUND)], "r").await;
        let fault = fetched.unwrap_err();
        assert_eq!(fault.status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            fault.to_string(),
            "the node's metadata service refuses identity web/db (client id \
             c0000000-0000-0000-0000-000000000001) a token (Identity not found); assign it to the \
             node's machine or scale set (az vmss identity assign)"
        );
    }

    #[test]
    fn only_a_whole_answer_is_a_token() {
        let read = |body: &str| {
            token(&Reply { status: 200, retry_after: None, body: body.as_bytes().to_vec().into() })
        };
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"","expires_on":"1800003600"}"#,
            r#"{"access_token":"a","expires_on":"soon"}"#,
            r#"{"access_token":"a","expires_on":-1}"#,
            r#"{"access_token":"a","expires_on":"18446744073709551615"}"#,
        ] {
            assert!(read(body).is_none(), "{body}");
        }
        assert!(read(r#"{"access_token":"a","expires_on":1800003600}"#).is_some());
    }

    #[tokio::test]
    async fn it_is_never_asked_where_it_would_be_ourselves() {
        let args = ServeArgs { link_local: true, ..serve_args() };
        let node =
            Node { answers: Mutex::default(), began: Instant::now(), asked: Mutex::default() };
        let resource = Resource::parse("r".to_owned()).unwrap();
        let identity = identity("web/db", '1');
        let fault = super::fetch(&args, &node, Wanted::new(&identity, &resource)).await;
        assert_eq!(fault.unwrap_err().reason(), "ManagedInLinkLocal");
        assert!(node.asked.lock().unwrap().is_empty());
    }
}
