use base64::Engine;
use serde_json::{Value, json};

use imdslet_core::index::Index;

use super::facts::{Issuer, Outside, Rehearsal, Workload};
use super::*;

/// A CA that is valid for ten years, as the webhook makes it.
fn bundle() -> String {
    let ca = imdslet_certs::Authority::generate("ca", std::time::SystemTime::now()).unwrap();
    base64::engine::general_purpose::STANDARD.encode(ca.pem())
}

fn deployment(name: &str, ready: u64) -> Value {
    json!({"kind": "Deployment", "metadata": {"namespace": "imdslet-system", "name": name},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": format!("r.example:5000/{name}:0.1.0")}]}}},
        "status": {"availableReplicas": ready}})
}

fn definition(name: &str, keeps: bool) -> Value {
    let spec = json!({"x-kubernetes-preserve-unknown-fields": keeps});
    let schema = json!({"openAPIV3Schema": {"properties": {"spec": spec}}});
    json!({"metadata": {"name": format!("{name}.aadpodidentity.k8s.io")}, "spec": {"versions": [{"schema": schema}]}})
}

fn pod(sidecar: bool) -> Value {
    let mut containers = vec![json!({"name": "app"})];
    if sidecar {
        containers.insert(0, json!({"name": "imdslet", "args": ["serve"]}));
    }
    let told = json!({"version": 1, "hold": false, "identities": [{"name": "web/db", "source": "federated",
        "clientId": "c", "resourceId": null, "objectId": null, "tenantId": "t", "allowedResources": null, "secret": null}]});
    json!({"kind": "Pod", "metadata": {"namespace": "web", "name": "app-1", "labels": {"aadpodidbinding": "db"},
        "annotations": {"imdslet.dev/identities": told.to_string()}}, "spec": {"containers": containers}})
}

fn fetched(result: &str, reason: &str) -> String {
    json!({"identity": "web/db", "resource": "https://vault.azure.net", "result": result, "reason": reason,
        "error": "what it says"})
    .to_string()
}

fn entry(name: &str) -> Value {
    json!({"name": name, "clientConfig": {"caBundle": bundle()},
        "objectSelector": {"matchExpressions": [{"key": "aadpodidbinding", "operator": "Exists"}]}})
}

/// Everything as it should be.
fn healthy() -> Facts {
    let names = [
        "azureidentities",
        "azureidentitybindings",
        "azureassignedidentities",
        "azurepodidentityexceptions",
    ];
    let keys = || vec!["k1".to_owned()];
    Facts {
        now: jiff::Timestamp::now().as_second(),
        version: Ok("v1.34.4".to_owned()),
        definitions: Ok(names.iter().map(|name| definition(name, true)).collect()),
        missing_rights: Ok(Vec::new()),
        issuer: Ok(Issuer {
            url: "https://i.example/".to_owned(),
            keys: keys(),
            outside: Outside::Keys(keys()),
        }),
        workers: Ok(vec![deployment("imdslet-webhook", 2), deployment("imdslet-controller", 2)]),
        webhook: Ok(Some(
            json!({"webhooks": [entry("pods.imdslet.dev"), entry("ephemeral.imdslet.dev")]}),
        )),
        lease: Ok(Some(
            json!({"spec": {"holderIdentity": "a", "renewTime": jiff::Timestamp::now().to_string()}}),
        )),
        rehearsal: Ok(Rehearsal {
            namespace: "default".to_owned(),
            status: 201,
            answer: pod(true),
        }),
        pods: Ok(vec![pod(true)]),
        index: Ok(Index::default()),
        namespace: "imdslet-system".to_owned(),
        workloads: vec![Workload {
            name: "web/app".to_owned(),
            pods: Ok(vec![(pod(true), Ok(fetched("fetched", "")))]),
        }],
    }
}

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
    use Verdict::{Failed, Unknown, Warning};
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
            |f| f.issuer.as_mut().unwrap().keys.push("k2".into()),
            "issuer",
            Failed,
            "the cluster's key k2",
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
        (|f| f.webhook = Ok(None), "installed", Warning, "manifests/install.yaml"),
        (|f| f.webhook = Err("forbidden".into()), "installed", Unknown, "forbidden"),
        (
            |f| f.workers.as_mut().unwrap()[0] = deployment("imdslet-webhook", 0),
            "webhook-ready",
            Failed,
            "0 of 2",
        ),
        (
            |f| f.workers.as_mut().unwrap()[1] = deployment("imdslet-controller", 1),
            "controller-ready",
            Warning,
            "1 of 2",
        ),
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
            "without the label",
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
            "Service imdslet-system/imdslet-webhook",
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

#[test]
fn what_keeps_a_workload_from_its_tokens_is_named_alone_with_what_to_do() {
    use Verdict::Failed;
    each(&[
        (|f| f.workloads[0].pods = Ok(Vec::new()), "pods", Failed, "there is no pod of it"),
        (
            |f| f.workloads[0].pods = Ok(vec![(pod(false), Ok(String::new()))]),
            "sidecar",
            Failed,
            "explain",
        ),
        (
            |f| logged(f, fetched("failed", "NoFederatedCredential")),
            "token",
            Failed,
            "it is the federated credential",
        ),
        (|f| logged(f, fetched("failed", "NoAnswer")), "token", Failed, "it is the network"),
    ]);
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
    assert_eq!(names, [("custom-resources", Verdict::Warning), ("installed", Verdict::Warning)]);
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
}

fn nmi() -> Value {
    json!({"kind": "DaemonSet", "metadata": {"namespace": "kube-system", "name": "nmi"},
        "spec": {"template": {"spec": {"containers": [{"image": "mcr.example/oss/azure/aad-pod-identity/nmi:v1.8.17"}]}}}})
}

fn labelled() -> Value {
    json!({"kind": "Deployment", "metadata": {"namespace": "kube-system", "name": "dns"},
        "spec": {"template": {"metadata": {"labels": {"aadpodidbinding": "dns"}}}}})
}

fn release(facts: &mut Facts, tag: &str) {
    let image = format!("imdslet-controller:{tag}");
    facts.workers.as_mut().unwrap()[1]["spec"]["template"]["spec"]["containers"][0]["image"] =
        json!(image);
}

fn entry_of(facts: &mut Facts) -> &mut Value {
    &mut facts.webhook.as_mut().unwrap().as_mut().unwrap()["webhooks"][0]
}

/// As if a second pod had logged this.
fn logged(facts: &mut Facts, log: String) {
    facts.workloads[0].pods.as_mut().unwrap().push((pod(true), Ok(log)));
}

fn refused(facts: &mut Facts, status: u16, message: &str) {
    let answer = json!({"kind": "Status", "message": message});
    facts.rehearsal = Ok(Rehearsal { namespace: "default".to_owned(), status, answer });
}

#[test]
fn what_was_fetched_after_it_had_failed_is_no_failure() {
    let mut facts = healthy();
    let lines =
        [fetched("failed", "NoFederatedCredential"), fetched("fetched", ""), "no json".into()];
    logged(&mut facts, lines.join("\n"));
    assert_eq!(found(&facts), []);
    logged(&mut facts, String::new());
    assert_eq!(found(&facts), []);
}

#[test]
fn a_workload_without_a_usable_binding_is_told_that_and_no_more() {
    let mut facts = healthy();
    let mut unbound = pod(true);
    unbound["metadata"]["annotations"]["imdslet.dev/identities"] =
        json!(r#"{"version":1,"hold":true,"identities":[]}"#);
    facts.workloads[0].pods = Ok(vec![(unbound, Ok(String::new()))]);
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
    let names: Vec<_> =
        found(&facts).into_iter().map(|(name, verdict, _)| (name, verdict)).collect();
    assert_eq!(names, [("rights-to-install", Verdict::Failed), ("installed", Verdict::Warning)]);
}
