use std::fs;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use imdslet_core::names::TOKEN_FILE;
use imdslet_core::settings::Settings;
use tokio::time::Instant;

use super::*;
use crate::config::FETCH_DEADLINE;
use crate::fault::Reply;
use crate::testing::{identity, now, serve_args};
use crate::transport::NoReply;

mod credentials;

const TOKEN: &str =
    r#"{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"a.b.c"}"#;

/// Takes the place of the network: answers as told, and keeps what would have left the pod.
struct Wire {
    reply: Result<Reply, NoReply>,
    sent: Mutex<Vec<(String, String)>>,
}

#[async_trait]
impl Post for Wire {
    async fn post(&self, request: http::Request<Full<Bytes>>) -> Result<Reply, NoReply> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        self.sent.lock().unwrap().push((head.uri.to_string(), body));
        self.reply.clone()
    }
}

fn reply(status: u16, body: &str) -> Arc<Wire> {
    let reply = Reply { status, retry_after: None, body: body.as_bytes().to_vec().into() };
    Arc::new(Wire { reply: Ok(reply), sent: Mutex::default() })
}

/// The node of tests that do not ask it.
struct NoNode;

#[async_trait]
impl Get for NoNode {
    async fn get(&self, path_and_query: &str) -> Result<Reply, NoReply> {
        panic!("the node was asked for {path_and_query}");
    }
}

/// Entra ID behind `wire`, with `token` as the service account token.
fn entra(wire: &Arc<Wire>, token: Option<&str>) -> (Sources, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    if let Some(token) = token {
        fs::write(dir.path().join(TOKEN_FILE), token).unwrap();
    }
    let args = ServeArgs {
        dir: dir.path().to_owned(),
        authority_for: vec![("web/abroad".to_owned(), "https://login.partner.example".to_owned())],
        ..serve_args()
    };
    (Sources::new(Arc::new(args), Arc::<Wire>::clone(wire), Arc::new(NoNode), Arc::new(now)), dir)
}

fn vault() -> Resource {
    Resource::parse("https://vault.azure.net/".to_owned()).unwrap()
}

#[tokio::test]
async fn one_post_brings_a_token() {
    let wire = reply(200, TOKEN);
    let (entra, _dir) = entra(&wire, Some("a.s.a\n"));
    let fetched = entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap();
    assert_eq!(fetched.primary.access_token.reveal(), "a.b.c");
    let life = fetched.primary.expires_on.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((3590..=3599).contains(&life), "{life}");

    let sent = wire.sent.lock().unwrap();
    let [(url, body)] = &sent[..] else { panic!("{} requests", sent.len()) };
    assert_eq!(
        url,
        "https://login.microsoftonline.com/70000000-0000-0000-0000-000000000001/oauth2/v2.0/token"
    );
    assert_eq!(
        body,
        "client_assertion=a.s.a&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
         client-assertion-type%3Ajwt-bearer&client_id=c0000000-0000-0000-0000-000000000001&\
         grant_type=client_credentials&scope=https%3A%2F%2Fvault.azure.net%2F%2F.default"
    );
}

/// From the operator's setting, through the arguments in the pod, to where the request goes.
#[tokio::test]
async fn each_cloud_is_asked_at_its_own_authority() {
    for (cloud, authority, audience) in [
        ("public", "https://login.microsoftonline.com/", "api://AzureADTokenExchange"),
        ("usgov", "https://login.microsoftonline.us/", "api://AzureADTokenExchangeUSGov"),
        ("china", "https://login.chinacloudapi.cn/", "api://AzureADTokenExchangeChina"),
    ] {
        let settings = Settings::read(&[("cloud", vec![cloud.to_owned()])].into()).unwrap();
        assert_eq!(settings.audience, audience);
        let wire = reply(200, TOKEN);
        let (entra, dir) = entra(&wire, Some("a.s.a"));
        let written =
            ServeArgs { dir: dir.path().to_owned(), authority: settings.authority, ..serve_args() };
        let read = ServeArgs::parse(&written.to_args()[1..]).unwrap();
        let entra = Sources { args: Arc::new(read), ..entra };
        entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap();
        let sent = wire.sent.lock().unwrap();
        assert!(sent[0].0.starts_with(authority), "{cloud}: {}", sent[0].0);
    }
}

/// An identity that had a secret of a partner's tenant may be edited into one without; the partner
/// could use the pod's token at the cluster's own authority.
#[tokio::test]
async fn a_service_account_token_never_goes_to_an_identitys_own_authority() {
    let wire = reply(200, TOKEN);
    let (entra, _dir) = entra(&wire, Some("a.s.a"));
    entra.fetch(&identity("web/abroad", '1'), &vault()).await.unwrap();
    let sent = wire.sent.lock().unwrap();
    assert!(sent[0].0.starts_with("https://login.microsoftonline.com/"), "{}", sent[0].0);
}

#[tokio::test]
async fn the_token_file_is_read_for_each_fetch() {
    let wire = reply(200, TOKEN);
    let (entra, dir) = entra(&wire, Some("first"));
    entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap();
    fs::write(dir.path().join(TOKEN_FILE), " second \n").unwrap();
    entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap();
    let sent = wire.sent.lock().unwrap();
    assert!(sent[0].1.contains("client_assertion=first&"));
    assert!(sent[1].1.contains("client_assertion=second&"));
}

#[tokio::test]
async fn nothing_is_sent_for_what_cannot_be_right() {
    let with = |change: fn(&mut PodIdentity)| {
        let mut identity = identity("web/db", '1');
        change(&mut identity);
        identity
    };
    let cases = [
        (with(|i| i.source = Source::Binding), Some("a.s.a"), "NoBindingProxy", 400),
        (with(|i| i.client_id = "app".into()), Some("a.s.a"), "BadId", 400),
        (with(|i| i.client_id = String::new()), Some("a.s.a"), "BadId", 400),
        (with(|i| i.tenant_id = "..".into()), Some("a.s.a"), "BadId", 400),
        (with(|i| i.tenant_id = "evil.example/x?".into()), Some("a.s.a"), "BadId", 400),
        (with(|i| i.tenant_id = String::new()), Some("a.s.a"), "BadId", 400),
        (with(|_| ()), None, "NoServiceAccountToken", 503),
        (with(|_| ()), Some(" \n"), "NoServiceAccountToken", 503),
    ];
    for (identity, token, reason, status) in cases {
        let wire = reply(200, TOKEN);
        let (entra, _dir) = entra(&wire, token);
        let fault = entra.fetch(&identity, &vault()).await.unwrap_err();
        assert_eq!((fault.reason(), fault.status().as_u16()), (reason, status), "{identity:?}");
        assert!(wire.sent.lock().unwrap().is_empty(), "{identity:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_name_the_service_account_and_never_its_token() {
    // {"iss":"https://issuer.example/","sub":"system:serviceaccount:web:app"}
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlLyIsInN1YiI6InN5c3RlbTpzZXJ2aWNlYWNjb3VudDp3ZWI6YXBwIn0.c2ln";
    let body = format!(
        r#"{{"error":"invalid_client","error_description":"AADSTS700213: No matching \"record\" for {token}.\r\nTrace ID: t","error_codes":[700213]}}"#
    );
    let wire = reply(401, &body);
    let (entra, _dir) = entra(&wire, Some(token));
    let fault = entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap_err();
    assert_eq!(fault.reason(), "NoFederatedCredential");
    let message = fault.to_string();
    assert!(
        message.ends_with(
            "; create it with AUDIENCE filled in: az identity federated-credential create \
             --name imdslet-web-app-6bac724e --identity-name id-1 --resource-group 'rg one' \
             --subscription s --issuer https://issuer.example/ \
             --subject system:serviceaccount:web:app --audiences AUDIENCE"
        ),
        "{message}"
    );
    assert!(!message.contains("eyJ"), "{message}");
}

/// Entra ID that takes `delay` for each answer: `refusals` with an AADSTS code, then a token.
struct Slow {
    delay: Duration,
    refusals: Mutex<Vec<u32>>,
    began: Instant,
    /// After how many milliseconds each request came.
    asked: Mutex<Vec<u128>>,
}

#[async_trait]
impl Post for Slow {
    async fn post(&self, _: http::Request<Full<Bytes>>) -> Result<Reply, NoReply> {
        self.asked.lock().unwrap().push(self.began.elapsed().as_millis());
        tokio::time::sleep(self.delay).await;
        let refusal = self.refusals.lock().unwrap().pop();
        let (status, body) = match refusal {
            Some(code) => (401, format!(r#"{{"error":"e","error_codes":[{code}]}}"#)),
            None => (200, TOKEN.to_owned()),
        };
        Ok(Reply { status, retry_after: None, body: body.as_bytes().to_vec().into() })
    }
}

/// Only a federated credential that is not there yet is waited for, and only until the deadline.
#[tokio::test(start_paused = true)]
async fn when_entra_id_is_asked_again() {
    type Case = (u64, Vec<u32>, &'static [u128], &'static str, u128);
    let never = vec![700_213; 9];
    let cases: [Case; 10] = [
        (0, vec![], &[0], "token", 0),
        (0, vec![700_213], &[0, 1000], "token", 1000),
        (0, vec![70_021, 70_025], &[0, 1000, 3000], "token", 3000),
        (0, never.clone(), &[0, 1000, 3000, 7000], "NoFederatedCredential", 7000),
        (500, never.clone(), &[0, 1500, 4000], "NoFederatedCredential", 4500),
        (2000, never.clone(), &[0, 3000, 7000], "NoFederatedCredential", 9000),
        (5000, never, &[0, 6000], "NoFederatedCredential", 9000),
        (10_000, vec![], &[0], "Deadline", 9000),
        (0, vec![700_211, 700_213], &[0, 1000], "WrongIssuer", 1000),
        (0, vec![7_000_272], &[0], "UnknownIssuerKey", 0),
    ];
    for (delay, refusals, asked, outcome, ended) in cases {
        let name = format!("{delay} ms, {refusals:?}");
        let slow = Arc::new(Slow {
            delay: Duration::from_millis(delay),
            refusals: Mutex::new(refusals),
            began: Instant::now(),
            asked: Mutex::default(),
        });
        let (entra, _dir) = entra(&reply(200, TOKEN), Some("a.s.a"));
        let entra = Sources { https: Arc::<Slow>::clone(&slow), ..entra };
        let fetched = entra.fetch(&identity("web/db", '1'), &vault()).await;
        let got = fetched.map_or_else(|fault| fault.reason(), |_| "token");
        assert_eq!((got, slow.began.elapsed().as_millis()), (outcome, ended), "{name}");
        assert_eq!(*slow.asked.lock().unwrap(), asked, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_answer_of_entra_id_is_told_as_such() {
    let cases = [
        (200, "", "BadAnswer"),
        (200, "<html>sign in</html>", "BadAnswer"),
        (200, r#"{"access_token":"","expires_in":3599}"#, "BadAnswer"),
        (200, r#"{"access_token":"a","expires_in":0}"#, "BadAnswer"),
        (200, r#"{"access_token":"a","expires_in":-1}"#, "BadAnswer"),
        (200, r#"{"access_token":"a","expires_in":9223372036854775807}"#, "BadAnswer"),
        (200, r#"{"access_token":"a"}"#, "BadAnswer"),
        (302, TOKEN, "BadAnswer"),
        (503, "", "Unavailable"),
        (429, "", "Throttled"),
    ];
    for (status, body, reason) in cases {
        let wire = reply(status, body);
        let (entra, _dir) = entra(&wire, Some("a.s.a"));
        let fault = entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap_err();
        assert_eq!(fault.reason(), reason, "{status} {body}");
        assert_eq!(wire.sent.lock().unwrap().len(), 1, "asked once, {status} {body}");
    }
    for (why, is_untrusted, reason) in [
        ("tcp connect error: Connection refused", false, "NoAnswer"),
        ("by the proxy http://certificate-proxy:3128: Connection refused", false, "NoAnswer"),
        ("invalid peer certificate: UnknownIssuer", true, "Untrusted"),
    ] {
        let reply = Err(NoReply { why: why.to_owned(), is_untrusted });
        let wire = Arc::new(Wire { reply, sent: Mutex::default() });
        let (entra, _dir) = entra(&wire, Some("a.s.a"));
        let fault = entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap_err();
        assert_eq!(fault.reason(), reason);
        assert!(fault.to_string().contains(why), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_authority_is_given_up() {
    struct Silence;

    #[async_trait]
    impl Post for Silence {
        async fn post(&self, _: http::Request<Full<Bytes>>) -> Result<Reply, NoReply> {
            std::future::pending().await
        }
    }

    let (entra, dir) = entra(&reply(200, TOKEN), Some("a.s.a"));
    let entra = Sources { https: Arc::new(Silence), ..entra };
    let began = Instant::now();
    let fault = entra.fetch(&identity("web/db", '1'), &vault()).await.unwrap_err();
    assert_eq!((fault.reason(), began.elapsed()), ("Deadline", FETCH_DEADLINE));
    drop(dir);
}
