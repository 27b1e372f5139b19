//! Backends that rotate refresh tokens: the newest token is kept and never replaced by another one,
//! regardless of changes to the store or the session meanwhile.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keyfob::store::{Decide, MemoryStore, Store};
use keyfob::transport::Response;
use keyfob::{Deadline, Session, StoreError, StoreErrorKind, User, UserId, UserState};
use serde_json::{Value, json};
use support::store::{FailingStore, HookedStore, StoreHooks};
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn rotated_token_is_stored_before_use() {
    let (script, clock, _, user) = logged_in();
    let used = Arc::new(Mutex::new(Vec::new()));
    let (seen, ticks) = (used.clone(), clock.clone());
    let mut turn = 1;
    script.on(REFRESH, move |sent| {
        seen.lock().unwrap().push(sent.bearer.clone().unwrap());
        turn += 1;
        let now = ticks.seconds();
        Ok(json_answer(
            201,
            &json!({"access_token": jwt(&format!("a{turn}"), now, now + 1800), "refresh_token": refresh(&format!("r{turn}"))}),
        ))
    });
    for _ in 0..3 {
        clock.advance(MINUTE * 31);
        user.valid_access_token().unwrap();
    }
    assert_eq!(*used.lock().unwrap(), [refresh("r1"), refresh("r2"), refresh("r3")]);
}

#[test]
fn pending_token_is_stored_before_next_request() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let store = FailingStore::default();
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(null));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let now = START + 1860;
    let (busy, mut turn) = (store.clone(), 1);
    script.on(REFRESH, move |sent| {
        // This backend accepts each refresh token once.
        assert_eq!(sent.bearer, Some(refresh(&format!("r{turn}"))));
        turn += 1;
        busy.set_busy(turn == 2);
        let token = jwt(&format!("a{turn}"), now, now + 1800);
        Ok(json_answer(
            201,
            &json!({"access_token": token, "refresh_token": refresh(&format!("r{turn}"))}),
        ))
    });
    clock.advance(MINUTE * 31);
    user.refresh_access_token().unwrap();
    store.set_busy(false);
    script.clear();
    clock.advance(Duration::from_secs(10));
    user.functions().call::<()>("f", ()).unwrap();
    assert_eq!(script.routes(), [CALL], "it was there already");
    assert_eq!(user.access_token().unwrap().expose(), jwt("a2", now, now + 1800));
    user.refresh_access_token().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

/// A user whose rotated refresh token `r2` could not be stored, with a backend that accepts no
/// other any more.
fn with_unpersisted_token() -> (Script, FailingStore, Session, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let store = FailingStore::default();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let busy = store.clone();
    script.on(REFRESH, move |_| {
        busy.set_busy(true);
        let body = json!({"access_token": access("a2"), "refresh_token": refresh("r2")});
        Ok(json_answer(201, &body))
    });
    user.refresh_access_token().unwrap();
    for (route, body) in [("GET /auth/api_keys", json!([])), (LOGOUT, json!(null))] {
        script.on(route, move |sent| {
            Ok(match sent.bearer == Some(refresh("r2")) {
                true => json_answer(200, &body),
                false => json_answer(401, &error_body("InvalidSession", "rotated")),
            })
        });
    }
    script.clear();
    (script, store, session, user)
}

#[test]
fn unpersisted_refresh_token_is_used() {
    let (script, store, _session, user) = with_unpersisted_token();
    assert_eq!(user.api_keys().list().unwrap().len(), 0);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    store.set_busy(false);
    assert_eq!(user.api_keys().list().unwrap().len(), 0);
    assert_eq!(script.sent()[0].bearer, Some(refresh("r2")));
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn logout_revokes_rotated_token() {
    let (script, store, _session, user) = with_unpersisted_token();
    store.set_busy(false);
    user.log_out().unwrap();
    let bearers: Vec<_> = script.sent().into_iter().map(|sent| sent.bearer).collect();
    assert_eq!(bearers, [Some(refresh("r2"))]);
}

/// A user of a backend that rotates, whose store is busy when `r2` comes.
fn when_the_store_was_busy() -> (Script, ManualClock, FailingStore, Session, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let store = FailingStore::default();
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(null));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let (busy, now) = (store.clone(), clock.clone());
    script.on(REFRESH, move |sent| {
        let is_first = sent.bearer == Some(refresh("r1"));
        busy.set_busy(is_first);
        let (access, next) = if is_first { ("a2", "r2") } else { ("a3", "r3") };
        let token = jwt(access, now.seconds(), now.seconds() + 1800);
        Ok(json_answer(201, &json!({"access_token": token, "refresh_token": refresh(next)})))
    });
    user.refresh_access_token().unwrap();
    store.set_busy(false);
    script.clear();
    (script, clock, store, session, user)
}

fn stored_refresh_token(store: &MemoryStore) -> Value {
    let record = store.user(&UserId::new("ada"), Deadline::passed()).unwrap().unwrap();
    serde_json::to_value(&*record).unwrap()["refresh_token"].clone()
}

#[test]
fn next_call_stores_pending_token() {
    let (script, _, store, _session, user) = when_the_store_was_busy();
    assert_eq!(stored_refresh_token(&store.store), refresh("r1"));
    user.functions().call::<()>("f", ()).unwrap();
    assert_eq!(script.routes(), [CALL]);
    assert_eq!(stored_refresh_token(&store.store), refresh("r2"));
}

#[test]
fn expired_pending_token_is_not_returned() {
    let (script, clock, store, _session, user) = when_the_store_was_busy();
    clock.advance(MINUTE * 180);
    let token = user.valid_access_token().unwrap();
    assert_eq!(token.expose(), jwt("a3", clock.seconds(), clock.seconds() + 1800));
    assert_eq!(script.sent()[0].bearer, Some(refresh("r2")));
    assert_eq!(stored_refresh_token(&store.store), refresh("r3"));
}

#[test]
fn early_refresh_stores_token_until_call_deadline() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let store = MemoryStore::new();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let (another, now) = (store.clone(), clock.clone());
    let writer = Arc::new(Mutex::new(None));
    let started = Arc::clone(&writer);
    script.on(REFRESH, move |_| {
        // For longer than the half second that a token that is good for two more seconds may cost.
        *started.lock().unwrap() = Some(hold(&another, Duration::from_millis(700)));
        let token = jwt("a2", now.seconds(), now.seconds() + 1800);
        Ok(json_answer(201, &json!({"access_token": token, "refresh_token": refresh("r2")})))
    });
    clock.advance(Duration::from_secs(1798));
    user.valid_access_token().unwrap();
    writer.lock().unwrap().take().unwrap().join().unwrap();
    assert_eq!(stored_refresh_token(&store), refresh("r2"));
}

/// Lets another writer hold the store from now on.
fn hold(store: &MemoryStore, time: Duration) -> JoinHandle<()> {
    let (store, (inside, is_inside)) = (store.clone(), mpsc::channel());
    let until = Deadline::after(time);
    let writer = thread::spawn(move || {
        let hold = &mut |_: &dyn keyfob::store::StoreView| {
            inside.send(()).unwrap();
            while !until.has_passed() {
                thread::yield_now();
            }
            Ok(Vec::new())
        };
        store.commit(Deadline::after(Duration::from_secs(5)), hold).unwrap();
    });
    is_inside.recv().unwrap();
    writer
}

#[test]
fn shutdown_stores_rotated_token() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), MemoryStore::new());
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let (another, ending, now) = (store.clone(), session.clone(), clock.clone());
    let writer = Arc::new(Mutex::new(None));
    let started = Arc::clone(&writer);
    script.on(REFRESH, move |_| {
        *started.lock().unwrap() = Some(hold(&another, Duration::from_millis(100)));
        ending.shut_down();
        let token = jwt("a2", now.seconds(), now.seconds() + 1800);
        Ok(json_answer(201, &json!({"access_token": token, "refresh_token": refresh("r2")})))
    });
    clock.advance(MINUTE * 31);
    let _ = user.valid_access_token();
    writer.lock().unwrap().take().unwrap().join().unwrap();
    assert_eq!(stored_refresh_token(&store), refresh("r2"));
}

/// Two sessions on one store, as two programs are, and a backend that answers a refresh token with
/// the same successor again until it is told to be strict. The first one could not store `r2`; the
/// second one did, and has come to `r3`.
fn overtaken() -> (Script, MemoryStore, User, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let (failing, is_strict) = (FailingStore::default(), Arc::new(AtomicBool::new(false)));
    let store = failing.store.clone();
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(null));
    script.reply(LOGOUT, 204, json!(null));
    let first = builder(&script, &clock).store(failing.clone()).open().unwrap();
    let first = first.log_in(&password()).unwrap();
    let second = builder(&script, &clock).store(store.clone()).open().unwrap();
    let second = second.current_user().unwrap().unwrap();
    let strict = Arc::clone(&is_strict);
    let (busy, mut is_first) = (failing.clone(), true);
    script.on(REFRESH, move |sent| {
        busy.set_busy(std::mem::take(&mut is_first));
        let number: u32 = (1..9)
            .find(|number| sent.bearer == Some(refresh(&format!("r{number}"))))
            .expect("a refresh token of this backend");
        if strict.load(Ordering::SeqCst) && number < 3 {
            return Ok(json_answer(401, &error_body("InvalidSession", "rotated")));
        }
        let [access, refresh] =
            [access(&format!("a{}", number + 1)), refresh(&format!("r{}", number + 1))];
        Ok(json_answer(201, &json!({"access_token": access, "refresh_token": refresh})))
    });
    first.refresh_access_token().unwrap();
    failing.set_busy(false);
    second.refresh_access_token().unwrap();
    second.refresh_access_token().unwrap();
    assert_eq!(stored_refresh_token(&store), refresh("r3"));
    is_strict.store(true, Ordering::SeqCst);
    script.clear();
    (script, store, first, second)
}

#[test]
fn pending_token_never_replaces_newer_one() {
    let (script, store, first, second) = overtaken();
    first.functions().call::<()>("f", ()).unwrap();
    assert_eq!(stored_refresh_token(&store), refresh("r3"));
    assert_eq!(script.sent()[0].bearer, Some(access("a3")));
    second.refresh_access_token().unwrap();
    first.refresh_access_token().unwrap();
    assert_eq!(first.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn logout_revokes_newest_token_of_any_session() {
    let (script, _, first, _second) = overtaken();
    first.log_out().unwrap();
    let revoked: Vec<_> = script.sent().into_iter().map(|sent| sent.bearer).collect();
    assert_eq!(revoked, [Some(refresh("r3"))]);
}

/// A store that another process holds for as long as anybody may wait. The clock goes on meanwhile.
#[derive(Clone)]
struct Held(Arc<AtomicBool>, ManualClock);

impl StoreHooks for Held {
    fn commit(
        &self,
        store: &dyn Store,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64, StoreError> {
        if !self.0.load(Ordering::SeqCst) {
            return store.commit(deadline, decide);
        }
        let (began, (_never, wait)) = (Instant::now(), mpsc::channel::<()>());
        wait.recv_timeout(deadline.remaining()).unwrap_err();
        self.1.advance(began.elapsed());
        Err(StoreError::new(StoreErrorKind::Busy, "a test holds it"))
    }
}

/// A user whose store is held from the moment at which `r2` comes.
fn held(deadline: Duration) -> (Script, ManualClock, Session, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let is_held = Arc::new(AtomicBool::new(false));
    let hooks = Held(Arc::clone(&is_held), clock.clone());
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(7));
    let store = HookedStore { store: MemoryStore::new(), hooks };
    let session = builder(&script, &clock).store(store).deadline(deadline).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let now = clock.clone();
    script.on(REFRESH, move |_| {
        is_held.store(true, Ordering::SeqCst);
        let token = jwt("a2", now.seconds(), now.seconds() + 1800);
        Ok(json_answer(201, &json!({"access_token": token, "refresh_token": refresh("r2")})))
    });
    (script, clock, session, user)
}

#[test]
fn valid_token_is_used_while_store_is_held() {
    let (_, clock, session, user) = held(Duration::from_millis(200));
    user.refresh_access_token().unwrap();
    clock.advance(MINUTE * 27);
    let patient = session.with_deadline(Duration::from_secs(2)).user(user.id()).unwrap().unwrap();
    assert_eq!(patient.functions().call::<i64>("f", ()).unwrap(), 7);
}

/// The token expires while its successor is being stored.
#[test]
fn token_expired_during_store_is_not_returned() {
    let (_, clock, _, user) = held(Duration::from_millis(1500));
    clock.advance(Duration::from_secs(1799));
    assert_ne!(user.valid_access_token().unwrap().expose(), access("a1"));
}

#[test]
fn token_call_stores_pending_token() {
    let (_, _, store, _session, user) = when_the_store_was_busy();
    user.valid_access_token().unwrap();
    assert_eq!(stored_refresh_token(&store.store), refresh("r2"));
}

/// A commit that has begun says so, and waits until it is told to go on.
type Gate = (mpsc::Sender<()>, mpsc::Receiver<()>);

/// A store whose next commit passes a gate, or that is busy.
#[derive(Clone, Default)]
struct Gated(Arc<Mutex<Option<Gate>>>, Arc<AtomicBool>);

impl StoreHooks for Gated {
    fn commit(
        &self,
        store: &dyn Store,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64, StoreError> {
        if self.1.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Busy, "a test keeps it busy"));
        }
        let gate = self.0.lock().unwrap().take();
        if let Some((entered, leave)) = gate {
            entered.send(()).unwrap();
            leave.recv().unwrap();
        }
        store.commit(deadline, decide)
    }
}

/// A user whose rotated token `r2` is kept in memory, and just now being stored by a call that
/// waits inside its commit until it is told to go on.
fn being_stored(then: impl FnOnce(&Script, &User, mpsc::Sender<()>)) -> Vec<Sent> {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let store = HookedStore { store: MemoryStore::new(), hooks: Gated::default() };
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(null));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let busy = store.hooks.1.clone();
    script.on(REFRESH, move |_| {
        busy.store(true, Ordering::SeqCst);
        let body = json!({"access_token": access("a2"), "refresh_token": refresh("r2")});
        Ok(json_answer(201, &body))
    });
    user.refresh_access_token().unwrap();
    store.hooks.1.store(false, Ordering::SeqCst);
    script.reply("GET /auth/api_keys", 200, json!([])).reply(LOGOUT, 204, json!(null));
    script.clear();
    let ((entered, is_inside), (leave, left)) = (mpsc::channel(), mpsc::channel());
    *store.hooks.0.lock().unwrap() = Some((entered, left));
    thread::scope(|scope| {
        let storing = scope.spawn(|| user.functions().call::<()>("f", ()));
        is_inside.recv().unwrap();
        then(&script, &user, leave);
        let _ = storing.join().unwrap();
    });
    script.sent()
}

#[test]
fn replaced_token_is_unused_during_store() {
    let sent = being_stored(|_, user, leave| {
        thread::scope(|scope| {
            let keys = scope.spawn(|| user.api_keys().list().unwrap());
            leave.send(()).unwrap();
            assert!(keys.join().unwrap().is_empty());
        });
    });
    let keys: Vec<_> = sent.into_iter().filter(|sent| sent.route.ends_with("api_keys")).collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].bearer, Some(refresh("r2")));
    let sent = being_stored(|_, user, leave| {
        user.log_out().unwrap();
        leave.send(()).unwrap();
    });
    let revoked = sent.into_iter().filter(|sent| sent.route == LOGOUT);
    assert!(revoked.into_iter().all(|sent| sent.bearer == Some(refresh("r2"))));
}

#[test]
fn token_rotated_after_logout_is_revoked() {
    let (script, _, _session, user) = logged_in();
    let leaver = user.clone();
    script.on(REFRESH, move |_| {
        leaver.log_out().unwrap();
        let body = json!({"access_token": access("a2"), "refresh_token": refresh("r2")});
        Ok(json_answer(201, &body))
    });
    user.refresh_access_token().unwrap_err();
    let revoked = script.sent().into_iter().filter(|sent| sent.route == LOGOUT);
    let revoked: Vec<_> = revoked.map(|sent| sent.bearer.unwrap()).collect();
    assert_eq!(revoked, [refresh("r1"), refresh("r2")]);
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
}

/// Ends a refresh whose rotated token the store cannot keep, and returns the store.
fn unpersisted(script: &Script, clock: &ManualClock, access_token: String) -> (FailingStore, User) {
    let store = FailingStore::default();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(script, clock).store(store.clone()).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let busy = store.clone();
    script.on(REFRESH, move |_| {
        busy.set_busy(true);
        let body = json!({"access_token": access_token, "refresh_token": refresh("r2")});
        Ok(json_answer(201, &body))
    });
    user.refresh_access_token().unwrap();
    store.set_busy(false);
    script.clear();
    (store, user)
}

#[test]
fn explicit_refresh_skips_pending_token() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let token = |mark: &str, version: i32| {
        let times = (START, START + 1800);
        jwt_with(mark, json!({"iat": times.0, "exp": times.1, "user_data": {"v": version}}))
    };
    let (_store, user) = unpersisted(&script, &clock, token("a2", 1));
    let newest = json!({"access_token": token("a3", 2), "refresh_token": refresh("r3")});
    script.reply(REFRESH, 201, newest);
    let data: Option<Value> = user.refresh_custom_data().unwrap();
    assert_eq!(data, Some(json!({"v": 2})));
    assert_eq!(script.sent().last().unwrap().bearer, Some(refresh("r2")));
}

/// Another session has logged the user out.
#[test]
fn pending_token_is_revoked_after_foreign_logout() {
    for leave in [
        (|user| user.valid_access_token().map(drop)) as fn(&User) -> keyfob::Result<()>,
        |user| user.refresh_access_token().map(drop),
        |user| user.api_keys().list().map(drop),
        |user| user.log_out(),
    ] {
        let (script, clock) = (Script::new(), ManualClock::at(START));
        let (store, user) = unpersisted(&script, &clock, access("a2"));
        script.on(LOGOUT, move |sent| {
            Ok(match sent.bearer == Some(refresh("r2")) {
                true => Response::new(204, ""),
                false => json_answer(401, &error_body("InvalidSession", "it was rotated")),
            })
        });
        let other = builder(&script, &clock).store(store).open().unwrap();
        other.current_user().unwrap().unwrap().log_out().unwrap();
        for _ in 0..2 {
            let _ = leave(&user);
        }
        let ended: Vec<_> = script.sent().into_iter().filter(|sent| sent.route == LOGOUT).collect();
        let ended: Vec<_> = ended.into_iter().filter_map(|sent| sent.bearer).collect();
        assert_eq!(ended, [refresh("r1"), refresh("r2")], "each once");
    }
}

#[test]
fn late_refresh_spares_login_with_same_token() {
    let (script, _, session, user) = logged_in();
    // What the log-in and the refresh of this second both bring.
    let same = refresh("r2");
    let (again, accept_login, token) = (session.clone(), script.clone(), same.clone());
    script.on(REFRESH, move |_| {
        accept_login.accept_login("ada", &access("a2"), &token);
        again.log_in(&password()).unwrap();
        Ok(json_answer(201, &json!({"access_token": access("a3"), "refresh_token": token})))
    });
    user.refresh_access_token().unwrap();
    assert_eq!(script.count(LOGOUT), 0);
}
