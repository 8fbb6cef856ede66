use imdslet_core::objects::Object;
use imdslet_core::settings::Given;
use serde_json::{Value, json};

use super::*;
use crate::controller::losses::MANY;

/// A cluster with `count` classes that ask NMI, bound or not, and what was made for them.
fn index(count: usize, client: Option<u8>, made: &[Value]) -> Index {
    let classes = (0..count).map(|at| {
        json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": format!("kv{at}"), "namespace": "web", "uid": "original"},
            "spec": {"provider": "azure", "parameters": {"usePodIdentity": "true"}},
        })
    });
    let bound = client.map(|client| {
        [
            json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
                "metadata": {"name": "i", "namespace": "web"}, "spec": {"tenantID": "t.example",
                "clientID": format!("00000000-0000-0000-0000-{client:012}")}}),
            json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
                "metadata": {"name": "b", "namespace": "web"},
                "spec": {"selector": "db", "azureIdentity": "i"}}),
        ]
    });
    let all = classes.chain(bound.into_iter().flatten()).chain(made.iter().cloned());
    all.map(|value| Object::read(&value, "web").unwrap().unwrap()).collect()
}

struct Bench {
    shelf: Shelf,
    now: Instant,
    made: Vec<Value>,
}

impl Bench {
    fn new() -> Self {
        Self { shelf: Shelf::default(), now: Instant::now(), made: Vec::new() }
    }

    /// One that knows the pods, and has made all that there should be.
    fn with(count: usize) -> Self {
        let mut bench = Self::new();
        bench.shelf.take(News::Restart);
        bench.shelf.take(News::Complete);
        bench.review(count, Some(1));
        while let Some((name, step)) = bench.shelf.next(bench.now) {
            let Step::Create(derived) = &step else { panic!("{step:?}") };
            let mut object = derived.object(Some("7"));
            object["metadata"]["uid"] = json!("derived");
            bench.made.push(object);
            bench.shelf.finish(name, step, bench.now);
        }
        bench.review(count, Some(1));
        assert_eq!(bench.wake(), None);
        bench
    }

    fn review(&mut self, count: usize, client: Option<u8>) -> Vec<Told> {
        let settings = Settings::read(&Given::new()).unwrap();
        self.shelf.review(&index(count, client, &self.made), &settings, (self.now, false))
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// In how many seconds something is to be done.
    fn wake(&self) -> Option<u64> {
        self.shelf.wake(self.now).map(|at| (at - self.now).as_secs())
    }

    /// Takes the next step, which ends at once.
    fn step(&mut self) -> Option<Step> {
        let (name, step) = self.shelf.next(self.now)?;
        assert!(self.shelf.next(self.now).is_none_or(|(other, _)| other != name), "it is busy");
        self.shelf.finish(name, step.clone(), self.now);
        Some(step)
    }

    /// Takes the next step, which replaces the one class that there is; looks again afterwards.
    fn replace(&mut self, client: Option<u8>) -> Derived {
        let Some(Step::Replace(derived, _)) = self.step() else { panic!("nothing is replaced") };
        let mut object = derived.object(Some("8"));
        object["metadata"]["uid"] = json!("derived");
        self.made = vec![object];
        self.review(1, client);
        derived
    }

    fn pod(&mut self, classes: &[&str]) {
        let classes: BTreeSet<_> = classes.iter().map(|class| (*class).to_owned()).collect();
        let (selector, uid) = ("db".to_owned(), "u".to_owned());
        let used = PodUse { selector, classes, uid, is_pending: true };
        let used = Some(used).filter(|used| !used.classes.is_empty());
        self.shelf.take(News::Pod(ObjectName::new("web", "p"), used));
    }

    fn derived_name(&self) -> String {
        self.made[0]["metadata"]["name"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_class_that_is_for_nobody_goes_after_a_while() {
    let mut bench = Bench::with(1);
    assert!(bench.shelf.is_needed());
    bench.review(1, None);
    assert!(!bench.shelf.is_needed());
    // Whom the watch does not show may have it still: at once it gives nothing.
    assert!(bench.replace(None).is_revoked());
    assert_eq!((bench.step(), bench.wake()), (None, Some(10)));
    bench.pass(9);
    // Wanted again meanwhile, its time begins anew.
    bench.review(1, Some(1));
    assert!(!bench.replace(Some(1)).is_revoked());
    assert_eq!(bench.wake(), None);
    bench.review(1, None);
    assert!(bench.replace(None).is_revoked());
    bench.pass(9);
    assert_eq!((bench.step(), bench.wake()), (None, Some(1)));
    bench.pass(1);
    assert_eq!(bench.step(), Some(Step::Delete("derived".to_owned())));
    // If it is still there, somebody uses it whom the watch has not brought: ever less often.
    for wait in [1, 2, 4] {
        assert_eq!((bench.step(), bench.wake()), (None, Some(wait)));
        bench.pass(wait);
        assert!(bench.step().is_some());
    }
}

#[test]
fn one_that_a_pod_uses_loses_its_client_id_at_once_and_goes_with_the_pod() {
    let mut bench = Bench::with(1);
    bench.pod(&[&bench.derived_name()]);
    bench.review(1, None);
    let Some(Step::Replace(derived, version)) = bench.step() else { panic!() };
    assert!(derived.is_revoked());
    assert_eq!(version, "7");
    bench.made = vec![derived.object(Some("8"))];
    bench.review(1, None);
    assert_eq!((bench.step(), bench.wake()), (None, None));
    bench.pod(&[]);
    bench.review(1, None);
    assert_eq!(bench.wake(), Some(10));
}

#[test]
fn nothing_is_taken_away_before_all_pods_are_known() {
    let done = Bench::with(1);
    let mut fresh = Bench { made: done.made.clone(), ..Bench::new() };
    fresh.review(1, None);
    fresh.pass(60);
    assert_eq!((fresh.step(), fresh.wake()), (None, None));
    fresh.shelf.take(News::Restart);
    fresh.pod(&[&done.derived_name()]);
    fresh.shelf.take(News::Complete);
    fresh.review(1, None);
    assert!(fresh.replace(None).is_revoked());
    // A pod that a second listing does not have is gone.
    fresh.shelf.take(News::Restart);
    fresh.shelf.take(News::Complete);
    fresh.review(1, None);
    assert_eq!(fresh.wake(), Some(10));
}

#[test]
fn a_first_look_that_would_take_most_away_takes_nothing() {
    let done = Bench::with(MANY);
    let mut fresh = Bench { made: done.made.clone(), ..Bench::new() };
    fresh.shelf.take(News::Complete);
    let told = fresh.review(MANY, None);
    assert!(matches!(told.as_slice(), [Told::Held(text)] if text.starts_with("10 of the 10 ")));
    fresh.pass(60);
    assert_eq!(fresh.review(MANY, None), []);
    assert_eq!((fresh.step(), fresh.wake()), (None, None));
    // Once most are needed, what goes from then on is meant.
    fresh.review(MANY, Some(1));
    fresh.review(MANY, None);
    assert!(fresh.step().is_some_and(|step| step.takes_away()));
    // And so it is where a person says so.
    let mut told = Bench { made: done.made.clone(), ..Bench::new() };
    told.shelf.take(News::Complete);
    let settings = Settings::read(&Given::new()).unwrap();
    let index = index(MANY, None, &told.made);
    assert_eq!(told.shelf.review(&index, &settings, (told.now, true)), []);
    assert!(told.step().is_some_and(|step| step.takes_away()));
}

#[test]
fn a_first_look_before_there_are_classes_says_nothing_about_the_next_one() {
    let done = Bench::with(MANY);
    let mut fresh = Bench::new();
    fresh.shelf.take(News::Complete);
    fresh.review(0, None);
    // The kind comes, and with it what was made.
    fresh.made.clone_from(&done.made);
    assert!(matches!(fresh.review(MANY, None).as_slice(), [Told::Held(_)]));
    assert_eq!(fresh.step(), None);
}

#[test]
fn a_revocation_that_fails_is_tried_again_within_half_a_minute() {
    let mut bench = Bench::with(1);
    bench.review(1, None);
    for _ in 0..20 {
        assert!(matches!(bench.step(), Some(Step::Replace(..))));
        let wait = bench.wake().unwrap();
        assert!(wait <= 30, "{wait}");
        bench.pass(wait);
    }
}

#[test]
fn whoever_undoes_what_was_written_is_not_fought_at_full_speed() {
    let mut bench = Bench::with(1);
    let mut waits = Vec::new();
    for version in 0..6 {
        let class = &mut bench.made[0];
        class["spec"]["parameters"]["clientID"] = json!("theirs");
        class["metadata"]["resourceVersion"] = json!(version.to_string());
        bench.review(1, Some(1));
        let wait = bench.wake().unwrap();
        waits.push(wait);
        bench.pass(wait);
        assert!(matches!(bench.step(), Some(Step::Replace(..))));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32]);
    // What is to be written for another reason does not wait.
    bench.review(1, Some(2));
    assert_eq!(bench.wake(), Some(0));
}

#[test]
fn a_name_that_somebody_else_has_is_told_once() {
    let mut bench = Bench::with(1);
    bench.made[0]["metadata"]["labels"] = json!({});
    let told = bench.review(1, Some(1));
    let [Told::Taken(derived)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&*derived.origin.class, &*derived.owner), ("kv0", "original"));
    assert_eq!(bench.review(1, Some(1)), []);
    assert_eq!(bench.step(), None);
}

#[test]
fn a_pod_that_came_before_its_class_is_told_once_to_be_created_anew() {
    let mut bench = Bench::with(1);
    bench.pod(&["kv0"]);
    assert_eq!(bench.review(1, Some(1)), []);
    assert_eq!(bench.wake(), Some(30));
    bench.pass(30);
    let told = bench.review(1, Some(1));
    let [Told::Outdated(pod, uid, message)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((pod.to_string().as_str(), uid.as_str()), ("web/p", "u"));
    assert!(message.contains(&bench.derived_name()), "{message}");
    assert_eq!(bench.review(1, Some(1)), []);
    assert_eq!(bench.wake(), None);
    // One that is gone, or is as it should be, is forgotten.
    bench.pod(&[&bench.derived_name()]);
    assert_eq!(bench.review(1, Some(1)), []);
    assert!(bench.shelf.outdated.is_empty());
}
