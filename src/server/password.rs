//! Passwords, as hashes.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

use super::random;
use crate::Secret;

/// The hash of a password that nobody knows, with the parameters of all others: checking against it
/// takes as long as checking against a real one.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$a2V5Zm9iLW5vYm9keS0wMQ$\
                      A5guKtspJbFtmhpZGgZlqNszFTwh2fwYlaAW2kYNNc0";

/// Hashes passwords with argon2id and its crate's default parameters (19 MiB, two passes), as many
/// at a time as there are processors: each takes a processor and that memory while it runs.
pub(super) struct Passwords {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Passwords {
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        Self { free: Mutex::new(processors), freed: Condvar::new() }
    }

    /// Waits until a processor is free for hashing.
    pub(super) fn turn(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Turn(self)
    }
}

/// Leave to hash, given back on drop.
pub(super) struct Turn<'a>(&'a Passwords);

impl Turn<'_> {
    /// Hashes a password, with a salt of its own.
    pub(super) fn hash(&self, password: &Secret) -> io::Result<String> {
        let salt = random::bytes::<16>()?;
        let hash: PasswordHash = Argon2::default()
            .hash_password_with_salt(password.expose().as_bytes(), &salt)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(hash.to_string())
    }

    /// Tells whether this is the hashed password. Without a hash it never is, after the same time.
    pub(super) fn verify(&self, password: &Secret, hash: Option<&str>) -> bool {
        let Ok(parsed) = PasswordHash::new(hash.unwrap_or(NOBODY)) else { return false };
        let matches =
            Argon2::default().verify_password(password.expose().as_bytes(), &parsed).is_ok();
        matches && hash.is_some()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_matches_its_own_hash() {
        let passwords = Passwords::new();
        let turn = passwords.turn();
        let (right, wrong) = (Secret::new("p\u{e4}ssw\u{f6}rd"), Secret::new("passwOrd"));
        let hash = turn.hash(&right).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        assert_ne!(hash, turn.hash(&right).unwrap(), "each hash has its own salt");
        assert!(turn.verify(&right, Some(&hash)));
        assert!(!turn.verify(&wrong, Some(&hash)));
        assert!(!turn.verify(&right, None));
        assert!(!turn.verify(&right, Some("not a hash")));
    }

    #[test]
    fn the_stand_in_hash_costs_what_a_real_one_costs() {
        let real = Passwords::new().turn().hash(&Secret::new("whatever")).unwrap();
        let parameters = |hash: &str| hash.rsplitn(3, '$').nth(2).map(str::to_owned);
        assert_eq!(parameters(&real), parameters(NOBODY));
        let lengths = |hash: &str| hash.split('$').map(str::len).collect::<Vec<_>>();
        assert_eq!(lengths(&real), lengths(NOBODY));
        assert!(PasswordHash::new(NOBODY).is_ok());
    }
}
