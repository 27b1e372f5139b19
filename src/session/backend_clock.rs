//! The backend's time, which decides when tokens expire.
//!
//! The local wall clock may be wrong, may be set at any time, and advances while the machine
//! sleeps. The monotonic clock is never set, and may stop while the machine sleeps. Each new token
//! carries the backend's time, and keyfob compares both clocks with it. Later keyfob uses the clock
//! that has advanced further since: an hour too much costs one refresh, but an hour too little
//! would send expired tokens. If the wall clock is found to have been set forward, keyfob ignores
//! it for an hour, so that a clock that is set repeatedly costs one refresh an hour.
//!
//! All times are in milliseconds; wall-clock times count from the epoch.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use crate::clock::{Clock, milliseconds};
use crate::token::Claims;
use crate::transport::Response;
use crate::wire;

/// Tolerance for whole seconds in tokens and for the time a server takes to respond.
const NOISE: i64 = 2_000;

/// A wall clock that is further ahead of a new token was set forward.
const SET: i64 = 60_000;

/// How long a wall clock that was set forward is ignored.
const DISTRUST: i64 = 3_600_000;

/// The backend's time is not known yet.
const UNKNOWN: i64 = i64::MIN;

/// A reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReading {
    wall: i64,
    monotonic: i64,
}

/// The local clocks, and what this process knows about the backend's clock.
pub(super) struct BackendClock {
    local: Box<dyn Clock>,
    /// The backend's clock minus the monotonic clock.
    ahead: AtomicI64,
    /// Until when the wall clock is ignored, by the monotonic clock.
    distrust: AtomicI64,
}

impl BackendClock {
    pub(super) fn new(local: Box<dyn Clock>) -> Self {
        Self { local, ahead: AtomicI64::new(UNKNOWN), distrust: AtomicI64::new(UNKNOWN) }
    }

    /// Returns the local wall-clock time.
    pub(super) fn wall(&self) -> i64 {
        milliseconds(self.local.now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    pub(super) fn monotonic(&self) -> Duration {
        self.local.monotonic()
    }

    /// Reads both local clocks.
    pub(super) fn read(&self) -> ClockReading {
        ClockReading { wall: self.wall(), monotonic: milliseconds(self.monotonic()) }
    }

    /// Returns the backend's time by the monotonic clock, if it is known.
    fn by_monotonic(&self, now: ClockReading) -> Option<i64> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then(|| now.monotonic.saturating_add(ahead))
    }

    /// Returns the backend's time at a clock reading, as far as it is known. `skew` is the backend's
    /// clock minus the wall clock, as stored with a token.
    pub(super) fn at(&self, now: ClockReading, skew: i64) -> i64 {
        let by_wall = now.wall.saturating_add(skew);
        match self.by_monotonic(now) {
            None => by_wall,
            Some(time) if now.monotonic < self.distrust.load(Ordering::Relaxed) => time,
            Some(time) => time.max(by_wall),
        }
    }

    /// Learns from a token that was issued between two clock readings, and returns the new skew.
    /// `known` is the previous skew.
    fn learn(
        &self,
        claims: &Claims,
        sent: ClockReading,
        received: ClockReading,
        known: Option<i64>,
    ) -> i64 {
        let minted = claims.issued_at.saturating_mul(1000).saturating_add(500);
        let was_ahead = |known| sent.wall.saturating_add(known).saturating_sub(minted) > SET;
        if known.is_some_and(was_ahead) {
            self.distrust.store(received.monotonic.saturating_add(DISTRUST), Ordering::Relaxed);
        }
        let middle = i64::midpoint(sent.monotonic, received.monotonic);
        self.ahead.store(minted.saturating_sub(middle), Ordering::Relaxed);
        skew(minted, sent, received)
    }

    /// Learns the backend's time from a token that was requested at `sent` and has just been
    /// received. Returns the skew to store with it. `known` is the stored skew.
    pub(super) fn record_token(
        &self,
        claims: &Claims,
        sent: ClockReading,
        known: Option<i64>,
    ) -> i64 {
        self.learn(claims, sent, self.read(), known)
    }

    /// Learns the backend's time from the date of a response, unless a new token has provided it. A
    /// token from the store does not count: the clocks may have been set since.
    pub(super) fn record_date(&self, response: &Response) {
        if self.ahead.load(Ordering::Relaxed) == UNKNOWN
            && let Some(date) = wire::backend_answered_at(response)
        {
            let ahead = date.saturating_sub(self.read().monotonic);
            self.ahead.store(ahead, Ordering::Relaxed);
        }
    }

    /// Returns `true` if a token has certainly expired: by all clocks known here, and by the date
    /// of the backend's response if it has one. The wall clock alone is not sufficient: a wrong
    /// clock must not end a login.
    pub(super) fn has_definitely_expired(
        &self,
        claims: &Claims,
        skew: i64,
        response: &Response,
    ) -> bool {
        let now = self.read();
        let by_wall = now.wall.saturating_add(skew);
        let time = match (wire::answered_at(response), self.by_monotonic(now)) {
            // The monotonic clock may have stopped for weeks while the machine slept.
            (Some(date), by_monotonic) => date.min(by_wall.max(by_monotonic.unwrap_or(by_wall))),
            (None, Some(by_monotonic)) => by_wall.min(by_monotonic),
            (None, None) => return false,
        };
        claims.expires_at.saturating_mul(1000) <= time
    }
}

/// Estimates the backend's clock minus the local wall clock, from the time in a token that was
/// issued between two clock readings. Differences within whole seconds and network delays count as
/// zero.
fn skew(minted: i64, sent: ClockReading, received: ClockReading) -> i64 {
    let took = received.monotonic.saturating_sub(sent.monotonic).max(0);
    // If the clock was set back during the request, use the time that it shows now. If it was set
    // forward, or the machine slept before it read the response, use the time that it showed
    // before: a token that is taken for too old costs a refresh, but one that is taken for too new
    // would be sent after it expired.
    let middle = sent.wall.saturating_add(took / 2).min(received.wall.saturating_sub(took / 2));
    let ahead = minted.saturating_sub(middle);
    let noise = NOISE.saturating_add(took / 2);
    if ahead.saturating_abs() <= noise { 0 } else { ahead }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const MINUTE: i64 = 60_000;

    fn at(wall: i64, monotonic: i64) -> ClockReading {
        ClockReading { wall, monotonic }
    }

    fn token(issued_at: i64) -> Claims {
        Claims { issued_at, expires_at: issued_at + 1800 }
    }

    #[test]
    fn skew_is_measured_at_request_midpoint() {
        let skew = |sent, received| skew(1_000_500, at(sent, 0), at(received, received - sent));
        assert_eq!(skew(999_900, 1_000_900), 0);
        assert_eq!(skew(1_002_000, 1_002_400), 0);
        assert_eq!(skew(1_060_000, 1_061_000), -60_000);
        assert_eq!(skew(500_000, 501_000), 500_000);
    }

    #[test]
    fn clock_set_back_during_request_uses_later_time() {
        let back = skew(1_000_500, at(1_000_000, 50), at(1_001_000 - 60 * MINUTE, 1050));
        assert_eq!(back, 60 * MINUTE);
    }

    #[test]
    fn suspend_during_request_ages_token() {
        let slept = skew(1_000_500, at(1_000_000, 50), at(1_001_000 + 60 * MINUTE, 1050));
        assert_eq!(slept, 0, "it is an hour old by the clock as it is now");
    }

    /// Of the wall clock and the monotonic clock, the one that is ahead is used; a wall clock found
    /// to be wrong is ignored for an hour.
    #[test]
    fn later_clock_is_used_unless_found_wrong() {
        let time = BackendClock::new(Box::new(SystemClock));
        assert_eq!(time.at(at(7_000, 0), 3_000), 10_000);
        assert_eq!(time.learn(&token(1_000), at(1_000_000, 0), at(1_001_000, 1_000), None), 0);
        // The clock was set back by an hour, and half an hour has passed.
        let later = at(1_001_000 - 30 * MINUTE, 1_000 + 30 * MINUTE);
        assert_eq!(time.at(later, 0), 1_001_000 + 30 * MINUTE);
        // It was set forward by an hour: believed once, and not again for an hour.
        let forward = at(1_001_000 + 60 * MINUTE, 1_000);
        assert_eq!(time.at(forward, 0), 1_001_000 + 60 * MINUTE);
        let skew = time.learn(&token(1_001), forward, forward, Some(0));
        assert_eq!(skew, 500 - 60 * MINUTE);
        let again = |minutes| at(forward.wall + 60 * MINUTE, 1_000 + minutes * MINUTE);
        assert_eq!(time.at(again(59), skew), 1_001_500 + 59 * MINUTE);
        assert_eq!(time.at(again(60), skew), 1_001_500 + 60 * MINUTE);
        assert_eq!(
            time.at(at(forward.wall + 90 * MINUTE, 61 * MINUTE), skew),
            1_001_500 + 90 * MINUTE
        );
    }

    #[test]
    fn wall_clock_after_suspend_is_trusted() {
        let time = BackendClock::new(Box::new(SystemClock));
        time.learn(&token(1_000), at(1_000_000, 0), at(1_000_000, 0), None);
        let woken = at(1_000_000 + 60 * MINUTE, 0);
        assert_eq!(time.at(woken, 0), 1_000_000 + 60 * MINUTE);
        assert_eq!(time.learn(&token(1_000 + 3600), woken, woken, Some(0)), 0);
        assert_eq!(time.at(at(woken.wall + 60 * MINUTE, 0), 0), 1_000_000 + 120 * MINUTE);
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let ends = [i64::MIN, -1, 0, 1, i64::MAX];
        for (wall, monotonic) in ends.iter().flat_map(|wall| ends.map(|other| (*wall, other))) {
            for issued_at in [0, i64::MAX - 1800] {
                let time = BackendClock::new(Box::new(SystemClock));
                time.learn(&token(issued_at), at(0, 0), at(wall, monotonic), Some(wall));
                time.learn(&token(issued_at), at(wall, monotonic), at(0, 0), Some(monotonic));
                time.at(at(wall, monotonic), wall);
            }
        }
    }
}
