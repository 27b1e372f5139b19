//! The requirements of `Store`, checked for all stores of this crate.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;

use keyfob::store::contract::{REQUIREMENTS, StoreFactory};
use keyfob::store::{MemoryStore, Store};

use store_support::*;

impl StoreFactory for Dir {
    fn open(&self) -> Box<dyn Store> {
        Box::new(Dir::open(self))
    }
}

fn check(requirement: &str, place: &dyn StoreFactory) {
    REQUIREMENTS.iter().find(|known| known.name == requirement).unwrap().check(place);
}

fn memory() -> impl StoreFactory {
    let store = MemoryStore::new();
    move || Box::new(store.clone()) as Box<dyn Store>
}

macro_rules! requirements {
    ($($requirement:ident)*) => {
        mod memory_store {
            $(#[test] fn $requirement() { super::check(stringify!($requirement), &super::memory()); })*
        }
        mod sled_store {
            $(#[test] fn $requirement() { super::check(stringify!($requirement), &super::Dir::new()); })*
        }
        #[cfg(feature = "encryption")]
        mod encrypted_store {
            $(#[test] fn $requirement() { super::check(stringify!($requirement), &super::Dir::encrypted()); })*
        }
        const CHECKED: &[&str] = &[$(stringify!($requirement)),*];
    };
}

requirements! {
    new_store_is_empty
    commit_is_visible_to_all_at_once
    current_user_and_location_are_set_and_cleared
    commit_numbers_rise_by_one
    empty_decision_commits_nothing
    decision_error_changes_nothing
    decision_panic_changes_nothing
    rejected_change_rejects_whole_commit
    decision_sees_newest_state
    decision_sees_state_of_readers
    last_change_of_user_wins
    removing_unknown_user_is_commit
    users_are_ordered_by_creation
    last_used_is_highest_matching_user
    last_used_follows_changes
    events_follow_commit_order
    events_before_log_are_lagged
    higher_number_is_lagged
    events_alone_are_commit
    reads_continue_during_decision
    commit_timeout_is_busy
    passed_deadline_tries_once
    refresh_lock_has_one_holder
    panic_releases_refresh_lock
    refresh_lock_waits_until_deadline
    refresh_lock_allows_commits_and_reads
    debug_shows_no_secret
    values_of_any_size_round_trip
    users_beyond_snapshot_are_found
    ids_can_be_any_text
    long_ids_are_rejected
    unknown_fields_survive_a_rewrite
    records_round_trip
    concurrent_commits_lose_nothing
    reads_never_return_older_state
    declared_staleness_is_within_bound
    listing_shows_each_user_once
    page_is_from_one_state
    errors_show_no_secret
    events_of_commit_stay_together
    waiting_read_ends_at_deadline
    refresh_lock_can_be_sent_to_threads
    refresh_locks_exclude_threads
    lock_refresh_shows_newest_commits
    refresh_lock_is_held_until_dropped
}

#[test]
fn stores_meet_all_requirements() {
    let mut known: Vec<_> = REQUIREMENTS.iter().map(|requirement| requirement.name).collect();
    let mut checked = CHECKED.to_vec();
    known.sort_unstable();
    checked.sort_unstable();
    assert_eq!(checked, known);
}

#[test]
fn store_debug_shows_no_secret() {
    let (memory, dir) = (MemoryStore::new(), Dir::new());
    let sled = dir.open();
    for store in [&memory as &dyn Store, &sled] {
        commit(store, &[put(user_with("ada", 1, "hush"))]);
    }
    let shown = format!("{memory:?} {sled:?}");
    assert!(shown.contains("SledStore") && !shown.contains("hush"), "{shown}");
}
