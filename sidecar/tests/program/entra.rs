//! A stand-in for Entra ID that says what the test tells it to, over TLS with a CA of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A running stand-in. It takes one connection after another, and asks the test for each answer.
pub(crate) struct Entra {
    pub(crate) address: SocketAddr,
    pem: String,
    answers: Sender<String>,
    requests: Mutex<Receiver<(Option<String>, String)>>,
}

impl Entra {
    pub(crate) fn start() -> Self {
        Self::named("127.0.0.1")
    }

    /// With a certificate for this name alone.
    pub(crate) fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, to_answer) = channel();
        let (ask, requests) = channel();
        // It ends with the test's process; a connection that fails is the sidecar's refusal.
        thread::spawn(move || {
            let config = Arc::new(config);
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &config, &ask, &to_answer);
            }
        });
        Self { address, pem: certificate.pem(), answers, requests: Mutex::new(requests) }
    }

    /// What a sidecar must be told to ask here: its authority, and whom to trust.
    pub(crate) fn settings(&self) -> [String; 2] {
        [format!("--authority=https://{}", self.address), format!("IMDSLET_EXTRA_CA={}", self.pem)]
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Its CA.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// What the next request gets, or the one that waits for it.
    pub(crate) fn answer(&self, status: u16, headers: &str, body: &str) {
        let length = body.len();
        self.say(&format!(
            "HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        ));
    }

    /// The same, byte for byte: it need not be HTTP. The connection ends after it.
    pub(crate) fn say(&self, answer: &str) {
        self.answers.send(answer.to_owned()).unwrap();
    }

    /// How many requests arrived that were not looked at.
    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().try_iter().count()
    }

    /// The next request that arrived.
    pub(crate) fn asked(&self) -> String {
        self.asked_as().1
    }

    /// The name that was asked for in TLS, and the next request that arrived.
    pub(crate) fn asked_as(&self) -> (Option<String>, String) {
        self.requests.lock().unwrap().recv().unwrap()
    }
}

fn answer(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    ask: &Sender<(Option<String>, String)>,
    to_answer: &Receiver<String>,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut request = String::new();
    let mut length = 0;
    loop {
        let start = request.len();
        stream.read_line(&mut request)?;
        let line = request[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    request.push_str(&String::from_utf8(body).unwrap());
    let name = stream.get_ref().conn.server_name().map(str::to_owned);
    ask.send((name, request)).ok();
    let Ok(answer) = to_answer.recv() else { return Ok(()) };
    let stream = stream.get_mut();
    stream.write_all(answer.as_bytes())?;
    stream.conn.send_close_notify();
    stream.flush()
}
