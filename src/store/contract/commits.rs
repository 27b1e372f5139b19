//! Tests of commits: atomic, in one order, decided on the newest state.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::store::Change;
use crate::{StoreError, StoreErrorKind};

use super::StoreFactory;
use super::tools::*;

pub(super) fn new_store_is_empty(place: &dyn StoreFactory) {
    let store = place.open();
    assert_eq!(store.current(soon()).unwrap(), None);
    assert_eq!(store.location(soon()).unwrap(), None);
    assert_eq!(get(&*store, "ada"), None);
    assert!(names(&*store).is_empty());
    let recent = store.recent(Some(0), soon()).unwrap();
    assert_eq!((recent.number, recent.events.len(), recent.lagged), (0, 0, false));
}

pub(super) fn commit_is_visible_to_all_at_once(place: &dyn StoreFactory) {
    let (one, other) = (place.open(), place.open());
    for round in 1..=5 {
        let name = format!("user {round}");
        let mut changing = user("ada", 0);
        changing.epoch = round;
        commit_numbered(&*one, |number| {
            let current = Change::Current(Some(id(&name)));
            vec![put(user(&name, number)), put(changing.clone()), current]
        });
        catch_up(place);
        for store in [&*one, &*other, &*place.open()] {
            assert_eq!(get(store, "ada").unwrap().epoch, round);
            assert_eq!(store.current(soon()).unwrap(), Some(id(&name)));
            assert_eq!(*get(store, &name).unwrap(), user(&name, round));
            assert_eq!(names(store).len() as u64, round + 1);
            assert_eq!(number(store), round);
            // In the next round the handle may have a cached copy.
            assert_eq!(get(store, "ada").unwrap().epoch, round);
        }
    }
}

pub(super) fn current_user_and_location_are_set_and_cleared(place: &dyn StoreFactory) {
    let store = place.open();
    let location = Some("https://eu.example.org".to_owned());
    commit(&*store, &[Change::Current(Some(id("ada"))), Change::Location(location.clone())]);
    assert_eq!(store.current(soon()).unwrap(), Some(id("ada")));
    assert_eq!(store.location(soon()).unwrap(), location);
    commit(&*store, &[Change::Current(None)]);
    assert_eq!(store.current(soon()).unwrap(), None);
    assert_eq!(store.location(soon()).unwrap(), location);
    commit(&*store, &[Change::Location(None)]);
    assert_eq!(reopen(place).location(soon()).unwrap(), None);
}

pub(super) fn commit_numbers_rise_by_one(place: &dyn StoreFactory) {
    let stores = [place.open(), place.open()];
    for number in 1..=6 {
        let store = &stores[usize::from(number % 3 == 0)];
        let seen = store.commit(soon(), &mut |tables| {
            assert_eq!(tables.number(), number);
            Ok(vec![Change::Location(Some(number.to_string()))])
        });
        assert_eq!(seen.unwrap(), number);
    }
}

pub(super) fn empty_decision_commits_nothing(place: &dyn StoreFactory) {
    let store = place.open();
    assert_eq!(commit(&*store, &[]), 0);
    log_in(&*store, "ada");
    assert_eq!(commit(&*store, &[]), 1);
    assert_eq!(number(&*reopen(place)), 1);
}

pub(super) fn decision_error_changes_nothing(place: &dyn StoreFactory) {
    let store = place.open();
    log_in(&*store, "ada");
    let error = store.commit(soon(), &mut |_| {
        Err(StoreError::new(StoreErrorKind::Mismatch, "the epoch is another one"))
    });
    let error = error.unwrap_err();
    assert_eq!(
        (error.kind, &*error.reason),
        (StoreErrorKind::Mismatch, "the epoch is another one")
    );
    assert_eq!(number(&*store), 1);
    assert_eq!(log_in(&*store, "eve"), 2);
}

pub(super) fn decision_panic_changes_nothing(place: &dyn StoreFactory) {
    let store = place.open();
    log_in(&*store, "ada");
    let panic = catch_unwind(AssertUnwindSafe(|| store.commit(soon(), &mut |_| panic!("planned"))));
    assert!(panic.is_err());
    assert_eq!(number(&*store), 1);
    assert_eq!(log_in(&*store, "eve"), 2);
    assert_eq!(log_in(&*place.open(), "joe"), 3);
}

pub(super) fn rejected_change_rejects_whole_commit(place: &dyn StoreFactory) {
    let store = place.open();
    let changes =
        [put(user("ada", 1)), Change::Current(Some(id("ada"))), put(user(&"x".repeat(1025), 1))];
    assert!(store.commit(soon(), &mut |_| Ok(changes.to_vec())).is_err());
    assert_eq!((number(&*store), get(&*store, "ada")), (0, None));
    assert_eq!(store.current(soon()).unwrap(), None);
}

pub(super) fn decision_sees_newest_state(place: &dyn StoreFactory) {
    let (one, other) = (place.open(), place.open());
    log_in(&*one, "ada");
    catch_up(place);
    assert_eq!(number(&*other), 1);
    commit(&*one, &[put(logged_out(user("ada", 1))), Change::Location(Some("here".into()))]);
    let decided = other.commit(soon(), &mut |tables| {
        assert_eq!(tables.user(&id("ada")).unwrap().unwrap().epoch, 2);
        assert_eq!(tables.location().as_deref(), Some("here"));
        assert_eq!(tables.current(), Some(id("ada")));
        assert_eq!(tables.user(&id("eve")).unwrap(), None);
        Ok(vec![])
    });
    assert_eq!(decided.unwrap(), 2);
}

pub(super) fn decision_sees_state_of_readers(place: &dyn StoreFactory) {
    let store = place.open();
    log_in(&*store, "ada");
    let decided = store.commit(soon(), &mut |tables| {
        assert_eq!(tables.user(&id("ada"))?, store.user(&id("ada"), soon())?);
        assert_eq!(tables.current(), store.current(soon())?);
        Ok(vec![])
    });
    assert_eq!(decided.unwrap(), 1);
}

pub(super) fn last_change_of_user_wins(place: &dyn StoreFactory) {
    let store = place.open();
    let long = padded(user("ada", 1), 20_000);
    commit(&*store, &[put(long.clone()), Change::Remove(id("ada")), put(user("ada", 1))]);
    assert_eq!(*get(&*reopen(place), "ada").unwrap(), user("ada", 1));
    commit(&*store, &[put(long), Change::Remove(id("ada"))]);
    assert_eq!(get(&*reopen(place), "ada"), None);
    let last = store.commit(soon(), &mut |tables| {
        assert_eq!(tables.last_used(&|_| true)?, None);
        Ok(vec![])
    });
    assert_eq!(last.unwrap(), 2);
}

pub(super) fn removing_unknown_user_is_commit(place: &dyn StoreFactory) {
    let store = place.open();
    assert_eq!(commit(&*store, &[Change::Remove(id("ada"))]), 1);
    assert_eq!(number(&*reopen(place)), 1);
}

pub(super) fn reads_never_return_older_state(place: &dyn StoreFactory) {
    const COMMITS: u64 = 40;
    thread::scope(|scope| {
        scope.spawn(|| {
            let store = place.open();
            for _ in 0..COMMITS {
                let next = |number| {
                    let mut next = user("ada", 1);
                    next.epoch = number;
                    vec![put(next), Change::Location(Some(number.to_string()))]
                };
                let number = commit_numbered(&*store, next);
                assert_eq!(super::tools::number(&*store), number);
            }
        });
        scope.spawn(|| {
            // Without staleness, no handle returns an older state than another one has returned.
            let stores = [place.open(), place.open()];
            let (mut all, mut each) = (0, [0; 2]);
            for (handle, store) in stores.iter().enumerate().cycle() {
                let seen = if place.staleness().is_zero() { &mut all } else { &mut each[handle] };
                let location = store.location(soon()).unwrap();
                let location = location.map_or(0, |number| number.parse().unwrap());
                let epoch = get(&**store, "ada").map_or(0, |ada| ada.epoch);
                let number = number(&**store);
                for read in [location, epoch, number] {
                    assert!(read >= *seen, "{read} after {seen}");
                    *seen = read;
                }
                if *seen == COMMITS {
                    break;
                }
            }
        });
    });
}

pub(super) fn concurrent_commits_lose_nothing(place: &dyn StoreFactory) {
    const THREADS: usize = 8;
    const COMMITS: u64 = 25;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let store = place.open();
                let own = format!("own {thread}");
                let mut newest = 0;
                for count in 1..=COMMITS {
                    let number = store.commit(soon(), &mut |tables| {
                        let mut shared = match tables.user(&id("shared"))? {
                            Some(user) => (*user).clone(),
                            None => user("shared", tables.number()),
                        };
                        shared.epoch += 1;
                        let mut own = user(&own, tables.number());
                        own.epoch = count;
                        Ok(vec![put(shared), put(own)])
                    });
                    let number = number.unwrap();
                    assert!(number > newest, "{number} after {newest}");
                    newest = number;
                    assert!(get(&*store, "shared").unwrap().epoch >= count);
                    assert_eq!(get(&*store, &own).unwrap().epoch, count);
                }
            });
        }
    });
    let store = reopen(place);
    let total = THREADS as u64 * COMMITS;
    assert_eq!(number(&*store), total);
    assert_eq!(get(&*store, "shared").unwrap().epoch, 1 + total);
}

/// The staleness that the store declares is at most that of the factory.
pub(super) fn declared_staleness_is_within_bound(place: &dyn StoreFactory) {
    let (declared, bound) = (place.open().staleness(), place.staleness());
    assert!(declared <= bound, "{declared:?} is declared, at most {bound:?} is expected");
}
