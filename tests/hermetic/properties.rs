//! Rules that hold for any pod, any order of events and any bytes. Invariant 4 is
//! [`a_patch_applies_adds_only_and_is_final`].

use std::collections::BTreeMap;

use imdslet::documents;
use imdslet_core::admission::{Admission, Outcome, Refusal, admit};
use imdslet_core::csi::{PodUse, Step, plan};
use imdslet_core::index::{Change, Index};
use imdslet_core::objects::{Kind, Object, ObjectName};
use imdslet_core::pod::PodView;
use imdslet_core::settings::{FLAGS, Given, Settings};
use imdslet_tests::additions::only_adds;
use imdslet_webhook::service::review;
use proptest::collection::{btree_map, vec};
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{Index as Place, select, subsequence};
use serde_json::{Map, Value, json};

/// Regressions become named tests, so that nothing is written into the sources.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn a_patch_applies_adds_only_and_is_final(
        pod in any_pod(),
        objects in any_objects(),
        settings in any_settings(),
    ) {
        let index: Index = objects.iter().map(object).collect();
        let Ok(first) = decide(&index, &settings, &pod) else { return Ok(()) };
        let Outcome::Injected { patch, identities } = first.outcome else { return Ok(()) };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &patch.operations().unwrap()).unwrap();

        prop_assert_eq!(only_adds(&pod, &after), Ok(()));
        for operation in patch.operations().unwrap().iter() {
            let operation = serde_json::to_value(operation).unwrap();
            prop_assert!(is_of_the_design(&operation), "{}", operation);
        }
        let again = decide(&index, &settings, &after).unwrap();
        let Outcome::Injected { patch, identities: same } = again.outcome else {
            return Err(TestCaseError::fail("it is left alone the second time"));
        };
        prop_assert_eq!(&patch.to_string(), "[]");
        prop_assert_eq!(identities, same);
    }

    /// `imdslet inject` and the API server both work on what they have parsed; what nobody here
    /// has a name for must come out as it went in.
    #[test]
    fn unknown_fields_survive_byte_for_byte(pod in any_pod(), objects in any_objects()) {
        let index: Index = objects.iter().map(object).collect();
        let Ok(admission) = decide(&index, &Settings::read(&Given::new()).unwrap(), &pod) else {
            return Ok(());
        };
        let Outcome::Injected { patch, .. } = admission.outcome else { return Ok(()) };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &patch.operations().unwrap()).unwrap();
        let mut unknown = Vec::new();
        collect_unknown(&pod, &mut unknown);
        let mut survived = Vec::new();
        collect_unknown(&after, &mut survived);
        // A container may get a copy: the header value that a sidecar of its own already has.
        for one in &unknown {
            let at = survived.iter().position(|other| other == one);
            prop_assert!(at.is_some(), "{} is gone", one);
            at.map(|at| survived.swap_remove(at));
        }
    }

    #[test]
    fn a_decision_does_not_depend_on_the_order_of_objects(
        (objects, shuffled) in any_objects().prop_flat_map(|objects| {
            (Just(objects.clone()), Just(objects).prop_shuffle())
        }),
        pod in any_pod(),
        settings in any_settings(),
    ) {
        let one: Index = objects.iter().map(object).collect();
        let other: Index = shuffled.iter().map(object).collect();
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(decide(&one, &settings, &pod), decide(&other, &settings, &pod));
    }

    /// However the cluster came to be what it is, one round makes the classes right, and no class of
    /// somebody else is written on the way.
    #[test]
    fn what_is_planned_of_classes_leaves_nothing_to_plan(
        objects in any_objects(),
        settings in any_settings(),
        uses in vec(any_use(), 0..3),
    ) {
        let planned = |objects: &BTreeMap<_, Value>| {
            let index: Index = objects.values().map(object).collect();
            plan(&index, &settings, uses.iter().map(|used| ("web", used)))
        };
        let mut objects: BTreeMap<_, _> =
            objects.into_iter().map(|value| (id(&value), value)).collect();
        // Twice: what is for nobody gives nothing first, and goes then.
        for _ in 0..2 {
            for (name, step) in planned(&objects).steps {
                let key = (Kind::SecretProviderClass, name);
                let before = objects.remove(&key);
                let is_ours = |value: &Value| {
                    value["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "imdslet"
                };
                prop_assert_eq!(before.is_some(), !matches!(step, Step::Create(_)));
                prop_assert!(before.as_ref().is_none_or(is_ours), "{:?}", before);
                if let Step::Create(derived) | Step::Replace(derived, _) = step {
                    objects.insert(key, derived.object(None));
                }
            }
        }
        prop_assert_eq!(planned(&objects).steps, BTreeMap::new());
    }

    #[test]
    fn an_index_is_what_the_events_end_in(
        events in vec((any_object(), 0..5), 0..40),
        start in any_objects(),
    ) {
        let mut index: Index = start.iter().map(object).collect();
        let mut left: BTreeMap<(Kind, ObjectName), Value> = BTreeMap::new();
        for value in &start {
            left.insert(id(value), value.clone());
        }
        for (value, what) in &events {
            let (kind, name) = id(value);
            match what {
                0 => {
                    // What a new list has of this kind is all that there is of it.
                    let listed: Vec<_> = start.iter().filter(|value| id(value).0 == kind).collect();
                    index.replace(kind, listed.iter().map(|value| object(value)).collect());
                    left.retain(|(other, _), _| *other != kind);
                    left.extend(listed.into_iter().map(|value| (id(value), value.clone())));
                }
                1 | 2 => {
                    index.apply(Change::Deleted(kind, name.clone()));
                    left.remove(&(kind, name));
                }
                _ => {
                    index.apply(Change::Applied(Box::new(object(value))));
                    left.insert((kind, name), value.clone());
                }
            }
        }
        prop_assert_eq!(index, left.values().map(object).collect::<Index>());
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in any_bytes()) {
        let settings = Settings::read(&Given::new()).unwrap();
        let _ = review(&Index::default(), &settings, &bytes);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = documents::parse("any", text, &mut Vec::new());
            if let Ok(pod) = PodView::read(text) {
                let _ = admit(&Index::default(), &settings, "web", &pod);
            }
        }
    }

    #[test]
    fn no_value_makes_an_object_or_a_setting_panic(value in any_value(), text in any_text()) {
        for kind in ["AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException"] {
            let object = json!({
                "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
                "metadata": {"name": "x", "annotations": value}, "spec": value,
            });
            let _ = Object::read(&object, "default");
        }
        let class = json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": "x", "annotations": value, "ownerReferences": value},
            "spec": {"provider": "azure", "parameters": value},
        });
        let _ = Object::read(&class, "default");
        for kind in ["LimitRange", "Namespace"] {
            let object = json!({
                "apiVersion": "v1", "kind": kind,
                "metadata": {"name": "x", "labels": value}, "spec": {"limits": [
                    {"type": "Container", "min": {"cpu": value}, "max": value},
                ]},
            });
            let _ = Object::read(&object, "default");
        }
        let _ = Object::read(&value, "default");
        for flag in FLAGS {
            let _ = Settings::read(&[(flag.name, vec![text.clone()])].into());
        }
    }
}

fn decide(index: &Index, settings: &Settings, pod: &Value) -> Result<Admission, Refusal> {
    let text = pod.to_string();
    admit(index, settings, "web", &PodView::read(&text)?)
}

/// Whether an operation is one that the design names.
fn is_of_the_design(operation: &Value) -> bool {
    let path = operation["path"].as_str().unwrap();
    let path = path.replace("/initContainers", "/containers");
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<_> =
        path.split('/').map(|part| if is_number(part) { "N" } else { part }).collect();
    let changes = [
        "/spec/containers/N/env/N/value",
        "/spec/volumes/N/csi/volumeAttributes/secretProviderClass",
        "/metadata/annotations/imdslet.dev~1identities",
        "/metadata/annotations/imdslet.dev~1version",
    ];
    let additions = [
        "/spec/containers",
        "/spec/containers/N",
        "/spec/containers/-",
        "/spec/containers/N/env",
        "/spec/containers/N/env/-",
        "/spec/volumes",
        "/spec/volumes/-",
        "/spec/imagePullSecrets",
        "/spec/imagePullSecrets/-",
        "/spec/securityContext",
        "/spec/securityContext/sysctls",
        "/spec/securityContext/sysctls/-",
        "/metadata/annotations",
        "/metadata/annotations/kubectl.kubernetes.io~1default-container",
    ];
    let path = parts.join("/");
    let is_change = changes.contains(&path.as_str());
    let is_class = path.starts_with("/spec/volumes/N/csi");
    match operation["op"].as_str() {
        Some("add") => (is_change && !is_class) || additions.contains(&path.as_str()),
        Some("replace") => is_change,
        _ => false,
    }
}

/// The texts of all values whose key no release knows, in their order.
fn collect_unknown(value: &Value, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key.starts_with(UNKNOWN) {
                    unknown.push(format!("{key}: {value}"));
                } else {
                    collect_unknown(value, unknown);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_unknown(item, unknown)),
        _ => {}
    }
}

/// How every unknown key of a generated pod begins.
const UNKNOWN: char = '§';

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z~/\"\\\\\n é\u{1F511}.:;,*={}-]{0,12}",
        select(vec![
            "127.0.0.1",
            "localhost,",
            "*",
            "",
            "serve",
            "windows",
            "1",
            "true",
            "https://"
        ])
        .prop_map(str::to_owned),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any_text(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_unknown() -> impl Strategy<Value = Map<String, Value>> {
    btree_map(any_text().prop_map(|text| format!("{UNKNOWN}{text}")), any_value(), 0..3)
        .prop_map(|map| map.into_iter().collect())
}

/// An object of these fields, each of which may be missing or null, and unknown ones.
fn object_of<const N: usize>(
    fields: [(&'static str, BoxedStrategy<Value>); N],
) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(key, value)| {
            // A name that is null is none: such a pod is refused.
            let nulls = u32::from(key != "name");
            let value = prop_oneof![8 => value, nulls => Just(Value::Null)];
            weighted(0.6, value).prop_map(move |value| value.map(|value| (key.to_owned(), value)))
        })
        .collect();
    (fields, any_unknown())
        .prop_map(|(fields, unknown)| {
            Value::Object(fields.into_iter().flatten().chain(unknown).collect())
        })
        .boxed()
}

fn text_of(words: &[&'static str]) -> BoxedStrategy<Value> {
    prop_oneof![
        3 => select(words.to_vec()).prop_map(Value::from),
        1 => any_text().prop_map(Value::from),
    ]
    .boxed()
}

/// One of the usual words; once in a while the other one.
fn rarely(word: &'static str, usual: &[&'static str]) -> BoxedStrategy<Value> {
    prop_oneof![1 => Just(json!(word)), 60 => text_of(usual)].boxed()
}

fn list_of(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    vec(item, 0..4).prop_map(Value::from).boxed()
}

fn any_env() -> BoxedStrategy<Value> {
    let names = [
        "NO_PROXY",
        "no_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "IDENTITY_ENDPOINT",
        "IDENTITY_HEADER",
        "MSI_ENDPOINT",
        "MSI_SECRET",
        "ARM_MSI_ENDPOINT",
        "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        "IMDSLET_HEADER",
    ];
    let values = ["http://127.0.0.1:2579/msi/token", "a,b,", " , ", "a, localhost ", "*", ""];
    object_of([
        ("name", text_of(&names)),
        ("value", text_of(&values)),
        (
            "valueFrom",
            object_of([("fieldRef", object_of([("fieldPath", text_of(&["metadata.uid"]))]))]),
        ),
    ])
}

pub(crate) fn any_container() -> BoxedStrategy<Value> {
    let amounts = || {
        object_of([
            ("cpu", text_of(&["1", "50m", "1e3", "x"])),
            ("memory", text_of(&["16Mi", "0"])),
        ])
    };
    // Mostly a few names, so that lists have doubles; sometimes ours.
    let name = prop_oneof![
        12 => select(vec!["app", "web", "é~/"]).prop_map(Value::from),
        1 => select(vec!["imdslet", "imdslet-address"]).prop_map(Value::from),
    ];
    object_of([
        ("name", name.boxed()),
        ("args", list_of(text_of(&["serve", "--port=9000"]))),
        ("env", list_of(any_env())),
        ("envFrom", list_of(any_value().boxed())),
        (
            "ports",
            list_of(object_of([("containerPort", (0_u32..70000).prop_map(Value::from).boxed())])),
        ),
        ("resources", object_of([("limits", amounts()), ("requests", amounts())])),
        ("volumeMounts", list_of(object_of([("name", rarely("imdslet", &["data", "other"]))]))),
    ])
}

pub(crate) fn any_pod() -> BoxedStrategy<Value> {
    let annotations = object_of([
        ("imdslet.dev/identities", any_text().prop_map(Value::from).boxed()),
        ("imdslet.dev/version", any_text().prop_map(Value::from).boxed()),
        ("imdslet.dev/endpoint", select(vec!["env", "link-local"]).prop_map(Value::from).boxed()),
        ("imdslet.dev/sidecar", select(vec!["native", "container"]).prop_map(Value::from).boxed()),
        ("imdslet.dev/skip-containers", text_of(&["app", "web;app"])),
        ("imdslet.dev/port", select(vec!["9000", "2579"]).prop_map(Value::from).boxed()),
        ("kubectl.kubernetes.io/default-container", text_of(&["app"])),
    ]);
    // Values of annotations are strings, unknown ones too.
    let annotations = annotations.prop_map(|annotations| {
        let map = annotations.as_object().unwrap().iter();
        let texts = map.map(|(key, value)| {
            let value = if value.is_null() || value.is_string() {
                value.clone()
            } else {
                json!(value.to_string())
            };
            (key.clone(), value)
        });
        Value::Object(texts.collect())
    });
    let containers = vec(any_container(), 1..4).prop_map(Value::from).boxed();
    let sysctls = list_of(object_of([(
        "name",
        text_of(&["net.ipv4.ip_unprivileged_port_start", "net.core.somaxconn"]),
    )]));
    let spec = object_of([
        ("initContainers", list_of(any_container())),
        ("ephemeralContainers", list_of(any_container())),
        ("volumes", list_of(any_volume())),
        ("securityContext", object_of([("sysctls", sysctls)])),
        ("hostNetwork", Just(json!(false)).boxed()),
        ("nodeSelector", object_of([]).prop_map(|_| json!({"kubernetes.io/os": "linux"})).boxed()),
        ("resources", weighted_rarely()),
    ]);
    (spec, containers, of(annotations), any_unknown())
        .prop_map(|(mut spec, containers, annotations, unknown)| {
            spec["containers"] = containers;
            let mut metadata =
                json!({"name": "web-1", "labels": {"aadpodidbinding": "db", "app": "A"}});
            if let Some(annotations) = annotations {
                metadata["annotations"] = annotations;
            }
            let mut pod = unknown;
            pod.insert("metadata".to_owned(), metadata);
            pod.insert("spec".to_owned(), spec);
            Value::Object(pod)
        })
        .boxed()
}

fn any_volume() -> BoxedStrategy<Value> {
    let attributes = object_of([
        ("secretProviderClass", text_of(&["kv", "kv", "plain", KV_FOR_DB, "gone"])),
        ("other", text_of(&["kv"])),
    ]);
    // Values of attributes are strings, unknown ones too.
    let attributes = attributes.prop_map(|attributes| {
        let texts = attributes.as_object().unwrap().iter();
        Value::Object(
            texts
                .filter(|(_, value)| !value.is_object())
                .map(|(key, value)| {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    (key.clone(), if value.is_null() { Value::Null } else { json!(text) })
                })
                .collect(),
        )
    });
    let driver = text_of(&["secrets-store.csi.k8s.io", "secrets-store.csi.k8s.io", "disk"]);
    let csi = object_of([("driver", driver), ("volumeAttributes", attributes.boxed())]);
    object_of([("name", rarely("imdslet", &["data", "other"])), ("csi", csi)])
}

fn any_use() -> impl Strategy<Value = PodUse> {
    let classes = select(vec!["kv", "kv", KV_FOR_DB, "plain", "gone"]);
    (select(vec!["db", "other", ""]), classes, any::<bool>()).prop_map(
        |(selector, class, is_pending)| PodUse {
            selector: selector.to_owned(),
            classes: [class.to_owned()].into(),
            uid: "u".to_owned(),
            is_pending,
        },
    )
}

/// The class that takes the place of `kv` for pods with the label `db`.
const KV_FOR_DB: &str = "kv.imdslet.93eae0eb";

/// `kv` asks NMI; `plain` does not; the third is derived from `kv`, or looks as if it were.
fn any_class() -> BoxedStrategy<Value> {
    let class = |name: &str, labels: &Value, parameters: &Value| {
        json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {
                "name": name, "namespace": "web", "labels": labels,
                "annotations": {
                    "imdslet.dev/secret-provider-class": "kv", "imdslet.dev/selector": "db",
                },
            },
            "spec": {"provider": "azure", "parameters": parameters},
        })
    };
    let ours = json!({"app.kubernetes.io/managed-by": "imdslet"});
    let asks = json!({"usePodIdentity": "true"});
    select(vec![
        class("kv", &json!({}), &asks),
        class("kv", &json!({}), &asks),
        class("kv", &json!({}), &json!({})),
        class("plain", &json!({}), &json!({"clientID": "c"})),
        class(KV_FOR_DB, &ours, &json!({"clientID": "c"})),
        class(KV_FOR_DB, &ours, &json!({"clientID": "c"})),
        class(KV_FOR_DB, &json!({}), &asks),
    ])
    .boxed()
}

fn weighted_rarely() -> BoxedStrategy<Value> {
    select(vec![Value::Null, Value::Null, json!({"limits": {"cpu": "1"}})]).boxed()
}

const CLIENT: &str = "c0000000-0000-4000-8000-000000000001";

const PARTNER: &str = "https://login.partner.example/";

fn any_object() -> BoxedStrategy<Value> {
    let name = || (select(vec!["web", "ops"]), select(vec!["a", "b"]));
    let identity = (
        name(),
        select(vec![0, 0, 1, 2, 3]),
        select(vec![CLIENT, CLIENT, CLIENT, "none"]),
        select(vec!["tenantID", "TenantId", "tenantid", "x"]),
        select(vec!["", "", "binding", "managed"]),
        select(vec!["", PARTNER, "https://login.other.example/"]),
    )
        .prop_map(|((namespace, name), kind, client, tenant, source, authority)| {
            let annotations = match source {
                "" => json!({}),
                source => json!({"imdslet.dev/source": source}),
            };
            json!({
                "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
                "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
                "spec": {
                    "type": kind, "ClientID": client, tenant: "contoso.example",
                    "clientPassword": {"name": name, "namespace": "web"}, "adEndpoint": authority,
                },
            })
        });
    let binding =
        (name(), select(vec!["a", "b", "a", "b", "gone"]), select(vec!["db", "db", "db", "other"]))
            .prop_map(|((namespace, name), identity, selector)| {
                json!({
                    "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {"AzureIdentity": identity, "selector": selector},
                })
            });
    let exception = (name(), any::<bool>()).prop_map(|((namespace, name), is_good)| {
        let labels = if is_good { json!({"app": "none"}) } else { json!([1]) };
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzurePodIdentityException",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"podLabels": labels},
        })
    });
    let namespace =
        (select(vec!["web", "ops"]), select(vec!["9001", "2579"])).prop_map(|(name, port)| {
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "annotations": {"imdslet.dev/port": port}},
            })
        });
    let limits = (name(), select(vec!["1m", "1"])).prop_map(|((namespace, name), min)| {
        json!({
            "apiVersion": "v1", "kind": "LimitRange",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"limits": [{"type": "Container", "min": {"cpu": min}}]},
        })
    });
    let class = any_class();
    prop_oneof![
        3 => identity, 3 => binding, 1 => exception, 1 => namespace, 1 => limits, 2 => class
    ]
    .boxed()
}

/// Objects of which no two have the same name.
pub(crate) fn any_objects() -> BoxedStrategy<Vec<Value>> {
    vec(any_object(), 0..24)
        .prop_map(|objects| {
            let named: BTreeMap<_, _> =
                objects.into_iter().map(|value| (id(&value), value)).collect();
            named.into_values().collect()
        })
        .boxed()
}

pub(crate) fn any_settings() -> BoxedStrategy<Settings> {
    let flags = [
        ("tenant-id", "contoso.example"),
        ("scope", "namespaced"),
        ("endpoint", "link-local"),
        ("sidecar", "container"),
        ("sidecar-pull-secret", "registry"),
        ("sidecar-run-as-user", "none"),
        ("sidecar-metrics-port", "9579"),
        ("allow-managed", "true"),
        ("allow-authority", PARTNER),
        ("binding-proxy", "https://kubernetes.default.svc"),
    ];
    subsequence(flags.to_vec(), 0..=flags.len())
        .prop_map(|flags| {
            let given: Given =
                flags.into_iter().map(|(flag, value)| (flag, vec![value.to_owned()])).collect();
            Settings::read(&given).unwrap()
        })
        .boxed()
}

pub(crate) fn object(value: &Value) -> Object {
    Object::read(value, "default").unwrap().unwrap()
}

fn id(value: &Value) -> (Kind, ObjectName) {
    let object = object(value);
    let (kind, name) = object.id();
    (kind, name.clone())
}

/// Noise, and requests and manifests that were damaged somewhere.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let damaged =
        (any_pod(), any::<bool>(), vec((any::<Place>(), any::<u8>()), 0..4), any::<Place>());
    prop_oneof![
        vec(any::<u8>(), 0..200),
        any_text().prop_map(String::into_bytes),
        "(- |[a-z]: |[\\[\\]{}&*!|>\"'#%@`\n\t ,?:~-]|&a |\\*a |<<: ){0,30}"
            .prop_map(String::into_bytes),
        damaged.prop_map(|(pod, is_review, damages, end)| {
            let value = if is_review { reviewed(&pod) } else { pod };
            let mut bytes = value.to_string().into_bytes();
            for (place, byte) in damages {
                let at = place.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.index(2 * bytes.len()));
            bytes
        }),
    ]
}

fn reviewed(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "operation": "CREATE", "namespace": "web", "object": pod,
            "resource": {"group": "", "version": "v1", "resource": "pods"},
        },
    })
}

/// The reader counts what aliases repeat.
#[test]
fn aliases_that_grow_without_end_are_refused() {
    let line = |level: usize| {
        let before = format!("*a{}, ", level - 1).repeat(10);
        format!("a{level}: &a{level} [{before}]\n")
    };
    let text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned()
        + &(1..10).map(line).collect::<String>();
    let error = documents::parse("bomb.yaml", &text, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("bomb.yaml, document 1: "), "{error}");
}
