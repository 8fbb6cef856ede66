use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::body::to_bytes;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use imdslet_core::contract::{PodIdentities, PodIdentity};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::fault::Fault;
use crate::resource::Resource;
use crate::source::{Fetch, Fetched, Received};
use crate::testing::{HEADER, identity, now, parts, pod, project};

mod properties;
mod replay;

/// A source whose tokens say for whom they are.
struct Source(Arc<AtomicUsize>);

#[async_trait]
impl Fetch for Source {
    async fn fetch(&self, identity: &PodIdentity, resource: &Resource) -> Result<Fetched, Fault> {
        self.0.fetch_add(1, Ordering::Relaxed);
        match resource.as_str() {
            "busy" => return Err(Fault::Throttled { retry_after: Some(Duration::from_secs(30)) }),
            "silent" => std::future::pending().await,
            "half-silent" if identity.name == "jwt/silent" => std::future::pending().await,
            "slow" => {
                for _ in 0..9 {
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
        let text = match identity.name.strip_prefix("jwt/") {
            Some(oid) => jwt(oid),
            None => format!("{} for {}", identity.name, resource.as_str()),
        };
        let expires_on = now() + Duration::from_hours(1);
        Ok(Received { access_token: Secret::new(text), expires_on }.into())
    }
}

fn jwt(oid: &str) -> String {
    let claims = URL_SAFE_NO_PAD
        .encode(serde_json::json!({"oid": oid, "tid": format!("tenant of {oid}")}).to_string());
    format!("e30.{claims}.c2ln")
}

/// An endpoint over a folder that the test turns as the kubelet does.
struct Pod {
    dir: TempDir,
    endpoint: Endpoint,
    fetches: Arc<AtomicUsize>,
    turns: usize,
}

impl Pod {
    fn new(pod: &PodIdentities) -> Self {
        Self::by(Arc::new(now), pod)
    }

    /// The same by the clock `now`.
    fn by(now: Now, pod: &PodIdentities) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fetches = Arc::new(AtomicUsize::new(0));
        let cache = Cache::new(Box::new(Source(Arc::clone(&fetches))), Arc::clone(&now));
        let volume = Volume::new(dir.path().to_owned(), None);
        let header = Some(Secret::new(HEADER));
        let endpoint = Endpoint::new(volume, cache, header, now);
        let mut new = Self { dir, endpoint, fetches, turns: 0 };
        new.turn(&serde_json::to_string(pod).unwrap());
        new
    }

    fn turn(&mut self, content: &str) {
        self.turns += 1;
        project(self.dir.path(), &format!("..{}", self.turns), &[("identities.json", content)]);
    }

    async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, Value) {
        let request = Request::from_parts(parts(uri, headers), Body::empty());
        let answer = router(self.endpoint.clone()).oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        assert_eq!(head.headers["content-type"], "application/json; charset=utf-8", "{uri}");
        assert_eq!(head.headers["content-length"], body.len().to_string(), "{uri}");
        (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap())
    }

    async fn imds(&self, query: &str) -> (u16, http::HeaderMap, Value) {
        self.get(&format!("/metadata/identity/oauth2/token?{query}"), &[("Metadata", "true")]).await
    }
}

#[tokio::test]
async fn the_three_protocols_get_the_token_of_the_identity_that_they_name() {
    let pod = Pod::new(&pod([identity("web/db", '1'), identity("ops/mail", '2')]));
    let (status, _, body) = pod.imds("resource=https://vault.azure.net").await;
    assert_eq!(status, 200);
    assert_eq!(body["access_token"], "web/db for https://vault.azure.net");
    assert_eq!(body["client_id"], "c0000000-0000-0000-0000-000000000001");
    assert_eq!(body["expires_on"], "1800003600");

    let mail = "client_id=C0000000-0000-0000-0000-000000000002";
    let (_, _, body) =
        pod.get(&format!("/msi/token?resource=r/&{mail}"), &[("X-IDENTITY-HEADER", HEADER)]).await;
    assert_eq!(body["access_token"], "ops/mail for r/");
    assert_eq!(body["resource"], "r/");

    let (_, _, body) = pod.get("/msi/token?resource=r&clientid=", &[("secret", HEADER)]).await;
    assert_eq!(body["expires_on"], "01/15/2027 09:00:00 +00:00");
}

/// URI, headers, status, Retry-After.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, Option<&'a str>);

#[tokio::test]
async fn each_refusal_has_its_status() {
    let mut guarded = identity("web/db", '1');
    guarded.allowed_resources = Some(vec!["https://vault.azure.net".to_owned()]);
    let pod = Pod::new(&pod([guarded, identity("ops/mail", '2')]));
    let imds: &[(&str, &str)] = &[("Metadata", "true")];
    let mail = "client_id=c0000000-0000-0000-0000-000000000002";
    let cases: [Case<'_>; 10] = [
        ("/msi/token", &[], 400, None),
        ("/msi/token", imds, 400, None),
        ("/msi/token?resource=r&client_id=x", imds, 400, None),
        ("/msi/token?resource=r", &[("secret", "x")], 403, None),
        ("/msi/token?resource=r", &[("Metadata", "true"), ("Origin", "x")], 403, None),
        ("/msi/token?resource=r", imds, 403, None),
        (&format!("/msi/token?resource=busy&{mail}"), imds, 429, Some("30")),
        ("/metadata/instance", imds, 404, None),
        ("/", &[], 404, None),
        ("/state", &[("X-Forwarded-For", "x")], 403, None),
    ];
    for (uri, headers, expected, retry_after) in cases {
        let (status, head, body) = pod.get(uri, headers).await;
        assert_eq!(status, expected, "{uri} {headers:?}");
        assert_eq!(body["statusCode"], expected);
        assert_eq!(body["message"], body["error_description"]);
        let head = head.get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!(head, retry_after, "{uri}");
    }
    let (_, _, body) = pod.imds("resource=r&client_id=x").await;
    assert!(body["message"].as_str().unwrap().contains("web/db, ops/mail"), "{body}");
    assert_eq!(pod.fetches.load(Ordering::Relaxed), 1, "one of them asked Entra ID");
}

#[tokio::test]
async fn other_methods_are_told_what_is_served() {
    let pod = Pod::new(&pod([identity("web/db", '1')]));
    for (method, uri, allow) in [
        (Method::PUT, "/msi/token", "GET, POST"),
        (Method::HEAD, "/metadata/identity/oauth2/token", "GET, POST"),
        (Method::POST, "/metadata/identity/info", "GET"),
        (Method::POST, "/state", "GET"),
    ] {
        let mut head = parts(uri, &[("Metadata", "true")]);
        head.method = method;
        let request = Request::from_parts(head, Body::from("resource=r"));
        let answer = router(pod.endpoint.clone()).oneshot(request).await.unwrap();
        let allowed = answer.headers()["allow"].to_str().unwrap();
        assert_eq!((answer.status().as_u16(), allowed), (405, allow), "{uri}");
    }
}

/// The status and reason of a POST whose form arrives as `body`.
async fn post(pod: &Pod, body: Body) -> (u16, Value) {
    let mut head = parts("/msi/token", &[("Metadata", "true")]);
    head.method = Method::POST;
    let request = Request::from_parts(head, body);
    let answer = router(pod.endpoint.clone()).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_form_is_bounded_in_size_and_in_time() {
    let pod = Pod::new(&pod([identity("web/db", '1')]));
    let (status, body) = post(&pod, Body::from("resource=r&client_id=")).await;
    assert_eq!((status, &body["access_token"]), (200, &"web/db for r".into()));

    let largest = format!("resource=r&x={}", "x".repeat(LARGEST_FORM - "resource=r&x=".len()));
    assert_eq!(post(&pod, Body::from(largest.clone())).await.0, 200);
    let (status, body) = post(&pod, Body::from(largest + "x")).await;
    assert_eq!((status, &body["error"]), (413, &"invalid_request".into()));

    let began = Instant::now();
    let silent = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    assert_eq!(post(&pod, Body::from_stream(silent)).await.0, 408);
    assert_eq!(began.elapsed(), FORM_DEADLINE);

    let cut = futures::stream::iter([Ok("resource="), Err(std::io::Error::other("cut"))]);
    assert_eq!(post(&pod, Body::from_stream(cut)).await.0, 400);
    assert_eq!(post(&pod, Body::from(vec![0xff])).await.0, 400);
    assert_eq!(pod.fetches.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_info_of_an_identity_is_its_tenant() {
    let pod = Pod::new(&pod([identity("web/db", '1'), identity("ops/mail", '2')]));
    let imds: &[(&str, &str)] = &[("Metadata", "true")];
    let info = "/metadata/identity/info?api-version=2018-02-01";
    let (status, _, body) = pod.get(info, imds).await;
    assert_eq!(status, 200);
    assert_eq!(body, serde_json::json!({"tenantId": "70000000-0000-0000-0000-000000000001"}));
    let mail = format!("{info}&client_id=c0000000-0000-0000-0000-000000000002");
    let (_, _, body) = pod.get(&mail, imds).await;
    assert_eq!(body, serde_json::json!({"tenantId": "70000000-0000-0000-0000-000000000002"}));
    assert_eq!(pod.get(info, &[]).await.0, 400);
    assert_eq!(pod.get(&format!("{info}&client_id=x"), imds).await.0, 400);
    assert_eq!(pod.fetches.load(Ordering::Relaxed), 0, "Entra ID is not asked");
}

#[tokio::test]
async fn the_tenant_that_a_managed_identity_does_not_state_is_that_of_its_token() {
    let mut managed = identity("jwt/0b2", '1');
    managed.tenant_id = String::new();
    let pod = Pod::new(&pod([managed]));
    let info = || pod.get("/metadata/identity/info", &[("Metadata", "true")]);
    let (status, _, body) = info().await;
    assert_eq!(status, 400);
    assert!(body["message"].as_str().unwrap().contains("imdslet.dev/tenant-id"), "{body}");
    assert_eq!(pod.imds("resource=r").await.0, 200);
    let (status, _, body) = info().await;
    assert_eq!((status, body), (200, serde_json::json!({"tenantId": "tenant of 0b2"})));
}

#[tokio::test]
async fn a_binding_that_comes_and_goes_is_seen_by_the_next_request() {
    let mut waiting = pod([]);
    waiting.hold = true;
    let mut pod_dir = Pod::new(&waiting);
    let (status, head, body) = pod_dir.imds("resource=r").await;
    assert_eq!((status, &head["retry-after"]), (503, &"2".parse().unwrap()));
    assert!(body["message"].as_str().unwrap().contains("can be used yet"));

    let bound = serde_json::to_string(&pod([identity("web/db", '1')])).unwrap();
    pod_dir.turn(&bound);
    assert_eq!(pod_dir.imds("resource=r").await.0, 200);
    pod_dir.turn(&bound);
    assert_eq!(pod_dir.imds("resource=r").await.0, 200);
    assert_eq!(pod_dir.fetches.load(Ordering::Relaxed), 1, "a renewed token changes nothing");

    pod_dir.turn(r#"{"version":1,"identities":[]}"#);
    let (status, head, _) = pod_dir.imds("resource=r").await;
    assert_eq!((status, head.get("retry-after")), (400, None));
    pod_dir.turn(&bound);
    assert_eq!(pod_dir.imds("resource=r").await.0, 200);
    assert_eq!(pod_dir.fetches.load(Ordering::Relaxed), 2, "its token was dropped meanwhile");
}

#[tokio::test]
async fn who_names_no_identity_gets_the_first_one_as_it_is_now() {
    let (db, mail) = (identity("web/db", '1'), identity("ops/mail", '2'));
    let mut pod_dir = Pod::new(&pod([db.clone(), mail.clone()]));
    for (identities, first) in [
        ([db.clone(), mail.clone()], "web/db for r"),
        ([mail.clone(), db.clone()], "ops/mail for r"),
        ([db, mail], "web/db for r"),
    ] {
        pod_dir.turn(&serde_json::to_string(&pod(identities)).unwrap());
        assert_eq!(pod_dir.imds("resource=r").await.2["access_token"], first);
    }
    assert_eq!(pod_dir.fetches.load(Ordering::Relaxed), 2, "the order drops no token");
}

#[tokio::test]
async fn who_waits_for_an_identity_that_goes_is_answered_by_what_is_left() {
    let mut pod_dir = Pod::new(&pod([identity("web/db", '1')]));
    let waiting = router(pod_dir.endpoint.clone()).oneshot(Request::from_parts(
        parts("/msi/token?resource=silent", &[("Metadata", "true")]),
        Body::empty(),
    ));
    let (answer, ()) = tokio::join!(waiting, async {
        tokio::task::yield_now().await;
        pod_dir.turn("");
        assert_eq!(pod_dir.get("/state", &[]).await.0, 200);
    });
    assert_eq!(answer.unwrap().status().as_u16(), 400);
}

#[tokio::test]
async fn a_token_that_arrives_after_its_binding_went_is_not_given() {
    // Also one that came while an object id was looked for, and is held when it is asked for.
    for by in ["", "&object_id=0b2"] {
        let mut pod_dir = Pod::new(&pod([identity("jwt/0b2", '1')]));
        let waiting = router(pod_dir.endpoint.clone()).oneshot(Request::from_parts(
            parts(&format!("/msi/token?resource=slow{by}"), &[("Metadata", "true")]),
            Body::empty(),
        ));
        let (answer, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            // Nobody else asks meanwhile, so that only the waiting request itself can notice.
            pod_dir.turn("");
        });
        assert_eq!(answer.unwrap().status().as_u16(), 400, "{by}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_what_is_gone_is_neither_renewed_nor_held_though_nobody_asks() {
    let start = Instant::now();
    let clock: Now = Arc::new(move || now() + start.elapsed());
    for (is_gone, fetches) in [(false, 2), (true, 1)] {
        let mut pod_dir = Pod::by(Arc::clone(&clock), &pod([identity("web/db", '1')]));
        assert_eq!(pod_dir.imds("resource=r").await.0, 200);
        if is_gone {
            pod_dir.turn(r#"{"version":1,"identities":[]}"#);
        }
        let look = || drop(pod_dir.endpoint.view());
        let cache = || pod_dir.endpoint.0.cache.clone();
        // Past when it is refreshed, and short of its end.
        timeout(Duration::from_mins(50), cache().keep_fresh(look)).await.unwrap_err();
        assert_eq!(pod_dir.fetches.load(Ordering::Relaxed), fetches, "gone: {is_gone}");
        assert_eq!(cache().held(&identity("web/db", '1')).is_empty(), is_gone);
    }
    // Nothing is in use of one that was only searched for, and so there is nothing to refresh.
    let mut pod_dir = Pod::new(&pod([identity("jwt/0b2", '1')]));
    assert_eq!(pod_dir.imds("resource=r&object_id=0b9").await.0, 400);
    pod_dir.turn(r#"{"version":1,"identities":[]}"#);
    let look = || drop(pod_dir.endpoint.view());
    let cache = pod_dir.endpoint.0.cache.clone();
    timeout(Duration::from_secs(61), cache.clone().keep_count(look)).await.unwrap_err();
    assert!(cache.held(&identity("jwt/0b2", '1')).is_empty());
}

#[tokio::test]
async fn a_broken_file_keeps_what_was_known_and_at_the_start_there_is_nothing() {
    let mut pod_dir = Pod::new(&pod([identity("web/db", '1')]));
    assert_eq!(pod_dir.imds("resource=r").await.0, 200);
    pod_dir.turn("{");
    assert_eq!(pod_dir.imds("resource=r").await.0, 200);
    let (_, _, state) = pod_dir.get("/state", &[]).await;
    assert_eq!(state["identities"][0]["name"], "web/db");
    assert!(state["problem"].as_str().unwrap().contains("no JSON"));

    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(Box::new(Source(Arc::default())), Arc::new(now));
    let volume = Volume::new(dir.path().to_owned(), None);
    pod_dir.endpoint = Endpoint::new(volume, cache, None, Arc::new(now));
    let (status, head, body) = pod_dir.imds("resource=r").await;
    assert_eq!((status, &head["retry-after"]), (503, &"5".parse().unwrap()));
    assert!(body["message"].as_str().unwrap().contains("identities.json"));
}

#[tokio::test]
async fn an_object_id_that_nobody_stated_is_learned_from_a_token_of_each_identity() {
    // The token of each tells {"oid":"0b2"}, {"oid":"0b3"} by its name.
    let mut stated = identity("web/stated", '1');
    stated.object_id = Some("0b1".to_owned());
    let mut closed = identity("web/closed", '4');
    closed.allowed_resources = Some(Vec::new());
    let pod = Pod::new(&pod([stated, identity("jwt/0b2", '2'), identity("jwt/0b3", '3'), closed]));
    let fetches = || pod.fetches.load(Ordering::Relaxed);
    let (status, _, body) = pod.imds("resource=r&object_id=0b3").await;
    assert_eq!((status, &body["client_id"]), (200, &identity("", '3').client_id.into()), "{body}");
    assert_eq!(fetches(), 2, "one for each that may be it");
    for _ in 0..3 {
        assert_eq!(pod.imds("resource=r&object_id=0b9").await.0, 400);
        assert_eq!(pod.imds("resource=other&object_id=0b9").await.0, 400);
    }
    assert_eq!(
        pod.imds("resource=r&object_id=0b1").await.2["client_id"],
        identity("", '1').client_id
    );
    assert_eq!(fetches(), 3, "what is known is not asked for again");
}

#[tokio::test(start_paused = true)]
async fn by_object_id_an_identity_waits_for_no_other_one() {
    let pod = Pod::new(&pod([identity("jwt/silent", '1'), identity("jwt/0b2", '2')]));
    let found = pod.imds("resource=half-silent&object_id=0b2");
    let (status, _, body) = timeout(Duration::from_secs(1), found).await.unwrap();
    assert_eq!((status, &body["client_id"]), (200, &identity("", '2').client_id.into()));
}

#[tokio::test]
async fn where_entra_id_is_busy_nobody_says_that_an_object_id_is_unknown() {
    let pod = Pod::new(&pod([identity("web/db", '1'), identity("ops/mail", '2')]));
    for _ in 0..3 {
        assert_eq!(pod.imds("resource=busy&object_id=0b9").await.0, 429);
    }
    assert_eq!(pod.fetches.load(Ordering::Relaxed), 2);
    // Tokens that tell no object id are held all the same.
    for _ in 0..3 {
        assert_eq!(pod.imds("resource=r&object_id=0b9").await.0, 400);
    }
    assert_eq!(pod.fetches.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn the_state_tells_names_and_results_and_nothing_to_steal() {
    let pod = Pod::new(&pod([identity("web/db", '1'), identity("ops/mail", '2')]));
    pod.imds("resource=r").await;
    pod.imds("resource=busy").await;
    let (status, _, state) = pod.get("/state", &[]).await;
    assert_eq!(status, 200);
    assert_eq!(
        state,
        serde_json::json!({
            "version": 1,
            "hold": false,
            "identities": [
                {
                    "name": "web/db",
                    "source": "federated",
                    "default": true,
                    "tokens": [
                        {"resource": "busy", "expiresOn": null, "lastResult": "failed", "reason": "Throttled"},
                        {"resource": "r", "expiresOn": 1_800_003_600, "lastResult": "fetched", "reason": null},
                    ],
                },
                {"name": "ops/mail", "source": "federated", "default": false, "tokens": []},
            ],
        })
    );
}

/// Status, type and text of what `router` answers to a GET of `uri` under `host`.
async fn scrape(router: Router, host: &str, uri: &str) -> (u16, http::HeaderValue, String) {
    let mut head = parts(uri, &[]);
    head.headers.insert("host", host.parse().unwrap());
    let answer = router.oneshot(Request::from_parts(head, Body::empty())).await.unwrap();
    let (head, body) = answer.into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().into()).unwrap();
    (head.status.as_u16(), head.headers["content-type"].clone(), text)
}

#[tokio::test]
async fn the_metrics_count_every_request_and_name_nothing_that_a_client_sent() {
    let pod = Pod::new(&pod([identity("web/db", '1')]));
    for _ in 0..3 {
        pod.imds("resource=sent&client_id=").await;
    }
    pod.imds("resource=busy").await;
    pod.imds("resource=sent&client_id=sent").await;
    pod.get("/msi/token?resource=r", &[("secret", "sent")]).await;
    pod.get("/sent", &[("X-Sent", "sent")]).await;
    let body = Body::from("resource=r");
    assert_eq!(post(&pod, body).await.0, 200);
    let (status, content_type, text) =
        scrape(router(pod.endpoint.clone()), "[::1]", "/metrics").await;
    assert_eq!(
        (status, content_type),
        (200, "text/plain; version=0.0.4; charset=utf-8".parse().unwrap())
    );
    assert!(!text.contains("sent"), "{text}");
    for line in [
        r#"requests_total{route="imds",outcome="ok",reason=""} 3"#,
        r#"requests_total{route="imds",outcome="failed",reason="Throttled"} 1"#,
        r#"requests_total{route="imds",outcome="refused",reason="UnknownIdentity"} 1"#,
        r#"requests_total{route="app-service-2017",outcome="refused",reason="WrongHeader"} 1"#,
        r#"requests_total{route="cloud-shell",outcome="ok",reason=""} 1"#,
        r#"requests_total{route="other",outcome="refused",reason="NotHere"} 1"#,
        r#"fetches_total{identity="web/db",outcome="ok",reason=""} 2"#,
        r#"fetches_total{identity="web/db",outcome="failed",reason="Throttled"} 1"#,
        r#"token_expiry_seconds{identity="web/db"} 3600"#,
    ] {
        assert!(text.contains(&format!("imdslet_sidecar_{line}\n")), "{line}: {text}");
    }
    let (status, _, text) = scrape(router(pod.endpoint.clone()), "10.0.0.7", "/metrics").await;
    assert_eq!((status, text.contains("ForeignHost")), (403, false), "{text}");
}

#[tokio::test]
async fn the_port_of_the_metrics_gives_no_token_and_no_state() {
    let pod = Pod::new(&pod([identity("web/db", '1')]));
    let ask = |uri| scrape(metrics_router(pod.endpoint.clone()), "10.0.0.7:9579", uri);
    for uri in ["/", "/state", "/msi/token?resource=r"] {
        let (status, content_type, text) = ask(uri).await;
        assert_eq!(
            (status, content_type),
            (404, "application/json; charset=utf-8".parse().unwrap())
        );
        assert!(text.contains("nothing but /metrics"), "{text}");
    }
    let (status, _, text) = ask("/metrics").await;
    assert_eq!(status, 200);
    let counted = r#"requests_total{route="other",outcome="refused",reason="OnlyMetrics"} 3"#;
    assert!(text.contains(counted) && !text.contains(r#"route="imds""#), "{text}");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_logged_once_a_minute_for_each_reason() {
    let pod = Pod::new(&pod([identity("web/db", '1')]));
    let told = |reason| pod.endpoint.0.told.lock().unwrap().get(reason).copied();
    pod.imds("").await;
    let first = told("NoResource").unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    pod.imds("").await;
    assert_eq!(told("NoResource"), Some(first));
    tokio::time::advance(Duration::from_secs(1)).await;
    pod.imds("").await;
    assert!(told("NoResource").unwrap() > first);
}
