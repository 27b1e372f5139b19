//! Tests of users: stored unchanged, whatever their content, and listed in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::UserState;
use crate::store::{Change, Store, StoredUser, validate};
use serde_json::json;

use super::StoreFactory;
use super::tools::*;

pub(super) fn users_are_ordered_by_creation(place: &dyn StoreFactory) {
    let store = place.open();
    for name in ["zoe", "ada", "mia"] {
        log_in(&*store, name);
    }
    assert_eq!(names(&*store), ["zoe", "ada", "mia"]);
    // Another log-in of a user does not change its position.
    let mut again = user("zoe", 1);
    again.last_used_commit = 4;
    commit(&*store, &[put(again)]);
    assert_eq!(names(&*reopen(place)), ["zoe", "ada", "mia"]);
    commit(&*store, &[Change::Remove(id("zoe"))]);
    assert_eq!(names(&*reopen(place)), ["ada", "mia"]);
}

/// A number of users that no store lists in one page.
const MANY: u64 = 600;

fn many(number: u64) -> String {
    format!("user {number:03}")
}

fn put_many(store: &dyn Store) {
    // The first users have the same `created_commit`, so that they are ordered by `id`.
    let record = |number: u64| put(padded(user(&many(number), number.max(50)), 10_000));
    commit(store, &(0..MANY).map(record).collect::<Vec<_>>());
}

/// Returns the page after a user.
fn page_after(store: &dyn Store, last: Option<&StoredUser>) -> Vec<Arc<StoredUser>> {
    store.users_after(last.map(|last| (last.created_commit, &last.id)), soon()).unwrap()
}

pub(super) fn listing_shows_each_user_once(place: &dyn StoreFactory) {
    let (store, other) = (place.open(), place.open());
    put_many(&*store);
    let mut shown = Vec::new();
    let mut last: Option<Arc<StoredUser>> = None;
    let mut pages = 0;
    loop {
        let page = page_after(&*store, last.as_deref());
        let Some(end) = page.last() else { break };
        shown.extend(page.iter().map(|user| user.id.to_string()));
        pages += 1;
        // Remove the last user that was listed and every other one of the next, and use the rest.
        let number = shown.len() as u64;
        let mut changes = vec![Change::Remove(end.id.clone())];
        for number in number..(number + 40).min(MANY) {
            let mut used = padded(user(&many(number), number.max(50)), 10_000);
            used.last_used_commit += 1_000;
            let gone = Change::Remove(id(&many(number)));
            changes.push(if number % 2 == 1 { gone } else { put(used) });
        }
        if number < MANY / 2 {
            changes.push(put(user(&format!("new {pages}"), MANY + pages)));
        }
        commit(&*other, &changes);
        last = Some(Arc::clone(end));
        assert!(pages <= 2 * MANY, "the listing does not end");
    }
    assert!(pages > 1, "all users at once");
    let mut once = shown.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), shown.len(), "a user was shown twice");
    catch_up(place);
    for stayed in names(&*store) {
        assert!(stayed.starts_with("new") || shown.contains(&stayed), "{stayed} was left out");
    }
    let old = shown.iter().filter(|name| !name.starts_with("new"));
    assert!(old.is_sorted(), "they were not shown in their order");
}

pub(super) fn page_is_from_one_state(place: &dyn StoreFactory) {
    let both = |epoch: u64| {
        let at = |name: &str, created| {
            let mut user = padded(user(name, created), 100);
            user.epoch = epoch;
            put(user)
        };
        vec![at("ada", 1), at("eve", 2)]
    };
    let store = place.open();
    commit_numbered(&*store, both);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let store = place.open();
            while !is_done.load(Ordering::SeqCst) {
                commit_numbered(&*store, both);
            }
        });
        let pages = || (0..50).map(|_| page_after(&*store, None));
        let is_whole = |page: &[Arc<StoredUser>]| match page {
            [ada, eve] => ada.epoch == eve.epoch,
            _ => true,
        };
        let are_whole = pages().all(|page| is_whole(&page));
        is_done.store(true, Ordering::SeqCst);
        assert!(are_whole);
    });
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

pub(super) fn last_used_is_highest_matching_user(place: &dyn StoreFactory) {
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

pub(super) fn last_used_follows_changes(place: &dyn StoreFactory) {
    let store = place.open();
    for name in ["ada", "eve"] {
        log_in(&*store, name);
    }
    let mut again = user("ada", 1);
    again.last_used_commit = 300;
    commit(&*store, &[put(again.clone())]);
    assert_eq!(last_used(&*store, &[]).as_deref(), Some("ada"));
    again.last_used_commit = 0;
    commit(&*store, &[put(again)]);
    assert_eq!(last_used(&*store, &[]).as_deref(), Some("eve"));
    commit(&*store, &[Change::Remove(id("eve"))]);
    assert_eq!(last_used(&*place.open(), &[]).as_deref(), Some("ada"));
}

pub(super) fn debug_shows_no_secret(place: &dyn StoreFactory) {
    let store = place.open();
    let change = put(user_with("ada", 1, "hush"));
    commit(&*store, std::slice::from_ref(&change));
    let user = get(&*store, "ada").unwrap();
    let flight = try_flight(&*store, "ada");
    let recent = store.recent(Some(0), soon()).unwrap();
    let shown = format!("{change:?} {user:?} {flight:?} {recent:?}");
    assert!(shown.contains("ada") && !shown.contains("hush"), "{shown}");
}

pub(super) fn errors_show_no_secret(place: &dyn StoreFactory) {
    let store = place.open();
    let refused = || vec![put(user_with(&"x".repeat(1025), 1, "hush"))];
    let error = store.commit(soon(), &mut |_| Ok(refused())).unwrap_err();
    let mut shown = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        shown += &format!(" {error} {error:?}");
        cause = error.source();
    }
    assert!(!shown.contains("hush"), "{shown}");
}

pub(super) fn values_of_any_size_round_trip(place: &dyn StoreFactory) {
    let store = place.open();
    let sizes = [0, 3_000, 3_999, 4_000, 5_000, 8_000, 100_000, 1_000_000, 4_001, 100, 100_000];
    for size in sizes {
        let written = padded(user("ada", 1), size);
        commit(&*store, &[put(written.clone()), Change::Location(Some("l".repeat(size)))]);
        let store = reopen(place);
        assert!(*get(&*store, "ada").unwrap() == written, "{size}");
        assert_eq!(store.location(soon()).unwrap().unwrap().len(), size);
        let decided = store.commit(soon(), &mut |tables| {
            assert!(*tables.user(&id("ada"))?.unwrap() == written, "{size}");
            Ok(vec![])
        });
        decided.unwrap();
    }
}

pub(super) fn users_beyond_snapshot_are_found(place: &dyn StoreFactory) {
    const USERS: u64 = 120;
    let name = |number: u64| format!("user {number:03}");
    let store = place.open();
    let all = (1..=USERS).map(|number| put(padded(user(&name(number), number), 2_000)));
    commit(&*store, &all.collect::<Vec<_>>());
    commit(&*store, &[Change::Current(Some(id(&name(7))))]);
    for store in [&*store, &*reopen(place)] {
        assert_eq!(store.current(brief()).unwrap(), Some(id(&name(7))));
        assert!(store.user(&id(&name(7)), brief()).unwrap().is_some());
        for number in [1, 2, 60, USERS] {
            let found = get(store, &name(number)).unwrap();
            assert_eq!(*found, padded(user(&name(number), number), 2_000));
        }
        assert_eq!(get(store, "nobody"), None);
        assert_eq!(names(store), (1..=USERS).map(name).collect::<Vec<_>>());
        assert_eq!(last_used(store, &[]), Some(name(USERS)));
    }
    // Remove all users from the last one on: the order of use must include users beyond the snapshot.
    for number in (2..=USERS).rev().step_by(10) {
        let gone: Vec<_> =
            (number..=USERS).map(|number| Change::Remove(id(&name(number)))).collect();
        commit(&*store, &gone);
        assert_eq!(last_used(&*store, &[]), Some(name(number - 1)));
        assert_eq!(names(&*reopen(place)).len() as u64, number - 1);
    }
}

pub(super) fn ids_can_be_any_text(place: &dyn StoreFactory) {
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
    let store = reopen(place);
    assert_eq!(names(&*store), ids);
    for (number, name) in (1..).zip(ids) {
        assert_eq!(*get(&*store, name).unwrap(), user(name, number), "{name:?}");
    }
    for (count, name) in ids.iter().enumerate() {
        commit(&*store, &[Change::Remove(id(name))]);
        assert_eq!(names(&*store), ids[count + 1..]);
    }
}

pub(super) fn long_ids_are_rejected(place: &dyn StoreFactory) {
    let store = place.open();
    let long = "é".repeat(600);
    let error = store.commit(soon(), &mut |_| Ok(vec![put(user(&long, 1))])).unwrap_err();
    let expected = validate(&[put(user(&long, 1))]).unwrap_err();
    assert_eq!((error.kind, &error.reason), (expected.kind, &expected.reason));
    assert_eq!(get(&*store, &long), None);
}

pub(super) fn unknown_fields_survive_a_rewrite(place: &dyn StoreFactory) {
    let store = place.open();
    let mut written = user("ada", 1);
    written
        .unknown_fields
        .insert("from_the_future".into(), json!({"deep": [1, "two", null, {"x": 3.5}]}));
    commit(&*store, &[put(written)]);
    let rewritten = place.open().commit(soon(), &mut |tables| {
        let mut user = (*tables.user(&id("ada"))?.unwrap()).clone();
        user.clock_skew_ms = 1234;
        Ok(vec![put(user)])
    });
    assert_eq!(rewritten.unwrap(), 2);
    let read = get(&*reopen(place), "ada").unwrap();
    assert_eq!(read.clock_skew_ms, 1234);
    assert_eq!(read.unknown_fields["from_the_future"]["deep"][3]["x"], 3.5);
}

pub(super) fn records_round_trip(place: &dyn StoreFactory) {
    let store = place.open();
    let mut full = user("ada", 3);
    full.device_id = serde_json::from_value(json!("5f0000000000000000000001")).unwrap();
    (full.epoch, full.created_commit, full.last_used_commit, full.clock_skew_ms) =
        (u64::MAX, u64::MAX - 1, u64::MAX, i64::MIN);
    let bare = StoredUser::new(id("eve"));
    commit(&*store, &[put(full.clone()), put(bare.clone())]);
    assert_eq!(*get(&*reopen(place), "ada").unwrap(), full);
    let read = get(&*place.open(), "eve").unwrap();
    assert_eq!(*read, bare);
    assert_eq!(read.state, UserState::LoggedOut);
}
