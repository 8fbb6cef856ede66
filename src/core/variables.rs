//! Which environment variables a container gets, so that every Azure client in it asks us.
//!
//! What works with which client: `docs/compatibility.md`, measured with 20 of them.

use serde_json::{Value, json};

use crate::added::EnvVar;
use crate::names::{APP_SERVICE_PATH, HEADER_VARIABLE, IMDS_PATH, LINK_LOCAL};
use crate::pod::{self, Container};

/// What the containers of a pod are to be told.
#[derive(Clone, Debug)]
pub(crate) enum Announcement {
    /// In link-local mode nothing: variables on top of the address make things worse.
    Address,
    /// The endpoint on this port, with this value for the header.
    Endpoint { port: u16, header: HeaderValue },
}

/// The value that App Service clients repeat in a header, as the rest of an `env` entry.
#[derive(Clone, Debug)]
pub(crate) enum HeaderValue {
    Text(String),
    From(Value),
}

/// What to do with the variables of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables<'a> {
    /// Entries to append.
    pub(crate) add: Vec<EnvVar<'a>>,
    /// Entries whose `value` gets a new text, by their place.
    pub(crate) extend: Vec<Extension>,
    /// What the container keeps us from doing.
    pub(crate) conflicts: Vec<Conflict>,
}

/// A proxy exception list that gets our addresses.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) at: usize,
    pub(crate) is_new: bool,
    pub(crate) value: String,
}

/// Something of the container's own that keeps its clients from asking us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It sets a variable that we would set.
    Variable(&'static str),
    /// It may set a proxy where we cannot see the value.
    HiddenProxy(String),
}

/// Where clients that honour a proxy must not use it.
const DIRECT: [&str; 3] = ["127.0.0.1", "localhost", LINK_LOCAL];

/// The uid of the pod, as the source of a variable.
pub(crate) fn pod_uid() -> Value {
    json!({"fieldRef": {"fieldPath": "metadata.uid"}})
}

impl HeaderValue {
    /// The pod's uid: the same in every container, and not to be guessed by whoever makes a
    /// container send a request.
    pub(crate) fn pod_uid() -> Self {
        Self::From(pod_uid())
    }

    /// What a sidecar that is already there compares with.
    pub(crate) fn of_sidecar(sidecar: &Container<'_>) -> Self {
        let variable = sidecar.variable(HEADER_VARIABLE);
        let from = variable.and_then(|variable| variable.value_from);
        if let Some(value) = from.and_then(|raw| serde_json::from_str(raw.get()).ok()) {
            return Self::From(value);
        }
        match variable.and_then(|variable| variable.value.as_deref()) {
            Some(value) => Self::Text(value.to_owned()),
            None => Self::pod_uid(),
        }
    }

    fn entry(&self, name: &'static str) -> EnvVar<'_> {
        match self {
            Self::Text(value) => EnvVar::text(name, value),
            Self::From(value) => EnvVar::from(name, value),
        }
    }
}

impl Announcement {
    /// Decides for one container. Asked again for its own result, it decides to do nothing.
    pub(crate) fn decide(&self, container: &Container<'_>) -> Variables<'_> {
        let mut variables = Variables::default();
        if let Self::Endpoint { port, header } = self {
            endpoint_variables(container, *port, header, &mut variables);
        }
        proxy_exceptions(container, &mut variables);
        variables
    }
}

fn endpoint_variables<'a>(
    container: &Container<'_>,
    port: u16,
    header: &'a HeaderValue,
    variables: &mut Variables<'a>,
) {
    let base = format!("http://127.0.0.1:{port}");
    let endpoint = format!("{base}{APP_SERVICE_PATH}");
    let identity = Pair::of(container, ["IDENTITY_ENDPOINT", "IDENTITY_HEADER"], &endpoint);
    let msi = Pair::of(container, ["MSI_ENDPOINT", "MSI_SECRET"], &endpoint);
    let has_identity = identity.apply(&endpoint, header, variables);
    // Alone the MSI pair breaks current clients: Python, Go and az read its dates differently.
    if has_identity {
        msi.apply(&endpoint, header, variables);
    }
    for (name, value) in [
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", base.clone()),
        ("ARM_MSI_ENDPOINT", format!("{base}{IMDS_PATH}")),
    ] {
        match container.variable(name) {
            None => variables.add.push(EnvVar::text(name, value)),
            Some(own) if own.value.as_deref() == Some(&value) => {}
            Some(_) => variables.conflicts.push(Conflict::Variable(name)),
        }
    }
}

/// Two variables that make sense only together: an endpoint and its secret.
enum Pair {
    /// The container sets neither.
    Absent([&'static str; 2]),
    /// The container has them as we would set them.
    Ours,
    /// The container sets this one of them, for an endpoint of its own.
    Foreign(&'static str),
}

impl Pair {
    fn of(container: &Container<'_>, names: [&'static str; 2], endpoint: &str) -> Self {
        let [first, second] = names;
        match (container.variable(first), container.variable(second)) {
            (None, None) => Self::Absent(names),
            (Some(url), Some(_)) if url.value.as_deref() == Some(endpoint) => Self::Ours,
            (Some(_), _) => Self::Foreign(first),
            (None, Some(_)) => Self::Foreign(second),
        }
    }

    /// Adds the pair where it is absent. Whether the container then has it from us.
    fn apply<'a>(
        &self,
        endpoint: &str,
        header: &'a HeaderValue,
        variables: &mut Variables<'a>,
    ) -> bool {
        match self {
            Self::Absent([url, secret]) => {
                variables.add.push(EnvVar::text(url, endpoint.to_owned()));
                variables.add.push(header.entry(secret));
                true
            }
            Self::Ours => true,
            Self::Foreign(name) => {
                variables.conflicts.push(Conflict::Variable(name));
                false
            }
        }
    }
}

fn proxy_exceptions(container: &Container<'_>, variables: &mut Variables<'_>) {
    let own = || container.env.iter().flatten();
    let is_proxy = |variable: &&pod::EnvVar<'_>| {
        let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
        proxies.iter().any(|proxy| variable.name.eq_ignore_ascii_case(proxy))
    };
    if let Some(hidden) = own().filter(is_proxy).find(|variable| variable.value_from.is_some()) {
        variables.conflicts.push(Conflict::HiddenProxy(hidden.name.to_string()));
    } else if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
        variables.conflicts.push(Conflict::HiddenProxy("envFrom".to_owned()));
    }
    let is_set =
        |variable: &pod::EnvVar<'_>| variable.value.as_ref().is_some_and(|v| !v.is_empty());
    if !own().filter(is_proxy).any(is_set) {
        return;
    }
    let mut has_list = false;
    for (at, variable) in own().enumerate() {
        if !matches!(&*variable.name, "NO_PROXY" | "no_proxy") {
            continue;
        }
        has_list = true;
        if variable.value_from.is_some() {
            variables.conflicts.push(Conflict::HiddenProxy(variable.name.to_string()));
        } else if let Some(value) = extended(variable.value.as_deref().unwrap_or_default()) {
            variables.extend.push(Extension { at, is_new: variable.value.is_none(), value });
        }
    }
    if !has_list {
        let value = DIRECT.join(",");
        for name in ["NO_PROXY", "no_proxy"] {
            variables.add.push(EnvVar::text(name, value.clone()));
        }
    }
}

/// The list with our addresses, or `None` if it has them all, or all there are (`*`).
fn extended(list: &str) -> Option<String> {
    let entries = || list.split(',').map(str::trim);
    if entries().any(|entry| entry == "*") {
        return None;
    }
    let missing: Vec<_> =
        DIRECT.into_iter().filter(|host| !entries().any(|entry| entry == *host)).collect();
    if missing.is_empty() {
        return None;
    }
    let own = list.trim_end().trim_end_matches(',');
    let separator = if own.is_empty() { "" } else { "," };
    Some(format!("{own}{separator}{}", missing.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement() -> Announcement {
        Announcement::Endpoint { port: 2579, header: HeaderValue::pod_uid() }
    }

    fn decide<'a>(announcement: &'a Announcement, container: &Value) -> Variables<'a> {
        let text = container.to_string();
        announcement.decide(&serde_json::from_str(&text).unwrap())
    }

    fn added<'a>(variables: &Variables<'a>) -> Vec<&'a str> {
        variables.add.iter().map(|entry| entry.name).collect()
    }

    fn env(entries: &[(&str, &str)]) -> Value {
        let entries: Vec<_> =
            entries.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        json!({"name": "app", "env": entries})
    }

    const SINGLES: [&str; 2] = ["AZURE_POD_IDENTITY_AUTHORITY_HOST", "ARM_MSI_ENDPOINT"];
    const ALL: [&str; 6] = [
        "IDENTITY_ENDPOINT",
        "IDENTITY_HEADER",
        "MSI_ENDPOINT",
        "MSI_SECRET",
        SINGLES[0],
        SINGLES[1],
    ];

    #[test]
    fn a_container_gets_whole_pairs_or_none() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);
        let cases: [Case<'_>; 6] = [
            (&[], &ALL, &[]),
            (&[("IDENTITY_ENDPOINT", "x")], &SINGLES, &["IDENTITY_ENDPOINT"]),
            (&[("IDENTITY_HEADER", "x")], &SINGLES, &["IDENTITY_HEADER"]),
            (
                &[("MSI_SECRET", "x")],
                &["IDENTITY_ENDPOINT", "IDENTITY_HEADER", SINGLES[0], SINGLES[1]],
                &["MSI_SECRET"],
            ),
            (&[("ARM_MSI_ENDPOINT", "x")], &ALL[..5], &["ARM_MSI_ENDPOINT"]),
            (
                &[("IDENTITY_ENDPOINT", "http://127.0.0.1:2579/msi/token")],
                &SINGLES,
                &["IDENTITY_ENDPOINT"],
            ),
        ];
        let announcement = announcement();
        for (own, expected, conflicts) in cases {
            let variables = decide(&announcement, &env(own));
            assert_eq!(added(&variables), expected, "{own:?}");
            let conflicts: Vec<_> = conflicts.iter().copied().map(Conflict::Variable).collect();
            assert_eq!(variables.conflicts, conflicts, "{own:?}");
        }
    }

    #[test]
    fn the_result_gets_nothing_more() {
        let mut container = env(&[("HTTPS_PROXY", "http://proxy:3128")]);
        let announcement = announcement();
        let first = decide(&announcement, &container);
        assert_eq!(first.add.len(), 8);
        let added = first.add.iter().map(|entry| json!(entry));
        container["env"].as_array_mut().unwrap().extend(added);
        let second = decide(&announcement, &container);
        assert!(second.add.is_empty() && second.extend.is_empty(), "{second:?}");
        assert_eq!(second.conflicts, []);
    }

    #[test]
    fn the_header_is_the_pods_uid() {
        let announcement = announcement();
        let variables = decide(&announcement, &json!({"name": "app"}));
        assert_eq!(
            json!(variables.add[1]),
            json!({"name": "IDENTITY_HEADER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}})
        );
    }

    #[test]
    fn a_proxy_is_told_what_not_to_proxy() {
        type Case<'a> = (&'a [(&'a str, &'a str)], usize, Vec<(usize, &'a str)>);
        let ours = "127.0.0.1,localhost,169.254.169.254";
        let proxy = ("http_proxy", "http://proxy:3128");
        let announcement = announcement();
        let lists = |own: &[(&str, &str)]| {
            let variables = decide(&announcement, &env(own));
            let is_ours = |entry: &&EnvVar<'_>| entry.value.as_deref() == Some(ours);
            let added = variables.add.iter().filter(is_ours).count();
            let extended = variables.extend.into_iter().map(|e| (e.at, e.value)).collect();
            (added, extended)
        };
        let cases: [Case<'_>; 7] = [
            (&[], 0, vec![]),
            (&[("NO_PROXY", "a")], 0, vec![]),
            (&[("HTTP_PROXY", "")], 0, vec![]),
            (&[proxy], 2, vec![]),
            (
                &[proxy, ("NO_PROXY", "a,"), ("no_proxy", "")],
                0,
                vec![(1, "a,127.0.0.1,localhost,169.254.169.254"), (2, ours)],
            ),
            (&[proxy, ("NO_PROXY", "*")], 0, vec![]),
            (
                &[proxy, ("no_proxy", "localhost, 127.0.0.1")],
                0,
                vec![(1, "localhost, 127.0.0.1,169.254.169.254")],
            ),
        ];
        for (own, added, extended) in cases {
            let extended: Vec<_> =
                extended.into_iter().map(|(at, value)| (at, value.to_owned())).collect();
            assert_eq!(lists(own), (added, extended), "{own:?}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_seen_is_reported() {
        let announcement = announcement();
        let decide = |container: &Value| decide(&announcement, container);
        let from = json!({"name": "app", "envFrom": [{"configMapRef": {"name": "proxy"}}]});
        assert_eq!(decide(&from).conflicts, [Conflict::HiddenProxy("envFrom".into())]);
        let reference = json!({"secretKeyRef": {"name": "s", "key": "k"}});
        let from = json!({"name": "app", "env": [{"name": "https_proxy", "valueFrom": reference}]});
        assert_eq!(decide(&from).conflicts, [Conflict::HiddenProxy("https_proxy".into())]);
        let list = json!({"name": "app", "env": [
            {"name": "https_proxy", "value": "http://proxy"},
            {"name": "NO_PROXY", "valueFrom": reference},
        ]});
        assert_eq!(decide(&list).conflicts, [Conflict::HiddenProxy("NO_PROXY".into())]);
    }

    #[test]
    fn an_added_container_gets_the_header_that_the_sidecar_has() {
        let of = |env: Value| {
            let text = json!({"name": "imdslet", "env": [env]}).to_string();
            let container: Container<'_> = serde_json::from_str(&text).unwrap();
            json!(HeaderValue::of_sidecar(&container).entry("IDENTITY_HEADER"))
        };
        assert_eq!(
            of(json!({"name": "IMDSLET_HEADER", "value": "fixed"})),
            json!({"name": "IDENTITY_HEADER", "value": "fixed"})
        );
        let reference = json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}});
        assert_eq!(
            of(json!({"name": "IMDSLET_HEADER", "valueFrom": reference})),
            json!({"name": "IDENTITY_HEADER", "valueFrom": reference})
        );
    }
}
