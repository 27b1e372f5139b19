//! The network time limit of one operation.

use std::time::{Duration, Instant};

use crate::deadline::Deadline;

/// The time limit of an operation whose deadline has already passed; it gets one attempt.
const ONE_TRY: Duration = Duration::from_millis(30);

/// A [`Deadline`] that always leaves time for one attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    deadline: Deadline,
    at_least: Instant,
}

impl Limit {
    pub(super) fn until(deadline: Deadline) -> Self {
        Self { deadline, at_least: Instant::now() + ONE_TRY }
    }

    pub(super) fn after(duration: Duration) -> Self {
        Self::until(Deadline::after(duration))
    }

    /// Returns the earlier of this limit and `duration` from now.
    pub(super) fn at_most(self, duration: Duration) -> Self {
        let at_least = self.at_least.min(Instant::now() + duration);
        Self { deadline: self.deadline.at_most(duration), at_least }
    }

    /// Returns a limit of half of the remaining time, at most `longest`, so that there is time left
    /// to continue without the server. There is always enough time for one attempt.
    pub(super) fn half(self, longest: Duration) -> Self {
        self.at_most((self.remaining() / 2).max(ONE_TRY).min(longest))
    }

    /// Returns the deadline if a shutdown or a cancellation can interrupt it and it has not passed.
    pub(super) fn interruptible(&self) -> Option<Deadline> {
        let is_interruptible = self.deadline.signals().next().is_some();
        Some(self.deadline).filter(|deadline| is_interruptible && !deadline.has_passed())
    }

    /// Returns `true` if the deadline itself has passed, even if there is time left for one
    /// attempt.
    pub(super) fn is_late(&self) -> bool {
        self.deadline.has_passed()
    }

    pub(super) fn remaining(&self) -> Duration {
        let least = self.at_least.saturating_duration_since(Instant::now());
        self.deadline.remaining().max(least)
    }

    pub(super) fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the maximum pause between two attempts. It is zero once the deadline itself has
    /// passed.
    pub(super) fn pause(&self) -> Duration {
        self.deadline.poll_interval()
    }

    /// Returns how long to wait before checking the limit again, because a session may be shut down
    /// meanwhile. Zero once the limit has passed.
    pub(super) fn wait(&self) -> Duration {
        let wait = self.deadline.poll_interval();
        if wait.is_zero() { self.remaining() } else { wait }
    }
}
