//! Memory that requests share: each request reserves memory before it allocates it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An amount of memory in bytes, of which parts can be reserved.
pub(super) struct Budget {
    size: usize,
    used: Mutex<usize>,
    released: Condvar,
    /// The number of requests that wait for memory.
    waiting: AtomicUsize,
}

/// A part of a budget, released on drop.
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(size: usize) -> Arc<Self> {
        let (used, released, waiting) = (Mutex::new(0), Condvar::new(), AtomicUsize::new(0));
        Arc::new(Self { size, used, released, waiting })
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Reserves memory, waiting for it if there is too little. Returns `None` if there is still too
    /// little after `at_most`, and immediately if the amount exceeds the whole budget.
    pub(super) fn reserve(
        self: &Arc<Self>,
        bytes: usize,
        at_most: Duration,
    ) -> Option<Reservation> {
        let room = self.size.checked_sub(bytes)?;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waited = self
            .released
            .wait_timeout_while(self.used(), at_most, |used| *used > room)
            .unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let (mut used, result) = waited;
        if result.timed_out() && *used > room {
            return None;
        }
        *used += bytes;
        Some(Reservation { budget: Arc::clone(self), bytes })
    }

    fn used(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Returns `true` if other requests wait for memory of the same budget.
    pub(super) fn is_wanted(&self) -> bool {
        self.budget.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Reservation {
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
            while !first.is_wanted() {
                std::thread::yield_now();
            }
            drop(first);
            assert!(waiting.join().unwrap());
        });
        assert!(budget.reserve(11, Duration::from_secs(60)).is_none(), "never, so at once");
        assert!(budget.reserve(10, Duration::ZERO).is_some());
    }
}
