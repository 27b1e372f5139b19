//! Redis failures: no acknowledged commit is lost without an error, and no call exceeds its
//! deadline.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::{Change, OnRollback, RedisStore, Store, StoredUser};
use keyfob::{Deadline, Event, StoreError, StoreErrorKind, UserId};
use redis_support::*;
use serde_json::json;
use support::{START, access, refresh};

const MINUTE: Duration = Duration::from_secs(60);

fn soon() -> Deadline {
    Deadline::after(MINUTE)
}

/// The record of a user with a refresh token of its own for each round.
fn user(name: &str, round: u64) -> StoredUser {
    let record = json!({
        "id": name, "state": "logged-in", "epoch": 1, "created_commit": 1, "last_used_commit": 1,
        "created": 1, "used": 1,
        "access_token": access("a"), "refresh_token": refresh(&format!("r{round}")),
        "clock_skew_ms": round,
    });
    serde_json::from_value(record).unwrap()
}

/// Replaces the refresh token of a user, as a refresh does.
fn rotate(store: &RedisStore, name: &str, round: u64) -> Result<u64, StoreError> {
    store.commit(soon(), &mut |view| {
        view.user(&UserId::new(name))?;
        Ok(vec![Change::Put(Box::new(user(name, round)))])
    })
}

fn round(store: &RedisStore, name: &str) -> Option<i64> {
    let user = store.user(&UserId::new(name), soon()).unwrap();
    user.map(|user| user.clock_skew_ms)
}

fn set_location(store: &RedisStore, location: &str) -> Result<u64, StoreError> {
    store.commit(soon(), &mut |_| Ok(vec![Change::Location(Some(location.to_owned()))]))
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> StoreErrorKind {
    outcome.unwrap_err().kind
}

/// Without copies, so that every read asks the server.
fn open(server: &RedisServer) -> RedisStore {
    server.builder().local_copies(Duration::ZERO).open().unwrap()
}

#[test]
#[ignore = "needs redis-server"]
fn restart_with_data_continues() {
    let mut server = RedisServer::durable("always");
    let store = open(&server);
    rotate(&store, "ada", 1).unwrap();
    server.kill();
    server.start_again();
    assert_eq!(round(&store, "ada"), Some(1));
    assert_eq!(rotate(&store, "ada", 2).unwrap(), 2);
}

#[test]
#[ignore = "needs redis-server"]
fn restart_without_data_is_rollback() {
    let mut server = RedisServer::start();
    let (store, continues) = (open(&server), server.builder().on_rollback(OnRollback::Continue));
    let continues = continues.open().unwrap();
    rotate(&store, "ada", 1).unwrap();
    continues.recent(None, soon()).unwrap();
    server.kill();
    server.start_again();
    assert_eq!(kind(store.current(soon())), StoreErrorKind::RolledBack);
    assert_eq!(kind(set_location(&store, "here")), StoreErrorKind::RolledBack);
    let recent = continues.recent(Some(1), soon()).unwrap();
    assert_eq!(recent.events, [(1, Event::StoreRolledBack)]);
    assert!(continues.recent(Some(0), soon()).unwrap().events.is_empty());
    assert_eq!(set_location(&continues, "here").unwrap(), 1);
    // Nor are other commits under the same number taken for those that were seen.
    assert_eq!(kind(store.location(soon())), StoreErrorKind::RolledBack);
    // A program that starts now has seen nothing.
    assert_eq!(open(&server).location(soon()).unwrap().as_deref(), Some("here"));
}

#[test]
#[ignore = "needs redis-server"]
fn missing_keys_are_damage() {
    let server = RedisServer::start();
    let store = open(&server);
    rotate(&store, "ada", 1).unwrap();
    for key in ["users", "head"] {
        server.run::<()>(&["DEL", &format!("{{{NAMESPACE}}}:{key}")]);
        assert_eq!(kind(open(&server).users(soon())), StoreErrorKind::Damaged, "{key}");
        server.run::<()>(&["FLUSHALL"]);
        rotate(&open(&server), "ada", 1).unwrap();
    }
}

#[test]
#[ignore = "needs redis-server"]
fn replica_is_refused() {
    let primary = RedisServer::start();
    let replica = RedisServer::start();
    replica.follow(&primary);
    let error = open(&replica).current(soon()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy);
    assert!(error.to_string().contains("replica"), "{error}");
}

#[test]
#[ignore = "needs redis-server"]
fn unacknowledged_commit_is_unconfirmed() {
    let (primary, replica) = (RedisServer::start(), RedisServer::start());
    replica.follow(&primary);
    let store = primary.builder().replicas(1).open().unwrap();
    rotate(&store, "ada", 1).unwrap();
    replica.signal("-STOP");
    assert_eq!(kind(rotate(&store, "ada", 2)), StoreErrorKind::Unconfirmed);
    assert_eq!(round(&store, "ada"), Some(2));
    replica.signal("-CONT");
    replica.wait_for_link();
    assert_eq!(rotate(&store, "ada", 2).unwrap(), 3);
}

/// The refresh succeeds although nothing acknowledges it; the new primary does not have it, and gets
/// it with the next call.
#[test]
#[ignore = "needs redis-server"]
fn unconfirmed_tokens_survive_promotion() {
    let (mut primary, replica) = (RedisServer::start(), RedisServer::start());
    replica.follow(&primary);
    let sentinel = Sentinel::watch(&primary);
    let store = || {
        let builder = builder(&sentinel.url()).sentinel("fleet", [] as [&str; 0]);
        builder.replicas(1).local_copies(Duration::ZERO).open().unwrap()
    };
    let (script, clock) = (support::Script::new(), support::ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script.reply(support::CALL, 200, json!(7));
    let session = support::builder(&script, &clock).store(store()).open().unwrap();
    let ada = session.log_in(&support::password()).unwrap();
    replica.wait_for_link();
    replica.signal("-STOP");
    primary.run::<()>(&["CLIENT", "KILL", "TYPE", "replica"]);
    clock.advance(MINUTE * 31);
    let token = support::jwt("a2", clock.seconds(), clock.seconds() + 1800);
    let body = json!({"access_token": token, "refresh_token": refresh("r2")});
    script.reply(support::REFRESH, 201, body);
    let call = || ada.functions().call::<i64>("f", ());
    assert_eq!(call().unwrap(), 7);
    primary.kill();
    replica.signal("-CONT");
    replica.wait_for_promotion();
    let own = replica.builder().open().unwrap();
    let until = Instant::now() + MINUTE;
    loop {
        // Sentinel may need a while to name the new primary.
        let _ = call();
        let stored = own.user(ada.id(), soon()).unwrap().unwrap();
        if serde_json::to_value(&*stored).unwrap()["refresh_token"] == refresh("r2") {
            break;
        }
        assert!(Instant::now() < until, "the new tokens are not stored again");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(script.count(support::REFRESH), 1);
    assert_eq!(ada.state().unwrap(), keyfob::UserState::LoggedIn);
}

/// Sentinel promotes the replica while four threads commit. What was acknowledged is there.
#[test]
#[ignore = "needs redis-server"]
fn promotion_keeps_acknowledged_commits() {
    let (mut primary, replica) = (RedisServer::durable("always"), RedisServer::durable("always"));
    replica.follow(&primary);
    let sentinel = Sentinel::watch(&primary);
    let store = || {
        let builder = builder(&sentinel.url()).sentinel("fleet", [] as [&str; 0]);
        builder.replicas(1).local_copies(Duration::ZERO).open().unwrap()
    };
    let is_over = AtomicBool::new(false);
    let acknowledged: [AtomicU64; 4] = Default::default();
    thread::scope(|scope| {
        for (number, acknowledged) in acknowledged.iter().enumerate() {
            let (store, is_over) = (store(), &is_over);
            scope.spawn(move || {
                let name = format!("user {number}");
                for round in 1.. {
                    match rotate(&store, &name, round) {
                        Ok(_) => acknowledged.store(round, Ordering::SeqCst),
                        Err(error) => {
                            let expected = [
                                StoreErrorKind::Busy,
                                StoreErrorKind::Io,
                                StoreErrorKind::Unconfirmed,
                            ];
                            assert!(expected.contains(&error.kind), "{error}");
                            thread::sleep(Duration::from_millis(20));
                        }
                    }
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        while acknowledged.iter().any(|count| count.load(Ordering::SeqCst) < 20) {
            thread::sleep(Duration::from_millis(5));
        }
        primary.kill();
        replica.wait_for_promotion();
        let after: Vec<_> = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let own = RedisStore::builder(replica.url()).namespace(NAMESPACE).plaintext();
        let own = own.open().unwrap();
        for (number, acknowledged) in after.iter().enumerate() {
            let found = round(&own, &format!("user {number}")).unwrap();
            assert!(found >= i64::try_from(*acknowledged).unwrap(), "{found} < {acknowledged}");
        }
        // The new primary has no replica: commits are applied, and say that they are not safe.
        thread::sleep(Duration::from_millis(300));
        is_over.store(true, Ordering::SeqCst);
    });
    let (survivor, until) = (store(), Instant::now() + MINUTE);
    while survivor.user(&UserId::new("user 0"), soon()).is_err() {
        assert!(Instant::now() < until, "the new primary is not found");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Commits that only the old primary had: lost, and reported by the processes that have seen them.
#[test]
#[ignore = "needs redis-server"]
fn promotion_without_acknowledgement_is_rollback() {
    let (mut primary, replica) = (RedisServer::start(), RedisServer::start());
    replica.follow(&primary);
    let sentinel = Sentinel::watch(&primary);
    let builder = builder(&sentinel.url()).sentinel("fleet", [] as [&str; 0]);
    let store = builder.local_copies(Duration::ZERO).open().unwrap();
    rotate(&store, "ada", 1).unwrap();
    replica.wait_for_link();
    replica.signal("-STOP");
    primary.run::<()>(&["CLIENT", "KILL", "TYPE", "replica"]);
    rotate(&store, "ada", 2).unwrap();
    primary.kill();
    replica.signal("-CONT");
    replica.wait_for_promotion();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match store.recent(None, soon()) {
            Ok(recent) => panic!("the older state was taken for the newest: {recent:?}"),
            Err(error) if error.kind == StoreErrorKind::RolledBack => break,
            Err(_) => assert!(Instant::now() < until, "the new primary is not found"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A server that answers as it is told, on a port of its own.
fn fake(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || answer(stream));
        }
    });
    url
}

/// Sends a byte now and then, for ever: each read succeeds, and the whole never comes.
#[test]
#[ignore = "needs redis-server"]
fn dripping_server_keeps_deadline() {
    let url = fake(|mut stream| {
        let _ = stream.write_all(b"$1000\r\n");
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(30));
        }
    });
    let store = builder(&url).open().unwrap();
    let began = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(300));
    assert_eq!(kind(store.current(deadline)), StoreErrorKind::Busy);
    assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
}

#[test]
#[ignore = "needs redis-server"]
fn errors_contain_no_server_text() {
    for answer in
        ["-ERR hush hush\r\n", "-hush\r\n", "+hush\r\n", "hush\r\n", "*1\r\n-hush hush\r\n"]
    {
        let url = fake(move |mut stream| {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(answer.repeat(8).as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 512]);
        });
        let store = builder(&url).open().unwrap();
        let error = store.current(soon()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hush"), "{answer:?}: {shown}");
    }
}

/// A proxy that cuts the connection after it has passed on the commit, before the answer.
#[test]
#[ignore = "needs redis-server"]
fn commit_with_lost_reply_is_applied_once() {
    let server = RedisServer::start();
    let port = server.port();
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = Arc::clone(&cut);
    let url = fake(move |client| {
        let upstream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut requests, mut to_server) =
            (client.try_clone().unwrap(), upstream.try_clone().unwrap());
        let is_cut = Arc::clone(&is_cut);
        let lose = Arc::new(AtomicBool::new(false));
        let loses = Arc::clone(&lose);
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(count @ 1..) = requests.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]);
                if text.contains("planned location") && !is_cut.swap(true, Ordering::SeqCst) {
                    loses.store(true, Ordering::SeqCst);
                }
                if to_server.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let (mut answers, mut to_client) = (upstream, client);
        let mut buffer = [0; 65_536];
        while let Ok(count @ 1..) = answers.read(&mut buffer) {
            let unknown = buffer.starts_with(b"-NOSCRIPT");
            if lose.load(Ordering::SeqCst) && !unknown {
                let _ = to_client.shutdown(Shutdown::Both);
                break;
            }
            if to_client.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
    let store = builder(&url).open().unwrap();
    assert_eq!(set_location(&store, "earlier").unwrap(), 1);
    assert_eq!(set_location(&store, "planned location").unwrap(), 2);
    assert!(cut.load(Ordering::SeqCst), "nothing was cut");
    assert_eq!(open(&server).location(soon()).unwrap().as_deref(), Some("planned location"));
    assert_eq!(open(&server).recent(None, soon()).unwrap().number, 2);
}

/// The rule of the manual's page is enough for everything that a store does, and no more.
#[test]
#[ignore = "needs redis-server"]
fn documented_permissions_are_sufficient() {
    let server = RedisServer::start();
    let rule = ACL.replace("PASSWORD", "hush").replace("{*}", &format!("{{{NAMESPACE}}}"));
    server.run::<()>(&rule.split(' ').collect::<Vec<_>>());
    let url = format!("redis://keyfob:hush@127.0.0.1:{}", server.port());
    let store = builder(&url).replicas(0).publish_subscribe(true).open().unwrap();
    let watch = store.watch(Box::new(|| {}));
    rotate(&store, "ada", 1).unwrap();
    server.wait_for_subscriber();
    rotate(&store, "ada", 2).unwrap();
    assert!(store.lock_refresh(&UserId::new("ada"), soon()).unwrap().unwrap().is_held());
    assert_eq!(store.users(soon()).unwrap().len(), 1);
    store.recent(Some(0), soon()).unwrap();
    let last = store.commit(soon(), &mut |view| view.last_used(&|_| true).map(|_| vec![]));
    last.unwrap();
    drop(watch);
    let other = RedisStore::builder(&url).namespace("another").plaintext().open().unwrap();
    assert_eq!(kind(other.current(soon())), StoreErrorKind::Access);
    let wrong = builder(&url.replace("hush", "wrong")).open().unwrap();
    let error = wrong.current(soon()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Access);
    assert!(!format!("{error:?}").contains("wrong@"), "{error:?}");
    let _ = START;
}
