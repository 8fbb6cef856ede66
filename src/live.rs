//! A cluster, read and never written: by the API server of a kubeconfig.

mod args;
mod error;
mod forward;
mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use imdslet_core::with_causes;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::timeout;

use crate::documents::{Document, Place};
pub use args::ObjectsArgs;
pub use error::LiveError;
pub use forward::Unforwarded;
use kinds::KINDS;
pub use kinds::Kind;
pub(crate) use kinds::{BINDINGS, EXCEPTIONS, IDENTITIES, NAMESPACES};

/// How long one answer of the API server may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Where imdslet is where nothing else is said.
const NAMESPACE: &str = "imdslet-system";
/// What tells the API server where imdslet is, whatever its namespace is called.
const WEBHOOK: &str = "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/imdslet";
/// How many objects are asked for at once.
const PAGE: usize = 500;
/// How often a list is begun anew that has grown too old while it was read.
const ANEW: u32 = 3;

/// Which cluster, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The kubeconfig; without one, that of `KUBECONFIG` or of the home folder.
    pub kubeconfig: Option<PathBuf>,
    /// Its context; without one, its current one.
    pub context: Option<String>,
}

/// A cluster's API server, and who asks it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    server: String,
}

impl Cluster {
    /// The cluster of a kubeconfig. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`LiveError::NoConfig`] or [`LiveError::NoLogin`].
    pub async fn connect(access: &Access) -> Result<Self, LiveError> {
        let no_config = |error: &dyn std::error::Error| LiveError::NoConfig(with_causes(error));
        let found = match &access.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let kubeconfig = found.map_err(|error| no_config(&error))?;
        let options =
            KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let config = config.map_err(|error| no_config(&error))?;
        let server = config.cluster_url.to_string();
        let program = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
        let client = Client::try_from(config).map_err(|error| match program {
            Some(program) => LiveError::NoLogin { program, cause: with_causes(&error) },
            None => no_config(&error),
        })?;
        Ok(Self::of(client, &server))
    }

    /// The cluster behind `client`.
    pub(crate) fn of(client: Client, server: &str) -> Self {
        Self { client, server: server.trim_end_matches('/').to_owned() }
    }

    /// What the API server answers, and its status. `path` begins without a slash.
    ///
    /// # Errors
    ///
    /// [`LiveError::Unreachable`] or [`LiveError::Unauthenticated`].
    pub async fn ask(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), LiveError> {
        let unreachable =
            |cause: String| LiveError::Unreachable { server: self.server.clone(), cause };
        let request = Request::builder()
            .method(method)
            .uri(format!("/{path}"))
            // Keys and logs come as something else.
            .header(http::header::ACCEPT, "application/json, */*;q=0.5")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string().into_bytes())))
            .map_err(|error| unreachable(error.to_string()))?;
        let answered = async {
            let answer = self.client.send(request).await.map_err(|error| with_causes(&error))?;
            let (head, body) = answer.into_parts();
            let bytes = body.collect().await.map_err(|error| with_causes(&error))?.to_bytes();
            Ok::<_, String>((head.status, bytes))
        };
        let late = || format!("no answer within {} s", DEADLINE.as_secs());
        let (status, bytes) = timeout(DEADLINE, answered)
            .await
            .map_err(|_| unreachable(late()))?
            .map_err(unreachable)?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(LiveError::Unauthenticated(self.server.clone()));
        }
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
    }

    /// An object; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn get(&self, path: &str) -> Result<Option<Value>, LiveError> {
        let (status, value) = self.ask(http::Method::GET, path, None).await?;
        match status {
            StatusCode::OK => Ok(Some(value)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::FORBIDDEN => {
                Err(LiveError::Forbidden(BTreeSet::from([format!("get /{path}")])))
            }
            _ => Err(self.answer(path, status, &value)),
        }
    }

    /// Whether the cluster has this kind. Asked before it is listed: a kind that is not defined may
    /// not be listed by most either, and the API server says the latter.
    async fn has(&self, kind: &Kind) -> Result<bool, LiveError> {
        let Some(group) = self.get(&kind.group_path()).await? else { return Ok(false) };
        let resources = group.get("resources").and_then(Value::as_array);
        let Some(resources) = resources else {
            return Err(self.answer(&kind.group_path(), StatusCode::OK, &group));
        };
        Ok(resources.iter().any(|one| kind.is_called(one.get("name"))))
    }

    fn answer(&self, path: &str, status: StatusCode, value: &Value) -> LiveError {
        LiveError::Answer {
            server: self.server.clone(),
            path: path.to_owned(),
            status: status.as_u16(),
            message: message(value).to_owned(),
        }
    }

    /// All objects of a kind; `None` if the cluster has no such kind.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn list(&self, kind: &Kind) -> Result<Option<Vec<Value>>, LiveError> {
        self.list_as(kind, &mut Some, &mut |_| {}).await
    }

    /// As [`Cluster::list`], each object as what `keep` makes of it. One page is in memory at a time;
    /// `seen` is told after each how many objects there were. Nothing is given of a list that cannot
    /// be read to its end.
    async fn list_as<T>(
        &self,
        kind: &Kind,
        keep: &mut dyn FnMut(Value) -> Option<T>,
        seen: &mut dyn FnMut(usize),
    ) -> Result<Option<Vec<T>>, LiveError> {
        if kind.may_be_absent() && !self.has(kind).await? {
            return Ok(None);
        }
        let mut all = Vec::new();
        let mut rest = String::new();
        let (mut times, mut count) = (0, 0);
        loop {
            let path = format!("{}?limit={PAGE}{rest}", kind.path());
            let (status, mut page) = self.ask(http::Method::GET, &path, None).await?;
            match status {
                StatusCode::OK => {}
                StatusCode::FORBIDDEN => {
                    return Err(LiveError::Forbidden(BTreeSet::from([kind.permission()])));
                }
                // The list that was begun has grown too old: from the beginning.
                StatusCode::GONE if !rest.is_empty() && times < ANEW => {
                    (all, rest, count) = (Vec::new(), String::new(), 0);
                    times += 1;
                    continue;
                }
                _ => return Err(self.answer(&path, status, &page)),
            }
            let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) else {
                return Err(self.answer(&path, status, &page));
            };
            count += items.len();
            all.extend(items.drain(..).filter_map(|item| keep(kind.complete(item))));
            seen(count);
            let more = page.pointer("/metadata/continue").and_then(Value::as_str);
            match more.filter(|token| !token.is_empty()) {
                Some(token) => {
                    let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
                    rest = format!("&continue={token}");
                }
                None => return Ok(Some(all)),
            }
        }
    }

    /// Every object that decides about pods' identities, as files would have them.
    ///
    /// # Errors
    ///
    /// [`LiveError`]; every permission that is missing is named at once.
    pub async fn documents(&self) -> Result<Vec<Document>, LiveError> {
        let objects = self.read(&mut |value| value, &mut |_, _| {}).await?.into_iter();
        Ok(objects.map(|(place, value)| Document { place: (*place).clone(), value }).collect())
    }

    /// The same objects, each with its list and as what `keep` makes of it: who needs little of each
    /// need not hold all of a large cluster. `seen` is told how many of a kind were read.
    ///
    /// # Errors
    ///
    /// As [`Cluster::documents`].
    pub(crate) async fn read<T>(
        &self,
        keep: &mut dyn FnMut(Value) -> T,
        seen: &mut dyn FnMut(&Kind, usize),
    ) -> Result<Vec<(Arc<Place>, T)>, LiveError> {
        let mut objects = Vec::new();
        let mut forbidden = BTreeSet::new();
        for (at, kind) in KINDS.iter().enumerate() {
            let mut wanted = |value| kind.is_wanted(&value).then(|| keep(value));
            let mut seen = |count| seen(kind, count);
            let found = match self.list_as(kind, &mut wanted, &mut seen).await {
                Ok(found) => found.unwrap_or_default(),
                Err(LiveError::Forbidden(missing)) => {
                    forbidden.extend(missing);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let place = Arc::new(Place { file: self.server.clone(), number: at + 1 });
            objects.extend(found.into_iter().map(|one| (Arc::clone(&place), one)));
        }
        if forbidden.is_empty() { Ok(objects) } else { Err(LiveError::Forbidden(forbidden)) }
    }

    /// The issuer of the cluster's service account tokens, as the API server says it.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn issuer(&self) -> Result<String, LiveError> {
        let path = ".well-known/openid-configuration";
        let (status, value) = self.ask(http::Method::GET, path, None).await?;
        if status == StatusCode::FORBIDDEN {
            let missing = format!(
                "get the path /{path} (ClusterRole system:service-account-issuer-discovery), or name \
                 the issuer by --issuer"
            );
            return Err(LiveError::Forbidden(BTreeSet::from([missing])));
        }
        let issuer = value.get("issuer").and_then(Value::as_str);
        issuer.map(str::to_owned).ok_or_else(|| self.answer(path, status, &value))
    }

    /// The mutating webhook configuration of imdslet; `None` where it is not installed.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub(crate) async fn webhook(&self) -> Result<Option<Value>, LiveError> {
        self.get(WEBHOOK).await
    }

    /// What the installation of imdslet is set to, by its variables, wherever it is; nothing where
    /// there is none. Who may not read where it is gets what is set in `imdslet-system`.
    ///
    /// # Errors
    ///
    /// [`LiveError`]; of [`LiveError::Forbidden`] each right that would have helped is named.
    pub async fn installed(&self) -> Result<BTreeMap<String, String>, LiveError> {
        let (webhook, mut forbidden) = match self.webhook().await {
            Ok(webhook) => (webhook, BTreeSet::new()),
            Err(LiveError::Forbidden(missing)) => (None, missing),
            Err(error) => return Err(error),
        };
        match self.settings(home(webhook.as_ref())).await {
            // It may be elsewhere.
            Ok(settings) if settings.is_empty() && !forbidden.is_empty() => {
                Err(LiveError::Forbidden(forbidden))
            }
            Err(LiveError::Forbidden(missing)) => {
                forbidden.extend(missing);
                Err(LiveError::Forbidden(forbidden))
            }
            settings => settings,
        }
    }

    /// What the installation of imdslet in a namespace is set to, by its variables; nothing where
    /// there is none.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub(crate) async fn settings(
        &self,
        namespace: &str,
    ) -> Result<BTreeMap<String, String>, LiveError> {
        let path = format!("api/v1/namespaces/{namespace}/configmaps/imdslet-config");
        let config = self.get(&path).await?.unwrap_or_default();
        let data = config.get("data").and_then(Value::as_object).into_iter().flatten();
        let texts = data.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Ok(texts.collect())
    }

    /// Where it is.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }
}

/// The namespace of imdslet, by its webhook configuration; that of the shipped file where there is none.
pub(crate) fn home(webhook: Option<&Value>) -> &str {
    let named = webhook.and_then(|webhook| {
        webhook.pointer("/webhooks/0/clientConfig/service/namespace")?.as_str()
    });
    named.unwrap_or(NAMESPACE)
}

/// What a Status of the API server says.
pub(crate) fn message(value: &Value) -> &str {
    value.get("message").and_then(Value::as_str).or(value.as_str()).unwrap_or("(nothing)")
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
