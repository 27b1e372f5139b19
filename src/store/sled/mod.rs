//! A store on disk that any number of threads and processes share.
//!
//! The data is in a sled database, which is opened only to commit, or to read a user that the
//! snapshot has no room for. Other reads use two small files. The manual describes the design.
//!
//! | module | content |
//! | --- | --- |
//! | `sled_store`, `view` | the state of an open store, and what it read last |
//! | `reader` | reads, without waiting for writers |
//! | `writer` | the commit: the order of its steps and the commit point |
//! | `recovery` | recovery after a crash, and damaged databases |
//! | `database`, `schema` | the database: operations and keys, on [`kv`](crate::kv) |
//! | `snapshot`, `snapshot_file`, `generation` | the two small files |
//! | `key_file`, `keyring` | sources of the encryption key |
//! | `layout`, `file_id`, `lock`, `network_fs` | names of files, identities, locks, file systems |
//! | `registry` | the state that all stores of a process on one directory share |
//!
//! Lock order: a user's refresh lock, the mutex of the process, the file `lock`. Never the other way.

mod database;
mod file_id;
mod generation;
#[cfg(feature = "encryption")]
mod key_file;
#[cfg(feature = "keyring")]
mod keyring;
mod layout;
mod lock;
mod network_fs;
mod reader;
mod recovery;
mod registry;
mod schema;
mod sled_store;
mod snapshot;
mod snapshot_file;
mod view;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::lock::FileLock;
pub use self::sled_store::{OnDamage, SledStore};
use self::snapshot::LoadScope;
use self::writer::Writer;
#[cfg(feature = "encryption")]
use super::encryption::EncryptionKey;
use super::encryption::EncryptionMode;
use super::{Decide, RecentEvents, RefreshLock, Store, StoredUser};
use crate::deadline::Deadline;
use crate::error::StoreError;
#[cfg(feature = "encryption")]
use crate::error::StoreErrorKind;
use crate::id::UserId;

impl SledStore {
    /// Opens the store in a directory. Creates nothing: the first commit creates the directory and
    /// its parents (mode 0700), and the files.
    ///
    /// All files belong to the owner of the directory. A process of another user gives new files to
    /// that owner, as root can; otherwise its commits fail.
    ///
    /// `app` names the backend and the app of the users. The store remembers it and rejects another
    /// one. Usually this reads two small files and takes no lock. After a crash it recovers the
    /// store, for which it waits at most until the deadline.
    ///
    /// # Errors
    /// By [kind](crate::StoreErrorKind): `Access`, `Full`, `Io` if the directory cannot be read;
    /// `NotLocal` on a network file system; `Mismatch` if it holds the users of another app;
    /// `NewerVersion` if a newer version wrote it; `Damaged`, `Busy` if it needs recovery.
    pub fn open(
        dir: &Path,
        app: &str,
        on_damage: OnDamage,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        let files = Self::files(dir)?;
        let store = Self::new(files, app, on_damage, EncryptionMode::default());
        store.view(LoadScope::Header, deadline)?;
        Ok(store)
    }

    /// Opens the encrypted store in a directory, like [`Self::open`]. With a key
    /// [for new stores](EncryptionKey::for_new_stores) this opens an unencrypted one too.
    ///
    /// [`EncryptionKey::key_file`] is the file `key` in this directory.
    ///
    /// # Errors
    /// As [`Self::open`]; and [`StoreErrorKind::Key`] if the store is unencrypted or encrypted with
    /// another key, or the key is not available. Nothing is changed then.
    #[cfg(feature = "encryption")]
    pub fn open_encrypted(
        dir: &Path,
        app: &str,
        key: &EncryptionKey,
        on_damage: OnDamage,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        let files = Self::files(dir)?;
        let mode = EncryptionMode::encrypted(key.missing(files.dir()), key.accepts_plaintext);
        let mut store = Self::new(files, app, on_damage, mode);
        store.key = Some(key.clone());
        store.load_key(false, deadline)?;
        store.view(LoadScope::Header, deadline)?;
        Ok(store)
    }

    /// Encrypts the unencrypted store in a directory: copies it, encrypted, into a new database,
    /// and removes the old one. Returns `false` if there was nothing to do: there is no store, or
    /// it is already encrypted with this key.
    ///
    /// A crash at any point leaves one of the two, complete. An encrypted store cannot be opened
    /// without the key. Programs that have it open without the key get an error of kind `Key`.
    ///
    /// # Errors
    /// As [`Self::open_encrypted`]. A damaged store has to be recovered first: open it with
    /// [`OnDamage::Recover`], without a key or with one [for new stores](EncryptionKey::for_new_stores).
    #[cfg(feature = "encryption")]
    pub fn encrypt(
        dir: &Path,
        app: &str,
        key: &EncryptionKey,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let encrypt = || {
            let store = Self::open(dir, app, OnDamage::Refuse, deadline)?;
            if store.files.is_fresh()? {
                return Ok(false);
            }
            let mut writer = Writer::open(&store, deadline)?;
            let missing = key.missing(store.files.dir());
            let found = key.find(store.files.dir(), true, deadline)?;
            let mode = EncryptionMode::encrypted(missing.clone(), false);
            mode.set_key(found.ok_or(missing)?);
            writer.encrypt(&mode).map(|()| true)
        };
        let encrypted = match encrypt() {
            // It is encrypted already, or the key is not available.
            Err(error) if error.kind == StoreErrorKind::Key => false,
            done => done?,
        };
        let key = EncryptionKey { accepts_plaintext: false, ..key.clone() };
        Self::open_encrypted(dir, app, &key, OnDamage::Refuse, deadline)?;
        Ok(encrypted)
    }

    /// Sets the data directory around the store. New directories in it belong to its owner.
    pub(crate) fn in_data_dir(mut self, data_dir: PathBuf) -> Self {
        self.files.data_dir = Some(data_dir);
        self
    }
}

impl Store for SledStore {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        Ok(self.view(LoadScope::Header, deadline)?.snapshot.current.clone())
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        Ok(self.view(LoadScope::Header, deadline)?.snapshot.location.clone())
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        for scope in [LoadScope::Header, LoadScope::Full] {
            if let Some(known) = self.view(scope, deadline)?.user(id) {
                return known.map_err(|error| error.at(self.files.snapshot()));
            }
        }
        let mut writer = Writer::open(self, deadline)?;
        let user = writer.user(id)?;
        self.install(writer.view()).remember(id, user.clone());
        Ok(user)
    }

    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let view = self.view(LoadScope::Full, deadline)?;
        if view.snapshot.complete {
            let users = view.snapshot.users_after(after);
            return users.map_err(|error| error.at(self.files.snapshot()));
        }
        let mut writer = Writer::open(self, deadline)?;
        let users = writer.users_after(after);
        self.install(writer.view());
        users
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        self.check_process()?;
        let mut writer = Writer::open(self, deadline)?;
        let number = writer.commit(decide);
        self.install(writer.view());
        number
    }

    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<RecentEvents, StoreError> {
        let recent = self.view(LoadScope::Full, deadline)?.snapshot.recent(number);
        Ok(RecentEvents { instance: self.instances.load(Ordering::Relaxed), ..recent })
    }

    fn check_writable(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.check_process()?;
        // Under the lock, because the file has the name of the next snapshot.
        let writer = Writer::open(self, deadline)?;
        let has_room = self.files.check_room();
        self.install(writer.view());
        has_room
    }

    fn is_encrypted(&self) -> bool {
        self.encryption.is_encrypted()
    }

    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        self.check_process()?;
        self.files.create_dir()?;
        Ok(FileLock::acquire(&self.files.refresh_lock(user), deadline)?.map(RefreshLock::new))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::view::View;
    use super::*;
    use crate::error::StoreErrorKind;

    #[test]
    fn forked_child_is_rejected() {
        let dir = std::env::temp_dir().join(format!("keyfob-forked-{}", std::process::id()));
        let soon = Deadline::after(Duration::from_secs(10));
        let mut store = SledStore::open(&dir, "app", OnDamage::Refuse, soon).unwrap();
        // A forked child has the same store and another process id. The view is reset, because one
        // that was checked within the last second is still used.
        store.process ^= 1;
        *store.view.write().unwrap() = Arc::new(View::nothing());
        let ada = UserId::new("ada");
        let errors = [
            store.current(soon).unwrap_err(),
            store.location(soon).unwrap_err(),
            store.user(&ada, soon).unwrap_err(),
            store.users_after(None, soon).unwrap_err(),
            store.commit(soon, &mut |_| Ok(vec![])).unwrap_err(),
            store.recent(None, soon).unwrap_err(),
            store.lock_refresh(&ada, soon).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, StoreErrorKind::Forked);
            // Other tests of this process may have used sled, but not in a parent of it.
            assert!(error.to_string().contains("open it again here"), "{error}");
        }
        assert!(!dir.exists(), "created by a store that was only read");
    }
}
