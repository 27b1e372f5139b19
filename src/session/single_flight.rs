//! Single flight: the first caller for a key does the work, later callers wait and share its
//! outcome.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::deadline::Deadline;

/// The work in progress, by key.
pub(super) struct SingleFlight<K, T> {
    in_progress: Table<K, T>,
}

type Table<K, T> = Arc<Mutex<HashMap<K, Arc<Shared<T>>>>>;

/// The role of a caller.
pub(super) enum Role<K: Clone + Eq + Hash, T> {
    /// Do the work.
    Leader(Leader<K, T>),
    /// Another thread is doing it.
    Follower(Follower<T>),
}

/// The right to do the work. If it is dropped without an outcome (by a panic), followers may try
/// again.
pub(super) struct Leader<K: Clone + Eq + Hash, T> {
    all: Table<K, T>,
    key: K,
    shared: Arc<Shared<T>>,
}

/// Work of another thread, to wait for.
pub(super) struct Follower<T>(Arc<Shared<T>>);

struct Shared<T> {
    outcome: Mutex<Outcome<T>>,
    finished: Condvar,
}

/// The state of the work, as a follower sees it.
#[derive(Clone)]
pub(super) enum Outcome<T> {
    /// The work is in progress. After a wait: the deadline passed first.
    Pending,
    Done(T),
    /// The leader ended without an outcome; try again.
    Abandoned,
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self { in_progress: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash, T: Clone> SingleFlight<K, T> {
    /// Joins the work for a key, or starts it.
    pub(super) fn join(&self, key: &K) -> Role<K, T> {
        let mut in_progress = self.in_progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = in_progress.get(key) {
            return Role::Follower(Follower(shared.clone()));
        }
        let shared =
            Arc::new(Shared { outcome: Mutex::new(Outcome::Pending), finished: Condvar::new() });
        in_progress.insert(key.clone(), shared.clone());
        Role::Leader(Leader { all: Arc::clone(&self.in_progress), key: key.clone(), shared })
    }
}

impl<K: Clone + Eq + Hash, T> Leader<K, T> {
    /// Publishes the outcome to all followers. Later callers start new work.
    pub(super) fn done(self, outcome: T) {
        self.finish(Outcome::Done(outcome));
    }

    /// Returns a follower of this work, for a leader that runs it on another thread.
    pub(super) fn follow(&self) -> Follower<T> {
        Follower(Arc::clone(&self.shared))
    }

    fn finish(&self, outcome: Outcome<T>) {
        // Remove it from the table first: callers that join from now on must not get an old
        // outcome.
        let mut in_progress = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if in_progress.get(&self.key).is_some_and(|shared| Arc::ptr_eq(shared, &self.shared)) {
            in_progress.remove(&self.key);
        }
        drop(in_progress);
        let mut shared = self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*shared, Outcome::Pending) {
            *shared = outcome;
        }
        drop(shared);
        self.shared.finished.notify_all();
    }
}

impl<K: Clone + Eq + Hash, T> Drop for Leader<K, T> {
    fn drop(&mut self) {
        self.finish(Outcome::Abandoned);
    }
}

impl<T: Clone> Follower<T> {
    /// Waits for the outcome until the deadline.
    pub(super) fn wait(&self, deadline: Deadline) -> Outcome<T> {
        let mut outcome = self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        while matches!(*outcome, Outcome::Pending) && !deadline.has_passed() {
            let waited = self.0.finished.wait_timeout(outcome, deadline.poll_interval());
            outcome = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        outcome.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::time::Duration;

    use super::*;

    #[test]
    fn outcome_is_shared_only_with_waiting_callers() {
        let single = SingleFlight::<u8, u32>::default();
        let Role::Leader(lead) = single.join(&1) else { panic!("nothing is in progress") };
        let Role::Follower(follow) = single.join(&1) else { panic!("it is in progress") };
        assert!(matches!(single.join(&2), Role::Leader(_)));
        assert!(matches!(follow.wait(Deadline::after(Duration::ZERO)), Outcome::Pending));
        lead.done(7);
        assert!(matches!(follow.wait(Deadline::after(Duration::ZERO)), Outcome::Done(7)));
        assert!(matches!(single.join(&1), Role::Leader(_)));
    }

    #[test]
    fn panicked_leader_is_replaced() {
        let single = SingleFlight::<(), u32>::default();
        let mut follow = None;
        let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let Role::Leader(_lead) = single.join(&()) else { return };
            if let Role::Follower(other) = single.join(&()) {
                follow = Some(other);
            }
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        let waited = follow.unwrap().wait(Deadline::after(Duration::from_secs(5)));
        assert!(matches!(waited, Outcome::Abandoned));
        assert!(matches!(single.join(&()), Role::Leader(_)));
    }
}
