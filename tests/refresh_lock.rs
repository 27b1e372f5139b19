//! Refresh locks that are lost while held, and stores that report commits of other processes.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfob::store::{Lease, MemoryStore, RefreshLock, Store};
use keyfob::{Deadline, Event, Session, StoreError, StoreErrorKind, User, UserId};
use serde_json::json;
use support::store::{HookedStore, StoreHooks};
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

type Answer = Box<dyn FnMut() -> bool + Send>;

/// A store whose locks say what the test wants: each entry is for one question.
#[derive(Clone, Default)]
struct Leased(Arc<Mutex<VecDeque<Answer>>>);

struct Held(Leased, #[allow(dead_code, reason = "held for its drop")] RefreshLock);

impl Lease for Held {
    fn is_held(&self) -> bool {
        let next = self.0.0.lock().unwrap().pop_front();
        next.is_none_or(|mut answer| answer())
    }
}

impl StoreHooks for Leased {
    fn lock_refresh(
        &self,
        store: &dyn Store,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        let lock = store.lock_refresh(user, deadline)?;
        Ok(lock.map(|lock| RefreshLock::leased(Held(self.clone(), lock))))
    }
}

/// A user with an expired token, and the answers of its locks.
fn expired(answers: Vec<Answer>) -> (Script, Session, User, MemoryStore) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let hooks = Leased(Arc::new(Mutex::new(answers.into())));
    let store = MemoryStore::new();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let hooked = HookedStore { store: store.clone(), hooks };
    let session = builder(&script, &clock).store(hooked).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    clock.advance(MINUTE * 31);
    let token = jwt("a2", clock.seconds(), clock.seconds() + 1800);
    script.reply(REFRESH, 201, json!({"access_token": token}));
    script.clear();
    (script, session, user, store)
}

#[test]
fn held_lock_sends_one_refresh() {
    let (script, _session, user, _) = expired(vec![Box::new(|| true)]);
    user.valid_access_token().unwrap();
    assert_eq!(script.routes(), [REFRESH]);
}

#[test]
fn lost_lock_is_acquired_again() {
    let (script, _session, user, _) = expired(vec![Box::new(|| false), Box::new(|| true)]);
    user.valid_access_token().unwrap();
    assert_eq!(script.routes(), [REFRESH]);
}

/// The previous holder of the lock has refreshed: its token is used, and nothing is sent.
#[test]
fn lost_lock_uses_newer_token() {
    let shared = Arc::new(Mutex::new(None::<MemoryStore>));
    let others = Arc::clone(&shared);
    let newer = jwt("a3", START + 1860, START + 1860 + 1800);
    let token = newer.clone();
    let lost = move || {
        let store = others.lock().unwrap().clone().unwrap();
        let refreshed = store.commit(Deadline::after(MINUTE), &mut |view| {
            let ada = view.user(&UserId::new("ada"))?.unwrap();
            let mut record = serde_json::to_value(&*ada).unwrap();
            record["access_token"] = token.clone().into();
            let record = serde_json::from_value(record).unwrap();
            Ok(vec![keyfob::store::Change::Put(Box::new(record))])
        });
        refreshed.unwrap();
        false
    };
    let (script, _session, user, store) = expired(vec![Box::new(lost)]);
    *shared.lock().unwrap() = Some(store);
    assert_eq!(user.valid_access_token().unwrap().expose(), newer);
    assert_eq!(script.count(REFRESH), 0);
}

#[test]
fn unheld_lock_sends_nothing() {
    let answers = (0..100).map(|_| Box::new(|| false) as Answer);
    let (script, _session, user, _) = expired(answers.collect());
    let error = user.valid_access_token().unwrap_err();
    assert!(error.is_timeout() && !error.needs_login(), "{error}");
    assert_eq!(script.count(REFRESH), 0);
}

type Notify = Arc<dyn Fn() + Send + Sync>;

/// A store that polls once an hour and reports commits of others.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Vec<Notify>>>);

/// Ends a report.
struct Unwatch(Watched);

impl Drop for Unwatch {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().clear();
    }
}

impl StoreHooks for Watched {
    fn poll_interval(&self, _: &dyn Store) -> Duration {
        Duration::from_secs(3600)
    }

    fn watch(&self, _: &dyn Store, notify: Box<dyn Fn() + Send + Sync>) -> Option<Box<dyn Send>> {
        self.0.lock().unwrap().push(notify.into());
        Some(Box::new(Unwatch(self.clone())))
    }
}

#[test]
fn reported_commit_arrives_without_poll() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let (store, hooks) = (MemoryStore::new(), Watched::default());
    let hooked = HookedStore { store: store.clone(), hooks: hooks.clone() };
    let session = builder(&script, &clock).store(hooked).open().unwrap();
    let mut events = session.events().unwrap();
    let other = builder(&script, &clock).store(store).open().unwrap();
    other.log_in(&password()).unwrap();
    // The watch begins with the thread that delivers.
    let notify = loop {
        if let Some(notify) = hooks.0.lock().unwrap().first() {
            break Arc::clone(notify);
        }
        std::thread::yield_now();
    };
    notify();
    let event = events.next_timeout(MINUTE).unwrap();
    assert!(matches!(event, Event::LoggedIn { .. }), "{event:?}");
    drop((events, session));
    while !hooks.0.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
}

/// A store that went back in time, from a point on.
#[derive(Clone, Default)]
struct RolledBack(Arc<Mutex<bool>>);

impl StoreHooks for RolledBack {
    fn recent(
        &self,
        store: &dyn Store,
        number: Option<u64>,
        deadline: Deadline,
    ) -> Result<keyfob::store::RecentEvents, StoreError> {
        if *self.0.lock().unwrap() {
            return Err(StoreError::new(StoreErrorKind::RolledBack, "planned"));
        }
        store.recent(number, deadline)
    }
}

#[test]
fn rollback_is_one_event() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let hooks = RolledBack::default();
    let store = HookedStore { store: MemoryStore::new(), hooks: hooks.clone() };
    let session = builder(&script, &clock).store(store).open().unwrap();
    let mut events = session.events().unwrap();
    *hooks.0.lock().unwrap() = true;
    assert_eq!(events.next_timeout(MINUTE), Some(Event::StoreRolledBack));
    *hooks.0.lock().unwrap() = false;
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    session.log_in(&password()).unwrap();
    let next = events.next_timeout(MINUTE).unwrap();
    assert!(matches!(next, Event::LoggedIn { .. }), "{next:?}");
}
