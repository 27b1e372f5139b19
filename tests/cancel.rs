//! Cancelled calls: a call that another thread cancels ends at once in every wait, without effects
//! on other calls. The deadlines are so long that a test fails if a wait is not interrupted.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::{MemoryStore, Store};
use keyfob::{
    ApiKeyId, CancelToken, Credentials, Error, Result, Session, TransportErrorKind, User, UserState,
};
use serde_json::json;
use support::interrupt::*;
use support::*;

/// Returns whether the cancelled call may have taken effect.
fn cancelled<T: std::fmt::Debug>(outcome: Result<T>) -> bool {
    let error = outcome.expect_err("it was cancelled");
    let Error::Cancelled { ambiguous } = error else { panic!("{error:?}") };
    assert_eq!(error.is_ambiguous(), ambiguous);
    assert!(!error.is_retryable() && !error.needs_login() && !error.is_timeout());
    assert_eq!(error.status(), None);
    ambiguous
}

/// Cancels a call, and returns its result.
fn cancel<T>(token: &CancelToken, outcome: &Receiver<T>) -> T {
    let began = Instant::now();
    token.cancel();
    let outcome = at_once(outcome);
    println!("ended after {:?}", began.elapsed());
    outcome
}

/// Lets a call run on another thread into whatever holds it up, cancels it, and expects it to end.
/// Either may be first.
fn interrupted<T: std::fmt::Debug + Send + 'static>(
    token: &CancelToken,
    yields: usize,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) {
    let outcome = waiting(yields, call);
    assert!(!cancelled(cancel(token, &outcome)));
}

/// The same user, with a handle whose calls a token cancels.
fn with_cancel(user: &User, token: &CancelToken) -> User {
    user.session().with_cancel(token).user(user.id()).unwrap().unwrap()
}

#[test]
fn call_with_cancelled_token_sends_nothing() {
    let (script, _, session, user) = logged_in();
    let token = CancelToken::new();
    let cancellable = session.with_cancel(&token);
    let mut listing = cancellable.users_iter();
    let anna = with_cancel(&user, &token);
    token.cancel();
    let again = anna.session().with_deadline(FOR_EVER);
    cancelled(listing.next().unwrap());
    assert!(listing.next().is_none());
    for session in [&cancellable, &again, anna.session()] {
        cancelled(session.log_in(&password()));
        cancelled(session.log_in(&Credentials::anonymous()));
        cancelled(session.current_user());
        cancelled(session.users());
        cancelled(session.user(user.id()));
        cancelled(session.switch_user(&user));
        cancelled(session.remove_user(&user));
        cancelled(session.delete_user(&user));
        cancelled(session.events());
        cancelled(session.subscribe(|_| {}));
        cancelled(session.email_password().register("eve@example.org", "pw"));
        cancelled(session.retry().run(|session| session.current_user()));
    }
    cancelled(anna.state());
    cancelled(anna.profile());
    cancelled(anna.refresh_profile());
    cancelled(anna.valid_access_token());
    cancelled(anna.refresh_access_token());
    cancelled(anna.link(&password()));
    cancelled(anna.log_out());
    cancelled(anna.changes());
    cancelled(anna.functions().call::<()>("f", ()));
    cancelled(anna.api_keys().get(&ApiKeyId::new("k")));
    assert!(script.sent().is_empty(), "{script:?}");
    // The session and its other handles go on.
    script.reply(CALL, 200, json!(7));
    assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 7);
    let fresh = anna.session().with_cancel(&CancelToken::new());
    assert_eq!(fresh.current_user().unwrap(), Some(user));
}

#[test]
fn wait_for_response_is_cancelled() {
    for (call, ambiguous) in [
        ((|session| session.log_in(&password()).map(drop)) as fn(Session) -> Result<()>, true),
        (|session| session.current_user()?.unwrap().functions().call("f", ()), true),
        (|session| session.current_user()?.unwrap().refresh_profile().map(drop), false),
        (|session| session.current_user()?.unwrap().refresh_access_token().map(drop), false),
    ] {
        let (session, comes) = at_black_hole();
        let token = CancelToken::new();
        let (caller, neighbour) = (session.with_cancel(&token), session.clone());
        let outcome = apart(move || call(caller));
        let _connection = comes.recv().unwrap();
        let other = apart(move || neighbour.log_in(&Credentials::api_key("key")));
        let mut connection = comes.recv().unwrap();
        assert_eq!(cancelled(cancel(&token, &outcome)), ambiguous);
        // The request of another thread is not cut.
        let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}";
        connection.write_all(answer).unwrap();
        let error = at_once(&other).unwrap_err();
        assert_eq!(error.status(), Some(401));
    }
}

#[test]
fn half_response_is_cancelled() {
    for part in [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\n\r\n12",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n",
    ] {
        let (session, comes) = at_black_hole();
        let token = CancelToken::new();
        let caller = session.with_cancel(&token);
        let outcome =
            apart(move || caller.current_user()?.unwrap().functions().call::<i64>("f", ()));
        let mut connection = comes.recv().unwrap();
        connection.write_all(part.as_bytes()).unwrap();
        assert!(cancelled(cancel(&token, &outcome)), "the function may have run");
    }
}

#[test]
fn large_unread_request_is_cancelled() {
    let (session, comes) = at_black_hole();
    let token = CancelToken::new();
    let caller = session.with_cancel(&token);
    let text = "x".repeat(32 * 1024 * 1024);
    let outcome =
        apart(move || caller.current_user()?.unwrap().functions().call::<()>("f", (text,)));
    let _connection = comes.recv().unwrap();
    (0..1000).for_each(|_| thread::yield_now());
    assert!(cancelled(cancel(&token, &outcome)));
}

/// Waits until the store has the rotated refresh token.
fn wait_for_rotation(store: &impl Store, user: &User, clock: &ManualClock) {
    let (until, now) = (soon(), clock.seconds());
    loop {
        let stored = store.user(user.id(), soon()).unwrap().unwrap();
        let stored = serde_json::to_value(&*stored).unwrap();
        if stored["refresh_token"] == jwt("r2", now, now + 5_000_000) {
            return;
        }
        assert!(!until.has_passed(), "{stored}");
        thread::yield_now();
    }
}

#[test]
fn cancelled_leader_leaves_refresh_to_followers() {
    let store = MemoryStore::new();
    let (script, clock, session, user) = expired(store.clone());
    let (is_sent, answer) = slow_rotation(&script, &clock);
    let token = CancelToken::new();
    let leader = with_cancel(&user, &token);
    let leads = apart(move || leader.valid_access_token());
    is_sent.recv().unwrap();
    let followers: Vec<_> = (0..8)
        .map(|_| {
            let user = user.clone();
            apart(move || user.valid_access_token())
        })
        .collect();
    assert!(!cancelled(cancel(&token, &leads)));
    answer();
    for follower in followers {
        at_once(&follower).unwrap();
    }
    wait_for_rotation(&store, &user, &clock);
    assert_eq!(script.count(REFRESH), 1);
    assert_eq!(session.current_user().unwrap().unwrap().state().unwrap(), UserState::LoggedIn);
}

#[test]
fn cancelled_refresh_is_stored_without_followers() {
    for early in [false, true] {
        let store = MemoryStore::new();
        let (script, clock, session, user) = expired(store.clone());
        // In the last moments of the old token it still serves, and one caller refreshes.
        let clock = if early { ManualClock::at(START + 1790) } else { clock };
        let (is_sent, answer) = slow_rotation(&script, &clock);
        let other = builder(&script, &clock).store(store.clone()).deadline(FOR_EVER);
        let other = other.open().unwrap();
        let token = CancelToken::new();
        let caller = with_cancel(&other.current_user().unwrap().unwrap(), &token);
        script.reply(CALL, 200, json!(7));
        let outcome = apart(move || caller.functions().call::<i64>("f", ()));
        is_sent.recv().unwrap();
        assert!(!cancelled(cancel(&token, &outcome)));
        answer();
        wait_for_rotation(&store, &user, &clock);
        assert_eq!(script.count(CALL), 0);
        drop((session, other));
    }
}

#[test]
fn cancelled_follower_leaves_refresh_to_leader() {
    let (script, clock, _, user) = expired(MemoryStore::new());
    let (is_sent, answer) = slow_rotation(&script, &clock);
    let leader = user.clone();
    let leads = apart(move || leader.valid_access_token());
    is_sent.recv().unwrap();
    for round in 0..10 {
        let token = CancelToken::new();
        let follower = with_cancel(&user, &token);
        interrupted(&token, round * 10, move || follower.valid_access_token());
    }
    answer();
    at_once(&leads).unwrap();
    assert_eq!(script.count(REFRESH), 1);
}

#[test]
fn wait_for_refresh_lock_is_cancelled() {
    let store = MemoryStore::new();
    let (script, clock, _, user) = expired(store.clone());
    let lock = store.lock_refresh(user.id(), soon()).unwrap().unwrap();
    for round in 0..10 {
        let token = CancelToken::new();
        let caller = with_cancel(&user, &token);
        interrupted(&token, round * 10, move || caller.valid_access_token());
    }
    let now = clock.seconds();
    script.reply(REFRESH, 201, json!({"access_token": jwt("a2", now, now + 1800)}));
    drop(lock);
    user.valid_access_token().unwrap();
    assert_eq!(script.count(REFRESH), 1, "all of them share one");
}

#[test]
fn wait_for_commit_is_cancelled() {
    let store = MemoryStore::new();
    let (_, _, _, user) = expired(store.clone());
    let end_commit = slow_commit(store);
    let token = CancelToken::new();
    let caller = with_cancel(&user, &token);
    interrupted(&token, 100, move || caller.log_out());
    end_commit();
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn wait_for_lock_of_another_process_is_cancelled() {
    let (dir, script, clock) = (Dir::new(), Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = Session::builder(APP, URL).transport(script.clone()).clock(clock.clone());
    let session = session.data_dir(dir.path()).deadline(FOR_EVER).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    clock.advance(Duration::from_secs(3600));
    for (names, call) in locked_calls() {
        let _held = locked_files(&dir, &names);
        let token = CancelToken::new();
        let caller = with_cancel(&user, &token);
        interrupted(&token, 100, move || call(caller));
    }
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn pause_before_retry_is_cancelled() {
    let (script, _, _, user) = logged_in();
    let (failed, fails) = channel();
    script.on(CALL, move |_| {
        failed.send(()).unwrap();
        Ok(json_answer(503, &json!({})).with_header("Retry-After", "3000"))
    });
    let token = CancelToken::new();
    let session = user.session().with_deadline(FOR_EVER).with_cancel(&token);
    let caller = session.user(user.id()).unwrap().unwrap();
    let outcome = apart(move || caller.retry().run(|user| user.functions().call::<i64>("f", ())));
    fails.recv().unwrap();
    assert!(!cancelled(cancel(&token, &outcome)));
}

#[test]
fn cancelled_login_revokes_its_server_session() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let token = CancelToken::new();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let button = token.clone();
    script.on(PROFILE, move |_| {
        button.cancel();
        Err(TransportErrorKind::Timeout)
    });
    let (revoked, revokes) = channel();
    script.on(LOGOUT, move |sent| {
        revoked.send(sent.bearer.clone()).unwrap();
        Ok(json_answer(204, &json!({})))
    });
    let session = builder(&script, &clock).store(MemoryStore::new()).open().unwrap();
    assert!(!cancelled(session.with_cancel(&token).log_in(&password())));
    assert_eq!(at_once(&revokes), Some(refresh("r1")));
    assert!(session.users().unwrap().is_empty());
}

#[test]
fn link_cancelled_after_completion_is_ambiguous() {
    let (script, _, session, user) = logged_in();
    script.reply(
        "POST /auth/providers/local-userpass/login?link=true",
        200,
        login_body("ada", &access("a2"), &refresh("r1")),
    );
    let token = CancelToken::new();
    let button = token.clone();
    script.on(PROFILE, move |_| {
        button.cancel();
        Err(TransportErrorKind::Timeout)
    });
    let outcome = with_cancel(&user, &token).link(&password());
    assert!(cancelled(outcome), "the account is linked");
    assert_eq!(session.current_user().unwrap(), Some(user));
}
