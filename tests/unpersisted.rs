//! Stores that cannot be written: a session continues with tokens in memory, and no refresh token
//! on disk is used up without a stored successor.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use keyfob::store::Store;
use keyfob::{Deadline, Error, Event, Session, StoreErrorKind, User, UserId, UserState};
use serde_json::{Value, json};
use support::store::FailingStore;
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Answers refreshes with a2, a3, and so on; with new refresh tokens r2, r3 if the backend rotates.
fn refreshes(script: &Script, clock: &ManualClock, rotates: bool) {
    let (clock, mut number) = (clock.clone(), 1);
    script.on(REFRESH, move |sent| {
        assert_eq!(sent.bearer, Some(refresh(&format!("r{}", if rotates { number } else { 1 }))));
        number += 1;
        let now = clock.seconds();
        let mut body = json!({"access_token": jwt(&format!("a{number}"), now, now + 1800)});
        if rotates {
            body["refresh_token"] = refresh(&format!("r{number}")).into();
        }
        Ok(json_answer(201, &body))
    });
}

fn logged_in_with(rotates: bool) -> (Script, ManualClock, FailingStore, Session, User) {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::default());
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(7));
    script.reply(LOGOUT, 204, Value::Null);
    refreshes(&script, &clock, rotates);
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    (script, clock, store, session, user)
}

fn stored(store: &FailingStore, field: &str) -> Value {
    let record = store.store.user(&UserId::new("ada"), Deadline::passed()).unwrap().unwrap();
    serde_json::to_value(&*record).unwrap()[field].clone()
}

fn call(user: &User) -> keyfob::Result<i64> {
    user.functions().call("f", ())
}

#[test]
fn calls_succeed_with_unwritable_store() {
    let (script, clock, store, session, user) = logged_in_with(false);
    user.refresh_access_token().unwrap();
    let before = stored(&store, "access_token");
    let mut events = session.events().unwrap();
    store.set_busy(true);
    for _ in 0..3 {
        clock.advance(MINUTE * 31);
        assert_eq!((call(&user).unwrap(), call(&user).unwrap()), (7, 7));
    }
    assert_eq!(script.count(REFRESH), 4);
    assert_eq!(stored(&store, "access_token"), before);
    let warning = events.next_timeout(MINUTE).unwrap();
    assert!(matches!(warning, Event::TokensUnpersisted { .. }), "{warning:?}");
    assert_eq!(events.try_next(), None, "one event until they are stored");
    store.set_busy(false);
    call(&user).unwrap();
    assert_eq!(stored(&store, "access_token"), json!(user.access_token().unwrap().expose()));
    let event = events.next_timeout(MINUTE).unwrap();
    assert!(matches!(event, Event::TokenRefreshed { .. }), "{event:?}");
}

/// It is not known before the first refresh whether the backend rotates.
#[test]
fn unwritable_store_protects_stored_token() {
    for refreshed_before in [false, true] {
        let (script, clock, store, _session, user) = logged_in_with(true);
        if refreshed_before {
            user.refresh_access_token().unwrap();
        }
        script.clear();
        store.set_busy(true);
        clock.advance(MINUTE * 27);
        assert_eq!(call(&user).unwrap(), 7, "a token that is due serves on");
        clock.advance(MINUTE * 4);
        let error = call(&user).unwrap_err();
        let Error::Store(inner) = &error else { panic!("{error:?}") };
        assert_eq!(inner.kind, StoreErrorKind::Busy);
        assert!(!error.needs_login() && error.to_string().contains("was not refreshed"), "{error}");
        assert_eq!(script.count(REFRESH), 0);
        store.set_busy(false);
        clock.advance(MINUTE);
        assert_eq!(call(&user).unwrap(), 7);
        assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    }
}

/// The store fails while the refresh is in transit: the token in it is used up already.
#[test]
fn unpersisted_rotated_token_is_refreshed() {
    let (script, clock, store, session, user) = logged_in_with(true);
    let (relay, failing) = (script.clone(), store.clone());
    let transport = move |request: &keyfob::transport::Request| {
        let response = keyfob::transport::Transport::send(&relay, request);
        failing.set_busy(true);
        response
    };
    let other = builder(&script, &clock).transport(transport).store(store.clone()).open().unwrap();
    let same = other.user(user.id()).unwrap().unwrap();
    for _ in 0..3 {
        clock.advance(MINUTE * 31);
        assert_eq!(call(&same).unwrap(), 7);
    }
    assert_eq!(stored(&store, "refresh_token"), refresh("r1"));
    store.set_busy(false);
    // The last handle of the session stores what is left.
    drop((same, other));
    assert_eq!(stored(&store, "refresh_token"), refresh("r4"));
    drop(session);
}

#[test]
fn any_commit_stores_unpersisted_tokens() {
    let (script, clock, store, session, ada) = logged_in_with(false);
    ada.refresh_access_token().unwrap();
    store.set_busy(true);
    clock.advance(MINUTE * 31);
    call(&ada).unwrap();
    store.set_busy(false);
    script.accept_login("bob", &access("b1"), &refresh("s1"));
    session.log_in(&password()).unwrap();
    assert_eq!(stored(&store, "access_token"), json!(ada.access_token().unwrap().expose()));
}
