//! Pods, objects, settings and bytes of every kind, for the properties.

use std::collections::BTreeMap;

use imdslet_core::csi::PodUse;
use imdslet_core::objects::{Kind, Object, ObjectName};
use imdslet_core::settings::{Given, Settings};
use proptest::collection::{btree_map, vec};
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{Index as Place, select, subsequence};
use serde_json::{Map, Value, json};

/// How every unknown key of a generated pod begins.
pub(crate) const UNKNOWN: char = '§';

pub(crate) fn any_text() -> impl Strategy<Value = String> {
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

pub(crate) fn any_value() -> impl Strategy<Value = Value> {
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

pub(crate) fn any_use() -> impl Strategy<Value = PodUse> {
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

pub(crate) fn any_object() -> BoxedStrategy<Value> {
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

pub(crate) fn id(value: &Value) -> (Kind, ObjectName) {
    let object = object(value);
    let (kind, name) = object.id();
    (kind, name.clone())
}

/// Noise, and requests and manifests that were damaged somewhere.
pub(crate) fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
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
