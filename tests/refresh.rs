//! Access tokens: refreshed when due, once for all callers, and without ending a login.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::transport::{Request, Response, Transport};
use keyfob::{
    Credentials, Error, Event, LogoutReason, ServerErrorCode, TransportError, TransportErrorKind,
    User, UserState,
};
use serde_json::{Value, json};
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Answers refreshes with tokens that live half an hour from the clock's time: a2, a3, …
fn refreshes(script: &Script, clock: &ManualClock) {
    let (clock, mut next) = (clock.clone(), 1);
    script.on(REFRESH, move |_| {
        next += 1;
        let now = clock.seconds();
        let token = jwt(&format!("a{next}"), now, now + 1800);
        Ok(json_answer(201, &json!({"access_token": token})))
    });
}

#[test]
fn fresh_token_is_not_refreshed() {
    let (script, clock, _, user) = logged_in();
    script.reply(CALL, 200, json!({"$numberInt": "3"}));
    clock.advance(MINUTE * 24);
    for _ in 0..100 {
        user.functions().call::<i64>("sum", (1, 2)).unwrap();
    }
    assert_eq!(script.count(REFRESH), 0);
    assert_eq!(script.count(CALL), 100);
}

#[test]
fn expired_token_is_refreshed_before_call() {
    let (script, clock, _, user) = logged_in();
    refreshes(&script, &clock);
    script.reply(CALL, 200, json!(3));
    clock.advance(MINUTE * 31);
    user.functions().call::<i64>("sum", (1, 2)).unwrap();
    assert_eq!(script.routes(), [REFRESH, CALL]);
    let sent = script.sent();
    assert_eq!((&sent[0].bearer, &sent[0].body), (&Some(refresh("r1")), &None));
    assert_eq!(sent[1].bearer, Some(user.access_token().unwrap().expose().to_owned()));
    assert_ne!(sent[1].bearer, Some(access("a1")));
}

/// A token that is due for refresh is still used if the refresh fails.
#[test]
fn failed_early_refresh_keeps_token() {
    let (script, clock, _, user) = logged_in();
    script.reply(CALL, 200, json!(null));
    clock.advance(MINUTE * 27);
    for failure in [TransportErrorKind::Connect, TransportErrorKind::Timeout] {
        script.fail(REFRESH, failure);
        clock.advance(Duration::from_secs(20));
        script.clear();
        user.functions().call::<()>("f", ()).unwrap();
        assert!(script.count(REFRESH) >= 1, "{failure:?}");
        assert_eq!(script.sent().last().unwrap().bearer, Some(access("a1")));
        // The next try waits.
        script.clear();
        user.functions().call::<()>("f", ()).unwrap();
        assert_eq!(script.routes(), [CALL], "{failure:?}");
    }
    clock.advance(Duration::from_secs(20));
    refreshes(&script, &clock);
    user.functions().call::<()>("f", ()).unwrap();
    assert_ne!(user.access_token().unwrap().expose(), access("a1"));
}

#[test]
fn concurrent_threads_refresh_once() {
    let (script, clock, _, user) = logged_in();
    refreshes(&script, &clock);
    script.reply(CALL, 200, json!({"$numberInt": "1"}));
    clock.advance(MINUTE * 31);
    let start = Arc::new(Barrier::new(64));
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let (start, user) = (start.clone(), user.clone());
            thread::spawn(move || {
                start.wait();
                user.functions().call::<i64>("one", ()).unwrap()
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 1);
    }
    assert_eq!(script.count(REFRESH), 1);
    let calls: Vec<_> = script.sent().into_iter().filter(|sent| sent.route == CALL).collect();
    assert!(calls.iter().all(|call| call.bearer != Some(access("a1"))));
}

#[test]
fn followers_share_failure_within_deadline() {
    let (script, clock, session, user) = logged_in();
    let gate = Arc::new(Barrier::new(2));
    let waiting = gate.clone();
    script.on(REFRESH, move |_| {
        waiting.wait();
        waiting.wait();
        Ok(json_answer(503, &json!({"error": "busy"})))
    });
    clock.advance(MINUTE * 31);
    let calling = {
        let user = user.clone();
        thread::spawn(move || user.valid_access_token().unwrap_err())
    };
    gate.wait();
    // The refresh is under way. Somebody in a hurry gives up in time, the others share the answer.
    let hurried = session.with_deadline(Duration::from_millis(30));
    let hurried = hurried.user(user.id()).unwrap().unwrap();
    let began = Instant::now();
    let error = hurried.valid_access_token().unwrap_err();
    assert!(error.is_timeout() && error.is_retryable(), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let others: Vec<_> = (0..8)
        .map(|_| {
            let user = user.clone();
            thread::spawn(move || user.valid_access_token().unwrap_err())
        })
        .collect();
    gate.wait();
    assert_eq!(calling.join().unwrap().status(), Some(503));
    for other in others {
        assert_eq!(other.join().unwrap().status(), Some(503));
    }
    assert_eq!(script.count(REFRESH), 1);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn transport_failures_keep_login() {
    use TransportErrorKind::*;
    let (script, clock, _, user) = logged_in();
    clock.advance(MINUTE * 31);
    for kind in [BodyTooLarge, Connect, Interrupted, Protocol, Resolve, Timeout, Tls] {
        script.fail(REFRESH, kind);
        let error = user.refresh_access_token().unwrap_err();
        assert!(matches!(error, Error::Transport(_)), "{kind:?}");
        assert!(!error.needs_login() && !error.is_ambiguous());
        assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{kind:?}");
    }
    let html = "<html><body>401 Unauthorized</body></html>";
    for (status, body) in [
        (500, "{}".to_owned()),
        (502, html.to_owned()),
        (503, String::new()),
        (429, json!({"message": "slow down"}).to_string()),
        (403, html.to_owned()),
        (401, html.to_owned()),
        (401, String::new()),
        (404, "{}".to_owned()),
        (302, String::new()),
        (400, error_body("BadRequest", "no").to_string()),
        (401, error_body("AuthError", "no").to_string()),
        (200, html.to_owned()),
        (200, "{}".to_owned()),
        (200, json!({"access_token": "x"}).to_string()),
    ] {
        let answer = body.clone();
        script.on(REFRESH, move |_| Ok(Response::new(status, answer.clone())));
        user.refresh_access_token().unwrap_err();
        assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{status} {body}");
    }
    refreshes(&script, &clock);
    clock.advance(Duration::from_secs(10));
    user.valid_access_token().unwrap();
}

#[test]
fn refused_refresh_token_ends_login_and_keeps_user() {
    for (body, reason) in [
        (error_body("InvalidSession", "invalid session"), LogoutReason::SessionEnded),
        (error_body("UserDisabled", "user disabled"), LogoutReason::UserDisabled),
        (json!({"message": "Unauthorized"}), LogoutReason::SessionEnded),
    ] {
        let (script, clock, session, user) = logged_in();
        let mut events = session.events().unwrap();
        script.reply(REFRESH, 401, body.clone());
        clock.advance(MINUTE * 31);
        let error = user.functions().call::<()>("f", ()).unwrap_err();
        assert!(matches!(error, Error::LoginEnded(_)), "{error}");
        assert!(error.needs_login() && !error.is_retryable());
        assert_eq!(user.state().unwrap(), UserState::LoggedOut);
        assert_eq!(user.profile().unwrap().email(), Some("ada@example.org"));
        assert_eq!(session.current_user().unwrap(), None);
        assert_eq!(script.routes(), [REFRESH], "{body}");
        let out = Event::LoggedOut { user: user.id().clone(), reason };
        assert_eq!(events.next_timeout(MINUTE), Some(out));
        let error = user.valid_access_token().unwrap_err();
        assert!(error.needs_login() && matches!(error, Error::LocalState(_)), "{error}");
    }
}

#[test]
fn ended_login_keeps_anonymous_user() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(ANONYMOUS, 200, login_body("anon-1", &access("a1"), &refresh("r1")));
    script.reply(PROFILE, 200, anonymous_profile_body("anon-1"));
    script.reply(REFRESH, 401, error_body("InvalidSession", "gone"));
    let session = builder(&script, &clock).open().unwrap();
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    user.refresh_access_token().unwrap_err();
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
    assert_eq!(session.users().unwrap(), [user]);
}

/// The refresh token has expired by its own claim.
#[test]
fn backend_refusal_ends_expired_login() {
    let (script, clock, _, user) = logged_in();
    clock.advance(MINUTE * 60 * 24 * 61);
    script.on(REFRESH, |_| Ok(Response::new(503, "")));
    user.refresh_access_token().unwrap_err();
    assert_eq!(user.state().unwrap(), UserState::LoggedIn, "a busy server refuses nothing");
    for (status, body) in [(403, "<html>"), (407, "{}"), (404, "")] {
        script.on(REFRESH, move |_| Ok(Response::new(status, body)));
        user.refresh_access_token().unwrap_err();
        assert_eq!(
            user.state().unwrap(),
            UserState::LoggedIn,
            "{status} is not the backend's word"
        );
    }
    script.reply(REFRESH, 403, json!({"error": "no"}));
    assert!(user.refresh_access_token().unwrap_err().needs_login());
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
}

#[test]
fn logout_during_refresh_wins() {
    let (script, clock, session, user) = logged_in();
    let now = clock.seconds();
    let during = user.clone();
    script.on(REFRESH, move |_| {
        during.log_out().unwrap();
        Ok(json_answer(201, &json!({"access_token": jwt("late", now, now + 1800)})))
    });
    clock.advance(MINUTE * 31);
    let error = user.valid_access_token().unwrap_err();
    assert!(error.needs_login(), "{error}");
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
    assert_eq!(session.current_user().unwrap(), None);
}

#[test]
fn login_during_refresh_keeps_new_tokens() {
    let (script, clock, session, user) = logged_in();
    let now = clock.seconds() + 1860;
    let (during, other) = (session.clone(), script.clone());
    script.on(REFRESH, move |_| {
        during.user(&keyfob::UserId::new("ada")).unwrap().unwrap().log_out().unwrap();
        other.accept_login("ada", &jwt("a9", now, now + 1800), &jwt("r9", now, now + 86400));
        during.log_in(&password()).unwrap();
        Ok(json_answer(201, &json!({"access_token": jwt("late", now, now + 1800)})))
    });
    clock.advance(MINUTE * 31);
    assert_eq!(user.valid_access_token().unwrap().expose(), jwt("a9", now, now + 1800));
    assert_eq!(user.access_token().unwrap().expose(), jwt("a9", now, now + 1800));
}

#[test]
fn refusal_of_replaced_token_keeps_login() {
    let (script, clock, session, user) = logged_in();
    let now = clock.seconds() + 1860;
    let (during, other) = (session.clone(), script.clone());
    let mut first = true;
    script.on(REFRESH, move |sent| {
        if std::mem::take(&mut first) {
            // Somebody logs in again while the old token is on its way to be refused.
            other.accept_login("ada", &jwt("a8", now, now), &jwt("r9", now, now + 86400));
            during.log_in(&password()).unwrap();
            return Ok(json_answer(401, &error_body("InvalidSession", "rotated")));
        }
        assert_eq!(sent.bearer, Some(jwt("r9", now, now + 86400)));
        Ok(json_answer(201, &json!({"access_token": jwt("a9", now, now + 1800)})))
    });
    clock.advance(MINUTE * 31);
    user.refresh_access_token().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    assert_eq!(script.count(REFRESH), 2);
}

/// With one refresh in between.
#[test]
fn refused_access_token_is_replayed_once() {
    let (script, clock, _, user) = logged_in();
    refreshes(&script, &clock);
    let mut refused = false;
    script.on(CALL, move |_| match std::mem::replace(&mut refused, true) {
        false => Ok(json_answer(401, &error_body("InvalidSession", "expired"))),
        true => Ok(json_answer(200, &json!("done"))),
    });
    assert_eq!(user.functions().call::<String>("f", ()).unwrap(), "done");
    assert_eq!(script.routes(), [CALL, REFRESH, CALL]);
}

#[test]
fn constant_refusal_costs_bounded_requests() {
    let (script, clock, _, user) = logged_in();
    refreshes(&script, &clock);
    script.reply(CALL, 401, error_body("InvalidSession", "never"));
    let error = user.functions().call::<()>("f", ()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::InvalidSession));
    assert_eq!(script.routes(), [CALL, REFRESH, CALL]);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn other_401_code_causes_no_refresh() {
    let (script, _, _, user) = logged_in();
    for code in ["AuthError", "InvalidPassword", "NotCallable", "SomethingNew"] {
        script.reply(CALL, 401, error_body(code, "no"));
        let error = user.functions().call::<()>("f", ()).unwrap_err();
        assert_eq!(error.server_code().unwrap().as_str(), code);
    }
    assert_eq!(script.count(REFRESH), 0);
}

#[test]
fn refresh_failure_is_reported_instead_of_401() {
    let (script, _, _, user) = logged_in();
    script.reply(CALL, 401, error_body("InvalidSession", "expired"));
    script.fail(REFRESH, TransportErrorKind::Connect);
    let error = user.functions().call::<()>("f", ()).unwrap_err();
    assert!(matches!(error, Error::Transport(_)) && error.is_retryable(), "{error}");
}

/// Calls do not repeat it during the back-off; an explicit refresh does.
#[test]
fn failed_refresh_is_retried_on_request_only() {
    let (script, clock, _, user) = logged_in();
    script.reply(REFRESH, 500, Value::Null);
    clock.advance(MINUTE * 31);
    for _ in 0..50 {
        assert_eq!(user.valid_access_token().unwrap_err().status(), Some(500));
    }
    assert_eq!(script.count(REFRESH), 1);
    user.refresh_access_token().unwrap_err();
    assert_eq!(script.count(REFRESH), 2);
    refreshes(&script, &clock);
    clock.advance(Duration::from_secs(10));
    user.valid_access_token().unwrap();
}

#[test]
fn retry_after_is_honoured() {
    let (script, clock, _, user) = logged_in();
    script.on(REFRESH, |_| {
        Ok(json_answer(429, &json!({"message": "later"})).with_header("Retry-After", "120"))
    });
    clock.advance(MINUTE * 31);
    let error = user.valid_access_token().unwrap_err();
    assert_eq!(error.retry_after(), Some(MINUTE * 2));
    assert!(error.is_retryable());
    clock.advance(Duration::from_secs(100));
    user.valid_access_token().unwrap_err();
    assert_eq!(script.count(REFRESH), 1);
    clock.advance(Duration::from_secs(30));
    user.valid_access_token().unwrap_err();
    assert_eq!(script.count(REFRESH), 2);
}

#[test]
fn wrong_clock_neither_loops_nor_logs_out() {
    for wrong_by in [-86_400, -3600, 3600, 86_400, 315_360_000] {
        let (script, clock) = (Script::new(), ManualClock::at(START + wrong_by));
        script.accept_login("ada", &access("a1"), &refresh("r1"));
        script.reply(CALL, 200, json!(null));
        let session = builder(&script, &clock).open().unwrap();
        let user = session.log_in(&password()).unwrap();
        for _ in 0..20 {
            user.functions().call::<()>("f", ()).unwrap();
        }
        assert_eq!(script.count(REFRESH), 0, "{wrong_by}");
        clock.advance(MINUTE * 31);
        let now = START + 31 * 60;
        script.reply(REFRESH, 201, json!({"access_token": jwt("a2", now, now + 1800)}));
        for _ in 0..20 {
            user.functions().call::<()>("f", ()).unwrap();
        }
        assert_eq!(script.count(REFRESH), 1, "{wrong_by}");
    }
}

#[test]
fn token_has_custom_user_data() {
    let (script, clock, _, user) = logged_in();
    assert_eq!(user.custom_data::<Value>().unwrap(), None);
    let now = clock.seconds();
    let claims = json!({"iat": now, "exp": now + 1800, "user_data": {"lang": "de", "n": {"$numberInt": "7"}, "name": "Zoë"}});
    script.reply(REFRESH, 201, json!({"access_token": jwt_with("a2", claims)}));
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Custom {
        lang: String,
        n: u8,
        name: String,
    }
    let expected = Custom { lang: "de".into(), n: 7, name: "Zoë".into() };
    assert_eq!(user.refresh_custom_data().unwrap(), Some(expected));
    assert_eq!(user.custom_data::<Custom>().unwrap().unwrap().n, 7);
    assert!(matches!(user.custom_data::<Vec<u8>>().unwrap_err(), Error::Decode(_)));
}

#[test]
fn login_after_removal_keeps_new_tokens() {
    let (script, clock, session, user) = logged_in();
    let now = clock.seconds() + 1860;
    let (during, other, gone) = (session.clone(), script.clone(), user.clone());
    script.on(REFRESH, move |_| {
        during.remove_user(&gone).unwrap();
        other.accept_login("ada", &jwt("a9", now, now + 1800), &jwt("r9", now, now + 86400));
        during.log_in(&password()).unwrap();
        Ok(json_answer(
            201,
            &json!({"access_token": jwt("late", now, now + 1800), "refresh_token": refresh("late")}),
        ))
    });
    clock.advance(MINUTE * 31);
    assert_eq!(user.valid_access_token().unwrap().expose(), jwt("a9", now, now + 1800));
    script.on(REFRESH, move |sent| {
        assert_eq!(sent.bearer, Some(jwt("r9", now, now + 86400)));
        Ok(json_answer(201, &json!({"access_token": jwt("a10", now, now + 1800)})))
    });
    user.refresh_access_token().unwrap();
}

#[test]
fn retry_after_is_bounded() {
    let (script, clock, _, user) = logged_in();
    script.on(REFRESH, |_| {
        Ok(Response::new(503, "").with_header("Retry-After", "18446744073709551615"))
    });
    clock.advance(MINUTE * 31);
    user.valid_access_token().unwrap_err();
    refreshes(&script, &clock);
    clock.advance(MINUTE * 4);
    assert_eq!(user.valid_access_token().unwrap_err().status(), Some(503));
    clock.advance(MINUTE * 2);
    user.valid_access_token().unwrap();
}

#[test]
fn short_deadline_delays_no_other_caller() {
    let (script, clock, session, user) = logged_in();
    clock.advance(MINUTE * 27);
    script.fail(REFRESH, TransportErrorKind::Timeout);
    let hurried = session.with_deadline(Duration::from_millis(200));
    let hurried = hurried.user(user.id()).unwrap().unwrap();
    assert_eq!(hurried.valid_access_token().unwrap().expose(), access("a1"));
    refreshes(&script, &clock);
    assert_ne!(user.valid_access_token().unwrap().expose(), access("a1"));
}

/// A user whose token has expired, of a backend that refreshes cannot reach in time: each of them
/// does something, and ends so.
fn out_of_reach(then: impl Fn() + Send + Sync + 'static) -> (Script, ManualClock, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script.reply(REFRESH, 503, Value::Null);
    let relay = script.clone();
    let transport = move |request: &Request| {
        let answer = relay.send(request)?;
        if answer.status() != 503 {
            return Ok(answer);
        }
        then();
        Err(TransportError::new(TransportErrorKind::Timeout, URL).before_sending())
    };
    let session = builder(&script, &clock).transport(transport).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    clock.advance(MINUTE * 31);
    (script, clock, user)
}

#[test]
fn unreachable_backend_starts_backoff() {
    let (script, clock, user) = out_of_reach(|| {});
    for _ in 0..20 {
        assert!(user.valid_access_token().unwrap_err().is_timeout());
    }
    assert_eq!(script.count(REFRESH), 1);
    clock.advance(Duration::from_secs(5));
    user.valid_access_token().unwrap_err();
    assert_eq!(script.count(REFRESH), 2);
}

#[test]
fn followers_share_unreachable_backend() {
    let gate = Arc::new(Barrier::new(2));
    let (waiting, is_first) = (gate.clone(), AtomicBool::new(true));
    let (script, _, user) = out_of_reach(move || {
        if is_first.swap(false, Ordering::SeqCst) {
            waiting.wait();
            waiting.wait();
        }
    });
    thread::scope(|scope| {
        let call = || scope.spawn(|| user.valid_access_token().unwrap_err());
        let first = call();
        gate.wait();
        let others: Vec<_> = (0..8).map(|_| call()).collect();
        gate.wait();
        for caller in others.into_iter().chain([first]) {
            assert!(caller.join().unwrap().is_timeout());
        }
    });
    assert_eq!(script.count(REFRESH), 1);
}

#[test]
fn timed_out_refresh_is_retried_at_once() {
    let (script, clock, _, user) = logged_in();
    clock.advance(MINUTE * 31);
    script.fail(REFRESH, TransportErrorKind::Timeout);
    user.valid_access_token().unwrap_err();
    refreshes(&script, &clock);
    user.valid_access_token().unwrap();
}

/// `Retry-After` in the response to an early refresh still holds once the token has expired.
#[test]
fn retry_after_outlasts_token_expiry() {
    let (script, clock, _, user) = logged_in();
    script.reply(CALL, 200, json!(null));
    script.on(REFRESH, |_| Ok(Response::new(503, "").with_header("Retry-After", "120")));
    clock.advance(Duration::from_secs(1790));
    user.functions().call::<()>("f", ()).unwrap();
    clock.advance(Duration::from_secs(20));
    assert_eq!(user.functions().call::<()>("f", ()).unwrap_err().status(), Some(503));
    assert_eq!(script.count(REFRESH), 1);
    clock.advance(Duration::from_secs(110));
    refreshes(&script, &clock);
    user.functions().call::<()>("f", ()).unwrap();
}

#[test]
fn failed_early_refresh_delays_expired_token() {
    let (script, clock, _, user) = logged_in();
    script.reply(CALL, 200, json!(null));
    script.reply(REFRESH, 503, Value::Null);
    clock.advance(Duration::from_secs(1799));
    user.functions().call::<()>("f", ()).unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!(user.functions().call::<()>("f", ()).unwrap_err().status(), Some(503));
    assert_eq!(script.count(REFRESH), 1);
    clock.advance(Duration::from_secs(4));
    refreshes(&script, &clock);
    user.functions().call::<()>("f", ()).unwrap();
}

/// A connection that failed does delay it.
#[test]
fn early_refresh_timeout_delays_no_expired_token() {
    for kind in [TransportErrorKind::Timeout, TransportErrorKind::Connect] {
        let (script, clock, _, user) = logged_in();
        script.reply(CALL, 200, json!(null));
        script.fail(REFRESH, kind);
        clock.advance(Duration::from_secs(1799));
        user.functions().call::<()>("f", ()).unwrap();
        clock.advance(Duration::from_secs(1));
        refreshes(&script, &clock);
        let outcome = user.functions().call::<()>("f", ());
        assert_eq!(outcome.is_ok(), kind == TransportErrorKind::Timeout, "{outcome:?}");
    }
}

#[test]
fn removal_during_early_refresh_cancels_call() {
    let (script, clock, session, user) = logged_in();
    clock.advance(MINUTE * 27);
    let (during, gone) = (session, user.clone());
    script.on(REFRESH, move |_| {
        during.remove_user(&gone).unwrap();
        Ok(json_answer(201, &json!({"access_token": access("late")})))
    });
    let error = user.functions().call::<()>("f", ()).unwrap_err();
    assert!(matches!(error, Error::LocalState(_)), "{error:?}");
    assert_eq!(script.count(CALL), 0);
}

/// The backend refuses the token to a second caller while the first one refreshes it.
#[test]
fn token_refused_during_early_refresh_is_not_sent() {
    let (script, clock, session, user) = logged_in();
    clock.advance(MINUTE * 27);
    script.on(CALL, |_| Ok(json_answer(401, &error_body("InvalidSession", "over"))));
    let hurried = session.with_deadline(Duration::from_millis(50));
    let other = hurried.user(user.id()).unwrap().unwrap();
    let mut is_first = true;
    script.on(REFRESH, move |_| {
        if std::mem::take(&mut is_first) {
            // Refused with the token, and waits for this flight in vain.
            assert!(other.functions().call::<()>("g", ()).unwrap_err().is_timeout());
        }
        Ok(Response::new(503, ""))
    });
    user.functions().call::<()>("f", ()).unwrap_err();
    assert_eq!(script.count(CALL), 1);
}

/// Its error code cannot be parsed, but it is not treated as a refusal without a code.
#[test]
fn refusal_with_damaged_body_keeps_login() {
    for body in [
        // Latin-1, as some gateways write it.
        &b"{\"error\":\"gesperrt f\xfcr Sie\",\"error_code\":\"AuthError\"}"[..],
        br#"{"error":"a","error":"b","error_code":"AuthError"}"#,
        br#"{"error":"a","error_code":"InvalidSession","error_code":"AuthError"}"#,
    ] {
        let (script, _, _, user) = logged_in();
        script.on(REFRESH, move |_| {
            Ok(Response::new(401, body).with_header("Content-Type", "application/json"))
        });
        assert_eq!(user.refresh_access_token().unwrap_err().status(), Some(401));
        assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    }
}

#[test]
fn new_login_ignores_earlier_backoff() {
    for logs_out_first in [true, false] {
        let (script, clock, session, user) = logged_in();
        clock.advance(MINUTE * 31);
        script.reply(REFRESH, 503, Value::Null);
        user.valid_access_token().unwrap_err();
        if logs_out_first {
            user.log_out().unwrap();
        }
        let now = clock.seconds();
        script.accept_login("ada", &jwt("b1", now, now + 1800), &jwt("s1", now, now + 86400));
        session.log_in(&password()).unwrap();
        refreshes(&script, &clock);
        script.on(CALL, move |sent| {
            Ok(match sent.bearer == Some(jwt("b1", now, now + 1800)) {
                true => json_answer(401, &error_body("InvalidSession", "over")),
                false => json_answer(200, &json!(7)),
            })
        });
        assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 7, "{logs_out_first}");
    }
}
