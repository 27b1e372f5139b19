//! The encryption key and its sources.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result, StoreError, StoreErrorKind};
use crate::secret::wipe;

/// The length of a key, in bytes.
pub(in crate::store) const KEY_BYTES: usize = 32;

/// The key that encrypts users and tokens on disk, or where to find it.
///
/// Anybody who has both the key and the files has the tokens. If the key is lost, so are the
/// tokens, and the users have to log in again. The key is overwritten in memory when the last copy
/// of this value is dropped, as far as safe Rust allows. `Debug` does not show it.
///
/// # Examples
///
/// ```
/// # fn main() -> keyfob::Result<()> {
/// use keyfob::{EncryptionKey, Session};
///
/// # let dir = std::env::temp_dir().join(format!("keyfob-doc-key-{}", std::process::id()));
/// let session = Session::builder("my-app-id", "https://example.org")
///     .data_dir(&dir)
///     .encryption(EncryptionKey::key_file())
///     .open()?;
/// // The first log-in creates the directory and the key.
/// assert!(!dir.exists());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EncryptionKey {
    pub(in crate::store) source: Source,
    /// Whether an existing unencrypted store may be opened.
    pub(in crate::store) accepts_plaintext: bool,
}

/// The source of a key.
#[derive(Clone, Debug)]
pub(in crate::store) enum Source {
    Bytes(Arc<KeyBytes>),
    /// `None` is the file `key` in the data directory.
    File(Option<PathBuf>),
    #[cfg(feature = "keyring")]
    Keyring(KeyringPlace),
}

/// An entry of the system's keyring.
#[cfg(feature = "keyring")]
#[derive(Clone, Debug)]
pub(in crate::store) struct KeyringPlace {
    pub(in crate::store) service: String,
    pub(in crate::store) account: String,
    /// The directory of the lock for creating the key; `None` is the store's own directory.
    pub(in crate::store) lock_dir: Option<PathBuf>,
}

#[cfg(feature = "keyring")]
impl fmt::Display for KeyringPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {:?}, account {:?}", self.service, self.account)
    }
}

/// The key itself.
pub(in crate::store) struct KeyBytes(Box<[u8; KEY_BYTES]>);

impl EncryptionKey {
    /// Uses a key that the program keeps. The bytes must be random: a password is not a key.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self::of(Source::Bytes(Arc::new(KeyBytes::new(&bytes))))
    }

    /// Uses a key that the program keeps, if it has 32 bytes.
    ///
    /// # Errors
    /// [`Error::Config`] if it has another length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        match bytes.try_into() {
            Ok(bytes) => Ok(Self::of(Source::Bytes(Arc::new(KeyBytes::new(bytes))))),
            Err(_) => {
                let seen = bytes.len();
                let reason = format!("expected {KEY_BYTES} bytes, not {seen}");
                Err(Error::config("the encryption key", reason))
            }
        }
    }

    /// Uses the file `key` in the data directory, which all apps share. The first commit creates it
    /// with random bytes, for the owner alone; processes that start together agree on one key.
    ///
    /// **What it protects:** copies of the database without the key file, such as a backup that
    /// leaves it out, and deleted blocks on the disk. Anybody who can read the whole directory can
    /// read the key and the tokens.
    pub fn key_file() -> Self {
        Self::of(Source::File(None))
    }

    /// Uses a key file at another path, as [`Self::key_file`] does. Anybody who can read both the
    /// file and the data directory can read the tokens.
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self::of(Source::File(Some(path.into())))
    }

    /// Uses the key in the keyring of the user who runs the program: the Secret Service of the desktop
    /// (GNOME Keyring, KWallet and others) on Linux, the login keychain on macOS, the Credential
    /// Manager on Windows.
    ///
    /// The first commit creates a random key. Processes that share a data directory use the same one.
    /// For processes with different data directories, let the first of them create the key before the
    /// others start, or name a different account for each.
    ///
    /// This protects against someone who has the directory but is not logged in as its owner on this
    /// machine. A locked keyring may ask its user; opening the session waits for that until its
    /// deadline. Without a desktop there is usually no keyring: opening the session fails
    /// ([`StoreErrorKind::Key`]), and nothing is written.
    #[cfg(feature = "keyring")]
    pub fn keyring(service: impl Into<String>, account: impl Into<String>) -> Self {
        let (service, account) = (service.into(), account.into());
        Self::of(Source::Keyring(KeyringPlace { service, account, lock_dir: None }))
    }

    /// Encrypts new stores only: an existing unencrypted store is opened as it is, and stays
    /// unencrypted. Without this method it is an error.
    #[must_use]
    pub fn for_new_stores(self) -> Self {
        Self { accepts_plaintext: true, ..self }
    }

    /// Returns the error for an encrypted store whose key is missing. A key file without a path of
    /// its own is in `dir`.
    pub(in crate::store) fn missing(&self, dir: &Path) -> StoreError {
        let reason = match &self.source {
            Source::Bytes(_) => "the store is encrypted and its key is missing".to_owned(),
            Source::File(path) => format!(
                "the store is encrypted and the file with its key is missing ({}), restore it from \
                 a backup",
                path.clone().unwrap_or_else(|| dir.join("key")).display()
            ),
            #[cfg(feature = "keyring")]
            Source::Keyring(place) => {
                format!("the store is encrypted and its key is missing in the keyring ({place})")
            }
        };
        StoreError::new(StoreErrorKind::Key, reason)
    }

    fn of(source: Source) -> Self {
        Self { source, accepts_plaintext: false }
    }

    /// Sets the data directory, unless a directory was set before.
    pub(crate) fn in_data_dir(self, dir: &Path) -> Self {
        let source = match self.source {
            Source::File(None) => Source::File(Some(dir.join("key"))),
            #[cfg(feature = "keyring")]
            Source::Keyring(place) if place.lock_dir.is_none() => {
                let lock_dir = Some(dir.to_owned());
                Source::Keyring(KeyringPlace { lock_dir, ..place })
            }
            source => source,
        };
        Self { source, ..self }
    }
}

impl KeyBytes {
    pub(in crate::store) fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Box::new(*bytes))
    }

    pub(in crate::store) fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl Drop for KeyBytes {
    fn drop(&mut self) {
        wipe(&mut self.0[..]);
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_has_32_bytes() {
        for length in [0, 16, 31, 33, 64] {
            let error = EncryptionKey::from_slice(&vec![7; length]).unwrap_err();
            assert!(matches!(error, Error::Config { .. }));
            assert_eq!(
                error.to_string(),
                format!("the encryption key cannot be used: expected 32 bytes, not {length}")
            );
        }
        assert!(EncryptionKey::from_slice(&[7; 32]).is_ok());
    }

    #[test]
    fn debug_hides_key() {
        let text = format!("{:?}", EncryptionKey::from_bytes([0xab; 32]));
        assert_eq!(text, "EncryptionKey { source: Bytes(KeyBytes(..)), accepts_plaintext: false }");
    }
}
