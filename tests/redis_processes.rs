//! Machines that share one Redis server, each simulated by a process: one refresh for all, and the
//! effect of a machine that crashes or is suspended.
//!
//! The test program starts itself as its own child processes. The environment names the task of a
//! child, and [`child`] is its entry point.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use keyfob::server::{Fault, Route, Server, ServerBuilder};
use keyfob::store::{Change, RedisStore, Store};
use keyfob::{
    Clock, Credentials, Deadline, Event, Secret, Session, SystemClock, User, UserId, UserState,
};
use redis_support::{RedisServer, builder, signal_process};
use support::ManualClock;

const EXPIRED: Duration = Duration::from_secs(31 * 60);
const MINUTE: Duration = Duration::from_secs(60);

/// The lease of the machines, shorter than a slow backend.
const LEASE: Duration = Duration::from_millis(600);

/// The machine's clock, moved.
struct Moved;

impl Clock for Moved {
    fn now(&self) -> SystemTime {
        SystemClock.now() + EXPIRED
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + EXPIRED
    }
}

fn soon() -> Deadline {
    Deadline::after(MINUTE)
}

fn store(url: &str) -> RedisStore {
    builder(url).encryption(redis_support::key()).lease(LEASE).open().unwrap()
}

fn session(backend: &str, redis: &str) -> keyfob::SessionBuilder {
    Session::builder("keyfob-local", backend).store(store(redis))
}

/// A backend on which a user has logged in whose token has expired by now.
fn backend(
    redis: &RedisServer,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (Server, User) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let clock = ManualClock::at(i64::try_from(now.as_secs()).unwrap());
    let server = Server::builder().clock(clock.clone()).built_in_functions();
    let server = configure(server).start().unwrap();
    let session = session(server.base_url(), &redis.url()).clock(Moved).open().unwrap();
    let password = Secret::new("hunter22");
    session.email_password().register("ada@example.org", password).unwrap();
    let here = Session::builder("keyfob-local", server.base_url()).store(store(&redis.url()));
    let ada = Credentials::email_password("ada@example.org", "hunter22");
    let id = here.open().unwrap().log_in(&ada).unwrap().id().clone();
    clock.advance(EXPIRED);
    let user = session.user(&id).unwrap().unwrap();
    (server, user)
}

/// A process that plays a role.
struct Machine {
    child: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Machine {
    fn start(role: &str, backend: &str, redis: &RedisServer) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1", "--include-ignored"])
            .env("KEYFOB_TEST_ROLE", role)
            .env("KEYFOB_TEST_URL", backend)
            .env("KEYFOB_TEST_REDIS", redis.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, lines }
    }

    /// Reads lines until one has this mark, and returns what comes after it.
    fn hear(&mut self, mark: &str) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the child never said {mark}");
    }

    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn signal(&self, signal: &str) {
        signal_process(self.child.id(), signal);
    }

    fn end(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_line() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn child() {
    let Ok(role) = std::env::var("KEYFOB_TEST_ROLE") else { return };
    let backend = std::env::var("KEYFOB_TEST_URL").unwrap();
    let redis = std::env::var("KEYFOB_TEST_REDIS").unwrap();
    let ada = UserId::new("ada");
    match role.as_str() {
        "call" => {
            let session = session(&backend, &redis).clock(Moved).open().unwrap();
            println!("READY ");
            wait_for_line();
            let calls: Vec<_> = (0..4)
                .map(|_| {
                    let user = session.current_user().unwrap().unwrap();
                    thread::spawn(move || user.functions().call::<i64>("sum", (1, 2)).unwrap())
                })
                .collect();
            let sums: i64 = calls.into_iter().map(|call| call.join().unwrap()).sum();
            println!("SUM {sums}");
        }
        "lock" => {
            let lock = store(&redis).lock_refresh(&ada, soon()).unwrap().unwrap();
            println!("LOCKED {}", lock.is_held());
            wait_for_line();
            println!("HELD {}", lock.is_held());
        }
        "commit" => {
            let mut decisions = 0;
            let committed = store(&redis).commit(soon(), &mut |view| {
                decisions += 1;
                if decisions == 1 {
                    println!("DECIDING ");
                    wait_for_line();
                }
                Ok(vec![Change::Location(Some(format!("child {}", view.number())))])
            });
            println!("COMMITTED {} {decisions}", committed.unwrap());
        }
        other => panic!("{other}"),
    }
}

/// Lets 16 machines with four threads each meet one expired token.
fn meet(backend: &Server, redis: &RedisServer) {
    let start = |_| Machine::start("call", backend.base_url(), redis);
    let mut machines: Vec<_> = (0..16).map(start).collect();
    for machine in &mut machines {
        machine.hear("READY");
    }
    for machine in &mut machines {
        machine.go_on();
    }
    for machine in &mut machines {
        assert_eq!(machine.hear("SUM"), "12");
    }
    for machine in machines {
        machine.end();
    }
    assert_eq!(backend.journal().count(Route::Refresh), 1);
}

#[test]
#[ignore = "needs redis-server"]
fn expired_token_is_refreshed_once() {
    let redis = RedisServer::start();
    let (backend, user) = backend(&redis, |backend| backend);
    meet(&backend, &redis);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
#[ignore = "needs redis-server"]
fn rotated_token_is_refreshed_once() {
    let redis = RedisServer::durable("always");
    let rotate =
        |backend: ServerBuilder| backend.rotate_refresh_tokens(true).rotation_grace(Duration::ZERO);
    let (backend, user) = backend(&redis, rotate);
    meet(&backend, &redis);
    // The new refresh token is the one that works.
    user.refresh_access_token().unwrap();
}

/// The backend takes three times as long as an unrenewed lock would be held.
#[test]
#[ignore = "needs redis-server"]
fn slow_backend_is_asked_once() {
    let redis = RedisServer::start();
    let rotate =
        |backend: ServerBuilder| backend.rotate_refresh_tokens(true).rotation_grace(Duration::ZERO);
    let (backend, user) = backend(&redis, rotate);
    backend.faults().add(Fault::delay(LEASE * 3).on(Route::Refresh).times(1));
    meet(&backend, &redis);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
#[ignore = "needs redis-server"]
fn killed_holder_loses_lock_after_lease() {
    let redis = RedisServer::start();
    let mut holder = Machine::start("lock", "", &redis);
    assert_eq!(holder.hear("LOCKED"), "true");
    // It renews: much later than the lease the lock is still its own.
    let (own, ada) = (store(&redis.url()), UserId::new("ada"));
    assert!(own.lock_refresh(&ada, Deadline::after(LEASE * 4)).unwrap().is_none());
    holder.signal("-KILL");
    let began = Instant::now();
    assert!(own.lock_refresh(&ada, soon()).unwrap().is_some());
    assert!(began.elapsed() < LEASE * 10, "{:?}", began.elapsed());
}

/// It wakes up when another machine has the lock, and must not think that it still has it.
#[test]
#[ignore = "needs redis-server"]
fn stopped_holder_detects_lost_lock() {
    let redis = RedisServer::start();
    let mut holder = Machine::start("lock", "", &redis);
    assert_eq!(holder.hear("LOCKED"), "true");
    holder.signal("-STOP");
    let own = store(&redis.url());
    let lock = own.lock_refresh(&UserId::new("ada"), soon()).unwrap().unwrap();
    holder.signal("-CONT");
    holder.go_on();
    assert_eq!(holder.hear("HELD"), "false");
    // Nor does its end take the lock away from the new holder.
    holder.end();
    assert!(lock.is_held());
}

#[test]
#[ignore = "needs redis-server"]
fn killed_commit_changes_nothing() {
    let redis = RedisServer::start();
    let mut writer = Machine::start("commit", "", &redis);
    writer.hear("DECIDING");
    writer.signal("-KILL");
    let own = store(&redis.url());
    let put = Change::Location(Some("own".to_owned()));
    assert_eq!(own.commit(soon(), &mut |_| Ok(vec![put.clone()])).unwrap(), 1);
    assert_eq!(own.location(soon()).unwrap().as_deref(), Some("own"));
}

/// Its decision was made on a state that is not the newest any more: it is made again.
#[test]
#[ignore = "needs redis-server"]
fn stopped_commit_is_decided_again() {
    let redis = RedisServer::start();
    let mut writer = Machine::start("commit", "", &redis);
    writer.hear("DECIDING");
    writer.signal("-STOP");
    let own = store(&redis.url());
    let put = Change::Location(Some("own".to_owned()));
    assert_eq!(own.commit(soon(), &mut |_| Ok(vec![put.clone()])).unwrap(), 1);
    writer.signal("-CONT");
    writer.go_on();
    assert_eq!(writer.hear("COMMITTED"), "2 2");
    writer.end();
    assert_eq!(own.location(soon()).unwrap().as_deref(), Some("child 2"));
}

/// The poll interval is an hour: only the published commit can be what arrives.
#[test]
#[ignore = "needs redis-server"]
fn published_commit_arrives_at_once() {
    let redis = RedisServer::start();
    let open = || {
        let hour = Duration::from_secs(3600);
        builder(&redis.url()).publish_subscribe(true).poll_interval(hour).open().unwrap()
    };
    let (one, other) = (open(), open());
    let session = Session::builder("app", "http://127.0.0.1:9").store(one).open().unwrap();
    let mut events = session.events().unwrap();
    // The first call comes when the subscription stands.
    redis.wait_for_subscriber();
    let event = Event::CurrentUserChanged { from: None, to: Some(UserId::new("ada")) };
    other.commit(soon(), &mut |_| Ok(vec![Change::Emit(event.clone())])).unwrap();
    assert_eq!(events.next_timeout(MINUTE), Some(event));
}
