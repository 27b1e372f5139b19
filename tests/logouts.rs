//! Pending revocations in an encrypted store: if the backend was unreachable at logout, each
//! session is revoked later, without effects on other calls.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use keyfob::store::Store;
use keyfob::transport::{Method, Request, Response, Transport};
use keyfob::{Deadline, Session, TransportError, TransportErrorKind, User, UserId, UserState};
use serde_json::{Value, json};
use support::store::FailingStore;
use support::*;

#[test]
fn definitely_refused_revocation_delays_no_other() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::encrypted());
    let session = builder(&script, &clock).store(store).open().unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    for (name, refresh_token) in [("ada", "r1"), ("bob", "s1")] {
        script.accept_login(name, &access(name), &refresh(refresh_token));
        session.log_in(&password()).unwrap().log_out().unwrap();
    }
    script.accept_login("cay", &access("c1"), &refresh("t1"));
    script.clear();
    // A gateway refuses them, and is not the backend.
    script.on(LOGOUT, |_| Ok(Response::new(401, "")));
    let cay = session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOGOUT), 2, "{:?}", script.routes());
    script.reply(REFRESH, 201, json!({"access_token": access("c2")}));
    cay.refresh_access_token().unwrap();
    assert_eq!(script.count(LOGOUT), 2, "nobody is asked again");
}

#[test]
fn encrypted_store_keeps_pending_revocation() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::encrypted());
    let open = || builder(&script, &clock).store(store.clone()).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = open();
    let ada = session.log_in(&password()).unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    ada.log_out().unwrap();
    assert_eq!(ada.state().unwrap(), UserState::LoggedOut);
    assert!(ada.access_token().unwrap_err().needs_login());
    // The program is closed and opened again; somebody else logs in; the backend is still away.
    drop(session);
    let session = open();
    script.accept_login("bob", &access("b1"), &refresh("s1"));
    let bob = session.log_in(&password()).unwrap();
    script.clear();
    script.reply(LOGOUT, 204, Value::Null);
    script.reply(REFRESH, 201, json!({"access_token": access("b2")}));
    bob.refresh_access_token().unwrap();
    assert_eq!(script.routes(), [REFRESH, LOGOUT]);
    assert_eq!(script.sent()[1].bearer, Some(refresh("r1")));
    bob.refresh_access_token().unwrap_or_else(|_| bob.access_token().unwrap());
    assert_eq!(script.count(LOGOUT), 1, "it is revoked once");
    assert_eq!(ada.state().unwrap(), UserState::LoggedOut);
    // What trying again cannot help is an error, and nothing is kept.
    script.reply(LOGOUT, 400, Value::Null);
    assert_eq!(bob.log_out().unwrap_err().status(), Some(400));
}

#[test]
fn pending_token_is_stored_until_revoked() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::encrypted());
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let ended = move |store: &FailingStore| {
        let record = store.store.user(&UserId::new("ada"), Deadline::passed()).unwrap().unwrap();
        (record.is_logged_in(), record.pending_revocation.is_some())
    };
    let (seen, watched) = (Arc::clone(&kept), store.clone());
    script.on(LOGOUT, move |_| {
        // What another process finds if this one ends here.
        seen.lock().unwrap().push(ended(&watched));
        Ok(Response::new(204, ""))
    });
    ada.log_out().unwrap();
    assert_eq!(*kept.lock().unwrap(), [(false, true)]);
    assert_eq!(ended(&store), (false, false), "revoked once, and not again");
}

#[test]
fn logout_succeeds_when_store_is_busy_afterwards() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::encrypted());
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    let busy = store.clone();
    script.on(LOGOUT, move |_| {
        busy.set_busy(true);
        Err(TransportErrorKind::Timeout)
    });
    ada.log_out().unwrap();
    store.set_busy(false);
    script.reply(LOGOUT, 204, Value::Null).accept_login("bob", &access("b1"), &refresh("rb"));
    script.clear();
    session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOGOUT), 1);
}

#[test]
fn removal_revokes_pending_logout() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::encrypted());
    let session = builder(&script, &clock).store(store).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    ada.log_out().unwrap();
    script.reply(LOGOUT, 204, Value::Null);
    script.clear();
    session.remove_user(&ada).unwrap();
    assert_eq!(script.sent()[0].bearer, Some(refresh("r1")));
    assert_eq!(script.routes(), [LOGOUT]);
}

#[test]
fn token_call_does_not_wait_for_revocations() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::encrypted());
    let session = builder(&script, &clock).store(store).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    script.accept_login("bob", &access("b1"), &refresh("rb"));
    let bob = session.log_in(&password()).unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    ada.log_out().unwrap();
    let ((sender, is_sent), (answer, answers)) = (mpsc::channel(), mpsc::channel::<()>());
    script.on(LOGOUT, move |_| {
        sender.send(()).unwrap();
        answers.recv().unwrap();
        Ok(Response::new(204, ""))
    });
    let now = clock.clone();
    script.on(REFRESH, move |_| {
        let token = jwt("b2", now.seconds(), now.seconds() + 1800);
        Ok(json_answer(201, &json!({"access_token": token})))
    });
    thread::scope(|scope| {
        scope.spawn(|| bob.refresh_access_token().unwrap());
        is_sent.recv().unwrap();
        let hurried = session.with_deadline(Duration::from_secs(2));
        let refreshed = hurried.user(bob.id()).unwrap().unwrap().refresh_access_token();
        answer.send(()).unwrap();
        refreshed.unwrap();
    });
}

/// Logs users in and out, in an encrypted store, while the backend cannot be notified.
fn with_pending_revocations(names: &[&str]) -> (Script, ManualClock, Session, Vec<User>) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).store(FailingStore::encrypted()).open().unwrap();
    script.fail(LOGOUT, TransportErrorKind::Timeout);
    let users = names.iter().map(|name| {
        script.accept_login(name, &access(name), &refresh(name));
        let user = session.log_in(&password()).unwrap();
        user.log_out().unwrap();
        user
    });
    let users = users.collect();
    (script, clock, session, users)
}

/// The refresh tokens that the backend was asked to revoke.
fn revoked(script: &Script) -> Vec<String> {
    let revoked = script.sent().into_iter().filter(|sent| sent.route == LOGOUT);
    revoked.map(|sent| sent.bearer.unwrap()).collect()
}

#[test]
fn failed_revocation_delays_no_other() {
    let (script, _, session, _) = with_pending_revocations(&["ada", "bob"]);
    script.clear();
    script.on(LOGOUT, |sent| {
        Ok(Response::new(if sent.bearer == Some(refresh("ada")) { 500 } else { 204 }, ""))
    });
    script.accept_login("cay", &access("c1"), &refresh("cay"));
    let cay = session.log_in(&password()).unwrap();
    assert_eq!(revoked(&script), [refresh("ada"), refresh("bob")]);
    script.clear();
    script.reply(LOGOUT, 204, Value::Null);
    script.reply(REFRESH, 201, json!({"access_token": access("c2")}));
    cay.refresh_access_token().unwrap();
    assert_eq!(revoked(&script), [refresh("ada")], "it is tried again, and nothing else is");
}

#[test]
fn earlier_logout_is_revoked_or_reported() {
    let (script, _, session, users) = with_pending_revocations(&["ada"]);
    script.accept_login("ada", &access("a2"), &refresh("second"));
    session.log_in(&password()).unwrap();
    script.clear();
    assert!(users[0].log_out().unwrap_err().is_retryable(), "only one of the two can be kept");
    assert_eq!(revoked(&script), [refresh("ada"), refresh("second")]);
    script.clear();
    script.reply(LOGOUT, 204, Value::Null).accept_login("bob", &access("b1"), &refresh("bob"));
    session.log_in(&password()).unwrap();
    assert_eq!(revoked(&script), [refresh("second")]);
}

#[test]
fn revocations_use_small_share_of_deadline() {
    let (script, clock, (sender, timeouts)) =
        (Script::new(), ManualClock::at(START), mpsc::channel());
    let relay = script.clone();
    // Accepts each request and never responds.
    let transport = move |request: &Request| match request.method() {
        Method::Delete => {
            sender.send(request.deadline().remaining()).unwrap();
            Err(TransportError::new(TransportErrorKind::Timeout, URL))
        }
        _ => relay.send(request),
    };
    let session = builder(&script, &clock).transport(transport).store(FailingStore::encrypted());
    let session = session.open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("ada"));
    session.log_in(&password()).unwrap().log_out().unwrap();
    assert!(timeouts.recv().unwrap() > Duration::from_secs(10), "it has all the time there is");
    script.accept_login("bob", &access("b1"), &refresh("bob")).reply(CALL, 200, json!(7));
    let bob = session.log_in(&password()).unwrap();
    assert!(timeouts.recv().unwrap() <= Duration::from_secs(5));
    let now = clock.clone();
    script.on(REFRESH, move |_| {
        let token = jwt("b2", now.seconds(), now.seconds() + 1800);
        Ok(json_answer(201, &json!({"access_token": token})))
    });
    let hurried = session.with_deadline(Duration::from_secs(4)).user(bob.id()).unwrap().unwrap();
    clock.advance(Duration::from_secs(1860));
    assert_eq!(hurried.functions().call::<i64>("f", ()).unwrap(), 7);
    assert!(timeouts.recv().unwrap() <= Duration::from_secs(1));
}

/// A logout before the position where the previous scan stopped is found too.
#[test]
fn revocation_scan_wraps_around() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).store(FailingStore::encrypted()).open().unwrap();
    script.fail(LOGOUT, TransportErrorKind::Timeout);
    let users: Vec<_> = ["ada", "bob", "cay"]
        .map(|name| {
            script.accept_login(name, &access(name), &refresh(name));
            session.log_in(&password()).unwrap()
        })
        .into();
    let mut number = 0;
    script.on(REFRESH, move |_| {
        number += 1;
        Ok(json_answer(201, &json!({"access_token": access(&format!("c{number}"))})))
    });
    users[1].log_out().unwrap();
    // It comes to the second user, and no further.
    users[2].refresh_access_token().unwrap();
    users[0].log_out().unwrap();
    script.reply(LOGOUT, 204, Value::Null);
    script.clear();
    users[2].refresh_access_token().unwrap();
    assert_eq!(revoked(&script), [refresh("ada"), refresh("bob")]);
}

#[test]
fn repeated_logout_retries_revocation() {
    let (script, _, _session, users) = with_pending_revocations(&["ada"]);
    script.clear();
    users[0].log_out().unwrap();
    assert_eq!(revoked(&script), [refresh("ada")]);
    script.reply(LOGOUT, 204, Value::Null);
    users[0].log_out().unwrap();
    assert_eq!(revoked(&script), [refresh("ada"), refresh("ada")]);
    users[0].log_out().unwrap();
    assert_eq!(revoked(&script).len(), 2, "it was revoked");
}

#[test]
fn revocation_spares_login_with_same_token() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::encrypted());
    let session = builder(&script, &clock).store(store).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script.fail(LOGOUT, TransportErrorKind::Connect);
    session.log_in(&password()).unwrap().log_out().unwrap();
    script.reply(LOGOUT, 204, json!(null));
    script.clear();
    session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOGOUT), 0, "{:?}", script.routes());
}

#[cfg(feature = "encryption")]
#[test]
fn later_session_sends_pending_revocation() {
    let (dir, script) = (Dir::new(), Script::new());
    let open = || {
        let session = Session::builder(APP, URL).transport(script.clone()).data_dir(dir.path());
        let session = session.clock(ManualClock::at(START)).deadline(Duration::from_secs(30));
        session.encryption(keyfob::EncryptionKey::from_bytes([7; 32])).open().unwrap()
    };
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script.fail(LOGOUT, TransportErrorKind::Connect);
    open().log_in(&password()).unwrap().log_out().unwrap();
    script.accept_login("ada", &access("a2"), &refresh("r2"));
    script.reply(LOGOUT, 204, Value::Null);
    script.clear();
    open().log_in(&password()).unwrap();
    assert_eq!(script.sent().last().unwrap().bearer, Some(refresh("r1")));
    assert_eq!(script.count(LOGOUT), 1);
}
