//! Encryption with XChaCha20-Poly1305 and a random nonce of 24 bytes for each value.
//!
//! A value can only be decrypted in its place: the associated data contains the store, the app, the
//! kind of value, and the user. A store is identified by the nonce of its *check*, an encrypted
//! constant with which a key is verified.
//!
//! | value | bytes |
//! | --- | --- |
//! | check | format (1), nonce (24), the constant `keyfob`, encrypted |
//! | any other | nonce (24), the value, encrypted |
//!
//! The associated data are
//!
//! | bytes | content |
//! | --- | --- |
//! | 6 | `keyfob` |
//! | 1 | format |
//! | 1 | kind: 0 check, 1 record, 2 snapshot, 3 location, 4 events |
//! | 24 | nonce of the check; nothing for the check itself |
//! | 8 | length of the app, big-endian |
//! | | app |
//! | | id of the user for a record, number of the commit in decimal digits for events |

use std::sync::Arc;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use super::key::KeyBytes;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;
use crate::store::record::newer;

/// The version of the format above.
const FORMAT: u8 = 1;
const NONCE: usize = 24;
const CONSTANT: &[u8] = b"keyfob";

/// The kind of a value, which is authenticated with it.
#[derive(Clone, Copy)]
pub(super) enum AssociatedData<'a> {
    Check,
    #[cfg(feature = "redis")]
    Events(u64),
    Location,
    Record(&'a UserId),
    Snapshot,
}

/// Encrypts and decrypts the values of one store.
pub(super) struct Cipher {
    cipher: XChaCha20Poly1305,
    app: String,
    check: Vec<u8>,
}

impl Cipher {
    /// Creates the cipher of a new store.
    pub(super) fn begin(key: &Arc<KeyBytes>, app: &str) -> Result<Self, StoreError> {
        let mut cipher = Self { cipher: cipher(key), app: app.to_owned(), check: Vec::new() };
        let nonce = nonce()?;
        let encrypted = cipher.encrypt_with(nonce, AssociatedData::Check, CONSTANT)?;
        cipher.check = [&[FORMAT], &nonce[..], &encrypted[..]].concat();
        Ok(cipher)
    }

    /// Creates the cipher of the store with this check.
    ///
    /// # Errors
    /// Of kind `Key` if the store was created with another key.
    pub(super) fn fit(key: &Arc<KeyBytes>, app: &str, check: &[u8]) -> Result<Self, StoreError> {
        match check.first() {
            Some(&FORMAT) => {}
            Some(&format) if format > FORMAT => {
                return Err(newer("the encryption check of this store", u32::from(format)));
            }
            _ => {
                let reason = "the encryption check is damaged";
                return Err(StoreError::new(StoreErrorKind::Damaged, reason));
            }
        }
        let cipher = Self { cipher: cipher(key), app: app.to_owned(), check: check.to_owned() };
        match cipher.decrypt(AssociatedData::Check, &check[1..]) {
            Some(constant) if constant == CONSTANT => Ok(cipher),
            _ => {
                let reason = "the store is encrypted with another key, open it with that one";
                Err(StoreError::new(StoreErrorKind::Key, reason))
            }
        }
    }

    /// Returns the check, which identifies the store and verifies the key.
    pub(super) fn check(&self) -> &[u8] {
        &self.check
    }

    pub(super) fn encrypt(
        &self,
        kind: AssociatedData<'_>,
        plain: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let nonce = nonce()?;
        Ok([&nonce[..], &self.encrypt_with(nonce, kind, plain)?].concat())
    }

    /// Decrypts a value. `None` if it was not encrypted with this cipher as this kind.
    pub(super) fn decrypt(&self, kind: AssociatedData<'_>, encrypted: &[u8]) -> Option<Vec<u8>> {
        let (nonce, msg) = encrypted.split_first_chunk()?;
        let aad = &self.associated_data(kind);
        self.cipher.decrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
    }

    fn encrypt_with(
        &self,
        nonce: [u8; NONCE],
        kind: AssociatedData<'_>,
        msg: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let aad = &self.associated_data(kind);
        self.cipher
            .encrypt(&XNonce::from(nonce), Payload { msg, aad })
            .map_err(|_| StoreError::new(StoreErrorKind::Io, "a value is too long to be encrypted"))
    }

    /// Returns the associated data of a value, which differ for any two kinds.
    fn associated_data(&self, kind: AssociatedData<'_>) -> Vec<u8> {
        // The check identifies the store, so its own associated data cannot contain the store.
        #[cfg(feature = "redis")]
        let text;
        let (tag, store, user) = match kind {
            AssociatedData::Check => (0, &[][..], ""),
            AssociatedData::Record(id) => (1, &self.check[1..=NONCE], id.as_str()),
            AssociatedData::Snapshot => (2, &self.check[1..=NONCE], ""),
            #[cfg(feature = "redis")]
            AssociatedData::Events(number) => {
                text = number.to_string();
                (4, &self.check[1..=NONCE], text.as_str())
            }
            AssociatedData::Location => (3, &self.check[1..=NONCE], ""),
        };
        let length = (self.app.len() as u64).to_be_bytes();
        let app = self.app.as_bytes();
        [&b"keyfob"[..], &[FORMAT, tag], store, &length, app, user.as_bytes()].concat()
    }
}

fn cipher(key: &KeyBytes) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(<&Key>::from(key.expose()))
}

/// Returns a random nonce. It is long enough that no two are the same.
fn nonce() -> Result<[u8; NONCE], StoreError> {
    let mut nonce = [0; NONCE];
    random(&mut nonce)?;
    Ok(nonce)
}

/// Fills `bytes` from the operating system's random number generator.
pub(in crate::store) fn random(bytes: &mut [u8]) -> Result<(), StoreError> {
    getrandom::fill(bytes).map_err(|error| {
        let reason = "the operating system returned no random numbers";
        StoreError::new(StoreErrorKind::Io, reason).because(error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Arc<KeyBytes> {
        Arc::new(KeyBytes::new(&[byte; 32]))
    }

    #[test]
    fn value_is_decrypted_only_in_its_place() {
        let (ada, eve) = (UserId::new("ada"), UserId::new("eve"));
        let cipher = Cipher::begin(&key(1), "app").unwrap();
        let encrypted = cipher.encrypt(AssociatedData::Record(&ada), b"hush").unwrap();
        assert_eq!(
            cipher.decrypt(AssociatedData::Record(&ada), &encrypted).as_deref(),
            Some(&b"hush"[..])
        );
        assert_eq!(cipher.decrypt(AssociatedData::Record(&eve), &encrypted), None);
        assert_eq!(cipher.decrypt(AssociatedData::Snapshot, &encrypted), None);
        assert_eq!(cipher.decrypt(AssociatedData::Check, &encrypted), None);
        // The same user of another store with the same key, and of another app.
        let other = Cipher::begin(&key(1), "app").unwrap();
        assert_eq!(other.decrypt(AssociatedData::Record(&ada), &encrypted), None);
        let mut other = Cipher::fit(&key(1), "app", cipher.check()).unwrap();
        assert!(other.decrypt(AssociatedData::Record(&ada), &encrypted).is_some());
        other.app = "apq".to_owned();
        assert_eq!(other.decrypt(AssociatedData::Record(&ada), &encrypted), None);
        // A longer app with a shorter user has other associated data.
        let record = |app: &str, user: &str| {
            let cipher = Cipher { app: app.to_owned(), ..Cipher::begin(&key(1), "").unwrap() };
            cipher.associated_data(AssociatedData::Record(&UserId::new(user)))[32..].to_vec()
        };
        assert_ne!(record("appa", "da"), record("app", "ada"));
    }

    #[test]
    fn flipped_bit_is_detected() {
        let cipher = Cipher::begin(&key(1), "app").unwrap();
        let encrypted = cipher.encrypt(AssociatedData::Snapshot, b"hush").unwrap();
        for bit in 0..encrypted.len() * 8 {
            let mut flipped = encrypted.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cipher.decrypt(AssociatedData::Snapshot, &flipped), None);
        }
        for length in 0..encrypted.len() {
            assert_eq!(cipher.decrypt(AssociatedData::Snapshot, &encrypted[..length]), None);
        }
    }

    #[test]
    fn check_verifies_key_and_is_unique() {
        let cipher = Cipher::begin(&key(1), "app").unwrap();
        assert!(Cipher::fit(&key(1), "app", cipher.check()).is_ok());
        let fails = |key: &Arc<KeyBytes>, check: &[u8]| match Cipher::fit(key, "app", check) {
            Ok(_) => panic!("it fits"),
            Err(error) => error.kind,
        };
        assert_eq!(fails(&key(2), cipher.check()), StoreErrorKind::Key);
        assert_eq!(fails(&key(1), &[]), StoreErrorKind::Damaged);
        assert_eq!(fails(&key(1), &[2]), StoreErrorKind::NewerVersion);
        assert_eq!(fails(&key(1), &cipher.check()[..20]), StoreErrorKind::Key);
        assert_ne!(Cipher::begin(&key(1), "app").unwrap().check(), cipher.check());
    }

    /// From draft-irtf-cfrg-xchacha, A.3.1.
    #[test]
    fn cipher_matches_published_vector() {
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
                      for the future, sunscreen would be it.";
        let mut bytes = [0; 32];
        for (byte, value) in bytes.iter_mut().zip(0x80..) {
            *byte = value;
        }
        let mut nonce = [0; NONCE];
        for (byte, value) in nonce.iter_mut().zip(0x40..) {
            *byte = value;
        }
        let aad = &[0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let encrypted = cipher(&KeyBytes::new(&bytes))
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad })
            .unwrap();
        let tag = [
            0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a,
            0xcf, 0x49,
        ];
        assert_eq!(encrypted[..4], [0xbd, 0x6d, 0x17, 0x9d]);
        assert_eq!(encrypted[plain.len()..], tag);
    }
}
