//! Files and connections that are not as they should be: what can be served is served, what cannot
//! is told, and it mends itself.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;

use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::VAULT;
use crate::entra::Entra;
use crate::pod::{ASSERTION, Pod, Sidecar, ask, bound, pid, probe, waiting};

const TOKEN: &str = r#"{"token_type":"Bearer","expires_in":3600,"access_token":"h.t0ken.s"}"#;

#[test]
fn files_that_come_late_are_told_at_once_hold_the_pod_and_are_found() {
    let entra = Entra::start();
    let pod = Pod::empty();
    let mut sidecar = Sidecar::start(&pod, &entra.settings());
    assert!(sidecar.said("identities.json cannot be used"));
    let head = sidecar.raw(&format!("/msi/token?{VAULT}"), "Metadata: true\r\n");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 5\r\n"), "{head}");
    assert!(head.contains("No such file"), "{head}");
    let (code, line) = probe(sidecar.port);
    assert!(code == Some(1) && line.contains("No such file"), "{code:?} {line}");
    assert!(sidecar.child.try_wait().unwrap().is_none());

    pod.turn("..1", &bound(&["web/db"]));
    assert_eq!(probe(sidecar.port), (Some(0), String::new()));
    entra.answer(200, "", TOKEN);
    assert_eq!(sidecar.imds(VAULT).0, 200);
}

#[test]
fn identities_that_cannot_be_read_leave_the_last_good_ones_in_force() {
    let entra = Entra::start();
    let good = bound(&["web/db"]);
    let pod = Pod::new(&good);
    let sidecar = Sidecar::start(&pod, &entra.settings());
    entra.answer(200, "", TOKEN);
    assert_eq!(sidecar.imds(VAULT).0, 200);

    let newer = good.replace(r#""version":1"#, r#""version":2"#);
    let broken = [
        ("..half", Some(&good[..good.len() / 2]), "no JSON of identities"),
        ("..gone", None, "No such file"),
        ("..newer", Some(newer.as_str()), "recreate the pod"),
        ("..other", Some("[]"), "no JSON of identities"),
    ];
    for (generation, identities, problem) in broken {
        let identities = identities.map(|content| ("identities.json", content));
        let files: Vec<_> = identities.into_iter().chain([("token", ASSERTION)]).collect();
        pod.turn_to(generation, &files);
        let (status, body) = sidecar.imds(VAULT);
        assert_eq!((status, &body["access_token"]), (200, &"h.t0ken.s".into()), "{generation}");
        let (_, state) = sidecar.get("/state", "");
        assert!(state["problem"].as_str().unwrap().contains(problem), "{generation}: {state}");
        assert_eq!(state["identities"][0]["name"], "web/db", "{generation}: {state}");
        // They are as good as ever, also for what is not held yet.
        entra.answer(200, "", TOKEN);
        assert_eq!(sidecar.imds(&format!("resource={}", &generation[2..])).0, 200, "{generation}");
        assert_eq!(probe(sidecar.port), (Some(0), String::new()), "{generation}");
    }
    assert_eq!(entra.count(), 1 + broken.len());

    // The next that can be read counts, and what was held for the last ones does not.
    pod.turn("..good", &bound(&["ops/mail"]));
    let (_, state) = sidecar.get("/state", "");
    assert_eq!((&state["problem"], &state["identities"][0]["tokens"]), (&json!(null), &json!([])));
    entra.answer(429, "Retry-After: 7\r\n", "");
    assert_eq!(sidecar.imds(VAULT).0, 429);
    let log = sidecar.end(Signal::TERM);
    assert_eq!(log.matches(r#""kept_last":true"#).count(), broken.len(), "{log}");
}

#[test]
fn a_service_account_token_is_read_for_each_fetch_whatever_stands_there() {
    let entra = Entra::start();
    let identities = bound(&["web/db"]);
    let pod = Pod::new(&identities);
    let sidecar = Sidecar::start(&pod, &entra.settings());
    entra.answer(200, "", TOKEN);
    assert_eq!(sidecar.imds(VAULT).0, 200);
    assert!(entra.asked().contains(&format!("client_assertion={ASSERTION}&")));

    for (generation, token) in [("..gone", None), ("..empty", Some("")), ("..blank", Some(" \n"))] {
        let token = token.map(|content| ("token", content));
        let files: Vec<_> = [("identities.json", &*identities)].into_iter().chain(token).collect();
        pod.turn_to(generation, &files);
        assert_eq!(sidecar.imds(VAULT).0, 200, "{generation}: what is held needs none");
        let (status, body) = sidecar.imds(&format!("resource={}", &generation[2..]));
        assert_eq!(status, 503, "{generation}: {body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("service account token cannot be read"), "{message}");
    }
    assert_eq!(entra.count(), 0, "nothing was sent without one");

    // Half of one is refused by Entra ID, and not quoted to anybody.
    let files = |token| [("identities.json", &*identities), ("token", token)];
    pod.turn_to("..half", &files("eyJhbGciOiJSUzI1NiJ9.eyJpc3M"));
    let refusal = r#"{"error":"invalid_request","error_description":"AADSTS50027: JWT token 'eyJhbGciOiJSUzI1NiJ9.eyJpc3M' is invalid or malformed.","error_codes":[50027]}"#;
    entra.answer(401, "", refusal);
    let (status, body) = sidecar.imds("resource=half");
    assert_eq!(status, 400, "{body}");
    assert!(!body.to_string().contains("eyJ"), "{body}");
    entra.asked();

    pod.turn_to("..new", &files("renewed.acc0unt.t0\n"));
    entra.answer(200, "", TOKEN);
    assert_eq!(sidecar.imds("resource=new").0, 200);
    assert!(entra.asked().contains("client_assertion=renewed.acc0unt.t0&"));
    let log = sidecar.end(Signal::TERM);
    assert!(!log.contains("eyJ") && !log.contains("renewed"), "{log}");
}

#[test]
fn a_token_that_is_held_is_served_while_entra_id_lets_another_wait() {
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &entra.settings());
    entra.answer(200, "", TOKEN);
    assert_eq!(sidecar.imds(VAULT).0, 200);
    entra.asked();
    let port = sidecar.port;
    thread::scope(|scope| {
        let waits = scope.spawn(move || ask(port, "/msi/token?resource=r", "Metadata: true\r\n"));
        entra.asked();
        for _ in 0..10 {
            assert_eq!(sidecar.imds(VAULT).0, 200);
        }
        let (_, state) = sidecar.get("/state", "");
        let tokens = state["identities"][0]["tokens"].as_array().unwrap();
        let results: Vec<_> = tokens.iter().map(|token| &token["lastResult"]).collect();
        assert_eq!(results, [&json!("fetched"), &json!(null)], "{state}");
        assert!(!waits.is_finished());
        entra.answer(200, "", TOKEN);
        assert!(waits.join().unwrap().starts_with("HTTP/1.1 200 "));
    });
}

/// What is in flight has the grace and no more; whoever waited for it is told so by the end of the
/// connection.
#[test]
fn sigterm_ends_a_native_sidecar_though_entra_id_never_answers() {
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &entra.settings());
    let port = sidecar.port;
    thread::scope(|scope| {
        let waits = scope.spawn(move || ask(port, "/msi/token?resource=r", "Metadata: true\r\n"));
        entra.asked();
        kill_process(pid(&sidecar.child), Signal::TERM).unwrap();
        let log = sidecar.ended();
        assert!(log.contains(r#""complete":false"#), "{log}");
        assert_eq!(waits.join().unwrap(), "");
    });
}

/// A server at which TLS fails in one way or another; what it was sent, without what TLS says.
fn at_a_server_that(answers: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = format!("--authority=https://{}", listener.local_addr().unwrap());
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &[authority]);
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 4096];
            let length = stream.read(&mut hello).unwrap();
            stream.write_all(answers).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            // It may be reset, which is an end too.
            stream.read_to_end(&mut rest).ok();
            String::from_utf8_lossy(&[&hello[..length], &rest].concat()).into_owned()
        });
        let (status, body) = sidecar.imds(VAULT);
        assert_eq!(status, 503, "{body}");
        assert!(body["message"].as_str().unwrap().contains("cannot be asked"), "{body}");
        server.join().unwrap()
    })
}

#[test]
fn where_tls_fails_no_assertion_is_sent() {
    let handshake_failure = b"\x15\x03\x03\x00\x02\x02\x28";
    for answers in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", handshake_failure] {
        let sent = at_a_server_that(answers);
        assert!(!sent.contains(ASSERTION) && !sent.contains("POST"), "{sent}");
    }
    // A certificate for another name, of a CA that is trusted.
    let entra = Entra::named("other.example");
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &entra.settings());
    let (status, body) = sidecar.imds(VAULT);
    assert_eq!(status, 503, "{body}");
    assert!(body["message"].as_str().unwrap().contains("is not trusted"), "{body}");
    assert_eq!(entra.count(), 0);
}

/// A pod that waits for its binding is not held up by what its files lack.
#[test]
fn a_pod_that_waits_is_told_so_whatever_else_is_missing() {
    let pod = Pod::empty();
    pod.turn_to("..1", &[("identities.json", &waiting())]);
    let sidecar = Sidecar::start(&pod, &[]);
    let (status, body) = sidecar.imds(VAULT);
    assert_eq!((status, &body["error"]), (503, &"temporarily_unavailable".into()), "{body}");
    let (code, line) = probe(sidecar.port);
    assert!(code == Some(1) && line.contains("can be used yet"), "{code:?} {line}");
}
