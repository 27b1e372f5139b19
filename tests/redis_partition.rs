//! A network partition: the server runs in a network namespace, and its packets are dropped.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
#![cfg(target_os = "linux")]

mod redis_support;
mod support;

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::Store;
use keyfob::{Deadline, StoreErrorKind};
use redis_support::builder;
use serde_json::json;
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

fn ip(words: &str) -> bool {
    let status = Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A server in a namespace of its own, with a cable to here.
struct Island {
    name: String,
    server: Child,
}

impl Island {
    fn new() -> Self {
        let name = format!("kf{}", std::process::id());
        let (here, there) = (format!("{name}h"), format!("{name}t"));
        assert!(ip(&format!("netns add {name}")), "this test needs root");
        assert!(ip(&format!("link add {here} type veth peer name {there} netns {name}")));
        assert!(ip(&format!("addr add 10.213.77.1/30 dev {here}")));
        assert!(ip(&format!("link set {here} up")));
        assert!(ip(&format!("-n {name} addr add 10.213.77.2/30 dev {there}")));
        assert!(ip(&format!("-n {name} link set {there} up")));
        let server = Command::new("ip")
            .args(["netns", "exec", &name, "redis-server", "--bind", "10.213.77.2", "--save", ""])
            .args(["--port", "6379", "--protected-mode", "no"])
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { name, server }
    }

    fn cable(&self, state: &str) {
        assert!(ip(&format!("-n {0} link set {0}t {state}", self.name)));
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        ip(&format!("netns del {}", self.name));
    }
}

#[test]
#[ignore = "needs redis-server and network namespaces"]
fn partition_keeps_deadlines_and_fresh_tokens() {
    let island = Island::new();
    let open = || builder("redis://10.213.77.2").open().unwrap();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(7));
    let store = open();
    let until = Instant::now() + MINUTE;
    while store.recent(None, Deadline::after(Duration::from_secs(1))).is_err() {
        assert!(Instant::now() < until, "the server does not start");
        thread::sleep(Duration::from_millis(50));
    }
    let session = builder_on(&script, &clock, open());
    let user = session.log_in(&password()).unwrap();
    island.cable("down");
    let stranger = open();
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 7);
        assert!(began.elapsed() < MINUTE / 30, "{:?}", began.elapsed());
        for store in [&store, &stranger] {
            let (began, limit) = (Instant::now(), Duration::from_millis(400));
            let error = store.commit(Deadline::after(limit), &mut |_| Ok(vec![])).unwrap_err();
            assert!(began.elapsed() < limit * 2, "{:?}", began.elapsed());
            assert!(matches!(error.kind, StoreErrorKind::Busy | StoreErrorKind::Io), "{error}");
        }
    }
    island.cable("up");
    let until = Instant::now() + MINUTE;
    while store.commit(Deadline::after(Duration::from_secs(2)), &mut |_| Ok(vec![])).is_err() {
        assert!(Instant::now() < until, "the store does not come back");
    }
    assert_eq!(user.state().unwrap(), keyfob::UserState::LoggedIn);
}

fn builder_on(
    script: &Script,
    clock: &ManualClock,
    store: keyfob::store::RedisStore,
) -> keyfob::Session {
    support::builder(script, clock).store(store).open().unwrap()
}
