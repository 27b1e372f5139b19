//! The laws of `Store`, held against every store there is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::{Change, Flight, MemoryStore, Store};
use keyfob::{Deadline, Event, StoreError, StoreErrorKind, UserState};
use serde_json::json;

use store_support::*;

/// Where a store lives: it can be opened any number of times.
trait Place: Sync {
    fn open(&self) -> Box<dyn Store>;
}

impl Place for MemoryStore {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }
}

impl Place for Dir {
    fn open(&self) -> Box<dyn Store> {
        Box::new(Dir::open(self))
    }
}

macro_rules! laws {
    ($($law:ident)*) => {
        mod memory_store {
            $(#[test] fn $law() { super::$law(&super::MemoryStore::new()); })*
        }
        mod sled_store {
            $(#[test] fn $law() { super::$law(&super::Dir::new()); })*
        }
        #[cfg(feature = "encryption")]
        mod sealed_store {
            $(#[test] fn $law() { super::$law(&super::Dir::sealed()); })*
        }
    };
}

laws! {
    a_new_store_has_nobody
    a_commit_is_seen_by_everybody_at_once
    current_user_and_location_are_set_and_cleared
    numbers_rise_by_one_whoever_commits
    a_decision_without_changes_is_no_commit
    an_error_of_the_decision_changes_nothing_and_is_passed_on
    a_panic_of_the_decision_changes_nothing_and_blocks_nobody
    a_change_that_is_refused_takes_the_others_with_it
    a_decision_sees_the_newest_state
    a_decision_sees_what_a_reader_sees
    the_last_change_of_a_user_in_a_commit_counts
    removing_nobody_is_a_commit_like_any_other
    users_are_ordered_by_created
    last_used_is_the_highest_that_is_wanted_among_those_logged_in
    last_used_follows_every_change
    events_are_told_in_the_order_of_commits
    events_from_before_the_ring_have_lagged
    who_knows_a_higher_number_has_lagged
    events_alone_are_a_commit
    reads_go_on_while_somebody_decides
    a_commit_that_cannot_begin_in_time_is_busy
    a_passed_deadline_is_tried_once
    a_flight_has_one_holder_until_it_is_dropped
    a_flight_is_given_back_by_a_panic
    a_flight_is_waited_for_until_the_deadline
    a_flight_excludes_no_commit_and_no_read
    debug_shows_no_secret
    values_of_any_size_come_back_whole
    more_users_than_a_snapshot_holds_are_all_there
    ids_are_any_text
    ids_that_are_too_long_are_refused
    unknown_fields_survive_a_rewrite
    records_come_back_as_they_were
    concurrent_commits_lose_nothing
    flights_of_many_threads_exclude_each_other
}

fn a_new_store_has_nobody(place: &dyn Place) {
    let store = place.open();
    assert_eq!(store.current(soon()).unwrap(), None);
    assert_eq!(store.location(soon()).unwrap(), None);
    assert_eq!(get(&*store, "ada"), None);
    assert!(names(&*store).is_empty());
    let recent = store.recent(Some(0), soon()).unwrap();
    assert_eq!((recent.number, recent.events.len(), recent.lagged), (0, 0, false));
}

fn a_commit_is_seen_by_everybody_at_once(place: &dyn Place) {
    let (one, other) = (place.open(), place.open());
    for round in 1..=5 {
        let name = format!("user {round}");
        log_in(&*one, &name);
        for store in [&*one, &*other, &*place.open()] {
            assert_eq!(store.current(soon()).unwrap(), Some(id(&name)));
            assert_eq!(*get(store, &name).unwrap(), user(&name, round));
            assert_eq!(names(store).len() as u64, round);
            assert_eq!(number(store), round);
        }
    }
}

fn current_user_and_location_are_set_and_cleared(place: &dyn Place) {
    let store = place.open();
    let location = Some("https://eu.example.org".to_owned());
    commit(&*store, &[Change::Current(Some(id("ada"))), Change::Location(location.clone())]);
    assert_eq!(store.current(soon()).unwrap(), Some(id("ada")));
    assert_eq!(store.location(soon()).unwrap(), location);
    commit(&*store, &[Change::Current(None)]);
    assert_eq!(store.current(soon()).unwrap(), None);
    assert_eq!(store.location(soon()).unwrap(), location);
    commit(&*store, &[Change::Location(None)]);
    assert_eq!(place.open().location(soon()).unwrap(), None);
}

fn numbers_rise_by_one_whoever_commits(place: &dyn Place) {
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

fn a_decision_without_changes_is_no_commit(place: &dyn Place) {
    let store = place.open();
    assert_eq!(commit(&*store, &[]), 0);
    log_in(&*store, "ada");
    assert_eq!(commit(&*store, &[]), 1);
    assert_eq!(number(&*place.open()), 1);
}

fn an_error_of_the_decision_changes_nothing_and_is_passed_on(place: &dyn Place) {
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

fn a_panic_of_the_decision_changes_nothing_and_blocks_nobody(place: &dyn Place) {
    let store = place.open();
    log_in(&*store, "ada");
    let panic = catch_unwind(AssertUnwindSafe(|| store.commit(soon(), &mut |_| panic!("planned"))));
    assert!(panic.is_err());
    assert_eq!(number(&*store), 1);
    assert_eq!(log_in(&*store, "eve"), 2);
    assert_eq!(log_in(&*place.open(), "joe"), 3);
}

fn a_change_that_is_refused_takes_the_others_with_it(place: &dyn Place) {
    let store = place.open();
    let changes =
        [put(user("ada", 1)), Change::Current(Some(id("ada"))), put(user(&"x".repeat(1025), 1))];
    assert!(store.commit(soon(), &mut |_| Ok(changes.to_vec())).is_err());
    assert_eq!((number(&*store), get(&*store, "ada")), (0, None));
    assert_eq!(store.current(soon()).unwrap(), None);
}

fn a_decision_sees_the_newest_state(place: &dyn Place) {
    let (one, other) = (place.open(), place.open());
    log_in(&*one, "ada");
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

fn a_decision_sees_what_a_reader_sees(place: &dyn Place) {
    let store = place.open();
    log_in(&*store, "ada");
    let decided = store.commit(soon(), &mut |tables| {
        assert_eq!(tables.user(&id("ada"))?, store.user(&id("ada"), soon())?);
        assert_eq!(tables.current(), store.current(soon())?);
        Ok(vec![])
    });
    assert_eq!(decided.unwrap(), 1);
}

fn the_last_change_of_a_user_in_a_commit_counts(place: &dyn Place) {
    let store = place.open();
    let long = padded(user("ada", 1), 20_000);
    commit(&*store, &[put(long.clone()), Change::Remove(id("ada")), put(user("ada", 1))]);
    assert_eq!(*get(&*place.open(), "ada").unwrap(), user("ada", 1));
    commit(&*store, &[put(long), Change::Remove(id("ada"))]);
    assert_eq!(get(&*place.open(), "ada"), None);
    let last = store.commit(soon(), &mut |tables| {
        assert_eq!(tables.last_used(&|_| true)?, None);
        Ok(vec![])
    });
    assert_eq!(last.unwrap(), 2);
}

fn removing_nobody_is_a_commit_like_any_other(place: &dyn Place) {
    let store = place.open();
    assert_eq!(commit(&*store, &[Change::Remove(id("ada"))]), 1);
    assert_eq!(number(&*place.open()), 1);
}

fn users_are_ordered_by_created(place: &dyn Place) {
    let store = place.open();
    for name in ["zoe", "ada", "mia"] {
        log_in(&*store, name);
    }
    assert_eq!(names(&*store), ["zoe", "ada", "mia"]);
    // A new log-in of a known user keeps its place.
    let mut again = user("zoe", 1);
    again.used = 4;
    commit(&*store, &[put(again)]);
    assert_eq!(names(&*place.open()), ["zoe", "ada", "mia"]);
    commit(&*store, &[Change::Remove(id("zoe"))]);
    assert_eq!(names(&*place.open()), ["ada", "mia"]);
}

fn last_used(store: &dyn Store, not: &[&str]) -> Option<String> {
    let mut last = None;
    let decided = store.commit(soon(), &mut |tables| {
        let found = tables.last_used(&|user| !not.contains(&user.id.as_str()))?;
        last = found.map(|user| user.id.to_string());
        Ok(vec![])
    });
    decided.unwrap();
    last
}

fn last_used_is_the_highest_that_is_wanted_among_those_logged_in(place: &dyn Place) {
    let store = place.open();
    assert_eq!(last_used(&*store, &[]), None);
    for name in ["ada", "eve", "joe"] {
        log_in(&*store, name);
    }
    assert_eq!(last_used(&*store, &[]).as_deref(), Some("joe"));
    assert_eq!(last_used(&*store, &["joe"]).as_deref(), Some("eve"));
    assert_eq!(last_used(&*store, &["ada", "eve", "joe"]), None);
    commit(&*store, &[put(logged_out(user("joe", 3)))]);
    assert_eq!(last_used(&*store, &[]).as_deref(), Some("eve"));
}

fn last_used_follows_every_change(place: &dyn Place) {
    let store = place.open();
    for name in ["ada", "eve"] {
        log_in(&*store, name);
    }
    let mut again = user("ada", 1);
    again.used = 300;
    commit(&*store, &[put(again.clone())]);
    assert_eq!(last_used(&*store, &[]).as_deref(), Some("ada"));
    again.used = 0;
    commit(&*store, &[put(again)]);
    assert_eq!(last_used(&*store, &[]).as_deref(), Some("eve"));
    commit(&*store, &[Change::Remove(id("eve"))]);
    assert_eq!(last_used(&*place.open(), &[]).as_deref(), Some("ada"));
}

fn switched(to: &str) -> Event {
    Event::CurrentUserChanged { from: None, to: Some(id(to)) }
}

fn events_are_told_in_the_order_of_commits(place: &dyn Place) {
    let (one, other) = (place.open(), place.open());
    commit(&*one, &[Change::Tell(switched("a")), put(user("a", 1)), Change::Tell(switched("b"))]);
    commit(&*other, &[Change::Tell(switched("c"))]);
    commit(&*one, &[Change::Location(None)]);
    for store in [one, other, place.open()] {
        let recent = store.recent(Some(0), soon()).unwrap();
        let events = [(1, switched("a")), (1, switched("b")), (2, switched("c"))];
        assert_eq!(recent.events, events);
        assert_eq!((recent.number, recent.lagged), (3, false));
        assert_eq!(store.recent(Some(1), soon()).unwrap().events, events[2..]);
        let recent = store.recent(Some(3), soon()).unwrap();
        assert_eq!((recent.events.len(), recent.lagged), (0, false));
        assert_eq!(store.recent(None, soon()).unwrap().events, []);
    }
}

fn events_from_before_the_ring_have_lagged(place: &dyn Place) {
    let store = place.open();
    // How many are remembered is the store's own matter; it is 64 at least, and it ends.
    let mut last = 0;
    while last < 64 || !store.recent(Some(0), soon()).unwrap().lagged {
        last = commit(&*store, &[Change::Tell(switched(&last.to_string()))]);
        assert!(last < 5_000, "nothing is ever forgotten");
    }
    let recent = store.recent(Some(0), soon()).unwrap();
    assert_eq!(recent.events.last().unwrap(), &(last, switched(&(last - 1).to_string())));
    let recent = store.recent(Some(last - 10), soon()).unwrap();
    assert_eq!((recent.events.len(), recent.lagged), (10, false));
}

fn who_knows_a_higher_number_has_lagged(place: &dyn Place) {
    let store = place.open();
    log_in(&*store, "ada");
    let recent = store.recent(Some(7), soon()).unwrap();
    assert_eq!((recent.number, recent.lagged), (1, true));
}

fn events_alone_are_a_commit(place: &dyn Place) {
    let store = place.open();
    assert_eq!(commit(&*store, &[Change::Tell(switched("a"))]), 1);
    assert_eq!(store.recent(Some(0), soon()).unwrap().events, [(1, switched("a"))]);
}

/// Runs `meanwhile` while a commit of another thread is inside its decision.
fn during_a_decision(place: &dyn Place, meanwhile: impl FnOnce()) {
    let (inside, is_inside) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let store = place.open();
            let decided = store.commit(soon(), &mut |tables| {
                inside.send(()).unwrap();
                let _ = may_go_on.recv();
                Ok(vec![put(user("slow", tables.number()))])
            });
            decided.unwrap();
        });
        is_inside.recv().unwrap();
        meanwhile();
        drop(go_on);
    });
}

fn reads_go_on_while_somebody_decides(place: &dyn Place) {
    let store = place.open();
    log_in(&*store, "ada");
    during_a_decision(place, || {
        let stores = [place.open(), place.open()];
        for store in stores.iter().chain([&store]) {
            assert_eq!(store.current(now()).unwrap(), Some(id("ada")));
            assert!(store.user(&id("ada"), now()).unwrap().is_some());
            assert_eq!(store.users(now()).unwrap().len(), 1);
            assert_eq!(store.recent(Some(0), now()).unwrap().number, 1);
        }
    });
    assert_eq!(names(&*store), ["ada", "slow"]);
}

fn a_commit_that_cannot_begin_in_time_is_busy(place: &dyn Place) {
    let store = place.open();
    during_a_decision(place, || {
        let began = Instant::now();
        let patience = Deadline::after(Duration::from_millis(100));
        let error = store.commit(patience, &mut |_| panic!("not to be asked")).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Busy);
        let waited = began.elapsed();
        assert!((100..2000).contains(&waited.as_millis()), "{waited:?}");
    });
    assert_eq!(log_in(&*store, "ada"), 2);
}

fn a_passed_deadline_is_tried_once(place: &dyn Place) {
    let store = place.open();
    let number = store.commit(now(), &mut |_| Ok(vec![put(user("ada", 1))])).unwrap();
    assert_eq!(number, 1);
    assert!(store.refresh_flight(&id("ada"), now()).unwrap().is_some());
}

fn try_flight(store: &dyn Store, user: &str) -> Option<Flight> {
    store.refresh_flight(&id(user), now()).unwrap()
}

fn a_flight_has_one_holder_until_it_is_dropped(place: &dyn Place) {
    let (one, other) = (place.open(), place.open());
    let flight = try_flight(&*one, "ada");
    assert!(flight.is_some());
    assert!(try_flight(&*one, "ada").is_none());
    assert!(try_flight(&*other, "ada").is_none());
    drop(flight);
    assert!(try_flight(&*other, "ada").is_some());
}

fn a_flight_is_given_back_by_a_panic(place: &dyn Place) {
    let store = place.open();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _flight = try_flight(&*store, "ada").unwrap();
        panic!("planned");
    }));
    assert!(panic.is_err());
    assert!(try_flight(&*store, "ada").is_some());
}

fn a_flight_is_waited_for_until_the_deadline(place: &dyn Place) {
    let store = place.open();
    let flight = try_flight(&*store, "ada");
    let began = Instant::now();
    let patience = Deadline::after(Duration::from_millis(100));
    assert!(store.refresh_flight(&id("ada"), patience).unwrap().is_none());
    let waited = began.elapsed();
    assert!((100..2000).contains(&waited.as_millis()), "{waited:?}");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| store.refresh_flight(&id("ada"), soon()).unwrap());
        drop(flight);
        assert!(waiter.join().unwrap().is_some());
    });
}

fn a_flight_excludes_no_commit_and_no_read(place: &dyn Place) {
    let store = place.open();
    let _flight = try_flight(&*store, "ada").unwrap();
    log_in(&*store, "ada");
    assert!(place.open().user(&id("ada"), now()).unwrap().is_some());
}

fn debug_shows_no_secret(place: &dyn Place) {
    let store = place.open();
    let change = put(user_with("ada", 1, "hush"));
    commit(&*store, std::slice::from_ref(&change));
    let user = get(&*store, "ada").unwrap();
    let flight = try_flight(&*store, "ada");
    let recent = store.recent(Some(0), soon()).unwrap();
    let shown = format!("{change:?} {user:?} {flight:?} {recent:?}");
    assert!(shown.contains("ada") && !shown.contains("hush"), "{shown}");
}

#[test]
fn debug_of_the_stores_shows_no_secret() {
    let (memory, dir) = (MemoryStore::new(), Dir::new());
    let sled = dir.open();
    for store in [&memory as &dyn Store, &sled] {
        commit(store, &[put(user_with("ada", 1, "hush"))]);
    }
    let shown = format!("{memory:?} {sled:?}");
    assert!(shown.contains("SledStore") && !shown.contains("hush"), "{shown}");
}

fn values_of_any_size_come_back_whole(place: &dyn Place) {
    let store = place.open();
    let sizes = [0, 3_000, 3_999, 4_000, 5_000, 8_000, 100_000, 1_000_000, 4_001, 100, 100_000];
    for size in sizes {
        let written = padded(user("ada", 1), size);
        commit(&*store, &[put(written.clone()), Change::Location(Some("l".repeat(size)))]);
        let store = place.open();
        assert!(*get(&*store, "ada").unwrap() == written, "{size}");
        assert_eq!(store.location(soon()).unwrap().unwrap().len(), size);
        let decided = store.commit(soon(), &mut |tables| {
            assert!(*tables.user(&id("ada"))?.unwrap() == written, "{size}");
            Ok(vec![])
        });
        decided.unwrap();
    }
}

fn more_users_than_a_snapshot_holds_are_all_there(place: &dyn Place) {
    const USERS: u64 = 120;
    let name = |number: u64| format!("user {number:03}");
    let store = place.open();
    let all = (1..=USERS).map(|number| put(padded(user(&name(number), number), 2_000)));
    commit(&*store, &all.collect::<Vec<_>>());
    commit(&*store, &[Change::Current(Some(id(&name(7))))]);
    for store in [&*store, &*place.open()] {
        assert_eq!(store.current(now()).unwrap(), Some(id(&name(7))));
        assert!(store.user(&id(&name(7)), now()).unwrap().is_some());
        for number in [1, 2, 60, USERS] {
            let found = get(store, &name(number)).unwrap();
            assert_eq!(*found, padded(user(&name(number), number), 2_000));
        }
        assert_eq!(get(store, "nobody"), None);
        assert_eq!(names(store), (1..=USERS).map(name).collect::<Vec<_>>());
        assert_eq!(last_used(store, &[]), Some(name(USERS)));
    }
    // From the last one to the first: the order of use is known beyond what is at hand.
    for number in (2..=USERS).rev().step_by(10) {
        let gone: Vec<_> =
            (number..=USERS).map(|number| Change::Remove(id(&name(number)))).collect();
        commit(&*store, &gone);
        assert_eq!(last_used(&*store, &[]), Some(name(number - 1)));
        assert_eq!(names(&*place.open()).len() as u64, number - 1);
    }
}

fn ids_are_any_text(place: &dyn Place) {
    let ids = [
        "",
        ".",
        "..",
        "/",
        "../../etc/passwd",
        "a/b",
        "a\0b",
        "a",
        "a\0",
        "a\0\0",
        "a\0\0\0\0",
        "\0",
        "u/",
        "meta/head",
        "line\nbreak",
        "\u{202e}ʇxǝʇ",
        "🔑",
        "ſ",
        "s",
        "S",
        &"x".repeat(1024),
        &"x".repeat(1023),
    ];
    let store = place.open();
    for (number, name) in (1..).zip(ids) {
        commit(&*store, &[put(user(name, number)), Change::Current(Some(id(name)))]);
        assert!(try_flight(&*store, name).is_some());
    }
    let store = place.open();
    assert_eq!(names(&*store), ids);
    for (number, name) in (1..).zip(ids) {
        assert_eq!(*get(&*store, name).unwrap(), user(name, number), "{name:?}");
    }
    for (count, name) in ids.iter().enumerate() {
        commit(&*store, &[Change::Remove(id(name))]);
        assert_eq!(names(&*store), ids[count + 1..]);
    }
}

fn ids_that_are_too_long_are_refused(place: &dyn Place) {
    let store = place.open();
    let long = "é".repeat(600);
    let error = store.commit(soon(), &mut |_| Ok(vec![put(user(&long, 1))])).unwrap_err();
    assert!(error.to_string().contains("more than 1024 bytes"), "{error}");
    assert_eq!(get(&*store, &long), None);
}

fn unknown_fields_survive_a_rewrite(place: &dyn Place) {
    let store = place.open();
    let mut written = user("ada", 1);
    written.more.insert("from_the_future".into(), json!({"deep": [1, "two", null, {"x": 3.5}]}));
    commit(&*store, &[put(written)]);
    let rewritten = place.open().commit(soon(), &mut |tables| {
        let mut user = (*tables.user(&id("ada"))?.unwrap()).clone();
        user.skew = 1234;
        Ok(vec![put(user)])
    });
    assert_eq!(rewritten.unwrap(), 2);
    let read = get(&*place.open(), "ada").unwrap();
    assert_eq!(read.skew, 1234);
    assert_eq!(read.more["from_the_future"]["deep"][3]["x"], 3.5);
}

fn records_come_back_as_they_were(place: &dyn Place) {
    let store = place.open();
    let mut full = user("ada", 3);
    full.device_id = serde_json::from_value(json!("5f0000000000000000000001")).unwrap();
    (full.epoch, full.created, full.used, full.skew) = (u64::MAX, u64::MAX - 1, u64::MAX, i64::MIN);
    let bare = keyfob::store::StoredUser::new(id("eve"));
    commit(&*store, &[put(full.clone()), put(bare.clone())]);
    assert_eq!(*get(&*place.open(), "ada").unwrap(), full);
    let read = get(&*place.open(), "eve").unwrap();
    assert_eq!(*read, bare);
    assert_eq!(read.state, UserState::LoggedOut);
}

fn concurrent_commits_lose_nothing(place: &dyn Place) {
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
    let store = place.open();
    let total = THREADS as u64 * COMMITS;
    assert_eq!(number(&*store), total);
    assert_eq!(get(&*store, "shared").unwrap().epoch, 1 + total);
}

fn flights_of_many_threads_exclude_each_other(place: &dyn Place) {
    let inside = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = place.open();
                for _ in 0..20 {
                    let flight = store.refresh_flight(&id("ada"), soon()).unwrap().unwrap();
                    assert!(!inside.swap(true, std::sync::atomic::Ordering::SeqCst));
                    thread::yield_now();
                    inside.store(false, std::sync::atomic::Ordering::SeqCst);
                    drop(flight);
                }
            });
        }
    });
}
