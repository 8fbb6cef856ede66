use http::header::HOST;

use super::*;
use crate::testing::{HEADER, parts, raw};

fn decide(request: &Parts) -> Result<Ask<'_>, Refusal> {
    super::decide(request, "", Some(&Secret::new(HEADER)))
}

fn token(request: &Parts) -> TokenRequest<'_> {
    match decide(request) {
        Ok(Ask::Token(request)) => request,
        other => panic!("{} gave {other:?}", request.uri),
    }
}

#[test]
fn both_paths_are_one_handler_in_every_spelling_that_clients_use() {
    for path in [
        "/metadata/identity/oauth2/token",
        "/metadata/identity/oauth2/token/",
        "//metadata/identity/oauth2/token/",
        "/Metadata/identity/oauth2/token",
        "/METADATA//identity/oauth2//token//",
        "/msi/token",
        "/msi/token/",
        "//msi//token",
    ] {
        let request = parts(&format!("{path}?resource=r"), &[("Metadata", "true")]);
        assert_eq!(token(&request).protocol, Protocol::Imds, "{path}");
    }
}

#[test]
fn no_other_spelling_reaches_the_token_handler() {
    for path in [
        "/",
        "/metadata",
        "/metadata/instance",
        "/metadata/identity/info/x",
        "/msi/info",
        "/metadata/identity/getplatformmetadata",
        "/metadata/identity/oauth2/token/x",
        "/metadata/identity/OAuth2/token",
        "/metadata/../metadata/identity/oauth2/token",
        "/metadata/./identity/oauth2/token",
        "/x/../msi/token",
        "/metadata%2fidentity/oauth2/token",
        "/%6detadata/identity/oauth2/token",
        "/metadata/identity/oauth2/token%2f..",
        "/metadata/identity/oauth2/token;x",
        "/msi",
        "/MSI/token",
        "/state/x",
        "/host/token/",
    ] {
        let request = parts(&format!("{path}?resource=r"), &[("Metadata", "true")]);
        assert_eq!(decide(&request), Err(Refusal::NotHere), "{path}");
    }
    // `http` takes a backslash for part of the path; it must stay part of a segment here.
    if let Ok(uri) = r"/metadata\identity\oauth2\token?resource=r".parse() {
        let mut request = parts("/", &[("Metadata", "true")]);
        request.uri = uri;
        assert_eq!(decide(&request), Err(Refusal::NotHere));
    }
}

/// Headers, and the protocol or the reason of the refusal.
type Case<'a> = (&'a [(&'a str, &'a str)], Result<Protocol, &'a str>);

#[test]
fn headers_decide_the_protocol() {
    let cases: [Case<'_>; 12] = [
        (&[("X-IDENTITY-HEADER", HEADER)], Ok(Protocol::AppService2019)),
        (&[("x-identity-header", HEADER), ("metadata", "true")], Ok(Protocol::AppService2019)),
        (&[("X-Identity-Header", HEADER), ("secret", "x")], Ok(Protocol::AppService2019)),
        (&[("Secret", HEADER)], Ok(Protocol::AppService2017)),
        (&[("secret", HEADER), ("Metadata", "true")], Ok(Protocol::AppService2017)),
        (&[("Metadata", "True")], Ok(Protocol::Imds)),
        (&[], Err("NoHeader")),
        (&[("Metadata", "false")], Err("NoHeader")),
        (&[("Metadata", "")], Err("NoHeader")),
        (&[("X-IDENTITY-HEADER", "wrong"), ("Metadata", "true")], Err("WrongHeader")),
        (&[("X-IDENTITY-HEADER", "")], Err("WrongHeader")),
        (&[("secret", "wrong"), ("Metadata", "true")], Err("WrongHeader")),
    ];
    for (headers, expected) in cases {
        let request = parts("/msi/token?resource=r", headers);
        let got = match decide(&request) {
            Ok(Ask::Token(request)) => Ok(request.protocol),
            Ok(ask) => panic!("{headers:?} asked for {ask:?}"),
            Err(refusal) => Err(refusal.reason()),
        };
        assert_eq!(got, expected, "{headers:?}");
    }
    let app_service = parts("/msi/token?resource=r", &[("secret", "")]);
    let unset = super::decide(&app_service, "", None);
    assert_eq!(unset, Err(Refusal::UncheckedHeader("secret")));
    let imds = parts("/msi/token?resource=r", &[("Metadata", "true")]);
    assert!(super::decide(&imds, "", None).is_ok());
}

#[test]
fn only_the_pods_own_programs_are_served() {
    let cases = [
        ("127.0.0.1:2579", Ok(())),
        ("localhost", Ok(())),
        ("LocalHost:1", Ok(())),
        ("[::1]:2579", Ok(())),
        ("[::1]", Ok(())),
        ("169.254.169.254", Ok(())),
        ("169.254.169.254:80", Ok(())),
        ("", Err("ForeignHost")),
        ("10.0.0.7:2579", Err("ForeignHost")),
        ("metadata.evil.example", Err("ForeignHost")),
        ("127.0.0.1.evil.example:2579", Err("ForeignHost")),
        ("evil.example@127.0.0.1", Err("ForeignHost")),
        ("127.0.0.1:x", Err("ForeignHost")),
        ("::1", Err("ForeignHost")),
    ];
    for (host, expected) in cases {
        let mut request = parts("/msi/token?resource=r", &[("Metadata", "true")]);
        request.headers.insert(HOST, host.parse().unwrap());
        let got = decide(&request).map(|_| ()).map_err(|refusal| refusal.reason());
        assert_eq!(got, expected, "{host}");
    }
    for header in ["X-Forwarded-For", "origin", "Sec-Fetch-Dest", "sec-fetch-site"] {
        let request = parts("/msi/token?resource=r", &[("Metadata", "true"), (header, "x")]);
        assert_eq!(decide(&request).unwrap_err().reason(), "Forwarded", "{header}");
    }
    // Node.js 20's `fetch`, under msal-node 7.2.3.
    let fetch = parts("/msi/token?resource=r", &[("Metadata", "true"), ("sec-fetch-mode", "cors")]);
    assert!(decide(&fetch).is_ok());
    let mut twice = parts("/msi/token?resource=r", &[("Metadata", "true")]);
    twice.headers.append(HOST, "evil.example".parse().unwrap());
    assert_eq!(decide(&twice), Err(Refusal::ForeignHost));
    twice.headers.remove(HOST);
    assert_eq!(decide(&twice), Err(Refusal::ForeignHost));
    let proxied = parts("http://evil.example/msi/token?resource=r", &[("Metadata", "true")]);
    assert_eq!(decide(&proxied), Err(Refusal::ForeignHost));
}

#[test]
fn the_rest_of_the_request_is_checked_in_order() {
    let imds: &[(&str, &str)] = &[("Metadata", "true")];
    let cases = [
        ("GET", "/msi/token", imds, "NoResource"),
        ("GET", "/msi/token?resource=", imds, "NoResource"),
        ("GET", "/msi/token?resource=a+b", imds, "BadResource"),
        ("GET", "/msi/token?resource=a%0d%0ab", imds, "BadResource"),
        ("GET", "/msi/token?resource=a&resource=b", imds, "BadQuery"),
        // A probe: whatever the query says, it is answered at once.
        ("GET", "/msi/token?resource=%ff", &[], "NoHeader"),
        ("PUT", "/msi/token?resource=r", imds, "Method"),
        ("POST", "/metadata/identity/info", imds, "Method"),
        ("GET", "/metadata/identity/info", &[], "NoHeader"),
        ("HEAD", "/msi/token?resource=r", imds, "Method"),
        ("POST", "/state", imds, "Method"),
        ("POST", "/elsewhere", imds, "NotHere"),
    ];
    for (method, uri, headers, expected) in cases {
        let mut request = parts(uri, headers);
        request.method = method.parse().unwrap();
        assert_eq!(decide(&request).unwrap_err().reason(), expected, "{method} {uri}");
    }
}

#[test]
fn the_state_and_the_metrics_are_for_loopback_names_alone() {
    for (path, ask) in [("/state", Ask::State), ("/metrics", Ask::Metrics)] {
        let mut request = parts(path, &[]);
        assert_eq!(decide(&request), Ok(ask));
        request.headers.insert(HOST, "169.254.169.254".parse().unwrap());
        assert_eq!(decide(&request), Err(Refusal::LoopbackOnly(path)));
        request.headers.insert(HOST, "evil.example".parse().unwrap());
        assert_eq!(decide(&request), Err(Refusal::ForeignHost));
    }
}

#[test]
fn the_port_of_the_metrics_serves_nothing_else() {
    let mut request = parts("/metrics", &[]);
    request.headers.insert(HOST, "10.0.0.7:9579".parse().unwrap());
    assert_eq!(decide_scrape(&request), Ok(()));
    request.method = Method::POST;
    assert_eq!(decide_scrape(&request), Err(Refusal::Method("GET")));
    for path in
        ["/", "/state", "/msi/token?resource=r", "/metrics/x", "/%6detrics", "/msi/../metrics"]
    {
        let request = parts(path, &[("Metadata", "true")]);
        assert_eq!(decide_scrape(&request), Err(Refusal::OnlyMetrics), "{path}");
    }
}

/// Method, path, headers, route.
type Routed<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn each_request_has_a_route_whether_it_is_served_or_not() {
    let imds = "/metadata/identity/oauth2/token";
    let cases: [Routed<'_>; 11] = [
        ("GET", imds, &[("Metadata", "true")], "imds"),
        ("GET", "/msi/token", &[], "imds"),
        (
            "GET",
            "/msi/token",
            &[("x-identity-header", "wrong"), ("secret", "x")],
            "app-service-2019",
        ),
        ("GET", "/msi/token", &[("Secret", "wrong")], "app-service-2017"),
        ("POST", imds, &[("Metadata", "true")], "cloud-shell"),
        ("POST", "/msi/token", &[("secret", "x")], "app-service-2017"),
        ("GET", "/metadata/identity/info", &[], "info"),
        ("PUT", "/state", &[], "state"),
        ("GET", "/metrics", &[], "metrics"),
        ("GET", "/metadata/instance", &[("Metadata", "true")], "other"),
        ("GET", "/", &[("secret", "x")], "other"),
    ];
    for (method, path, headers, expected) in cases {
        let mut request = parts(path, headers);
        request.method = method.parse().unwrap();
        assert_eq!(Route::of(&request).as_str(), expected, "{method} {path}");
    }
}

/// Requests that SDKs were recorded to send (2026-11), whole but for headers that
/// nobody reads; and what they mean: protocol, resource, which id.
const RECORDED: &[(&str, Protocol, &str, Id)] = &[
    // all
    (
        "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fmanagement.core.windows.net%2F HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: keep-alive\r\nX-IDENTITY-HEADER: AbC-sEcReT-0123456789\r\nMetadata: true\r\n\r\n",
        Protocol::AppService2019,
        "https://management.core.windows.net/",
        Id::None,
    ),
    (
        "GET /msi/token?api-version=2017-09-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: Go/go1.26.8 (amd64-linux) go-autorest/adal/v1.0.0\r\nSecret: AbC-sEcReT-0123456789\r\nAccept-Encoding: gzip\r\n\r\n",
        Protocol::AppService2017,
        "https://vault.azure.net",
        Id::None,
    ),
    (
        "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nContent-Length: 0\r\nHost: 127.0.0.1:8080\r\nUser-Agent: azsdk-java-azure-identity/1.19.0\r\nX-IDENTITY-HEADER: AbC-sEcReT-0123456789\r\n\r\n",
        Protocol::AppService2019,
        "https://vault.azure.net",
        Id::None,
    ),
    (
        "GET /msi/token?resource=https%3A%2F%2Fvault.azure.net&api-version=2017-09-01 HTTP/1.1\r\nAccept: application/json\r\nsecret: AbC-sEcReT-0123456789\r\nUser-Agent: azsdk-js-identity/1.5.2\r\nHost: 127.0.0.1:8080\r\n\r\n",
        Protocol::AppService2017,
        "https://vault.azure.net",
        Id::None,
    ),
    (
        "GET /msi/token?api-version=2019-08-01&resource=https://vault.azure.net&mi_res_id=/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg%20one/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-IDENTITY-HEADER: AbC-sEcReT-0123456789\r\nMetadata: true\r\n\r\n",
        Protocol::AppService2019,
        "https://vault.azure.net",
        Id::Resource,
    ),
    // app2019
    (
        "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net&client_id=11111111-2222-3333-4444-555555555555 HTTP/1.1\r\nuser-agent: azsdk-rust-identity/1.0.0\r\nx-identity-header: AbC-sEcReT-0123456789\r\nmetadata: true\r\nhost: 127.0.0.1:8080\r\n\r\n",
        Protocol::AppService2019,
        "https://vault.azure.net",
        Id::Client,
    ),
    (
        "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: azsdk-go-azidentity/v1.15.0\r\nX-Identity-Header: AbC-sEcReT-0123456789\r\n\r\n",
        Protocol::AppService2019,
        "https://vault.azure.net",
        Id::None,
    ),
    (
        "GET http://127.0.0.1:8080/msi/token?api-version=2019-08-01&resource=https://vault.azure.net HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-IDENTITY-HEADER: AbC-sEcReT-0123456789\r\nMetadata: true\r\n\r\n",
        Protocol::AppService2019,
        "https://vault.azure.net",
        Id::None,
    ),
    // app2017
    (
        "GET /msi/token?api-version=2017-09-01&clientid=&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nSecret: AbC-sEcReT-0123456789\r\n\r\n",
        Protocol::AppService2017,
        "https://vault.azure.net",
        Id::None,
    ),
    (
        "GET /msi/token?api-version=2017-09-01&clientid=11111111-2222-3333-4444-555555555555&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nSecret: AbC-sEcReT-0123456789\r\n\r\n",
        Protocol::AppService2017,
        "https://vault.azure.net",
        Id::Client,
    ),
    (
        "GET /msi/token?api-version=2017-09-01&resource=https://vault.azure.net&object_id=99999999-8888-7777-6666-555555555555 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nsecret: AbC-sEcReT-0123456789\r\n\r\n",
        Protocol::AppService2017,
        "https://vault.azure.net",
        Id::Object,
    ),
    (
        "GET /msi/token?api-version=2017-09-01&resource=https%3A%2F%2Fvault.azure.net&msi_res_id=%2Fsubscriptions%2F00000000-0000-0000-0000-000000000001%2FresourceGroups%2Frg+one%2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fid-1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nsecret: AbC-sEcReT-0123456789\r\n\r\n",
        Protocol::AppService2017,
        "https://vault.azure.net",
        Id::Resource,
    ),
    (
        "GET /msi/token?api-version=2017-09-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nMetadata: true\r\nsecret: AbC-sEcReT-0123456789\r\nContent-Type: application/x-www-form-urlencoded;charset=utf-8\r\nHost: 127.0.0.1:8080\r\n\r\n",
        Protocol::AppService2017,
        "https://vault.azure.net",
        Id::None,
    ),
    (
        "GET /msi/token?resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nContent-Length: 0\r\nHost: 127.0.0.1:8080\r\nContentType: application/x-www-form-urlencoded\r\nMetadata: true\r\nUser-Agent: azsdk-java-azure-identity/1.19.0\r\n\r\n",
        Protocol::Imds,
        "https://vault.azure.net",
        Id::None,
    ),
    // podid
    (
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01&mi_res_id=%2Fsubscriptions%2F00000000-0000-0000-0000-000000000001%2FresourceGroups%2Frg+one%2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fid-1&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nContent-Length: 0\r\nHost: 127.0.0.1:8080\r\nMetadata: true\r\n\r\n",
        Protocol::Imds,
        "https://vault.azure.net",
        Id::Resource,
    ),
    (
        "GET //metadata/identity/oauth2/token/?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nMetadata: true\r\nContent-Type: application/x-www-form-urlencoded;charset=utf-8\r\nHost: 127.0.0.1:8080\r\n\r\n",
        Protocol::Imds,
        "https://vault.azure.net",
        Id::None,
    ),
    (
        "GET //metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nContent-Length: 0\r\nHost: 127.0.0.1:8080\r\nMetadata: true\r\n\r\n",
        Protocol::Imds,
        "https://vault.azure.net",
        Id::None,
    ),
    // linklocal
    (
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&client_id=11111111-2222-3333-4444-555555555555 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nx-client-SKU: MSAL.Python\r\n\r\n",
        Protocol::Imds,
        "https://vault.azure.net",
        Id::Client,
    ),
    (
        "GET /metadata/identity/oauth2/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net&msi_res_id=%2Fsubscriptions%2F00000000-0000-0000-0000-000000000001%2FresourceGroups%2Frg+one%2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fid-1 HTTP/1.1\r\nmetadata: true\r\nhost: 169.254.169.254\r\n\r\n",
        Protocol::Imds,
        "https://vault.azure.net",
        Id::Resource,
    ),
];

/// Recorded too: requests that want any answer at once, to see whether somebody is there.
const PROBES: &[&str] = &[
    "GET /metadata/identity/oauth2/token HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: azsdk-go-azidentity/v1.15.0\r\n\r\n",
    "GET /metadata/identity/oauth2/token?api-version=2018-02-01 HTTP/1.1\r\nUser-Agent: Java/17.0.15\r\nHost: 127.0.0.1:8080\r\nAccept: text/html, image/gif, image/jpeg, */*; q=0.2\r\n\r\n",
    "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net HTTP/1.1\r\nHost: 169.254.169.254\r\nx-ms-client-request-id: 1\r\n\r\n",
];

/// The selectors of the recorded requests.
enum Id {
    None,
    Client,
    Object,
    Resource,
}

#[test]
fn recorded_clients_are_understood() {
    for (text, protocol, resource, id) in RECORDED {
        let mut selector = Selector::default();
        match id {
            Id::None => {}
            Id::Client => selector.client_id = Some("11111111-2222-3333-4444-555555555555".into()),
            Id::Object => selector.object_id = Some("99999999-8888-7777-6666-555555555555".into()),
            Id::Resource => selector.resource_id = Some("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg one/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-1".into()),
        }
        let sent = raw(text);
        let request = token(&sent);
        assert_eq!(request.protocol, *protocol, "{text}");
        assert_eq!(request.resource.as_str(), *resource, "{text}");
        assert_eq!(request.selector, selector, "{text}");
    }
}

#[test]
fn recorded_probes_are_answered_at_once() {
    for probe in PROBES {
        assert_eq!(decide(&raw(probe)), Err(Refusal::NoHeader), "{probe}");
    }
}

#[test]
fn a_form_says_what_a_query_may_say() {
    let header = Secret::new(HEADER);
    let mut post = parts("/msi/token?api-version=2018-02-01", &[("Metadata", "true")]);
    post.method = Method::POST;
    let decide = |form: &'static str| super::decide(&post, form, Some(&header));
    let Ok(Ask::Token(request)) = decide("resource=https%3A%2F%2Fvault.azure.net&client_id=c")
    else {
        panic!("no token is asked for")
    };
    assert_eq!(request.protocol, Protocol::Imds);
    assert_eq!(request.resource.as_str(), "https://vault.azure.net");
    assert_eq!(request.selector.client_id.as_deref(), Some("c"));
    assert_eq!(decide(""), Err(Refusal::NoResource));
    assert_eq!(decide("resource=a&resource=b").unwrap_err().reason(), "BadQuery");
}

#[test]
fn the_info_of_an_identity_is_asked_for_as_its_token_is() {
    for path in ["/metadata/identity/info", "/Metadata//identity/info/"] {
        let request = parts(&format!("{path}?client_id=c"), &[("Metadata", "true")]);
        let selector = Selector { client_id: Some("c".into()), ..Selector::default() };
        assert_eq!(decide(&request), Ok(Ask::Info(selector)), "{path}");
    }
}
