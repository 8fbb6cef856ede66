//! Against an API server that answers by a script, on a clock that runs when nothing else does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use http::{Request as HttpRequest, Response};
use imdslet_core::objects::Kind;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

mod optional;

/// What the API server does for one request of a path.
enum Answer {
    /// A body, then the end of it.
    Now(u16, Value),
    /// Lines of a watch, which then stays open for this long.
    Watch(Vec<Value>, Duration),
    /// No answer.
    Silence,
}

struct Server {
    answers: Mutex<BTreeMap<&'static str, VecDeque<Answer>>>,
    /// The CRD of AzureIdentity, each time that it is asked for; the last one stays.
    definitions: Mutex<VecDeque<(u16, Value)>>,
    asked: Mutex<Vec<String>>,
}

const IDENTITIES: &str = "azureidentities";

/// Answers AzureIdentity by `script`, its CRD by `definitions`, and every other kind with an empty
/// list and a quiet watch.
fn server(script: Vec<Answer>, definitions: Vec<(u16, Value)>) -> (Client, Arc<Server>) {
    let answers = Mutex::new([(IDENTITIES, VecDeque::from(script))].into());
    let definitions = Mutex::new(definitions.into());
    let server = Arc::new(Server { answers, definitions, asked: Mutex::default() });
    let shared = server.clone();
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let server = shared.clone();
        async move { server.answer(&request.uri().to_string()).await }
    });
    (Client::new(service, "default"), server)
}

impl Server {
    async fn answer(
        &self,
        uri: &str,
    ) -> Result<Response<axum::body::Body>, std::convert::Infallible> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let resource = path.rsplit('/').next().unwrap_or_default();
        let is_watch = query.contains("watch=true");
        let quiet = || {
            if is_watch {
                Answer::Watch(vec![], WATCH_LIFE)
            } else {
                Answer::Now(200, list(&[], "1"))
            }
        };
        let answer = if path.contains("/customresourcedefinitions/") {
            Some(self.definition(resource))
        } else if resource == IDENTITIES {
            self.asked.lock().unwrap().push(query.to_owned());
            self.answers.lock().unwrap().get_mut(IDENTITIES).and_then(VecDeque::pop_front)
        } else {
            Some(quiet())
        };
        let (code, body) = match answer.unwrap_or(Answer::Silence) {
            Answer::Now(code, body) => (code, body.to_string().into()),
            Answer::Watch(lines, open) => {
                let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
                let text = lines.join("\n") + "\n";
                let lines = futures::stream::iter([text.into_bytes()]);
                let end = futures::stream::once(async move {
                    sleep(open).await;
                    Vec::new()
                });
                let bytes = lines.chain(end).map(Ok::<_, std::convert::Infallible>);
                (200, axum::body::Body::from_stream(bytes))
            }
            Answer::Silence => std::future::pending().await,
        };
        Ok(Response::builder().status(code).body(body).unwrap())
    }

    fn definition(&self, name: &str) -> Answer {
        if name != "azureidentities.aadpodidentity.k8s.io" {
            return Answer::Now(200, definition("other", &json!({})));
        }
        let mut definitions = self.definitions.lock().unwrap();
        let next = if definitions.len() > 1 { definitions.pop_front() } else { None };
        let (code, body) = next.unwrap_or_else(|| definitions.front().unwrap().clone());
        Answer::Now(code, body)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn identity(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
        "metadata": {
            "name": name, "namespace": "web", "resourceVersion": version,
            "creationTimestamp": "2026-01-02T00:00:00Z",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {"clientID": "11111111-1111-1111-1111-111111111111"},
        "status": "anything",
    })
}

fn list(items: &[Value], version: &str) -> Value {
    json!({"kind": "List", "metadata": {"resourceVersion": version}, "items": items})
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": format!("words of {reason}")})
}

/// A CRD of this uid.
fn definition(uid: &str, more: &Value) -> Value {
    let mut metadata = json!({"name": "azureidentities.aadpodidentity.k8s.io", "uid": uid,
        "creationTimestamp": "2026-01-01T00:00:00Z"});
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

fn change(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: &str) -> Value {
    change(
        "BOOKMARK",
        &json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": {"resourceVersion": version, "creationTimestamp": null}}),
    )
}

struct Following {
    events: mpsc::Receiver<Event>,
    readiness: Readiness,
    metrics: Metrics,
    server: Arc<Server>,
    _tasks: JoinSet<&'static str>,
}

fn follow(script: Vec<Answer>) -> Following {
    follow_with(script, vec![(200, definition("1", &json!({})))])
}

fn follow_with(script: Vec<Answer>, definitions: Vec<(u16, Value)>) -> Following {
    let (client, server) = server(script, definitions);
    let (sender, events) = mpsc::channel(64);
    let (readiness, metrics, mut tasks) =
        (Readiness::default(), Metrics::default(), JoinSet::new());
    start(&client, &sender, (&readiness, &metrics), &mut tasks);
    Following { events, readiness, metrics, server, _tasks: tasks }
}

fn doubt(trust: Trust) -> &'static str {
    match trust {
        Trust::Plain => "",
        Trust::Doubted => " (doubted)",
        Trust::Confirmed => " (confirmed)",
    }
}

impl Following {
    /// The next event about AzureIdentity, or that all is synced, in short.
    async fn next(&mut self) -> String {
        loop {
            match self.events.recv().await.unwrap() {
                Event::Relisted(Kind::AzureIdentity, objects, trust) => {
                    let names: Vec<_> =
                        objects.iter().map(|object| object.id().1.to_string()).collect();
                    return format!("all{}: {}", doubt(trust), names.join(" "));
                }
                Event::Relisted(..) => {}
                Event::Change(Change::Applied(object), _) => {
                    assert_eq!(object.fault(), None);
                    return format!("now: {}", object.id().1);
                }
                Event::Change(Change::Deleted(_, name), trust) => {
                    return format!("gone{}: {name}", doubt(trust));
                }
                Event::LetGo(kind) => return format!("let go: {kind}"),
                Event::Synced => return "synced".to_owned(),
            }
        }
    }

    /// Waits until the report holds `part`.
    async fn report(&self, part: &str) -> (bool, String) {
        for _ in 0..100_000 {
            let (is_ready, report) = self.readiness.report();
            if report.contains(part) {
                return (is_ready, report);
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("never reported {part}: {:?}", self.readiness.report());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_and_what_changes_is_told_and_a_bookmark_moves_on() {
    let mut page = list(&[identity("a", "1")], "5");
    page["metadata"]["continue"] = json!("next");
    let mut following = follow(vec![
        Answer::Now(200, page),
        Answer::Now(200, list(&[identity("b", "2")], "5")),
        Answer::Watch(
            vec![
                change("ADDED", &identity("c", "6")),
                change("DELETED", &identity("a", "7")),
                bookmark("9"),
            ],
            WATCH_LIFE,
        ),
        Answer::Watch(vec![change("MODIFIED", &identity("b", "10"))], WATCH_LIFE),
    ]);
    assert_eq!(following.next().await, "all: web/a web/b");
    // Another kind may be the last one to be listed.
    let mut told = vec![following.next().await, following.next().await, following.next().await];
    told.sort();
    assert_eq!(told, ["gone: web/a", "now: web/c", "synced"]);
    assert_eq!(following.readiness.report(), (true, String::new()));
    assert_eq!(following.next().await, "now: web/b");
    let versions: Vec<_> = following
        .server
        .asked()
        .iter()
        .filter_map(|query| Some(query.split_once("resourceVersion=")?.1.to_owned()))
        .collect();
    assert_eq!(versions, ["5", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_installed_is_waited_for_and_never_taken_for_empty() {
    let mut following = follow(vec![
        Answer::Now(404, json!("404 page not found")),
        Answer::Now(404, json!("404 page not found")),
        Answer::Now(200, list(&[identity("a", "1")], "5")),
        Answer::Watch(vec![], WATCH_LIFE),
        // The CRD is deleted, and comes back.
        Answer::Now(404, json!("404 page not found")),
        Answer::Now(404, json!("404 page not found")),
        Answer::Now(200, list(&[identity("b", "1")], "5")),
    ]);
    let (is_ready, report) =
        following.report("knows no azureidentities.aadpodidentity.k8s.io").await;
    assert!(!is_ready, "{report}");
    assert_eq!(following.next().await, "all: web/a");
    assert_eq!(following.next().await, "synced");
    let (is_ready, _) = following.report("warning: AzureIdentity, for").await;
    assert!(is_ready, "what was known stays in force");
    assert_eq!(following.next().await, "all: web/b");
}

#[tokio::test(start_paused = true)]
async fn a_missing_permission_is_named_as_a_rule() {
    let mut following = follow(vec![
        Answer::Now(403, status(403, "Forbidden")),
        Answer::Now(200, list(&[], "5")),
        Answer::Now(403, status(403, "Forbidden")),
        Answer::Watch(vec![change("ADDED", &identity("a", "6"))], WATCH_LIFE),
    ]);
    let rule = |verb| {
        format!(
            "{{apiGroups: [\"aadpodidentity.k8s.io\"], resources: [azureidentities], verbs: [{verb}]}} \
             (the API server says: words of Forbidden)"
        )
    };
    let (is_ready, _) = following.report(&rule("list")).await;
    assert!(!is_ready);
    assert_eq!(following.next().await, "all: ");
    let (is_ready, _) = following.report(&rule("watch")).await;
    assert!(is_ready);
    let mut told = vec![following.next().await, following.next().await];
    told.sort();
    assert_eq!(told, ["now: web/a", "synced"]);
    assert_eq!(following.readiness.report(), (true, String::new()));
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_has_forgotten_is_listed_anew() {
    let gone = change("ERROR", &status(410, "Expired"));
    let mut following = follow(vec![
        Answer::Now(200, list(&[identity("a", "1"), identity("b", "2")], "5")),
        Answer::Watch(vec![gone], WATCH_LIFE),
        Answer::Now(200, list(&[identity("b", "2")], "50")),
        Answer::Now(410, status(410, "Expired")),
        Answer::Now(200, list(&[identity("c", "2")], "60")),
    ]);
    assert_eq!(following.next().await, "all: web/a web/b");
    let mut told = vec![following.next().await, following.next().await];
    told.sort();
    assert_eq!(told, ["all: web/b", "synced"]);
    assert_eq!(following.next().await, "all: web/c");
    assert_eq!(following.readiness.report(), (true, String::new()));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_silent_is_asked_again() {
    let mut following = follow(vec![
        Answer::Silence,
        Answer::Now(200, list(&[], "5")),
        // A connection that has died: nothing comes, not even the end.
        Answer::Watch(vec![], Duration::from_hours(24)),
        Answer::Watch(vec![change("ADDED", &identity("a", "6"))], WATCH_LIFE),
    ]);
    let (is_ready, _) = following.report("none within 60 s").await;
    assert!(!is_ready);
    assert_eq!(following.next().await, "all: ");
    assert_eq!(following.next().await, "synced");
    let before = Instant::now();
    assert_eq!(following.next().await, "now: web/a");
    assert!(before.elapsed() < WATCH_LIFE + WATCH_SLACK + Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn what_goes_with_its_crd_is_doubted_until_a_person_says_that_it_is_meant() {
    let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let let_go = json!({"annotations": {"imdslet.dev/let-go": "true"}});
    let mut following = follow_with(
        vec![
            Answer::Now(200, list(&[identity("a", "1"), identity("b", "2")], "5")),
            Answer::Watch(vec![change("DELETED", &identity("a", "6"))], WATCH_LIFE),
            // No answer about the CRD: the deletion is told again, and decided then.
            Answer::Watch(vec![change("DELETED", &identity("a", "6"))], SHORT_LIVED),
            Answer::Now(404, json!("404 page not found")),
            Answer::Now(404, json!("404 page not found")),
            // Another CRD of the same name.
            Answer::Now(200, list(&[], "50")),
            Answer::Watch(vec![bookmark("60")], WATCH_LIFE),
            Answer::Watch(vec![], WATCH_LIFE),
        ],
        vec![
            (200, definition("1", &json!({}))),
            (503, status(503, "ServiceUnavailable")),
            (200, definition("1", &json!({}))),
            (200, definition("1", &ending)),
            (404, status(404, "NotFound")),
            (200, definition("2", &json!({}))),
            (200, definition("2", &let_go)),
        ],
    );
    assert_eq!(following.next().await, "all: web/a web/b");
    let mut told = vec![following.next().await, following.next().await];
    told.sort();
    assert_eq!(told, ["gone (doubted): web/a", "synced"]);
    assert_eq!(following.next().await, "all (doubted): ");
    assert_eq!(following.next().await, "let go: AzureIdentity");
    let numbers = following.metrics.render();
    for line in [
        r#"imdslet_watch_restarts_total{kind="AzureIdentity"} "#,
        r#"imdslet_snapshot_age_seconds{kind="AzureIdentity"} "#,
    ] {
        assert!(numbers.contains(line), "{line}\n{numbers}");
    }
}

/// The API server ends a watch some time after its CRD, and another CRD of that name may be there
/// before.
#[tokio::test(start_paused = true)]
async fn a_watch_that_outlives_its_crd_tells_what_was_lost_from_what_was_deleted_since() {
    let mut lost = identity("a", "6");
    lost["metadata"]["creationTimestamp"] = json!("2025-12-31T00:00:00Z");
    let mut following = follow_with(
        vec![
            Answer::Now(200, list(&[lost.clone(), identity("b", "2")], "5")),
            Answer::Watch(
                vec![change("DELETED", &lost), change("DELETED", &identity("b", "7"))],
                WATCH_LIFE,
            ),
        ],
        vec![(200, definition("1", &json!({}))), (200, definition("2", &json!({})))],
    );
    assert_eq!(following.next().await, "all: web/a web/b");
    let mut told = vec![following.next().await, following.next().await, following.next().await];
    told.sort();
    assert_eq!(told, ["gone (doubted): web/a", "gone: web/b", "synced"]);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_counts_where_the_crd_is_as_it_was_or_may_not_be_read() {
    for (code, answer) in [(200, definition("1", &json!({}))), (403, status(403, "Forbidden"))] {
        let mut following = follow_with(
            vec![
                Answer::Now(200, list(&[identity("a", "1")], "5")),
                Answer::Watch(vec![change("DELETED", &identity("a", "6"))], WATCH_LIFE),
            ],
            vec![(code, answer)],
        );
        assert_eq!(following.next().await, "all: web/a");
        let mut told = vec![following.next().await, following.next().await];
        told.sort();
        assert_eq!(told, ["gone: web/a", "synced"], "{code}");
    }
}
