//! Shutdown of a session: pending and later calls return an error at once, and other sessions are
//! not affected. The deadlines are so long that a test fails if a wait is not interrupted.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use keyfob::store::{MemoryStore, Store};
use keyfob::transport::{Response, Transport, UreqTransport};
use keyfob::{
    ApiKeyId, Credentials, Error, Event, Result, Secret, Session, SessionBuilder, UserState,
};
use serde_json::json;
use support::interrupt::*;
use support::*;

fn ended<T: std::fmt::Debug>(outcome: Result<T>) -> bool {
    let error = outcome.expect_err("it was shut down");
    let Error::ShutDown { ambiguous } = error else { panic!("{error:?}") };
    assert_eq!(error.is_ambiguous(), ambiguous);
    assert!(!error.is_retryable() && !error.needs_login() && !error.is_timeout());
    assert_eq!(error.status(), None);
    ambiguous
}

/// Lets a call run on another thread into whatever holds it up, shuts the session down, and
/// expects the call to end. Either may be first.
fn interrupted<T: std::fmt::Debug + Send + 'static>(
    session: &Session,
    call: impl FnOnce() -> Result<T> + Send + 'static,
    yields: usize,
) {
    let outcome = waiting(yields, call);
    session.shut_down();
    assert!(!ended(at_once(&outcome)));
}

#[test]
fn calls_after_shutdown_send_nothing() {
    let (script, _, session, user) = logged_in();
    let subscription = session.subscribe(|_| {}).unwrap();
    let clone = session.with_deadline(FOR_EVER);
    let mut listing = session.users_iter();
    session.shut_down();
    session.shut_down();
    ended(listing.next().unwrap());
    assert!(listing.next().is_none());
    for session in [&session, &clone, user.session()] {
        let accounts = session.email_password();
        ended(session.log_in(&password()));
        ended(session.log_in(&Credentials::anonymous()));
        ended(session.current_user());
        ended(session.users());
        ended(session.user(user.id()));
        ended(session.switch_user(&user));
        ended(session.remove_user(&user));
        ended(session.delete_user(&user));
        ended(session.events());
        ended(session.subscribe(|_| {}));
        ended(accounts.register("eve@example.org", Secret::new("pw")));
        ended(accounts.send_reset("eve@example.org"));
    }
    ended(user.state());
    ended(user.identities());
    ended(user.profile());
    ended(user.refresh_profile());
    ended(user.custom_data::<()>());
    ended(user.access_token());
    ended(user.valid_access_token());
    ended(user.refresh_access_token());
    ended(user.refresh_token_expires_at());
    ended(user.link(&password()));
    ended(user.log_out());
    ended(user.changes());
    ended(user.functions().call::<()>("f", ()));
    ended(user.api_keys().list());
    ended(user.api_keys().get(&ApiKeyId::new("k")));
    assert!(script.sent().is_empty(), "{script:?}");
    drop(subscription);
}

/// The refresh that they wait for continues.
#[test]
fn shutdown_ends_followers_of_other_session() {
    let store = MemoryStore::new();
    let (script, clock, session, user) = expired(store.clone());
    let (is_sent, answer) = slow_rotation(&script, &clock);
    let leader = apart({
        let user = user.clone();
        move || user.valid_access_token()
    });
    is_sent.recv().unwrap();
    let followers: Vec<_> = (0..8)
        .map(|_| {
            let user = user.clone();
            apart(move || user.valid_access_token())
        })
        .collect();
    (0..100).for_each(|_| thread::yield_now());
    session.shut_down();
    for follower in &followers {
        assert!(!ended(at_once(follower)));
    }
    // The new refresh token is stored, because the backend may accept no other one.
    let now = clock.seconds();
    answer();
    assert!(at_once(&leader).is_ok());
    let stored = store.user(user.id(), soon()).unwrap().unwrap();
    let stored = serde_json::to_value(&*stored).unwrap();
    assert_eq!(stored["refresh_token"], jwt("r2", now, now + 5_000_000));
}

#[test]
fn shutdown_ends_wait_for_other_refresh() {
    for round in 0..20 {
        let store = MemoryStore::new();
        let (_, _, session, user) = expired(store.clone());
        let _flight = store.lock_refresh(user.id(), soon()).unwrap().unwrap();
        interrupted(&session, move || user.valid_access_token(), round * 10);
    }
}

#[test]
fn shutdown_ends_wait_for_commit() {
    let store = MemoryStore::new();
    let (_, _, session, user) = expired(store.clone());
    let end_commit = slow_commit(store);
    interrupted(&session, move || user.log_out(), 100);
    end_commit();
}

fn on_disk(dir: &Dir) -> (Script, ManualClock, SessionBuilder) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = Session::builder(APP, URL).transport(script.clone()).clock(clock.clone());
    (script, clock, session.data_dir(dir.path()).deadline(FOR_EVER))
}

#[test]
fn shutdown_ends_wait_for_process_lock() {
    let dir = Dir::new();
    let (_, clock, builder) = on_disk(&dir);
    let session = builder.open().unwrap();
    let user = session.log_in(&password()).unwrap();
    clock.advance(Duration::from_secs(3600));
    for (names, call) in locked_calls() {
        let _held = locked_files(&dir, &names);
        let session = on_disk(&dir).2.clock(clock.clone()).open().unwrap();
        let user = session.user(user.id()).unwrap().unwrap();
        interrupted(&session, move || call(user), 100);
    }
    // It was not logged out, and the first session goes on.
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn call_during_backoff_reports_shutdown() {
    let (script, _, session, user) = expired(MemoryStore::new());
    script.reply(REFRESH, 503, json!({}));
    assert_eq!(user.valid_access_token().unwrap_err().status(), Some(503));
    session.shut_down();
    ended(user.valid_access_token());
    assert_eq!(script.count(REFRESH), 1);
}

#[test]
fn polled_iterator_reports_end_of_events() {
    let (_, _, session, user) = logged_in();
    let mut events = session.events().unwrap();
    assert_eq!(events.try_next(), None);
    assert!(!events.has_ended(), "there was none yet");
    user.log_out().unwrap();
    session.shut_down();
    let mut received = 0;
    while !events.has_ended() {
        received += usize::from(events.next_timeout(FOR_EVER).is_some());
    }
    assert!(received > 0);
    assert_eq!(events.next_timeout(FOR_EVER), None, "at once");
}

/// A stuck listener does not delay the others.
#[test]
fn shutdown_delivers_events_and_ends_listeners() {
    let (_, _, session, user) = logged_in();
    let events = session.events().unwrap();
    let (heard, hears) = channel();
    let (stuck, is_stuck) = channel();
    let (free, freed) = channel::<()>();
    let freed = Mutex::new(freed);
    let _listening = session
        .subscribe(move |event| {
            let _ = heard.send(event.clone());
        })
        .unwrap();
    let _stuck = session
        .subscribe(move |_| {
            stuck.send(()).unwrap();
            let _ = freed.lock().unwrap().recv();
        })
        .unwrap();
    let waiting = apart(move || events.collect::<Vec<Event>>());
    user.log_out().unwrap();
    is_stuck.recv().unwrap();
    session.shut_down();
    assert!(!at_once(&waiting).is_empty(), "the iterator ends after the emitted events");
    // The listener's thread ends, and with it the only other end of the channel.
    assert!(hears.iter().count() > 0);
    drop(free);
}

#[test]
fn other_session_on_store_continues() {
    let store = MemoryStore::new();
    let (script, clock, session, user) = expired(store.clone());
    let now = clock.seconds();
    script.reply(REFRESH, 201, json!({"access_token": jwt("a2", now, now + 1800)}));
    script.reply(CALL, 200, json!(7));
    let other = builder(&script, &clock).store(store).open().unwrap();
    let mut events = other.events().unwrap();
    session.shut_down();
    ended(user.valid_access_token());
    let user = other.current_user().unwrap().unwrap();
    assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 7);
    let event = events.next_timeout(Duration::from_secs(30));
    assert!(matches!(event, Some(Event::TokenRefreshed { .. })), "{event:?}");
    drop((session, events));
    // A later session is not shut down with an earlier one.
    let next = builder(&script, &clock).open().unwrap();
    assert_eq!(next.current_user().unwrap(), None);
}

#[test]
fn shutdown_ends_wait_for_response() {
    for (call, ambiguous) in [
        ((|session| session.log_in(&password()).map(drop)) as fn(Session) -> Result<()>, true),
        (|session| session.current_user()?.unwrap().refresh_access_token().map(drop), false),
    ] {
        let store = MemoryStore::new();
        expired(store.clone());
        let (url, comes) = black_hole();
        let session = Session::builder(APP, url)
            .store(store)
            .location_lookup(false)
            .deadline(FOR_EVER)
            .open()
            .unwrap();
        let caller = session.clone();
        let outcome = apart(move || call(caller));
        let _connection = comes.recv().unwrap();
        session.shut_down();
        assert_eq!(ended(at_once(&outcome)), ambiguous);
    }
}

#[test]
fn response_truncated_by_shutdown_is_error() {
    for call in [
        (|session| session.current_user()?.unwrap().functions().call::<i64>("f", ()).map(drop))
            as fn(Session) -> Result<()>,
        |session| session.current_user()?.unwrap().functions().call_text("f", ()).map(drop),
    ] {
        let (session, comes) = at_black_hole();
        let caller = session.clone();
        let outcome = apart(move || call(caller));
        let mut connection = comes.recv().unwrap();
        std::io::Write::write_all(&mut connection, b"HTTP/1.1 200 OK\r\n\r\n12").unwrap();
        session.shut_down();
        assert!(ended(at_once(&outcome)), "it may have been run");
    }
}

#[test]
fn shared_transport_is_not_shut_down() {
    let (url, comes) = black_hole();
    let transport = UreqTransport::default();
    let open = || {
        let session = Session::builder(APP, &*url).store(MemoryStore::new());
        session.transport(transport.clone()).location_lookup(false).deadline(FOR_EVER).open()
    };
    let (first, second) = (open().unwrap(), open().unwrap());
    let waiting = apart(move || second.log_in(&password()));
    let mut connection = comes.recv().unwrap();
    first.shut_down();
    let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}";
    std::io::Write::write_all(&mut connection, answer).unwrap();
    assert_eq!(at_once(&waiting).unwrap_err().status(), Some(401));
}

#[test]
fn own_transport_is_shut_down() {
    struct ReportsShutDown(Sender<()>);
    impl Transport for ReportsShutDown {
        fn send(&self, _: &keyfob::transport::Request) -> Result<Response, keyfob::TransportError> {
            Ok(Response::new(404, ""))
        }

        fn shut_down(&self) {
            self.0.send(()).unwrap();
        }
    }
    let (sender, receiver) = channel();
    let session = Session::builder(APP, URL)
        .store(MemoryStore::new())
        .transport(ReportsShutDown(sender))
        .open()
        .unwrap();
    session.shut_down();
    receiver.try_recv().unwrap();
}
