//! Slowing down those who guess passwords.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a failed attempt counts.
pub(super) const WINDOW: Duration = Duration::from_secs(15 * 60);
/// An address may fail this many times as often as an account: people share addresses.
pub(super) const ADDRESS_FACTOR: usize = 10;
/// Keys remembered at a time, at most.
const MAX_KEYS: usize = 20_000;

/// Counts failed log-ins, per account and per address, within the last 15 minutes.
pub(super) struct Throttle {
    limit: Option<usize>,
    failures: Mutex<HashMap<Key, VecDeque<Duration>>>,
}

#[derive(Clone, Eq, Hash, PartialEq)]
enum Key {
    Account(String),
    Address(IpAddr),
}

impl Throttle {
    /// `limit` failures of an account are let pass; `None` lets all pass.
    pub(super) fn new(limit: Option<u32>) -> Self {
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self { limit, failures: Mutex::default() }
    }

    /// Tells whether another attempt is allowed, or else after how long one will be. `now` is
    /// monotonic time.
    pub(super) fn check(&self, account: &str, peer: IpAddr, now: Duration) -> Result<(), Duration> {
        let Some(limit) = self.limit else { return Ok(()) };
        let failures = self.failures();
        let wait = keys(account, peer).into_iter().filter_map(|key| {
            let times = failures.get(&key)?;
            // The attempt that must grow old before there is room for another one.
            let oldest = times.len().checked_sub(key.allowance(limit))?;
            let until = times.get(oldest)?.saturating_add(WINDOW);
            until.checked_sub(now).filter(|left| !left.is_zero())
        });
        wait.max().map_or(Ok(()), Err)
    }

    /// Counts a failure.
    pub(super) fn failed(&self, account: &str, peer: IpAddr, now: Duration) {
        let Some(limit) = self.limit else { return };
        let mut failures = self.failures();
        if failures.len() >= MAX_KEYS {
            failures.retain(|_, times| times.back().is_some_and(|last| counts(*last, now)));
        }
        for key in keys(account, peer) {
            if failures.len() >= MAX_KEYS && !failures.contains_key(&key) {
                // Under an attack with that many names it is the addresses that stop it.
                failures.retain(|key, _| matches!(key, Key::Address(_)));
            }
            let allowance = key.allowance(limit);
            let times = failures.entry(key).or_default();
            times.push_back(now);
            // More than the limit are never looked at.
            while times.len() > allowance.max(1) {
                times.pop_front();
            }
        }
    }

    /// Forgets an account's failures, after it logged in.
    pub(super) fn succeeded(&self, account: &str) {
        if self.limit.is_some() {
            self.failures().remove(&Key::Account(account.to_owned()));
        }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Key, VecDeque<Duration>>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn allowance(&self, limit: usize) -> usize {
        match self {
            Self::Account(_) => limit,
            Self::Address(_) => limit.saturating_mul(ADDRESS_FACTOR),
        }
    }
}

fn keys(account: &str, peer: IpAddr) -> [Key; 2] {
    [Key::Account(account.to_owned()), Key::Address(peer)]
}

fn counts(failure: Duration, now: Duration) -> bool {
    failure.saturating_add(WINDOW) > now
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_account_is_refused_after_its_failures_and_admitted_when_they_are_old() {
        let throttle = Throttle::new(Some(2));
        throttle.failed("a", PEER, seconds(0));
        assert_eq!(throttle.check("a", PEER, seconds(1)), Ok(()));
        throttle.failed("a", PEER, seconds(10));
        assert_eq!(throttle.check("a", PEER, seconds(100)), Err(seconds(800)));
        assert_eq!(throttle.check("b", PEER, seconds(100)), Ok(()));
        assert_eq!(throttle.check("a", PEER, seconds(900)), Ok(()));
        throttle.failed("a", PEER, seconds(900));
        assert_eq!(throttle.check("a", PEER, seconds(900)), Err(seconds(10)));
    }

    #[test]
    fn success_forgets_and_no_limit_never_counts() {
        let throttle = Throttle::new(Some(1));
        throttle.failed("a", PEER, seconds(0));
        throttle.succeeded("a");
        assert_eq!(throttle.check("a", PEER, seconds(1)), Ok(()));
        let throttle = Throttle::new(None);
        (0..1000).for_each(|at| throttle.failed("a", PEER, seconds(at)));
        assert_eq!(throttle.check("a", PEER, seconds(1000)), Ok(()));
    }

    #[test]
    fn an_address_that_tries_many_accounts_is_refused_too() {
        let throttle = Throttle::new(Some(3));
        (0..30).for_each(|n| throttle.failed(&format!("account {n}"), PEER, seconds(n)));
        assert_eq!(throttle.check("fresh", PEER, seconds(30)), Err(seconds(870)));
        let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(throttle.check("fresh", elsewhere, seconds(30)), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::new(Some(1));
        (0..MAX_KEYS * 2).for_each(|n| throttle.failed(&n.to_string(), PEER, seconds(1)));
        assert!(throttle.failures().len() <= MAX_KEYS);
        assert!(throttle.check("x", PEER, seconds(1)).is_err(), "the address is remembered");
    }
}
