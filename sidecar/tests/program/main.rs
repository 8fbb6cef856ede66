//! The program itself: what it listens on, how it answers, what it asks Entra ID, how it ends.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod entra;
mod faults;
mod pod;
mod proxy;

use std::net::{TcpListener, TcpStream};

use entra::Entra;
use pod::{ASSERTION, HEADER, Pod, Sidecar, ask, bound, pid, probe, program, waiting};
use proxy::Proxy;
use rustix::process::{Signal, kill_process};

const VAULT: &str = "resource=https%3A%2F%2Fvault.azure.net";

#[test]
fn it_follows_the_identities_of_its_pod() {
    let pod = Pod::new(&waiting());
    let sidecar = Sidecar::start(&pod, &[]);
    let (status, body) = sidecar.imds(VAULT);
    assert_eq!((status, &body["error"]), (503, &"temporarily_unavailable".into()));

    pod.turn("..2", &bound(&["web/db", "ops/mail"]));
    let (status, state) = sidecar.get("/state", "");
    assert_eq!((status, &state["hold"]), (200, &false.into()));
    assert_eq!(state["identities"][1]["name"], "ops/mail");
    let (status, body) = sidecar.imds(&format!("{VAULT}&client_id=unknown"));
    assert_eq!(status, 400);
    assert!(body["message"].as_str().unwrap().contains("web/db, ops/mail"), "{body}");

    pod.turn("..3", "");
    assert_eq!(sidecar.imds(VAULT).0, 400);
    assert_eq!(sidecar.get("/metadata/instance", "Metadata: true\r\n").0, 404);
    assert_eq!(sidecar.get("/msi/token", "").0, 400);
}

#[test]
fn both_loopback_addresses_have_the_same_port() {
    let pod = Pod::new(&waiting());
    let sidecar = Sidecar::start(&pod, &[]);
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    if has_ipv6 {
        assert!(TcpStream::connect(("::1", sidecar.port)).is_ok());
    } else {
        assert!(sidecar.said("not listening"));
    }
}

#[test]
fn a_client_gets_the_token_that_entra_id_gave() {
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &entra.settings());
    entra.answer(
        200,
        "",
        r#"{"token_type":"Bearer","expires_in":3600,"access_token":"h.t0ken.s"}"#,
    );
    let (status, body) = sidecar.imds(VAULT);
    assert_eq!((status, &body["access_token"]), (200, &"h.t0ken.s".into()), "{body}");
    assert_eq!(body["resource"], "https://vault.azure.net");
    let request = entra.asked();
    assert!(request.starts_with("POST /70000000-0000-0000-0000-000000000000/oauth2/v2.0/token "));
    assert!(request.contains(&format!("client_assertion={ASSERTION}&")), "{request}");

    // The second is from the cache: Entra ID has no second answer.
    let (status, body) =
        sidecar.get(&format!("/msi/token?{VAULT}"), &format!("X-IDENTITY-HEADER: {HEADER}\r\n"));
    assert_eq!((status, &body["access_token"]), (200, &"h.t0ken.s".into()), "{body}");
    assert_eq!(sidecar.get(&format!("/msi/token?{VAULT}"), "secret: wrong\r\n").0, 403);
    let (_, state) = sidecar.get("/state", "");
    assert_eq!(state["identities"][0]["tokens"][0]["lastResult"], "fetched");

    let log = sidecar.end(Signal::TERM);
    assert!(log.contains(r#""result":"fetched""#), "{log}");
    for secret in ["t0ken", ASSERTION, HEADER] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

/// The port that the log tells: every address, and nothing but the metrics.
#[test]
fn the_metrics_have_a_port_of_their_own_where_one_is_asked_for() {
    let pod = Pod::new(&waiting());
    let mut sidecar = Sidecar::start(&pod, &["--metrics-port=0".to_owned()]);
    let event = sidecar.event("listening for scrapes").unwrap();
    let (_, port) = event["addr"].as_str().unwrap().rsplit_once(':').unwrap();
    let port = port.parse().unwrap();
    assert_eq!(sidecar.imds(VAULT).0, 503);
    let counted =
        r#"imdslet_sidecar_requests_total{route="imds",outcome="failed",reason="NotBoundYet"} 1"#;
    for (port, uri, status) in
        [(port, "/metrics", "200"), (sidecar.port, "/metrics", "200"), (port, "/state", "404")]
    {
        let answer = ask(port, uri, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{uri}: {answer}");
        assert_eq!(answer.contains(counted), status == "200", "{uri}: {answer}");
    }
    let log = sidecar.end(Signal::TERM);
    assert!(log.contains(r#""complete":true"#), "{log}");
}

/// A pod without metrics is better than one without tokens.
#[test]
fn a_metrics_port_that_is_taken_keeps_nobody_from_tokens() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let pod = Pod::new(&waiting());
    let port = taken.local_addr().unwrap().port();
    let mut sidecar = Sidecar::start(&pod, &[format!("--metrics-port={port}")]);
    let message = "cannot serve metrics; --sidecar-metrics-port sets another port";
    assert_eq!(sidecar.event(message).unwrap()["reason"], "NoMetricsPort");
    assert_eq!(sidecar.imds(VAULT).0, 503);
}

#[test]
fn refusals_and_redirects_are_told_and_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &entra.settings());

    let location = format!("Location: https://{}/\r\n", elsewhere.local_addr().unwrap());
    entra.answer(307, &location, "");
    let (status, body) = sidecar.imds("resource=redirected");
    assert_eq!(status, 503, "{body}");
    assert!(elsewhere.accept().is_err(), "it went there");

    entra.answer(
        401,
        "",
        r#"{"error":"invalid_client","error_description":"AADSTS700016: Application \"x\" was not found.\r\nTrace ID: t","error_codes":[700016]}"#,
    );
    let (status, body) = sidecar.imds("resource=refused");
    assert_eq!(status, 400);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("spec.clientID of AzureIdentity web/db"), "{message}");

    entra.answer(429, "Retry-After: 17\r\n", "");
    let head = sidecar.raw("/msi/token?resource=throttled", "Metadata: true\r\n");
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("retry-after: 17\r\n"), "{head}");
}

/// The proxy sees where it leads and no more, and the extra CA counts inside the tunnel.
#[test]
fn entra_id_is_reached_through_the_proxy_but_where_none_is_wanted() {
    let entra = Entra::named("login.behind.example");
    let proxy = Proxy::to(entra.address, 200);
    let pod = Pod::new(&bound(&["web/db"]));
    let settings = |proxy: &Proxy, no_proxy: &str| {
        [
            "--authority=https://login.behind.example".to_owned(),
            format!("IMDSLET_EXTRA_CA={}", entra.pem()),
            format!("https_proxy=http://me:p%40ssw0rd@{}/", proxy.address),
            format!("NO_PROXY={no_proxy}"),
        ]
    };
    let sidecar = Sidecar::start(&pod, &settings(&proxy, "behind.example:8443"));
    let token = r#"{"token_type":"Bearer","expires_in":3600,"access_token":"h.t0ken.s"}"#;
    entra.answer(200, "", token);
    let (status, body) = sidecar.imds(VAULT);
    assert_eq!((status, &body["access_token"]), (200, &"h.t0ken.s".into()), "{body}");
    assert!(entra.asked().contains(&format!("client_assertion={ASSERTION}&")));
    // printf %s me:p@ssw0rd | base64
    assert_eq!(
        proxy.asked(),
        "CONNECT login.behind.example:443 HTTP/1.1\r\nHost: login.behind.example:443\r\n\
         Proxy-Authorization: Basic bWU6cEBzc3cwcmQ=\r\n\r\n"
    );

    let refusing = Proxy::to(entra.address, 407);
    let refused = Sidecar::start(&pod, &settings(&refusing, ""));
    let (status, body) = refused.imds(VAULT);
    assert_eq!(status, 503, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains(&format!("by the proxy http://{}: ", refusing.address)), "{message}");
    assert!(message.contains("authorization required"), "{message}");
    refusing.asked();

    // The loopback is never asked for at a proxy.
    let here = Entra::start();
    let [authority, extra_ca] = here.settings();
    let [_, _, https_proxy, _] = settings(&refusing, "");
    let straight = Sidecar::start(&pod, &[authority, extra_ca, https_proxy]);
    here.answer(200, "", token);
    assert_eq!(straight.imds(VAULT).0, 200);

    for sidecar in [sidecar, refused, straight] {
        let log = sidecar.end(Signal::TERM);
        for secret in ["ssw0rd", "bWU6", "t0ken", ASSERTION] {
            assert!(!log.contains(secret), "{secret} is in the log: {log}");
        }
    }
}

/// AKS's token proxy gets the token request alone, with the token that is meant for it, under its
/// own name in TLS; nothing but the CA in the pod's volume is trusted, and that is read again.
#[test]
fn an_identity_binding_is_served_through_the_token_proxy_alone() {
    let name = "1a2b3c4d.ests.aks";
    let entra = Entra::start();
    let (first, second) = (Entra::named(name), Entra::named(name));
    let pod = Pod::new(&waiting());
    let identities = bound(&["web/db"]).replace("federated", "binding");
    let files = |token, ca| [("binding-token", token), ("binding-ca.crt", ca)];
    for (file, _) in files("", "") {
        pod.project(file);
    }
    pod.turn_with("..2", &identities, &files("f1rst.binding.t0ken\n", first.pem()));
    let [authority, extra_ca] = entra.settings();
    let settings = |proxy: &Entra| {
        let proxy = format!("--binding-proxy={}", proxy.url());
        [authority.clone(), extra_ca.clone(), proxy, format!("--binding-sni={name}")]
    };
    let sidecar = Sidecar::start(&pod, &settings(&first));
    let token = r#"{"token_type":"Bearer","expires_in":3600,"access_token":"h.t0ken.s"}"#;
    first.answer(200, "", token);
    let (status, body) = sidecar.imds(VAULT);
    assert_eq!((status, &body["access_token"]), (200, &"h.t0ken.s".into()), "{body}");
    let (asked_as, request) = first.asked_as();
    assert_eq!(asked_as.as_deref(), Some(name));
    assert!(request.starts_with("POST /70000000-0000-0000-0000-000000000000/oauth2/v2.0/token "));
    assert!(request.contains("client_assertion=f1rst.binding.t0ken&"), "{request}");
    assert!(request.contains("client_id=c0000000-0000-0000-0000-000000000000&"), "{request}");

    first.answer(403, "", r#"{"kind":"Status","status":"Failure","code":403}"#);
    let (status, body) = sidecar.imds("resource=forbidden");
    assert_eq!(status, 403, "{body}");
    assert!(body["message"].as_str().unwrap().contains("use-managed-identity"), "{body}");
    first.asked();

    // A CA that is not the proxy's, then the right one again.
    pod.turn_with("..3", &identities, &files("second", second.pem()));
    let (status, body) = sidecar.imds("resource=rotated");
    assert_eq!(status, 503, "{body}");
    assert!(body["message"].as_str().unwrap().contains("is not trusted"), "{body}");
    pod.turn_with("..4", &identities, &files("third", first.pem()));
    first.answer(200, "", token);
    assert_eq!(sidecar.imds("resource=again").0, 200);
    assert!(first.asked().contains("client_assertion=third&"));
    // The CAs of the sidecar's other connections do not count here.
    let elsewhere = Sidecar::start(&pod, &settings(&entra));
    assert_eq!(elsewhere.imds(VAULT).0, 503);

    let log = sidecar.end(Signal::TERM);
    for secret in ["t0ken", "f1rst"] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[test]
fn an_authority_that_is_not_trusted_gets_no_assertion() {
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let [authority, _] = entra.settings();
    let sidecar = Sidecar::start(&pod, &[authority]);
    let (status, body) = sidecar.imds(VAULT);
    assert_eq!(status, 503);
    assert!(body["message"].as_str().unwrap().contains("--extra-ca"), "{body}");
}

#[test]
fn whatever_entra_id_answers_a_client_is_told_and_nothing_is_asked_twice() {
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let whole = |body: &str| format!("{json}Content-Length: {}\r\n\r\n{body}", body.len());
    let cases = [
        ("down", String::new()),
        ("garbage", "\u{0}\u{1}no HTTP\r\n\r\n".to_owned()),
        ("a-web-page", whole("<html>Sign in to the network</html>")),
        ("cut", format!("{json}Content-Length: 900\r\n\r\n{{\"expires_in\":3600,\"acc")),
        ("half-of-it", whole(r#"{"token_type":"Bearer","expires_in":3600,"access_tok"#)),
        ("wrong-type", whole(r#"{"expires_in":"soon","access_token":"a.b.c"}"#)),
        ("not-a-string", whole(r#"{"expires_in":3600,"access_token":["a.b.c"]}"#)),
        ("no-token", whole(r#"{"token_type":"Bearer","expires_in":3600}"#)),
        ("expired-at-once", whole(r#"{"expires_in":0,"access_token":"a.b.c"}"#)),
        ("busy", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 9\r\n\r\n".to_owned()),
    ];
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &entra.settings());
    for (name, answer) in &cases {
        entra.say(answer);
        let path = format!("/msi/token?resource={name}");
        let head = sidecar.raw(&path, "Metadata: true\r\n").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 503 "), "{name}: {head}");
        let retry_after = if *name == "busy" { "retry-after: 9\r\n" } else { "retry-after: 1\r\n" };
        assert!(head.contains(retry_after), "{name}: {head}");
        assert!(!head.contains("a.b.c"), "{name}: {head}");
        assert_eq!(entra.count(), 1, "{name}");
    }
    // It is none the worse for all of that.
    entra.answer(200, "", r#"{"expires_in":3600,"access_token":"a.b.c"}"#);
    assert_eq!(sidecar.imds("resource=good").0, 200);
    let log = sidecar.end(Signal::TERM);
    assert!(!log.contains("a.b.c"), "{log}");
}

#[test]
fn many_cold_requests_at_once_are_one_call() {
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let sidecar = Sidecar::start(&pod, &entra.settings());
    let port = sidecar.port;
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..32)
            .map(|_| scope.spawn(move || ask(port, "/msi/token?resource=r", "Metadata: true\r\n")))
            .collect();
        entra.answer(200, "", r#"{"expires_in":3600,"access_token":"a.b.c"}"#);
        for asking in asking {
            assert!(asking.join().unwrap().starts_with("HTTP/1.1 200 "));
        }
    });
    assert_eq!(entra.count(), 1);
}

#[test]
fn sigterm_lets_a_native_sidecar_finish_what_it_began() {
    let entra = Entra::start();
    let pod = Pod::new(&bound(&["web/db"]));
    let mut sidecar = Sidecar::start(&pod, &entra.settings());
    let port = sidecar.port;
    std::thread::scope(|scope| {
        let asking = scope.spawn(move || ask(port, "/msi/token?resource=r", "Metadata: true\r\n"));
        // Entra ID has been asked, and answers only after the sidecar was told to end.
        entra.asked();
        kill_process(pid(&sidecar.child), Signal::TERM).unwrap();
        assert!(sidecar.event("ending").is_some());
        entra.answer(200, "", r#"{"expires_in":3600,"access_token":"a.b.c"}"#);
        let answer = asking.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    });
    assert!(sidecar.ended().contains(r#""complete":true"#));
}

#[test]
fn sigterm_ends_a_native_sidecar_within_a_second() {
    let pod = Pod::new(&waiting());
    let sidecar = Sidecar::start(&pod, &[]);
    // A connection that asks nothing holds nobody up: all was over before the grace was, which is
    // shorter than the second.
    let idle = TcpStream::connect(("127.0.0.1", sidecar.port)).unwrap();
    assert!(sidecar.end(Signal::TERM).contains(r#""complete":true"#));
    drop(idle);
}

#[test]
fn sigterm_lets_a_plain_container_serve_to_the_end_of_the_grace() {
    let pod = Pod::new(&waiting());
    let mut sidecar = Sidecar::start(&pod, &["--mode=container".to_owned()]);
    kill_process(pid(&sidecar.child), Signal::TERM).unwrap();
    assert!(sidecar.event("serving on").is_some());
    assert_eq!(sidecar.get("/state", "").0, 200);
    sidecar.end(Signal::INT);
}

#[test]
fn the_probe_says_whether_the_pod_may_start() {
    let pod = Pod::new(&waiting());
    let sidecar = Sidecar::start(&pod, &[]);
    let (code, line) = probe(sidecar.port);
    assert_eq!(code, Some(1));
    assert_eq!(
        line,
        "imdslet: no AzureIdentityBinding for this pod's aadpodidbinding label can be used yet; the \
         pod's events say why\n"
    );
    for content in [bound(&["web/db"]), String::new()] {
        pod.turn(&format!("..{}", content.len() + 2), &content);
        assert_eq!(probe(sidecar.port), (Some(0), String::new()));
    }
    let port = sidecar.port;
    sidecar.end(Signal::TERM);
    let (code, line) = probe(port);
    assert_eq!(code, Some(1));
    assert_eq!(
        line,
        format!("imdslet: the sidecar does not listen on 127.0.0.1:{port}; see its log\n")
    );
}

#[test]
fn each_way_to_use_it_wrongly_has_its_exit_code() {
    let pod = Pod::new(&waiting());
    let dir = format!("--dir={}", pod.dir());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--port={}", taken.local_addr().unwrap().port());
    let serve = ["serve", &dir, "--authority=https://login.example", "--mode=native"];
    let cases: [(Vec<&str>, Option<&str>, i32, &str); 8] = [
        (vec![], None, 2, "usage: "),
        (vec!["address", "--port=1"], None, 2, "usage: "),
        (vec!["probe"], None, 2, "usage: "),
        (vec!["probe", "--port=x"], None, 2, "usage: "),
        (vec!["serve", "--port=0"], None, 2, "`--dir` is missing"),
        (vec!["serve", "--verbose"], None, 2, "unknown argument `--verbose`"),
        ([&serve[..], &["--port=0"]].concat(), Some("junk"), 2, "IMDSLET_EXTRA_CA"),
        ([&serve[..], &[&port]].concat(), None, 3, "cannot listen on 127.0.0.1"),
    ];
    for (args, extra_ca, code, said) in cases {
        let output =
            program().args(&args).env("IMDSLET_EXTRA_CA", extra_ca.unwrap_or_default()).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8(all).unwrap();
        assert!(all.contains(said), "{args:?}: {all}");
    }
}
