//! An HTTP proxy that tunnels to one place, whatever it is asked for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    asked: Mutex<Receiver<String>>,
}

impl Proxy {
    /// Answers each CONNECT with `status`; 200 leads to `server`.
    pub(crate) fn to(server: SocketAddr, status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, asked) = channel();
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                tell.send(String::from_utf8(head).unwrap()).ok();
                client.write_all(format!("HTTP/1.1 {status} Said\r\n\r\n").as_bytes()).unwrap();
                if status == 200 {
                    tunnel(&client, server);
                }
            }
        });
        Self { address, asked: Mutex::new(asked) }
    }

    /// The next CONNECT that arrived.
    pub(crate) fn asked(&self) -> String {
        self.asked.lock().unwrap().recv().unwrap()
    }
}

fn tunnel(client: &TcpStream, server: SocketAddr) {
    let server = TcpStream::connect(server).unwrap();
    let pairs = [(client, &server), (&server, client)];
    for (from, to) in pairs {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        thread::spawn(move || {
            io::copy(&mut from, &mut to).ok();
            to.shutdown(Shutdown::Write).ok();
        });
    }
}
