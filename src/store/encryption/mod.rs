//! Whether a store is sealed, and the one place where its bytes become so.

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

/// How a program opened a store: in the clear, or with a key. The key of a new store is created by
/// its first commit, and is not known before.
#[derive(Clone, Default)]
pub(super) struct EncryptionMode(Option<Arc<OnceLock<Arc<KeyBytes>>>>);

/// What everything with a token or a profile in it passes through on its way to the disk and back.
#[derive(Clone, Default)]
pub(super) struct RecordCodec(Option<Arc<Cipher>>);

impl EncryptionMode {
    /// Returns the one of a store that is sealed, with a key that is not known yet.
    #[cfg(feature = "encryption")]
    pub(super) fn sealed() -> Self {
        Self(Some(Arc::default()))
    }

    /// Returns `true` if there is a key that is not known yet.
    #[cfg(feature = "encryption")]
    pub(super) fn needs_key(&self) -> bool {
        self.0.as_ref().is_some_and(|key| key.get().is_none())
    }

    /// Remembers the key, unless one is known.
    #[cfg(feature = "encryption")]
    pub(super) fn set_key(&self, key: Arc<KeyBytes>) {
        if let Some(slot) = &self.0 {
            let _ = slot.set(key);
        }
    }

    /// Returns the key of a store that is sealed; `None` in the clear.
    fn key(&self) -> Result<Option<&Arc<KeyBytes>>, StoreError> {
        let known = |key: &'_ Arc<OnceLock<Arc<KeyBytes>>>| key.get().is_some();
        match &self.0 {
            Some(key) if !known(key) => {
                let reason = "the store is sealed and its key is gone, bring it back from a backup";
                Err(StoreError::new(StoreErrorKind::Key, reason))
            }
            key => Ok(key.as_ref().and_then(|key| key.get())),
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the codec of a new store.
    pub(super) fn begin(&self, app: &str) -> Result<RecordCodec, StoreError> {
        let seal = self.key()?.map(|key| Cipher::begin(key, app)).transpose()?;
        Ok(RecordCodec(seal.map(Arc::new)))
    }

    /// Returns the codec of the store that has this check; one in the clear has none. If it was
    /// not opened in the way it is kept, that is an error of kind `Key`.
    pub(super) fn fit(&self, app: &str, check: Option<&[u8]>) -> Result<RecordCodec, StoreError> {
        let reason = match (&self.0, check) {
            (None, None) => return Ok(RecordCodec::default()),
            (Some(_), Some(check)) => {
                let cipher = self.key()?.map(|key| Cipher::fit(key, app, check)).transpose()?;
                return Ok(RecordCodec(cipher.map(Arc::new)));
            }
            (None, Some(_)) if cfg!(feature = "encryption") => {
                "the store is sealed, open it with its key (`SessionBuilder::encryption`)"
            }
            (None, Some(_)) => {
                "the store is sealed, open it with its key and with keyfob's feature `encryption`"
            }
            (Some(_), None) => {
                "the store is in the clear although a key was given, open it without one"
            }
        };
        Err(StoreError::new(StoreErrorKind::Key, reason))
    }
}

impl RecordCodec {
    /// Tells whether old values can be read in what the database leaves behind.
    pub(super) fn is_plaintext(&self) -> bool {
        self.0.is_none()
    }

    /// Returns what a sealed store keeps to be told from others; `None` in the clear.
    pub(super) fn check(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|seal| seal.check())
    }

    /// Tells whether both are of the same store, sealed or not.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.check() == other.check()
    }

    /// Returns the bytes of a user's record that the database keeps.
    pub(super) fn seal_record(&self, id: &UserId, record: &[u8]) -> Result<Vec<u8>, StoreError> {
        match &self.0 {
            Some(seal) => seal.seal(AssociatedData::Record(id), record),
            None => Ok(record.to_owned()),
        }
    }

    /// Returns a user's record; `None` if the database has bytes that are not this user's.
    pub(super) fn open_record(&self, id: &UserId, bytes: Vec<u8>) -> Option<Vec<u8>> {
        match &self.0 {
            Some(seal) => seal.open(AssociatedData::Record(id), &bytes),
            None => Some(bytes),
        }
    }

    /// Returns the location as the database keeps it.
    pub(super) fn seal_location(&self, location: &str) -> Result<String, StoreError> {
        match &self.0 {
            Some(seal) => {
                Ok(STANDARD.encode(seal.seal(AssociatedData::Location, location.as_bytes())?))
            }
            None => Ok(location.to_owned()),
        }
    }

    /// Returns the location; `None` if the database has one that was not sealed for this store.
    /// Tokens are sent there, so whoever can write a file must not be able to say where it is.
    pub(super) fn open_location(&self, kept: String) -> Option<String> {
        match &self.0 {
            Some(seal) => {
                let sealed = STANDARD.decode(kept).ok()?;
                String::from_utf8(seal.open(AssociatedData::Location, &sealed)?).ok()
            }
            None => Some(kept),
        }
    }

    /// Returns the events of a commit as a store keeps them.
    #[cfg(feature = "redis")]
    pub(super) fn seal_events(&self, number: u64, events: &[u8]) -> Result<Vec<u8>, StoreError> {
        match &self.0 {
            Some(seal) => seal.seal(AssociatedData::Events(number), events),
            None => Ok(events.to_owned()),
        }
    }

    /// Returns the events of a commit; `None` if they were not encrypted for this commit.
    #[cfg(feature = "redis")]
    pub(super) fn open_events(&self, number: u64, events: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Some(seal) => seal.open(AssociatedData::Events(number), events),
            None => Some(events.to_owned()),
        }
    }

    /// Returns the bytes of a snapshot that the file keeps.
    pub(super) fn seal_snapshot(&self, body: &[u8]) -> Result<Vec<u8>, StoreError> {
        match &self.0 {
            Some(seal) => seal.seal(AssociatedData::Snapshot, body),
            None => Ok(body.to_owned()),
        }
    }

    /// Returns a snapshot; `None` if the file has bytes that are not this store's.
    pub(super) fn open_snapshot(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Some(seal) => seal.open(AssociatedData::Snapshot, bytes),
            None => Some(bytes.to_owned()),
        }
    }
}

impl fmt::Debug for RecordCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Codec(sealed)" } else { "Codec(clear)" })
    }
}

/// Without the feature there are no keys and no seals: values of these types cannot be made, and
/// the compiler knows that the arms that use them are dead.
#[cfg(not(feature = "encryption"))]
mod none {
    use super::*;

    pub(in crate::store) enum KeyBytes {}

    pub(in crate::store) enum Cipher {}

    pub(super) enum AssociatedData<'a> {
        Location,
        Record(#[allow(dead_code, reason = "nothing can be sealed")] &'a UserId),
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

        pub(super) fn seal(&self, _: AssociatedData<'_>, _: &[u8]) -> Result<Vec<u8>, StoreError> {
            match *self {}
        }

        pub(super) fn open(&self, _: AssociatedData<'_>, _: &[u8]) -> Option<Vec<u8>> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "encryption"))]
use none::{AssociatedData, Cipher, KeyBytes};
