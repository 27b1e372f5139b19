//! The stored state: accounts, users, their API keys, and the server sessions behind refresh
//! tokens.
//!
//! All reads use tables in memory. Changes are serialised: a change is decided, written to disk if
//! there is one, and only then applied to the tables. A change is therefore durable before the
//! server responds, and readers never wait for the disk.

mod accounts;
mod api_keys;
mod disk;
mod limits;
mod records;
mod sessions;
mod tables;
mod users;

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

pub(super) use self::accounts::{Purpose, Registered};
pub(super) use self::api_keys::{KeyRefusal, MAX_KEYS};
use self::disk::Disk;
pub(super) use self::limits::{MAX_IDENTITIES, StateLimits, profile_fits};
#[cfg(test)]
pub(super) use self::records::LastUse;
pub(super) use self::records::{
    ANONYMOUS, API_KEY, Account, ApiKey, Deployment, EMAIL_PASSWORD, Identity, Session, User,
};
use self::tables::{Change, Tables};
pub(super) use self::users::{Linked, LoggedIn, LoginSource, SessionParams, VerifiedLogin};
use super::random;

/// The state of one deployment.
pub(super) struct State {
    deployment: Deployment,
    limits: StateLimits,
    signing_key: [u8; 32],
    tables: RwLock<Tables>,
    /// Locked during a change. `None` if everything is only in memory.
    disk: Mutex<Option<Disk>>,
}

impl State {
    /// Opens the state in a data directory, creating it if necessary, or an empty state in memory.
    pub(super) fn open(
        dir: Option<&Path>,
        client_app_id: &str,
        limits: StateLimits,
    ) -> io::Result<Self> {
        let new = Deployment {
            client_app_id: client_app_id.to_owned(),
            app_id: random::id()?,
            domain_id: random::id()?,
            group_id: random::id()?,
        };
        let Some(dir) = dir else {
            return Ok(Self {
                deployment: new,
                limits,
                signing_key: random::bytes()?,
                tables: RwLock::default(),
                disk: Mutex::new(None),
            });
        };
        Self::open_in(dir, new, limits).map_err(|error| match error.raw_os_error() {
            // The operating system's message does not name the directory.
            Some(_) => {
                let message =
                    format!("the data directory {} cannot be used: {error}", dir.display());
                io::Error::new(error.kind(), message)
            }
            None => error,
        })
    }

    fn open_in(dir: &Path, new: Deployment, limits: StateLimits) -> io::Result<Self> {
        let mut disk = Disk::open(dir)?;
        let tables = disk.tables()?;
        let deployment = disk.deployment(&new)?;
        if deployment.client_app_id != new.client_app_id {
            let message = format!(
                "the data directory {} belongs to the app {:?}, not {:?}",
                dir.display(),
                deployment.client_app_id,
                new.client_app_id
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            deployment,
            limits,
            signing_key: disk.signing_key()?,
            tables: RwLock::new(tables),
            disk: Mutex::new(Some(disk)),
        })
    }

    /// Releases the data directory. Later changes fail.
    pub(super) fn close(&self) {
        if let Some(disk) = &mut *self.disk() {
            disk.close();
        }
    }

    pub(super) fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    pub(super) fn signing_key(&self) -> &[u8; 32] {
        &self.signing_key
    }

    /// Decides on a change and applies it. If this fails, the tables do not change. The disk may
    /// still have the change, so it is read again before the next change.
    fn change<T>(
        &self,
        decide: impl FnOnce(&Tables) -> io::Result<(T, Vec<Change>)>,
    ) -> io::Result<T> {
        let mut disk = self.disk();
        if let Some(disk) = &mut *disk
            && disk.has_failed()
        {
            *self.tables.write().unwrap_or_else(PoisonError::into_inner) = disk.tables()?;
        }
        // Only this thread can change the tables now, because it holds the disk's lock.
        let (value, changes) = decide(&self.tables())?;
        if changes.is_empty() {
            return Ok(value);
        }
        if let Some(disk) = &mut *disk {
            disk.commit(&changes)?;
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            tables.apply(change);
        }
        Ok(value)
    }

    fn disk(&self) -> MutexGuard<'_, Option<Disk>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }
}
