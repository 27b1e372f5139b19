//! Tests of waiting, deadlines and refresh locks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Deadline, StoreError, StoreErrorKind};

use super::StoreFactory;
use super::tools::*;

/// How long a decision takes if another thread waits for it by mistake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `meanwhile` during the decision of another thread's commit.
fn during_a_decision(place: &dyn StoreFactory, meanwhile: impl FnOnce()) {
    let (inside, is_inside) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let store = place.open();
            let decided = store.commit(soon(), &mut |tables| {
                inside.send(()).unwrap();
                let _ = may_go_on.recv_timeout(PATIENCE);
                Ok(vec![put(user("slow", tables.number()))])
            });
            decided.unwrap();
        });
        is_inside.recv().unwrap();
        meanwhile();
        assert!(began.elapsed() < PATIENCE, "somebody waited for the decision");
        drop(go_on);
    });
}

pub(super) fn reads_continue_during_decision(place: &dyn StoreFactory) {
    let store = place.open();
    log_in(&*store, "ada");
    catch_up(place);
    during_a_decision(place, || {
        let stores = [place.open(), place.open()];
        for store in stores.iter().chain([&store]) {
            assert_eq!(store.current(brief()).unwrap(), Some(id("ada")));
            assert!(store.user(&id("ada"), brief()).unwrap().is_some());
            assert_eq!(store.users(brief()).unwrap().len(), 1);
            assert_eq!(store.recent(Some(0), brief()).unwrap().number, 1);
        }
    });
    catch_up(place);
    assert_eq!(names(&*store), ["ada", "slow"]);
}

/// Returns `true` if a wait took about 100 ms, on a machine that may be busy.
fn assert_patience(waited: Duration) {
    assert!((100..5_000).contains(&waited.as_millis()), "{waited:?}");
}

pub(super) fn waiting_read_ends_at_deadline(place: &dyn StoreFactory) {
    const USERS: u64 = 120;
    let name = |number: u64| format!("user {number:03}");
    let store = place.open();
    let all = (1..=USERS).map(|number| put(padded(user(&name(number), number), 2_000)));
    commit(&*store, &all.collect::<Vec<_>>());
    catch_up(place);
    during_a_decision(place, || {
        for store in [&store, &place.open()] {
            let began = Instant::now();
            let patience = Deadline::after(Duration::from_millis(100));
            let at_hand = |error: StoreError| assert_eq!(error.kind, StoreErrorKind::Busy);
            match store.user(&id(&name(1)), patience) {
                Ok(user) => assert_eq!(user.unwrap().created_commit, 1),
                Err(error) => at_hand(error),
            }
            match store.users_after(None, patience) {
                Ok(page) => assert_eq!(page[0].created_commit, 1),
                Err(error) => at_hand(error),
            }
            assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
        }
    });
}

pub(super) fn commit_timeout_is_busy(place: &dyn StoreFactory) {
    let store = place.open();
    during_a_decision(place, || {
        let began = Instant::now();
        let patience = Deadline::after(Duration::from_millis(100));
        let error = store.commit(patience, &mut |_| panic!("not to be asked")).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Busy);
        assert_patience(began.elapsed());
    });
    assert_eq!(log_in(&*store, "ada"), 2);
}

pub(super) fn passed_deadline_tries_once(place: &dyn StoreFactory) {
    let store = place.open();
    // One attempt may fail if the store is on a server that is slow at that moment.
    let tries = 0..50;
    let put_ada = || store.commit(now(), &mut |_| Ok(vec![put(user("ada", 1))]));
    assert!(tries.clone().any(|_| put_ada().is_ok()));
    assert_eq!(*get(&*store, "ada").unwrap(), user("ada", 1));
    let lock = || store.lock_refresh(&id("ada"), now());
    assert!(tries.clone().any(|_| matches!(lock(), Ok(Some(_)))));
    assert!(tries.clone().any(|_| matches!(store.user(&id("ada"), now()), Ok(Some(_)))));
}

pub(super) fn refresh_lock_has_one_holder(place: &dyn StoreFactory) {
    let (one, other) = (place.open(), place.open());
    let flight = try_flight(&*one, "ada");
    assert!(flight.is_some());
    assert!(try_flight(&*one, "ada").is_none());
    assert!(try_flight(&*other, "ada").is_none());
    drop(flight);
    assert!(try_flight(&*other, "ada").is_some());
}

pub(super) fn panic_releases_refresh_lock(place: &dyn StoreFactory) {
    let store = place.open();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _flight = try_flight(&*store, "ada").unwrap();
        panic!("planned");
    }));
    assert!(panic.is_err());
    assert!(try_flight(&*store, "ada").is_some());
}

pub(super) fn refresh_lock_can_be_sent_to_threads(place: &dyn StoreFactory) {
    let (one, other) = (place.open(), place.open());
    let flight = try_flight(&*one, "ada");
    // Neither the handle nor the thread that acquired it matters.
    drop(one);
    assert!(try_flight(&*other, "ada").is_none());
    thread::scope(|scope| {
        scope.spawn(move || drop(flight));
    });
    assert!(try_flight(&*other, "ada").is_some());
}

pub(super) fn refresh_lock_waits_until_deadline(place: &dyn StoreFactory) {
    let store = place.open();
    let flight = try_flight(&*store, "ada");
    let began = Instant::now();
    let patience = Deadline::after(Duration::from_millis(100));
    assert!(store.lock_refresh(&id("ada"), patience).unwrap().is_none());
    assert_patience(began.elapsed());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| store.lock_refresh(&id("ada"), soon()).unwrap());
        drop(flight);
        assert!(waiter.join().unwrap().is_some());
    });
}

pub(super) fn refresh_lock_allows_commits_and_reads(place: &dyn StoreFactory) {
    let store = place.open();
    let _flight = try_flight(&*store, "ada").unwrap();
    log_in(&*store, "ada");
    assert!(reopen(place).user(&id("ada"), brief()).unwrap().is_some());
}

/// A new holder of the lock sees the commits of the previous one, however stale other reads may be.
pub(super) fn lock_refresh_shows_newest_commits(place: &dyn StoreFactory) {
    let (one, other) = (place.open(), place.open());
    log_in(&*one, "ada");
    catch_up(place);
    for epoch in 2..10 {
        let (this, next) = if epoch % 2 == 0 { (&one, &other) } else { (&other, &one) };
        // Read it before, so that the handle may have a cached copy.
        assert!(get(&**next, "ada").is_some());
        let lock = this.lock_refresh(&id("ada"), soon()).unwrap();
        let mut refreshed = user("ada", 1);
        refreshed.epoch = epoch;
        commit(&**this, &[put(refreshed)]);
        drop(lock);
        let _lock = next.lock_refresh(&id("ada"), soon()).unwrap();
        assert_eq!(get(&**next, "ada").unwrap().epoch, epoch);
    }
}

pub(super) fn refresh_lock_is_held_until_dropped(place: &dyn StoreFactory) {
    let (one, other) = (place.open(), place.open());
    for store in [&*one, &*other, &*one] {
        let lock = store.lock_refresh(&id("ada"), soon()).unwrap().unwrap();
        assert!(lock.is_held());
        commit(&*other, &[put(user("ada", 1))]);
        assert!(lock.is_held());
    }
}

pub(super) fn refresh_locks_exclude_threads(place: &dyn StoreFactory) {
    let inside = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = place.open();
                for _ in 0..20 {
                    let flight = store.lock_refresh(&id("ada"), soon()).unwrap().unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst));
                    thread::yield_now();
                    inside.store(false, Ordering::SeqCst);
                    drop(flight);
                }
            });
        }
    });
}
