//! Slowing down those who guess passwords.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a failed attempt counts.
pub(super) const WINDOW: Duration = Duration::from_secs(15 * 60);
/// An address may fail this many times as often as an account: people share addresses.
pub(super) const ADDRESS_FACTOR: usize = 10;
/// Keys remembered at a time, at most; those of attempts under way come on top.
const MAX_KEYS: usize = 20_000;

/// Counts failed log-ins, per account and per address, within the last 15 minutes.
pub(super) struct Throttle {
    limit: Option<usize>,
    attempts: Mutex<HashMap<Key, Attempts>>,
    ended: Condvar,
}

/// Leave to try once. It counts as a failure, unless it [succeeds](Self::succeeded).
pub(super) struct Attempt<'a> {
    throttle: &'a Throttle,
    /// `None` once it has ended, and where nothing is counted.
    keys: Option<[Key; 2]>,
    began: Duration,
}

#[derive(Clone, Eq, Hash, PartialEq)]
enum Key {
    Account(String),
    Address(IpAddr),
}

#[derive(Default)]
struct Attempts {
    /// When they failed, in this order. More than the allowance are never looked at.
    failed: VecDeque<Duration>,
    under_way: usize,
}

impl Throttle {
    /// `limit` failures of an account are let pass, zero counts as one; `None` lets all pass.
    pub(super) fn new(limit: Option<u32>) -> Self {
        let limit = limit.map(|limit| usize::try_from(limit.max(1)).unwrap_or(usize::MAX));
        Self { limit, attempts: Mutex::default(), ended: Condvar::new() }
    }

    /// Begins an attempt, or tells after how long one will be allowed. Blocks while it depends on
    /// others that are under way whether there is room for one more, so that many at a time get
    /// no more attempts than one by one. `now` is monotonic time.
    pub(super) fn begin(
        &self,
        account: &str,
        peer: IpAddr,
        now: Duration,
    ) -> Result<Attempt<'_>, Duration> {
        let began = now;
        let Some(limit) = self.limit else {
            return Ok(Attempt { throttle: self, keys: None, began });
        };
        let keys = [Key::Account(account.to_owned()), Key::Address(peer)];
        let mut attempts = self.attempts();
        loop {
            let of =
                |key| attempts.get(key).map(|of_key: &Attempts| (of_key, key.allowance(limit)));
            let known = || keys.iter().filter_map(of);
            let wait = known().filter_map(|(of_key, allowance)| of_key.wait(allowance, now)).max();
            if let Some(wait) = wait {
                return Err(wait);
            }
            if known().all(|(of_key, allowance)| of_key.has_room(allowance, now)) {
                break;
            }
            attempts = self.ended.wait(attempts).unwrap_or_else(PoisonError::into_inner);
        }
        for key in &keys {
            make_room(&mut attempts, key, now);
            attempts.entry(key.clone()).or_default().under_way += 1;
        }
        Ok(Attempt { throttle: self, keys: Some(keys), began })
    }

    /// Forgets an account's failures, when its password was replaced.
    pub(super) fn forgive(&self, account: &str) {
        let key = Key::Account(account.to_owned());
        let mut attempts = self.attempts();
        if let Some(of_key) = attempts.get_mut(&key) {
            of_key.failed.clear();
            if of_key.under_way == 0 {
                attempts.remove(&key);
            }
        }
        drop(attempts);
        self.ended.notify_all();
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<Key, Attempts>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Ends this attempt and forgets the account's failures.
    pub(super) fn succeeded(mut self) {
        self.end(false);
    }

    fn end(&mut self, has_failed: bool) {
        let (Some(keys), Some(limit)) = (self.keys.take(), self.throttle.limit) else { return };
        let mut attempts = self.throttle.attempts();
        for key in keys {
            let Some(of_key) = attempts.get_mut(&key) else { continue };
            of_key.under_way = of_key.under_way.saturating_sub(1);
            if has_failed {
                of_key.fail(self.began, key.allowance(limit));
            } else if matches!(key, Key::Account(_)) {
                of_key.failed.clear();
            }
            if of_key.under_way == 0 && of_key.failed.is_empty() {
                attempts.remove(&key);
            }
        }
        drop(attempts);
        self.throttle.ended.notify_all();
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.end(true);
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

impl Attempts {
    /// Returns for how long no more attempts are allowed, if they are not.
    fn wait(&self, allowance: usize, now: Duration) -> Option<Duration> {
        // The attempt that must grow old before there is room for another one.
        let oldest = self.failed.len().checked_sub(allowance)?;
        let until = self.failed.get(oldest)?.saturating_add(WINDOW);
        until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Tells whether one more is allowed, even if all that are under way fail.
    fn has_room(&self, allowance: usize, now: Duration) -> bool {
        let old = self.failed.partition_point(|failure| !counts(*failure, now));
        self.failed.len() - old + self.under_way < allowance
    }

    fn fail(&mut self, began: Duration, allowance: usize) {
        // Those that began earlier may end later.
        let time = self.failed.back().map_or(began, |last| began.max(*last));
        self.failed.push_back(time);
        while self.failed.len() > allowance {
            self.failed.pop_front();
        }
    }
}

fn counts(failure: Duration, now: Duration) -> bool {
    failure.saturating_add(WINDOW) > now
}

/// Forgets others, if there are too many for one more.
fn make_room(attempts: &mut HashMap<Key, Attempts>, key: &Key, now: Duration) {
    if attempts.len() < MAX_KEYS || attempts.contains_key(key) {
        return;
    }
    let last = |of_key: &Attempts| of_key.failed.back().copied().unwrap_or_default();
    attempts.retain(|_, of_key| of_key.under_way > 0 || counts(last(of_key), now));
    if attempts.len() >= MAX_KEYS {
        // Under an attack with that many names it is the addresses that stop it.
        attempts.retain(|key, of_key| of_key.under_way > 0 || matches!(key, Key::Address(_)));
    }
    if attempts.len() >= MAX_KEYS {
        // Under one from that many addresses nothing does. Half of them, so that this is seldom.
        let mut times: Vec<_> = attempts.iter().map(|(key, of_key)| (last(of_key), key)).collect();
        times.sort_unstable_by_key(|(time, _)| *time);
        let older: Vec<_> =
            times[..times.len() / 2].iter().map(|(_, key)| Key::clone(key)).collect();
        for key in older {
            if attempts.get(&key).is_some_and(|of_key| of_key.under_way == 0) {
                attempts.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check(throttle: &Throttle, account: &str, peer: IpAddr, at: u64) -> Result<(), Duration> {
        let mut attempt = throttle.begin(account, peer, seconds(at))?;
        // As if it had never been.
        attempt.end(false);
        Ok(())
    }

    fn fail(throttle: &Throttle, account: &str, peer: IpAddr, at: u64) {
        assert!(throttle.begin(account, peer, seconds(at)).is_ok());
    }

    #[test]
    fn an_account_is_refused_after_its_failures_and_admitted_when_they_are_old() {
        let throttle = Throttle::new(Some(2));
        fail(&throttle, "a", PEER, 0);
        fail(&throttle, "a", PEER, 10);
        assert_eq!(check(&throttle, "a", PEER, 100), Err(seconds(800)));
        assert_eq!(check(&throttle, "b", PEER, 100), Ok(()));
        fail(&throttle, "a", PEER, 900);
        assert_eq!(check(&throttle, "a", PEER, 900), Err(seconds(10)));
        assert_eq!(check(&throttle, "a", PEER, 910), Ok(()));
    }

    #[test]
    fn success_forgets_and_no_limit_never_counts() {
        let throttle = Throttle::new(Some(2));
        fail(&throttle, "a", PEER, 0);
        throttle.begin("a", PEER, seconds(0)).unwrap().succeeded();
        fail(&throttle, "a", PEER, 0);
        fail(&throttle, "a", PEER, 0);
        assert!(check(&throttle, "a", PEER, 1).is_err());
        throttle.forgive("a");
        assert_eq!(check(&throttle, "a", PEER, 1), Ok(()));
        let throttle = Throttle::new(None);
        (0..1000).for_each(|at| fail(&throttle, "a", PEER, at));
        assert!(throttle.attempts().is_empty());
    }

    #[test]
    fn an_address_that_tries_many_accounts_is_refused_too() {
        let throttle = Throttle::new(Some(3));
        (0..30).for_each(|n| fail(&throttle, &format!("account {n}"), PEER, n));
        assert_eq!(check(&throttle, "fresh", PEER, 30), Err(seconds(870)));
        let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(check(&throttle, "fresh", elsewhere, 30), Ok(()));
    }

    #[test]
    fn what_is_under_way_takes_room_and_gives_it_back() {
        let throttle = Throttle::new(Some(1));
        let has_room = || {
            let attempts = throttle.attempts();
            attempts.get(&Key::Account("a".to_owned())).is_none_or(|of| of.has_room(1, seconds(0)))
        };
        let first = throttle.begin("a", PEER, seconds(0)).unwrap();
        assert!(!has_room());
        first.succeeded();
        assert!(has_room() && throttle.attempts().is_empty());
        let second = throttle.begin("a", PEER, seconds(0)).unwrap();
        drop(second);
        assert_eq!(check(&throttle, "a", PEER, 0), Err(WINDOW));
    }

    #[test]
    fn names_are_bounded_and_their_address_is_remembered() {
        let throttle = Throttle::new(Some(2500));
        (0..25_000).for_each(|n: u32| fail(&throttle, &n.to_string(), PEER, 1));
        assert!(throttle.attempts().len() <= MAX_KEYS);
        assert_eq!(check(&throttle, "x", PEER, 1), Err(WINDOW));
    }

    #[test]
    fn addresses_are_bounded_and_the_newest_are_remembered() {
        let throttle = Throttle::new(Some(1));
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        for n in 0..25_000 {
            fail(&throttle, &n.to_string(), address(n), u64::from(n / 100));
            assert!(throttle.attempts().len() <= MAX_KEYS);
        }
        (0..9).for_each(|name| fail(&throttle, &format!("name {name}"), address(24_999), 250));
        assert!(check(&throttle, "x", address(24_999), 250).is_err());
    }
}
