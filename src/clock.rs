//! Time as a trait, so that a test can hold it in its hand, and the deadline of a call.
//!
//! Tokens are judged by a [`Clock`]. How long a call may take is a [`Deadline`], which is always
//! real time: a test that stops the clock must not hang with it.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// What time it is: by the wall, which people and the network may set, and by a clock that only
/// goes forward.
///
/// Implement it to control time in tests; [`SystemClock`] is what everything uses otherwise.
pub trait Clock: Send + Sync + 'static {
    /// Returns the wall-clock time.
    fn now(&self) -> SystemTime;

    /// Returns the time since a fixed but arbitrary moment. It never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        START.elapsed()
    }
}

/// The moment by which a call must be over, waits for locks included.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline that lies `duration` from now. A duration beyond what the machine can
    /// count is cut to a century.
    pub fn after(duration: Duration) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let now = Instant::now();
        Self(now.checked_add(duration.min(CENTURY)).unwrap_or(now))
    }

    /// Returns a deadline that has passed: for what may be tried once and not waited for.
    pub fn passed() -> Self {
        Self(*START)
    }

    /// Returns the time that is left, zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Tells whether the time is up.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the nearer of this deadline and the one that lies `duration` from now.
    pub fn at_most(&self, duration: Duration) -> Self {
        (*self).min(Self::after(duration))
    }
}
