use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

/// What real clients sent to a recorder.
const RECORDED: &str = include_str!("../../../sidecar/src/server/tests/recorded.jsonl");

const ALL: [(&str, &str); 6] = [
    ("IDENTITY_ENDPOINT", "http://127.0.0.1:8080/msi/token"),
    ("IDENTITY_HEADER", "AbC-sEcReT-0123456789"),
    ("MSI_ENDPOINT", "http://127.0.0.1:8080/msi/token"),
    ("MSI_SECRET", "AbC-sEcReT-0123456789"),
    ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:8080"),
    ("ARM_MSI_ENDPOINT", "http://127.0.0.1:8080/metadata/identity/oauth2/token"),
];

fn variables(set: &[(&str, &str)]) -> Variables {
    let set: BTreeMap<_, _> = set.iter().copied().collect();
    Variables::new(|name| set.get(name).map(|value| (*value).to_owned()))
}

fn vault() -> Wanted {
    Wanted { resource: "https://vault.azure.net".to_owned(), ..Wanted::default() }
}

/// A request as it counts: method, host, path, fields, and the header that makes the protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Essence {
    method: String,
    host: String,
    path: String,
    fields: BTreeMap<String, String>,
    header: Option<(String, String)>,
}

impl Essence {
    fn of(question: &Question) -> Self {
        let uri: Uri = question.url.parse().unwrap();
        let fields = question.form.as_deref().or(uri.query()).unwrap();
        let (name, value) = question.header();
        let header = Some((name.to_lowercase(), value.to_owned()));
        Self {
            method: question.method().to_string(),
            host: uri.authority().unwrap().to_string(),
            path: uri.path().to_owned(),
            fields: form(fields),
            header,
        }
    }

    fn recorded(request: &str) -> Self {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, body));
        let headers: BTreeMap<_, _> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let marks = ["x-identity-header", "secret", "metadata"];
        let header = marks.iter().find_map(|mark| headers.get_key_value(*mark));
        Self {
            method: method.to_owned(),
            host: headers["host"].clone(),
            path: path.to_owned(),
            fields: form(query),
            header: header.map(|(name, value)| (name.clone(), value.clone())),
        }
    }
}

fn form(text: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

#[derive(Deserialize)]
struct Recorded {
    mode: String,
    request: String,
}

fn recorded(mode: &str) -> BTreeSet<Essence> {
    let lines = RECORDED.lines().map(|line| serde_json::from_str::<Recorded>(line).unwrap());
    lines.filter(|line| line.mode == mode).map(|line| Essence::recorded(&line.request)).collect()
}

/// Each request that we make was sent by a client of Azure, field for field, in the same mode.
#[test]
fn what_is_asked_was_asked_by_a_real_client() {
    let client = Selector::ClientId("11111111-2222-3333-4444-555555555555".to_owned());
    let object = Selector::ObjectId("99999999-8888-7777-6666-555555555555".to_owned());
    let resource = Selector::ResourceId(
        "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg one/providers/\
         Microsoft.ManagedIdentity/userAssignedIdentities/id-1"
            .to_owned(),
    );
    let any = [None, Some(client), Some(object), Some(resource)];
    for (mode, set, protocol, selectors) in [
        ("all", &ALL[..], Protocol::AppService, &any[..]),
        ("app2019", &ALL[..2], Protocol::AppService, &any),
        ("app2017", &ALL[2..4], Protocol::AppService2017, &any),
        ("cloudshell", &ALL[2..3], Protocol::CloudShell, &any[..1]),
        ("podid", &ALL[4..5], Protocol::Imds, &any),
        ("linklocal", &[], Protocol::Imds, &any),
    ] {
        for selector in selectors {
            let wanted = Wanted { selector: selector.clone(), ..vault() };
            let question = Question::new(&wanted, &variables(set)).unwrap();
            assert_eq!(question.protocol, protocol, "{mode}");
            let ours = Essence::of(&question);
            assert!(recorded(mode).contains(&ours), "{mode}: {ours:?}");
        }
    }
}

#[test]
fn the_variables_decide_as_the_sdks_do() {
    let chosen = |set: &[(&str, &str)]| {
        Question::new(&vault(), &variables(set)).map(|question| question.protocol)
    };
    let with = |name, value| [&ALL[..], &[(name, value)]].concat();
    assert_eq!(chosen(&ALL), Ok(Protocol::AppService));
    assert_eq!(chosen(&ALL[1..]), Ok(Protocol::AppService2017), "a header without its endpoint");
    assert_eq!(chosen(&ALL[3..]), Ok(Protocol::Imds), "a secret without its endpoint");
    assert_eq!(chosen(&ALL[5..]), Ok(Protocol::Imds), "Terraform alone reads the last one");
    assert_eq!(
        chosen(&ALL[..1]),
        Err(Unclear::Half { set: "IDENTITY_ENDPOINT", missing: "IDENTITY_HEADER" })
    );
    assert_eq!(
        chosen(&with("IDENTITY_SERVER_THUMBPRINT", "ab")),
        Err(Unclear::Elsewhere { variable: "IDENTITY_SERVER_THUMBPRINT", place: "Service Fabric" })
    );
    assert_eq!(
        chosen(&[ALL[0], ("IMDS_ENDPOINT", "http://localhost:40342")]),
        Err(Unclear::Elsewhere { variable: "IMDS_ENDPOINT", place: "Azure Arc" })
    );
    let empty = [("IDENTITY_ENDPOINT", ""), ("IDENTITY_HEADER", "")];
    assert_eq!(chosen(&empty), Ok(Protocol::Imds), "empty is absent");
}

#[test]
fn flags_win_over_variables() {
    let url = |protocol, endpoint: Option<&str>| {
        let endpoint = endpoint.map(str::to_owned);
        let wanted = Wanted { protocol, endpoint, ..vault() };
        Question::new(&wanted, &variables(&ALL)).map(|question| question.url)
    };
    let query = "api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
    let imds = format!("/metadata/identity/oauth2/token?{query}");
    let here = "http://[::1]:2579";
    assert_eq!(url(None, Some(here)), Ok(format!("{here}{imds}")));
    assert_eq!(url(None, Some("http://h/own/")), Ok(format!("http://h/own?{query}")));
    let terraform = Ok(format!("http://127.0.0.1:8080{imds}"));
    assert_eq!(url(Some(Protocol::Terraform), None), terraform);
    let shell = url(Some(Protocol::CloudShell), Some("http://h/"));
    assert_eq!(shell, Ok("http://h/msi/token".to_owned()));
    for wrong in ["127.0.0.1:2579", "ftp://h", "http://h/p?x=1", "/metadata", "http://a b"] {
        let unusable = Err(Unclear::Endpoint { url: wrong.to_owned() });
        assert_eq!(url(Some(Protocol::Imds), Some(wrong)), unusable);
    }
}

#[test]
fn what_is_missing_is_named_with_its_variable() {
    let error = |wanted: Wanted| Question::new(&wanted, &Variables::default()).err().unwrap();
    let endpoint = Some("http://h".to_owned());
    let protocol = Some(Protocol::AppService);
    let missing = error(Wanted { protocol, ..vault() }).to_string();
    assert_eq!(
        missing,
        "--as appservice needs an endpoint: give --endpoint, or set IDENTITY_ENDPOINT"
    );
    let missing = error(Wanted { protocol, endpoint: endpoint.clone(), ..vault() });
    let no_header = Unclear::NoHeader { protocol: "appservice", variable: "IDENTITY_HEADER" };
    assert_eq!(missing, no_header);
    let protocol = Some(Protocol::CloudShell);
    let selector = Some(Selector::ObjectId("x".to_owned()));
    let refused = error(Wanted { selector, protocol, endpoint, ..vault() });
    assert_eq!(refused, Unclear::NoSelector { flag: "--object-id" });
    assert_eq!(error(Wanted::default()), Unclear::NoResource);
}

#[test]
fn a_scope_is_cut_and_the_client_id_of_the_environment_is_sent() {
    let scope = "https://vault.azure.net/.default".to_owned();
    let set = variables(&[("AZURE_CLIENT_ID", "c")]);
    let question = Question::new(&Wanted { resource: scope, ..vault() }, &set).unwrap();
    assert_eq!(question.resource, "https://vault.azure.net");
    assert!(question.url.ends_with("&client_id=c"), "{}", question.url);
    assert_eq!(question.notes.len(), 1);
    let selector = Some(Selector::ObjectId("o".to_owned()));
    let question = Question::new(&Wanted { selector, ..vault() }, &set).unwrap();
    assert!(question.url.ends_with("&object_id=o"), "{}", question.url);
    assert!(question.notes.is_empty());
}

/// (what is set beside the endpoint's variables, the start of each note)
#[test]
fn what_an_sdk_would_do_otherwise_is_said() {
    let federated =
        [("AZURE_FEDERATED_TOKEN_FILE", "/t"), ("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t")];
    let chosen = [&federated[..], &[("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")]];
    let chosen = chosen.concat();
    let none: &[&str] = &[];
    for (set, expected) in [
        (&federated[..], &["the client id is that of", "AZURE_FEDERATED_TOKEN_FILE, "][..]),
        (&chosen, &["the client id is that of"]),
        (&[("HTTP_PROXY", "http://p:3128")], &["HTTP_PROXY is set"]),
        (&[("http_proxy", "http://p:3128"), ("no_proxy", "a, b")], &["HTTP_PROXY is set"]),
        (&[("HTTP_PROXY", "http://p:3128"), ("NO_PROXY", "a, 127.0.0.1")], none),
        (&[("NO_PROXY", "a")], none),
    ] {
        let set = [&ALL[..], set].concat();
        let notes = Question::new(&vault(), &variables(&set)).unwrap().notes;
        assert_eq!(notes.len(), expected.len(), "{notes:?}");
        for (note, start) in notes.iter().zip(expected) {
            assert!(note.starts_with(start), "{note}");
        }
    }
}
