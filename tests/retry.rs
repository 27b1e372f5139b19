//! Retries: which requests are retried, how often, and when retries stop.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use keyfob::transport::Response;
use keyfob::{Error, TransportErrorKind, User};
use serde_json::json;
use support::*;

/// Calls `f` with pauses that take no time.
fn retried(user: &User, idempotent: bool) -> Result<i64, Error> {
    user.retry()
        .first_pause(Duration::ZERO)
        .idempotent(idempotent)
        .run(|user| user.functions().call("f", ()))
}

/// Answers the first `failures` calls with `failure` and the later ones with 7.
fn fail_first(script: &Script, failures: u32, failure: Result<u16, TransportErrorKind>) {
    let mut left = failures;
    script.on(CALL, move |_| {
        if left == 0 {
            return Ok(Response::new(200, "7"));
        }
        left -= 1;
        failure.map(|status| Response::new(status, "{}"))
    });
}

#[test]
fn retryable_error_is_repeated_until_success() {
    let (script, _, _, user) = logged_in();
    for failure in [Ok(503), Ok(429), Err(TransportErrorKind::Connect)] {
        fail_first(&script, 4, failure);
        script.clear();
        assert_eq!(retried(&user, false).unwrap(), 7, "{failure:?}");
        assert_eq!(script.count(CALL), 5, "{failure:?}");
    }
}

#[test]
fn last_attempt_returns_its_error() {
    let (script, _, _, user) = logged_in();
    fail_first(&script, u32::MAX, Ok(503));
    assert_eq!(retried(&user, false).unwrap_err().status(), Some(503));
    assert_eq!(script.count(CALL), 5);
    script.clear();
    let once = user.retry().attempts(0).run(|user| user.functions().call::<i64>("f", ()));
    assert_eq!(once.unwrap_err().status(), Some(503));
    assert_eq!(script.count(CALL), 1);
}

#[test]
fn definite_error_is_not_repeated() {
    let (script, _, _, user) = logged_in();
    fail_first(&script, u32::MAX, Ok(400));
    assert_eq!(retried(&user, true).unwrap_err().status(), Some(400));
    assert_eq!(script.count(CALL), 1);
}

#[test]
fn ambiguous_error_is_repeated_only_if_idempotent() {
    let (script, _, _, user) = logged_in();
    fail_first(&script, 1, Err(TransportErrorKind::Interrupted));
    let error = retried(&user, false).unwrap_err();
    assert!(error.is_ambiguous() && error.is_retryable());
    assert_eq!(script.count(CALL), 1);
    script.clear();
    fail_first(&script, 1, Err(TransportErrorKind::Interrupted));
    assert_eq!(retried(&user, true).unwrap(), 7);
    assert_eq!(script.count(CALL), 2);
}

/// A pause that the backend asks for and that does not fit into the deadline is not begun.
#[test]
fn pause_beyond_deadline_returns_error_at_once() {
    let (script, _, session, user) = logged_in();
    script.on(CALL, |_| Ok(Response::new(429, "{}").with_header("Retry-After", "3600")));
    let begin = Instant::now();
    let error = retried(&user, true).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(script.count(CALL), 1);
    assert!(begin.elapsed() < Duration::from_secs(30));
    let pauses = session.retry().first_pause(Duration::from_secs(3600));
    let error = pauses.longest_pause(Duration::from_secs(3600)).run(|session| {
        script.reply(CALL, 503, json!({}));
        session.current_user()?.unwrap().functions().call::<i64>("f", ())
    });
    assert_eq!(error.unwrap_err().status(), Some(503));
}

#[test]
fn shutdown_ends_pause() {
    let (script, _, session, user) = logged_in();
    script.reply(CALL, 503, json!({}));
    let pauses = user.retry().first_pause(Duration::from_secs(15));
    let begin = Instant::now();
    let error = std::thread::scope(|scope| {
        let pauses = pauses.longest_pause(Duration::from_secs(15));
        let call = scope.spawn(move || pauses.run(|user| user.functions().call::<i64>("f", ())));
        while script.count(CALL) == 0 {
            std::thread::yield_now();
        }
        session.shut_down();
        call.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(7));
}
