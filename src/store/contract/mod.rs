//! A conformance test suite for implementations of [`Store`].
//!
//! ```
//! use keyfob::store::{MemoryStore, Store, contract};
//!
//! // Each test gets an empty store of its own, which it opens any number of times.
//! contract::check_all(&|| {
//!     let store = MemoryStore::new();
//!     Box::new(move || Box::new(store.clone()) as Box<dyn Store>)
//! });
//! ```
//!
//! If reads of a store may be [stale](Store::staleness), implement [`StoreFactory`] for it and return
//! the largest staleness there. The tests wait that long before they read through another handle.
//!
//! The suite does not test kills and power cuts, which depend on the store.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test panics")]

mod commits;
mod events;
mod tools;
mod users;
mod waiting;

use std::fmt;
use std::time::Duration;

use crate::store::Store;

/// Opens handles of one store, which is empty at first. Several handles may be open at the same time,
/// and all share the content.
pub trait StoreFactory: Sync {
    /// Opens a handle.
    fn open(&self) -> Box<dyn Store>;

    /// Returns the largest age of a state that a read through another handle returns. Defaults to
    /// zero.
    fn staleness(&self) -> Duration {
        Duration::ZERO
    }
}

impl<F: Fn() -> Box<dyn Store> + Sync> StoreFactory for F {
    fn open(&self) -> Box<dyn Store> {
        self()
    }
}

/// A requirement of [`Store`] and its test.
pub struct Requirement {
    /// The name of the test.
    pub name: &'static str,
    check: fn(&dyn StoreFactory),
}

impl Requirement {
    /// Runs the test on an empty store.
    ///
    /// # Panics
    /// If the store does not meet the requirement.
    pub fn check(&self, store: &dyn StoreFactory) {
        (self.check)(store);
    }
}

impl fmt::Debug for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requirement").field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! requirements {
    ($($group:ident::$test:ident;)*) => {
        /// All requirements, each to be tested on a store of its own.
        pub const REQUIREMENTS: &[Requirement] =
            &[$(Requirement { name: stringify!($test), check: $group::$test }),*];
    };
}

requirements! {
    commits::new_store_is_empty;
    commits::commit_is_visible_to_all_at_once;
    commits::current_user_and_location_are_set_and_cleared;
    commits::commit_numbers_rise_by_one;
    commits::empty_decision_commits_nothing;
    commits::decision_error_changes_nothing;
    commits::decision_panic_changes_nothing;
    commits::rejected_change_rejects_whole_commit;
    commits::decision_sees_newest_state;
    commits::decision_sees_state_of_readers;
    commits::last_change_of_user_wins;
    commits::removing_unknown_user_is_commit;
    commits::concurrent_commits_lose_nothing;
    commits::reads_never_return_older_state;
    commits::declared_staleness_is_within_bound;
    users::users_are_ordered_by_creation;
    users::listing_shows_each_user_once;
    users::page_is_from_one_state;
    users::last_used_is_highest_matching_user;
    users::last_used_follows_changes;
    users::users_beyond_snapshot_are_found;
    users::values_of_any_size_round_trip;
    users::ids_can_be_any_text;
    users::long_ids_are_rejected;
    users::unknown_fields_survive_a_rewrite;
    users::records_round_trip;
    users::debug_shows_no_secret;
    users::errors_show_no_secret;
    events::events_follow_commit_order;
    events::events_of_commit_stay_together;
    events::events_before_log_are_lagged;
    events::higher_number_is_lagged;
    events::events_alone_are_commit;
    waiting::reads_continue_during_decision;
    waiting::waiting_read_ends_at_deadline;
    waiting::commit_timeout_is_busy;
    waiting::passed_deadline_tries_once;
    waiting::refresh_lock_has_one_holder;
    waiting::panic_releases_refresh_lock;
    waiting::refresh_lock_can_be_sent_to_threads;
    waiting::refresh_lock_waits_until_deadline;
    waiting::refresh_lock_allows_commits_and_reads;
    waiting::lock_refresh_shows_newest_commits;
    waiting::refresh_lock_is_held_until_dropped;
    waiting::refresh_locks_exclude_threads;
}

/// Runs all tests, each on a new store from `empty`, and prints their names. This takes some seconds.
///
/// # Panics
/// If the store does not meet a requirement, whose name was printed last.
pub fn check_all(empty: &dyn Fn() -> Box<dyn StoreFactory>) {
    for requirement in REQUIREMENTS {
        println!("{}", requirement.name);
        requirement.check(&*empty());
    }
}
