use http::StatusCode;
use serde_json::{Value, json};

use super::testing::cluster;
use super::*;

const OK: StatusCode = StatusCode::OK;

fn status(code: StatusCode, message: &str) -> (StatusCode, Value) {
    (code, json!({"kind": "Status", "message": message, "code": code.as_u16()}))
}

fn list(items: &Value) -> (StatusCode, Value) {
    (OK, json!({"kind": "PodList", "metadata": {}, "items": items}))
}

#[tokio::test]
async fn every_page_is_read_and_items_say_what_they_are() {
    let cluster = cluster(|(_, path, _)| match path {
        "api/v1/pods?limit=500" => {
            let items = json!([{"metadata": {"name": "a", "managedFields": [{}]}}]);
            (OK, json!({"metadata": {"continue": "x/y="}, "items": items}))
        }
        "api/v1/pods?limit=500&continue=x%2Fy%3D" => list(&json!([{"metadata": {"name": "b"}}])),
        "apis/apps/v1/replicasets?limit=500" => list(&json!([
            {"metadata": {"name": "alone"}},
            {"metadata": {"name": "made", "ownerReferences": [{"kind": "Deployment"}]}},
        ])),
        "api/v1/limitranges?limit=500" => list(&json!([{"metadata": {"name": "small"}}])),
        // The kinds of the old project are not all there, and of what is not there nothing is said.
        "apis/aadpodidentity.k8s.io/v1" => {
            (OK, json!({"resources": [{"name": "azureidentities"}]}))
        }
        path if path.contains("azureidentitybindings") => status(StatusCode::FORBIDDEN, "no"),
        path if path.contains("secrets-store") => status(StatusCode::NOT_FOUND, "not found"),
        _ => list(&json!([])),
    });
    let documents = cluster.documents().await.unwrap();
    let values: Vec<_> = documents.iter().map(|document| document.value.clone()).collect();
    let expected = [
        json!({"metadata": {"name": "small"}, "apiVersion": "v1", "kind": "LimitRange"}),
        json!({"metadata": {"name": "alone"}, "apiVersion": "apps/v1", "kind": "ReplicaSet"}),
        json!({"metadata": {"name": "a"}, "apiVersion": "v1", "kind": "Pod"}),
        json!({"metadata": {"name": "b"}, "apiVersion": "v1", "kind": "Pod"}),
    ];
    assert_eq!(values, expected);
    assert_eq!(documents[0].place.file, "https://cluster.example");
}

#[tokio::test]
async fn every_missing_permission_is_named_at_once_and_nothing_is_given() {
    let cluster = cluster(|(_, path, _)| {
        let is_secret = path.contains("/pods") || path.contains("azureidentities");
        match path {
            "apis/aadpodidentity.k8s.io/v1" => {
                (OK, json!({"resources": [{"name": "azureidentities"}]}))
            }
            "apis/secrets-store.csi.x-k8s.io/v1" => status(StatusCode::NOT_FOUND, "no"),
            _ if is_secret => status(StatusCode::FORBIDDEN, "no"),
            _ => list(&json!([])),
        }
    });
    let error = cluster.documents().await.unwrap_err().to_string();
    for line in [
        "list azureidentities.aadpodidentity.k8s.io in all namespaces \
         (kubectl auth can-i list azureidentities.aadpodidentity.k8s.io -A)",
        "list pods in all namespaces (kubectl auth can-i list pods -A)",
    ] {
        assert!(error.contains(line), "{error}");
    }
    assert!(error.contains("a part would be taken for the whole"), "{error}");
}

#[tokio::test]
async fn who_is_not_known_and_what_goes_wrong_is_told() {
    let cases = [
        (StatusCode::UNAUTHORIZED, "does not know who asks (401)"),
        (StatusCode::INTERNAL_SERVER_ERROR, "with 500: etcd is away"),
    ];
    for (code, words) in cases {
        let cluster = cluster(move |_| status(code, "etcd is away"));
        let error = cluster.documents().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("https://cluster.example"), "{error}");
    }
}

#[tokio::test]
async fn a_list_that_has_grown_too_old_is_begun_anew() {
    let times = std::sync::atomic::AtomicUsize::new(0);
    let cluster = cluster(move |(_, path, _)| {
        let time = times.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match (path.contains("continue"), time) {
            (true, 1) => status(StatusCode::GONE, "expired"),
            (true, _) => list(&json!([{"metadata": {"name": "b"}}])),
            (false, _) => {
                let items = json!([{"metadata": {"name": "a"}}]);
                (OK, json!({"metadata": {"continue": "x"}, "items": items}))
            }
        }
    });
    let pods = cluster.list(&Kind::new("", "v1", "pods", "Pod")).await.unwrap().unwrap();
    let names: Vec<_> = pods.iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn what_is_no_list_is_not_taken_for_an_empty_one() {
    let pods = Kind::new("", "v1", "pods", "Pod");
    for (code, value) in [(OK, json!("<html>log in</html>")), (StatusCode::NOT_FOUND, json!({}))] {
        let cluster = cluster(move |_| (code, value.clone()));
        let error = cluster.list(&pods).await.unwrap_err().to_string();
        assert!(error.contains("answers /api/v1/pods"), "{error}");
    }
}

#[tokio::test]
async fn the_issuer_is_what_the_api_server_says() {
    let cluster = cluster(|_| (OK, json!({"issuer": "https://issuer.example/", "jwks_uri": "x"})));
    assert_eq!(cluster.issuer().await.unwrap(), "https://issuer.example/");
}

/// An API server that answers so for the webhook configuration, and has settings in one namespace.
fn installed(webhook: (StatusCode, Value), namespace: &'static str) -> Cluster {
    cluster(move |(_, path, _)| {
        if path == WEBHOOK {
            return webhook.clone();
        }
        if path == format!("api/v1/namespaces/{namespace}/configmaps/imdslet-config") {
            return (OK, json!({"data": {"AZURE_TENANT_ID": "t.example", "other": 7}}));
        }
        status(StatusCode::NOT_FOUND, "not found")
    })
}

#[tokio::test]
async fn settings_are_those_of_the_installation_wherever_it_is() {
    let in_namespace = |name: &str| {
        (OK, json!({"webhooks": [{"clientConfig": {"service": {"namespace": name}}}]}))
    };
    let gone = status(StatusCode::NOT_FOUND, "not found");
    let forbidden = status(StatusCode::FORBIDDEN, "no");
    let expected = BTreeMap::from([("AZURE_TENANT_ID".to_owned(), "t.example".to_owned())]);
    for (webhook, namespace) in [
        (in_namespace("identity"), "identity"),
        // Settings that were there before the rest, and those of who may not read where it is.
        (gone.clone(), "imdslet-system"),
        (forbidden.clone(), "imdslet-system"),
    ] {
        let settings = installed(webhook, namespace).installed().await;
        assert_eq!(settings.unwrap(), expected, "{namespace}");
    }
    assert!(installed(gone, "identity").installed().await.unwrap().is_empty());
    // It may be where nobody looked.
    let error = installed(forbidden, "identity").installed().await.unwrap_err();
    let LiveError::Forbidden(missing) = error else { panic!("{error}") };
    assert_eq!(missing, BTreeSet::from([format!("get /{WEBHOOK}")]));
    let error = cluster(|_| status(StatusCode::FORBIDDEN, "no")).installed().await.unwrap_err();
    let LiveError::Forbidden(missing) = error else { panic!("{error}") };
    let settings = "get /api/v1/namespaces/imdslet-system/configmaps/imdslet-config".to_owned();
    assert_eq!(missing, BTreeSet::from([format!("get /{WEBHOOK}"), settings]));
    let away = installed(status(StatusCode::INTERNAL_SERVER_ERROR, "no"), "imdslet-system");
    assert!(matches!(away.installed().await, Err(LiveError::Answer { .. })));
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let connect = |context: Option<&str>| {
        let access = Access { kubeconfig: Some(path.clone()), context: context.map(str::to_owned) };
        async move { Cluster::connect(&access).await.err().map(|error| error.to_string()) }
    };
    let error = connect(None).await.unwrap();
    assert!(error.contains("no cluster is known"), "{error}");
    assert!(error.contains("--kubeconfig") && error.contains(path.to_str().unwrap()), "{error}");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                clusters: [{name: k, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                users: [{name: u, user: {}}]\n\
                contexts: [{name: c, context: {cluster: k, user: u}}]\n";
    std::fs::write(&path, text).unwrap();
    let error = connect(Some("other")).await.unwrap();
    assert!(error.contains("other"), "{error}");
    // One whose program to log in is not there.
    let with_program = text.replace(
        "user: {}",
        "user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-login, \
         interactiveMode: Never}}",
    );
    std::fs::write(&path, with_program).unwrap();
    let error = connect(None).await.unwrap();
    assert!(error.starts_with("the kubeconfig runs `no-such-login` to log in"), "{error}");
    std::fs::write(&path, text).unwrap();
    // One that nobody answers.
    let access = Access { kubeconfig: Some(path.clone()), context: None };
    let cluster = Cluster::connect(&access).await.unwrap();
    let error = cluster.issuer().await.unwrap_err().to_string();
    assert!(error.contains("https://127.0.0.1:1 cannot be reached"), "{error}");
}
