//! The file with the encryption key. However many processes need it, one creates it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
#[cfg(feature = "redis")]
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "keyring")]
use super::keyring;
use super::lock::FileLock;
#[cfg(feature = "redis")]
use crate::data_dir::default_data_dir;
use crate::deadline::Deadline;
#[cfg(feature = "redis")]
use crate::error::Error;
use crate::error::{StoreError, StoreErrorKind, failed};
use crate::fs::rename;
use crate::private::{create_private_dir, replace, sync_dir};
#[cfg(unix)]
use crate::private::{has_own_modes, warn_about_modes};
use crate::secret::wipe;
use crate::store::encryption::random;
use crate::store::encryption::{EncryptionKey, KEY_BYTES, KeyBytes, Source};

impl EncryptionKey {
    /// Returns the key for a store that has no directory of its own. A key file is created only if
    /// `may_create` says that nothing was encrypted yet; a key in a keyring has to exist.
    #[cfg(feature = "redis")]
    pub(in crate::store) fn find_shared(
        &self,
        may_create: impl FnOnce() -> Result<bool, StoreError>,
        deadline: Deadline,
    ) -> Result<Arc<KeyBytes>, Error> {
        let dir = match &self.source {
            Source::File(None) => default_data_dir()?,
            _ => PathBuf::new(),
        };
        if let Some(key) = self.find(&dir, false, deadline)? {
            return Ok(key);
        }
        let may_create = matches!(self.source, Source::File(_)) && may_create()?;
        // Another process may have created it meanwhile.
        let found = self.find(&dir, may_create, deadline)?;
        found.ok_or_else(|| self.missing(&dir).into())
    }

    /// Returns the key for the store in a directory. If it does not exist, this creates it if
    /// `may_create` is `true`, and returns `None` otherwise.
    pub(super) fn find(
        &self,
        dir: &Path,
        may_create: bool,
        deadline: Deadline,
    ) -> Result<Option<Arc<KeyBytes>>, StoreError> {
        let key = match &self.source {
            Source::Bytes(key) => return Ok(Some(Arc::clone(key))),
            #[cfg(feature = "keyring")]
            Source::Keyring(place) => keyring::find(place, dir, may_create, deadline)?,
            Source::File(path) => {
                let path = path.clone().unwrap_or_else(|| dir.join("key"));
                match read(&path)? {
                    None if may_create => Some(create(&path, deadline)?),
                    key => key,
                }
            }
        };
        Ok(key.map(Arc::new))
    }
}

/// Reads the key; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<KeyBytes>, StoreError> {
    let cannot = |error| failed("read the key", path, error);
    // Check it before it is opened: opening a pipe would wait for ever for its writer.
    let opened = std::fs::metadata(path)
        .and_then(|metadata| Ok(if metadata.is_file() { Some(File::open(path)?) } else { None }));
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(cannot)?.ok_or_else(|| no_file(path))?,
    };
    check_private(&file, path)?;
    let mut bytes = [0; KEY_BYTES + 1];
    let mut length = 0;
    loop {
        match (&file).read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
    }
    let key = bytes[..length].try_into().ok().map(KeyBytes::new);
    wipe(&mut bytes);
    if key.is_none() {
        let seen = if length > KEY_BYTES { "more".to_owned() } else { length.to_string() };
        let reason = format!(
            "the file with the key must have {KEY_BYTES} bytes and has {seen}, restore it from a \
             backup"
        );
        return Err(StoreError::new(StoreErrorKind::Key, reason).at(path));
    }
    Ok(key)
}

/// Creates the key, or returns the one that another process created first.
///
/// The file gets its name once it is complete and synced.
fn create(path: &Path, deadline: Deadline) -> Result<KeyBytes, StoreError> {
    let cannot = |error| failed("create the key", path, error);
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_private_dir(parent).map_err(cannot)?;
    let Some(_lock) = FileLock::acquire(&with_ending(path, ".lock"), deadline)? else {
        let reason = "another process was creating the key until the deadline, try again later";
        return Err(StoreError::new(StoreErrorKind::Busy, reason).at(path));
    };
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let mut bytes = [0; KEY_BYTES];
    random(&mut bytes)?;
    let unfinished = with_ending(path, ".tmp");
    let write = || {
        let (mut file, _) = replace(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        rename(&unfinished, path)?;
        sync_dir(parent)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&unfinished);
        cannot(error)
    })?;
    let key = KeyBytes::new(&bytes);
    wipe(&mut bytes);
    Ok(key)
}

fn with_ending(path: &Path, ending: &str) -> std::path::PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Rejects a path that is not a file, and a file that others can read.
fn check_private(file: &File, path: &Path) -> Result<(), StoreError> {
    let metadata = file.metadata().map_err(|error| failed("read the key", path, error))?;
    // It may have been replaced since the first check.
    if !metadata.is_file() {
        return Err(no_file(path));
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            if path.parent().is_some_and(has_own_modes) {
                warn_about_modes(path);
                return Ok(());
            }
            let reason = format!(
                "others than its owner may use the file with the key (mode {mode:04o}), make it \
                 private with `chmod 600`"
            );
            return Err(StoreError::new(StoreErrorKind::Access, reason).at(path));
        }
    }
    Ok(())
}

fn no_file(path: &Path) -> StoreError {
    let reason = "the key is not a file, choose another path";
    StoreError::new(StoreErrorKind::Access, reason).at(path)
}
