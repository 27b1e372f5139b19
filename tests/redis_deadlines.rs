//! Calls while a Redis server does not reply: no call exceeds its deadline, and a cancelled call
//! ends at once.
//!
//! `KEYFOB_REDIS_RUNS` sets how often each call is made. The tests print the largest excess, which
//! is at most 50 ms on an idle machine. The asserted bound has a margin for a busy machine.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;
mod support;

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::{RedisStore, Store};
use keyfob::{CancelToken, Deadline, Error, User, UserId};
use redis_support::{RedisServer, builder};
use serde_json::json;
use support::backend::setting;
use support::*;

const MARGIN: Duration = Duration::from_millis(500);

/// The largest excess over a deadline, and the call that had it.
#[derive(Default)]
struct Worst(Duration, String);

impl Worst {
    /// Makes each call of a store, and then of a session whose token has expired, some times.
    fn measure(&mut self, what: &str, mut open: impl FnMut() -> (RedisStore, Option<User>)) {
        let ada = UserId::new("ada");
        for run in 0..setting("KEYFOB_REDIS_RUNS").unwrap_or(3) {
            let (store, user) = open();
            let limit = Duration::from_millis(40 + 37 * (run % 7));
            let deadline = || Deadline::after(limit);
            let mut time = |name: &str, limit: Duration, call: &mut dyn FnMut()| {
                let began = Instant::now();
                call();
                let excess = began.elapsed().saturating_sub(limit);
                if excess > self.0 {
                    *self = Self(excess, format!("{what}: {name} within {limit:?}"));
                }
            };
            time("commit", limit, &mut || {
                store.commit(deadline(), &mut |_| Ok(vec![])).unwrap_err();
            });
            time("current", limit, &mut || drop(store.current(deadline())));
            time("user", limit, &mut || drop(store.user(&ada, deadline())));
            time("recent", limit, &mut || drop(store.recent(None, deadline())));
            time("lock_refresh", limit, &mut || drop(store.lock_refresh(&ada, deadline())));
            time("check_writable", limit, &mut || drop(store.check_writable(deadline())));
            time("commit, once", Duration::ZERO, &mut || {
                store.commit(Deadline::passed(), &mut |_| Ok(vec![])).unwrap_err();
            });
            if let Some(user) = user {
                let session = user.session().with_deadline(limit);
                time("log_out", limit, &mut || {
                    if let Ok(Some(user)) = session.user(user.id()) {
                        let _ = user.log_out();
                    }
                });
                time("call", limit, &mut || {
                    if let Ok(Some(user)) = session.user(user.id()) {
                        let _ = user.functions().call::<i64>("f", ());
                    }
                });
            }
        }
    }

    fn check(self) {
        println!("largest excess: {:?} ({})", self.0, self.1);
        assert!(self.0 < MARGIN, "{:?}: {}", self.0, self.1);
    }
}

/// A user of a session on the store, whose token has expired.
fn expired(store: RedisStore) -> User {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOGOUT, 204, json!({}));
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(7));
    script.reply(REFRESH, 503, json!({}));
    let session = builder_on(&script, &clock).store(store).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    clock.advance(Duration::from_secs(3600));
    user
}

fn builder_on(script: &Script, clock: &ManualClock) -> keyfob::SessionBuilder {
    support::builder(script, clock)
}

#[test]
#[ignore = "needs redis-server"]
fn hanging_server_keeps_deadlines() {
    let mut worst = Worst::default();
    for copies in [Duration::ZERO, Duration::from_secs(60)] {
        let open = |server: &RedisServer| server.builder().local_copies(copies).open().unwrap();
        let server = RedisServer::start();
        let user = expired(open(&server));
        let warm = open(&server);
        warm.commit(Deadline::after(Duration::from_secs(20)), &mut |_| Ok(vec![])).unwrap();
        server.signal("-STOP");
        worst.measure("stopped, connected", || (warm.clone(), Some(user.clone())));
        worst.measure("stopped, new", || (open(&server), None));
        server.signal("-CONT");

        let warm = open(&server);
        warm.commit(Deadline::after(Duration::from_secs(20)), &mut |_| Ok(vec![])).unwrap();
        server.run::<()>(&["CLIENT", "PAUSE", "600000", "ALL"]);
        worst.measure("paused, connected", || (warm.clone(), Some(user.clone())));
        worst.measure("paused, new", || (open(&server), None));
    }
    worst.check();
}

/// A listener whose queue of connections is full: a new one is not answered.
fn full_backlog() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Duration::from_millis(200);
    let queue = (0..10_000).map_while(|_| TcpStream::connect_timeout(&address, patience).ok());
    let queue = queue.collect();
    (listener, queue)
}

#[test]
#[ignore = "needs redis-server"]
#[cfg(target_os = "linux")]
fn full_backlog_keeps_deadlines() {
    let (listener, _queue) = full_backlog();
    let address = listener.local_addr().unwrap();
    let mut worst = Worst::default();
    worst
        .measure("full backlog", || (builder(&format!("redis://{address}")).open().unwrap(), None));
    worst.check();
}

/// A namespace whose packets go nowhere.
struct Blackhole(String);

impl Blackhole {
    fn new() -> Self {
        let hole = Self(format!("kd{}", std::process::id()));
        let ip = |words: &str| {
            let status = Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status();
            assert!(status.is_ok_and(|status| status.success()), "this test needs root: {words}");
        };
        let name = &hole.0;
        ip(&format!("link add {name}a type veth peer name {name}b"));
        ip(&format!("addr add 10.213.78.1/30 dev {name}a"));
        ip(&format!("link set {name}a up"));
        ip(&format!("link set {name}b up"));
        // A neighbour that never was: no answer to ARP would be an error after a while.
        ip(&format!("neigh add 10.213.78.2 lladdr 02:00:00:00:00:01 dev {name}a"));
        hole
    }
}

impl Drop for Blackhole {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &format!("{}a", self.0)]).status();
    }
}

#[test]
#[ignore = "needs network namespaces"]
#[cfg(target_os = "linux")]
fn lost_packets_keep_deadlines_and_cancellation() {
    let _hole = Blackhole::new();
    let open = || builder("redis://10.213.78.2").open().unwrap();
    let mut worst = Worst::default();
    worst.measure("lost packets", || (open(), None));
    worst.check();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder_on(&script, &clock).store(open()).deadline(Duration::from_secs(3600));
    let session = session.open().unwrap();
    cancelled(move |token| session.with_cancel(token).log_in(&password()).map(drop));
}

/// Runs a call on a thread of its own, cancels it, and asserts that it ends.
fn cancelled(call: impl FnOnce(&CancelToken) -> keyfob::Result<()> + Send + 'static) {
    let token = CancelToken::new();
    let (done, outcome) = channel();
    let given = token.clone();
    thread::spawn(move || done.send(call(&given)));
    (0..1000).for_each(|_| thread::yield_now());
    let began = Instant::now();
    token.cancel();
    let error = outcome.recv_timeout(Duration::from_secs(20)).unwrap().unwrap_err();
    println!("cancelled in {:?}", began.elapsed());
    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
}

#[test]
#[ignore = "needs redis-server"]
fn hanging_server_is_cancelled() {
    let server = RedisServer::start();
    let store = server.builder().local_copies(Duration::ZERO).open().unwrap();
    let user = expired(store);
    server.run::<()>(&["CLIENT", "PAUSE", "600000", "ALL"]);
    let session = user.session().with_deadline(Duration::from_secs(3600));
    for call in
        [(|session| session.log_in(&password()).map(drop)) as fn(keyfob::Session) -> _, |session| {
            session.users().map(drop)
        }]
    {
        let session = session.clone();
        cancelled(move |token| call(session.with_cancel(token)));
    }
}
