//! The memory, processor time and connections that clients can use on the server.
//!
//! The server runs in a separate process, so that only its own memory and time are measured. The
//! test program starts itself for that: [`child`] is the server. Measurements are read from
//! `/proc`. The limits have generous margins, because the server is built without optimisation.

#![cfg(all(feature = "server", target_os = "linux"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfob::server::{AuthFunctionAnswer, CustomJwt, JwtKeys, RateLimits, Reset, Server, Verdict};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::{Value, json};

/// What makes the program a server.
const ROLE: &str = "KEYFOB_TEST_SERVER";
const APP: &str = "/api/client/v2.0/app/keyfob-local";
const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const MIB: u64 = 1024;

/// The server, if the program was started as one.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut builder = Server::builder()
        .built_in_functions()
        .auth_function(|payload| Ok(AuthFunctionAnswer::new(payload["id"].to_string())))
        .custom_jwt(CustomJwt::new(JwtKeys::hs256("a secret of thirty-two bytes, or more")))
        .reset(Reset::function(|_| Verdict::Pending));
    if role == "unlimited" {
        builder = builder.rate_limits(RateLimits::off());
    }
    let server = builder.start().unwrap();
    println!("\nserver at {}", server.local_addr());
    // Until the parent closes its end.
    let _ = std::io::stdin().read(&mut [0]);
}

/// A server in a process of its own, which ends when this is dropped.
struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    fn start(role: &str) -> Self {
        Self::start_with(role, &[])
    }

    /// Starts a server whose peak is the memory that it uses. Otherwise glibc's allocator adds
    /// what it keeps of large freed blocks, which depends on the number of processors.
    fn start_returning_memory() -> Self {
        Self::start_with("default", &[("MALLOC_MMAP_THRESHOLD_", "1048576")])
    }

    fn start_with(role: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        let address = lines.find_map(|line| line.strip_prefix("server at ")?.parse().ok()).unwrap();
        // The end of the test harness's output must not stop the child.
        thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Returns a figure of the process's status, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sets the peak of the memory to what is in use now, and returns that.
    fn reset_peak(&self) -> u64 {
        fs::write(self.proc("clear_refs"), "5").unwrap();
        self.memory("VmRSS")
    }

    /// Returns the processor time that was used so far, in steps of 10 ms.
    fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id())
    }

    /// Opens a connection from an address of this machine.
    fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&stream, &SocketAddrV4::new(from, 0)).unwrap();
        connect(&stream, &self.address).unwrap();
        let stream = TcpStream::from(stream);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends a request on a connection of its own and returns all that comes back.
    fn raw(&self, request: impl AsRef<[u8]>) -> String {
        self.raw_from(HOME, request)
    }

    fn raw_from(&self, from: Ipv4Addr, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect(from);
        // The server may refuse it before it has arrived whole.
        let _ = stream.write_all(request.as_ref());
        read_to_end(&mut stream)
    }

    fn json(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let fields = format!("Authorization: Bearer {token}\r\n");
        let text = self.raw(post(&format!("{APP}{path}"), &fields, &body.to_string()));
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        (status(&text), serde_json::from_str(body).unwrap())
    }

    fn anonymous(&self) -> String {
        let (_, login) = self.json("/auth/providers/anon-user/login", "", &json!({}));
        login["access_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn post(path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads until the server closes the connection, in whatever way.
fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection stayed open: {error}"),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(response: &str) -> u16 {
    let status = response.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    status.unwrap_or_else(|| panic!("no response: {response:?}"))
}

/// A list that takes a hundred times its length as values.
fn values(length: usize) -> String {
    let mut list = "[".to_owned();
    while list.len() + 9 < length {
        list.push_str(r#"{"a":0},"#);
    }
    list + "0]"
}

/// A token whose header is a list of values.
fn forged_token(length: usize) -> String {
    let header = format!(r#"{{"alg":"HS256","typ":"JWT","x":{}}}"#, values(length));
    format!("{}.e30.c2ln", BASE64_URL_SAFE_NO_PAD.encode(header))
}

/// Requests without a valid token, and the status that each must get.
fn hostile_requests() -> Vec<(&'static str, u16, String)> {
    let login = |provider: &str| format!("{APP}/auth/providers/{provider}/login");
    let userpass = |operation: &str| format!("{APP}/auth/providers/local-userpass/{operation}");
    let call = format!("{APP}/functions/call");
    let profile = "/api/client/v2.0/auth/profile";
    let (small, large) = (values(60_000), values(16_000_000));
    let with = |fields: &str, list: &str| format!("{{{fields},\"x\":{list}}}");
    let names = r#""username":"a","email":"a","token":"t","password":"p""#;
    let body = with(names, &small);
    let forged = format!("Authorization: Bearer {}\r\n", forged_token(40_000));
    let get = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n")
    };
    let chunked = |path: &str, chunk: &str| {
        let size = chunk.len();
        let chunk = format!("{size:x}\r\n{chunk}\r\n");
        let fields = "Host: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let count = 60_000 / chunk.len();
        format!("POST {path} HTTP/1.1\r\n{fields}{}0\r\n\r\n", chunk.repeat(count.max(1)))
    };
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let arguments = format!(r#"{{"email":"a","password":"password","arguments":{small}}}"#);
    let fields = (0..97).map(|n| format!("X-{n}: {}\r\n", "x".repeat(600))).collect::<String>();
    vec![
        ("anonymous log-in", 200, post(&login("anon-user"), "", &body)),
        ("password log-in", 401, post(&login("local-userpass"), "", &body)),
        ("API key log-in", 400, post(&login("api-key"), "", &body)),
        ("JWT log-in", 401, post(&login("custom-token"), "", &body)),
        ("log-in with an unknown provider", 404, post(&login("x"), "", &body)),
        ("function log-in", 413, post(&login("custom-function"), "", &body)),
        ("registration", 400, post(&userpass("register"), "", &body)),
        ("confirmation", 400, post(&userpass("confirm"), "", &body)),
        ("reset function", 413, post(&userpass("reset/call"), "", &arguments)),
        ("refresh", 401, post("/api/client/v2.0/auth/session", "", &body)),
        ("nested log-in", 200, post(&login("anon-user"), "", &with(names, &deep))),
        ("nested options", 200, post(&login("anon-user"), "", &format!(r#"{{"options":{deep}}}"#))),
        ("large log-in", 413, post(&login("local-userpass"), "", &with(names, &large))),
        ("large chunk", 413, chunked(&login("local-userpass"), &large)),
        ("small chunks", 400, chunked(&login("local-userpass"), " ")),
        ("chunk extensions", 400, {
            let chunk = format!("1;{}\r\n \r\n", "x".repeat(1000)).repeat(10_000);
            let fields = "Host: a\r\nConnection: close\r\nTransfer-Encoding: chunked";
            format!("POST {} HTTP/1.1\r\n{fields}\r\n\r\n{chunk}", login("anon-user"))
        }),
        ("large registration", 413, post(&userpass("register"), "", &with(names, &large))),
        ("large body of no route", 413, post("/nowhere", "", &large)),
        ("large call without a token", 401, post(&call, "", &large)),
        ("large call with a forged token", 401, post(&call, &forged, &large)),
        ("chunked call without a token", 401, chunked(&call, &large)),
        ("call with a forged token", 401, post(&call, &forged, &body)),
        ("forged token", 401, get(profile, &forged)),
        ("forged JWT", 401, {
            let token = json!({"token": forged_token(40_000)}).to_string();
            post(&login("custom-token"), "", &token)
        }),
        (
            "long token",
            401,
            get(profile, &format!("Authorization: Bearer {}\r\n", "x".repeat(60_000))),
        ),
        ("long path", 404, get(&"/".repeat(60_000), "")),
        ("encoded path", 404, get(&format!("/{}", "%00".repeat(20_000)), "")),
        ("long query", 404, get(&format!("/x?{}", "a&".repeat(30_000)), "")),
        ("many fields", 404, get("/x", &fields)),
        (
            "compressed body",
            415,
            post(&login("anon-user"), "Content-Encoding: gzip\r\n", "\x1f\u{8b}"),
        ),
    ]
}

/// Each request costs at most 1 MiB and 50 ms in a release build, apart from a password hash.
#[test]
fn request_without_token_costs_little() {
    let server = ServerProcess::start("default");
    // The first requests of a process allocate what all others use again, a password hash above all.
    for (name, expected, request) in hostile_requests() {
        assert_eq!(status(&server.raw(&request)), expected, "{name}");
    }
    for (name, _, request) in hostile_requests() {
        let (memory, time) = (server.reset_peak(), server.processor_time());
        server.raw(&request);
        let cost = server.memory("VmHWM").saturating_sub(memory);
        assert!(cost < 2 * MIB, "{name} took {cost} KiB");
        let took = server.processor_time() - time;
        assert!(took < Duration::from_millis(1500), "{name} took {took:?} of processor time");
    }
}

#[test]
fn byte_by_byte_request_costs_little() {
    let server = ServerProcess::start("default");
    let field = format!("X: {}\r\n", "x".repeat(30_000));
    let request = post(&format!("{APP}/auth/providers/anon-user/login"), &field, "{}");
    let time = server.processor_time();
    let mut stream = server.connect(HOME);
    stream.set_nodelay(true).unwrap();
    for byte in request.bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(status(&read_to_end(&mut stream)), 200);
    let took = server.processor_time() - time;
    assert!(took < Duration::from_millis(1000), "{took:?}");
}

/// One client that asks for many long paths, methods and names fills no log, cache or map.
#[test]
fn long_names_are_not_remembered() {
    let server = ServerProcess::start("default");
    let long = "x".repeat(60_000);
    let ask = |round: usize| {
        server.raw(format!("GET /{round}{long} HTTP/1.0\r\n\r\n"));
        server.raw(format!("{long} / HTTP/1.0\r\n\r\n"));
        let body = json!({"username": format!("{round}{long}"), "password": "p"}).to_string();
        server.raw(post(&format!("{APP}/auth/providers/api-key/login"), "", &body));
        server.raw(post(&format!("{APP}/auth/providers/{round}{long}/login"), "", "{}"));
    };
    // What the allocator keeps for the next request.
    (0..50).for_each(ask);
    let memory = server.memory("VmRSS");
    (50..350).for_each(ask);
    let grown = server.memory("VmRSS").saturating_sub(memory);
    // The names have 72 MiB.
    assert!(grown < 24 * MIB, "{grown} KiB");
}

/// The memory of a hash is used again by the next one.
#[test]
fn login_memory_is_bounded() {
    let server = ServerProcess::start("unlimited");
    let rounds = |client: usize, rounds: std::ops::Range<usize>| {
        for round in rounds {
            let email = format!("user-{client}-{round}@example.org");
            let path = "/auth/providers/local-userpass";
            let body = json!({"email": email, "password": "password"});
            assert_eq!(server.json(&format!("{path}/register"), "", &body).0, 201);
            for (password, expected) in [("password", 200), ("wrong password", 401)] {
                let body = json!({"username": email, "password": password});
                assert_eq!(server.json(&format!("{path}/login"), "", &body).0, expected);
            }
        }
    };
    thread::scope(|scope| {
        (0..32).for_each(|client| drop(scope.spawn(move || rounds(client, 0..3))));
    });
    let slots = u64::try_from(thread::available_parallelism().unwrap().get().min(8)).unwrap();
    let peak = server.memory("VmHWM");
    assert!(peak < (60 + 20 * slots) * MIB, "{peak} KiB");
}

/// Function calls wait for the memory of others, and one that takes too much alone is refused.
#[test]
fn arguments_of_function_calls_share_limited_memory() {
    let server = ServerProcess::start_returning_memory();
    let token = server.anonymous();
    let fields = format!("Authorization: Bearer {token}\r\n");
    let call = |length: usize| {
        let body = format!(r#"{{"name":"sum","arguments":[{}]}}"#, values(length));
        server.raw(post(&format!("{APP}/functions/call"), &fields, &body))
    };
    let refused = call(15_000_000);
    assert_eq!(status(&refused), 413);
    assert!(refused.contains("the arguments of the function call have too many values"));
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| call(1_000_000))).collect();
        for call in calls {
            let response = call.join().unwrap();
            // `sum` wants numbers.
            assert_eq!(status(&response), 400);
            assert!(response.contains("argument 1 is not a number"), "{response}");
        }
    });
    let peak = server.memory("VmHWM");
    assert!(peak < 450 * MIB, "{peak} KiB");
}

/// In canonical extended JSON a number is an object: as values, these would take 350 MiB.
#[test]
fn numbers_in_results_use_little_memory() {
    let server = ServerProcess::start("default");
    let token = server.anonymous();
    let fields = format!("Authorization: Bearer {token}\r\n");
    let body = format!(r#"{{"name":"echo","arguments":[[{}0]]}}"#, "0,".repeat(500_000));
    let response = server.raw(post(&format!("{APP}/functions/call"), &fields, &body));
    assert_eq!(status(&response), 200);
    assert!(response.ends_with(r#"{"$numberInt":"0"},{"$numberInt":"0"}]"#));
    let peak = server.memory("VmHWM");
    assert!(peak < 150 * MIB, "{peak} KiB");
}

/// Responses that nobody takes hold the memory of their calls, until others want it.
#[test]
fn untaken_responses_share_limited_memory() {
    let server = ServerProcess::start_returning_memory();
    let token = server.anonymous();
    let fields = format!("Authorization: Bearer {token}\r\n");
    let call = |text: usize| {
        let body = json!({"name": "echo", "arguments": ["x".repeat(text)]}).to_string();
        post(&format!("{APP}/functions/call"), &fields, &body)
    };
    let large = call(12 << 20);
    let readers: Vec<_> = thread::scope(|scope| {
        let reader = || {
            let mut stream = server.connect(HOME);
            // The server may have too little memory for all of them.
            let _ = stream.write_all(large.as_bytes());
            stream
        };
        let threads: Vec<_> = (0..40).map(|_| scope.spawn(reader)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(status(&server.raw(call(1 << 20))), 200);
    let peak = server.memory("VmHWM");
    assert!(peak < 400 * MIB, "{peak} KiB");
    drop(readers);
}

fn assert_log_in_is_quick(server: &ServerProcess, from: Ipv4Addr) {
    let body = r#"{"email":"ada@example.org","username":"ada@example.org","password":"hunter22"}"#;
    let started = Instant::now();
    for operation in ["register", "login"] {
        let path = format!("{APP}/auth/providers/local-userpass/{operation}");
        let response = server.raw_from(from, post(&path, "", body));
        assert!(matches!(status(&response), 200 | 201 | 409), "{response}");
    }
    // Below a second on a machine that is not loaded.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn idle_connections_block_no_client() {
    let server = ServerProcess::start("default");
    let idle: Vec<_> = (0..512).map(|_| server.connect(HOME)).collect();
    assert_log_in_is_quick(&server, ELSEWHERE);
    assert_log_in_is_quick(&server, HOME);
    drop(idle);
}

#[test]
fn half_open_connections_block_no_client() {
    let server = ServerProcess::start("default");
    let open = |part: &str| {
        let mut stream = server.connect(HOME);
        // The server may have closed it already.
        let _ = stream.write_all(part.as_bytes());
        stream
    };
    let heads: Vec<_> = (0..512).map(|_| open("POST / HTTP/1.1\r\nHost: ")).collect();
    assert_log_in_is_quick(&server, ELSEWHERE);
    thread::sleep(Duration::from_millis(200));
    assert_log_in_is_quick(&server, HOME);
    drop(heads);
    let bodies: Vec<_> = (0..512)
        .map(|_| open("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"))
        .collect();
    assert_log_in_is_quick(&server, ELSEWHERE);
    drop(bodies);
}

/// Responses that nobody takes: each is larger than the buffers of the sockets.
#[test]
fn slow_readers_block_no_client() {
    let server = ServerProcess::start("default");
    let token = server.anonymous();
    let text = "x".repeat(8 << 20);
    let fields = format!("Authorization: Bearer {token}\r\n");
    let body = json!({"name": "echo", "arguments": [text]}).to_string();
    let request = post(&format!("{APP}/functions/call"), &fields, &body);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = server.connect(HOME);
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    let idle: Vec<_> = (0..512).map(|_| server.connect(HOME)).collect();
    assert_log_in_is_quick(&server, ELSEWHERE);
    assert_log_in_is_quick(&server, HOME);
    drop((readers, idle));
}
