//! One thread at a time, with a deadline: what std's `Mutex` has no method for.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::clock::Deadline;

/// Lets one thread pass at a time.
#[derive(Debug, Default)]
pub(super) struct Gate {
    taken: Mutex<bool>,
    left: Condvar,
}

/// The right to be inside, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Gate);

impl Gate {
    /// Waits for the gate at most until the deadline; with one that has passed it is tried once.
    pub(super) fn enter(&self, deadline: Deadline) -> Option<Pass<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            let wait = deadline.remaining();
            if wait.is_zero() {
                return None;
            }
            let waited = self.left.wait_timeout(taken, wait);
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Some(Pass(self))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.left.notify_one();
    }
}
