//! What whole programs cost, beside the least that the same thing can cost: commits, many processes,
//! many threads, large answers, memory, and the local server.
//!
//! divan measures one thing at a time in one process. Here a pair is measured in turns, so that
//! what else the machine does hits both alike, or in processes of its own. `cargo bench --features
//! server --bench programs` prints one line for each pair: medians, and the ratio of the two. Every
//! answer is checked. The peak of memory is Linux's.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench may panic")]

#[path = "support/mod.rs"]
mod support;

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyfob::server::{Route, Server};
use keyfob::store::{Change, MemoryStore, Store};
use keyfob::{Clock, Credentials, Session, SessionBuilder, User, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

type Bench = (&'static str, fn());

const BENCHES: &[Bench] = &[
    ("commits", commits),
    ("processes", processes),
    ("threads", threads),
    ("answers", answers),
    ("memory", memory),
    ("server", server),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = &arguments[..]
        && let Some(role) = role.strip_prefix("child-")
    {
        return child(role, rest);
    }
    println!("{:<52}{:>12}{:>12}{:>8}{:>7}", "what", "floor", "keyfob", "ratio", "aim");
    for (name, bench) in BENCHES {
        let wanted = arguments.iter().filter(|argument| !argument.starts_with('-'));
        if wanted.clone().count() == 0 || wanted.clone().any(|wanted| name.contains(&**wanted)) {
            bench();
        }
    }
}

fn line(what: &str, floor: Duration, ours: Duration, aim: impl Display) {
    let ratio = ours.as_secs_f64() / floor.as_secs_f64();
    println!("{what:<52}{:>12}{:>12}{ratio:>8.2}{aim:>7}", time(floor), time(ours));
}

fn time(time: Duration) -> String {
    match time.as_micros() {
        0..10_000 => format!("{:.1} us", time.as_secs_f64() * 1e6),
        _ => format!("{:.1} ms", time.as_secs_f64() * 1e3),
    }
}

/// Takes turns, and returns the medians.
fn in_turns(rounds: usize, mut floor: impl FnMut(), mut ours: impl FnMut()) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        times[0].push(timed(&mut floor));
        times[1].push(timed(&mut ours));
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// A directory of this run.
fn dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-run-{name}"));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// A log-in's commit: tokens, profile and the current user; the floor is sled alone.
fn commits() {
    for (users, aim) in [(1, "1.5"), (100, "1.5"), (10_000, "1.5"), (100_000, "-")] {
        let (ours, bare) = (dir("commits"), dir("commits-bare"));
        copy(&support::populated(users), &ours);
        copy(&ours.join("db.0"), &bare);
        let store = support::open(&ours);
        let mut number = 0;
        let commit = || {
            let next = log_in_commit(&store);
            assert!(next > number);
            number = next;
        };
        let [floor, ours] = in_turns(20, || bare_commit(&bare), commit);
        line(&format!("log-in commit among {users} users"), floor, ours, aim);
    }
    let (ours, bare) = (dir("commits"), dir("commits-bare"));
    copy(&support::populated(100), &ours);
    copy(&ours.join("db.0"), &bare);
    let mut times = [("bare-commit", &bare), ("commit", &ours)].map(|(role, dir)| {
        let first = |_| output(spawn(role, &[dir.to_str().unwrap()])).trim().parse().unwrap();
        (0..11).map(first).map(Duration::from_nanos).collect::<Vec<_>>()
    });
    let [floor, ours] = times.each_mut().map(|times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    line("  the first one of a process, among 100 users", floor, ours, "-");
}

/// A log-in's commit by bare sled.
fn bare_commit(path: &Path) {
    let config = sled::Config::new().path(path).segment_size(512 * 1024);
    let config = config.cache_capacity(8 << 20).flush_every_ms(None);
    let db = config.open().unwrap();
    let record = serde_json::to_vec(&support::user(0)).unwrap();
    let write = |tree: &sled::transaction::TransactionalTree| {
        tree.insert("u/floor", &record[..])?;
        tree.insert("meta/current", "u/floor")?;
        tree.flush();
        Ok::<_, sled::transaction::ConflictableTransactionError>(())
    };
    db.transaction(write).unwrap();
    db.flush().unwrap();
}

/// The same commit of ours. Returns its number.
fn log_in_commit(store: &dyn Store) -> u64 {
    let current = Change::Current(Some(UserId::new(support::id(0))));
    let changes = [Change::Put(Box::new(support::user(0))), current];
    store.commit(support::soon(), &mut |_| Ok(changes.to_vec())).unwrap()
}

/// 800 commits by one process, and by eight.
fn processes() {
    let commit = |name: &str, processes: usize| {
        let dir = dir(name);
        support::open(&dir).commit(support::soon(), &mut |_| Ok(vec![put(0)])).unwrap();
        let start = Instant::now();
        let count = (800 / processes).to_string();
        let start_one = |_| spawn("commits", &[dir.to_str().unwrap(), &count]);
        let children: Vec<Child> = (0..processes).map(start_one).collect();
        let longest = children
            .into_iter()
            .map(|child| Duration::from_nanos(output(child).trim().parse().unwrap()));
        let longest = longest.max().unwrap();
        let number = support::open(&dir).recent(None, support::soon()).unwrap().number;
        assert_eq!(number, 801);
        (start.elapsed(), longest)
    };
    let (one, _) = commit("one", 1);
    let (eight, longest) = commit("eight", 8);
    line("800 commits: one process, eight processes", one, eight, "2");
    line("  mean wait of one of the eight, longest wait", eight / 100, longest, "20");
}

fn put(number: usize) -> Change {
    Change::Put(Box::new(support::user(number)))
}

/// Sixty-four threads call with one expired token; the floor refreshes by hand before its threads
/// call with one bare agent.
fn threads() {
    const THREADS: usize = 64;
    let clock = Moved::default();
    let server = Server::builder().built_in_functions().clock(clock.clone()).start().unwrap();
    let bare = Bare::new(&server);
    let sessions = [
        ("64 threads, an expired token, in memory", session(&server).store(MemoryStore::new())),
        ("64 threads, an expired token, on disk", session(&server).data_dir(dir("threads"))),
    ];
    for (what, session) in sessions {
        let session = session.clock(clock.clone()).open().unwrap();
        let user = session.log_in(&Credentials::anonymous()).unwrap();
        let refreshes = || server.journal().count(Route::Refresh);
        let refresh_token = {
            let answer = bare.post(
                &format!("app/{}/auth/providers/anon-user/login", server.app_id()),
                None,
                "{}",
            );
            answer["refresh_token"].as_str().unwrap().to_owned()
        };
        let call = bare.path(&format!("app/{}/functions/call", server.app_id()));
        let [floor, ours] = in_turns(
            10,
            || {
                let answer = bare.post("auth/session", Some(&refresh_token), "");
                let token = answer["access_token"].as_str().unwrap();
                at_once(THREADS, || {
                    assert_eq!(bare.send(&call, Some(token), SUM), THREE.as_bytes());
                });
            },
            || {
                clock.0.fetch_add(3600, Ordering::Relaxed);
                let before = refreshes();
                at_once(THREADS, || {
                    assert_eq!(user.functions().call::<i64>("sum", (1, 2)).unwrap(), 3);
                });
                assert_eq!(refreshes(), before + 1);
            },
        );
        line(what, floor, ours, "1.3");
    }
}

/// What the function `sum` answers to [`SUM`].
const THREE: &str = r#"{"$numberInt":"3"}"#;
const SUM: &str = r#"{"arguments":[{"$numberInt":"1"},{"$numberInt":"2"}],"name":"sum"}"#;

fn at_once(threads: usize, work: impl Fn() + Sync) {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                work();
            });
        }
    });
}

/// Calls with answers of several sizes, read into a type; the floor is a bare agent and serde_json.
fn answers() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Order {
        _id: String,
        customer: String,
        note: String,
        paid: bool,
        items: Vec<Item>,
        tags: Vec<String>,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    struct Item {
        sku: String,
        name: String,
    }
    let order = |number: usize| {
        let item = |sku: &str| json!({"sku": sku, "name": "A thing of this kind"});
        json!({"_id": format!("{number:024x}"), "customer": "Ada Lovelace", "paid": true,
               "note": "at the door, \"please\"", "items": [item("A-1"), item("B-22")],
               "tags": ["new", "urgent"]})
    };
    let dir = support::populated(1);
    let user = |address: &str| {
        let session = Session::builder("app", format!("http://{address}")).location_lookup(false);
        session.store(support::open(&dir)).open().unwrap().current_user().unwrap().unwrap()
    };
    let address = constant_server(THREE);
    let (bare, me) = (Bare::at(&address), user(&address));
    let (token, call) = (me.access_token().unwrap(), bare.path("app/app/functions/call"));
    let [floor, ours] = in_turns(
        3000,
        || assert_eq!(bare.send(&call, Some(token.expose()), SUM), THREE.as_bytes()),
        || assert_eq!(me.functions().call::<i64>("sum", (1, 2)).unwrap(), 3),
    );
    line("a call with a tiny answer", floor, ours, "1.05");
    for (count, rounds) in [(5, 2000), (450, 300), (4500, 60)] {
        let orders = Value::Array((0..count).map(order).collect()).to_string();
        let size = orders.len();
        let address = constant_server(&orders);
        let (bare, me) = (Bare::at(&address), user(&address));
        let call = bare.path("app/app/functions/call");
        let [floor, ours] = in_turns(
            rounds,
            || {
                let answer = bare.send(&call, Some(token.expose()), SUM);
                let orders: Vec<Order> = serde_json::from_slice(&answer).unwrap();
                assert_eq!(orders.len(), count);
            },
            || {
                let orders: Vec<Order> = me.functions().call("sum", (1, 2)).unwrap();
                assert_eq!(orders.len(), count);
            },
        );
        line(&format!("a call with an answer of {} kB, typed", size / 1000), floor, ours, "1.10");
    }
}

/// The most memory of a program that opens a session among 10,000 users and makes one call. Linux.
fn memory() {
    let server = Server::builder().built_in_functions().start().unwrap();
    let dir = dir("memory");
    copy(&support::populated(10_000), &dir);
    let user = session(&server).store(support::open(&dir)).open().unwrap();
    let user = user.log_in(&Credentials::anonymous()).unwrap();
    let peak = |role: &str, rest: &[&str]| -> u64 {
        let mut child = spawn(role, &[&[server.base_url(), server.app_id()], rest].concat());
        let token = user.access_token().unwrap();
        child.stdin.take().unwrap().write_all(token.expose().as_bytes()).unwrap();
        output(child).trim().parse().unwrap()
    };
    let floor = peak("bare-call", &[]);
    let ours = peak("call", &[dir.to_str().unwrap()]);
    let what = "peak memory, 10,000 users and one call, KiB";
    println!("{what:<52}{floor:>12}{ours:>12}{:>+8}{:>7}", ours - floor, "+4096");
}

/// The local server: calls a second from 16 connections, beside a loop around the same parser of
/// HTTP that answers a constant; and how soon it answers.
fn server() {
    const CONNECTIONS: usize = 16;
    const CALLS: usize = 500;
    let server = Server::builder().built_in_functions().start().unwrap();
    let constant = constant_server(THREE);
    let user = session(&server).store(MemoryStore::new()).open().unwrap();
    let user = user.log_in(&Credentials::anonymous()).unwrap();
    let call = request(&server, &user);
    let address = server.base_url().strip_prefix("http://").unwrap();
    let burst = |address: &str| {
        at_once(CONNECTIONS, || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            for _ in 0..CALLS {
                stream.write_all(call.as_bytes()).unwrap();
                assert!(answer(&mut stream).ends_with(THREE.as_bytes()));
            }
        });
    };
    let [floor, ours] = in_turns(5, || burst(&constant), || burst(address));
    line("server: 8,000 calls from 16 connections", floor, ours, "1.67");
    let [floor, ours] = in_turns(
        20,
        || assert!(Command::new("true").status().unwrap().success()),
        || {
            let server = Server::builder().start().unwrap();
            assert!(server.journal().is_empty() && Bare::new(&server).is_there());
        },
    );
    line("server: start to first answer; `true` starts", floor, ours, "-");
}

/// A function call as it goes over the wire.
fn request(server: &Server, user: &User) -> String {
    format!(
        "POST /api/client/v2.0/app/{}/functions/call HTTP/1.1\r\nhost: localhost\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{SUM}",
        server.app_id(),
        user.access_token().unwrap().expose(),
        SUM.len(),
    )
}

/// Reads one answer with a `content-length`.
fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "the connection was closed");
        bytes.extend_from_slice(&part[..count]);
        if let Some(end) = message_end(&bytes) {
            assert_eq!(end, bytes.len());
            return bytes;
        }
    }
}

/// Returns where a message with a `content-length` ends, once it is whole.
fn message_end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap().to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let end = head + length.map_or(0, |length| length.trim().parse().unwrap());
    (bytes.len() >= end).then_some(end)
}

/// A thread for each connection, httparse, and always the same answer.
fn constant_server(answer: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
    let answer: Arc<str> = format!("{head} {}\r\n\r\n{answer}", answer.len()).into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let mut part = [0; 8192];
                while let Ok(count @ 1..) = stream.read(&mut part) {
                    bytes.extend_from_slice(&part[..count]);
                    let mut headers = [httparse::EMPTY_HEADER; 32];
                    let mut head = httparse::Request::new(&mut headers);
                    if head.parse(&bytes).unwrap().is_complete()
                        && let Some(end) = message_end(&bytes)
                    {
                        bytes.drain(..end);
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    address
}

/// What is done in processes of their own.
fn child(role: &str, arguments: &[String]) {
    match (role, arguments) {
        ("commits", [dir, count]) => {
            let store = support::open(Path::new(dir));
            let commit = |number| {
                timed(|| {
                    store.commit(support::soon(), &mut |_| Ok(vec![put(number)])).unwrap();
                })
            };
            let longest = (0..count.parse().unwrap()).map(|_| commit(0)).max();
            println!("{}", longest.unwrap().as_nanos());
        }
        ("bare-commit", [dir]) => println!("{}", timed(|| bare_commit(Path::new(dir))).as_nanos()),
        ("commit", [dir]) => {
            let store = support::open(Path::new(dir));
            println!("{}", timed(|| assert!(log_in_commit(&store) > 0)).as_nanos());
        }
        ("bare-call", [url, app]) => {
            let mut token = String::new();
            std::io::stdin().read_to_string(&mut token).unwrap();
            let bare = Bare { agent: Bare::agent(), base: url.clone() };
            let call = bare.path(&format!("app/{app}/functions/call"));
            assert_eq!(bare.send(&call, Some(&token), SUM), THREE.as_bytes());
            println!("{}", peak());
        }
        ("call", [url, app, dir]) => {
            let session = Session::builder(app, url).store(support::open(Path::new(dir)));
            let user = session.open().unwrap().current_user().unwrap().unwrap();
            assert_eq!(user.functions().call::<i64>("sum", (1, 2)).unwrap(), 3);
            println!("{}", peak());
        }
        _ => panic!("no such role: {role}"),
    }
}

/// The most memory this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn spawn(role: &str, arguments: &[&str]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg(format!("child-{role}"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn output(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn session(server: &Server) -> SessionBuilder {
    Session::builder(server.app_id(), server.base_url())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The protocol by hand, on a bare agent.
struct Bare {
    agent: ureq::Agent,
    base: String,
}

impl Bare {
    fn new(server: &Server) -> Self {
        Self { agent: Self::agent(), base: server.base_url().to_owned() }
    }

    fn at(address: &str) -> Self {
        Self { agent: Self::agent(), base: format!("http://{address}") }
    }

    fn agent() -> ureq::Agent {
        let config = ureq::Agent::config_builder().proxy(None).max_idle_connections_per_host(64);
        config.max_idle_connections(64).build().into()
    }

    fn path(&self, path: &str) -> String {
        format!("{}/api/client/v2.0/{path}", self.base)
    }

    fn send(&self, url: &str, bearer: Option<&str>, body: &str) -> Vec<u8> {
        let mut request = self.agent.post(url).header("content-type", "application/json");
        if let Some(token) = bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut answer = request.send(body).unwrap();
        answer.body_mut().with_config().limit(64 << 20).read_to_vec().unwrap()
    }

    fn post(&self, path: &str, bearer: Option<&str>, body: &str) -> Value {
        serde_json::from_slice(&self.send(&self.path(path), bearer, body)).unwrap()
    }

    fn is_there(&self) -> bool {
        match self.agent.get(&self.base).call() {
            Ok(_) | Err(ureq::Error::StatusCode(_)) => true,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The real time, moved by some seconds.
#[derive(Clone, Default)]
struct Moved(Arc<AtomicI64>);

impl Moved {
    fn by(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed).unsigned_abs())
    }
}

impl Clock for Moved {
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.by()
    }

    fn monotonic(&self) -> Duration {
        UNIX_EPOCH.elapsed().unwrap() + self.by()
    }
}
