//! What the server knows: accounts, users, and the server sessions behind refresh tokens.
//!
//! Everything is read from tables in memory. A change is decided while no other change can happen,
//! is put on disk if there is a disk, and only then shows in the tables: what was answered is
//! durable, and readers never wait for the disk.

mod disk;
mod tables;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::disk::Disk;
use self::tables::{Change, Record, Tables};
use super::random;

/// Expired server sessions that a new one takes with it, at most.
const PRUNED_AT_ONCE: usize = 16;

/// An e-mail address and a password that were registered. It becomes an identity of a user with
/// the first log-in.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Account {
    /// The id of the identity.
    pub id: String,
    /// The address, as registered: it is compared to the letter.
    pub email: String,
    /// The hash, in PHC form.
    pub password: String,
    /// Seconds since the epoch.
    pub created_at: i64,
}

/// A user.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct User {
    pub id: String,
    /// In the order they were linked.
    pub identities: Vec<Identity>,
    /// The profile.
    pub data: Map<String, Value>,
    #[serde(default)]
    pub disabled: bool,
    /// Seconds since the epoch.
    pub created_at: i64,
}

/// One way in which a user logs in.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(super) struct Identity {
    pub id: String,
    pub provider_type: String,
}

/// What stands behind a refresh token. The token's text follows from it and is not kept.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Session {
    pub id: String,
    /// The id of the session that the log-in made; its own unless refresh tokens rotate.
    pub login: String,
    pub user_id: String,
    /// The identity that was used.
    pub identity: Identity,
    pub device_id: String,
    /// Seconds since the epoch.
    pub issued_at: i64,
    /// Seconds since the epoch.
    pub expires_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replaced>,
}

/// That a rotated refresh token has a successor.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Replaced {
    /// The id of the successor's session.
    pub by: String,
    /// Until when the old token is still answered, in seconds since the epoch.
    pub until: i64,
}

/// The names of this deployment, which stay the same for as long as its data folder.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Deployment {
    /// The client app id that the folder belongs to.
    pub client_app_id: String,
    pub app_id: String,
    pub domain_id: String,
    pub group_id: String,
}

/// A log-in that was found to be in order.
pub(super) struct LogIn {
    pub identity: Identity,
    /// The profile of a user that does not exist yet.
    pub data: Map<String, Value>,
    pub device_id: String,
    /// Seconds since the epoch.
    pub now: i64,
    /// Seconds.
    pub lifetime: i64,
}

/// The state of one deployment.
pub(super) struct State {
    deployment: Deployment,
    signing_key: [u8; 32],
    tables: RwLock<Tables>,
    /// Held for as long as a change takes. `None` keeps everything in memory.
    disk: Mutex<Option<Disk>>,
}

impl State {
    /// Opens the state in a data folder, creating it if need be, or an empty one in memory.
    pub(super) fn open(dir: Option<&Path>, client_app_id: &str) -> io::Result<Self> {
        let new = Deployment {
            client_app_id: client_app_id.to_owned(),
            app_id: random::id()?,
            domain_id: random::id()?,
            group_id: random::id()?,
        };
        let Some(dir) = dir else {
            return Ok(Self {
                deployment: new,
                signing_key: random::bytes()?,
                tables: RwLock::default(),
                disk: Mutex::new(None),
            });
        };
        let mut disk = Disk::open(dir)?;
        let deployment = disk.deployment(&new)?;
        if deployment.client_app_id != client_app_id {
            let message = format!(
                "the data folder {} belongs to the app {:?}, not {client_app_id:?}",
                dir.display(),
                deployment.client_app_id
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            deployment,
            signing_key: disk.signing_key()?,
            tables: RwLock::new(disk.tables()?),
            disk: Mutex::new(Some(disk)),
        })
    }

    /// Lets go of the data folder. Changes fail from here on.
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

    pub(super) fn account(&self, email: &str) -> Option<Arc<Account>> {
        self.tables().accounts.get(email).cloned()
    }

    pub(super) fn user(&self, id: &str) -> Option<Arc<User>> {
        self.tables().users.get(id).cloned()
    }

    pub(super) fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.tables().sessions.get(id).cloned()
    }

    /// Adds an account. False if its address is taken.
    pub(super) fn add_account(&self, account: Account) -> io::Result<bool> {
        self.change(|tables| {
            let free = !tables.accounts.contains_key(&account.email);
            let changes = if free { vec![Change::put(account)] } else { vec![] };
            Ok((free, changes))
        })
    }

    /// Starts a server session for the user with this identity, creating the user if there is
    /// none. The user comes back alone if it is disabled.
    pub(super) fn log_in(&self, login: LogIn) -> io::Result<(Arc<User>, Option<Arc<Session>>)> {
        let (user_id, session_id) = (random::id()?, random::id()?);
        self.change(|tables| {
            let mut changes = Vec::new();
            let user = match tables.user_of(&login.identity) {
                Some(user) if user.disabled => return Ok(((user, None), changes)),
                Some(user) => user,
                None => {
                    let user = Arc::new(User {
                        id: user_id,
                        identities: vec![login.identity.clone()],
                        data: login.data,
                        disabled: false,
                        created_at: login.now,
                    });
                    changes.push(Change::Put(Record::User(Arc::clone(&user))));
                    user
                }
            };
            let session = Arc::new(Session {
                login: session_id.clone(),
                id: session_id,
                user_id: user.id.clone(),
                identity: login.identity,
                device_id: login.device_id,
                issued_at: login.now,
                expires_at: login.now.saturating_add(login.lifetime),
                replaced: None,
            });
            changes.push(Change::Put(Record::Session(Arc::clone(&session))));
            changes.extend(tables.expired(login.now, PRUNED_AT_ONCE));
            Ok(((user, Some(session)), changes))
        })
    }

    /// Gives a session its successor and returns that, or the one it has already. `None` if the
    /// session is gone, or was replaced too long ago.
    pub(super) fn rotate(
        &self,
        id: &str,
        now: i64,
        lifetime: i64,
        grace: i64,
    ) -> io::Result<Option<Arc<Session>>> {
        let successor_id = random::id()?;
        self.change(|tables| {
            let Some(old) = tables.sessions.get(id) else { return Ok((None, vec![])) };
            if let Some(replaced) = &old.replaced {
                let successor = tables.sessions.get(&replaced.by).cloned();
                return Ok((successor.filter(|_| now < replaced.until), vec![]));
            }
            let successor = Arc::new(Session {
                id: successor_id,
                issued_at: now,
                expires_at: now.saturating_add(lifetime),
                ..Session::clone(old)
            });
            let until = now.saturating_add(grace);
            let old = Session {
                replaced: Some(Replaced { by: successor.id.clone(), until }),
                ..Session::clone(old)
            };
            let mut changes =
                vec![Change::put(old), Change::Put(Record::Session(Arc::clone(&successor)))];
            changes.extend(tables.expired(now, PRUNED_AT_ONCE));
            Ok((Some(successor), changes))
        })
    }

    /// Ends a log-in: the session, its predecessors and its successors. False if it is gone.
    pub(super) fn log_out(&self, id: &str) -> io::Result<bool> {
        self.change(|tables| {
            let Some(session) = tables.sessions.get(id) else { return Ok((false, vec![])) };
            let changes = tables
                .sessions_of(&session.user_id)
                .filter(|other| other.login == session.login)
                .map(|other| Change::RemoveSession(other.id.clone()))
                .collect();
            Ok((true, changes))
        })
    }

    /// Ends all of a user's sessions and returns how many there were, or `None` without such a
    /// user.
    pub(super) fn revoke_sessions(&self, user_id: &str) -> io::Result<Option<usize>> {
        self.change(|tables| {
            if !tables.users.contains_key(user_id) {
                return Ok((None, vec![]));
            }
            let changes: Vec<_> = tables
                .sessions_of(user_id)
                .map(|session| Change::RemoveSession(session.id.clone()))
                .collect();
            Ok((Some(changes.len()), changes))
        })
    }

    /// Disables or enables a user. False if there is none.
    pub(super) fn set_disabled(&self, user_id: &str, disabled: bool) -> io::Result<bool> {
        self.change(|tables| {
            let Some(user) = tables.users.get(user_id) else { return Ok((false, vec![])) };
            let changes = if user.disabled == disabled {
                vec![]
            } else {
                vec![Change::put(User { disabled, ..User::clone(user) })]
            };
            Ok((true, changes))
        })
    }

    /// Decides on a change and makes it. When this fails, nothing shows; whether the disk has it
    /// is found out by reading the disk again before the next change.
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
        // Only this thread can change the tables now: the disk's lock is held.
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
