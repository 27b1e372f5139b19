//! Real sockets on this machine: a backend that says one thing, and a proxy in front of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a server here has seen: the head of each request, or a line for each connection.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Reads one request: its head and its body. Nothing if the other end has left.
pub fn read_request(stream: &mut impl Read) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).ok()?))
}

/// An answer as it is on the wire, after which the connection closes.
pub fn raw(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Serves each connection on a thread of its own, for as long as the test runs.
pub fn serve(each: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = each.clone();
            thread::spawn(move || each(stream));
        }
    });
    address
}

/// A backend that refuses every log-in as one with a wrong password.
pub fn refusing_backend() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let noted = seen.clone();
    let address = serve(move |mut stream| {
        let Some((head, _)) = read_request(&mut stream) else { return };
        noted.note(head);
        let _ = stream.write_all(raw(401, WRONG_PASSWORD).as_bytes());
    });
    (address, seen)
}

pub const WRONG_PASSWORD: &str = r#"{"error":"no","error_code":"InvalidPassword"}"#;

/// A proxy that connects to one place whatever it is asked for, if it is asked by CONNECT.
pub fn proxy(upstream: SocketAddr) -> (SocketAddr, Seen) {
    consenting_proxy(upstream, &["HTTP/1.1 200 Connected\r\n\r\n"])
}

/// As [`proxy`], with a response that is written in these pieces.
pub fn consenting_proxy(
    upstream: SocketAddr,
    response: &'static [&'static str],
) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let noted = seen.clone();
    let address = serve(move |mut client| {
        let Some((head, _)) = read_request(&mut client) else { return };
        let asked_well = head.starts_with("CONNECT ");
        noted.note(head);
        if !asked_well {
            let _ = client.write_all(raw(405, "").as_bytes());
            return;
        }
        let Ok(mut server) = TcpStream::connect(upstream) else { return };
        client.set_nodelay(true).unwrap();
        for piece in response {
            client.write_all(piece.as_bytes()).unwrap();
        }
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
    (address, seen)
}

/// Encodes bytes as gzip, without making them shorter.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let blocks: Vec<_> = bytes.chunks(0xffff).collect();
    for (at, block) in blocks.iter().enumerate() {
        let length = u16::try_from(block.len()).unwrap();
        out.push(u8::from(at + 1 == blocks.len()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(*block);
    }
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    out.extend((!sum).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out
}
