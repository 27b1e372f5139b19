//! Memory that requests share: each one reserves what it needs before it takes it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An amount of memory, in bytes, of which parts can be reserved.
pub(super) struct Budget {
    size: usize,
    used: Mutex<usize>,
    released: Condvar,
}

/// A part of a budget, released on drop.
pub(super) struct Reservation<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(size: usize) -> Self {
        Self { size, used: Mutex::new(0), released: Condvar::new() }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Reserves memory and waits for it if there is too little. Returns `None` if there is still
    /// too little after this time, or never enough.
    pub(super) fn reserve(&self, bytes: usize, at_most: Duration) -> Option<Reservation<'_>> {
        let room = self.size.checked_sub(bytes)?;
        let waited = self
            .released
            .wait_timeout_while(self.used(), at_most, |used| *used > room)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut used, result) = waited;
        if result.timed_out() && *used > room {
            return None;
        }
        *used += bytes;
        Some(Reservation { budget: self, bytes })
    }

    fn used(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut used = self.budget.used();
        *used = used.saturating_sub(self.bytes);
        drop(used);
        self.budget.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservation_waits_for_others() {
        let budget = Budget::new(10);
        let first = budget.reserve(6, Duration::ZERO).unwrap();
        let second = budget.reserve(4, Duration::ZERO).unwrap();
        assert!(budget.reserve(1, Duration::from_millis(1)).is_none());
        drop(second);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.reserve(10, Duration::from_secs(60)).is_some());
            drop(first);
            assert!(waiting.join().unwrap());
        });
        assert!(budget.reserve(11, Duration::from_secs(60)).is_none(), "never, so at once");
        assert!(budget.reserve(10, Duration::ZERO).is_some());
    }
}
