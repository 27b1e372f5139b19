//! Several users on one device: who is current, who follows, and what a log-out leaves.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use keyfob::store::Store;
use keyfob::transport::Response;
use keyfob::{
    Credentials, Deadline, Error, Event, LocalState, LogoutReason, RemovalReason, Session,
    TransportErrorKind, User, UserId, UserState,
};
use serde_json::{Value, json};
use support::store::Awkward;
use support::*;

/// Logs users in one after the other; the last one is current.
fn with_users(names: &[&str]) -> (Script, Session, Vec<User>) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOGOUT, 204, Value::Null);
    let session = builder(&script, &clock).open().unwrap();
    let users = names.iter().map(|name| {
        script.lets_in(name, &access(&format!("a-{name}")), &refresh(&format!("r-{name}")));
        session.log_in(&password()).unwrap()
    });
    let users = users.collect();
    script.clear();
    (script, session, users)
}

fn current(session: &Session) -> Option<String> {
    session.current_user().unwrap().map(|user| user.id().to_string())
}

#[test]
fn users_are_listed_in_the_order_of_their_first_login_logged_out_ones_too() {
    let (script, session, users) = with_users(&["cleo", "ada", "bob"]);
    users[1].log_out().unwrap();
    script.lets_in("cleo", &access("a2"), &refresh("r2"));
    session.log_in(&password()).unwrap();
    assert_eq!(session.users().unwrap(), users);
    assert_eq!(users[1].state().unwrap(), UserState::LoggedOut);
}

#[test]
fn switching_needs_no_network_and_tells_once() {
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
fn only_a_logged_in_user_of_this_session_can_be_switched_to() {
    let (_, session, users) = with_users(&["ada", "bob"]);
    users[0].log_out().unwrap();
    let error = session.switch_user(&users[0]).unwrap_err();
    assert!(matches!(error, Error::LocalState(LocalState::NotLoggedIn(_))));
    assert_eq!(error.to_string(), "user ada is logged out");
    let (_, _, strangers) = with_users(&["eve"]);
    let error = session.switch_user(&strangers[0]).unwrap_err();
    assert!(matches!(error, Error::LocalState(LocalState::UnknownUser(_))));
    assert_eq!(current(&session), Some("bob".into()));
}

#[test]
fn the_user_who_was_used_last_follows_the_current_one() {
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
fn a_logout_forgets_the_tokens_and_keeps_the_rest() {
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
fn a_logout_stands_when_the_backend_cannot_be_told() {
    for kind in [TransportErrorKind::Connect, TransportErrorKind::Timeout] {
        let (script, session, users) = with_users(&["ada"]);
        script.fail(LOGOUT, kind);
        assert!(users[0].log_out().unwrap_err().is_retryable());
        assert_eq!(users[0].state().unwrap(), UserState::LoggedOut);
        assert_eq!(current(&session), None);
    }
}

#[test]
fn a_logout_of_a_server_session_that_is_gone_is_done() {
    let (script, _, users) = with_users(&["ada"]);
    script.reply(LOGOUT, 401, error_body("InvalidSession", "failed to find refresh token"));
    users[0].log_out().unwrap();
}

#[test]
fn an_anonymous_user_is_removed_at_logout() {
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
fn a_removed_user_is_gone_here_and_can_log_in_again() {
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
    script.lets_in("bob", &access("a2"), &refresh("r2"));
    assert_eq!(session.log_in(&password()).unwrap(), users[1]);
    assert_eq!(users[1].state().unwrap(), UserState::LoggedIn);
}

#[test]
fn two_users_never_use_each_others_tokens() {
    let (script, _, users) = with_users(&["ada", "bob"]);
    script.reply(CALL, 200, Value::Null);
    users[0].functions().call::<()>("f", ()).unwrap();
    users[1].functions().call::<()>("f", ()).unwrap();
    let bearers: Vec<_> = script.sent().into_iter().map(|sent| sent.bearer.unwrap()).collect();
    assert_eq!(bearers, [access("a-ada"), access("a-bob")]);
}

#[test]
fn a_profile_is_fetched_again_on_request_and_tells_what_changed() {
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
fn a_user_is_found_by_id_and_keeps_its_session_alive() {
    let (_, session, users) = with_users(&["ada"]);
    assert_eq!(session.user(&UserId::new("ada")).unwrap(), Some(users[0].clone()));
    assert_eq!(session.user(&UserId::new("nobody")).unwrap(), None);
    drop(session);
    assert_eq!(users[0].state().unwrap(), UserState::LoggedIn);
}

#[test]
fn a_logout_that_is_refused_for_good_holds_up_no_other() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), Awkward::sealed());
    let session = builder(&script, &clock).store(store).open().unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    for (name, refresh_token) in [("ada", "r1"), ("bob", "s1")] {
        script.lets_in(name, &access(name), &refresh(refresh_token));
        session.log_in(&password()).unwrap().log_out().unwrap();
    }
    script.lets_in("cay", &access("c1"), &refresh("t1"));
    script.clear();
    // A gateway refuses them, and is not the backend.
    script.on(LOGOUT, |_| Ok(Response::new(401, "")));
    let cay = session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOGOUT), 2, "{:?}", script.routes());
    script.reply(REFRESH, 201, serde_json::json!({"access_token": access("c2")}));
    cay.refresh_access_token().unwrap();
    assert_eq!(script.count(LOGOUT), 2, "nobody is asked again");
}

#[test]
fn a_sealed_store_keeps_a_logout_until_the_backend_can_be_told() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), Awkward::sealed());
    let open = || builder(&script, &clock).store(store.clone()).open().unwrap();
    script.lets_in("ada", &access("a1"), &refresh("r1"));
    let session = open();
    let ada = session.log_in(&password()).unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    ada.log_out().unwrap();
    assert_eq!(ada.state().unwrap(), UserState::LoggedOut);
    assert!(ada.access_token().unwrap_err().needs_login());
    // The program is closed and opened again; somebody else logs in; the backend is still away.
    drop(session);
    let session = open();
    script.lets_in("bob", &access("b1"), &refresh("s1"));
    let bob = session.log_in(&password()).unwrap();
    script.clear();
    script.reply(LOGOUT, 204, Value::Null);
    script.reply(REFRESH, 201, serde_json::json!({"access_token": access("b2")}));
    bob.refresh_access_token().unwrap();
    assert_eq!(script.routes(), [REFRESH, LOGOUT]);
    assert_eq!(script.sent()[1].bearer, Some(refresh("r1")));
    bob.refresh_access_token().unwrap_or_else(|_| bob.access_token().unwrap());
    assert_eq!(script.count(LOGOUT), 1, "it is told once");
    assert_eq!(ada.state().unwrap(), UserState::LoggedOut);
    // What trying again cannot help is an error, and nothing is kept.
    script.reply(LOGOUT, 400, Value::Null);
    assert_eq!(bob.log_out().unwrap_err().status(), Some(400));
}

#[test]
fn the_token_of_a_logout_is_kept_until_the_backend_was_told() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), Awkward::sealed());
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    script.lets_in("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let ended = move |store: &Awkward| {
        let record = store.store.user(&UserId::new("ada"), Deadline::passed()).unwrap().unwrap();
        (record.is_logged_in(), record.ended.is_some())
    };
    let (seen, watched) = (Arc::clone(&kept), store.clone());
    script.on(LOGOUT, move |_| {
        // What another process finds if this one ends here.
        seen.lock().unwrap().push(ended(&watched));
        Ok(Response::new(204, ""))
    });
    ada.log_out().unwrap();
    assert_eq!(*kept.lock().unwrap(), [(false, true)]);
    assert_eq!(ended(&store), (false, false), "told once, and not again");
}

#[test]
fn a_logout_stands_although_the_store_is_busy_when_the_backend_was_not_told() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), Awkward::sealed());
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    script.lets_in("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    let busy = store.clone();
    script.on(LOGOUT, move |_| {
        busy.be_busy(true);
        Err(TransportErrorKind::Timeout)
    });
    ada.log_out().unwrap();
    store.be_busy(false);
    script.reply(LOGOUT, 204, Value::Null).lets_in("bob", &access("b1"), &refresh("rb"));
    script.clear();
    session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOGOUT), 1);
}

#[test]
fn removing_a_user_tells_the_backend_of_a_logout_that_it_does_not_know_of() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), Awkward::sealed());
    let session = builder(&script, &clock).store(store).open().unwrap();
    script.lets_in("ada", &access("a1"), &refresh("r1"));
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
fn who_asks_for_a_token_does_not_wait_until_the_backend_was_told_of_logouts() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), Awkward::sealed());
    let session = builder(&script, &clock).store(store).open().unwrap();
    script.lets_in("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    script.lets_in("bob", &access("b1"), &refresh("rb"));
    let bob = session.log_in(&password()).unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    ada.log_out().unwrap();
    let ((is_told, telling), (answer, answers)) = (mpsc::channel(), mpsc::channel::<()>());
    script.on(LOGOUT, move |_| {
        is_told.send(()).unwrap();
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
        telling.recv().unwrap();
        let hurried = session.with_deadline(Duration::from_secs(2));
        let refreshed = hurried.user(bob.id()).unwrap().unwrap().refresh_access_token();
        answer.send(()).unwrap();
        refreshed.unwrap();
    });
}

#[test]
fn a_deletion_or_a_link_that_the_store_could_not_keep_is_ambiguous() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), Awkward::default());
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    script.lets_in("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    let busy = |status, body: Value| {
        let store = store.clone();
        move |_: &Sent| {
            store.be_busy(true);
            Ok(json_answer(status, &body))
        }
    };
    let link = format!("{LOGIN}?link=true");
    script.on(&link, busy(200, json!({"access_token": access("a2"), "user_id": "ada"})));
    let linking = ada.link(&password()).unwrap_err();
    store.be_busy(false);
    script.on("DELETE /auth/delete", busy(204, Value::Null));
    let deleting = session.delete_user(&ada).unwrap_err();
    store.be_busy(false);
    for error in [linking, deleting] {
        assert!(matches!(error, Error::Store(_)) && error.is_ambiguous(), "{error:?}");
        assert!(error.to_string().contains("the backend had done what was asked"), "{error}");
    }
    assert_eq!(ada.state().unwrap(), UserState::LoggedIn, "nothing has changed here");
    let ended = session.clone();
    script.on("DELETE /auth/delete", move |_| {
        ended.shut_down();
        store.be_busy(true);
        Ok(Response::new(204, ""))
    });
    let error = session.delete_user(&ada).unwrap_err();
    assert!(matches!(error, Error::ShutDown { ambiguous: true }), "{error:?}");
}
