//! Password hashes, and the memory they are computed in.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use super::random;
use crate::Secret;

/// The hash of an unknown password, with the default parameters: a check against it takes as long
/// as a check against a real hash.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$a2V5Zm9iLW5vYm9keS0wMQ$\
                      A5guKtspJbFtmhpZGgZlqNszFTwh2fwYlaAW2kYNNc0";

/// Maximum number of concurrent hashes, even with more processors: each takes 19 MiB.
const MOST_AT_ONCE: usize = 8;
/// A hash with more memory (in KiB), passes or lanes than this matches no password.
const MAX_PARAMS: (u32, u32, u32) = (64 * 1024, 16, 16);

/// Hashes passwords with argon2id and its crate's default parameters (19 MiB, two passes).
///
/// The memory is allocated once per slot and reused. If each hash allocated and freed it, the
/// allocator's arenas, one per thread, would retain it.
pub(super) struct Passwords {
    free: Mutex<Slots>,
    freed: Condvar,
}

/// The memory that no hash uses now.
struct Slots {
    /// Allocated memory, used as a stack: the most recently returned is reused first.
    used: Vec<Vec<Block>>,
    /// The number of slots that are not allocated yet.
    unused: usize,
}

impl Passwords {
    /// Allows as many concurrent hashes as there are processors, but at most [`MOST_AT_ONCE`].
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        let slots = Slots { used: Vec::new(), unused: processors.min(MOST_AT_ONCE) };
        Self { free: Mutex::new(slots), freed: Condvar::new() }
    }

    /// Waits for a free slot.
    pub(super) fn turn(&self) -> Turn<'_> {
        let free = self.free();
        let has_none = |free: &mut Slots| free.used.is_empty() && free.unused == 0;
        let mut free =
            self.freed.wait_while(free, has_none).unwrap_or_else(PoisonError::into_inner);
        let memory = free.used.pop().unwrap_or_else(|| {
            free.unused -= 1;
            Vec::new()
        });
        Turn { passwords: self, memory }
    }

    fn free(&self) -> MutexGuard<'_, Slots> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot for one hash at a time, returned on drop.
pub(super) struct Turn<'a> {
    passwords: &'a Passwords,
    memory: Vec<Block>,
}

impl Turn<'_> {
    /// Hashes a password with a new salt and returns the PHC string.
    pub(super) fn hash(&mut self, password: &Secret) -> io::Result<String> {
        let failed = |why: &dyn ToString| io::Error::other(why.to_string());
        let params = Params::DEFAULT;
        let salt = Salt::new(&random::bytes::<16>()?).map_err(|error| failed(&error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let hash = self.compute(&argon2, password, &salt, Params::DEFAULT_OUTPUT_LEN)?;
        let params = ParamsString::try_from(&params).map_err(|error| failed(&error))?;
        Ok(PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params,
            salt: Some(salt),
            hash: Some(hash),
        }
        .to_string())
    }

    /// Returns `true` if this is the hashed password. Without a hash, returns `false` after the
    /// same time.
    pub(super) fn verify(&mut self, password: &Secret, hash: Option<&str>) -> io::Result<bool> {
        let Ok(parsed) = PasswordHash::new(hash.unwrap_or(NOBODY)) else { return Ok(false) };
        let (Some(argon2), Some(salt), Some(expected)) =
            (argon2_of(&parsed), &parsed.salt, &parsed.hash)
        else {
            return Ok(false);
        };
        // The comparison takes constant time.
        let matches = self.compute(&argon2, password, salt, expected.len())? == *expected;
        Ok(matches && hash.is_some())
    }

    fn compute(
        &mut self,
        argon2: &Argon2<'_>,
        password: &Secret,
        salt: &[u8],
        length: usize,
    ) -> io::Result<Output> {
        let blocks = argon2.params().block_count();
        let missing = blocks.saturating_sub(self.memory.len());
        self.memory.try_reserve_exact(missing).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.memory.resize(self.memory.len() + missing, Block::new());
        let mut output = vec![0; length];
        argon2
            .hash_password_into_with_memory(
                password.expose().as_bytes(),
                salt,
                &mut output,
                &mut self.memory[..],
            )
            .map_err(|error| io::Error::other(error.to_string()))?;
        Output::new(&output).map_err(|error| io::Error::other(error.to_string()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        if memory.len() > Params::DEFAULT.block_count() {
            memory = Vec::new();
        }
        self.passwords.free().used.push(memory);
        self.passwords.freed.notify_one();
    }
}

/// Returns the parameters that a hash was computed with, because stored hashes may have older ones.
/// Returns `None` if they are unknown or too expensive.
fn argon2_of(hash: &PasswordHash) -> Option<Argon2<'static>> {
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    let version = hash.version.map(Version::try_from).transpose().ok()?.unwrap_or_default();
    let params = Params::try_from(hash).ok()?;
    let (memory, passes, lanes) = MAX_PARAMS;
    let allowed =
        params.m_cost() <= memory && params.t_cost() <= passes && params.p_cost() <= lanes;
    allowed.then(|| Argon2::new(algorithm, version, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_matches_its_own_hash() {
        let passwords = Passwords::new();
        let mut turn = passwords.turn();
        let (right, wrong) = (Secret::new("p\u{e4}ssw\u{f6}rd"), Secret::new("passwOrd"));
        let hash = turn.hash(&right).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, turn.hash(&right).unwrap(), "each hash has its own salt");
        let mut verify = |password, hash| turn.verify(password, hash).unwrap();
        assert!(verify(&right, Some(&hash)));
        assert!(!verify(&wrong, Some(&hash)));
        assert!(!verify(&right, None));
        assert!(!verify(&right, Some("not a hash")));
    }

    #[test]
    fn dummy_hash_costs_same_as_real_hash() {
        let real = Passwords::new().turn().hash(&Secret::new("whatever")).unwrap();
        let parameters = |hash: &str| hash.rsplitn(3, '$').nth(2).map(str::to_owned);
        assert_eq!(parameters(&real), parameters(NOBODY));
        let lengths = |hash: &str| hash.split('$').map(str::len).collect::<Vec<_>>();
        assert_eq!(lengths(&real), lengths(NOBODY));
        assert!(PasswordHash::new(NOBODY).is_ok());
    }

    /// Computed by the reference implementation: `echo -n password | argon2 somesalt …`, the
    /// examples in its README and tests.
    #[test]
    fn hash_of_other_parameters_verifies() {
        let passwords = Passwords::new();
        for hash in [
            // argon2id, version 0x13, 64 MiB: more memory than the pool's.
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            // argon2id with two lanes and little memory.
            "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
            // argon2i, version 0x10, which is not named in the string.
            "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8",
        ] {
            let mut turn = passwords.turn();
            assert!(turn.verify(&Secret::new("password"), Some(hash)).unwrap(), "{hash}");
            assert!(!turn.verify(&Secret::new("passwore"), Some(hash)).unwrap(), "{hash}");
        }
        let memory = |slots: &Slots| slots.used.iter().map(Vec::len).max();
        assert!(memory(&passwords.free()) <= Some(Params::DEFAULT.block_count()));
    }

    #[test]
    fn too_expensive_hash_matches_nothing() {
        let passwords = Passwords::new();
        for parameters in ["m=65537,t=2,p=1", "m=19456,t=17,p=1", "m=19456,t=2,p=17"] {
            let hash = NOBODY.replace("m=19456,t=2,p=1", parameters);
            assert!(!passwords.turn().verify(&Secret::new("x"), Some(&hash)).unwrap());
            assert!(passwords.free().used.iter().all(Vec::is_empty), "nothing was allocated");
        }
    }

    #[test]
    fn slots_are_used_again_and_bounded() {
        let passwords = Passwords::new();
        let slots = passwords.free().unused;
        std::thread::scope(|scope| {
            for _ in 0..3 * slots {
                scope.spawn(|| passwords.turn().hash(&Secret::new("whatever")).unwrap());
            }
        });
        let free = passwords.free();
        assert!((1..=slots).contains(&free.used.len()));
        assert_eq!(free.used.len() + free.unused, slots);
    }
}
