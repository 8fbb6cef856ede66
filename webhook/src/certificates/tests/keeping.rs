//! Replicas that keep their certificate, against an API server of few words.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use futures::stream::poll_fn;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::names_in;
use crate::certificates::{First, Keeper, SECRET};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::testing::{self, Asked};

/// Lists are asked for here, and watched.
const SECRETS: &str = "/api/v1/namespaces/web/secrets";
const HOOKS: [&str; 2] = [
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
];

/// What the API server has: the Secret, and the two configurations.
#[derive(Default)]
struct State {
    version: u64,
    objects: [Option<Value>; 3],
    watchers: Vec<(usize, mpsc::UnboundedSender<String>)>,
    /// The first two writes wait for each other, so that neither has seen the other's.
    race: Option<Arc<Barrier>>,
    /// Writes that came second.
    conflicts: usize,
}

#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<State>>);

impl State {
    /// The object is like this now, or gone, and whoever watches hears of it.
    fn set(&mut self, at: usize, object: Option<Value>) {
        self.version += 1;
        let kind = if object.is_some() { "MODIFIED" } else { "DELETED" };
        let mut told = object.clone().or(self.objects[at].take()).unwrap();
        told["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects[at] = object.map(|_| told.clone());
        let line = format!("{}\n", json!({"type": kind, "object": told}));
        self.watchers.retain(|(of, watcher)| *of != at || watcher.send(line.clone()).is_ok());
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: &Value) -> Response<Body> {
        let mut places = [SECRETS, HOOKS[0], HOOKS[1]].into_iter();
        let Some(at) = places.position(|place| path.starts_with(place)) else {
            return fault(404);
        };
        match method.as_str() {
            "GET" if query.contains("watch=true") => {
                let (sender, mut receiver) = mpsc::unbounded_channel();
                // What has changed since the list.
                let mut parts = query.split('&');
                let since = parts.find_map(|part| part.strip_prefix("resourceVersion="));
                let version = |object: &&Value| object["metadata"]["resourceVersion"].clone();
                let is_newer = |object: &&Value| {
                    version(object).as_str().unwrap().parse::<u64>().unwrap()
                        > since.unwrap().parse().unwrap()
                };
                if let Some(object) = self.objects[at].as_ref().filter(is_newer) {
                    let line = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
                    sender.send(line).unwrap();
                }
                self.watchers.push((at, sender));
                let lines = poll_fn(move |context| receiver.poll_recv(context));
                Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)))
            }
            "GET" => answer(&json!({
                "kind": "List", "apiVersion": "v1", "items": self.objects[at].as_slice(),
                "metadata": {"resourceVersion": self.version.to_string()},
            })),
            "PUT" => {
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                if self.objects[at].as_ref().map(version) != Some(version(body)) {
                    self.conflicts += 1;
                    return fault(409);
                }
                self.set(at, Some(body.clone()));
                answer(self.objects[at].as_ref().unwrap())
            }
            // Server-side apply makes the Secret, and changes nothing of one that is there.
            "PATCH" if at == 0 => {
                if self.objects[at].is_none() {
                    self.set(at, Some(body.clone()));
                }
                answer(self.objects[at].as_ref().unwrap())
            }
            "PATCH" => {
                let mut changed = self.objects[at].clone().unwrap();
                let wanted: json_patch::Patch = serde_json::from_value(body.clone()).unwrap();
                if json_patch::patch(&mut changed, &wanted).is_err() {
                    return fault(422);
                }
                self.set(at, Some(changed));
                answer(self.objects[at].as_ref().unwrap())
            }
            _ => fault(405),
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        let data = self.objects[0].as_ref()?["data"][key].as_str()?;
        Some(String::from_utf8(BASE64.decode(data).ok()?).unwrap())
    }

    /// The CAs that each entry was given.
    fn bundles(&self) -> Vec<String> {
        let hooks = self.objects[1..].iter().flatten();
        let entries = hooks.flat_map(|hook| hook["webhooks"].as_array().unwrap().clone());
        let text = |entry: Value| entry["clientConfig"]["caBundle"].as_str().map(str::to_owned);
        entries
            .map(|entry| BASE64.decode(text(entry).unwrap_or_default()).unwrap())
            .map(|bundle| String::from_utf8(bundle).unwrap())
            .collect()
    }

    /// Whether every entry trusts what the Secret says, and nothing else.
    fn is_well(&self) -> bool {
        let ours = self.text("ca.crt").filter(|text| !text.is_empty());
        ours.is_some_and(|ours| self.bundles().iter().all(|bundle| *bundle == ours))
    }
}

fn answer(body: &Value) -> Response<Body> {
    Response::new(Body::from(body.to_string()))
}

fn fault(code: u16) -> Response<Body> {
    let reason = if code == 409 { "Conflict" } else { "NotFound" };
    let mut response = answer(&json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "message": "as told", "reason": reason}));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

impl FakeApi {
    /// As install.yaml leaves it: a Secret without content, entries without a CA.
    fn installed() -> Self {
        let api = Self::default();
        let entry = |name: &str| {
            json!({"name": name, "clientConfig": {"service": {}}, "namespaceSelector":
                {"matchExpressions": [{"key": "control-plane", "operator": "DoesNotExist"}]}})
        };
        let hook = |kind: &str, entries: Value| {
            json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1",
                "metadata": {"name": "imdslet"}, "webhooks": entries})
        };
        let secret = json!({"kind": "Secret", "apiVersion": "v1", "type": "Opaque",
            "metadata": {"name": SECRET, "namespace": "web"}});
        let pods = json!([entry("pods.imdslet.dev"), entry("ephemeral.imdslet.dev")]);
        {
            let mut state = api.state();
            state.set(0, Some(secret));
            state.set(1, Some(hook("MutatingWebhookConfiguration", pods)));
            let advise = json!([entry("advise.imdslet.dev")]);
            state.set(2, Some(hook("ValidatingWebhookConfiguration", advise)));
        }
        api
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn client(&self) -> Client {
        let api = self.clone();
        testing::client("web", move |Asked { method, path, query, body }| {
            let api = api.clone();
            async move {
                // A way takes time, so that others come in between.
                sleep(Duration::from_millis(1)).await;
                let race = api.state().race.clone();
                if let Some(race) = race.filter(|_| method == Method::PUT) {
                    race.wait().await;
                    api.state().race = None;
                }
                api.state().answer(&method, &path, &query, &body)
            }
        })
    }

    /// How long it takes until `condition` is met.
    async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) -> Duration {
        let began = Instant::now();
        let met = timeout(Duration::from_mins(1), async {
            while !condition(&self.state()) {
                sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(met.await.is_ok(), "never: {what}");
        began.elapsed()
    }
}

/// A replica; ends with `tasks`.
fn replica(
    api: &FakeApi,
    tasks: &mut JoinSet<&'static str>,
) -> (oneshot::Receiver<First>, Readiness) {
    let (sender, first) = oneshot::channel();
    let (readiness, metrics) = (Readiness::default(), Metrics::default());
    let ready = readiness.clone();
    let keeper =
        Keeper::new(&api.client(), "web".to_owned(), names_in("web"), ready, metrics, sender);
    tasks.spawn(keeper.run());
    (first, readiness)
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_that_find_an_empty_secret_one_fills_it_and_both_show_that() {
    let api = FakeApi::installed();
    api.state().race = Some(Arc::new(Barrier::new(2)));
    let mut tasks = JoinSet::new();
    let replicas = [replica(&api, &mut tasks), replica(&api, &mut tasks)];
    api.until("every entry has the CA", State::is_well).await;
    for (first, readiness) in replicas {
        let shown = first.await.unwrap();
        assert_eq!(Some(shown.authorities), api.state().text("ca.crt"));
        api.until("it is ready", |_| readiness.report().0).await;
    }
    assert!(api.state().conflicts > 0, "both have written, and one came second");
}

/// What somebody does, and how it is called.
type Doing<'a> = (&'a str, &'a dyn Fn(&mut State));

#[tokio::test(start_paused = true)]
async fn what_others_do_to_the_secret_and_to_the_bundles_is_set_right_within_a_second() {
    let api = FakeApi::installed();
    let mut tasks = JoinSet::new();
    let replicas = [replica(&api, &mut tasks), replica(&api, &mut tasks)];
    api.until("every entry has the CA", State::is_well).await;
    for (first, _) in replicas {
        first.await.unwrap();
    }
    let shown = api.state().text("ca.crt").unwrap();
    // Whoever comes next must not meet the pause after a change of ours.
    sleep(Duration::from_secs(5)).await;

    let gitops = |state: &mut State| {
        let mut hook = state.objects[1].clone().unwrap();
        hook["webhooks"][0]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
        hook["webhooks"][1]["clientConfig"]["caBundle"] = json!("");
        hook["webhooks"][0]["namespaceSelector"]["matchExpressions"] = json!([]);
        state.set(1, Some(hook));
    };
    let rubbish = |state: &mut State| {
        let mut secret = state.objects[0].clone().unwrap();
        secret["data"]["tls.crt"] = json!(BASE64.encode("rubbish"));
        state.set(0, Some(secret));
    };
    let deletion = |state: &mut State| state.set(0, None);
    let all: [Doing<'_>; 3] =
        [("emptied bundles", &gitops), ("rubbish", &rubbish), ("a deleted Secret", &deletion)];
    for (what, change) in all {
        {
            let mut state = api.state();
            change(&mut state);
            assert!(!state.is_well() || what == "rubbish", "{what} is nothing");
        }
        let took = api
            .until(what, |state| {
                state.is_well() && state.text("tls.crt").is_some_and(|text| text.contains("BEGIN"))
            })
            .await;
        assert!(took <= Duration::from_secs(1), "{what}: after {took:?}");
        // What is shown until then must be trusted all the time.
        for bundle in api.state().bundles() {
            assert!(bundle.contains(shown.trim()), "{what}: the CA that was shown is not trusted");
        }
        sleep(Duration::from_secs(5)).await;
    }
    let state = api.state();
    let selector = &state.objects[1].as_ref().unwrap()["webhooks"][0]["namespaceSelector"];
    assert_eq!(selector["matchExpressions"], json!([]), "what others own was written over");
}
