//! The backend's location: it is fetched once and dropped when it fails. Calls still work if it
//! cannot be fetched.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use keyfob::store::{Change, MemoryStore, Store};
use keyfob::transport::Response;
use keyfob::{Deadline, Error, TransportErrorKind, User, UserState};
use serde_json::{Value, json};
use support::store::FailingStore;
use support::web::{HERE, THERE, Web, located, page, sends_to};
use support::*;

const NEXT: &str = "http://127.0.0.1:11";

/// Responses of a wrong location, and whether a function may be called elsewhere after them.
fn wrongs() -> Vec<(&'static str, Result<Response, TransportErrorKind>, bool)> {
    use TransportErrorKind::{Connect, Interrupted, Protocol, Resolve, Tls};
    vec![
        ("connection refused", Err(Connect), true),
        ("no address", Err(Resolve), true),
        ("certificate of another host", Err(Tls), true),
        ("connection lost", Err(Interrupted), false),
        ("no HTTP", Err(Protocol), false),
        ("404 with a page", Ok(page(404)), true),
        ("404 without a body", Ok(Response::new(404, "")), true),
        ("502", Ok(page(502)), false),
        ("503", Ok(page(503)), false),
        ("504", Ok(page(504)), false),
        ("200 with a page", Ok(page(200)), false),
        ("301", Ok(sends_to(301, "https://example.org/")), true),
        ("308", Ok(sends_to(308, "https://example.org/")), true),
        ("307", Ok(sends_to(307, "https://example.org/")), true),
        ("302", Ok(sends_to(302, "https://example.org/")), false),
        ("303", Ok(sends_to(303, "https://example.org/")), false),
    ]
}

fn call(user: &User) -> keyfob::Result<i64> {
    user.functions().call("f", ())
}

/// Returns a session whose known location, THERE, responds with `wrong` from now on. The backend
/// reports the location `now`.
fn left_behind(
    wrong: Result<Response, TransportErrorKind>,
    now: &'static str,
) -> (Web, ManualClock, keyfob::Session, User) {
    let web = Web::new();
    web.answers(|seen| (seen.route == LOCATION).then(|| Ok(located(THERE))));
    let (clock, session, user) = web.logged_in(HERE);
    web.answers(move |seen| match (&*seen.origin, &*seen.route) {
        (HERE, LOCATION) => Some(Ok(located(now))),
        (THERE, _) => Some(wrong.clone()),
        _ => None,
    });
    (web, clock, session, user)
}

/// The request is repeated only if that is safe.
#[test]
fn wrong_location_is_abandoned() {
    for (what, wrong, repeats_calls) in wrongs() {
        let (web, _, _session, user) = left_behind(wrong.clone(), NEXT);
        let outcome = call(&user);
        assert_eq!(outcome.is_ok(), repeats_calls, "{what}: {outcome:?}");
        assert_eq!(web.count(NEXT, CALL), usize::from(repeats_calls), "{what}");
        assert_eq!(web.count(HERE, LOCATION), 1, "{what}");
        if !repeats_calls {
            // It is left all the same.
            assert_eq!(call(&user).unwrap(), 7, "{what}");
        }
        let before = web.count(THERE, CALL);
        assert_eq!(call(&user).unwrap(), 7, "{what}");
        assert_eq!((web.count(THERE, CALL), web.count(HERE, LOCATION)), (before, 1), "{what}");
        // What does no harm twice is always sent again.
        for (route, operation) in [
            (PROFILE, &(|user: &User| user.refresh_profile().map(drop)) as &dyn Fn(&User) -> _),
            (REFRESH, &|user: &User| user.refresh_access_token().map(drop)),
        ] {
            let (web, _, _session, user) = left_behind(wrong.clone(), NEXT);
            let outcome: keyfob::Result<()> = operation(&user);
            assert!(outcome.is_ok(), "{what}, {route}: {outcome:?}");
            assert_eq!(web.count(NEXT, route), 1, "{what}, {route}");
        }
    }
}

#[test]
fn backend_error_causes_no_location_lookup() {
    for (status, body) in [
        (404, serde_json::json!({"error": "no such function", "error_code": "FunctionNotFound"})),
        (503, serde_json::json!({"error": "later"})),
        (502, serde_json::json!({})),
        (500, serde_json::Value::Null),
        (400, serde_json::Value::Null),
    ] {
        let (web, _, _session, user) = left_behind(Ok(json_answer(status, &body)), NEXT);
        assert_eq!(call(&user).unwrap_err().status(), Some(status));
        assert_eq!((web.count(THERE, CALL), web.count(HERE, LOCATION)), (1, 0), "{status}");
    }
}

/// While the backend keeps returning a wrong location, not every call asks for it.
#[test]
fn unchanged_wrong_location_limits_lookups() {
    for (what, wrong, _) in wrongs() {
        let (web, clock, _session, user) = left_behind(wrong, THERE);
        let repeats = usize::from(what == "connection refused");
        for _ in 0..100 {
            call(&user).expect_err(what);
        }
        assert_eq!(web.count(HERE, LOCATION), 1, "{what}");
        assert_eq!(web.count(THERE, CALL), 100 * (1 + repeats), "{what}");
        assert_eq!(web.count(HERE, CALL), 0, "{what}");
        clock.advance(Duration::from_secs(10));
        call(&user).expect_err(what);
        assert_eq!(web.count(HERE, LOCATION), 2, "{what}");
        assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    }
}

#[test]
fn concurrent_threads_share_one_lookup() {
    let (web, _, _session, user) = left_behind(Ok(page(404)), NEXT);
    let together = Arc::new(Barrier::new(32));
    thread::scope(|scope| {
        for _ in 0..32 {
            let (user, together) = (user.clone(), together.clone());
            scope.spawn(move || {
                together.wait();
                assert_eq!(call(&user).unwrap(), 7);
            });
        }
    });
    assert_eq!((web.count(HERE, LOCATION), web.count(NEXT, CALL)), (1, 32));
}

/// If the backend has no other location any more, the old one is removed.
#[test]
fn new_location_is_persisted() {
    for (now, stored) in [(NEXT, true), ("", false)] {
        let store = MemoryStore::new();
        let (web, clock) = (Web::new(), ManualClock::at(START));
        web.answers(|seen| (seen.route == LOCATION).then(|| Ok(located(THERE))));
        let session = web.builder(HERE, &clock).store(store.clone()).open().unwrap();
        let user = session.log_in(&password()).unwrap();
        web.answers(move |seen| match (&*seen.origin, &*seen.route) {
            (HERE, LOCATION) if now.is_empty() => Some(Ok(Response::new(404, ""))),
            (HERE, LOCATION) => Some(Ok(located(now))),
            (THERE, _) => Some(Ok(page(404))),
            _ => None,
        });
        user.refresh_access_token().unwrap();
        let remembered = keyfob::store::Store::location(&store, soon()).unwrap();
        assert_eq!(remembered.is_some_and(|said| said.contains(now)), stored);
        web.clear();
        let again = web.builder(HERE, &clock).store(store).open().unwrap();
        call(&again.current_user().unwrap().unwrap()).unwrap();
        assert_eq!(web.count(THERE, CALL), 0, "the next program does not use it");
    }
}

#[test]
fn unparsable_stored_location_is_looked_up() {
    let (web, clock, store) = (Web::new(), ManualClock::at(START), MemoryStore::new());
    let garbage = || vec![Change::Location(Some("garbage".to_owned()))];
    store.commit(soon(), &mut |_| Ok(garbage())).unwrap();
    web.answers(|seen| (seen.route == LOCATION).then(|| Ok(located(THERE))));
    let session = web.builder(HERE, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    assert_eq!(call(&user).unwrap(), 7);
    assert_eq!((web.count(HERE, LOCATION), web.count(THERE, CALL)), (1, 1));
    assert!(store.location(soon()).unwrap().unwrap().contains(THERE));
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

#[test]
fn failed_lookup_falls_back_to_base_url() {
    let (web, clock, _session, user) = left_behind(Err(TransportErrorKind::Connect), NEXT);
    web.answers(|seen| match (&*seen.origin, &*seen.route) {
        (HERE, LOCATION) => Some(Ok(page(503))),
        (THERE, _) => Some(Err(TransportErrorKind::Connect)),
        _ => None,
    });
    for _ in 0..10 {
        assert_eq!(call(&user).unwrap(), 7);
    }
    assert_eq!((web.count(HERE, LOCATION), web.count(HERE, CALL)), (1, 10));
    // The stored location is tried again after ten seconds.
    clock.advance(Duration::from_secs(10));
    web.answers(|_| None);
    assert_eq!(call(&user).unwrap(), 7);
    assert_eq!(web.count(THERE, CALL), 3);
}

#[test]
fn disabled_lookup_sends_no_location_request() {
    let web = Web::new();
    let clock = ManualClock::at(START);
    let session = web.builder(HERE, &clock).location_lookup(false).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    web.answers(|seen| (seen.route == CALL).then(|| Ok(sends_to(308, THERE))));
    assert_eq!(call(&user).unwrap_err().status(), Some(308));
    assert_eq!(web.count(HERE, LOCATION), 0);
}

#[test]
fn response_of_new_location_is_final() {
    let (web, _, _session, user) = left_behind(Ok(page(404)), NEXT);
    web.answers(|seen| match (&*seen.origin, &*seen.route) {
        (HERE, LOCATION) => Some(Ok(located(NEXT))),
        (HERE, _) => None,
        _ => Some(Ok(page(404))),
    });
    match call(&user) {
        Err(Error::Server(error)) => assert_eq!(error.status, 404),
        other => panic!("{other:?}"),
    }
    assert_eq!((web.count(THERE, CALL), web.count(NEXT, CALL)), (1, 1));
    assert_eq!(web.count(HERE, LOCATION), 1);
}

#[test]
fn learned_location_survives_empty_commit() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::default());
    let open = || builder(&script, &clock).store(store.clone()).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(
        LOCATION,
        503,
        serde_json::Value::Null,
    );
    open().log_in(&password()).unwrap();
    script.reply(LOCATION, 200, serde_json::json!({"hostname": URL}));
    let session = open();
    session.current_user().unwrap().unwrap().refresh_profile().unwrap();
    assert_eq!(store.store.location(Deadline::passed()).unwrap(), None);
    session.log_in(&password()).unwrap();
    assert!(store.store.location(Deadline::passed()).unwrap().is_some());
}

#[test]
fn silent_location_is_abandoned_by_next_call() {
    let (web, _, session, user) = left_behind(Err(TransportErrorKind::Timeout), NEXT);
    const TIME: Duration = Duration::from_millis(100);
    web.answers(|seen| match (&*seen.origin, &*seen.route) {
        (HERE, LOCATION) => Some(Ok(located(NEXT))),
        (THERE, _) => {
            let until = Deadline::after(TIME);
            while !until.has_passed() {
                thread::yield_now();
            }
            Some(Err(TransportErrorKind::Timeout))
        }
        _ => None,
    });
    let hurried = session.with_deadline(TIME).user(user.id()).unwrap().unwrap();
    assert!(call(&hurried).unwrap_err().is_timeout());
    assert_eq!(web.count(HERE, LOCATION), 0, "there was no time left");
    assert_eq!(call(&user).unwrap(), 7);
    assert_eq!((web.count(HERE, LOCATION), web.count(NEXT, CALL)), (1, 1));
    assert_eq!(call(&user).unwrap(), 7);
    assert_eq!((web.count(HERE, LOCATION), web.count(THERE, CALL)), (1, 1));
}

#[test]
fn location_is_looked_up_once() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOCATION, 200, json!({"hostname": "http://localhost:1", "ws_hostname": ""}));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script.reply(CALL, 200, json!(1));
    let urls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (recorder, inner) = (urls.clone(), script.clone());
    let session = builder(&script, &clock)
        .transport(move |request: &keyfob::transport::Request| {
            recorder.lock().unwrap().push(request.url().to_owned());
            keyfob::transport::Transport::send(&inner, request)
        })
        .open()
        .unwrap();
    let user = session.log_in(&password()).unwrap();
    user.functions().call::<i64>("f", ()).unwrap();
    assert_eq!(script.count(LOCATION), 1);
    let urls = urls.lock().unwrap();
    assert!(urls[0].starts_with(URL));
    assert!(urls[1..].iter().all(|url| url.starts_with("http://localhost:1/")), "{urls:?}");
}

#[test]
fn location_never_downgrades_https() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOCATION, 200, json!({"hostname": "http://127.0.0.1:1"}));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let inner = script.clone();
    let session = keyfob::Session::builder(APP, "https://example.org")
        .store(MemoryStore::new())
        .clock(clock)
        .transport(move |request: &keyfob::transport::Request| {
            assert!(request.url().starts_with("https://example.org/"), "{}", request.url());
            keyfob::transport::Transport::send(&inner, request)
        })
        .open()
        .unwrap();
    session.log_in(&password()).unwrap();
}

#[test]
fn location_lookup_can_be_disabled() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).location_lookup(false).open().unwrap();
    session.log_in(&password()).unwrap();
    assert_eq!(script.routes(), [LOGIN, PROFILE]);
}

#[test]
fn failed_location_lookup_is_retried() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOCATION, 503, Value::Null).accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).open().unwrap();
    session.log_in(&password()).unwrap();
    let asked = script.count(LOCATION);
    script.reply(LOCATION, 404, Value::Null);
    session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOCATION), asked, "not with every request");
    clock.advance(Duration::from_secs(10));
    session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOCATION), asked + 1);
    session.log_in(&password()).unwrap();
    assert_eq!(script.count(LOCATION), asked + 1, "without look-ups the base URL is the location");
}

#[test]
fn unreachable_location_is_looked_up_again() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOCATION, 200, json!({"hostname": "http://localhost:1"}));
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(1));
    let moved = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (inner, gone) = (script.clone(), moved.clone());
    let session = builder(&script, &clock)
        .transport(move |request: &keyfob::transport::Request| {
            let gone = gone.load(std::sync::atomic::Ordering::SeqCst);
            if gone && request.url().starts_with("http://localhost:1/") {
                let kind = TransportErrorKind::Connect;
                return Err(keyfob::TransportError::new(kind, "http://localhost:1"));
            }
            keyfob::transport::Transport::send(&inner, request)
        })
        .open()
        .unwrap();
    let user = session.log_in(&password()).unwrap();
    moved.store(true, std::sync::atomic::Ordering::SeqCst);
    script.reply(LOCATION, 200, json!({"hostname": "http://localhost:2"}));
    assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 1);
    assert_eq!(script.count(LOCATION), 2);
    assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 1);
    assert_eq!(script.count(LOCATION), 2, "the new one is remembered");
}

#[test]
fn unknown_app_error_comes_from_backend() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let text = format!("cannot find app using Client App ID '{APP}'");
    script.reply(LOCATION, 404, json!({"error": text}));
    let session = builder(&script, &clock).open().unwrap();
    let error = session.log_in(&password()).unwrap_err();
    assert_eq!(error.status(), Some(404));
    assert!(error.to_string().contains(&text), "{error}");
}
