//! Events: every listener receives them in order, regardless of what other listeners do.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use keyfob::store::{RecentEvents, Store};
use keyfob::{
    Credentials, Deadline, Event, Events, LogoutReason, Session, StoreError, StoreErrorKind,
    UserId, UserState,
};
use serde_json::json;
use support::*;

const LONG: Duration = Duration::from_secs(30);

#[test]
fn login_emits_user_and_current_user() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).open().unwrap();
    let mut events = session.events().unwrap();
    let user = session.log_in(&password()).unwrap();
    let id = user.id().clone();
    let provider = keyfob::Provider::EmailPassword;
    assert_eq!(events.next_timeout(LONG), Some(Event::LoggedIn { user: id.clone(), provider }));
    assert_eq!(
        events.next_timeout(LONG),
        Some(Event::CurrentUserChanged { from: None, to: Some(id) })
    );
    assert_eq!(events.try_next(), None);
}

#[test]
fn refresh_event_has_token_expiry() {
    let (script, _, _, user) = logged_in();
    script.reply(REFRESH, 201, json!({"access_token": jwt("a2", START, START + 60)}));
    let mut events = user.changes().unwrap();
    let token = user.refresh_access_token().unwrap();
    let expires_at = token.expires_at();
    let event = events.next_timeout(LONG).unwrap();
    assert_eq!(event, Event::TokenRefreshed { user: user.id().clone(), expires_at });
    assert_eq!(
        serde_json::to_value(&event).unwrap(),
        json!({"event": "token_refreshed", "user": "ada", "expires_at": START + 60})
    );
}

#[test]
fn profile_is_stored_before_login_event() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).open().unwrap();
    let (sender, receiver) = mpsc::channel();
    let inside = session.clone();
    let _subscription = session
        .subscribe(move |event| {
            if let Event::LoggedIn { user, .. } = event {
                let user = inside.user(user).unwrap().unwrap();
                let email = user.profile().unwrap().email().map(str::to_owned);
                sender.send((email, inside.current_user().unwrap() == Some(user))).unwrap();
            }
        })
        .unwrap();
    session.log_in(&password()).unwrap();
    let received = receiver.recv_timeout(LONG).unwrap();
    assert_eq!(received, (Some("ada@example.org".into()), true));
}

#[test]
fn listener_may_call_any_api() {
    let (script, _, session, user) = logged_in();
    script.reply(REFRESH, 201, json!({"access_token": jwt("a2", START, START + 1800)}));
    script.reply(CALL, 200, json!(null));
    let (sender, receiver) = mpsc::channel();
    let inside = session.clone();
    let _subscription = session
        .subscribe(move |event| {
            let user = inside.users().unwrap().remove(0);
            match event {
                Event::TokenRefreshed { .. } => {
                    user.functions().call::<()>("f", ()).unwrap();
                    user.refresh_profile().unwrap();
                    inside.switch_user(&user).unwrap();
                    let _other = inside.subscribe(|_| {}).unwrap();
                    user.log_out().unwrap();
                }
                Event::LoggedOut { .. } => {
                    inside.log_in(&password()).unwrap();
                    sender.send(user.state().unwrap()).unwrap();
                }
                _ => {}
            }
        })
        .unwrap();
    user.refresh_access_token().unwrap();
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), UserState::LoggedIn);
}

#[test]
fn stuck_or_panicking_listener_blocks_no_other() {
    let (_, _, session, user) = logged_in();
    let (release, stuck) = mpsc::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let stuck = std::sync::Mutex::new(stuck);
    let _stuck = session.subscribe(move |_| stuck.lock().unwrap().recv().unwrap_or(())).unwrap();
    let _panicking = session.subscribe(|_| panic!("on purpose")).unwrap();
    let _good = session.subscribe(move |event| sender.send(event.clone()).unwrap()).unwrap();
    user.log_out().unwrap();
    let reason = LogoutReason::Requested;
    let expected = Event::LoggedOut { user: user.id().clone(), reason };
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), expected);
    session.log_in(&password()).unwrap();
    assert!(matches!(receiver.recv_timeout(LONG).unwrap(), Event::CurrentUserChanged { .. }));
    assert!(matches!(receiver.recv_timeout(LONG).unwrap(), Event::LoggedIn { .. }));
    drop(release);
}

#[test]
fn slow_subscriber_gets_lagged() {
    let (_, _, session, user) = logged_in();
    let mut events = session.events().unwrap();
    let mut seen = session.events().unwrap();
    for _ in 0..400 {
        user.log_out().unwrap();
        session.log_in(&password()).unwrap();
        // So that the dispatcher keeps up with the store, and only the queue overflows.
        let fresh = |event: &Event| matches!(event, Event::LoggedIn { .. } | Event::Lagged);
        while !fresh(&seen.next_timeout(LONG).expect("an event a log-in")) {}
    }
    let events: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
    assert!(events.contains(&Event::Lagged), "{} events", events.len());
    assert!(events.len() <= 1100, "{}", events.len());
}

#[test]
fn dropped_subscription_is_unsubscribed() {
    let (_, _, session, user) = logged_in();
    let (sender, receiver) = mpsc::channel();
    let subscription = session.subscribe(move |event| sender.send(event.clone()).unwrap()).unwrap();
    drop(subscription);
    user.log_out().unwrap();
    // The listener's end of the channel goes with its thread, without an event.
    assert_eq!(receiver.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn iterators_end_with_their_session() {
    let (_, _, session, user) = logged_in();
    let mut events = session.events().unwrap();
    drop((session, user));
    assert_eq!(events.next(), None);
}

#[test]
fn user_subscription_filters_by_user() {
    let (script, _, session, ada) = logged_in();
    let mut changes = ada.changes().unwrap();
    script.accept_login("bob", &access("b1"), &refresh("s1"));
    let bob = session.log_in(&password()).unwrap();
    bob.log_out().unwrap();
    ada.log_out().unwrap();
    let mut received = std::iter::from_fn(|| changes.next_timeout(LONG));
    assert!(
        matches!(received.next(), Some(Event::CurrentUserChanged { from: Some(id), .. }) if id == *ada.id())
    );
    assert!(
        matches!(received.next(), Some(Event::CurrentUserChanged { to: Some(id), .. }) if id == *ada.id())
    );
    assert!(matches!(received.next(), Some(Event::LoggedOut { user, .. }) if user == *ada.id()));
}

#[test]
fn sessions_on_one_store_share_events() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let store = keyfob::store::MemoryStore::new();
    let open = || -> Session { builder(&script, &clock).store(store.clone()).open().unwrap() };
    let (here, there) = (open(), open());
    let mut events = here.events().unwrap();
    let user = there.log_in(&password()).unwrap();
    assert!(
        matches!(events.next_timeout(LONG), Some(Event::LoggedIn { user: id, .. }) if id == *user.id())
    );
    assert_eq!(here.current_user().unwrap(), Some(user));
}

#[test]
fn expiring_login_is_reported_daily() {
    let (script, clock, _, user) = logged_in();
    let ticks = clock.clone();
    script.on(REFRESH, move |_| {
        let now = ticks.seconds();
        Ok(json_answer(201, &json!({"access_token": jwt(&now.to_string(), now, now + 1800)})))
    });
    let mut events = user.changes().unwrap();
    let mut marks = 0;
    let mut endings = || {
        user.refresh_access_token().unwrap();
        marks += 1;
        let mut body = profile_body("ada");
        body["data"]["mark"] = marks.into();
        script.reply(PROFILE, 200, body);
        user.refresh_profile().unwrap();
        let until_the_mark = std::iter::from_fn(|| events.next_timeout(LONG))
            .take_while(|event| !matches!(event, Event::ProfileChanged { .. }));
        until_the_mark.filter(|event| matches!(event, Event::LoginEnding { .. })).count()
    };
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(endings(), 0);
    clock.advance(day * 53);
    assert_eq!(endings(), 0);
    clock.advance(day * 2);
    assert_eq!((endings(), endings()), (1, 0));
    clock.advance(day);
    assert_eq!(endings(), 1);
}

/// The table of the manual's page on events, row by row.
#[test]
fn operations_emit_documented_events() {
    type Act = fn(&Script, &ManualClock, &Session);
    fn bob_logs_in(script: &Script, session: &Session) -> keyfob::User {
        script.accept_login("bob", &access("b1"), &refresh("s1"));
        session.log_in(&password()).unwrap()
    }
    fn ada_of(session: &Session) -> keyfob::User {
        session.user(&UserId::new("ada")).unwrap().unwrap()
    }
    fn anonymous(script: &Script, session: &Session, credentials: &Credentials) -> keyfob::User {
        script.reply(ANONYMOUS, 200, login_body("anon", &access("c1"), &refresh("t1")));
        script.reply(PROFILE, 200, anonymous_profile_body("anon"));
        session.log_in(credentials).unwrap()
    }
    const LINK: &str = "POST /auth/providers/api-key/login?link=true";
    const DELETE: &str = "DELETE /auth/delete";
    fn nothing(_: &Script, _: &ManualClock, _: &Session) {}
    // What happens before anybody listens, what happens then, and the names of the events.
    let rows: [(&str, Act, Act, &[&str]); 23] = [
        (
            "log in",
            nothing,
            |s, _, session| drop(bob_logs_in(s, session)),
            &["logged_in", "current_user_changed"],
        ),
        (
            "log in again",
            nothing,
            |_, _, session| drop(session.log_in(&password()).unwrap()),
            &["logged_in"],
        ),
        (
            "reuse the current anonymous user",
            |s, _, session| drop(anonymous(s, session, &Credentials::anonymous())),
            |s, _, session| drop(anonymous(s, session, &Credentials::anonymous())),
            &[],
        ),
        (
            "reuse another anonymous user",
            |s, _, session| {
                anonymous(s, session, &Credentials::anonymous());
                session.switch_user(&ada_of(session)).unwrap();
            },
            |s, _, session| drop(anonymous(s, session, &Credentials::anonymous())),
            &["current_user_changed"],
        ),
        (
            "log in fails",
            nothing,
            |s, _, session| {
                s.reply(LOGIN, 401, error_body("InvalidPassword", "no"));
                session.log_in(&password()).unwrap_err();
            },
            &[],
        ),
        (
            "link",
            nothing,
            |s, _, session| {
                s.reply(LINK, 200, json!({"access_token": access("a2")}));
                ada_of(session).link(&Credentials::api_key("k")).unwrap();
            },
            &["identity_linked"],
        ),
        (
            "link a user who is not current",
            |s, _, session| {
                bob_logs_in(s, session);
                s.reply(PROFILE, 200, profile_body("ada"));
            },
            |s, _, session| {
                s.reply(LINK, 200, json!({"access_token": access("a2")}));
                ada_of(session).link(&Credentials::api_key("k")).unwrap();
            },
            &["identity_linked", "current_user_changed"],
        ),
        (
            "switch",
            |s, _, session| drop(bob_logs_in(s, session)),
            |_, _, session| session.switch_user(&ada_of(session)).unwrap(),
            &["current_user_changed"],
        ),
        (
            "switch to the current user",
            nothing,
            |_, _, session| session.switch_user(&ada_of(session)).unwrap(),
            &[],
        ),
        (
            "refresh",
            nothing,
            |s, _, session| {
                s.reply(REFRESH, 201, json!({"access_token": access("a2")}));
                ada_of(session).refresh_access_token().unwrap();
            },
            &["token_refreshed"],
        ),
        (
            "refresh a login that will end soon",
            nothing,
            |s, clock, session| {
                clock.advance(Duration::from_secs(56 * 86400));
                let now = clock.seconds();
                s.reply(REFRESH, 201, json!({"access_token": jwt("a2", now, now + 1800)}));
                ada_of(session).refresh_access_token().unwrap();
                s.reply(REFRESH, 201, json!({"access_token": jwt("a3", now, now + 1800)}));
                ada_of(session).refresh_access_token().unwrap();
            },
            &["token_refreshed", "login_ending", "token_refreshed"],
        ),
        (
            "refresh fails",
            nothing,
            |s, _, session| {
                s.reply(REFRESH, 503, json!({}));
                ada_of(session).refresh_access_token().unwrap_err();
            },
            &[],
        ),
        (
            "the backend ends the login",
            nothing,
            |s, _, session| {
                s.reply(REFRESH, 401, error_body("InvalidSession", "gone"));
                ada_of(session).refresh_access_token().unwrap_err();
            },
            &["logged_out session_ended", "current_user_changed"],
        ),
        (
            "the backend says that the user is disabled",
            |s, _, session| drop(bob_logs_in(s, session)),
            |s, _, session| {
                s.reply(REFRESH, 401, error_body("UserDisabled", "off"));
                ada_of(session).refresh_access_token().unwrap_err();
            },
            &["logged_out user_disabled"],
        ),
        (
            "refresh the profile",
            nothing,
            |s, _, session| {
                let mut body = profile_body("ada");
                body["data"]["name"] = "Ada".into();
                s.reply(PROFILE, 200, body);
                ada_of(session).refresh_profile().unwrap();
            },
            &["profile_changed"],
        ),
        (
            "refresh the same profile",
            nothing,
            |_, _, session| drop(ada_of(session).refresh_profile().unwrap()),
            &[],
        ),
        (
            "log out",
            nothing,
            |_, _, session| ada_of(session).log_out().unwrap(),
            &["logged_out requested", "current_user_changed"],
        ),
        (
            "log out without the backend",
            |s, _, session| drop(bob_logs_in(s, session)),
            |s, _, session| {
                s.reply(LOGOUT, 500, json!({}));
                ada_of(session).log_out().unwrap_err();
            },
            &["logged_out requested"],
        ),
        (
            "log out an anonymous user",
            |s, _, session| drop(anonymous(s, session, &Credentials::anonymous())),
            |_, _, session| session.current_user().unwrap().unwrap().log_out().unwrap(),
            &["removed anonymous_logout", "current_user_changed"],
        ),
        (
            "log out a user that is logged out",
            |_, _, session| ada_of(session).log_out().unwrap(),
            |_, _, session| ada_of(session).log_out().unwrap(),
            &[],
        ),
        (
            "remove",
            nothing,
            |_, _, session| session.remove_user(&ada_of(session)).unwrap(),
            &["removed requested", "current_user_changed"],
        ),
        (
            "delete",
            nothing,
            |s, _, session| {
                s.reply(DELETE, 204, json!(null));
                session.delete_user(&ada_of(session)).unwrap();
            },
            &["removed deleted", "current_user_changed"],
        ),
        (
            "delete fails",
            nothing,
            |s, _, session| {
                s.reply(DELETE, 500, json!({}));
                session.delete_user(&ada_of(session)).unwrap_err();
            },
            &[],
        ),
    ];
    for (name, before, act, expected) in rows {
        let (script, clock, session, _) = logged_in();
        before(&script, &clock, &session);
        let mut events = session.events().unwrap();
        act(&script, &clock, &session);
        // Somebody new comes at the end, so that there is something to wait for.
        script.accept_login("mark", &access("m1"), &refresh("m1"));
        session.log_in(&password()).unwrap();
        let received: Vec<_> = std::iter::from_fn(|| events.next_timeout(LONG))
            .take_while(|event| event.user() != Some(&UserId::new("mark")))
            .map(|event| {
                let event = serde_json::to_value(event).unwrap();
                let reason = event["reason"].as_str().map(|reason| format!(" {reason}"));
                format!("{}{}", event["event"].as_str().unwrap(), reason.unwrap_or_default())
            })
            .collect();
        assert_eq!(received, expected, "{name}");
    }
}

#[test]
fn shutdown_delivers_committed_events() {
    for _ in 0..20 {
        let (_, _, session, user) = logged_in();
        let events = session.events().unwrap();
        user.log_out().unwrap();
        drop((session, user));
        let received: Vec<_> = events.collect();
        assert!(
            matches!(received[..], [Event::LoggedOut { .. }, Event::CurrentUserChanged { .. }]),
            "{received:?}"
        );
    }
}

/// Returns a session on disk with a logged-in user, its events from then on, and the directory of its
/// files.
fn on_disk(dir: &Dir, user: &str) -> (Session, Events, std::path::PathBuf) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login(user, &access(user), &refresh(user));
    let builder = Session::builder(APP, URL).transport(script).clock(clock);
    let session = builder.data_dir(dir.path()).open().unwrap();
    session.log_in(&password()).unwrap();
    let events = session.events().unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    (session, events, files)
}

#[test]
fn removed_or_replaced_store_emits_lagged() {
    const SOON: Duration = Duration::from_secs(60);
    for is_replaced in [false, true] {
        let dir = Dir::new();
        let (session, mut events, files) = on_disk(&dir, "ada");
        take_away(&files);
        // With as many commits as the one before.
        let other = is_replaced.then(|| on_disk(&dir, "bob"));
        assert_eq!(events.next_timeout(SOON), Some(Event::Lagged));
        let current = session.current_user().unwrap().map(|user| user.id().to_string());
        assert_eq!(current.as_deref(), other.is_some().then_some("bob"));
    }
}

#[test]
fn drain_waits_for_last_call_of_listener() {
    for round in 0..50 {
        let (_, _, session, user) = logged_in();
        let (begins, has_begun) = mpsc::channel();
        let (heard, hears) = mpsc::channel();
        let subscription = session
            .subscribe(move |event| {
                let _ = begins.send(());
                // Long enough that the call is in progress when the drain begins, most times.
                (0..round * 20).for_each(|_| std::thread::yield_now());
                heard.send(event.clone()).unwrap();
            })
            .unwrap();
        user.log_out().unwrap();
        if round % 2 == 0 {
            has_begun.recv().unwrap();
        }
        assert!(subscription.drain(LONG));
        let last = hears.try_iter().last();
        assert_eq!(
            last,
            Some(Event::CurrentUserChanged { from: Some(user.id().clone()), to: None })
        );
        assert!(subscription.drain(LONG), "there is nothing to wait for");
    }
}

#[test]
fn drain_of_stuck_listener_ends_at_deadline() {
    let (_, _, session, user) = logged_in();
    let (free, freed) = mpsc::channel::<()>();
    let freed = std::sync::Mutex::new(freed);
    let subscription = session
        .subscribe(move |_| {
            let _ = freed.lock().unwrap().recv();
        })
        .unwrap();
    assert!(subscription.drain(LONG), "nothing has happened yet");
    user.log_out().unwrap();
    assert!(!subscription.drain(Duration::from_millis(50)));
    assert!(!subscription.drain(Duration::ZERO));
    drop(free);
    assert!(subscription.drain(LONG));
}

#[test]
fn drain_after_session_end_delivers_all() {
    for is_dropped in [false, true] {
        let (_, _, session, user) = logged_in();
        let (heard, hears) = mpsc::channel();
        let subscription = session.subscribe(move |event| drop(heard.send(event.clone()))).unwrap();
        user.log_out().unwrap();
        match is_dropped {
            true => drop((session, user)),
            false => session.shut_down(),
        }
        assert!(subscription.drain(LONG));
        assert!(hears.try_iter().any(|event| matches!(event, Event::LoggedOut { .. })));
    }
}

#[test]
fn catch_up_reads_commits_of_other_sessions() {
    let store = keyfob::store::MemoryStore::new();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let open = || builder(&script, &clock).store(store.clone()).open().unwrap();
    let (here, there) = (open(), open());
    let mut events = here.events().unwrap();
    for _ in 0..50 {
        there.log_in(&password()).unwrap();
        assert!(events.catch_up(LONG));
        assert!(matches!(events.try_next(), Some(Event::LoggedIn { .. })));
        while events.try_next().is_some() {}
    }
}

/// A store whose events cannot be read now and then.
#[derive(Clone, Default)]
struct Unreadable(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl support::store::StoreHooks for Unreadable {
    fn recent(
        &self,
        store: &dyn Store,
        number: Option<u64>,
        deadline: Deadline,
    ) -> std::result::Result<RecentEvents, StoreError> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(StoreError::new(StoreErrorKind::Io, "a test wants it so")),
            false => store.recent(number, deadline),
        }
    }
}

#[test]
fn catch_up_fails_while_store_is_unreadable() {
    let store = support::store::HookedStore::<Unreadable>::default();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let mut events = session.events().unwrap();
    store.hooks.0.store(true, Ordering::SeqCst);
    session.log_in(&password()).unwrap();
    assert!(!events.catch_up(Duration::from_millis(50)));
    assert_eq!(events.try_next(), None);
    store.hooks.0.store(false, Ordering::SeqCst);
    assert!(events.catch_up(LONG));
    assert!(matches!(events.try_next(), Some(Event::LoggedIn { .. })));
}
