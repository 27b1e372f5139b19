//! How long one operation may wait for the network.

use std::time::{Duration, Instant};

use crate::deadline::Deadline;

/// How long an operation whose deadline has passed already may take: it is tried once.
const ONE_TRY: Duration = Duration::from_millis(30);

/// A [`Deadline`] that leaves time for one try.
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

    /// The nearer of this limit and the one that lies `duration` from now.
    pub(super) fn at_most(self, duration: Duration) -> Self {
        let at_least = self.at_least.min(Instant::now() + duration);
        Self { deadline: self.deadline.at_most(duration), at_least }
    }

    /// Half of what is left, at most `longest`: a server that does not answer leaves time to go on
    /// without it. One try is not cut short.
    pub(super) fn half(self, longest: Duration) -> Self {
        self.at_most((self.remaining() / 2).max(ONE_TRY).min(longest))
    }

    /// The deadline, where a shutdown or a cancellation may end it early and has not done so.
    pub(super) fn interruptible(&self) -> Option<Deadline> {
        let is_interruptible = self.deadline.signals().next().is_some();
        Some(self.deadline).filter(|deadline| is_interruptible && !deadline.has_passed())
    }

    /// Returns `true` if the deadline itself has passed, whatever is left for one try.
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

    /// How long a pause between two tries may be: the second one needs time of the deadline itself.
    pub(super) fn pause(&self) -> Duration {
        self.deadline.poll_interval()
    }

    /// How long to wait before the limit is looked at again, since a session may be shut down
    /// meanwhile. Zero once it has passed.
    pub(super) fn wait(&self) -> Duration {
        let wait = self.deadline.poll_interval();
        if wait.is_zero() { self.remaining() } else { wait }
    }
}
