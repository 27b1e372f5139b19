//! The laws of `Store`, held against every store there is.

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

fn hold(law: &str, place: &dyn StoreFactory) {
    REQUIREMENTS.iter().find(|known| known.name == law).unwrap().check(place);
}

fn memory() -> impl StoreFactory {
    let store = MemoryStore::new();
    move || Box::new(store.clone()) as Box<dyn Store>
}

macro_rules! laws {
    ($($law:ident)*) => {
        mod memory_store {
            $(#[test] fn $law() { super::hold(stringify!($law), &super::memory()); })*
        }
        mod sled_store {
            $(#[test] fn $law() { super::hold(stringify!($law), &super::Dir::new()); })*
        }
        #[cfg(feature = "encryption")]
        mod sealed_store {
            $(#[test] fn $law() { super::hold(stringify!($law), &super::Dir::sealed()); })*
        }
        const HELD: &[&str] = &[$(stringify!($law)),*];
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
    reads_never_go_back
    declared_staleness_is_within_bound
    a_listing_shows_who_stays_exactly_once
    a_page_is_of_one_state
    errors_show_no_secret
    events_of_one_commit_stay_together
    a_read_that_has_to_wait_ends_with_its_deadline
    a_flight_is_its_holders_wherever_it_goes
    flights_of_many_threads_exclude_each_other
    lock_refresh_shows_newest_commits
    refresh_lock_is_held_until_dropped
}

#[test]
fn every_law_is_held() {
    let mut known: Vec<_> = REQUIREMENTS.iter().map(|law| law.name).collect();
    let mut held = HELD.to_vec();
    known.sort_unstable();
    held.sort_unstable();
    assert_eq!(held, known);
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
