//! A store on disk that any number of threads and processes share.
//!
//! The truth is a sled database, opened only to commit, or to reach a user that the snapshot has
//! no room for. Readers look at two small files. `manual/design/storage.md` tells the whole; in short:
//!
//! | module | what |
//! | --- | --- |
//! | `reader` | what the store says now, without waiting for writers |
//! | `writer` | the commit, in its order |
//! | `recovery` | repair after a crash, and what is done about damage |
//! | `database` | the only place that names sled |
//! | `snapshot`, `generation` | the two small files |
//! | `key_file`, `keyring` | where the encryption key comes from |
//! | `lock`, `layout`, `network_fs`, `original`, `process`, `registry` | what the others stand on |
//!
//! Lock order: a user's flight, the gate of the process, the file `lock`. Never the other way.

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
mod original;
mod process;
mod reader;
mod recovery;
mod registry;
mod snapshot;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

#[cfg(feature = "encryption")]
use self::key_file::MissingKey;
use self::layout::Files;
pub(crate) use self::layout::failed;
use self::lock::FileLock;
use self::process::ran_in_parent;
use self::reader::View;
use self::registry::{Shared, shared};
use self::snapshot::LoadScope;
#[cfg(feature = "encryption")]
use self::snapshot::Snapshot;
use self::writer::Writer;
#[cfg(feature = "encryption")]
use super::encryption::EncryptionKey;
use super::encryption::EncryptionMode;
use super::{Decide, RecentEvents, RefreshLock, Store, StoredUser};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;

/// What to do if the database is damaged; set with
/// [`SessionBuilder::on_damage`](crate::SessionBuilder::on_damage).
///
/// The damaged files are kept either way, renamed to `db.N.damaged`. They contain tokens; remove
/// them yourself.
///
/// # Examples
///
/// ```
/// use keyfob::Session;
/// use keyfob::store::OnDamage;
///
/// # let dir = std::env::temp_dir().join(format!("keyfob-doc-damage-{}", std::process::id()));
/// let session = Session::builder("my-app-id", "https://example.org")
/// #   .data_dir(&dir)
///     .on_damage(OnDamage::Recover)
///     .open()?;
/// # Ok::<(), keyfob::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum OnDamage {
    /// Return an error of kind [`Damaged`](StoreErrorKind::Damaged) that names what was kept.
    #[default]
    Refuse,
    /// Continue in a new database with the users that the snapshot still has, and emit
    /// [`Event::StoreDamaged`](crate::Event::StoreDamaged). Other users have to log in again.
    Recover,
}

/// A store on disk, shared by any number of threads and processes. This is the default store of a
/// session; [`SessionBuilder::data_dir`](crate::SessionBuilder::data_dir) says where it is.
///
/// A read takes one small read of a file that stays open, and waits for nobody while all users fit
/// into the snapshot (64 KB). A commit opens a sled database, writes, syncs and closes it; it takes
/// milliseconds, and waits for other writers until its deadline at most.
///
/// [`open`](Self::open) stores users and tokens unencrypted, in files that only their owner can
/// read. A log-out and a removal rewrite the database, so that none of the user's tokens stays in
/// it. `open_sealed` (feature `encryption`) encrypts users and tokens before they are written.
///
/// Network file systems, and processes that were forked after the store was opened, are refused
/// with errors of their own kinds.
pub struct SledStore {
    files: Files,
    app: String,
    on_damage: OnDamage,
    secrecy: EncryptionMode,
    /// Where the key is, if the store is sealed.
    #[cfg(feature = "encryption")]
    key: Option<EncryptionKey>,
    /// Whether a store in the clear is to be sealed when it is found.
    converts: bool,
    process: u32,
    shared: Arc<Shared>,
    view: RwLock<Arc<View>>,
    /// How often another store was found in the directory.
    lives: AtomicU64,
}

impl SledStore {
    /// Opens the store in a directory. Creates nothing: the first commit creates the directory (mode
    /// 0700, its parents too) and everything in it.
    ///
    /// Everything belongs to the owner of the directory. A process of another user gives it to that
    /// owner, as root can, or its commits are refused.
    ///
    /// `app` names the backend and the app whose users these are. It is kept in the store, and
    /// another one is refused. On a store that is whole, two small files are read and no lock is
    /// taken; the deadline counts if it must be repaired after a crash.
    ///
    /// # Errors
    /// By [`StoreErrorKind`]: `Access`, `Full`, `Io` if the directory cannot be read;
    /// `NotLocal` on a network file system; `Mismatch` if it holds the users of another app;
    /// `NewerVersion` if a newer version wrote it; `Damaged`, `Busy` if it needs repair.
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

    /// Opens the store in a directory, as [`Self::open`] does, with everything in it sealed.
    ///
    /// A store in the clear is sealed first, all of it in one commit, into a new database; the old
    /// one is removed. From then on nobody can open it without the key, and who had it open
    /// before gets an error of kind `Key`. A key [for new stores](EncryptionKey::for_new_stores)
    /// opens a store in the clear as [`Self::open`] does instead.
    ///
    /// [`EncryptionKey::key_file`] is the file `key` in this very directory here.
    ///
    /// # Errors
    /// As [`Self::open`]; and [`StoreErrorKind::Key`] if the store is sealed with another key, or
    /// the key cannot be had. Nothing is changed then.
    #[cfg(feature = "encryption")]
    pub fn open_sealed(
        dir: &Path,
        app: &str,
        key: &EncryptionKey,
        on_damage: OnDamage,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        let files = Self::files(dir)?;
        if !key.only_new {
            return Self::seal(files, app, key, on_damage, deadline);
        }
        if Snapshot::is_clear(&files.snapshot())? {
            match Self::open(dir, app, on_damage, deadline) {
                // Who sealed it died before the snapshot was replaced.
                Err(error) if error.kind == StoreErrorKind::Key => {}
                opened => return opened,
            }
        }
        match Self::seal(files, app, key, on_damage, deadline) {
            // Without a snapshot the database alone says what the store is; and somebody may have
            // made one in the clear just now. An empty one is none: nothing is begun in the clear
            // because the key cannot be had.
            Err(error) if error.kind == StoreErrorKind::Key => {
                match Self::open(dir, app, OnDamage::Refuse, deadline) {
                    Ok(store) if store.remembered().snapshot().number > 0 => {
                        Ok(Self { on_damage, ..store })
                    }
                    _ => Err(error),
                }
            }
            opened => opened,
        }
    }

    /// Opens a store that is sealed or has nothing in it, and seals one in the clear if the key is
    /// for that.
    #[cfg(feature = "encryption")]
    fn seal(
        files: Files,
        app: &str,
        key: &EncryptionKey,
        on_damage: OnDamage,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        let mut store = Self::new(files, app, on_damage, EncryptionMode::sealed());
        store.key = Some(key.clone());
        store.converts = !key.only_new;
        store.load_key(false, deadline)?;
        store.view(LoadScope::Header, deadline)?;
        // What somebody puts in its place later is an error.
        store.converts = false;
        Ok(store)
    }

    /// Names the data directory that the store is in. What is created in it must belong to its
    /// owner.
    pub(crate) fn in_data_dir(mut self, data_dir: PathBuf) -> Self {
        self.files.data_dir = Some(data_dir);
        self
    }

    /// Finds the key if it is needed and not known yet. If nothing is sealed yet and there is none,
    /// it is created if `creates`.
    #[cfg(feature = "encryption")]
    fn load_key(&self, creates: bool, deadline: Deadline) -> Result<(), StoreError> {
        let Some(key) = self.key.as_ref().filter(|_| self.secrecy.needs_key()) else {
            return Ok(());
        };
        let if_missing = || {
            let is_new = self.files.is_fresh()?;
            let is_clear = !is_new && Snapshot::is_clear(&self.files.snapshot())?;
            Ok(match is_new || is_clear && self.converts {
                true if creates => MissingKey::Create,
                false if !is_clear => MissingKey::IsLost,
                _ => MissingKey::Wait,
            })
        };
        if let Some(key) = key.find(self.files.dir(), if_missing, deadline)? {
            self.secrecy.set_key(key);
        }
        Ok(())
    }

    /// Without the feature there is no key.
    #[cfg(not(feature = "encryption"))]
    fn load_key(&self, _: bool, _: Deadline) -> Result<(), StoreError> {
        Ok(())
    }

    fn files(dir: &Path) -> Result<Files, StoreError> {
        network_fs::check(dir)?;
        Files::new(dir)
    }

    fn new(files: Files, app: &str, on_damage: OnDamage, secrecy: EncryptionMode) -> Self {
        let process = std::process::id();
        Self {
            shared: shared(files.dir(), process),
            files,
            app: app.to_owned(),
            on_damage,
            secrecy,
            #[cfg(feature = "encryption")]
            key: None,
            converts: false,
            process,
            view: RwLock::new(Arc::new(View::nothing())),
            lives: AtomicU64::new(0),
        }
    }

    /// Refuses to work in a forked child, which has neither the parent's threads nor its locks.
    fn check_process(&self) -> Result<(), StoreError> {
        if std::process::id() == self.process {
            return Ok(());
        }
        let reason = if ran_in_parent() {
            "the store was used before this process was forked off, start a new program (exec) that \
             opens it; opened again here, it can only be read"
        } else {
            "the store was opened before this process was forked off, open it again here"
        };
        Err(StoreError::new(StoreErrorKind::Forked, reason).at(self.files.dir()))
    }
}

impl Store for SledStore {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        Ok(self.view(LoadScope::Header, deadline)?.snapshot().current.clone())
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        Ok(self.view(LoadScope::Header, deadline)?.snapshot().location.clone())
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        for part in [LoadScope::Header, LoadScope::Full] {
            if let Some(known) = self.view(part, deadline)?.user(id) {
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
        if view.snapshot().complete {
            let users = view.snapshot().users_after(after);
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
        let recent = self.view(LoadScope::Full, deadline)?.snapshot().recent(number);
        Ok(RecentEvents { instance: self.lives.load(Ordering::Relaxed), ..recent })
    }

    fn check_writable(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.check_process()?;
        // Under the lock, since the name of the file is that of the next snapshot.
        let writer = Writer::open(self, deadline)?;
        let has_room = self.files.check_room();
        self.install(writer.view());
        has_room
    }

    fn is_sealed(&self) -> bool {
        self.secrecy.is_sealed()
    }

    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        self.check_process()?;
        self.files.create_dir()?;
        Ok(FileLock::take(&self.files.flight(user), deadline)?.map(RefreshLock::new))
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore")
            .field("dir", &self.files.dir())
            .field("on_damage", &self.on_damage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_forked_child_is_refused_whatever_it_asks() {
        let dir = std::env::temp_dir().join(format!("keyfob-forked-{}", std::process::id()));
        let soon = Deadline::after(Duration::from_secs(10));
        let mut store = SledStore::open(&dir, "app", OnDamage::Refuse, soon).unwrap();
        // As a child sees it: the same store, another process. What was looked at within the last
        // second would still be read.
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
            // Other tests of this process may have used sled, but nobody forked it off.
            assert!(error.to_string().contains("open it again here"), "{error}");
        }
        assert!(!dir.exists(), "created by a store that was only read");
    }
}
