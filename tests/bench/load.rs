//! Load for an HTTPS server, and the simplest server to compare it with.
//!
//! `load echo CA_OUT` serves what it is sent, over the same TLS, HTTP and runtime as the webhook; its
//! first line is its address. `load ask ADDR CA BODY SECONDS CLIENTS keep|new` posts the file BODY to
//! `https://ADDR/mutate` again and again and prints how many answers there were and how many seconds
//! it took. Every answer must be a 200; anything else ends it.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::post;
use imdslet_certs::{Authority, OldestTls, Resolver, TlsListener, serve, server_config};
use imdslet_webhook::config::LIMITS;
use mimalloc::MiMalloc;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio_util::sync::CancellationToken;

/// As the webhook's, so that the echo server is the same stack.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

type Connection = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Whoever waits longer for an answer gives up.
const DEADLINE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["echo", ca_out] => echo(ca_out),
        ["ask", addr, ca, body, seconds, clients, connections] => {
            let load = Load {
                addr: addr.parse()?,
                tls: tls(&fs::read(ca)?)?,
                body: fs::read(body)?,
                time: Duration::from_secs(seconds.parse()?),
                keeps: *connections == "keep",
            };
            load.run(clients.parse()?)
        }
        _ => bail!("load echo CA_OUT | load ask ADDR CA BODY SECONDS CLIENTS keep|new"),
    }
}

fn echo(ca_out: &str) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let authority = Authority::generate("echo", now)?;
    let serving = authority.issue(&["127.0.0.1".to_owned()], now)?;
    fs::write(ca_out, authority.pem())?;
    let tls = server_config(Arc::new(Resolver::new(serving)?), OldestTls::V1_3)?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    let answer = move |body: Bytes| async move { (json, body) };
    let router = Router::new().route("/mutate", post(answer));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let listener = TlsListener::new(listener, Arc::new(tls));
        serve(listener, router, LIMITS, CancellationToken::new()).await;
        Ok(())
    })
}

fn tls(ca: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    // A new connection is to be a whole one.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

struct Load {
    addr: SocketAddr,
    tls: Arc<ClientConfig>,
    body: Vec<u8>,
    time: Duration,
    /// Whether a connection serves more than one request.
    keeps: bool,
}

impl Load {
    fn run(&self, clients: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        let answers = thread::scope(|scope| {
            let clients: Vec<_> =
                (0..clients).map(|_| scope.spawn(|| self.client(began + self.time))).collect();
            let joined = clients.into_iter().map(thread::ScopedJoinHandle::join);
            let answers = joined.map(|done| match done {
                Ok(answers) => answers,
                Err(_) => bail!("a client has panicked"),
            });
            answers.sum::<anyhow::Result<u64>>()
        })?;
        println!("{answers} {:.3}", began.elapsed().as_secs_f64());
        Ok(())
    }

    fn client(&self, end: Instant) -> anyhow::Result<u64> {
        let mut connection = self.connect()?;
        let mut answers = 0;
        while Instant::now() < end {
            if answers > 0 && !self.keeps {
                connection = self.connect()?;
            }
            self.ask(&mut connection)?;
            answers += 1;
        }
        Ok(answers)
    }

    fn connect(&self) -> anyhow::Result<Connection> {
        let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let tcp = TcpStream::connect(self.addr).context("cannot connect")?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        let client = ClientConnection::new(self.tls.clone(), name)?;
        Ok(BufReader::new(StreamOwned::new(client, tcp)))
    }

    fn ask(&self, connection: &mut Connection) -> anyhow::Result<()> {
        let head = format!(
            "POST /mutate HTTP/1.1\r\nHost: imdslet\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.body.len()
        );
        let request = [head.as_bytes(), &self.body].concat();
        connection.get_mut().write_all(&request)?;
        connection.get_mut().flush()?;
        let mut line = String::new();
        connection.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "answered {line:?}");
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            ensure!(connection.read_line(&mut line)? > 0, "the answer ended early");
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).context("the answer ended early")
    }
}
