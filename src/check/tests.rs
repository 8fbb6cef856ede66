use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::{Issuer, Key, Outside, State};
use super::testing::{
    also, definition, deployment, entry_of, fetched, followed, healthy, key, labelled, managed,
    nmi, pod, refused, release, state, stuck_sidecar, waiting,
};
use super::*;

/// What is not as it should be, each with its verdict and all its words.
fn found(facts: &Facts) -> Vec<(&'static str, Verdict, String)> {
    let report = judge(facts, "0.1.0");
    let checks = report.groups.into_iter().flat_map(|group| group.checks);
    let bad = checks.filter(|check| check.verdict != Verdict::Passed);
    bad.map(|check| {
        let words =
            [check.message, check.remedy].into_iter().flatten().collect::<Vec<_>>().join("; ");
        (check.name, check.verdict, words)
    })
    .collect()
}

#[test]
fn a_cluster_that_is_as_it_should_be_has_ticks_alone() {
    assert_eq!(found(&healthy()), []);
    let report = judge(&healthy(), "0.1.0");
    assert_eq!(report.verdict(), Verdict::Passed);
    let text = report.write(Format::Text, false);
    assert!(text.starts_with("cluster\n-------\n√ Kubernetes v1.34.4 is new enough\n"), "{text}");
    assert!(text.ends_with("Status check results are √\n"), "{text}");
    assert!(!text.contains('\u{1b}'));
    assert!(report.write(Format::Text, true).contains("\u{1b}[32m√\u{1b}[0m"));
    let json: Value = serde_json::from_str(&report.write(Format::Json, true)).unwrap();
    assert_eq!(json["groups"][0]["checks"][0]["verdict"], "passed");
}

/// A name, what is done to the facts, and what is found: check, verdict, words.
type Case = (fn(&mut Facts), &'static str, Verdict, &'static str);

#[test]
fn what_is_wrong_with_a_cluster_is_named_alone_with_what_to_do() {
    use Verdict::{Failed, Note, Unknown, Warning};
    each(&[
        (|f| f.version = Ok("v1.28.3".into()), "kubernetes-version", Failed, "needs 1.29"),
        (|f| f.version = Ok("v1.29.9".into()), "kubernetes-version", Warning, "need 1.30"),
        (
            |f| f.version = Ok("v1.30+".into()),
            "kubernetes-version",
            Warning,
            "--kubernetes-version",
        ),
        (|f| f.version = Err("no".into()), "kubernetes-version", Unknown, "no"),
        (
            |f| drop(f.definitions.as_mut().unwrap().pop()),
            "custom-resources",
            Failed,
            "azurepodidentityexceptions",
        ),
        (
            |f| f.definitions.as_mut().unwrap()[0] = definition("azureidentities", false),
            "custom-resources",
            Warning,
            "--server-side",
        ),
        (
            |f| f.issuer.as_mut().unwrap().keys.push(key("k2", "n")),
            "issuer",
            Failed,
            "the cluster's key k2",
        ),
        (
            |f| f.issuer.as_mut().unwrap().keys = vec![key("k1", "other")],
            "issuer",
            Failed,
            "under the id k1 https://i.example/ shows another key than the cluster's",
        ),
        (
            |f| f.definitions.as_mut().unwrap()[2]["metadata"]["annotations"] = json!({"meta.helm.sh/release-name": "mic", "meta.helm.sh/release-namespace": "old"}),
            "custom-resources-owner",
            Warning,
            "Helm's release mic of namespace old has brought them",
        ),
        (
            |f| {
                f.definitions.as_mut().unwrap()[0]["metadata"]["labels"] =
                    json!({"addonmanager.kubernetes.io/mode": "Reconcile"});
            },
            "custom-resources-owner",
            Warning,
            "an add-on of the cluster",
        ),
        (|f| f.identities = Err("forbidden".into()), "node-metadata", Unknown, "forbidden"),
        (
            |f| f.identities = Ok(vec![managed()]),
            "node-metadata",
            Note,
            "whether AKS itself does cannot be told from here; az aks show",
        ),
        (
            |f| {
                f.identities = Ok(vec![managed()]);
                f.network_policies = Ok(vec![json!({
                    "metadata": {"namespace": "web", "name": "deny"},
                    "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
                })]);
            },
            "node-metadata",
            Failed,
            "NetworkPolicy web/deny keeps the pods of its namespace from 169.254.169.254",
        ),
        (
            |f| f.issuer.as_mut().unwrap().outside = Outside::Unreachable("refused".into()),
            "issuer",
            Warning,
            "--enable-oidc-issuer",
        ),
        (|f| f.issuer = Err("forbidden".into()), "issuer", Unknown, "forbidden"),
        (
            |f| f.workers.as_mut().unwrap().push(nmi()),
            "aad-pod-identity",
            Warning,
            "DaemonSet/kube-system/nmi",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_an_installation_is_named_alone_with_what_to_do() {
    use Verdict::{Failed, Unknown, Warning};
    each(&[
        (|f| f.webhook = Err("forbidden".into()), "installed", Unknown, "forbidden"),
        (
            |f| f.workers.as_mut().unwrap()[0] = deployment("imdslet-webhook", 0),
            "webhook-ready",
            Failed,
            "0 of 2",
        ),
        // Those of before are still there.
        (
            |f| f.workers.as_mut().unwrap()[1]["spec"]["replicas"] = json!(0),
            "controller-ready",
            Failed,
            "it is scaled to 0; kubectl -n imdslet-system scale deployment imdslet-controller --replicas=2",
        ),
        (
            |f| f.workers.as_mut().unwrap()[1] = deployment("imdslet-controller", 1),
            "controller-ready",
            Warning,
            "1 of 2",
        ),
        (
            |f| {
                f.workers.as_mut().unwrap()[0] = deployment("imdslet-webhook", 0);
                f.own_pods = Ok(vec![waiting("imdslet-webhook", "a")]);
            },
            "webhook-ready",
            Failed,
            "0 of 2 are ready: container a (r/a:1) of pod imdslet-system/imdslet-webhook-1: \
             ImagePullBackOff: not found; name an image that the nodes can pull",
        ),
        (
            |f| {
                f.workers.as_mut().unwrap()[1] = deployment("imdslet-controller", 1);
                f.workers.as_mut().unwrap()[1]["status"]["conditions"] =
                    json!([{"type": "ReplicaFailure", "status": "True", "message": "quota"}]);
            },
            "controller-ready",
            Warning,
            "1 of 2 are ready: its pods are refused: quota",
        ),
        (
            |f| f.own_pods = Ok(vec![waiting("imdslet-controller", "c")]),
            "controller-ready",
            Warning,
            "2 of 2 are ready, and the one that is to take their place is not: container c",
        ),
        (|f| f.settings = Ok(BTreeMap::new()), "tenant", Warning, "ConfigMap imdslet-system/"),
        (|f| f.lease = Ok(None), "leader", Failed, "none has led yet"),
        (|f| f.now += 120, "leader", Failed, "120 s old"),
        (|f| release(f, "0.2.0"), "releases", Warning, "controller 0.2.0"),
        (
            |f| entry_of(f)["clientConfig"]["caBundle"] = json!(""),
            "ca-bundle",
            Failed,
            "pods.imdslet.dev has no certificate",
        ),
        (
            |f| entry_of(f)["objectSelector"] = json!({}),
            "circular-start",
            Failed,
            "without the label; put its objectSelector back: apply your own install.yaml again, with its \
             tenant and images (not the one that was shipped), or helm upgrade",
        ),
        (
            |f| f.workers.as_mut().unwrap().push(labelled()),
            "circular-start",
            Warning,
            "Deployment/kube-system/dns",
        ),
        (
            |f| f.rehearsal.as_mut().unwrap().answer = pod(false),
            "admission",
            Failed,
            "admitted as it was",
        ),
        (
            |f| refused(f, 500, "failed calling webhook \"pods.imdslet.dev\""),
            "admission",
            Failed,
            "Service imdslet-webhook leads",
        ),
        (|f| refused(f, 422, "quota"), "admission", Failed, "is refused (422): quota"),
        (
            |f| refused(f, 403, "User \"u\" cannot create resource \"pods\""),
            "admission",
            Unknown,
            "may not create pods in default",
        ),
        (|f| f.pods = Ok(vec![pod(false)]), "sidecars", Warning, "web/app-1"),
    ]);
}

/// It would come back with the tenant and the images of nobody.
#[test]
fn what_is_missing_of_an_installation_is_not_brought_back_by_the_file_as_it_was_shipped() {
    let mut facts = healthy();
    facts.workers.as_mut().unwrap().remove(0);
    let [("webhook-ready", Verdict::Failed, said), ("releases", Verdict::Unknown, _)] =
        &*found(&facts)
    else {
        panic!("{:?}", found(&facts))
    };
    let words = "Deployment imdslet-system/imdslet-webhook does not exist; apply your own install.yaml again, \
                 with its tenant and images";
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("manifests/install.yaml"), "{said}");
    let mut facts = healthy();
    facts.definitions.as_mut().unwrap().pop();
    let [("custom-resources", Verdict::Failed, said)] = &*found(&facts) else { panic!() };
    assert!(said.ends_with("; kubectl apply -f manifests/crds.yaml"), "{said}");
}

#[test]
fn what_keeps_a_workload_from_its_tokens_is_named_alone_with_what_to_do() {
    use Verdict::{Failed, Unknown, Warning};
    each(&[
        (|f| f.workloads[0].pods = Ok(Vec::new()), "pods", Failed, "there is no pod of it"),
        (
            |f| f.workloads[0].pods.as_mut().unwrap()[0].pod = pod(false),
            "sidecar",
            Failed,
            "explain",
        ),
        (
            |f| stuck_sidecar(f, waiting("app", "imdslet")),
            "sidecar",
            Failed,
            "(r/imdslet:1) of pod web/app-1: ImagePullBackOff: not found; name an image that the \
             nodes can pull, with its registry, and the pull secrets that the registry wants; its \
             image is `sidecar.image` of the chart",
        ),
        // In link-local mode another one is made of its image, and begins before it.
        (
            |f| stuck_sidecar(f, waiting("app", "imdslet-address")),
            "sidecar",
            Failed,
            "(r/imdslet-address:1) of pod web/app-1: ImagePullBackOff: not found; name an image",
        ),
        (
            |f| {
                also(
                    f,
                    state(Some("NoFederatedCredential"), None),
                    Some(Ok(fetched("failed", "x"))),
                );
            },
            "token",
            Failed,
            "(NoFederatedCredential): what it says; it is the federated credential",
        ),
        (
            |f| also(f, state(Some("NoAnswer"), None), Some(Err("you may not".into()))),
            "token",
            Failed,
            "its log, which says more, was not read: you may not; it is the network",
        ),
        // An application has a token as long as it is good.
        (
            |f| also(f, state(Some("Throttled"), Some(630)), Some(Ok(String::new()))),
            "token",
            Warning,
            "is good for 10 min more and is not renewed (Throttled); it is Entra ID itself",
        ),
        (
            |f| also(f, state(Some("Throttled"), Some(0)), None),
            "token",
            Failed,
            "no token of web/db",
        ),
        (
            |f| {
                f.workloads[0].pods.as_mut().unwrap()[0].state =
                    Ok(State { identities: vec![], problem: None });
            },
            "token",
            Warning,
            "knows another list of identities yet: none",
        ),
        (
            |f| {
                f.workloads[0].pods.as_mut().unwrap()[0].state =
                    Ok(State { identities: vec![], problem: Some("no JSON".into()) });
            },
            "token",
            Failed,
            "cannot use what it is told: no JSON",
        ),
        (
            |f| also(f, Err("you may not forward".into()), Some(Err("you may not read".into()))),
            "token",
            Unknown,
            "you may not forward; the sidecar's log neither: you may not read",
        ),
    ]);
}

#[test]
fn how_the_sidecars_image_is_had_is_told_to_who_lacks_it_and_to_nobody_else() {
    let said = |pod: Value| {
        let mut facts = healthy();
        stuck_sidecar(&mut facts, pod);
        let found = found(&facts);
        let [("sidecar", Verdict::Failed, said)] = found.as_slice() else { panic!("{found:?}") };
        said.clone()
    };
    let pull_secrets = "with pull secrets of its own, and with those that `sidecar.imagePullSecrets` of \
                        the chart, IMDSLET_SIDECAR_PULL_SECRET of the ConfigMap, names, if its namespace";
    let without_image = said(waiting("app", "imdslet"));
    assert!(without_image.contains(pull_secrets), "{without_image}");
    let mut broken = waiting("app", "imdslet");
    broken["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] =
        json!("CrashLoopBackOff");
    let unscheduled = json!({"status": {"conditions": [
        {"type": "PodScheduled", "reason": "Unschedulable", "message": "no room"}]}});
    for (pod, remedy) in
        [(broken, "-c imdslet --previous"), (unscheduled, "tolerations and affinity")]
    {
        let said = said(pod);
        assert!(said.ends_with(remedy), "{said}");
    }
}

fn each(cases: &[Case]) {
    for (at, (breaks, name, verdict, words)) in cases.iter().enumerate() {
        let mut facts = healthy();
        breaks(&mut facts);
        let found = found(&facts);
        let [(one, what, said)] = found.as_slice() else { panic!("case {at}, {name}: {found:?}") };
        assert_eq!((one, what), (name, verdict), "case {at}: {said}");
        assert!(said.contains(words), "case {at}, {name}: {said}");
    }
}

#[test]
fn what_is_no_fault_is_not_taken_for_one() {
    let mut facts = healthy();
    let denied = "admission webhook \"pods.imdslet.dev\" denied the request: imdslet: no binding";
    refused(&mut facts, 403, denied);
    // A namespace that imdslet is kept out of, and a registry with a port.
    facts.pods = Ok(vec![pod(false)]);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "web", "labels": {"imdslet.dev/injection": "disabled"}}});
    let object = imdslet_core::objects::Object::read(&namespace, "web").unwrap().unwrap();
    facts.index = Ok([object].into_iter().collect());
    assert_eq!(found(&facts), []);
    let mut old = nmi();
    old["spec"]["template"]["spec"]["containers"][0]["image"] = json!("localhost:5000/x/nmi");
    facts.workers.as_mut().unwrap().push(old);
    assert_eq!(found(&facts)[0].0, "aad-pod-identity");
    // What the installation brings is not missed before it.
    facts = healthy();
    facts.webhook = Ok(None);
    facts.definitions = Ok(Vec::new());
    let names: Vec<_> =
        found(&facts).into_iter().map(|(name, verdict, _)| (name, verdict)).collect();
    let expected = [
        ("custom-resources", Verdict::Warning),
        ("node-metadata", Verdict::Note),
        ("installed", Verdict::Warning),
    ];
    assert_eq!(names, expected);
}

#[test]
fn an_issuer_of_no_use_is_a_failure_and_one_that_cannot_be_judged_is_unknown() {
    let issuer = |change: fn(&mut Issuer)| {
        let mut facts = healthy();
        change(facts.issuer.as_mut().unwrap());
        found(&facts).into_iter().map(|(name, verdict, _)| (name, verdict)).collect::<Vec<_>>()
    };
    let failed = [("issuer", Verdict::Failed)];
    assert_eq!(
        issuer(|one| one.url = "https://kubernetes.default.svc.cluster.local".into()),
        failed
    );
    assert_eq!(issuer(|one| one.url = "http://i.example/".into()), failed);
    assert_eq!(issuer(|one| one.outside = Outside::Wrong("404".into())), failed);
    assert_eq!(issuer(|one| one.keys.clear()), [("issuer", Verdict::Unknown)]);
    // One of them is waited for, and the other may become known.
    let mut facts = healthy();
    assert_eq!(judge(&facts, "0.1.0").open(), Vec::<&str>::new());
    facts.issuer.as_mut().unwrap().keys.clear();
    facts.rehearsal = Err("forbidden".to_owned());
    assert_eq!(judge(&facts, "0.1.0").open(), ["issuer", "admission"]);
}

#[test]
fn a_key_is_told_from_another_by_its_numbers() {
    let read = |n: &str| {
        Key::all(&json!({"keys": [
            {"kid": "a", "kty": "RSA", "alg": "RS256", "n": n, "e": "AQAB"},
            {"kid": "b", "kty": "EC", "crv": "P-256", "x": n, "y": "y"},
            {"kty": "RSA", "n": "of no name"},
        ]}))
    };
    assert_eq!(read("one").len(), 2);
    assert_eq!(read("one"), read("one="));
    assert!(read("one").iter().zip(read("two")).all(|(one, two)| *one != two && one.id == two.id));
}

#[test]
fn a_note_is_told_and_counts_for_nothing() {
    let mut facts = healthy();
    facts.identities = Ok(vec![managed()]);
    let report = judge(&facts, "0.1.0");
    assert_eq!(report.verdict(), Verdict::Passed);
    let text = report.write(Format::Text, false);
    assert!(
        text.contains("\ni the node's metadata service is open to whom it should be\n    an Azure"),
        "{text}"
    );
    assert!(text.ends_with("Status check results are √\n"), "{text}");
}

#[test]
fn where_a_sidecar_is_not_asked_its_log_is_read_and_that_is_said() {
    let by_log = |lines: &[String]| {
        let mut facts = healthy();
        let log = Some(Ok(lines.join("\n")));
        facts.workloads[0].pods = Ok(vec![followed(Err("you may not forward".into()), log)]);
        let report = judge(&facts, "0.1.0");
        let check = report.groups.into_iter().last().unwrap().checks.into_iter().last().unwrap();
        (check.verdict, check.title, check.message.unwrap())
    };
    let failed = || fetched("failed", "NoFederatedCredential");
    let (verdict, title, message) = by_log(&[failed(), fetched("fetched", ""), "no json".into()]);
    assert_eq!((verdict, &*title), (Verdict::Passed, "its sidecar got 1 of 1 tokens"));
    assert!(message.contains("the sidecar itself was not asked: you may not forward"), "{message}");
    let (verdict, _, message) = by_log(&[fetched("fetched", ""), failed()]);
    assert_eq!(verdict, Verdict::Failed);
    assert!(message.contains("what it says\nthe sidecar's log says so"), "{message}");
    let (verdict, title, _) = by_log(&[]);
    assert_eq!(verdict, Verdict::Passed);
    assert!(title.starts_with("no token was asked for yet"), "{title}");
}

#[test]
fn a_token_that_is_on_its_way_is_neither_there_nor_refused() {
    let mut facts = healthy();
    facts.workloads[0].pods = Ok(vec![followed(state(None, None), None)]);
    assert_eq!(found(&facts), []);
    let text = judge(&facts, "0.1.0").write(Format::Text, false);
    assert!(text.contains("√ no token was asked for yet, and none was refused"), "{text}");
}

#[test]
fn rights_in_a_namespace_are_asked_for_there_alone() {
    let whole = roles([]);
    assert_eq!(whole.len(), 1);
    assert!(!whole[0].to_string().contains("pods/"), "{}", whole[0]);
    let two = roles(["web", "ops", "web"]);
    let names: Vec<_> =
        two.iter().map(|role| (&role["kind"], &role["metadata"]["namespace"])).collect();
    let expected = [
        (&json!("ClusterRole"), &Value::Null),
        (&json!("Role"), &json!("ops")),
        (&json!("Role"), &json!("web")),
    ];
    assert_eq!(names, expected);
    assert!(!two[0].to_string().contains("pods/"), "{}", two[0]);
    assert!(two[1].to_string().contains("pods/portforward"), "{}", two[1]);
}

#[test]
fn a_workload_without_a_usable_binding_is_told_that_and_no_more() {
    let mut facts = healthy();
    let mut unbound = followed(Ok(State { identities: vec![], problem: None }), None);
    unbound.pod["metadata"]["annotations"]["imdslet.dev/identities"] =
        json!(r#"{"version":1,"hold":true,"identities":[]}"#);
    facts.workloads[0].pods = Ok(vec![unbound]);
    let found = found(&facts);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1), ("bound", Verdict::Failed));
}

#[test]
fn rights_to_install_matter_before_it_is_installed() {
    let mut facts = healthy();
    facts.missing_rights = Ok(vec!["create namespaces".to_owned()]);
    assert_eq!(found(&facts), []);
    facts.webhook = Ok(None);
    let found = found(&facts);
    assert!(
        found[2]
            .2
            .contains("kubectl apply --server-side --force-conflicts -f manifests/install.yaml, with the tenant and the images set in it first"),
        "{found:?}"
    );
    let names: Vec<_> = found.iter().map(|(name, verdict, _)| (*name, *verdict)).collect();
    let expected = [
        ("node-metadata", Verdict::Note),
        ("rights-to-install", Verdict::Failed),
        ("installed", Verdict::Warning),
    ];
    assert_eq!(names, expected);
}
