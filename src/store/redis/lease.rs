//! Refresh locks: keys that expire, renewed by a thread while the lock is held.
//!
//! A suspended process does not renew its lock, so another process can acquire it. After it
//! resumes, the process asks the server whether it still holds the lock, directly before it sends
//! the refresh request.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::failure::Failure;
use super::limit::Limit;
use super::pool::Pool;
use super::scripts::{RELEASE, RENEW};
use crate::deadline::Deadline;
use crate::store::Lease;

/// How long the thread waits for the next lock before it exits.
const IDLE: Duration = Duration::from_secs(10);

/// The maximum time to release a lock. If the release fails, the lock expires.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// The maximum number of orphans.
const ORPHANS: usize = 64;

/// The refresh locks that one store holds.
pub(super) struct Leases {
    pool: Arc<Pool>,
    lease: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: Vec<Arc<Entry>>,
    /// Locks that the server may have granted although no reply arrived; they have to be released.
    orphans: Vec<Arc<Entry>>,
    is_running: bool,
    process: u32,
}

/// One lock.
struct Entry {
    key: Vec<u8>,
    token: String,
    /// When the lock was last known to be held; `None` if it is lost.
    known: Mutex<Option<Instant>>,
}

/// Holds a lock until dropped.
pub(super) struct Held {
    leases: Arc<Leases>,
    entry: Arc<Entry>,
    deadline: Deadline,
    process: u32,
}

impl Leases {
    pub(super) fn new(pool: Arc<Pool>, lease: Duration) -> Arc<Self> {
        Arc::new(Self { pool, lease, state: Mutex::default(), changed: Condvar::new() })
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// Registers a lock that was requested at `since`, for renewal.
    pub(super) fn keep(
        self: &Arc<Self>,
        key: Vec<u8>,
        token: String,
        since: Instant,
        deadline: Deadline,
    ) -> Held {
        let entry = Arc::new(Entry { key, token, known: Mutex::new(Some(since)) });
        self.hand_over(|state| state.held.push(Arc::clone(&entry)));
        Held { leases: Arc::clone(self), entry, deadline, process: std::process::id() }
    }

    /// Releases a lock in the background once the server is reachable. Used when the request for
    /// the lock was sent and no reply arrived in time.
    pub(super) fn give_back(self: &Arc<Self>, key: Vec<u8>, token: String) {
        let entry = Arc::new(Entry { key, token, known: Mutex::new(Some(Instant::now())) });
        self.hand_over(|state| {
            if state.orphans.len() < ORPHANS {
                state.orphans.push(entry);
            }
        });
    }

    /// Passes work to the thread, which is started if necessary.
    fn hand_over(self: &Arc<Self>, what: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let process = std::process::id();
        if state.process != process {
            // This is a child process after a fork. It does not have the thread, and the locks do
            // not belong to it.
            *state = State { process, ..State::default() };
        }
        what(&mut state);
        if !state.is_running {
            let leases = Arc::clone(self);
            let thread = thread::Builder::new().name("keyfob-redis-lease".to_owned());
            // Without a thread the lock lasts for one lease; `is_held` checks that.
            state.is_running = thread.spawn(move || leases.run()).is_ok();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Renews all locks three times a lease and releases orphans. Returns after an idle period.
    fn run(&self) {
        let mut connection = None;
        let mut idle_since = Instant::now();
        loop {
            let state = self.lock();
            let is_idle = state.held.is_empty() && state.orphans.is_empty();
            let time = if is_idle { IDLE } else { self.lease / 6 };
            let waited = self.changed.wait_timeout(state, time);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.held.is_empty() && state.orphans.is_empty() {
                connection = None;
                if idle_since.elapsed() >= IDLE {
                    state.is_running = false;
                    return;
                }
                continue;
            }
            idle_since = Instant::now();
            let (held, mut orphans) = (state.held.clone(), std::mem::take(&mut state.orphans));
            drop(state);
            for entry in held {
                self.renew_in_time(&entry, &mut connection);
            }
            orphans.retain(|entry| !self.has_given_back(entry, &mut connection));
            self.lock().orphans.append(&mut orphans);
        }
    }

    /// Tries to release an orphan. Returns `true` if no further attempt is needed.
    fn has_given_back(&self, entry: &Entry, connection: &mut Option<Connection>) -> bool {
        let limit = Limit::after(self.lease / 3);
        let Some(mut open) = connection.take().or_else(|| self.pool.open(limit).ok()) else {
            entry.expire(self.lease);
            return entry.known().is_none();
        };
        let token = entry.token.as_bytes();
        match open.within(limit).run::<i64>(&RELEASE, &[&entry.key], &[token]) {
            Ok(_) => {
                *connection = Some(open);
                true
            }
            Err(_) => {
                entry.expire(self.lease);
                entry.known().is_none()
            }
        }
    }

    fn renew_in_time(&self, entry: &Entry, connection: &mut Option<Connection>) {
        let is_due = entry.known().is_some_and(|known| known.elapsed() >= self.lease / 3);
        if !is_due {
            return;
        }
        let limit = Limit::after(self.lease / 3);
        let Some(mut open) = connection.take().or_else(|| self.pool.open(limit).ok()) else {
            return entry.expire(self.lease);
        };
        let since = Instant::now();
        match self.renew(entry, open.within(limit)) {
            Ok(is_held) => {
                *entry.known.lock().unwrap_or_else(PoisonError::into_inner) =
                    is_held.then_some(since);
                *connection = Some(open);
            }
            Err(_) => entry.expire(self.lease),
        }
    }

    fn renew(&self, entry: &Entry, connection: &mut Connection) -> Result<bool, Failure> {
        let milliseconds = self.lease.as_millis().to_string();
        let arguments: [&[u8]; 2] = [entry.token.as_bytes(), milliseconds.as_bytes()];
        let renewed: i64 = connection.run(&RENEW, &[&entry.key], &arguments)?;
        Ok(renewed == 1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn known(&self) -> Option<Instant> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the lock as lost if it was not renewed for a whole lease.
    fn expire(&self, lease: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some_and(|known| known.elapsed() >= lease) {
            *known = None;
        }
    }
}

impl Lease for Held {
    /// Asks the server, because local clocks may stop while a machine is suspended.
    fn is_held(&self) -> bool {
        if self.process != std::process::id() || self.entry.known().is_none() {
            return false;
        }
        let since = Instant::now();
        let limit = Limit::until(self.deadline).at_most(self.leases.lease / 3);
        let renewed =
            self.leases.pool.run(limit, |connection| self.leases.renew(&self.entry, connection));
        let mut known = self.entry.known.lock().unwrap_or_else(PoisonError::into_inner);
        match renewed {
            Ok(true) => {
                *known = Some(since);
                since.elapsed() < self.leases.lease
            }
            Ok(false) => {
                *known = None;
                false
            }
            Err(_) => false,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        self.leases.lock().held.retain(|held| !Arc::ptr_eq(held, &self.entry));
        if self.entry.known().is_some() {
            let limit = Limit::until(self.deadline).at_most(RELEASE_LIMIT);
            let _ = self.leases.pool.run(limit, |connection| {
                let token = self.entry.token.as_bytes();
                connection.run::<i64>(&RELEASE, &[&self.entry.key], &[token])
            });
        }
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("held", &self.lock().held.len()).finish_non_exhaustive()
    }
}
