//! The state of an open store, which its readers and its writer share.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::layout::Files;
use super::network_fs;
use super::registry::{Shared, shared};
use super::snapshot::{LoadScope, Snapshot};
use super::view::View;
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::kv::ran_in_parent;
#[cfg(feature = "encryption")]
use crate::store::encryption::EncryptionKey;
use crate::store::encryption::EncryptionMode;

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
/// A read costs one small read of an open file, and does not wait while all users fit into the
/// snapshot (64 KB). A commit opens a sled database, writes, syncs and closes it. It takes
/// milliseconds and waits for other writers, at most until its deadline.
///
/// With [`open`](Self::open), users and tokens are stored unencrypted, in files that only their owner
/// can read. Logging out and removing a user rewrite the database without their tokens. keyfob cannot
/// erase copies that the file system or the disk keeps; someone with access to the disk may recover
/// them. With `open_encrypted` (feature `encryption`) users and tokens are encrypted.
///
/// A directory on a network file system is rejected (kind `NotLocal`), and so is a process that was
/// forked after the store was opened (kind `Forked`).
pub struct SledStore {
    pub(super) files: Files,
    pub(super) app: String,
    pub(super) on_damage: OnDamage,
    pub(super) encryption: EncryptionMode,
    /// The source of the key, if one was given.
    #[cfg(feature = "encryption")]
    pub(super) key: Option<EncryptionKey>,
    pub(super) process: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) view: RwLock<Arc<View>>,
    /// How often the directory was found to have another store than before.
    pub(super) instances: AtomicU64,
}

impl SledStore {
    /// Finds the key, unless it is known already. If it does not exist and nothing is stored yet,
    /// this creates it if `creates` is `true`.
    #[cfg(feature = "encryption")]
    pub(super) fn load_key(&self, creates: bool, deadline: Deadline) -> Result<(), StoreError> {
        let Some(key) = self.key.as_ref().filter(|_| self.encryption.needs_key()) else {
            return Ok(());
        };
        // Check this before looking for the key: another process may create both in between.
        let may_create = creates && self.files.is_fresh()?;
        if let Some(key) = key.find(self.files.dir(), may_create, deadline)? {
            self.encryption.set_key(key);
        }
        Ok(())
    }

    /// Without the feature there is no key.
    #[cfg(not(feature = "encryption"))]
    pub(super) fn load_key(&self, _: bool, _: Deadline) -> Result<(), StoreError> {
        Ok(())
    }

    pub(super) fn files(dir: &Path) -> Result<Files, StoreError> {
        network_fs::check(dir)?;
        Files::new(dir)
    }

    pub(super) fn new(
        files: Files,
        app: &str,
        on_damage: OnDamage,
        encryption: EncryptionMode,
    ) -> Self {
        let process = std::process::id();
        Self {
            shared: shared(files.dir(), process),
            files,
            app: app.to_owned(),
            on_damage,
            encryption,
            #[cfg(feature = "encryption")]
            key: None,
            process,
            view: RwLock::new(Arc::new(View::nothing())),
            instances: AtomicU64::new(0),
        }
    }

    /// Rejects a forked child, which has neither the parent's threads nor its locks.
    pub(super) fn check_process(&self) -> Result<(), StoreError> {
        if std::process::id() == self.process {
            return Ok(());
        }
        let reason = if ran_in_parent() {
            "the store was used before this process was forked, start a new program (exec) that \
             opens it; opened again here, it can only be read"
        } else {
            "the store was opened before this process was forked, open it again here"
        };
        Err(StoreError::new(StoreErrorKind::Forked, reason).at(self.files.dir()))
    }

    /// Returns the view that was read last.
    pub(super) fn remembered(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores a view, unless a newer one of the same store is stored already, and returns the stored
    /// one.
    pub(super) fn install(&self, view: View) -> Arc<View> {
        if view.snapshot.number > 0 {
            self.encryption.decide(&view.snapshot.codec);
        }
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let age = |view: &View| {
            (view.snapshot.generation, view.seen.count, view.snapshot.has(LoadScope::Full))
        };
        // Views of different files cannot be compared: the latest reader is right. But a reader that
        // saw no store may have run before another process created it.
        let (newer, is_another) = match (&slot.file, &view.file) {
            (Some(_), Some(file)) if slot.is_of(file) => (age(&view) > age(&slot), false),
            (Some(before), None) if before.is_in_place() => (false, false),
            (before, _) => (true, before.is_some()),
        };
        if newer {
            *slot = Arc::new(view);
        }
        if is_another {
            self.instances.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(file) = &slot.file {
            self.shared.note(file, slot.snapshot.generation);
        }
        Arc::clone(&slot)
    }

    /// Loads the snapshot if it is encrypted in the way this store was opened, and otherwise returns
    /// the error.
    pub(super) fn load_own(
        &self,
        scope: LoadScope,
    ) -> Result<(Option<Arc<Snapshot>>, Option<StoreError>), StoreError> {
        match Snapshot::load(&self.files.snapshot(), &self.app, &self.encryption, scope) {
            Err(error) if error.kind == StoreErrorKind::Key => Ok((None, Some(error))),
            loaded => Ok((loaded?.map(Arc::new), None)),
        }
    }

    /// Returns the error for a deadline that passed while the store was in use.
    pub(super) fn busy(&self, what: &str) -> StoreError {
        let reason = format!("{what} until the deadline, try again later");
        StoreError::new(StoreErrorKind::Busy, reason).at(self.files.dir())
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
