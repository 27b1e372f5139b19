//! Several users on one device: the current user, its successor, and the state after a logout.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::yield_now;

use keyfob::store::MemoryStore;
use keyfob::{
    Credentials, Error, Event, LocalState, LogoutReason, RemovalReason, Session,
    TransportErrorKind, User, UserId, UserState,
};
use serde_json::{Value, json};
use support::*;

/// Logs users in one after the other; the last one is current.
fn with_users(names: &[&str]) -> (Script, Session, Vec<User>) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOGOUT, 204, Value::Null);
    let session = builder(&script, &clock).open().unwrap();
    let users = names.iter().map(|name| {
        script.accept_login(name, &access(&format!("a-{name}")), &refresh(&format!("r-{name}")));
        session.log_in(&password()).unwrap()
    });
    let users = users.collect();
    script.clear();
    (script, session, users)
}

fn current(session: &Session) -> Option<String> {
    session.current_user().unwrap().map(|user| user.id().to_string())
}

/// Logged-out users are listed too.
#[test]
fn users_are_listed_by_first_login() {
    let (script, session, users) = with_users(&["cleo", "ada", "bob"]);
    users[1].log_out().unwrap();
    script.accept_login("cleo", &access("a2"), &refresh("r2"));
    session.log_in(&password()).unwrap();
    assert_eq!(session.users().unwrap(), users);
    assert_eq!(users[1].state().unwrap(), UserState::LoggedOut);
}

#[test]
fn switching_needs_no_network_and_emits_once() {
    let (script, session, users) = with_users(&["ada", "bob"]);
    let mut events = session.events().unwrap();
    session.switch_user(&users[0]).unwrap();
    session.switch_user(&users[0]).unwrap();
    assert_eq!(current(&session), Some("ada".into()));
    assert_eq!(script.routes(), Vec::<String>::new());
    users[1].log_out().unwrap();
    let id = |user: &User| user.id().clone();
    assert_eq!(
        events.next(),
        Some(Event::CurrentUserChanged { from: Some(id(&users[1])), to: Some(id(&users[0])) })
    );
    assert_eq!(
        events.next(),
        Some(Event::LoggedOut { user: id(&users[1]), reason: LogoutReason::Requested })
    );
}

#[test]
fn switch_needs_logged_in_user_of_session() {
    let (_, session, users) = with_users(&["ada", "bob"]);
    users[0].log_out().unwrap();
    let error = session.switch_user(&users[0]).unwrap_err();
    assert!(matches!(error, Error::LocalState(LocalState::NotLoggedIn(_))));
    assert_eq!(error.to_string(), "user ada is logged out, log in again");
    let (_, _, strangers) = with_users(&["eve"]);
    let error = session.switch_user(&strangers[0]).unwrap_err();
    assert!(matches!(error, Error::LocalState(LocalState::UnknownUser(_))));
    assert_eq!(current(&session), Some("bob".into()));
}

#[test]
fn most_recently_used_user_becomes_current() {
    let (_, session, users) = with_users(&["ada", "bob", "cleo", "dan"]);
    session.switch_user(&users[0]).unwrap();
    session.switch_user(&users[2]).unwrap();
    users[2].log_out().unwrap();
    assert_eq!(current(&session), Some("ada".into()));
    users[1].log_out().unwrap();
    assert_eq!(current(&session), Some("ada".into()), "somebody else's log-out changes nothing");
    session.remove_user(&users[0]).unwrap();
    assert_eq!(current(&session), Some("dan".into()));
    users[3].log_out().unwrap();
    assert_eq!(current(&session), None);
}

#[test]
fn logout_removes_only_tokens() {
    let (script, session, users) = with_users(&["ada"]);
    users[0].log_out().unwrap();
    assert_eq!(script.routes(), [LOGOUT]);
    assert_eq!(script.sent()[0].bearer, Some(refresh("r-ada")));
    assert_eq!(script.sent()[0].body, None);
    assert_eq!(users[0].state().unwrap(), UserState::LoggedOut);
    assert_eq!(users[0].profile().unwrap().email(), Some("ada@example.org"));
    assert_eq!(users[0].identities().unwrap().len(), 1);
    let errors = [
        users[0].access_token().unwrap_err(),
        users[0].valid_access_token().unwrap_err(),
        users[0].functions().call::<()>("f", ()).unwrap_err(),
        users[0].custom_data::<Value>().unwrap_err(),
    ];
    for error in errors {
        assert!(error.needs_login(), "{error}");
    }
    users[0].log_out().unwrap();
    assert_eq!(script.routes(), [LOGOUT], "who is logged out is not logged out again");
    assert_eq!(session.users().unwrap(), users);
}

#[test]
fn logout_succeeds_without_backend() {
    for kind in [TransportErrorKind::Connect, TransportErrorKind::Timeout] {
        let (script, session, users) = with_users(&["ada"]);
        script.fail(LOGOUT, kind);
        assert!(users[0].log_out().unwrap_err().is_retryable());
        assert_eq!(users[0].state().unwrap(), UserState::LoggedOut);
        assert_eq!(current(&session), None);
    }
}

#[test]
fn logout_of_ended_server_session_succeeds() {
    let (script, _, users) = with_users(&["ada"]);
    script.reply(LOGOUT, 401, error_body("InvalidSession", "failed to find refresh token"));
    users[0].log_out().unwrap();
}

#[test]
fn anonymous_user_is_removed_at_logout() {
    let (script, session, _) = with_users(&[]);
    script.reply(ANONYMOUS, 200, login_body("anon-1", &access("a1"), &refresh("r1")));
    script.reply(PROFILE, 200, anonymous_profile_body("anon-1"));
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    let mut events = user.changes().unwrap();
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::Removed);
    assert_eq!(session.users().unwrap(), []);
    let reason = RemovalReason::AnonymousLogout;
    assert_eq!(events.next(), Some(Event::Removed { user: user.id().clone(), reason }));
}

#[test]
fn removed_user_can_log_in_again() {
    let (script, session, users) = with_users(&["ada", "bob"]);
    session.remove_user(&users[1]).unwrap();
    assert_eq!(script.routes(), [LOGOUT]);
    assert_eq!(users[1].state().unwrap(), UserState::Removed);
    assert_eq!(current(&session), Some("ada".into()));
    for error in [
        users[1].log_out().unwrap_err(),
        users[1].profile().unwrap_err(),
        session.remove_user(&users[1]).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "user bob is not known here");
    }
    users[0].log_out().unwrap();
    script.clear();
    session.remove_user(&users[0]).unwrap();
    assert_eq!(script.routes(), Vec::<String>::new(), "nothing to end on the backend");
    script.accept_login("bob", &access("a2"), &refresh("r2"));
    assert_eq!(session.log_in(&password()).unwrap(), users[1]);
    assert_eq!(users[1].state().unwrap(), UserState::LoggedIn);
}

#[test]
fn users_never_share_tokens() {
    let (script, _, users) = with_users(&["ada", "bob"]);
    script.reply(CALL, 200, Value::Null);
    users[0].functions().call::<()>("f", ()).unwrap();
    users[1].functions().call::<()>("f", ()).unwrap();
    let bearers: Vec<_> = script.sent().into_iter().map(|sent| sent.bearer.unwrap()).collect();
    assert_eq!(bearers, [access("a-ada"), access("a-bob")]);
}

#[test]
fn profile_refresh_emits_changes() {
    let (script, _, users) = with_users(&["ada"]);
    let mut events = users[0].changes().unwrap();
    users[0].refresh_profile().unwrap();
    let mut body = profile_body("ada");
    body["data"]["firstName"] = "Ada".into();
    script.reply(PROFILE, 200, body);
    assert_eq!(users[0].refresh_profile().unwrap().first_name(), Some("Ada"));
    assert_eq!(users[0].profile().unwrap().first_name(), Some("Ada"));
    let id = users[0].id().clone();
    assert_eq!(events.next(), Some(Event::ProfileChanged { user: id }), "and only once");
}

#[test]
fn user_is_found_by_id_and_keeps_session() {
    let (_, session, users) = with_users(&["ada"]);
    assert_eq!(session.user(&UserId::new("ada")).unwrap(), Some(users[0].clone()));
    assert_eq!(session.user(&UserId::new("nobody")).unwrap(), None);
    drop(session);
    assert_eq!(users[0].state().unwrap(), UserState::LoggedIn);
}

#[test]
fn newer_of_concurrent_profiles_is_stored() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (first_is_stored, wait) = mpsc::channel::<()>();
    let (wait, fetches) = (Mutex::new(wait), asked.clone());
    let transport = move |request: &keyfob::transport::Request| {
        assert!(request.url().ends_with("/auth/profile"), "{}", request.url());
        let turn = fetches.fetch_add(1, Ordering::SeqCst);
        match turn {
            // On its way until the second one has set out.
            0 => (0..).take_while(|_| fetches.load(Ordering::SeqCst) < 2).for_each(|_| yield_now()),
            1 => wait.lock().unwrap().recv().unwrap(),
            _ => {}
        }
        let body = json!({"identities": [], "data": {"v": turn.min(1)}});
        Ok(json_answer(200, &body))
    };
    let (boot, clock, store) = (Script::new(), ManualClock::at(START), MemoryStore::new());
    boot.accept_login("ada", &access("a1"), &refresh("r1"));
    builder(&boot, &clock).store(store.clone()).open().unwrap().log_in(&password()).unwrap();
    let session = Session::builder(APP, URL).transport(transport).clock(clock).store(store);
    let user = session.location_lookup(false).open().unwrap().current_user().unwrap().unwrap();
    let first = user.clone();
    let first = std::thread::spawn(move || {
        first.refresh_profile().unwrap();
        first_is_stored.send(()).unwrap();
    });
    while asked.load(Ordering::SeqCst) == 0 {
        yield_now();
    }
    assert_eq!(user.refresh_profile().unwrap().data()["v"], 1);
    first.join().unwrap();
    assert_eq!(user.profile().unwrap().data()["v"], 1, "it was returned, and is stored");
}
