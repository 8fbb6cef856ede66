//! The requests that real clients sent to a recorder (2026-11), byte for byte but for headers that
//! nobody reads, each answered as that client reads an answer (`docs/compatibility.md`).

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::*;

const RECORDED: &str = include_str!("recorded.jsonl");

/// The identity that the requests with a selector mean; another one is the default.
const CHOSEN: &str = "web/chosen";

#[derive(Deserialize)]
struct Recorded {
    client: String,
    /// Which variables it was given.
    mode: String,
    selector: String,
    request: String,
}

/// What a client must find in an answer.
struct Client {
    name: &'static str,
    /// Reads the date of 2017 in `expires_on`, and not only an epoch.
    reads_dates: bool,
    /// Fails where one of these is missing.
    required: &'static [&'static str],
}

/// Read from the clients' sources, and tried with each of them against a recorder that left
/// fields out.
const CLIENTS: [Client; 10] = [
    Client {
        name: "az-cli-2.91.0",
        reads_dates: false,
        required: &["access_token", "expires_in", "expires_on", "resource", "token_type"],
    },
    Client {
        name: "py-msal-1.39.0",
        reads_dates: false,
        required: &["access_token", "expires_in", "expires_on", "resource", "token_type"],
    },
    Client {
        name: "py-azure-identity-1.27.0",
        reads_dates: false,
        required: &["access_token", "expires_in", "expires_on", "resource"],
    },
    Client {
        name: "py-azure-identity-1.5.0",
        reads_dates: true,
        required: &["access_token", "expires_on"],
    },
    Client {
        name: "js-azure-identity-4.13.1",
        reads_dates: true,
        required: &["access_token", "expires_on", "resource", "token_type"],
    },
    Client {
        name: "js-azure-identity-1.5.2",
        reads_dates: true,
        required: &["access_token", "expires_on", "expires_in"],
    },
    Client {
        name: "go-azidentity-1.15.0",
        reads_dates: false,
        required: &["access_token", "expires_in", "expires_on", "resource", "token_type"],
    },
    Client {
        name: "go-autorest-adal-0.9.24",
        reads_dates: true,
        required: &["access_token", "expires_on", "not_before", "resource", "token_type"],
    },
    Client {
        name: "java-azure-identity-1.19.0",
        reads_dates: false,
        required: &["access_token", "expires_on", "resource", "token_type", "client_id"],
    },
    Client {
        name: "rust-azure_identity-1.0.0",
        reads_dates: false,
        required: &["access_token", "expires_on", "resource", "token_type"],
    },
];

/// The pod whose identities the recorded selectors mean.
fn recorded_pod() -> Pod {
    let mut chosen = identity(CHOSEN, '1');
    chosen.client_id = "11111111-2222-3333-4444-555555555555".to_owned();
    chosen.object_id = Some("99999999-8888-7777-6666-555555555555".to_owned());
    chosen.resource_id = Some(
        "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg one/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-1"
            .to_owned(),
    );
    Pod::new(&pod([identity("web/default", '2'), chosen]))
}

/// Sends bytes over a connection, and reads the one answer to them.
async fn exchange(pod: &Pod, request: &str) -> (u16, Value) {
    let (client, server) = UnixStream::pair().unwrap();
    let service = TowerToHyperService::new(router(pod.endpoint.clone()));
    let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let asking = async move {
        client.writable().await.unwrap();
        assert_eq!(client.try_write(request.as_bytes()).unwrap(), request.len());
        let mut read = Vec::new();
        loop {
            client.readable().await.unwrap();
            let mut chunk = [0; 4096];
            match client.try_read(&mut chunk) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                more => {
                    let more = more.unwrap();
                    assert_ne!(more, 0, "no answer: {request}");
                    read.extend_from_slice(&chunk[..more]);
                }
            }
            let text = std::str::from_utf8(&read).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            // Only a whole answer is JSON.
            if let Ok(body) = serde_json::from_str(body) {
                return (head.split(' ').nth(1).unwrap().parse().unwrap(), body);
            }
        }
    };
    // The connection ends when the client, which `asking` owns, is gone.
    let (answer, _) = tokio::join!(asking, serving);
    answer
}

#[tokio::test]
async fn each_recorded_client_gets_what_it_reads() {
    let pod = recorded_pod();
    let mut told = 0;
    for line in RECORDED.lines() {
        let Recorded { client, mode, selector, request } = serde_json::from_str(line).unwrap();
        let known = CLIENTS.iter().find(|known| known.name == client).unwrap();
        let lower = request.to_ascii_lowercase();
        let has = |header: &str| lower.contains(&format!("\r\n{header}: "));
        let (status, body) = exchange(&pod, &request).await;
        let case = format!("{client} {mode} {selector}: {request}");

        if !(has("metadata") || has("secret") || has("x-identity-header")) {
            // A probe. It wants any answer at once, .NET's exactly this one.
            assert_eq!((status, &body["error"]), (400, &"invalid_request".into()), "{case}");
            continue;
        }
        if !lower.contains("resource=http") {
            // A probe too, of Python 1.5.0.
            assert_eq!(status, 400, "{case}");
            continue;
        }
        told += 1;
        assert_eq!(status, 200, "{case}");
        for field in known.required {
            assert!(body[field].is_string(), "{field} of {case}: {body}");
        }
        assert_eq!(body.get("refresh_in"), None, "Python 1.5.0 and 1.12.0 fail by it");
        // An id that the client left out means the default.
        let selects = ["client", "object", "res_id", "resource_id"];
        let selects = selects.iter().any(|id| {
            lower.split(['?', '&', '\n']).any(|pair| {
                pair.split_once('=').is_some_and(|(name, value)| {
                    name.contains(id) && value.split(' ').next() != Some("")
                })
            })
        });
        let name = if selects { CHOSEN } else { "web/default" };
        let token = body["access_token"].as_str().unwrap();
        assert!(token.starts_with(&format!("{name} for https://")), "{token}: {case}");

        let by_2017 = has("secret") && !has("x-identity-header");
        let expires_on = if by_2017 { "01/15/2027 09:00:00 +00:00" } else { "1800003600" };
        assert_eq!(body["expires_on"], expires_on, "{case}");
        // Current clients read no dates. They ask in 2017's way only where MSI_* stand alone, and
        // that is never injected.
        assert!(!by_2017 || known.reads_dates || mode == "app2017", "{case}");
    }
    assert!(told > 150, "{told} requests were for a token");
    assert_eq!(pod.fetches.load(Ordering::Relaxed), 4, "two identities, two resources");
}
