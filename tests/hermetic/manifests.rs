//! The manifests that people apply: what a tool would trip over, and what the demos must show.

use std::fs;
use std::path::{Path, PathBuf};

use imdslet::documents::{self, Document};
use imdslet::inject::{Format, inject};
use imdslet_core::objects::Object;
use imdslet_core::settings::{Given, Settings};
use serde_json::{Value, json};

const GROUP: &str = "aadpodidentity.k8s.io";

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

fn read(path: PathBuf) -> Vec<Document> {
    documents::read(&[path]).unwrap()
}

/// The articles' files, by name.
fn demos() -> Vec<PathBuf> {
    let files = fs::read_dir(manifests().join("demo")).unwrap();
    let mut files: Vec<_> = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 5);
    files
}

#[test]
fn the_custom_resources_are_those_of_aad_pod_identity() {
    let kinds: Vec<_> = read(manifests().join("crds.yaml"))
        .into_iter()
        .map(|Document { value, .. }| {
            assert_eq!(value["apiVersion"], "apiextensions.k8s.io/v1");
            assert_eq!(value["kind"], "CustomResourceDefinition");
            let (spec, names) = (&value["spec"], &value["spec"]["names"]);
            let plural = names["plural"].as_str().unwrap();
            assert_eq!(value["metadata"]["name"], format!("{plural}.{GROUP}"));
            assert_eq!((&spec["group"], &spec["scope"]), (&json!(GROUP), &json!("Namespaced")));
            let [version] = spec["versions"].as_array().unwrap().as_slice() else { panic!() };
            assert_eq!(version["name"], "v1");
            assert_eq!((&version["served"], &version["storage"]), (&json!(true), &json!(true)));
            let columns = version["additionalPrinterColumns"].as_array();
            let columns: Vec<_> = columns
                .into_iter()
                .flatten()
                .map(|column| format!("{}={}", column["name"], column["jsonPath"]).replace('"', ""))
                .collect();
            let kind = names["kind"].as_str().unwrap().to_owned();
            assert_eq!(names["listKind"], format!("{kind}List"));
            assert_eq!(names["singular"], kind.to_lowercase());
            format!("{kind} {}", columns.join(" ")).trim_end().to_owned()
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "AzureIdentity Type=.spec.type ClientID=.spec.clientID Age=.metadata.creationTimestamp",
            "AzureIdentityBinding AzureIdentity=.spec.azureIdentity Selector=.spec.selector \
             Age=.metadata.creationTimestamp",
            "AzureAssignedIdentity",
            "AzurePodIdentityException",
        ]
    );
}

/// Helm reads nothing outside of the chart. That install.yaml is what it renders: `tests/chart/run`.
#[test]
fn the_chart_has_copies_of_what_is_applied_without_it() {
    for file in ["crds.yaml", "csi.yaml"] {
        let read = |path: &str| fs::read_to_string(manifests().join(path).join(file)).unwrap();
        assert_eq!(read("chart/files"), read(""), "{file}: run manifests/sync");
    }
}

/// The guides write `ResourceID`, `Selector`: the API server would prune what a schema lacks.
#[test]
fn every_spec_keeps_keys_in_any_letter_case() {
    for Document { value, .. } in read(manifests().join("crds.yaml")) {
        let kind = &value["spec"]["names"]["kind"];
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let spec = &schema["properties"]["spec"];
        assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true, "{kind}");
        let mut objects = 0;
        keeps_keys("spec", spec, &mut objects);
        assert!(objects > 0, "{kind}");
        let mut required = Vec::new();
        find(schema, &["required", "enum", "default", "pattern"], &mut required);
        assert_eq!(required, Vec::<String>::new(), "{kind}: an old object would be refused");
    }
}

/// An object with keys of its own, which a person may have written in another letter case.
fn keeps_keys(path: &str, schema: &Value, objects: &mut usize) {
    let Some(properties) = schema["properties"].as_object() else { return };
    *objects += 1;
    let keeps = &schema["x-kubernetes-preserve-unknown-fields"];
    // aad-pod-identity never wrote these two, and nobody reads them.
    assert!(keeps == true || path.ends_with(".status"), "{path} prunes what it does not know");
    for (key, schema) in properties {
        keeps_keys(&format!("{path}.{key}"), schema, objects);
    }
}

fn find(schema: &Value, words: &[&str], found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                if words.contains(&key.as_str()) {
                    found.push(key.clone());
                }
                find(value, words, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find(item, words, found)),
        _ => {}
    }
}

/// What a role allows in the whole cluster, one line a rule.
fn rules_of(file: &str, role: &str) -> Vec<String> {
    let list = |value: &Value| {
        let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.collect::<Vec<_>>().join(",")
    };
    let documents = read(manifests().join(file));
    let is_role =
        |value: &Value| value["kind"] == "ClusterRole" && value["metadata"]["name"] == role;
    let found = documents.iter().find(|Document { value, .. }| is_role(value)).unwrap();
    let rules = found.value["rules"].as_array().unwrap().iter();
    rules
        .map(|rule| {
            let names = list(&rule["resourceNames"]);
            let names = if names.is_empty() { names } else { format!(" [{names}]") };
            let (groups, resources) = (list(&rule["apiGroups"]), list(&rule["resources"]));
            format!("{groups}/{resources}{names}: {}", list(&rule["verbs"]))
        })
        .collect()
}

#[test]
fn the_accounts_may_do_this_in_the_whole_cluster_and_nothing_else() {
    assert_eq!(
        rules_of("install.yaml", "imdslet-reader"),
        [
            "aadpodidentity.k8s.io/azureidentities,azureidentitybindings,azurepodidentityexceptions: \
             list,watch",
            "/namespaces,limitranges: list,watch",
            "apiextensions.k8s.io/customresourcedefinitions \
             [azureidentities.aadpodidentity.k8s.io,azureidentitybindings.aadpodidentity.k8s.io,\
             azurepodidentityexceptions.aadpodidentity.k8s.io]: get",
        ]
    );
    assert_eq!(
        rules_of("install.yaml", "imdslet-controller"),
        [
            "/pods: list,watch,patch",
            "events.k8s.io/events: create",
            "apps/replicasets: get",
            "batch/jobs: get",
            "aadpodidentity.k8s.io/azureassignedidentities: list,watch,create,update,delete",
        ]
    );
}

/// The entries of a webhook configuration.
fn entries_of(kind: &str) -> Vec<Value> {
    let mut found = read(manifests().join("install.yaml")).into_iter();
    let found = found.find(|Document { value, .. }| value["kind"] == kind).unwrap().value;
    assert_eq!(found["metadata"]["name"], "imdslet");
    found["webhooks"].as_array().unwrap().clone()
}

/// What an entry asks about, one line a rule.
fn asked_by(entry: &Value) -> Vec<String> {
    let list = |value: &Value| {
        let texts = value.as_array().unwrap().iter().map(|text| text.as_str().unwrap());
        texts.collect::<Vec<_>>().join(",")
    };
    let rules = entry["rules"].as_array().unwrap().iter();
    rules
        .map(|rule| {
            assert_eq!(
                (&rule["scope"], &rule["apiVersions"]),
                (&json!("Namespaced"), &json!(["v1"]))
            );
            let [groups, resources, operations] =
                ["apiGroups", "resources", "operations"].map(|key| list(&rule[key]));
            format!("{groups}/{resources}: {operations}")
        })
        .collect()
}

/// What every entry keeps: an outage touches as little as it can, and the certificate is ours.
fn is_careful(entry: &Value) {
    let name = &entry["name"];
    assert_eq!(entry["admissionReviewVersions"], json!(["v1"]), "{name}");
    assert_eq!(entry["sideEffects"], "None", "{name}: a dry run would be refused");
    assert_eq!(entry["matchPolicy"], "Equivalent", "{name}: another API version would pass by");
    assert_eq!(entry["clientConfig"]["service"]["name"], "imdslet-webhook", "{name}");
    assert!(entry["clientConfig"]["caBundle"].is_null(), "{name}: the replicas own it");
    let excluded =
        json!({"key": "imdslet.dev/injection", "operator": "NotIn", "values": ["disabled"]});
    let selector = entry["namespaceSelector"]["matchExpressions"].as_array().unwrap();
    assert!(selector.contains(&excluded), "{name}");
}

#[test]
fn a_pod_is_asked_about_where_it_carries_the_label_and_what_fails_open_says_so() {
    let entries = entries_of("MutatingWebhookConfiguration");
    let mut lines = Vec::new();
    for entry in &entries {
        is_careful(entry);
        assert_eq!(entry["reinvocationPolicy"], "IfNeeded");
        assert_eq!(entry["clientConfig"]["service"]["path"], "/mutate");
        let label = json!({"matchExpressions": [{"key": "aadpodidbinding", "operator": "Exists"}]});
        assert_eq!(entry["objectSelector"], label);
        // The body has to arrive within four seconds (`config::BODY_DEADLINE`).
        assert_eq!(entry["timeoutSeconds"], 5);
        let asked = asked_by(entry).join("; ");
        lines
            .push(format!("{} {asked} {}", entry["name"], entry["failurePolicy"]).replace('"', ""));
    }
    assert_eq!(
        lines,
        [
            "pods.imdslet.dev /pods: CREATE Fail",
            "pods-ignore.imdslet.dev /pods: CREATE Ignore",
            "ephemeral.imdslet.dev /pods/ephemeralcontainers: UPDATE Ignore",
        ]
    );
    // One of the first two asks about any pod, and never both.
    let policy = |at: usize| &entries[at]["namespaceSelector"]["matchExpressions"][1];
    let of = |operator: &str| json!({"key": "imdslet.dev/failure-policy", "operator": operator, "values": ["ignore"]});
    assert_eq!((policy(0), policy(1)), (&of("NotIn"), &of("In")));
}

#[test]
fn whoever_applies_something_is_advised_and_an_outage_of_that_is_not_noticed() {
    let entries = entries_of("ValidatingWebhookConfiguration");
    let [advise] = entries.as_slice() else { panic!("one entry and not {}", entries.len()) };
    is_careful(advise);
    assert_eq!(advise["name"], "advise.imdslet.dev");
    assert_eq!(advise["failurePolicy"], "Ignore");
    assert_eq!(advise["timeoutSeconds"], 2);
    assert_eq!(advise["clientConfig"]["service"]["path"], "/advise");
    assert_eq!(
        asked_by(advise),
        [
            "apps/deployments,statefulsets,daemonsets: CREATE,UPDATE",
            "batch/jobs,cronjobs: CREATE,UPDATE",
            "aadpodidentity.k8s.io/azureidentities,azureidentitybindings,azurepodidentityexceptions: \
             CREATE,UPDATE",
        ]
    );
    // Bindings have no label, and a workload may carry it in the wrong place: not an objectSelector.
    assert!(advise["objectSelector"].is_null());
    let conditions = advise["matchConditions"].as_array().unwrap().iter();
    let names: Vec<_> = conditions.map(|condition| condition["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["by-a-person", "of-ours"]);
    let of_ours = advise["matchConditions"][1]["expression"].as_str().unwrap();
    for place in [
        "object.metadata.labels",
        "object.spec.template.metadata.labels",
        "object.spec.jobTemplate.spec.template.metadata.labels",
    ] {
        assert!(of_ours.contains(&format!("'aadpodidbinding' in {place}")), "{place}");
    }
}

#[test]
fn secrets_store_volumes_are_a_switch_of_their_own() {
    let file = "csi.yaml";
    let classes = "secrets-store.csi.x-k8s.io/secretproviderclasses";
    assert_eq!(rules_of(file, "imdslet-csi-reader"), [format!("{classes}: list,watch")]);
    assert_eq!(
        rules_of(file, "imdslet-csi"),
        [
            format!("{classes}: create,update,delete"),
            "storage.k8s.io/csidrivers [secrets-store.csi.k8s.io]: get".to_owned(),
        ]
    );
    let documents = read(manifests().join(file));
    let of_kind = |kind: &str| -> Vec<_> {
        let all = documents.iter().map(|document| &document.value);
        all.filter(|value| value["kind"] == kind).collect()
    };
    // Who gets which of the two.
    let bound: Vec<_> = of_kind("ClusterRoleBinding")
        .into_iter()
        .map(|binding| {
            let subjects = binding["subjects"].as_array().unwrap().iter();
            let names: Vec<_> = subjects.map(|subject| subject["name"].as_str().unwrap()).collect();
            (binding["roleRef"]["name"].as_str().unwrap(), names)
        })
        .collect();
    assert_eq!(
        bound,
        [
            ("imdslet-csi-reader", vec!["imdslet-webhook", "imdslet-controller"]),
            ("imdslet-csi", vec!["imdslet-controller"]),
        ]
    );
    // What RBAC cannot tell apart, a policy does.
    let [policy] = of_kind("ValidatingAdmissionPolicy")[..] else { panic!() };
    let [binding] = of_kind("ValidatingAdmissionPolicyBinding")[..] else { panic!() };
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let install = fs::read_to_string(manifests().join("install.yaml")).unwrap();
    assert!(!install.contains("secretproviderclasses"), "it is off by default");
}

#[test]
fn every_object_of_the_demos_can_be_used() {
    for file in demos() {
        let mut ours = 0;
        for Document { place, value } in read(file) {
            let object = Object::read(&value, "default").unwrap();
            if let Some(object) = object {
                assert_eq!(object.fault(), None, "{place}");
                ours += 1;
            }
        }
        assert!(ours >= 2, "an identity and its binding");
    }
}

#[test]
fn every_pod_of_the_demos_gets_its_identities() {
    let tenant = "7e000000-0000-4000-8000-000000000000".to_owned();
    let settings = Settings::read(&[("tenant-id", vec![tenant])].into()).unwrap();
    let expected = [
        ("0-key-vault.yaml", vec!["default/demoidentity"]),
        ("1-token-and-azcopy.yaml", vec!["default/bourne"]),
        (
            "2-namespaces-and-multiple-identities.yaml",
            vec!["aad-broker/myidentity", "aad-broker/myidentity2"],
        ),
        ("3-azure-sql.yaml", vec!["default/sqlaad1"]),
        ("4-secrets-store-csi.yaml", vec!["default/kvidentity"]),
    ];
    for (file, (name, identities)) in demos().into_iter().zip(expected) {
        assert!(file.ends_with(name), "{}", file.display());
        let injected = inject(read(file), &settings, "default").unwrap();
        assert_eq!(injected.refusals, Vec::<String>::new(), "{name}");
        assert_eq!(injected.warnings, Vec::<String>::new(), "{name}");
        let lines = injected.write(Format::Patch).unwrap();
        assert_eq!(lines.lines().count(), 1, "{name} has one pod");
        let line: Value = serde_json::from_str(&lines).unwrap();
        let value = |path: &str| {
            let patch = line["patch"].as_array().unwrap();
            patch.iter().find(|operation| operation["path"] == path).map(|found| &found["value"])
        };
        let sidecar = value("/spec/initContainers").map(|list| &list[0]);
        let sidecar = sidecar.or_else(|| value("/spec/initContainers/0")).unwrap();
        assert_eq!(sidecar["name"], "imdslet", "{name}");
        let annotation = value("/metadata/annotations/imdslet.dev~1identities").unwrap();
        let annotation: Value = serde_json::from_str(annotation.as_str().unwrap()).unwrap();
        let names = annotation["identities"].as_array().unwrap().iter();
        assert_eq!(names.map(|identity| &identity["name"]).collect::<Vec<_>>(), identities);
    }
}

/// Without a tenant nothing can be asked: the settings of an installation must name it, and the
/// warning says so.
#[test]
fn a_demo_without_a_tenant_says_what_is_missing() {
    let settings = Settings::read(&Given::new()).unwrap();
    for file in demos() {
        let injected = inject(read(file), &settings, "default").unwrap();
        assert!(injected.warnings.iter().any(|warning| warning.contains("--tenant-id")));
    }
}

#[test]
fn no_placeholder_of_the_articles_is_left() {
    let readme = fs::read_to_string(manifests().join("demo/README.md")).unwrap();
    let table = readme.lines().skip_while(|line| *line != "## Placeholders");
    let table = table.take_while(|line| *line != "## Restored");
    let placeholders: Vec<_> = table
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
        .filter(|name| name.starts_with(['<', '$']))
        .collect();
    assert!(placeholders.len() > 20, "{placeholders:?}");
    for file in demos() {
        let text = fs::read_to_string(&file).unwrap();
        for placeholder in &placeholders {
            assert!(!text.contains(placeholder), "{placeholder} in {}", file.display());
        }
        assert!(!text.contains("${"), "{}", file.display());
    }
}
