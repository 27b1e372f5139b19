//! Rate limits: counts actions per account, per client address and in total.
//!
//! Every action of [`RateLimits`] is counted by the same mechanism, a sliding window per key. A key
//! is an action together with an account, an address, or nothing for the total. Memory is bounded:
//! there are at most [`MAX_KEYS`] keys, plus those of attempts in progress, and each holds at most
//! twice [`MAX_STEPS`] steps. Account names are stored as keyed hashes.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rate_limits::{RateLimit, RateLimits};

/// Maximum number of stored keys, in addition to those of attempts in progress.
const MAX_KEYS: usize = 20_000;
/// Up to this many events of a key are stored one by one. Beyond that, events within the same 64th
/// of the window share the time of the first one.
const MAX_STEPS: u32 = 64;

/// The limited actions.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Action {
    AnonymousLogin,
    ApiKeyLogin,
    FunctionLogin,
    Mail,
    MailToken,
    PasswordLogin,
    ProviderLogin,
    Registration,
}

impl Action {
    /// Returns the error message for clients over the limit.
    pub(super) fn refusal(self) -> &'static str {
        match self {
            Self::AnonymousLogin => "too many anonymous log-ins",
            Self::Mail => "too many requests to confirm an address or to reset a password",
            Self::MailToken => "too many failed attempts to confirm or reset",
            Self::Registration => "too many registrations",
            Self::ApiKeyLogin | Self::FunctionLogin | Self::PasswordLogin | Self::ProviderLogin => {
                "too many failed log-in attempts"
            }
        }
    }

    fn limit(self, limits: &RateLimits) -> &RateLimit {
        match self {
            Self::AnonymousLogin => &limits.anonymous_logins,
            Self::ApiKeyLogin => &limits.api_key_logins,
            Self::FunctionLogin => &limits.function_logins,
            Self::Mail => &limits.mails,
            Self::MailToken => &limits.mail_tokens,
            Self::PasswordLogin => &limits.password_logins,
            Self::ProviderLogin => &limits.provider_logins,
            Self::Registration => &limits.registrations,
        }
    }
}

/// Counts actions, and rejects those over a limit.
pub(super) struct Throttle {
    limits: RateLimits,
    hasher: RandomState,
    windows: Mutex<HashMap<Key, Window>>,
    ended: Condvar,
}

/// Permission for one attempt. It counts as a failure when it is dropped, unless it
/// [succeeded](Self::succeeded) or was [abandoned](Self::abandoned).
pub(super) struct Attempt<'a> {
    throttle: &'a Throttle,
    /// Empty once the attempt has ended, and if there is no limit.
    counted: Vec<Counted>,
    began: Duration,
}

#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Key {
    action: Action,
    subject: Subject,
}

#[derive(Clone, Copy, Eq, Hash, PartialEq)]
enum Subject {
    /// The keyed hash of the account's name.
    Account(u64),
    Address(IpAddr),
    Everybody,
}

/// A key and its limit.
#[derive(Clone, Copy)]
struct Counted {
    key: Key,
    most: u32,
    window: Duration,
}

/// The events of a key within its window.
#[derive(Default)]
struct Window {
    /// Times in order, each with the number of events.
    steps: VecDeque<(Duration, u32)>,
    in_progress: u32,
    /// When the newest event stops counting.
    until: Duration,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum End {
    Abandoned,
    Failed,
    Succeeded,
}

impl Throttle {
    pub(super) fn new(limits: RateLimits) -> Self {
        Self {
            limits,
            hasher: RandomState::new(),
            windows: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Begins an attempt, or returns how long to wait before one is allowed. `now` is monotonic
    /// time.
    ///
    /// Blocks while the result depends on attempts in progress, so that concurrent attempts get no
    /// more tries than sequential ones.
    pub(super) fn begin(
        &self,
        action: Action,
        account: Option<&str>,
        address: IpAddr,
        now: Duration,
    ) -> Result<Attempt<'_>, Duration> {
        let counted = self.counted(action, account, address);
        if counted.is_empty() {
            return Ok(Attempt { throttle: self, counted, began: now });
        }
        let mut windows = self.windows();
        loop {
            for each in &counted {
                if let Some(window) = windows.get_mut(&each.key) {
                    window.drop_old(each.window, now);
                }
            }
            let known = || counted.iter().filter_map(|each| Some((each, windows.get(&each.key)?)));
            let waits = known().filter_map(|(each, window)| window.wait(each, now));
            if let Some(wait) = waits.max() {
                return Err(wait);
            }
            if known().all(|(each, window)| window.has_room(each)) {
                break;
            }
            windows = self.ended.wait(windows).unwrap_or_else(PoisonError::into_inner);
        }
        for each in &counted {
            make_room(&mut windows, &each.key, now);
            windows.entry(each.key).or_default().in_progress += 1;
        }
        Ok(Attempt { throttle: self, counted, began: now })
    }

    /// Clears an account's failures, for example after its password was replaced.
    pub(super) fn forgive(&self, action: Action, account: &str) {
        let key = Key { action, subject: self.account(account) };
        let mut windows = self.windows();
        if let Some(window) = windows.get_mut(&key) {
            window.steps.clear();
            if window.in_progress == 0 {
                windows.remove(&key);
            }
        }
        drop(windows);
        self.ended.notify_all();
    }

    fn counted(&self, action: Action, account: Option<&str>, address: IpAddr) -> Vec<Counted> {
        let limit = action.limit(&self.limits);
        let account = account.map(|account| self.account(account));
        [
            account.and_then(|account| Some((account, limit.per_account?))),
            limit.per_address.map(|most| (Subject::Address(network(address)), most)),
            limit.total.map(|most| (Subject::Everybody, most)),
        ]
        .into_iter()
        .flatten()
        .map(|(subject, most)| Counted {
            key: Key { action, subject },
            most: most.max(1),
            window: limit.window,
        })
        .collect()
    }

    fn account(&self, account: &str) -> Subject {
        Subject::Account(self.hasher.hash_one(account))
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<Key, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Ends this attempt and clears the account's failures.
    pub(super) fn succeeded(mut self) {
        self.end(End::Succeeded);
    }

    /// Ends this attempt without counting it, because its result could not be determined.
    pub(super) fn abandoned(mut self) {
        self.end(End::Abandoned);
    }

    fn end(&mut self, end: End) {
        let counted = std::mem::take(&mut self.counted);
        if counted.is_empty() {
            return;
        }
        let mut windows = self.throttle.windows();
        for each in counted {
            let Some(window) = windows.get_mut(&each.key) else { continue };
            window.in_progress = window.in_progress.saturating_sub(1);
            match end {
                End::Failed => window.add(self.began, each.window),
                End::Succeeded if matches!(each.key.subject, Subject::Account(_)) => {
                    window.steps.clear();
                }
                End::Abandoned | End::Succeeded => {}
            }
            if window.in_progress == 0 && window.steps.is_empty() {
                windows.remove(&each.key);
            }
        }
        drop(windows);
        self.throttle.ended.notify_all();
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.end(End::Failed);
    }
}

impl Window {
    fn drop_old(&mut self, length: Duration, now: Duration) {
        while self.steps.front().is_some_and(|(time, _)| time.saturating_add(length) <= now) {
            self.steps.pop_front();
        }
    }

    fn events(&self) -> u32 {
        self.steps.iter().fold(0, |sum, (_, events)| sum.saturating_add(*events))
    }

    /// Returns how long attempts are blocked, or `None` if they are allowed.
    fn wait(&self, counted: &Counted, now: Duration) -> Option<Duration> {
        let mut left = self.events();
        if left < counted.most {
            return None;
        }
        // The step that must expire before another attempt is allowed.
        let (time, _) = self.steps.iter().find(|(_, events)| {
            left = left.saturating_sub(*events);
            left < counted.most
        })?;
        Some(time.saturating_add(counted.window).saturating_sub(now))
    }

    /// Returns `true` if one more attempt is allowed even if all attempts in progress fail.
    fn has_room(&self, counted: &Counted) -> bool {
        self.events().saturating_add(self.in_progress) < counted.most
    }

    fn add(&mut self, began: Duration, length: Duration) {
        let is_full = self.steps.len() >= MAX_STEPS as usize;
        let step = if is_full { length / MAX_STEPS } else { Duration::ZERO };
        match self.steps.back_mut() {
            // An attempt that began earlier may end later.
            Some((last, events)) if began <= last.saturating_add(step) => {
                *events = events.saturating_add(1);
            }
            _ => self.steps.push_back((began, 1)),
        }
        self.until = self.until.max(began.saturating_add(length));
    }
}

/// Returns the network that an address is counted by. An IPv6 client usually has a whole /64
/// network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & (!0 << 64)).into(),
    }
}

/// Drops other keys if there are too many to add this one.
fn make_room(windows: &mut HashMap<Key, Window>, key: &Key, now: Duration) {
    if windows.len() < MAX_KEYS || windows.contains_key(key) {
        return;
    }
    windows.retain(|_, window| window.in_progress > 0 || window.until > now);
    if windows.len() >= MAX_KEYS {
        // In an attack with this many names, the limits per address and in total still apply.
        let is_account = |key: &Key| matches!(key.subject, Subject::Account(_));
        windows.retain(|key, window| window.in_progress > 0 || !is_account(key));
    }
    if windows.len() >= MAX_KEYS {
        // In an attack from this many addresses, the limit in total still applies. The half that
        // expires first is dropped, so that this happens rarely.
        let mut times: Vec<_> = windows.values().map(|window| window.until).collect();
        let (_, median, _) = times.select_nth_unstable(MAX_KEYS / 2);
        let median = *median;
        windows.retain(|key, window| {
            window.in_progress > 0 || key.subject == Subject::Everybody || window.until > median
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LOGIN: Action = Action::PasswordLogin;

    fn limit(account: Option<u32>, address: Option<u32>, total: Option<u32>) -> Throttle {
        let mut limits = RateLimits::off();
        let login = &mut limits.password_logins;
        (login.per_account, login.per_address, login.total) = (account, address, total);
        Throttle::new(limits)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn count(
        throttle: &Throttle,
        action: Action,
        account: Option<&str>,
        peer: IpAddr,
        at: Duration,
    ) -> Result<(), Duration> {
        throttle.begin(action, account, peer, at).map(drop)
    }

    fn check(throttle: &Throttle, account: &str, peer: IpAddr, at: u64) -> Result<(), Duration> {
        throttle.begin(LOGIN, Some(account), peer, seconds(at)).map(Attempt::abandoned)
    }

    fn fail(throttle: &Throttle, account: &str, peer: IpAddr, at: u64) {
        assert_eq!(count(throttle, LOGIN, Some(account), peer, seconds(at)), Ok(()));
    }

    #[test]
    fn account_is_limited_within_window() {
        let throttle = limit(Some(2), None, None);
        fail(&throttle, "a", PEER, 0);
        fail(&throttle, "a", PEER, 10);
        assert_eq!(check(&throttle, "a", PEER, 100), Err(seconds(800)));
        assert_eq!(check(&throttle, "b", PEER, 100), Ok(()));
        fail(&throttle, "a", PEER, 900);
        assert_eq!(check(&throttle, "a", PEER, 900), Err(seconds(10)));
        assert_eq!(check(&throttle, "a", PEER, 910), Ok(()));
    }

    #[test]
    fn success_and_forgiveness_clear_account() {
        let throttle = limit(Some(2), None, None);
        fail(&throttle, "a", PEER, 0);
        throttle.begin(LOGIN, Some("a"), PEER, seconds(0)).unwrap().succeeded();
        fail(&throttle, "a", PEER, 0);
        fail(&throttle, "a", PEER, 0);
        assert!(check(&throttle, "a", PEER, 1).is_err());
        throttle.forgive(LOGIN, "a");
        assert_eq!(check(&throttle, "a", PEER, 1), Ok(()));
    }

    #[test]
    fn success_leaves_address_and_total() {
        let throttle = limit(None, Some(2), Some(3));
        fail(&throttle, "a", PEER, 0);
        fail(&throttle, "a", PEER, 0);
        let elsewhere = address(7);
        throttle.begin(LOGIN, Some("a"), elsewhere, seconds(0)).unwrap().succeeded();
        assert_eq!(check(&throttle, "a", PEER, 0), Err(seconds(900)));
        fail(&throttle, "a", elsewhere, 1);
        assert_eq!(check(&throttle, "b", address(8), 1), Err(seconds(899)), "the total");
    }

    #[test]
    fn no_limit_counts_nothing() {
        let throttle = Throttle::new(RateLimits::off());
        (0..1000).for_each(|at| fail(&throttle, "a", PEER, at));
        assert!(throttle.windows().is_empty());
    }

    #[test]
    fn actions_are_counted_apart() {
        let mut limits = RateLimits::default();
        limits.registrations.per_address = Some(1);
        let throttle = Throttle::new(limits);
        let count = |action| count(&throttle, action, None, PEER, seconds(0));
        assert_eq!(count(Action::Registration), Ok(()));
        assert_eq!(count(Action::Registration), Err(limits.registrations.window));
        assert_eq!(count(Action::AnonymousLogin), Ok(()));
    }

    #[test]
    fn ipv6_network_is_one_client() {
        let throttle = limit(None, Some(1), None);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        fail(&throttle, "a", ip("2001:db8:0:1::1"), 0);
        assert!(check(&throttle, "b", ip("2001:db8:0:1:ffff::2"), 0).is_err());
        assert_eq!(check(&throttle, "b", ip("2001:db8:0:2::1"), 0), Ok(()));
        fail(&throttle, "a", ip("192.0.2.1"), 0);
        assert!(check(&throttle, "b", ip("::ffff:192.0.2.1"), 0).is_err());
        assert_eq!(check(&throttle, "b", ip("192.0.2.2"), 0), Ok(()));
    }

    #[test]
    fn attempts_in_progress_are_counted() {
        let throttle = limit(Some(1), None, None);
        let counted = throttle.counted(LOGIN, Some("a"), PEER)[0];
        let has_room =
            || throttle.windows().get(&counted.key).is_none_or(|window| window.has_room(&counted));
        let first = throttle.begin(LOGIN, Some("a"), PEER, seconds(0)).unwrap();
        assert!(!has_room());
        first.succeeded();
        assert!(has_room() && throttle.windows().is_empty());
        let second = throttle.begin(LOGIN, Some("a"), PEER, seconds(0)).unwrap();
        second.abandoned();
        assert!(has_room() && throttle.windows().is_empty());
        fail(&throttle, "a", PEER, 0);
        assert_eq!(check(&throttle, "a", PEER, 0), Err(seconds(900)));
    }

    /// Beyond 64 events, times have a resolution of 1/64 of the window.
    #[test]
    fn events_per_key_use_bounded_memory() {
        let most = 100_000;
        let throttle = limit(None, Some(most), None);
        for n in 0..most {
            let at = Duration::from_millis(u64::from(n) * 8);
            assert_eq!(count(&throttle, LOGIN, None, PEER, at), Ok(()));
        }
        let counted = throttle.counted(LOGIN, None, PEER)[0];
        let steps = throttle.windows()[&counted.key].steps.len();
        assert!(steps <= 2 * MAX_STEPS as usize, "{steps}");
        assert_eq!(check(&throttle, "a", PEER, 800), Err(seconds(100)));
        assert_eq!(check(&throttle, "a", PEER, 901), Ok(()));
        assert!(throttle.windows()[&counted.key].events() > most - 3000);
    }

    #[test]
    fn names_are_bounded_per_counted_address() {
        let throttle = limit(Some(2500), Some(25_000), None);
        (0..25_000).for_each(|n: u32| fail(&throttle, &n.to_string(), PEER, 1));
        assert!(throttle.windows().len() <= MAX_KEYS);
        assert_eq!(check(&throttle, "x", PEER, 1), Err(seconds(900)));
    }

    #[test]
    fn addresses_are_bounded_and_newest_count() {
        let throttle = limit(Some(1), Some(10), Some(1_000_000));
        for n in 0..25_000 {
            fail(&throttle, &n.to_string(), address(n), u64::from(n / 100));
            assert!(throttle.windows().len() <= MAX_KEYS);
        }
        (0..9).for_each(|name| fail(&throttle, &format!("name {name}"), address(24_999), 250));
        assert!(check(&throttle, "x", address(24_999), 250).is_err());
        let total = throttle.counted(LOGIN, None, PEER)[1];
        assert_eq!(throttle.windows()[&total.key].events(), 25_009);
    }
}
