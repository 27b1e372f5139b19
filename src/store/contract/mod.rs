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
    commits::a_new_store_has_nobody;
    commits::a_commit_is_seen_by_everybody_at_once;
    commits::current_user_and_location_are_set_and_cleared;
    commits::numbers_rise_by_one_whoever_commits;
    commits::a_decision_without_changes_is_no_commit;
    commits::an_error_of_the_decision_changes_nothing_and_is_passed_on;
    commits::a_panic_of_the_decision_changes_nothing_and_blocks_nobody;
    commits::a_change_that_is_refused_takes_the_others_with_it;
    commits::a_decision_sees_the_newest_state;
    commits::a_decision_sees_what_a_reader_sees;
    commits::the_last_change_of_a_user_in_a_commit_counts;
    commits::removing_nobody_is_a_commit_like_any_other;
    commits::concurrent_commits_lose_nothing;
    commits::reads_never_go_back;
    commits::declared_staleness_is_within_bound;
    users::users_are_ordered_by_created;
    users::a_listing_shows_who_stays_exactly_once;
    users::a_page_is_of_one_state;
    users::last_used_is_the_highest_that_is_wanted_among_those_logged_in;
    users::last_used_follows_every_change;
    users::more_users_than_a_snapshot_holds_are_all_there;
    users::values_of_any_size_come_back_whole;
    users::ids_are_any_text;
    users::ids_that_are_too_long_are_refused;
    users::unknown_fields_survive_a_rewrite;
    users::records_come_back_as_they_were;
    users::debug_shows_no_secret;
    users::errors_show_no_secret;
    events::events_are_told_in_the_order_of_commits;
    events::events_of_one_commit_stay_together;
    events::events_from_before_the_ring_have_lagged;
    events::who_knows_a_higher_number_has_lagged;
    events::events_alone_are_a_commit;
    waiting::reads_go_on_while_somebody_decides;
    waiting::a_read_that_has_to_wait_ends_with_its_deadline;
    waiting::a_commit_that_cannot_begin_in_time_is_busy;
    waiting::a_passed_deadline_is_tried_once;
    waiting::a_flight_has_one_holder_until_it_is_dropped;
    waiting::a_flight_is_given_back_by_a_panic;
    waiting::a_flight_is_its_holders_wherever_it_goes;
    waiting::a_flight_is_waited_for_until_the_deadline;
    waiting::a_flight_excludes_no_commit_and_no_read;
    waiting::lock_refresh_shows_newest_commits;
    waiting::refresh_lock_is_held_until_dropped;
    waiting::flights_of_many_threads_exclude_each_other;
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
