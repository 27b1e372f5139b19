//! One thread at a time, in the order in which they came, with a deadline: what std's `Mutex` has
//! no method for.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::Deadline;

/// Lets one thread pass at a time.
#[derive(Debug, Default)]
pub(super) struct FairMutex {
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    taken: bool,
    /// The tickets of those who wait, the first one first. Without them, whoever leaves and comes
    /// back at once would be faster than one who has to wake up.
    waiting: VecDeque<u64>,
    next: u64,
}

/// The right to be inside, given back when it is dropped.
#[derive(Debug)]
pub(super) struct FairMutexGuard<'a>(&'a FairMutex);

impl FairMutex {
    /// Waits for the gate at most until the deadline; with one that has passed it is tried once.
    pub(super) fn enter(&self, deadline: Deadline) -> Option<FairMutexGuard<'_>> {
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back(ticket);
        while queue.taken || queue.waiting.front() != Some(&ticket) {
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
        queue.taken = true;
        Some(FairMutexGuard(self))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FairMutexGuard<'_> {
    fn drop(&mut self) {
        self.0.queue().taken = false;
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
    fn who_comes_back_queues_behind_who_waits() {
        let gate = FairMutex::default();
        let soon = || Deadline::after(Duration::from_secs(60));
        let (order, ordered) = channel();
        let pass = gate.enter(soon()).unwrap();
        thread::scope(|scope| {
            for name in ["first", "second"] {
                let before = gate.queue().waiting.len();
                let (gate, order) = (&gate, order.clone());
                scope.spawn(move || {
                    let _pass = gate.enter(soon()).unwrap();
                    order.send(name).unwrap();
                });
                while gate.queue().waiting.len() == before {
                    thread::yield_now();
                }
            }
            drop(pass);
            let _again = gate.enter(soon()).unwrap();
            order.send("back").unwrap();
        });
        assert_eq!(ordered.try_iter().collect::<Vec<_>>(), ["first", "second", "back"]);
    }

    #[test]
    fn who_gave_up_holds_up_nobody() {
        let gate = FairMutex::default();
        let pass = gate.enter(Deadline::passed()).unwrap();
        assert!(gate.enter(Deadline::after(Duration::from_millis(1))).is_none());
        assert!(gate.enter(Deadline::passed()).is_none());
        drop(pass);
        assert!(gate.enter(Deadline::passed()).is_some());
    }
}
