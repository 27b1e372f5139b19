//! The server's clock, which can be set and advanced.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::Clock;

/// The clock of a server: the [base clock](super::ServerBuilder::clock) plus the changes made
/// since. Clones share the same clock.
///
/// The server uses this clock for everything that expires: access and refresh tokens, the grace
/// period of rotated tokens, mailed tokens and rate-limit windows. Time-outs of connections use
/// real time. It implements [`Clock`], so a session can use it too.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use keyfob::server::{Route, Server};
/// use keyfob::store::MemoryStore;
/// use keyfob::{Credentials, Session};
///
/// let server = Server::builder().start()?;
/// let session = Session::builder(server.app_id(), server.base_url())
///     .store(MemoryStore::new())
///     .clock(server.clock())
///     .open()?;
/// let user = session.log_in(&Credentials::anonymous())?;
/// server.clock().advance(Duration::from_secs(31 * 60));
/// user.valid_access_token()?;
/// server.journal().assert_count(Route::Refresh, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ServerClock {
    base: Arc<dyn Clock>,
    change: Arc<Mutex<Change>>,
}

/// The current time of the server's clock.
#[derive(Clone, Copy)]
pub(super) struct Time {
    /// Seconds since the epoch.
    pub now: i64,
    pub monotonic: Duration,
}

/// The sum of all changes made to a clock.
#[derive(Clone, Copy, Default)]
struct Change {
    /// How far the wall clock was moved forward, and how far back.
    forward: Duration,
    back: Duration,
    /// How much monotonic time was added to that of the base clock.
    passed: Duration,
}

impl ServerClock {
    pub(super) fn new(base: Arc<dyn Clock>) -> Self {
        Self { base, change: Arc::default() }
    }

    /// Advances the clock by this much time.
    pub fn advance(&self, by: Duration) {
        let mut change = self.change();
        change.forward = change.forward.saturating_add(by);
        change.passed = change.passed.saturating_add(by);
    }

    /// Sets the wall clock, forward or backward. The monotonic clock does not change.
    pub fn set(&self, to: SystemTime) {
        let mut change = self.change();
        let now = change.applied_to(self.base.now());
        match to.duration_since(now) {
            Ok(ahead) => change.forward = change.forward.saturating_add(ahead),
            Err(behind) => change.back = change.back.saturating_add(behind.duration()),
        }
    }

    fn change(&self) -> MutexGuard<'_, Change> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    /// Applies the changes to a time of the base clock. Returns `base` on overflow.
    fn applied_to(&self, base: SystemTime) -> SystemTime {
        let changed = match self.forward.checked_sub(self.back) {
            Some(ahead) => base.checked_add(ahead),
            None => base.checked_sub(self.back.saturating_sub(self.forward)),
        };
        changed.unwrap_or(base)
    }
}

impl Clock for ServerClock {
    fn now(&self) -> SystemTime {
        self.change().applied_to(self.base.now())
    }

    fn monotonic(&self) -> Duration {
        self.base.monotonic().saturating_add(self.change().passed)
    }
}

impl fmt::Debug for ServerClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerClock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(1000)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(5)
        }
    }

    /// Setting the clock changes the wall time only; advancing it changes both.
    #[test]
    fn only_advance_moves_monotonic_clock() {
        let clock = ServerClock::new(Arc::new(Still));
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for time in [at(50), at(5000), at(0), at(1000)] {
            clock.set(time);
            assert_eq!(clock.now(), time);
            assert_eq!(clock.monotonic(), Duration::from_secs(5));
        }
        clock.clone().advance(Duration::from_secs(7));
        assert_eq!((clock.now(), clock.monotonic()), (at(1007), Duration::from_secs(12)));
    }
}
