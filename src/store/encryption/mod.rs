//! Encryption of a store: the mode in which it was opened, and the codec for its values.

#[cfg(feature = "encryption")]
mod cipher;
#[cfg(feature = "encryption")]
mod key;

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[cfg(feature = "encryption")]
pub(super) use self::cipher::random;
#[cfg(feature = "encryption")]
use self::cipher::{AssociatedData, Cipher};
#[cfg(feature = "encryption")]
pub use self::key::EncryptionKey;
#[cfg(feature = "keyring")]
pub(super) use self::key::KeyringPlace;
#[cfg(feature = "encryption")]
pub(super) use self::key::{KEY_BYTES, KeyBytes, Source};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;

/// How a store was opened: without a key, or with one.
#[derive(Clone, Default)]
pub(super) struct EncryptionMode(Option<Arc<KeySlot>>);

/// The key of an encrypted store. That of a new store is created by its first commit, and is not
/// known before.
struct KeySlot {
    key: OnceLock<Arc<KeyBytes>>,
    /// The error if the store is encrypted and there is no key.
    missing: StoreError,
    /// Whether the store is unencrypted. Not set until that is known, if either may be opened.
    is_plaintext: OnceLock<bool>,
}

/// Encrypts and decrypts every value that contains a token or a profile.
#[derive(Clone, Default)]
pub(super) struct RecordCodec(Option<Arc<Cipher>>);

impl EncryptionMode {
    /// Returns the mode of an encrypted store whose key is not known yet, or of a store that may
    /// also be unencrypted.
    #[cfg(feature = "encryption")]
    pub(super) fn encrypted(missing: StoreError, accepts_plaintext: bool) -> Self {
        let is_plaintext = if accepts_plaintext { OnceLock::new() } else { false.into() };
        Self(Some(Arc::new(KeySlot { key: OnceLock::new(), missing, is_plaintext })))
    }

    /// Remembers what kind of store was found: from then on the other kind is an error.
    pub(super) fn decide(&self, codec: &RecordCodec) {
        if let Some(slot) = &self.0 {
            let _ = slot.is_plaintext.set(codec.is_plaintext());
        }
    }

    /// Returns the place of the key, unless the store is known to be unencrypted.
    fn slot(&self) -> Option<&KeySlot> {
        self.0.as_deref().filter(|slot| slot.is_plaintext.get() != Some(&true))
    }

    /// Returns `true` if there is a key that is not known yet.
    #[cfg(feature = "encryption")]
    pub(super) fn needs_key(&self) -> bool {
        self.slot().is_some_and(|slot| slot.key.get().is_none())
    }

    /// Sets the key, unless one is known.
    #[cfg(feature = "encryption")]
    pub(super) fn set_key(&self, key: Arc<KeyBytes>) {
        if let Some(slot) = &self.0 {
            let _ = slot.key.set(key);
        }
    }

    /// Returns the key of an encrypted store; `None` for an unencrypted one.
    fn key(&self) -> Result<Option<&Arc<KeyBytes>>, StoreError> {
        let Some(slot) = self.slot() else { return Ok(None) };
        slot.key.get().map(Some).ok_or_else(|| slot.missing.clone())
    }

    /// Returns `false` if the store is known to be unencrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.slot().is_some()
    }

    /// Returns the codec of a new store.
    pub(super) fn begin(&self, app: &str) -> Result<RecordCodec, StoreError> {
        let cipher = self.key()?.map(|key| Cipher::begin(key, app)).transpose()?;
        Ok(RecordCodec(cipher.map(Arc::new)))
    }

    /// Returns the codec of the store with this check; an unencrypted store has none.
    ///
    /// # Errors
    /// Of kind `Key` if the store was opened in the other mode, with the wrong key, or without one.
    pub(super) fn fit(&self, app: &str, check: Option<&[u8]>) -> Result<RecordCodec, StoreError> {
        let reason = match (self.slot(), check) {
            (None, None) => return Ok(RecordCodec::default()),
            (Some(slot), None) if slot.is_plaintext.get().is_none() => {
                return Ok(RecordCodec::default());
            }
            (Some(_), Some(check)) => {
                let cipher = self.key()?.map(|key| Cipher::fit(key, app, check)).transpose()?;
                return Ok(RecordCodec(cipher.map(Arc::new)));
            }
            (None, Some(_)) if self.0.is_some() => {
                "the store was encrypted meanwhile, open it again"
            }
            (None, Some(_)) if cfg!(feature = "encryption") => {
                "the store is encrypted, open it with its key in `SessionBuilder::encryption` \
                 (`EncryptionKey::key_file()` if the command created the store)"
            }
            (None, Some(_)) => {
                "the store is encrypted, open it with its key and with keyfob's feature `encryption`"
            }
            (Some(_), None) => {
                "the store is unencrypted, encrypt it with `SessionBuilder::encrypt_store` or open it \
                 without a key"
            }
        };
        Err(StoreError::new(StoreErrorKind::Key, reason))
    }
}

impl RecordCodec {
    /// Returns `true` if values are not encrypted, so that old ones could be read from the disk.
    pub(super) fn is_plaintext(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the check of an encrypted store; `None` for an unencrypted one.
    pub(super) fn check(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|cipher| cipher.check())
    }

    /// Returns `true` if both belong to the same encrypted store, or to unencrypted ones.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.check() == other.check()
    }

    /// Encrypts a user's record.
    pub(super) fn encrypt_record(&self, id: &UserId, record: &[u8]) -> Result<Vec<u8>, StoreError> {
        match &self.0 {
            Some(cipher) => cipher.encrypt(AssociatedData::Record(id), record),
            None => Ok(record.to_owned()),
        }
    }

    /// Decrypts a user's record. `None` if it was not encrypted for this user.
    pub(super) fn decrypt_record(&self, id: &UserId, bytes: Vec<u8>) -> Option<Vec<u8>> {
        match &self.0 {
            Some(cipher) => cipher.decrypt(AssociatedData::Record(id), &bytes),
            None => Some(bytes),
        }
    }

    /// Encrypts the location.
    pub(super) fn encrypt_location(&self, location: &str) -> Result<String, StoreError> {
        match &self.0 {
            Some(cipher) => {
                Ok(STANDARD.encode(cipher.encrypt(AssociatedData::Location, location.as_bytes())?))
            }
            None => Ok(location.to_owned()),
        }
    }

    /// Decrypts the location. `None` if it was not encrypted for this store: tokens are sent there,
    /// so someone who can write the file must not be able to choose it.
    pub(super) fn decrypt_location(&self, kept: String) -> Option<String> {
        match &self.0 {
            Some(cipher) => {
                let encrypted = STANDARD.decode(kept).ok()?;
                String::from_utf8(cipher.decrypt(AssociatedData::Location, &encrypted)?).ok()
            }
            None => Some(kept),
        }
    }

    /// Encrypts the events of a commit.
    #[cfg(feature = "redis")]
    pub(super) fn encrypt_events(&self, number: u64, events: &[u8]) -> Result<Vec<u8>, StoreError> {
        match &self.0 {
            Some(cipher) => cipher.encrypt(AssociatedData::Events(number), events),
            None => Ok(events.to_owned()),
        }
    }

    /// Decrypts the events of a commit. `None` if they were not encrypted for this commit.
    #[cfg(feature = "redis")]
    pub(super) fn decrypt_events(&self, number: u64, events: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Some(cipher) => cipher.decrypt(AssociatedData::Events(number), events),
            None => Some(events.to_owned()),
        }
    }

    /// Encrypts a snapshot.
    pub(super) fn encrypt_snapshot(&self, body: &[u8]) -> Result<Vec<u8>, StoreError> {
        match &self.0 {
            Some(cipher) => cipher.encrypt(AssociatedData::Snapshot, body),
            None => Ok(body.to_owned()),
        }
    }

    /// Decrypts a snapshot. `None` if it was not encrypted for this store.
    pub(super) fn decrypt_snapshot(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Some(cipher) => cipher.decrypt(AssociatedData::Snapshot, bytes),
            None => Some(bytes.to_owned()),
        }
    }
}

impl fmt::Debug for RecordCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Codec(encrypted)" } else { "Codec(plaintext)" })
    }
}

/// Without the feature there are no keys: values of these types cannot exist, and the compiler
/// removes the code that uses them.
#[cfg(not(feature = "encryption"))]
mod none {
    use super::*;

    pub(in crate::store) enum KeyBytes {}

    pub(in crate::store) enum Cipher {}

    pub(super) enum AssociatedData<'a> {
        Location,
        Record(#[allow(dead_code, reason = "there is no cipher")] &'a UserId),
        Snapshot,
    }

    impl Cipher {
        pub(super) fn begin(key: &Arc<KeyBytes>, _: &str) -> Result<Self, StoreError> {
            match **key {}
        }

        pub(super) fn fit(key: &Arc<KeyBytes>, _: &str, _: &[u8]) -> Result<Self, StoreError> {
            match **key {}
        }

        pub(super) fn check(&self) -> &[u8] {
            match *self {}
        }

        pub(super) fn encrypt(
            &self,
            _: AssociatedData<'_>,
            _: &[u8],
        ) -> Result<Vec<u8>, StoreError> {
            match *self {}
        }

        pub(super) fn decrypt(&self, _: AssociatedData<'_>, _: &[u8]) -> Option<Vec<u8>> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "encryption"))]
use none::{AssociatedData, Cipher, KeyBytes};
