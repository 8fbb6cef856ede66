//! Whatever a client sends is answered, with a status that the clients know.

use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

/// A query: whole parameters that are known, pieces of them, and anything that a URI may hold.
fn query() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("resource".to_owned()),
        Just("client_id".to_owned()),
        Just("clientid".to_owned()),
        Just("object_id".to_owned()),
        Just("mi_res_id".to_owned()),
        Just("bypass_cache".to_owned()),
        "[!$-;?-Z_a-z~]{0,8}",
    ];
    let value = prop_oneof![
        Just("c0000000-0000-0000-0000-000000000001".to_owned()),
        Just("https://vault.azure.net".to_owned()),
        Just("true".to_owned()),
        "(%[0-9a-fA-F]{0,2}|[!$-;?-Z_a-z~=&+]){0,12}",
    ];
    let pair = (name, value).prop_map(|(name, value)| format!("{name}={value}"));
    prop::collection::vec(pair, 0..5).prop_map(|pairs| pairs.join("&"))
}

fn header() -> impl Strategy<Value = (HeaderName, Vec<u8>)> {
    let name = prop_oneof![
        Just("metadata"),
        Just("secret"),
        Just("x-identity-header"),
        Just("host"),
        Just("x-forwarded-for"),
        Just("origin"),
        Just("sec-fetch-site"),
        Just("content-length"),
    ];
    let value = prop_oneof![
        Just(b"true".to_vec()),
        Just(HEADER.as_bytes().to_vec()),
        Just(b"127.0.0.1:2579".to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    (name.prop_map(HeaderName::from_static), value)
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("/msi/token".to_owned()),
        4 => Just("/metadata/identity/oauth2/token".to_owned()),
        1 => Just("/metadata/identity/info".to_owned()),
        1 => Just("/state".to_owned()),
        1 => "/[!$-;@-Z_a-z~%]{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_gets_an_answer_that_clients_know(
        post in any::<bool>(),
        path in path(),
        query in query(),
        form in query(),
        headers in prop::collection::vec(header(), 0..4),
    ) {
        let uri = format!("{path}?{query}");
        prop_assume!(uri.parse::<http::Uri>().is_ok());
        let mut head = parts(&uri, &[]);
        if post {
            head.method = Method::POST;
        }
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                head.headers.append(name, value);
            }
        }
        let is_token = matches!(path.as_str(), "/msi/token" | "/metadata/identity/oauth2/token");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (status, body) = runtime.block_on(async {
            let pod = Pod::new(&pod([identity("web/db", '1'), identity("ops/mail", '2')]));
            let request = Request::from_parts(head, Body::from(form));
            let answer = router(pod.endpoint.clone()).oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            (status, to_bytes(answer.into_body(), usize::MAX).await.unwrap())
        });
        let body: Value = serde_json::from_slice(&body).unwrap();
        match status {
            200 => {}
            // Clients take 404 at a token path for an identity that is being made, and wait minutes.
            404 => prop_assert!(!is_token, "{uri}"),
            400 | 403 | 405 => prop_assert_eq!(&body["statusCode"], status),
            other => prop_assert!(false, "{} gave {}: {}", uri, other, body),
        }
    }
}
