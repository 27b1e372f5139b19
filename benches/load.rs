//! Memory and log-ins per second of the server under load.
//!
//! 200 clients register and log in, with right and wrong passwords, for a minute. The server runs in
//! a process of its own, so that its memory is measured alone. The first run has no limits on
//! attempts; the second one has the default limits and shows how many requests they refuse.
//!
//! `cargo bench --features server --bench load` prints both runs. `-- --seconds N` sets the length
//! of a run, `-- --data DIR` keeps the users of the first run in a directory. Memory is read from
//! `/proc`, so it is reported on Linux only.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench may panic")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use keyfob::server::{RateLimits, Server};
use serde_json::json;

const CLIENTS: usize = 200;
const PASSWORD: &str = "correct horse";
const PATH: &str = "/api/client/v2.0/app/keyfob-local/auth/providers/local-userpass";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(role) = arguments.first().and_then(|first| first.strip_prefix("child-")) {
        return serve(role, arguments.get(1).map(String::as_str));
    }
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let seconds = option("--seconds").map_or(60, |seconds| seconds.parse().expect("a number"));
    let run = Duration::from_secs(seconds);
    println!("{CLIENTS} clients for {seconds} s");
    load("without limits", &ServerProcess::start("unlimited", option("--data").as_deref()), run);
    load("with the default limits", &ServerProcess::start("default", None), run);
}

/// Runs the server of one measurement until its standard input is closed.
fn serve(role: &str, data: Option<&str>) {
    let mut builder = Server::builder().rate_limits(RateLimits::default());
    if role == "unlimited" {
        builder = builder.rate_limits(RateLimits::off());
    }
    if let Some(data) = data {
        builder = builder.data_dir(data);
    }
    let server = builder.start().unwrap();
    println!("{}", server.local_addr());
    let _ = std::io::stdin().read(&mut [0]);
}

/// Lets all clients loose and prints what came of it.
fn load(what: &str, server: &ServerProcess, run: Duration) {
    let started = Instant::now();
    let counts = Mutex::new(BTreeMap::<(&str, u16), u32>::new());
    let early = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let counts = &counts;
            scope.spawn(move || {
                let own = client_loop(server.address, client, started + run);
                let mut counts = counts.lock().unwrap();
                for (kind, count) in own {
                    *counts.entry(kind).or_default() += count;
                }
            });
        }
        thread::sleep(run / 6);
        server.memory("VmRSS:")
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("\n{what}:");
    for ((operation, status), count) in counts.into_inner().unwrap() {
        println!("  {operation:<16} {status}: {count:>7} ({:.1}/s)", f64::from(count) / seconds);
    }
    let mib = |kib: Option<u64>| kib.map_or("-".to_owned(), |kib| format!("{} MiB", kib / 1024));
    let (late, peak) = (server.memory("VmRSS:"), server.memory("VmHWM:"));
    println!("  memory after a sixth {}, at the end {}, peak {}", mib(early), mib(late), mib(peak));
}

/// Registers, logs in twice and tries a wrong password, over and over, and counts the statuses.
fn client_loop(
    address: SocketAddr,
    client: usize,
    end: Instant,
) -> BTreeMap<(&'static str, u16), u32> {
    let mut counts = BTreeMap::new();
    let mut stream = None;
    let mut email = String::new();
    for round in 0.. {
        if round % 4 == 0 {
            email = format!("user-{client}-{round}@example.org");
        }
        let (operation, path, body) = match round % 4 {
            0 => ("register", "register", json!({"email": email, "password": PASSWORD})),
            3 => ("wrong password", "login", json!({"username": email, "password": "wrong"})),
            _ => ("log-in", "login", json!({"username": email, "password": PASSWORD})),
        };
        if Instant::now() >= end {
            break;
        }
        // A refusal closes the connection in some cases.
        let connection = stream.get_or_insert_with(|| TcpStream::connect(address).unwrap());
        let status = post(connection, &format!("{PATH}/{path}"), &body.to_string());
        if status.is_none() {
            stream = None;
        }
        *counts.entry((operation, status.unwrap_or_default())).or_default() += 1;
    }
    counts
}

/// Sends a request and returns the status of the response, `None` if there is none.
fn post(stream: &mut TcpStream, path: &str, body: &str) -> Option<u16> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest.get(..3)?.parse().ok();
        } else if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim_end().parse().ok()?;
        } else if line == "\r\n" {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            return status;
        }
    }
}

/// A server in a process of its own, which ends when this is dropped.
struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    fn start(role: &str, data: Option<&str>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(format!("child-{role}"))
            .args(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim_end().parse().unwrap() }
    }

    /// Returns a field of the process's status, in KiB.
    fn memory(&self, field: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
