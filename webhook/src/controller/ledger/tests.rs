use imdslet_core::objects::Object;
use imdslet_core::running::RunningPod;
use imdslet_core::settings::Given;
use serde_json::json;

use super::*;

fn settings() -> Settings {
    Settings::read(&Given::from([("tenant-id", vec!["contoso.example".to_owned()])])).unwrap()
}

fn bound() -> Index {
    let object = |kind: &str, spec: serde_json::Value| {
        let object = json!({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
            "metadata": {"name": "a", "namespace": "web"}, "spec": spec});
        Object::read(&object, "web").unwrap().unwrap()
    };
    let id = "11111111-1111-1111-1111-111111111111";
    [
        object("AzureIdentity", json!({"clientID": id})),
        object("AzureIdentityBinding", json!({"azureIdentity": "a", "selector": "db"})),
    ]
    .into_iter()
    .collect()
}

const HELD: &str = r#"{"version":1,"hold":true,"identities":[]}"#;

fn seen(uid: &str, version: u64, annotation: &str) -> Seen {
    let pod = json!({
        "metadata": {"namespace": "web", "labels": {"aadpodidbinding": "db"}, "annotations": {
            "imdslet.dev/version": "1", "imdslet.dev/identities": annotation,
        }},
        "spec": {"initContainers": [{"name": "imdslet", "args": ["serve"]}]},
    });
    Seen {
        used: None,
        name: ObjectName::new("web", "p"),
        uid: uid.to_owned(),
        resource_version: version.to_string(),
        maker: None,
        pod: RunningPod::read(&pod.to_string()),
        bare: None,
    }
}

/// A pod that was not asked about.
fn bare(uid: &str) -> Seen {
    let pod = json!({
        "metadata": {"namespace": "web", "labels": {"aadpodidbinding": "db"}}, "spec": {},
    });
    Seen {
        pod: RunningPod::read(&pod.to_string()),
        bare: Some(pod.to_string()),
        ..seen(uid, 1, HELD)
    }
}

struct Bench {
    ledger: Ledger,
    index: Index,
    settings: Settings,
    now: Instant,
    lets_go: bool,
}

impl Bench {
    fn new(index: Index) -> Self {
        let mut bench = Self::unlisted(index);
        assert_eq!(bench.complete(), None);
        bench
    }

    /// Before all pods have been told for the first time.
    fn unlisted(index: Index) -> Self {
        let (mut ledger, settings, now) = (Ledger::default(), settings(), Instant::now());
        ledger.restart();
        Self { ledger, index, settings, now, lets_go: false }
    }

    fn world(&mut self) -> (&mut Ledger, World<'_>) {
        let Self { ledger, index, settings, now, lets_go } = self;
        (ledger, World { index, settings, now: *now, lets_go: *lets_go })
    }

    fn complete(&mut self) -> Option<String> {
        let (ledger, world) = self.world();
        ledger.complete(world)
    }

    fn see(&mut self, seen: Seen) -> Option<&'static str> {
        let (ledger, world) = self.world();
        ledger.see(seen, world).map(|note| note.reason)
    }

    fn gone(&mut self, name: &str) {
        let (ledger, world) = self.world();
        ledger.gone(&ObjectName::new("web", name), world);
    }

    fn set(&mut self, new: Index) {
        self.index = new;
        let (ledger, world) = self.world();
        ledger.review(world);
    }

    fn finish(&mut self, write: &Write, outcome: Outcome) -> Option<&'static str> {
        let (ledger, world) = self.world();
        ledger.finish(write, outcome, world).map(|note| note.reason)
    }

    fn written(&mut self, write: &Write, version: u64) -> Option<&'static str> {
        let annotation = Some(write.change.annotation.clone());
        let resource_version = version.to_string();
        self.finish(write, Outcome::Written { resource_version, annotation })
    }

    fn next(&mut self) -> Option<Write> {
        self.ledger.next_write(self.now)
    }

    fn after(&mut self, wait: Duration) -> Vec<&'static str> {
        self.now += wait;
        self.ledger.due(self.now).into_iter().map(|note| note.reason).collect()
    }
}

#[test]
fn a_late_binding_is_written_once_and_the_watch_that_lags_behind_does_not_matter() {
    let mut bench = Bench::new(Index::default());
    bench.see(seen("u", 5, HELD));
    assert_eq!(bench.next(), None);
    bench.set(bound());
    let write = bench.next().unwrap();
    assert_eq!((write.resource_version.as_str(), bench.next()), ("5", None));
    assert_eq!(bench.written(&write, 7), Some("IdentityBound"));
    bench.see(seen("u", 6, HELD));
    assert_eq!(bench.next(), None);
    bench.see(seen("u", 7, &write.change.annotation));
    assert_eq!((bench.next(), bench.ledger.wake(bench.now).is_some()), (None, true));
    assert!(bench.after(Duration::from_secs(9999)).is_empty());
    assert_eq!(bench.ledger.wake(bench.now), None);
}

#[test]
fn a_conflict_waits_for_the_newer_pod_and_no_longer() {
    let mut bench = Bench::new(bound());
    bench.see(seen("u", 5, HELD));
    let write = bench.next().unwrap();
    assert_eq!(bench.finish(&write, Outcome::Conflict), None);
    assert_eq!(bench.next(), None);
    bench.see(seen("u", 6, HELD));
    let again = bench.next().unwrap();
    assert_eq!(again.resource_version, "6");
    // Here the newer pod is quicker than the answer.
    bench.see(seen("u", 7, HELD));
    bench.finish(&again, Outcome::Conflict);
    assert_eq!(bench.next().unwrap().resource_version, "7");
}

#[test]
fn a_failed_write_is_tried_again_later_and_later() {
    let mut bench = Bench::new(bound());
    bench.see(seen("u", 5, HELD));
    for wait in [625, 1250, 2500] {
        let write = bench.next().unwrap();
        bench.finish(&write, Outcome::Failed);
        // A new status of the pod is no reason to hurry.
        bench.see(seen("u", 6, HELD));
        bench.after(Duration::from_millis(wait * 4 / 5 - 1));
        assert_eq!(bench.next(), None);
        bench.after(Duration::from_millis(wait / 5 + 1));
    }
    assert!(bench.next().is_some());
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let mut bench = Bench::new(bound());
    bench.see(seen("u", 5, HELD));
    let write = bench.next().unwrap();
    bench.see(seen("v", 8, HELD));
    assert_eq!(bench.next().unwrap().uid, "v");
    bench.finish(&write, Outcome::NotFound);
    assert_eq!(bench.ledger.entries.len(), 1);
}

#[test]
fn who_undoes_what_was_written_is_not_fought_at_full_speed() {
    let mut bench = Bench::new(bound());
    let mut writes = 0;
    for version in (0..1000).step_by(2) {
        bench.see(seen("u", version, HELD));
        if let Some(write) = bench.next() {
            writes += 1;
            bench.written(&write, version + 1);
        }
        bench.after(Duration::from_millis(10));
    }
    assert!((3..6).contains(&writes), "{writes} writes in 5 s");
}

#[test]
fn what_stays_wrong_is_said_after_a_while_and_then_less_and_less_often() {
    let mut bench = Bench::new(Index::default());
    bench.see(seen("u", 5, HELD));
    assert!(bench.after(Duration::from_secs(4)).is_empty());
    // A new status of the pod begins nothing anew.
    bench.see(seen("u", 6, HELD));
    assert_eq!(bench.after(Duration::from_secs(1)), ["StillUnbound"]);
    for wait in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
        assert!(bench.after(Duration::from_secs(wait - 1)).is_empty());
        assert_eq!(bench.after(Duration::from_secs(1)), ["StillUnbound"]);
    }
}

#[test]
fn a_pod_that_has_lost_its_identity_hears_of_it_once_and_again_after_a_minute() {
    let mut bench = Bench::new(bound());
    bench.see(seen("u", 5, HELD));
    let write = bench.next().unwrap();
    bench.written(&write, 6);
    bench.set(Index::default());
    let write = bench.next().unwrap();
    assert_eq!(bench.written(&write, 7), Some("IdentityLost"));
    assert!(bench.after(Duration::from_secs(59)).is_empty());
    assert_eq!(bench.after(Duration::from_secs(1)), ["StillUnbound"]);
}

#[test]
fn pods_that_a_new_list_does_not_have_are_forgotten() {
    let mut bench = Bench::new(Index::default());
    bench.see(seen("u", 5, HELD));
    bench.ledger.restart();
    bench.see(seen("u", 5, HELD));
    bench.complete();
    assert_eq!(bench.ledger.entries.len(), 1);
    bench.ledger.restart();
    bench.complete();
    assert!(bench.ledger.entries.is_empty());
    assert!(bench.after(Duration::from_mins(1)).is_empty());
}

#[test]
fn a_pod_that_should_have_a_sidecar_is_told_once_however_often_all_are_listed() {
    let mut bench = Bench::new(bound());
    for listing in 0..2 {
        bench.ledger.restart();
        let told = bench.see(bare("1"));
        assert_eq!(told, (listing == 0).then_some("NotInjected"));
        assert_eq!(bench.see(bare("1")), None);
        bench.complete();
    }
    assert_eq!(bench.see(bare("2")), Some("NotInjected"), "another pod of that name");
    assert_eq!(bench.next(), None);
}

#[test]
fn a_pod_whose_sidecar_reads_another_format_is_told_to_be_created_anew() {
    let mut bench = Bench::new(bound());
    for (uid, version) in [("1", Some("0")), ("2", Some("x")), ("3", None)] {
        let version = LeaveAlone::Version(version.map(str::to_owned));
        let seen = || Seen { pod: Err(version.clone()), ..seen(uid, 1, HELD) };
        assert_eq!(bench.see(seen()), Some("RecreateToInject"), "{version}");
        assert_eq!(bench.see(seen()), None, "{version}");
    }
    assert_eq!(bench.next(), None);
}

/// Pod number `at`, bound.
fn one_of_many(at: usize) -> Seen {
    let told = r#"{"version":1,"hold":false,"identities":[{"name":"web/a","source":"federated","clientId":"11111111-1111-1111-1111-111111111111","resourceId":null,"objectId":null,"tenantId":"contoso.example","allowedResources":null,"secret":null}]}"#;
    Seen { name: ObjectName::new("web", format!("p{at}")), ..seen("u", 1, told) }
}

#[test]
fn a_first_look_by_which_most_of_many_pods_would_lose_what_they_have_takes_nothing() {
    let writes = |bench: &mut Bench| std::iter::from_fn(|| bench.next()).count();
    for (pods, lets_go, expected) in [(9, false, 9), (10, true, 10), (10, false, 0)] {
        let mut bench = Bench::unlisted(Index::default());
        bench.lets_go = lets_go;
        for at in 0..pods {
            bench.see(one_of_many(at));
            assert_eq!(bench.next(), None, "not before it is known of how many");
        }
        let held = bench.complete();
        assert_eq!(held.is_some(), expected == 0, "{pods} {lets_go}");
        assert_eq!(writes(&mut bench), expected, "{pods} {lets_go}");
        // A list that is repeated changes nothing of it.
        bench.complete();
        assert_eq!(writes(&mut bench), 0, "{pods} {lets_go}");
    }
}

#[test]
fn losses_that_are_held_go_on_once_the_objects_are_back_or_a_person_says_so() {
    let start = || {
        let mut bench = Bench::unlisted(Index::default());
        (0..10).for_each(|at| assert_eq!(bench.see(one_of_many(at)), None));
        let message = bench.complete().unwrap();
        assert!(message.starts_with("10 of the 10 pods that have identities would lose them"));
        assert!(message.ends_with("imdslet.dev/let-go=true"), "{message}");
        bench
    };
    let mut bench = start();
    bench.set(bound());
    assert_eq!(bench.next(), None, "all is as it should be");
    bench.set(Index::default());
    assert!(bench.next().is_some(), "what is lost from then on is lost");

    let mut bench = start();
    bench.lets_go = true;
    bench.set(Index::default());
    assert_eq!(std::iter::from_fn(|| bench.next()).count(), 10);
}

/// The pods that made them many go; what the others lose by then is meant.
#[test]
fn losses_are_not_held_any_more_once_few_pods_are_left() {
    for by_relist in [false, true] {
        let mut bench = Bench::unlisted(Index::default());
        (0..12).for_each(|at| assert_eq!(bench.see(one_of_many(at)), None));
        assert!(bench.complete().is_some());
        assert_eq!(bench.next(), None);
        if by_relist {
            bench.ledger.restart();
            bench.see(one_of_many(0));
            assert_eq!(bench.complete(), None);
        } else {
            (1..12).for_each(|at| bench.gone(&format!("p{at}")));
        }
        assert_eq!(std::iter::from_fn(|| bench.next()).count(), 12, "{by_relist}");
        assert_eq!(bench.ledger.losses, Losses::Free, "{by_relist}");
    }
}

fn bound_pod() -> Seen {
    Seen { name: ObjectName::new("web", "p"), ..one_of_many(0) }
}

/// The watch says the same of a pod whose label is removed and of one that is deleted.
#[test]
fn a_bound_pod_that_the_watch_has_lost_sight_of_is_looked_for_and_loses_what_it_has() {
    let start = || {
        let mut bench = Bench::new(bound());
        bench.see(bound_pod());
        assert_eq!(bench.next(), None);
        bench.gone("p");
        let write = bench.next().unwrap();
        assert!(write.is_away);
        assert_eq!(write.change.kind, ChangeKind::Lost);
        (bench, write)
    };
    let (mut bench, write) = start();
    assert_eq!(bench.written(&write, 7), Some("IdentityLost"));
    assert!(bench.ledger.entries.is_empty(), "nothing is left to be taken");

    let (mut bench, write) = start();
    assert_eq!(bench.finish(&write, Outcome::NotFound), None);
    assert!(bench.ledger.entries.is_empty(), "it was deleted");

    // Nothing else tells of it: it is tried again.
    for outcome in [Outcome::Conflict, Outcome::Failed] {
        let (mut bench, write) = start();
        bench.finish(&write, outcome);
        assert_eq!(bench.next(), None);
        bench.after(Duration::from_secs(1));
        assert!(bench.next().unwrap().is_away);
    }

    let (mut bench, write) = start();
    bench.see(Seen { resource_version: "9".to_owned(), ..bound_pod() });
    assert_eq!(bench.finish(&write, Outcome::Conflict), None);
    assert_eq!(bench.ledger.entries.len(), 1, "it has its label again");
    assert_eq!(bench.next(), None);
}

/// Nobody watched when it happened.
#[test]
fn a_pod_that_is_found_without_its_label_loses_what_it_has_unless_the_watch_knows_it() {
    let mut bench = Bench::new(bound());
    let stray = |bench: &mut Bench, seen| {
        let (ledger, world) = bench.world();
        ledger.stray(&seen, world);
    };
    stray(&mut bench, seen("u", 5, HELD));
    stray(&mut bench, bare("u"));
    assert!(bench.ledger.entries.is_empty(), "nothing could be taken from these");
    stray(&mut bench, bound_pod());
    let write = bench.next().unwrap();
    assert!(write.is_away);
    assert_eq!(bench.written(&write, 7), Some("IdentityLost"));
    assert!(bench.ledger.entries.is_empty());

    bench.see(bound_pod());
    stray(&mut bench, bound_pod());
    assert_eq!(bench.next(), None);
}

#[test]
fn a_pod_that_is_deleted_and_has_nothing_is_not_looked_for() {
    let mut bench = Bench::new(bound());
    bench.set(Index::default());
    bench.see(seen("u", 5, HELD));
    bench.gone("p");
    assert!(bench.ledger.entries.is_empty());
    // The kubelet says that the containers have ended before it lets a pod go.
    bench.set(bound());
    bench.see(bound_pod());
    bench.see(Seen { pod: Err(LeaveAlone::Ended), ..bound_pod() });
    bench.gone("p");
    assert_eq!(bench.next(), None);
}

/// That has nothing to do with what this controller may not have seen.
#[test]
fn a_label_that_is_removed_is_followed_while_losses_are_held() {
    let mut bench = Bench::unlisted(Index::default());
    (0..12).for_each(|at| assert_eq!(bench.see(one_of_many(at)), None));
    assert!(bench.complete().is_some());
    bench.gone("p3");
    let write = bench.next().unwrap();
    assert_eq!((write.pod.name.as_str(), bench.next()), ("p3", None));
    assert_eq!(bench.ledger.losses, Losses::Held);
}

/// A pod of this name that a ReplicaSet has made.
fn made(pod: &str, seen: Seen) -> Seen {
    Seen {
        name: ObjectName::new("web", pod),
        uid: pod.to_owned(),
        maker: Some(About {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: ObjectName::new("web", "app"),
            uid: Some("r".to_owned()),
        }),
        ..seen
    }
}

#[test]
fn what_is_wrong_with_the_pods_of_a_workload_is_one_text_with_their_number() {
    let mut bench = Bench::new(Index::default());
    let texts = |bench: &Bench| -> Vec<String> {
        let wrong = bench.ledger.wrong_workloads().into_iter();
        wrong
            .map(|((about, reason), wrong)| format!("{} {reason}: {}", about.name, wrong.text))
            .collect()
    };
    bench.see(seen("u", 5, HELD));
    assert!(texts(&bench).is_empty(), "a pod that a person has made has no workload");
    for pod in ["a", "b", "c"] {
        bench.see(made(pod, seen("u", 5, HELD)));
    }
    bench.see(made("d", bare("u")));
    let [late, unbound] = texts(&bench).try_into().unwrap();
    assert!(
        late.starts_with("web/app NotInjected: 1 of its pods: this pod has the label"),
        "{late}"
    );
    assert!(unbound.starts_with("web/app StillUnbound: 3 of its pods: imdslet: no "), "{unbound}");
    bench.set(bound());
    assert_eq!(texts(&bench), [late]);
    bench.gone("d");
    assert!(texts(&bench).is_empty());
}

#[test]
fn a_change_for_many_pods_is_written_at_a_pace_and_none_is_left_out() {
    let mut bench = Bench::new(Index::default());
    for number in 0..300 {
        bench.see(made(&format!("p{number:03}"), seen("u", 5, HELD)));
    }
    bench.set(bound());
    let began = bench.now;
    let (mut at_once, mut later) = (0, 0);
    loop {
        while let Some(write) = bench.next() {
            assert_eq!(bench.written(&write, 7), Some("IdentityBound"));
            *(if bench.now == began { &mut at_once } else { &mut later }) += 1;
        }
        if at_once + later == 300 {
            break;
        }
        bench.ledger.due(bench.now);
        bench.now = bench.ledger.wake(bench.now).unwrap();
    }
    assert!((75..=110).contains(&at_once), "{at_once} at once");
    assert_eq!(at_once + later, 300);
    let took = bench.now - began;
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(2), "{took:?}");
}
