//! Concurrent anonymous logins: one user, in one session or several.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use keyfob::store::{MemoryStore, RefreshLock, Store};
use keyfob::transport::{Request, Transport};
use keyfob::{Credentials, Deadline, Event, StoreError, TransportErrorKind, UserId, UserState};
use serde_json::Value;
use support::store::{HookedStore, StoreHooks};
use support::*;

/// Creates an anonymous user at each log-in: `anon-1`, `anon-2`, and so on.
fn create_users(script: &Script) {
    let mut number = 0;
    script.on(ANONYMOUS, move |_| {
        number += 1;
        let [access, refresh] = [access(&format!("a{number}")), refresh(&format!("r{number}"))];
        Ok(json_answer(200, &login_body(&format!("anon-{number}"), &access, &refresh)))
    });
    let profile = |sent: &Sent| {
        let number = (1..99).find(|n| sent.bearer == Some(access(&format!("a{n}")))).unwrap();
        Ok(json_answer(200, &anonymous_profile_body(&format!("anon-{number}"))))
    };
    script.on(PROFILE, profile).reply(LOGOUT, 204, Value::Null);
}

/// Two sessions share a store, as two programs do, and the backend is slow.
#[test]
fn concurrent_logins_make_one_user() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), MemoryStore::new());
    create_users(&script);
    let relay = script.clone();
    let slow = move |request: &Request| {
        thread::sleep(Duration::from_millis(50));
        relay.send(request)
    };
    let sessions = [(); 2].map(|()| {
        builder(&script, &clock).transport(slow.clone()).store(store.clone()).open().unwrap()
    });
    let start = Arc::new(Barrier::new(16));
    let users = thread::scope(|scope| {
        let log_in = |number: usize| {
            let (session, start) = (&sessions[number % 2], Arc::clone(&start));
            scope.spawn(move || {
                start.wait();
                session.log_in(&Credentials::anonymous()).unwrap().id().clone()
            })
        };
        let threads: Vec<_> = (0..16).map(log_in).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(users.iter().all(|user| user.as_str() == "anon-1"), "{users:?}");
    assert_eq!((script.count(ANONYMOUS), script.count(LOGOUT)), (1, 0));
    assert_eq!(sessions[0].users().unwrap().len(), 1);
}

/// A store whose locks exclude nobody, such as one that other machines share and whose lease has
/// run out.
#[derive(Clone, Default)]
struct Unlocked;

impl StoreHooks for Unlocked {
    fn lock_refresh(
        &self,
        _: &dyn Store,
        _: &UserId,
        _: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        Ok(Some(RefreshLock::new(())))
    }
}

#[test]
fn second_login_returns_stored_user() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let store = HookedStore { store: MemoryStore::new(), hooks: Unlocked };
    create_users(&script);
    let second = builder(&script, &clock).store(store.clone()).open().unwrap();
    let (relay, faster, is_first) = (script.clone(), second.clone(), AtomicBool::new(true));
    let transport = move |request: &Request| {
        let response = relay.send(request);
        if request.url().ends_with("/login") && is_first.swap(false, Ordering::SeqCst) {
            // Another program makes a user while this response is in transit.
            faster.log_in(&Credentials::anonymous()).unwrap();
        }
        response
    };
    let first = builder(&script, &clock).transport(transport).store(store).open().unwrap();
    let events = first.events().unwrap();
    let user = first.log_in(&Credentials::anonymous()).unwrap();
    assert_eq!(user.id().as_str(), "anon-2");
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    assert_eq!(first.users().unwrap(), second.users().unwrap());
    assert_eq!(first.users().unwrap().len(), 1);
    let revoked: Vec<_> = script.sent().into_iter().filter(|sent| sent.route == LOGOUT).collect();
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0].bearer, Some(refresh("r1")), "the surplus session is revoked");
    first.shut_down();
    let received: Vec<_> = events.collect();
    let logged_in = received.iter().filter(|event| matches!(event, Event::LoggedIn { .. }));
    assert_eq!(logged_in.count(), 1, "{received:?}");
}

/// Neither response comes before both requests were sent.
#[test]
fn new_anonymous_users_do_not_wait() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    create_users(&script);
    let (relay, both) = (script.clone(), Barrier::new(2));
    let transport = move |request: &Request| {
        if request.url().ends_with("/login") {
            both.wait();
        }
        relay.send(request)
    };
    let session = builder(&script, &clock).transport(transport).open().unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| session.log_in(&Credentials::new_anonymous()).unwrap());
        }
    });
    assert_eq!(session.users().unwrap().len(), 2);
}

/// A waiting log-in whose predecessor fails tries itself.
#[test]
fn failed_login_is_not_shared() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).open().unwrap();
    script.fail(ANONYMOUS, TransportErrorKind::Connect);
    session.log_in(&Credentials::anonymous()).unwrap_err();
    create_users(&script);
    session.log_in(&Credentials::anonymous()).unwrap();
    // With the lock held elsewhere, a log-in ends with its deadline and sends nothing.
    let store = MemoryStore::new();
    let _held = store.lock_refresh(&UserId::new(""), Deadline::passed()).unwrap().unwrap();
    let hasty = builder(&script, &clock).store(store).deadline(Duration::from_millis(50));
    script.clear();
    let error = hasty.open().unwrap().log_in(&Credentials::anonymous()).unwrap_err();
    assert!(error.is_timeout() && !error.is_ambiguous(), "{error:?}");
    assert!(script.sent().is_empty(), "{script:?}");
}
