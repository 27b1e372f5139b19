//! The clock as a trait, so that tests can control the time.

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

/// When the time was first read in this process.
pub(crate) static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        START.elapsed()
    }
}

/// Returns a duration in milliseconds, clamped to an `i64`.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    seconds.saturating_mul(1000).saturating_add(i64::from(duration.subsec_millis()))
}
