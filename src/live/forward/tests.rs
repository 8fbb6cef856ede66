use std::convert::Infallible;
use std::sync::Arc;

use futures::future::OptionFuture;
use futures::{SinkExt, StreamExt};
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

const PORT: u16 = 2579;

/// What a kubelet does with a request of the one port: the channel of its answer, and the answer.
type Pod = Arc<dyn Fn(&str) -> (u8, String) + Send + Sync>;

/// An API server that takes port-forwards over websockets as Kubernetes does, or refuses them.
async fn api_server(refuses: Option<StatusCode>, pod: Pod) -> (Cluster, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answered(&request, refuses);
            sender.send(hyper::upgrade::on(request)).unwrap();
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = server::conn::http1::Builder::new();
        let connection = connection.serve_connection(TokioIo::new(tcp), service).with_upgrades();
        let forwarded = async {
            // One that is refused is never upgraded.
            if let Some(Ok(upgraded)) = OptionFuture::from(receiver.recv().await).await {
                forward(upgraded, pod).await;
            }
        };
        tokio::join!(connection, forwarded).0.ok();
    });
    let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
    (Cluster::of(client, &url), serving)
}

fn answered(request: &Request<Incoming>, refuses: Option<StatusCode>) -> Response<Full<Bytes>> {
    let uri = request.uri().to_string();
    assert!(uri.starts_with("/api/v1/namespaces/web/pods/app-1/portforward?"), "{uri}");
    assert!(uri.ends_with("ports=2579"), "{uri}");
    if let Some(status) = refuses {
        let body = json!({"kind": "Status", "message": "no", "code": status.as_u16()}).to_string();
        return Response::builder().status(status).body(Full::from(body)).unwrap();
    }
    let key = &request.headers()["sec-websocket-key"];
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(Full::default())
        .unwrap()
}

/// Channel 0 has the bytes, channel 1 what is wrong; each says its port first.
async fn forward(upgraded: Upgraded, pod: Pod) {
    let stream = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let message = |channel: u8, bytes: &[u8]| Message::binary([&[channel], bytes].concat());
    for channel in [0, 1] {
        socket.send(message(channel, &PORT.to_le_bytes())).await.unwrap();
    }
    let mut asked = Vec::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        assert_eq!(bytes[0], 0);
        asked.extend_from_slice(&bytes[1..]);
        if asked.ends_with(b"\r\n\r\n") {
            let (channel, answer) = pod(&String::from_utf8(asked.clone()).unwrap());
            socket.send(message(channel, answer.as_bytes())).await.unwrap();
        }
    }
}

async fn ask(refuses: Option<StatusCode>, pod: Pod) -> Result<Value, Unforwarded> {
    let (cluster, _serving) = api_server(refuses, pod).await;
    cluster.ask_pod(("web", "app-1"), PORT, "/state").await
}

fn answer(status: &str, body: &str) -> (u8, String) {
    (0, format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

#[tokio::test]
async fn the_sidecar_is_asked_on_its_loopback_by_a_name_of_it() {
    let state = ask(
        None,
        Arc::new(|asked| {
            assert!(asked.starts_with("GET /state HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("host: localhost\r\n"), "{asked}");
            answer("200 OK", r#"{"identities": []}"#)
        }),
    );
    assert_eq!(state.await.unwrap(), json!({"identities": []}));
}

#[tokio::test]
async fn what_keeps_it_from_being_asked_is_told() {
    let nobody: Pod = Arc::new(|_| panic!("nobody may be asked"));
    let forbidden = ask(Some(StatusCode::FORBIDDEN), Arc::clone(&nobody)).await.unwrap_err();
    assert_eq!(forbidden, Unforwarded::Forbidden("web".to_owned()));
    let refused: Pod =
        Arc::new(|_| (1, "dial tcp4 127.0.0.1:2579: connect: connection refused\n".to_owned()));
    for (refuses, pod, words) in [
        (Some(StatusCode::NOT_FOUND), nobody, "no"),
        (
            None,
            refused,
            "2579 of pod web/app-1 fails: dial tcp4 127.0.0.1:2579: connect: connection refused",
        ),
        (
            None,
            Arc::new(|_: &str| answer("404 Not Found", "")) as Pod,
            "/state is answered with 404",
        ),
        (None, Arc::new(|_: &str| answer("200 OK", "<html>")) as Pod, "/state is no JSON"),
    ] {
        let error = ask(refuses, pod).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_answer_is_not_waited_for_long() {
    let (cluster, _serving) = api_server(None, Arc::new(|_| (0, "HTTP/1.1 ".to_owned()))).await;
    let asked = cluster.ask_pod(("web", "app-1"), PORT, "/state");
    let error = asked.await.unwrap_err().to_string();
    assert!(error.contains("no answer within 10 s"), "{error}");
}
