//! What is made of a cluster that is read by its API server, page by page.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use imdslet_tests::estates::crowd;
use imdslet_tests::programs::{Ended, command};
use serde_json::{Value, json};

const OLD: &str = "apis/aadpodidentity.k8s.io/v1";
const WEBHOOK: &str = "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/imdslet";

/// Status and body; without them the body is cut off.
type Answer = Option<(u16, Value)>;

/// An API server that answers as a test has written it. It ends with the tests.
struct ApiServer {
    url: String,
    /// The paths that were asked for, in their order.
    asked: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    /// `answer` is given paths.
    fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for connection in listener.incoming() {
                serve(&connection.unwrap(), &log, &answer);
            }
        });
        Self { url, asked }
    }

    /// `imdslet migrate --live` of it.
    fn migrate(&self) -> Ended {
        self.command("migrate")
    }

    /// A command of it.
    fn command(&self, name: &str) -> Ended {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        fs::write(&path, config.to_string()).unwrap();
        let kubeconfig = format!("--kubeconfig={}", path.display());
        Ended::of(command("imdslet").args([name, "--live", &kubeconfig, "-o", "json"]))
    }

    /// The pages of a kind that were asked for.
    fn pages(&self, kind: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|path| path.starts_with(kind)).cloned().collect()
    }
}

fn serve(mut connection: &TcpStream, log: &Mutex<Vec<String>>, answer: impl Fn(&str) -> Answer) {
    let mut head = BufReader::new(connection).lines().map(Result::unwrap);
    let Some(request) = head.next() else { return };
    let path = request.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
    assert!(request.starts_with("GET "), "it only reads: {request}");
    head.find(String::is_empty);
    log.lock().unwrap().push(path.clone());
    let (status, body) = answer(&path).map_or((200, None), |(status, body)| (status, Some(body)));
    let whole = body.as_ref().map_or_else(|| "{\"items\": [".to_owned(), Value::to_string);
    let length = if body.is_some() { whole.len() } else { whole.len() + 100 };
    write!(
        connection,
        "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{whole}"
    )
    .ok();
}

/// Where a kind is listed.
fn place(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let plural = kind.strip_suffix('y').map_or(format!("{kind}s"), |stem| format!("{stem}ies"));
    let folder = if version.contains('/') { "apis" } else { "api" };
    format!("{folder}/{version}/{plural}")
}

/// The objects of a List, as API servers list them: without their kind, and with all that they keep.
fn cluster(list: &Value) -> BTreeMap<String, Vec<Value>> {
    let mut listed: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in list["items"].as_array().unwrap() {
        let mut item = object.clone();
        let fields = item.as_object_mut().unwrap();
        fields.remove("apiVersion");
        fields.remove("kind");
        fields.insert("status".to_owned(), json!({"observedGeneration": 1}));
        item["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        listed.entry(place(object)).or_default().push(item);
    }
    listed
}

/// Answers as the API server of a cluster with these objects, in pages as they are asked for.
fn of(listed: &BTreeMap<String, Vec<Value>>, path: &str) -> (u16, Value) {
    let (kind, query) = path.split_once('?').unwrap_or((path, ""));
    let numbers: BTreeMap<&str, usize> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key, value.parse().unwrap()))
        .collect();
    match kind {
        ".well-known/openid-configuration" => {
            return (200, json!({"issuer": "https://issuer.example/live/"}));
        }
        OLD => {
            let kinds = listed.keys().filter_map(|kind| kind.strip_prefix(OLD)?.strip_prefix('/'));
            let kinds: Vec<_> = kinds.map(|name| json!({"name": name})).collect();
            return (200, json!({"resources": kinds}));
        }
        "apis/secrets-store.csi.x-k8s.io/v1" => return (404, json!({"message": "not found"})),
        _ if kind == WEBHOOK || kind.contains("/configmaps/") => {
            return (404, json!({"message": "not found"}));
        }
        _ => {}
    }
    let all = listed.get(kind).map(Vec::as_slice).unwrap_or_default();
    let begin = numbers.get("continue").copied().unwrap_or_default();
    let end = (begin + numbers["limit"]).min(all.len());
    let more = if end < all.len() { end.to_string() } else { String::new() };
    (200, json!({"metadata": {"continue": more}, "items": all[begin..end]}))
}

#[test]
fn the_plan_of_a_cluster_is_that_of_its_dump_and_every_page_of_it_is_asked_for_once() {
    let list = crowd(1200);
    let listed = cluster(&list);
    let server = ApiServer::start(move |path| Some(of(&listed, path)));
    let live = server.migrate();

    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump.json");
    fs::write(&dump, list.to_string()).unwrap();
    let mut from_file = command("imdslet");
    from_file.args(["migrate", "--issuer=https://issuer.example/live/", "-o", "json", "-f"]);
    let from_file = Ended::of(from_file.arg(dump));
    assert_eq!((live.code, &live.stderr), (from_file.code, &from_file.stderr));
    assert_eq!(live.stdout, from_file.stdout);
    assert!(live.stderr.contains("1080 Deployment"), "{}", live.stderr);

    let asked = |rest: &str| format!("api/v1/pods?limit=500{rest}");
    let pages = [asked(""), asked("&continue=500"), asked("&continue=1000")];
    assert_eq!(server.pages("api/v1/pods"), pages);
}

#[test]
fn a_page_that_fails_midway_leaves_no_plan_of_the_part_before_it() {
    let broken: [(&str, Answer); 4] = [
        (
            "answers /api/v1/pods?limit=500&continue=500 with 500: etcd is away",
            Some((500, json!({"message": "etcd is away"}))),
        ),
        (
            "list pods in all namespaces (kubectl auth can-i list pods -A)",
            Some((403, json!({"message": "forbidden"}))),
        ),
        ("answers /api/v1/pods?limit=500&continue=500 with 200", Some((200, json!("a proxy")))),
        ("cannot be reached", None),
    ];
    for (words, answer) in broken {
        let listed = cluster(&crowd(600));
        let server = ApiServer::start(move |path| match path {
            "api/v1/pods?limit=500&continue=500" => answer.clone(),
            path => Some(of(&listed, path)),
        });
        let ended = server.migrate();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{words}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
        assert!(!ended.stderr.contains("plan:"), "{}", ended.stderr);
    }
}

#[test]
fn a_list_that_grew_too_old_is_read_anew_and_nothing_of_it_counts_twice() {
    let listed = cluster(&crowd(600));
    let expired = Mutex::new(true);
    let server = ApiServer::start(move |path| {
        let is_second = path == "api/v1/pods?limit=500&continue=500";
        if is_second && std::mem::take(&mut *expired.lock().unwrap()) {
            return Some((410, json!({"message": "the continue parameter is too old"})));
        }
        Some(of(&listed, path))
    });
    let ended = server.migrate();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(", 540 Pod,"), "{}", ended.stderr);
    assert_eq!(server.pages("api/v1/pods").len(), 4);
}

#[test]
fn settings_are_read_where_imdslet_is_and_in_its_usual_namespace_by_who_may_not_read_where() {
    const WRONG: &str = "--tenant-id (AZURE_TENANT_ID) is `set-there`";
    let service = json!({"namespace": "identity", "name": "imdslet-webhook"});
    let named = json!({"webhooks": [{"clientConfig": {"service": service}}]});
    for (command, answer, namespace) in [
        ("explain", (200, named.clone()), "identity"),
        ("migrate", (200, named), "identity"),
        ("explain", (403, json!({"message": "forbidden"})), "imdslet-system"),
        ("migrate", (403, json!({"message": "forbidden"})), "imdslet-system"),
    ] {
        let listed = cluster(&crowd(12));
        let settings = format!("api/v1/namespaces/{namespace}/configmaps/imdslet-config");
        let server = ApiServer::start(move |path| match path {
            WEBHOOK => Some(answer.clone()),
            path if path == settings => {
                Some((200, json!({"data": {"AZURE_TENANT_ID": "set-there"}})))
            }
            path => Some(of(&listed, path)),
        });
        let ended = server.command(command);
        assert!(ended.stderr.contains(WRONG), "{command}, {namespace}: {}", ended.stderr);
    }
    // Who may read neither is told both, and has what the flags say.
    let listed = cluster(&crowd(12));
    let server = ApiServer::start(move |path| match path {
        path if path == WEBHOOK || path.contains("/configmaps/") => Some((403, json!({}))),
        path => Some(of(&listed, path)),
    });
    let ended = server.migrate();
    assert!(ended.stderr.contains("the flags count"), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("get /{WEBHOOK}")), "{}", ended.stderr);
    assert!(ended.stderr.contains("get /api/v1/namespaces/imdslet-system/"), "{}", ended.stderr);
    assert!(!ended.stdout.is_empty());
}
