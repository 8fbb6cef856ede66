//! The public keys of the issuers whose assertions are believed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Semaphore;

use super::jwt::{Jwk, Jwks};
use crate::https::{Client, Error, Trust};

/// How long one request to an issuer may take. A lookup makes two.
const DEADLINE: Duration = Duration::from_secs(4);

/// How long an unknown `kid` stays unknown before the issuer is asked for its keys again.
const REFETCH: Duration = Duration::from_secs(5);

/// How long a failure stands before the issuer is asked again: callers that wait for one another
/// all get it, and then the next may try.
const RETRY: Duration = Duration::from_secs(1);

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer has no RS256 key of that name.
    Unknown,
    /// The issuer's keys could not be had.
    Unavailable(String),
}

/// Where an issuer's keys come from.
pub(super) enum Keys {
    /// They are in the configuration.
    Given(Jwks),
    /// The issuer publishes them.
    Published(Box<Published>),
}

impl Keys {
    /// The key `kid`. `now` is only compared with the `now` of other calls.
    pub(super) async fn find(&self, kid: &str, now: Instant) -> Result<Jwk, NoKey> {
        match self {
            Self::Given(keys) => keys.find(kid).cloned().ok_or(NoKey::Unknown),
            Self::Published(published) => published.find(kid, now).await,
        }
    }
}

/// Keys that are fetched when they are first needed, and again when one is missing.
pub(super) struct Published {
    issuer: String,
    client: Client,
    cache: Mutex<Cache>,
    /// One fetch at a time; the others wait for it and take its result.
    fetching: Semaphore,
}

#[derive(Default)]
struct Cache {
    keys: Jwks,
    /// When the issuer was last asked, and what went wrong.
    asked: Option<(Instant, Result<(), String>)>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Published {
    pub(super) fn new(issuer: &str, trust: Trust) -> Result<Self, Error> {
        Ok(Self {
            issuer: issuer.to_owned(),
            client: Client::new(trust)?.with_deadline(DEADLINE),
            cache: Mutex::default(),
            fetching: Semaphore::new(1),
        })
    }

    async fn find(&self, kid: &str, now: Instant) -> Result<Jwk, NoKey> {
        if let Some(answer) = self.cached(kid, now) {
            return answer;
        }
        let permit = self.fetching.acquire().await;
        // Whoever had the permit before may have fetched what is needed.
        if let Some(answer) = self.cached(kid, now) {
            return answer;
        }
        let fetched = self.fetch().await;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = fetched.map(|keys| cache.keys = keys);
        cache.asked = Some((now, outcome.clone()));
        let found = cache.keys.find(kid).cloned();
        drop(cache);
        drop(permit);
        outcome.map_err(NoKey::Unavailable)?;
        found.ok_or(NoKey::Unknown)
    }

    /// The answer that needs no fetch, if there is one.
    fn cached(&self, kid: &str, now: Instant) -> Option<Result<Jwk, NoKey>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = cache.keys.find(kid) {
            return Some(Ok(key.clone()));
        }
        let (when, outcome) = cache.asked.as_ref()?;
        let since = now.saturating_duration_since(*when);
        match outcome {
            Ok(()) => (since < REFETCH).then_some(Err(NoKey::Unknown)),
            Err(problem) => (since < RETRY).then(|| Err(NoKey::Unavailable(problem.clone()))),
        }
    }

    /// Asks the issuer, as OpenID Connect Discovery 1.0 has it (section 4).
    async fn fetch(&self) -> Result<Jwks, String> {
        let base = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
        let url = format!("{base}/.well-known/openid-configuration");
        let discovery: Discovery = self.get(&url).await?;
        if discovery.issuer != self.issuer {
            return Err(format!("{url} says that its issuer is `{}`", discovery.issuer));
        }
        if !discovery.jwks_uri.starts_with("https://") {
            return Err(format!(
                "{url} has a jwks_uri that is not https: `{}`",
                discovery.jwks_uri
            ));
        }
        self.get(&discovery.jwks_uri).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let answer = self.client.get(url).await.map_err(|error| error.to_string())?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("{url} answered with status {}", answer.status().as_u16()));
        }
        serde_json::from_slice(answer.body())
            .map_err(|error| format!("{url} is not readable: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use axum::Router;
    use axum::routing::get;
    use imdslet_certs::{Authority, OldestTls, Resolver, TlsListener, server_config};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::super::LocalIssuer;
    use super::*;

    /// An issuer that publishes its keys over TLS and counts how often they are fetched.
    struct Site {
        url: String,
        authority: Authority,
        fetches: Arc<AtomicUsize>,
        _tasks: JoinSet<()>,
    }

    /// Serves `discovery(url)` and `jwks`.
    async fn site(discovery: impl Fn(&str) -> Value, jwks: Jwks) -> Site {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", tcp.local_addr().unwrap());
        let fetches = Arc::new(AtomicUsize::new(0));
        let (counter, discovery) = (fetches.clone(), discovery(&url));
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(move || std::future::ready(discovery.to_string())),
            )
            .route(
                "/keys",
                get(move || {
                    counter.fetch_add(1, Ordering::Relaxed);
                    std::future::ready(json!(jwks).to_string())
                }),
            );
        let authority = Authority::generate("issuer's CA", SystemTime::now()).unwrap();
        let serving = authority.issue(&["127.0.0.1".to_owned()], SystemTime::now()).unwrap();
        let tls =
            server_config(Arc::new(Resolver::new(serving).unwrap()), OldestTls::V1_3).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            axum::serve(TlsListener::new(tcp, Arc::new(tls)), router).await.unwrap();
        });
        Site { url, authority, fetches, _tasks: tasks }
    }

    impl Site {
        fn keys(&self) -> Keys {
            let trust = Trust::nobody().and(self.authority.pem()).unwrap();
            Keys::Published(Box::new(Published::new(&self.url, trust).unwrap()))
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::Relaxed)
        }
    }

    fn honest(url: &str) -> Value {
        json!({"issuer": url, "jwks_uri": format!("{url}/keys")})
    }

    #[tokio::test]
    async fn keys_are_fetched_once_and_again_for_an_unknown_name_after_a_while() {
        let jwks = LocalIssuer::generate("https://x").unwrap().jwks();
        let kid = jwks.keys[0].kid.clone().unwrap();
        let site = site(honest, jwks).await;
        let keys = site.keys();
        let now = Instant::now();

        // All wait for the one fetch.
        let (a, b, c) =
            tokio::join!(keys.find(&kid, now), keys.find(&kid, now), keys.find(&kid, now));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        assert_eq!(site.fetches(), 1);

        for (after, fetches) in [(0, 1), (4, 1), (5, 2), (9, 2), (10, 3)] {
            let found = keys.find("unknown", now + Duration::from_secs(after)).await;
            assert_eq!(found, Err(NoKey::Unknown));
            assert_eq!(site.fetches(), fetches, "after {after} s");
        }
        assert!(keys.find(&kid, now).await.is_ok());
    }

    #[tokio::test]
    async fn an_issuer_that_lies_or_is_not_trusted_has_no_keys() {
        type Document = fn(&str) -> Value;
        let cases: [(Document, &str); 3] = [
            (
                |url| json!({"issuer": format!("{url}/"), "jwks_uri": url}),
                "says that its issuer is",
            ),
            (|url| json!({"issuer": url, "jwks_uri": "http://x"}), "a jwks_uri that is not https"),
            (|url| json!({"issuer": url}), "is not readable: missing field `jwks_uri`"),
        ];
        for (discovery, expected) in cases {
            let site = site(discovery, Jwks::default()).await;
            let Err(NoKey::Unavailable(problem)) = site.keys().find("x", Instant::now()).await
            else {
                panic!("expected no keys: {expected}");
            };
            assert!(problem.contains(expected), "{problem}");
        }

        let site = site(honest, Jwks::default()).await;
        let keys = Published::new(&site.url, Trust::web()).unwrap();
        let Err(NoKey::Unavailable(problem)) = keys.find("x", Instant::now()).await else {
            panic!("expected no trust");
        };
        assert!(problem.contains("UnknownIssuer"), "{problem}");
    }

    #[tokio::test]
    async fn a_failure_is_remembered_for_a_moment_only() {
        // Bound, but not listening: connections are refused, and nobody else gets the port.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let issuer = format!("https://{}", socket.local_addr().unwrap());
        let keys = Published::new(&issuer, Trust::web()).unwrap();
        let now = Instant::now();
        assert!(matches!(keys.find("x", now).await, Err(NoKey::Unavailable(_))));
        assert!(keys.cached("x", now + Duration::from_millis(999)).is_some());
        assert!(keys.cached("x", now + RETRY).is_none());
    }
}
