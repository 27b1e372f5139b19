//! Connections to the primary: located through Sentinel if configured, reused while they work, and
//! closed on any error.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::address::Address;
use super::connection::{Connection, Role, Target};
use super::failure::Failure;
use super::limit::Limit;
use super::resolver::Resolver;
use crate::diagnostics::note;
use crate::error::StoreError;
use crate::happy_eyeballs::Race;

/// The maximum age of a connection. A new connection verifies again that the server is the primary.
const LIFETIME: Duration = Duration::from_secs(60);

/// How to locate the primary.
pub(super) enum Primary {
    /// At a fixed address.
    At(Target),
    /// At the address that one of these sentinels returns.
    Sentinel { service: String, sentinels: Vec<Target>, primary: Target },
}

/// The connections of one store.
pub(super) struct Pool {
    primary: Primary,
    resolver: Resolver,
    race: Race,
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    /// The number of connections in use.
    used: usize,
    /// The process that owns the connections. A child process must not use those of its parent.
    process: u32,
}

/// A connection in use. Dropping it closes the connection; [`put_back`](Self::put_back) returns it
/// to the pool.
pub(super) struct Pooled<'a> {
    connection: Connection,
    /// `true` if the connection was idle before, so it may have been closed by the server
    /// meanwhile.
    was_idle: bool,
    slot: Slot<'a>,
}

/// A permit for one connection.
struct Slot<'a>(&'a Pool);

impl Pool {
    pub(super) fn new(primary: Primary, most: usize) -> Self {
        Self {
            primary,
            resolver: Resolver::default(),
            race: Race::default(),
            most,
            state: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// The address to show in messages: of the primary, or of the first sentinel.
    pub(super) fn address(&self) -> &Address {
        match &self.primary {
            Primary::At(target) => &target.address,
            Primary::Sentinel { sentinels, primary, .. } => {
                sentinels.first().map_or(&primary.address, |first| &first.address)
            }
        }
    }

    /// Returns the store error for a failure.
    pub(super) fn error(&self, failure: &Failure) -> StoreError {
        failure.at(self.address())
    }

    /// Runs an operation on a connection. Repeats it on a new connection if an idle one turns out
    /// to be broken, so the operation must be repeatable.
    pub(super) fn run<T>(
        &self,
        limit: Limit,
        mut act: impl FnMut(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        loop {
            let mut pooled = self.get(limit)?;
            match act(pooled.within(limit)) {
                Ok(done) => {
                    pooled.put_back();
                    return Ok(done);
                }
                Err(Failure::Broken(_)) if pooled.was_idle => self.clear(),
                Err(failure) => {
                    self.clear_after(&failure);
                    return Err(failure);
                }
            }
        }
    }

    /// Takes an idle connection or opens one. Waits while too many are in use.
    pub(super) fn get(&self, limit: Limit) -> Result<Pooled<'_>, Failure> {
        let mut state = self.lock();
        while state.used >= self.most {
            let wait = limit.wait();
            if wait.is_zero() {
                return Err(Failure::TimedOut);
            }
            let waited = self.returned.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.used += 1;
        let slot = Slot(self);
        state.idle.retain(|connection| connection.age() < LIFETIME);
        let idle = state.idle.pop();
        drop(state);
        let was_idle = idle.is_some();
        let connection = idle.map_or_else(|| self.open(limit), Ok)?;
        Ok(Pooled { connection, was_idle, slot })
    }

    /// Opens a connection to the primary.
    pub(super) fn open(&self, limit: Limit) -> Result<Connection, Failure> {
        match &self.primary {
            Primary::At(target) => self.open_primary(target, limit),
            Primary::Sentinel { service, sentinels, primary } => {
                let mut failure = Failure::Connect(std::io::ErrorKind::NotFound);
                for (tried, sentinel) in sentinels.iter().enumerate() {
                    let share = u32::try_from(sentinels.len() - tried).unwrap_or(u32::MAX);
                    let some = limit.at_most(limit.remaining() / share);
                    let found =
                        self.ask_sentinel(sentinel, service, some).and_then(|(host, port)| {
                            let tls = primary.address.tls;
                            let address = Address { host, port, tls };
                            self.open_primary(&Target { address, ..primary.clone() }, some)
                        });
                    match found {
                        Ok(connection) => return Ok(connection),
                        Err(error) => failure = error,
                    }
                }
                Err(failure)
            }
        }
    }

    fn open_primary(&self, target: &Target, limit: Limit) -> Result<Connection, Failure> {
        let (connection, role) = Connection::open(target, &self.resolver, &self.race, limit)?;
        note!(debug, "connected to {} ({role:?})", target.address);
        match role {
            Role::Replica => Err(Failure::Refused("READONLY")),
            Role::Primary | Role::Unknown => Ok(connection),
        }
    }

    fn ask_sentinel(
        &self,
        sentinel: &Target,
        service: &str,
        limit: Limit,
    ) -> Result<(String, u16), Failure> {
        let (mut connection, _) = Connection::open(sentinel, &self.resolver, &self.race, limit)?;
        let mut question = ::redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(service);
        let found: Option<(String, String)> = connection.ask(&question)?;
        let (host, port) =
            found.ok_or(Failure::Broken("the sentinel does not know the service"))?;
        let port = port.parse().map_err(|_| Failure::Broken("the sentinel named no port"))?;
        Ok((host, port))
    }

    /// Closes idle connections if the failure shows that they are probably unusable.
    pub(super) fn clear_after(&self, failure: &Failure) {
        let elsewhere = matches!(failure, Failure::Refused("MASTERDOWN" | "READONLY"));
        if elsewhere
            || matches!(failure, Failure::Broken(_) | Failure::Connect(_) | Failure::WantsTls)
        {
            self.clear();
        }
    }

    fn clear(&self) {
        self.lock().idle.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if state.process != process {
            *state = State { process, ..State::default() };
        }
        state
    }
}

impl Pooled<'_> {
    /// Sets the limit of further operations and returns the connection.
    pub(super) fn within(&mut self, limit: Limit) -> &mut Connection {
        self.connection.within(limit)
    }

    pub(super) fn was_idle(&self) -> bool {
        self.was_idle
    }

    /// Returns the connection to the pool. Its last reply must have been read completely.
    pub(super) fn put_back(self) {
        self.slot.0.lock().idle.push(self.connection);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.used = state.used.saturating_sub(1);
        drop(state);
        self.0.returned.notify_one();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("address", &self.address()).finish_non_exhaustive()
    }
}
