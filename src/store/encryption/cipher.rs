//! Sealing: XChaCha20-Poly1305 with a random nonce of 24 bytes for everything that is written.
//!
//! What is sealed can be opened in its place alone: the store, the app, whether it is a record, the
//! snapshot or the location, and the user are authenticated with it. A store is known by the nonce of its
//! *check*, a sealed constant that also tells whether a key is the right one:
//!
//! ```text
//! check            format (1 byte), nonce (24), sealed constant
//! anything else    nonce (24), sealed bytes
//! ```

use std::sync::Arc;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use super::key::KeyBytes;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;
use crate::store::record::newer;

/// The version of what is described above; part of what is authenticated.
const FORMAT: u8 = 1;
const NONCE: usize = 24;
const CONSTANT: &[u8] = b"keyfob";

/// What a value is sealed as; it opens as nothing else.
#[derive(Clone, Copy)]
pub(super) enum AssociatedData<'a> {
    Check,
    #[cfg(feature = "redis")]
    Events(u64),
    Location,
    Record(&'a UserId),
    Snapshot,
}

/// Seals and opens what one store writes.
pub(super) struct Cipher {
    cipher: XChaCha20Poly1305,
    app: String,
    check: Vec<u8>,
}

impl Cipher {
    /// Makes the seal of a new store.
    pub(super) fn begin(key: &Arc<KeyBytes>, app: &str) -> Result<Self, StoreError> {
        let mut seal = Self { cipher: cipher(key), app: app.to_owned(), check: Vec::new() };
        let nonce = nonce()?;
        let sealed = seal.encrypt(nonce, AssociatedData::Check, CONSTANT)?;
        seal.check = [&[FORMAT], &nonce[..], &sealed[..]].concat();
        Ok(seal)
    }

    /// Makes the seal of the store that has this check, if the key is the one it was made with.
    pub(super) fn fit(key: &Arc<KeyBytes>, app: &str, check: &[u8]) -> Result<Self, StoreError> {
        match check.first() {
            Some(&FORMAT) => {}
            Some(&format) if format > FORMAT => {
                return Err(newer("the seal of this store", u32::from(format)));
            }
            _ => return Err(StoreError::new(StoreErrorKind::Damaged, "the seal is damaged")),
        }
        let seal = Self { cipher: cipher(key), app: app.to_owned(), check: check.to_owned() };
        match seal.open(AssociatedData::Check, &check[1..]) {
            Some(constant) if constant == CONSTANT => Ok(seal),
            _ => {
                let reason = "the store is sealed with another key, open it with that one";
                Err(StoreError::new(StoreErrorKind::Key, reason))
            }
        }
    }

    /// Returns what tells the right key from others, and this store from others.
    pub(super) fn check(&self) -> &[u8] {
        &self.check
    }

    pub(super) fn seal(
        &self,
        kind: AssociatedData<'_>,
        plain: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let nonce = nonce()?;
        Ok([&nonce[..], &self.encrypt(nonce, kind, plain)?].concat())
    }

    /// Returns what was sealed; `None` if it was not sealed like this, as this.
    pub(super) fn open(&self, kind: AssociatedData<'_>, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, msg) = sealed.split_first_chunk()?;
        let aad = &self.associated_data(kind);
        self.cipher.decrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
    }

    fn encrypt(
        &self,
        nonce: [u8; NONCE],
        kind: AssociatedData<'_>,
        msg: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let aad = &self.associated_data(kind);
        self.cipher
            .encrypt(&XNonce::from(nonce), Payload { msg, aad })
            .map_err(|_| StoreError::new(StoreErrorKind::Io, "a value is too long to be sealed"))
    }

    /// What is authenticated with a value. No two kinds come to the same bytes.
    fn associated_data(&self, kind: AssociatedData<'_>) -> Vec<u8> {
        // The check says which store this is, so it cannot have that authenticated with it.
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

/// Random, and long enough that no two are ever the same.
fn nonce() -> Result<[u8; NONCE], StoreError> {
    let mut nonce = [0; NONCE];
    random(&mut nonce)?;
    Ok(nonce)
}

/// Fills in bytes from the operating system's generator.
pub(in crate::store) fn random(bytes: &mut [u8]) -> Result<(), StoreError> {
    getrandom::fill(bytes).map_err(|error| {
        let reason = "the operating system gives no random numbers";
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
    fn what_is_sealed_opens_in_its_place_alone() {
        let (ada, eve) = (UserId::new("ada"), UserId::new("eve"));
        let seal = Cipher::begin(&key(1), "app").unwrap();
        let sealed = seal.seal(AssociatedData::Record(&ada), b"hush").unwrap();
        assert_eq!(seal.open(AssociatedData::Record(&ada), &sealed).as_deref(), Some(&b"hush"[..]));
        assert_eq!(seal.open(AssociatedData::Record(&eve), &sealed), None);
        assert_eq!(seal.open(AssociatedData::Snapshot, &sealed), None);
        assert_eq!(seal.open(AssociatedData::Check, &sealed), None);
        // The same user of another store with the same key, and of another app.
        let other = Cipher::begin(&key(1), "app").unwrap();
        assert_eq!(other.open(AssociatedData::Record(&ada), &sealed), None);
        let mut other = Cipher::fit(&key(1), "app", seal.check()).unwrap();
        assert!(other.open(AssociatedData::Record(&ada), &sealed).is_some());
        other.app = "apq".to_owned();
        assert_eq!(other.open(AssociatedData::Record(&ada), &sealed), None);
        // The end of the app is no beginning of the user.
        let record = |app: &str, user: &str| {
            let seal = Cipher { app: app.to_owned(), ..Cipher::begin(&key(1), "").unwrap() };
            seal.associated_data(AssociatedData::Record(&UserId::new(user)))[32..].to_vec()
        };
        assert_ne!(record("appa", "da"), record("app", "ada"));
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let seal = Cipher::begin(&key(1), "app").unwrap();
        let sealed = seal.seal(AssociatedData::Snapshot, b"hush").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(AssociatedData::Snapshot, &flipped), None);
        }
        for length in 0..sealed.len() {
            assert_eq!(seal.open(AssociatedData::Snapshot, &sealed[..length]), None);
        }
    }

    #[test]
    fn the_check_tells_keys_apart_and_is_never_the_same_twice() {
        let seal = Cipher::begin(&key(1), "app").unwrap();
        assert!(Cipher::fit(&key(1), "app", seal.check()).is_ok());
        let fails = |key: &Arc<KeyBytes>, check: &[u8]| match Cipher::fit(key, "app", check) {
            Ok(_) => panic!("it fits"),
            Err(error) => error.kind,
        };
        assert_eq!(fails(&key(2), seal.check()), StoreErrorKind::Key);
        assert_eq!(fails(&key(1), &[]), StoreErrorKind::Damaged);
        assert_eq!(fails(&key(1), &[2]), StoreErrorKind::NewerVersion);
        assert_eq!(fails(&key(1), &seal.check()[..20]), StoreErrorKind::Key);
        assert_ne!(Cipher::begin(&key(1), "app").unwrap().check(), seal.check());
    }

    /// From draft-irtf-cfrg-xchacha, A.3.1: the cipher is the one it says it is.
    #[test]
    fn the_published_vector_holds() {
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
        let sealed = cipher(&KeyBytes::new(&bytes))
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad })
            .unwrap();
        let tag = [
            0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a,
            0xcf, 0x49,
        ];
        assert_eq!(sealed[..4], [0xbd, 0x6d, 0x17, 0x9d]);
        assert_eq!(sealed[plain.len()..], tag);
    }
}
