//! Fault injection between the client and a misbehaving server over real sockets. Lost messages log
//! no user out, and errors are marked ambiguous if the request may have been processed.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::thread;
use std::time::{Duration, SystemTime};

use keyfob::server::{AuthFunctionAnswer, Fault, Route, Server, ServerBuilder};
use keyfob::store::MemoryStore;
use keyfob::{
    Clock, Credentials, Deadline, Error, Secret, ServerErrorCode, Session, SystemClock, User,
    UserState,
};
use serde_json::json;
use support::ManualClock;

const MINUTE: Duration = Duration::from_secs(60);

struct Live {
    server: Server,
    session: Session,
    clock: ManualClock,
}

/// A server as configured, and a session on it; both live by one clock.
fn live(configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Live {
    let now = SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let clock = ManualClock::at(i64::try_from(now.as_secs()).unwrap());
    let names = |payload: &serde_json::Value| {
        Ok(AuthFunctionAnswer::new(payload["name"].as_str().unwrap_or_default()))
    };
    let builder = Server::builder().clock(clock.clone()).built_in_functions().auth_function(names);
    let server = configure(builder).start().unwrap();
    let session = open(&server, &clock);
    Live { server, session, clock }
}

fn open(server: &Server, clock: &ManualClock) -> Session {
    let builder = Session::builder(server.app_id(), server.base_url()).clock(clock.clone());
    builder.store(MemoryStore::new()).deadline(Duration::from_secs(20)).open().unwrap()
}

/// Credentials that need no registration and cost the server no time.
fn named(name: &str) -> Credentials {
    Credentials::function(json!({"name": name})).unwrap()
}

fn sum(user: &User) -> keyfob::Result<i64> {
    user.functions().call("sum", (1, 2))
}

/// Ways in which a request is lost, and whether it took effect before that.
fn losses() -> [(Fault, bool); 5] {
    [
        (Fault::cut_before_handling(), false),
        (Fault::garbage(), false),
        (Fault::cut_after_commit(), true),
        (Fault::cut_in_body(), true),
        (Fault::bytes("HTTP/1.1 200 OK\r\nContent-Le"), false),
    ]
}

#[test]
fn lost_refresh_response_within_grace_keeps_login() {
    let Live { server, session, clock } = live(|server| server.rotate_refresh_tokens(true));
    let user = session.log_in(&named("ada")).unwrap();
    let cut = || Fault::cut_after_commit().on(Route::Refresh);
    // Lost once, the request is repeated at once: the old token gets the same successor.
    for _ in 0..3 {
        clock.advance(MINUTE * 31);
        server.clear_journal();
        server.faults().add(cut());
        assert_eq!(sum(&user).unwrap(), 3);
        let refresh = Route::Refresh;
        server.journal().assert_routes(&[refresh, refresh, Route::CallFunction]);
    }
    // Lost twice, the call fails, and the next one within the grace has it.
    clock.advance(MINUTE * 31);
    server.faults().add(cut().times(2));
    let error = sum(&user).unwrap_err();
    assert!(error.is_retryable() && !error.is_ambiguous(), "{error}");
    clock.advance(Duration::from_secs(30));
    assert_eq!(sum(&user).unwrap(), 3);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    // All of it was one log-in, which ends as one.
    user.log_out().unwrap();
    assert_eq!(server.revoke_sessions(user.id().as_str()).unwrap(), 0);
}

#[test]
fn lost_refresh_response_beyond_grace_ends_login() {
    let grace = |server: ServerBuilder| server.rotate_refresh_tokens(true);
    let Live { server, session, clock } = live(|server| grace(server).rotation_grace(MINUTE));
    let user = session.log_in(&named("ada")).unwrap();
    clock.advance(MINUTE * 31);
    server.faults().add(Fault::cut_after_commit().on(Route::Refresh).times(2));
    assert!(sum(&user).unwrap_err().is_retryable());
    clock.advance(MINUTE);
    assert!(sum(&user).unwrap_err().needs_login());
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
}

/// A repeated login returns the same user with valid tokens.
#[test]
fn lost_login_response_is_ambiguous() {
    for (fault, _) in losses() {
        let Live { server, session, clock } = live(|server| server);
        server.faults().add(fault.clone().on(Route::LogIn));
        let error = session.log_in(&named("ada")).unwrap_err();
        assert!(error.is_ambiguous(), "{fault}: {error}");
        assert_eq!(session.current_user().unwrap(), None);
        server.journal().assert_count(Route::LogIn, 1);
        let user = session.log_in(&named("ada")).unwrap();
        assert_eq!(session.users().unwrap(), std::slice::from_ref(&user));
        assert_eq!(sum(&user).unwrap(), 3);
        clock.advance(MINUTE * 31);
        assert_eq!(sum(&user).unwrap(), 3, "{fault}");
        // A log-in by another session yields the same user.
        assert_eq!(open(&server, &clock).log_in(&named("ada")).unwrap().id(), user.id());
    }
}

/// Nothing is stored, and no server session is left.
#[test]
fn lost_profile_revokes_login() {
    for (fault, _) in losses() {
        let Live { server, session, .. } = live(|server| server);
        // Always, since a profile is asked for again on a fresh connection.
        let lost = server.faults().add(fault.clone().on(Route::Profile).always());
        session.log_in(&named("ada")).unwrap_err();
        lost.remove();
        assert!(session.users().unwrap().is_empty(), "{fault}");
        let user = session.log_in(&named("ada")).unwrap();
        assert_eq!(sum(&user).unwrap(), 3);
        let sessions = server.revoke_sessions(user.id().as_str()).unwrap();
        assert_eq!(sessions, 1, "{fault}: {}", server.journal());
    }
}

/// A repeated registration shows whether the account was created.
#[test]
fn lost_registration_response_is_ambiguous() {
    for (fault, made) in losses() {
        let Live { server, session, .. } = live(|server| server);
        let register =
            || session.email_password().register("ada@example.org", Secret::new("hunter22"));
        server.faults().add(fault.clone().on(Route::Register));
        let error = register().unwrap_err();
        assert!(error.is_ambiguous(), "{fault}: {error}");
        match register() {
            Ok(()) => assert!(!made, "{fault}"),
            Err(error) => {
                assert_eq!(error.server_code(), Some(&ServerErrorCode::AccountNameInUse));
                assert!(made && !error.is_ambiguous(), "{fault}");
            }
        }
        session.log_in(&Credentials::email_password("ada@example.org", "hunter22")).unwrap();
    }
}

#[test]
fn refresh_faults_keep_login() {
    let Live { server, session, clock } = live(|server| server);
    let user = session.log_in(&named("ada")).unwrap();
    let faults = [
        Fault::status(500),
        Fault::status(503).retry_after(MINUTE),
        Fault::status(429).retry_after(MINUTE).error("TooMany", "slow down"),
        Fault::status(401),
        Fault::status(401).error("AuthError", "no"),
        Fault::status(403).error("Forbidden", "no"),
        Fault::status(204),
        Fault::html(200),
        Fault::html(401),
        Fault::html(502),
        Fault::redirect(302, "http://127.0.0.1:9/elsewhere"),
        Fault::redirect(307, "/auth/session"),
        Fault::status(201).body("application/json", r#"{"access_token":"eyJ"#),
        Fault::status(201).body("application/json", "{}"),
        Fault::garbage(),
        Fault::cut_before_handling(),
        Fault::cut_after_commit(),
        Fault::cut_in_body(),
    ];
    for fault in faults {
        clock.advance(MINUTE * 31);
        let fault = server.faults().add(fault.on(Route::Refresh).always());
        let error = sum(&user).unwrap_err();
        assert!(!error.needs_login(), "{fault:?}: {error}");
        assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{fault:?}");
        fault.remove();
        clock.advance(MINUTE * 2);
        assert_eq!(sum(&user).unwrap(), 3, "{fault:?}");
    }
    for fault in [Fault::drip(20, Duration::from_millis(1)), Fault::delay(Duration::from_millis(5))]
    {
        clock.advance(MINUTE * 31);
        server.faults().add(fault.on(Route::Refresh));
        assert_eq!(sum(&user).unwrap(), 3);
    }
}

#[test]
fn stuck_refresh_ends_at_each_deadline() {
    let Live { server, session, clock } = live(|server| server);
    let user = session.log_in(&named("ada")).unwrap();
    for fault in [Fault::hold(), Fault::drip(1, MINUTE)] {
        clock.advance(MINUTE * 31);
        let held = server.faults().add(fault.on(Route::Refresh).always());
        let hurried = session.with_deadline(Duration::from_millis(100));
        let hurried = hurried.user(user.id()).unwrap().unwrap();
        let error = sum(&hurried).unwrap_err();
        assert!(error.is_timeout() && error.is_retryable(), "{held:?}: {error}");
        assert_eq!(user.state().unwrap(), UserState::LoggedIn);
        held.remove();
        assert_eq!(sum(&user).unwrap(), 3);
    }
}

#[test]
fn slow_refresh_is_shared_by_threads() {
    let Live { server, session, clock } = live(|server| server);
    let user = session.log_in(&named("ada")).unwrap();
    clock.advance(MINUTE * 31);
    server.clear_journal();
    let held = server.faults().add(Fault::hold().on(Route::Refresh));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|_| scope.spawn(|| sum(&user).unwrap())).collect();
        assert!(held.wait(1, Deadline::after(MINUTE)));
        held.release();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 3));
    });
    server.journal().assert_count(Route::Refresh, 1);
    server.journal().assert_count(Route::CallFunction, 32);
}

/// After each interruption the next call succeeds.
#[test]
fn interrupted_operations_are_atomic() {
    type Operation = fn(&Session, &User) -> keyfob::Result<()>;
    let operations: [(&str, Operation); 7] = [
        ("log in", |session, _| session.log_in(&named("bob")).map(drop)),
        ("link", |_, user| user.link(&named("eve"))),
        ("call", |_, user| sum(user).map(drop)),
        ("refresh", |_, user| user.refresh_access_token().map(drop)),
        ("fetch the profile", |_, user| user.refresh_profile().map(drop)),
        ("log out", |_, user| user.log_out()),
        ("delete", |session, user| session.delete_user(user)),
    ];
    for (name, operation) in operations {
        // Until an operation is over before the fault's turn has come.
        for step in 0.. {
            let mut met = false;
            for (fault, _) in losses() {
                let Live { server, session, clock } = live(|server| server);
                let user = session.log_in(&named("ada")).unwrap();
                clock.advance(MINUTE * 31);
                let at = format!("{name}, request {step}, {fault}");
                let fault = server.faults().add(fault.after(step).always());
                let outcome = operation(&session, &user);
                met = fault.hits() > 0;
                fault.remove();
                if let Err(error) = &outcome {
                    assert!(met, "{at}: {error}");
                    assert!(!error.needs_login(), "{at}: {error}");
                }
                let state = user.state().unwrap();
                match name {
                    "log out" => assert_eq!(state, UserState::LoggedOut, "{at}"),
                    "delete" if outcome.is_ok() => assert_eq!(state, UserState::Removed, "{at}"),
                    _ => assert_eq!(state, UserState::LoggedIn, "{at}"),
                }
                clock.advance(MINUTE);
                let works = match session.current_user().unwrap() {
                    Some(user) => sum(&user),
                    None => session.log_in(&named("ada")).and_then(|user| sum(&user)),
                };
                match works {
                    Ok(works) => assert_eq!(works, 3, "{at}"),
                    // The backend has deleted the user and could not say so.
                    Err(Error::LoginEnded(_)) if name == "delete" && outcome.is_err() => {}
                    Err(error) => panic!("{at}: then {error}\n{}", server.journal()),
                }
            }
            if !met {
                assert!(step > 0, "{name}");
                break;
            }
        }
    }
}
