//! Against an API server that answers by a script, on a clock that runs when nothing else does.

use std::collections::VecDeque;
use std::sync::Mutex;

use http::{Request as HttpRequest, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

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
    asked: Mutex<Vec<String>>,
}

const IDENTITIES: &str = "azureidentities";

/// Answers AzureIdentity by `script`, and every other kind with an empty list and a quiet watch.
fn server(script: Vec<Answer>) -> (Client, Arc<Server>) {
    let answers = Mutex::new([(IDENTITIES, VecDeque::from(script))].into());
    let server = Arc::new(Server { answers, asked: Mutex::default() });
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
        let answer = if resource == IDENTITIES {
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

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn identity(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
        "metadata": {
            "name": name, "namespace": "web", "resourceVersion": version,
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
    server: Arc<Server>,
    _tasks: JoinSet<&'static str>,
}

fn follow(script: Vec<Answer>) -> Following {
    let (client, server) = server(script);
    let (sender, events) = mpsc::channel(64);
    let (readiness, mut tasks) = (Readiness::default(), JoinSet::new());
    start(&client, &sender, &readiness, &mut tasks);
    Following { events, readiness, server, _tasks: tasks }
}

impl Following {
    /// The next event about AzureIdentity, or that all is synced, in short.
    async fn next(&mut self) -> String {
        loop {
            match self.events.recv().await.unwrap() {
                Event::Relisted(Kind::AzureIdentity, objects) => {
                    let names: Vec<_> =
                        objects.iter().map(|object| object.id().1.to_string()).collect();
                    return format!("all: {}", names.join(" "));
                }
                Event::Relisted(..) => {}
                Event::Change(Change::Applied(object)) => {
                    assert_eq!(object.fault(), None);
                    return format!("now: {}", object.id().1);
                }
                Event::Change(Change::Deleted(_, name)) => return format!("gone: {name}"),
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
