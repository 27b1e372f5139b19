//! The laws of [`Store`] as a test suite, for whoever writes a store.
//!
//! ```
//! use keyfob::store::{MemoryStore, Store, contract};
//!
//! // Each law is held against a place of its own, which it opens any number of times.
//! contract::check_all(&|| {
//!     let place = MemoryStore::new();
//!     Box::new(move || Box::new(place.clone()) as Box<dyn Store>)
//! });
//! ```
//!
//! A store whose reads may be [stale](Store::staleness) is tested through a [`StoreFactory`] of its
//! own, which says for how long. The tests wait that long before they read through another handle.
//!
//! What a kill or a power cut leaves is not looked at here: only the store knows how to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a law that is broken panics")]

mod commits;
mod events;
mod tools;
mod users;
mod waiting;

use std::fmt;
use std::time::Duration;

use crate::store::Store;

/// Where a store lives: it can be opened any number of times, also at the same time, and all who
/// open it share what is in it. It begins empty.
pub trait StoreFactory: Sync {
    /// Opens the store.
    fn open(&self) -> Box<dyn Store>;

    /// How old a read through another handle may be, at most. Defaults to zero.
    fn staleness(&self) -> Duration {
        Duration::ZERO
    }
}

impl<F: Fn() -> Box<dyn Store> + Sync> StoreFactory for F {
    fn open(&self) -> Box<dyn Store> {
        self()
    }
}

/// One law.
pub struct Requirement {
    /// What it says.
    pub name: &'static str,
    check: fn(&dyn StoreFactory),
}

impl Requirement {
    /// Holds the store in an empty place to the law.
    ///
    /// # Panics
    /// If it is broken.
    pub fn check(&self, place: &dyn StoreFactory) {
        (self.check)(place);
    }
}

impl fmt::Debug for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requirement").field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! laws {
    ($($group:ident::$law:ident;)*) => {
        /// All laws, each to be held against a place of its own.
        pub const REQUIREMENTS: &[Requirement] = &[$(Requirement { name: stringify!($law), check: $group::$law }),*];
    };
}

laws! {
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

/// Holds a store to all laws, each time in a new and empty place. It prints their names, takes
/// some seconds, and is for tests.
///
/// # Panics
/// If a law is broken: the last name that was printed is that law's.
pub fn check_all(empty: &dyn Fn() -> Box<dyn StoreFactory>) {
    for law in REQUIREMENTS {
        println!("{}", law.name);
        law.check(&*empty());
    }
}
