//! One login on many machines with a real redis-server: one refresh for all, and the effect of
//! failures.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;
mod support;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::{RedisStore, Store};
use keyfob::{Deadline, Session, StoreErrorKind, User};
use redis_support::RedisServer;
use serde_json::json;
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A machine: a store of its own on the server, and a session on it.
fn machine(server: &RedisServer, script: &Script, clock: &ManualClock) -> (RedisStore, Session) {
    let store = server.builder().open().unwrap();
    let session = builder(script, clock).store(store.clone()).open().unwrap();
    (store, session)
}

/// A backend on which `ada` has logged in from a first machine.
fn fleet(server: &RedisServer) -> (Script, ManualClock, RedisStore, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(7));
    let (store, session) = machine(server, &script, &clock);
    let user = session.log_in(&password()).unwrap();
    script.clear();
    (script, clock, store, user)
}

fn call(user: &User) -> keyfob::Result<i64> {
    user.functions().call("f", ())
}

/// The backend rotates and accepts each refresh token once.
#[test]
#[ignore = "needs redis-server"]
fn sixteen_machines_refresh_once() {
    let server = RedisServer::start();
    let (script, clock, _, _) = fleet(&server);
    let now = clock.clone();
    script.on(REFRESH, move |sent| {
        assert_eq!(sent.bearer, Some(refresh("r1")));
        let token = jwt("a2", now.seconds(), now.seconds() + 1800);
        Ok(json_answer(201, &json!({"access_token": token, "refresh_token": refresh("r2")})))
    });
    let machines: Vec<_> = (0..16).map(|_| machine(&server, &script, &clock)).collect();
    clock.advance(MINUTE * 31);
    let start = Arc::new(Barrier::new(64));
    thread::scope(|scope| {
        for (_, session) in &machines {
            for _ in 0..4 {
                let start = Arc::clone(&start);
                scope.spawn(move || {
                    start.wait();
                    let user = session.current_user().unwrap().unwrap();
                    assert_eq!(call(&user).unwrap(), 7);
                });
            }
        }
    });
    assert_eq!(script.count(REFRESH), 1);
}

#[test]
#[ignore = "needs redis-server"]
fn fresh_token_is_used_without_server() {
    let mut server = RedisServer::start();
    let (_, clock, store, user) = fleet(&server);
    server.kill();
    for _ in 0..3 {
        clock.advance(MINUTE);
        assert_eq!(call(&user).unwrap(), 7);
    }
    assert!(store.commit(Deadline::after(MINUTE), &mut |_| Ok(vec![])).is_err());
    let error = user.log_out().unwrap_err();
    assert!(!error.needs_login(), "{error}");
    assert_eq!(call(&user).unwrap(), 7);
}

#[test]
#[ignore = "needs redis-server"]
fn paused_server_keeps_deadlines() {
    let server = RedisServer::start();
    let (_, _, store, user) = fleet(&server);
    server.run::<()>(&["CLIENT", "PAUSE", "3000", "ALL"]);
    let began = Instant::now();
    let error =
        store.commit(Deadline::after(Duration::from_millis(300)), &mut |_| Ok(vec![])).unwrap_err();
    // The promise is 50 ms; a machine that is busy takes more.
    assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(error.kind, StoreErrorKind::Busy);
    assert_eq!(call(&user).unwrap(), 7);
}

#[test]
#[ignore = "needs redis-server"]
fn flushed_server_is_rollback() {
    let server = RedisServer::start();
    let (_, _, store, user) = fleet(&server);
    server.run::<()>(&["FLUSHALL"]);
    let soon = || Deadline::after(MINUTE);
    let kinds = [
        store.recent(Some(0), soon()).unwrap_err().kind,
        store.users(soon()).unwrap_err().kind,
        store.commit(soon(), &mut |_| Ok(vec![])).unwrap_err().kind,
        store.lock_refresh(user.id(), soon()).unwrap_err().kind,
    ];
    assert_eq!(kinds, [StoreErrorKind::RolledBack; 4]);
    // The copy has tokens that the backend still accepts.
    assert_eq!(call(&user).unwrap(), 7);
}

/// Each machine refreshes for itself, once its token has expired, and only because the backend did not
/// rotate before.
#[test]
#[ignore = "needs redis-server"]
fn expired_token_is_refreshed_without_server() {
    for rotates in [false, true] {
        let mut server = RedisServer::start();
        let (script, clock, _, user) = fleet(&server);
        let now = clock.clone();
        script.on(REFRESH, move |_| {
            let token = jwt("a2", now.seconds(), now.seconds() + 1800);
            let mut body = json!({"access_token": token});
            if rotates {
                body["refresh_token"] = refresh("r2").into();
            }
            Ok(json_answer(201, &body))
        });
        clock.advance(MINUTE * 31);
        assert_eq!(call(&user).unwrap(), 7);
        server.kill();
        script.clear();
        // Due, and not expired: the old token serves.
        clock.advance(MINUTE * 27);
        assert_eq!(call(&user).unwrap(), 7);
        assert_eq!(script.count(REFRESH), 0);
        clock.advance(MINUTE * 10);
        let outcome = call(&user);
        assert_eq!(script.count(REFRESH), usize::from(!rotates));
        assert_eq!(outcome.is_ok(), !rotates, "{outcome:?}");
        assert!(outcome.err().is_none_or(|error| !error.needs_login()));
    }
}
