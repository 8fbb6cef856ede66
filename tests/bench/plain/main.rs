//! Load for an HTTP server, and the simplest server to compare it with.
//!
//! `plain serve BODY` answers every request with the file BODY, over the same HTTP and runtime as the
//! sidecar; its first line is its address. `plain ask ADDR REQUEST COUNT CLIENTS` sends the file
//! REQUEST to ADDR that often, over as many kept connections as there are clients, and prints how many
//! seconds it took. Every answer must be a 200; anything else ends it.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use axum::Router;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Whoever waits longer for an answer gives up.
const DEADLINE: Duration = Duration::from_secs(30);

/// As the sidecar's own bound.
const LARGEST_HEAD: usize = 16 * 1024;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", body] => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve(fs::read(body)?.into()))
        }
        ["ask", addr, request, count, clients] => {
            let load = Load { addr: addr.parse()?, request: fs::read(request)? };
            load.run(count.parse()?, clients.parse()?)
        }
        _ => bail!("plain serve BODY | plain ask ADDR REQUEST COUNT CLIENTS"),
    }
}

async fn serve(body: Bytes) -> anyhow::Result<()> {
    let headers = [(CONTENT_TYPE, "application/json; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    let answer = move || async move { (headers, body) };
    let service = TowerToHyperService::new(Router::new().fallback(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(DEADLINE)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service.clone());
        connections.spawn(connection);
        while connections.try_join_next().is_some() {}
    }
}

struct Load {
    addr: SocketAddr,
    request: Vec<u8>,
}

impl Load {
    fn run(&self, count: usize, clients: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> =
                (0..clients).map(|_| scope.spawn(|| self.client(count / clients))).collect();
            let joined = clients.into_iter().map(thread::ScopedJoinHandle::join);
            let mut ended = joined.map(|done| match done {
                Ok(done) => done,
                Err(_) => bail!("a client has panicked"),
            });
            ended.try_for_each(|done| done)
        })?;
        println!("{:.3}", began.elapsed().as_secs_f64());
        Ok(())
    }

    fn client(&self, count: usize) -> anyhow::Result<()> {
        let tcp = TcpStream::connect(self.addr).context("cannot connect")?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        let mut connection = BufReader::new(tcp);
        (0..count).try_for_each(|_| self.ask(&mut connection))
    }

    fn ask(&self, connection: &mut BufReader<TcpStream>) -> anyhow::Result<()> {
        connection.get_mut().write_all(&self.request)?;
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
