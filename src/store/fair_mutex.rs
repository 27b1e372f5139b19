//! A mutex that is fair and has a deadline, unlike std's.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::Deadline;

/// A mutex that threads lock in the order in which they asked for it.
#[derive(Debug, Default)]
pub(super) struct FairMutex {
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    is_locked: bool,
    /// The tickets of the waiting threads, in their order. Without tickets, a thread that unlocks and
    /// locks again at once would be faster than a thread that has to wake up.
    waiting: VecDeque<u64>,
    next: u64,
}

/// The lock, released when it is dropped.
#[derive(Debug)]
pub(super) struct FairMutexGuard<'a>(&'a FairMutex);

impl FairMutex {
    /// Locks the mutex, for which it waits until the deadline. `None` if the deadline passed. With a
    /// deadline that has passed already this tries once.
    pub(super) fn enter(&self, deadline: Deadline) -> Option<FairMutexGuard<'_>> {
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back(ticket);
        while queue.is_locked || queue.waiting.front() != Some(&ticket) {
            let wait = deadline.poll_interval();
            if wait.is_zero() {
                queue.waiting.retain(|waiting| *waiting != ticket);
                self.moved.notify_all();
                return None;
            }
            let waited = self.moved.wait_timeout(queue, wait);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.waiting.pop_front();
        queue.is_locked = true;
        Some(FairMutexGuard(self))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FairMutexGuard<'_> {
    fn drop(&mut self) {
        self.0.queue().is_locked = false;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn returning_thread_queues_behind_waiting_ones() {
        let mutex = FairMutex::default();
        let soon = || Deadline::after(Duration::from_secs(60));
        let (order, ordered) = channel();
        let guard = mutex.enter(soon()).unwrap();
        thread::scope(|scope| {
            for name in ["first", "second"] {
                let before = mutex.queue().waiting.len();
                let (mutex, order) = (&mutex, order.clone());
                scope.spawn(move || {
                    let _guard = mutex.enter(soon()).unwrap();
                    order.send(name).unwrap();
                });
                while mutex.queue().waiting.len() == before {
                    thread::yield_now();
                }
            }
            drop(guard);
            let _again = mutex.enter(soon()).unwrap();
            order.send("back").unwrap();
        });
        assert_eq!(ordered.try_iter().collect::<Vec<_>>(), ["first", "second", "back"]);
    }

    #[test]
    fn timed_out_thread_blocks_no_other() {
        let mutex = FairMutex::default();
        let guard = mutex.enter(Deadline::passed()).unwrap();
        assert!(mutex.enter(Deadline::after(Duration::from_millis(1))).is_none());
        assert!(mutex.enter(Deadline::passed()).is_none());
        drop(guard);
        assert!(mutex.enter(Deadline::passed()).is_some());
    }
}
