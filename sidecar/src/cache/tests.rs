use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::book::{ENTRIES, FAILED_LATELY, FETCHED_AT_ONCE};
use super::*;
use crate::secret::Secret;
use crate::source::{Fetched, Received};
use crate::testing::{identity, now, pod};

mod audit;
mod clocks;

/// A source that does what it is told, and counts. Its wall clock runs with tokio's, which the
/// tests wind on.
#[derive(Clone)]
struct Scripted {
    start: Instant,
    scripts: Arc<Mutex<Scripts>>,
}

/// After so many seconds, a token that lives for so many, or a fault.
type Script = (u64, Result<u64, Fault>);

#[derive(Default)]
struct Scripts {
    /// What the next fetches of a resource bring.
    next: HashMap<String, VecDeque<Script>>,
    begun: usize,
    ended: usize,
}

impl Scripted {
    fn new() -> Self {
        Self { start: Instant::now(), scripts: Arc::default() }
    }

    fn then(self, resource: &str, after: u64, outcome: Result<u64, Fault>) -> Self {
        self.scripts().next.entry(resource.to_owned()).or_default().push_back((after, outcome));
        self
    }

    fn scripts(&self) -> MutexGuard<'_, Scripts> {
        self.scripts.lock().unwrap()
    }

    fn begun(&self) -> usize {
        self.scripts().begun
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn cache(&self) -> Cache {
        let start = self.start;
        Cache::new(Box::new(self.clone()), Arc::new(move || now() + start.elapsed()))
    }
}

#[async_trait]
impl Fetch for Scripted {
    async fn fetch(&self, identity: &PodIdentity, resource: &Resource) -> Result<Fetched, Fault> {
        let (number, script) = {
            let mut scripts = self.scripts();
            scripts.begun += 1;
            let script = scripts.next.get_mut(resource.as_str()).and_then(VecDeque::pop_front);
            (scripts.begun, script)
        };
        let (after, outcome) = script.unwrap_or((0, Ok(3600)));
        sleep(seconds(after)).await;
        self.scripts().ended += 1;
        outcome.map(|life| {
            Received {
                access_token: Secret::new(format!("{}#{number}", identity.name)),
                expires_on: now() + self.elapsed() + seconds(life),
            }
            .into()
        })
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn resource(text: &str) -> Resource {
    Resource::parse(text.to_owned()).unwrap()
}

fn unavailable(retry_after: Option<u64>) -> Fault {
    Fault::Unavailable { status: 503, retry_after: retry_after.map(seconds) }
}

/// What a client sees: the token, or the reason and the seconds to wait.
fn seen(outcome: Outcome) -> Result<String, (&'static str, u64)> {
    match outcome {
        Ok(token) => Ok(token.primary.access_token.reveal().to_owned()),
        Err(Missing::Fault { fault, pause }) => Err((fault.reason(), pause.as_secs())),
        Err(Missing::TooMany { pause }) => Err(("TooManyFailing", pause.as_secs())),
        Err(missing) => Err((missing.reason(), 0)),
    }
}

async fn ask(cache: &Cache, text: &str) -> Result<String, (&'static str, u64)> {
    seen(cache.token(&identity("web/db", '1'), &resource(text), Want::Any, || true).await)
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_once_share_one_fetch() {
    let source = Scripted::new().then("r", 2, Ok(3600));
    let cache = source.cache();
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let cache = cache.clone();
        asking.spawn(async move { ask(&cache, "r").await });
    }
    for got in asking.join_all().await {
        assert_eq!(got, Ok("web/db#1".to_owned()));
    }
    assert_eq!((source.begun(), source.elapsed().as_secs()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_is_counted_and_the_nearest_expiry_is_told() {
    let source = Scripted::new().then("r", 0, Ok(3600)).then("r", 2, Err(unavailable(None))).then(
        "s",
        0,
        Err(unavailable(None)),
    );
    let cache = source.cache();
    let told = |line: &str| {
        let mut text = String::new();
        cache.write_metrics(&mut text);
        let line = format!("imdslet_sidecar_{line}\n");
        assert!(text.contains(&line), "{line}: {text}");
    };
    assert!(ask(&cache, "r").await.is_ok());
    assert!(ask(&cache, "s").await.is_err());
    told(r#"refresh_failures_total{identity="web/db"} 0"#);
    told(r#"token_expiry_seconds{identity="web/db"} 3600"#);
    sleep(seconds(3000)).await;
    assert!(ask(&cache, "r").await.is_ok());
    sleep(seconds(3)).await;
    told(r#"refresh_failures_total{identity="web/db"} 1"#);
    told(r#"fetches_total{identity="web/db",outcome="failed",reason="Unavailable"} 2"#);
    told(r#"fetch_duration_seconds_sum{identity="web/db"} 2.000000"#);
    told(r#"token_expiry_seconds{identity="web/db"} 597"#);
    sleep(seconds(597)).await;
    let mut text = String::new();
    cache.write_metrics(&mut text);
    assert!(!text.contains("token_expiry_seconds{"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn entries_never_wait_for_one_another() {
    let source = Scripted::new().then("slow", 9, Ok(3600)).then("quick", 0, Ok(3600));
    let cache = source.cache();
    let slow = tokio::join!(ask(&cache, "slow"), async {
        assert_eq!(ask(&cache, "quick").await, Ok("web/db#2".to_owned()));
        assert_eq!(source.elapsed().as_secs(), 0);
        let other = identity("ops/mail", '2');
        assert!(cache.token(&other, &resource("slow"), Want::Any, || true).await.is_ok());
        assert_eq!(source.elapsed().as_secs(), 0);
    });
    assert_eq!((slow.0, source.elapsed().as_secs()), (Ok("web/db#1".to_owned()), 9));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_nothing() {
    let source = Scripted::new().then("r", 5, Ok(3600));
    let cache = source.cache();
    let (left, stayed) = tokio::join!(timeout(seconds(1), ask(&cache, "r")), ask(&cache, "r"));
    assert!(left.is_err());
    assert_eq!((stayed, source.begun()), (Ok("web/db#1".to_owned()), 1));

    // Nor does the only one: the next finds the token there.
    assert!(
        timeout(seconds(1), ask(&source.clone().then("s", 5, Ok(9)).cache(), "s")).await.is_err()
    );
    let source = source.then("t", 5, Ok(3600));
    assert!(timeout(seconds(1), ask(&cache, "t")).await.is_err());
    sleep(seconds(5)).await;
    let begun = source.begun();
    assert!(ask(&cache, "t").await.is_ok());
    assert_eq!(source.begun(), begun);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_in_the_background_while_it_is_served() {
    let source = Scripted::new().then("r", 0, Ok(1000)).then("r", 3, Ok(1000));
    let cache = source.cache();
    assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
    sleep(seconds(699)).await;
    assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(source.begun(), 1);
    // 70 % of its life, and up to 5 % more.
    sleep(seconds(51)).await;
    for _ in 0..3 {
        let asked = source.elapsed();
        assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
        assert_eq!(source.elapsed(), asked, "nobody waits for a refresh");
        sleep(Duration::from_millis(1)).await;
    }
    sleep(seconds(3)).await;
    assert_eq!(ask(&cache, "r").await, Ok("web/db#2".to_owned()));
    assert_eq!(source.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_requests_nothing_is_refreshed() {
    let source = Scripted::new().then("r", 0, Ok(1000));
    let cache = source.cache();
    assert!(ask(&cache, "r").await.is_ok());
    sleep(seconds(10_000)).await;
    assert_eq!(source.begun(), 1);
    assert_eq!(ask(&cache, "r").await, Ok("web/db#2".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_outlives_the_outage_of_its_source() {
    let source = Scripted::new()
        .then("r", 0, Ok(1000))
        .then("r", 0, Err(unavailable(None)))
        .then("r", 0, Err(unavailable(Some(100))))
        .then("r", 0, Err(unavailable(None)))
        .then("r", 0, Err(unavailable(None)));
    let cache = source.cache();
    let held = Ok("web/db#1".to_owned());
    assert_eq!(ask(&cache, "r").await, held);
    // (seconds, fetches begun by then): one failure, a pause of 1 s, one more, the 100 s asked for.
    for (at, begun) in [(760, 2), (761, 3), (762, 3), (860, 3), (862, 4), (863, 4), (867, 5)] {
        sleep(seconds(at).saturating_sub(source.elapsed())).await;
        assert_eq!(ask(&cache, "r").await, held, "{at}");
        sleep(Duration::from_millis(1)).await;
        assert_eq!(source.begun(), begun, "{at}");
    }
    assert_eq!(
        cache.held(&identity("web/db", '1')),
        [Held {
            resource: "r".into(),
            expires_on: Some(1_800_001_000),
            last_failure: Some("Unavailable")
        }]
    );
    // It has expired, and the source is back.
    sleep(seconds(1001).saturating_sub(source.elapsed())).await;
    assert_eq!(ask(&cache, "r").await, Ok("web/db#6".to_owned()));
    assert_eq!(cache.held(&identity("web/db", '1'))[0].last_failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_fetch_is_shared_and_then_left_alone_for_a_while() {
    let source = Scripted::new().then("r", 1, Err(unavailable(None))).then(
        "r",
        0,
        Err(unavailable(Some(20))),
    );
    let cache = source.cache();
    let failed = Err(("Unavailable", 1));
    let all = tokio::join!(ask(&cache, "r"), ask(&cache, "r"), ask(&cache, "r"));
    assert_eq!(all, (failed.clone(), failed.clone(), failed.clone()));
    for _ in 0..100 {
        assert_eq!(ask(&cache, "r").await, failed);
    }
    assert_eq!(source.begun(), 1);
    sleep(seconds(1)).await;
    assert_eq!(ask(&cache, "r").await, Err(("Unavailable", 20)));
    sleep(seconds(5)).await;
    assert_eq!(ask(&cache, "r").await, Err(("Unavailable", 15)));
    assert_eq!(source.begun(), 2);
    sleep(seconds(15)).await;
    assert_eq!(ask(&cache, "r").await, Ok("web/db#3".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_served() {
    let source = Scripted::new().then("r", 0, Ok(0)).then("s", 0, Ok(100)).then(
        "s",
        0,
        Err(unavailable(None)),
    );
    let cache = source.cache();
    assert_eq!(ask(&cache, "r").await, Err(("Expired", 1)));
    assert!(ask(&cache, "s").await.is_ok());
    sleep(seconds(100)).await;
    assert_eq!(ask(&cache, "s").await, Err(("Unavailable", 1)));
}

#[tokio::test(start_paused = true)]
async fn tokens_of_identities_that_are_gone_are_dropped() {
    let source = Scripted::new().then("slow", 9, Ok(3600));
    let cache = source.cache();
    let (db, mail) = (identity("web/db", '1'), identity("ops/mail", '2'));
    assert!(cache.token(&db, &resource("r"), Want::Any, || true).await.is_ok());
    assert!(cache.token(&mail, &resource("r"), Want::Any, || true).await.is_ok());
    let (waited, ()) = tokio::join!(ask(&cache, "slow"), async {
        sleep(seconds(1)).await;
        cache.retain(&pod([mail.clone()]));
    });
    assert_eq!((waited, source.elapsed().as_secs()), (Err(("Dropped", 0)), 1));
    assert!(cache.held(&db).is_empty());
    assert_eq!(cache.held(&mail).len(), 1);
    sleep(seconds(20)).await;
    assert_eq!((source.begun(), source.scripts().ended), (3, 2), "the fetch went on for nobody");
}

#[tokio::test(start_paused = true)]
async fn an_edited_identity_is_not_answered_with_what_it_was() {
    let source = Scripted::new();
    let cache = source.cache();
    let mut edited = identity("web/db", '1');
    assert!(cache.token(&edited, &resource("r"), Want::Any, || true).await.is_ok());
    edited.client_id = identity("web/db", '2').client_id;
    assert_eq!(
        seen(cache.token(&edited, &resource("r"), Want::Any, || true).await),
        Ok("web/db#2".to_owned())
    );
    edited.tenant_id = "other.example".to_owned();
    assert_eq!(
        seen(cache.token(&edited, &resource("r"), Want::Any, || true).await),
        Ok("web/db#3".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn entries_are_bounded_and_the_least_useful_goes_first() {
    let source = Scripted::new().then("bad", 0, Err(unavailable(None)));
    let cache = source.cache();
    assert!(ask(&cache, "kept").await.is_ok());
    assert!(ask(&cache, "bad").await.is_err());
    for number in 0..300 {
        assert!(ask(&cache, &number.to_string()).await.is_ok());
        assert!(ask(&cache, "kept").await.is_ok());
    }
    let held = cache.held(&identity("web/db", '1'));
    assert_eq!(held.len(), ENTRIES);
    let has = |name: &str| held.iter().any(|one| one.resource == name);
    assert_eq!((has("kept"), has("bad"), has("0"), has("299")), (true, false, false, true));
    assert_eq!(source.begun(), 302);
}

#[tokio::test(start_paused = true)]
async fn where_every_entry_waits_there_is_no_room() {
    let mut source = Scripted::new();
    for number in 0..ENTRIES {
        source = source.then(&number.to_string(), 5, Ok(3600));
    }
    let cache = source.cache();
    let mut asking = JoinSet::new();
    for number in 0..ENTRIES {
        let cache = cache.clone();
        let identity = identity(&format!("web/{}", number / FETCHED_AT_ONCE), '1');
        asking.spawn(async move {
            seen(cache.token(&identity, &resource(&number.to_string()), Want::Any, || true).await)
        });
    }
    sleep(seconds(1)).await;
    assert_eq!(ask(&cache, "more").await, Err(("Full", 0)));
    let other = identity("web/0", '1');
    let crowded = seen(cache.token(&other, &resource("more"), Want::Any, || true).await);
    assert_eq!(crowded, Err(("TooManyFailing", 1)));
    assert!(asking.join_all().await.iter().all(Result::is_ok));
    assert!(ask(&cache, "more").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn ever_new_resources_that_fail_are_soon_left_alone() {
    let mut source = Scripted::new().then("good", 0, Ok(3600));
    for number in 0..1000 {
        source = source.then(&format!("bad{number}"), 0, Err(unavailable(None)));
    }
    let cache = source.cache();
    for number in 0..1000 {
        let got = ask(&cache, &format!("bad{number}")).await;
        let reason = if number < FAILED_LATELY { "Unavailable" } else { "TooManyFailing" };
        assert_eq!(got.unwrap_err().0, reason, "{number}");
    }
    assert_eq!(source.begun(), FAILED_LATELY);
    // Each is told how long; other identities are not held up by it.
    assert_eq!(ask(&cache, "good").await, Err(("TooManyFailing", 61)));
    let other = identity("ops/mail", '2');
    assert!(cache.token(&other, &resource("good"), Want::Any, || true).await.is_ok());
    sleep(seconds(61)).await;
    assert!(ask(&cache, "good").await.is_ok());
    assert_eq!(source.begun(), FAILED_LATELY + 2);
}

/// Runs the timer beside `asking`.
async fn kept_fresh<T>(cache: &Cache, asking: impl Future<Output = T>) -> T {
    tokio::select! {
        never = cache.clone().keep_fresh(|| ()) => match never {},
        done = asking => done,
    }
}

/// How often which tokens were given since this was asked last.
fn given(cache: &Cache) -> (Vec<(String, u64)>, u64) {
    let Summary { listed, others } = cache.summary();
    (listed.into_iter().map(|given| (given.resource, given.times)).collect(), others)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_is_given_is_neither_counted_nor_refreshed() {
    let db = identity("web/db", '1');
    let source = Scripted::new().then("left", 5, Ok(1000));
    let cache = source.cache();
    kept_fresh(&cache, async {
        // Searched, for what it tells; withheld, since its binding went; and left by who asked.
        assert!(cache.learn(&db, &resource("searched")).await.is_ok());
        assert!(cache.learn(&db, &resource("searched")).await.is_ok());
        let withheld = cache.token(&db, &resource("withheld"), Want::Any, || false).await;
        assert_eq!(seen(withheld), Err(("Dropped", 0)));
        assert!(timeout(seconds(1), ask(&cache, "left")).await.is_err());
        sleep(seconds(4)).await;
        assert_eq!((given(&cache), cache.held(&db).len(), source.begun()), ((vec![], 0), 3, 3));
        sleep(seconds(3000)).await;
        assert_eq!(source.begun(), 3);
        // What is given in the end is counted once, and kept fresh from then on.
        assert!(ask(&cache, "searched").await.is_ok());
        sleep(seconds(1)).await;
        assert_eq!((given(&cache), source.begun()), ((vec![("searched".to_owned(), 1)], 0), 4));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_token_in_use_is_refreshed_unasked_and_one_that_is_not_expires() {
    let source = Scripted::new().then("r", 0, Ok(1000)).then("r", 0, Ok(1000));
    let cache = source.cache();
    kept_fresh(&cache, async {
        assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
        // Between 70 % and 75 % of its life, and not before.
        sleep(seconds(699)).await;
        assert_eq!(source.begun(), 1);
        sleep(seconds(52)).await;
        assert_eq!(source.begun(), 2);
        // Nobody was given the second.
        sleep(seconds(10_000)).await;
        assert_eq!(source.begun(), 2);
        // What is asked for late in its life is refreshed at once, and kept from then on.
        assert_eq!(ask(&cache, "r").await, Ok("web/db#3".to_owned()));
        sleep(seconds(2699)).await;
        assert_eq!(ask(&cache, "r").await, Ok(format!("web/db#{}", source.begun())));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_is_tried_again_unasked_while_the_token_lives() {
    let mut source = Scripted::new().then("r", 0, Ok(1000)).then("r", 0, Err(unavailable(None)));
    source = source.then("r", 0, Err(unavailable(Some(100))));
    for _ in 0..100 {
        source = source.then("r", 0, Err(unavailable(None)));
    }
    let cache = source.cache();
    kept_fresh(&cache, async {
        assert!(ask(&cache, "r").await.is_ok());
        let mut begun = vec![];
        for second in 1..=1100 {
            sleep(seconds(1)).await;
            while begun.len() + 1 < source.begun() {
                begun.push(second);
            }
        }
        // One failure, a pause of 1 s, one more, the 100 s asked for, then 4, 8, 16, 32, 60 s; and
        // none after its end.
        let first = begun[0];
        assert!((700..=751).contains(&first), "{first}");
        let gaps: Vec<_> = begun.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(gaps[..6], [1, 100, 4, 8, 16, 32], "{begun:?}");
        assert!(begun.last().unwrap() <= &1000, "{begun:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_a_token_anew_gets_one_every_few_seconds() {
    let source = Scripted::new().then("r", 0, Ok(3600)).then("r", 1, Ok(3600)).then(
        "r",
        1,
        Err(unavailable(None)),
    );
    let cache = source.cache();
    let anew = || async {
        seen(cache.token(&identity("web/db", '1'), &resource("r"), Want::Anew, || true).await)
    };
    assert_eq!(anew().await, Ok("web/db#1".to_owned()));
    sleep(seconds(4)).await;
    assert_eq!(anew().await, Ok("web/db#1".to_owned()));
    sleep(seconds(1)).await;
    let second = Ok("web/db#2".to_owned());
    let (one, other, held) = tokio::join!(anew(), anew(), ask(&cache, "r"));
    assert_eq!((one, other), (second.clone(), second.clone()));
    assert_eq!((held, source.begun()), (Ok("web/db#1".to_owned()), 2), "others do not wait");
    // A token that is valid is better than none.
    sleep(seconds(5)).await;
    assert_eq!(anew().await, second);
    assert_eq!((anew().await, source.begun()), (second, 3));
}

#[tokio::test(start_paused = true)]
async fn what_was_given_is_counted_once() {
    let source = Scripted::new().then("r", 1, Ok(3600)).then("bad", 0, Err(unavailable(None)));
    let cache = source.cache();
    let both = tokio::join!(ask(&cache, "r"), ask(&cache, "r"));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert!(ask(&cache, "r").await.is_ok());
    assert!(ask(&cache, "bad").await.is_err());
    let times = |summary: &Summary| -> Vec<_> {
        summary.listed.iter().map(|given| (given.resource.clone(), given.times)).collect()
    };
    let first = cache.summary();
    assert_eq!((times(&first), first.others), (vec![("r".to_owned(), 3)], 0));
    assert!(cache.summary().listed.is_empty());

    // Nor is it lost with its identity.
    assert!(ask(&cache, "r").await.is_ok());
    cache.retain(&pod([]));
    assert_eq!(cache.summary(), Summary { listed: Vec::new(), others: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_is_one_answer_lost() {
    struct Panics(AtomicBool);

    #[async_trait]
    impl Fetch for Panics {
        async fn fetch(&self, _: &PodIdentity, _: &Resource) -> Result<Fetched, Fault> {
            assert!(self.0.swap(true, Ordering::Relaxed), "the first fetch panics");
            Ok(Received { access_token: Secret::new("t"), expires_on: now() + seconds(9) }.into())
        }
    }

    let cache = Cache::new(Box::new(Panics(AtomicBool::new(false))), Arc::new(now));
    assert_eq!(ask(&cache, "r").await, Err(("Dropped", 0)));
    assert_eq!(ask(&cache, "r").await, Ok("t".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_principal_is_known_by_the_token_that_is_held_for_it() {
    struct Jwt;

    #[async_trait]
    impl Fetch for Jwt {
        async fn fetch(&self, _: &PodIdentity, _: &Resource) -> Result<Fetched, Fault> {
            // {"oid":"0b1"}
            let access_token = Secret::new("e30.eyJvaWQiOiIwYjEifQ.c2ln");
            Ok(Received { access_token, expires_on: now() + seconds(9) }.into())
        }
    }

    let cache = Cache::new(Box::new(Jwt), Arc::new(now));
    let db = identity("web/db", '1');
    assert!(!cache.has_object_id(&db, "0b1"));
    assert!(ask(&cache, "r").await.is_ok());
    assert!(cache.has_object_id(&db, "0B1"));
    assert!(!cache.has_object_id(&db, "0b2"));
    assert!(!cache.has_object_id(&identity("ops/mail", '2'), "0b1"));
}
