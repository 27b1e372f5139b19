//! The key in the keyring of the system.
//!
//! What answers there may be locked, ask its user first, or be gone, and nothing of that has a
//! time-out of its own. So it is asked on a thread that is left behind when the time is up.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use keyring_core::api::CredentialStoreApi;
use keyring_core::{Entry, Error as Trouble};

use super::key_file::MissingKey;
use super::layout::failed;
use super::lock::FileLock;
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::private::create_private_dir;
use crate::secret::wipe;
use crate::store::encryption::random;
use crate::store::encryption::{KEY_BYTES, KeyBytes, KeyringPlace};

/// What the keyring has.
enum Seen {
    Key(KeyBytes),
    Nothing,
    /// Something with another number of bytes.
    Other(usize),
}

/// Returns the key; `None` if it does not exist and need not.
pub(super) fn find(
    place: &KeyringPlace,
    dir: &Path,
    if_missing: impl FnOnce() -> Result<MissingKey, StoreError>,
    deadline: Deadline,
) -> Result<Option<KeyBytes>, StoreError> {
    let seen = match ask(place, deadline, read)? {
        Seen::Nothing => match if_missing()? {
            MissingKey::Create => make(place, dir, deadline)?,
            MissingKey::Wait => return Ok(None),
            // Another process may have created it since it was looked for.
            MissingKey::IsLost => ask(place, deadline, read)?,
        },
        seen => seen,
    };
    let reason = match seen {
        Seen::Key(key) => return Ok(Some(key)),
        Seen::Nothing => {
            format!("the store is sealed and its key is gone from the keyring ({place})")
        }
        Seen::Other(length) => format!(
            "the entry of the keyring ({place}) must have {KEY_BYTES} bytes and has {length}, \
             name another one"
        ),
    };
    Err(StoreError::new(StoreErrorKind::Key, reason))
}

/// Makes the key, or returns the one that somebody else made first.
fn make(place: &KeyringPlace, dir: &Path, deadline: Deadline) -> Result<Seen, StoreError> {
    let dir = place.lock_dir.as_deref().unwrap_or(dir);
    create_private_dir(dir).map_err(|error| failed("make the data directory", dir, error))?;
    let path = dir.join("keyring.lock");
    let Some(lock) = FileLock::take(&path, deadline)? else {
        let reason = "another process was making the key until the time was up, try again later";
        return Err(StoreError::new(StoreErrorKind::Busy, reason).at(path));
    };
    let mut bytes = [0; KEY_BYTES];
    random(&mut bytes)?;
    let key = KeyBytes::new(&bytes);
    wipe(&mut bytes);
    ask(place, deadline, move |entry| {
        // Held until the keyring has answered, also if nobody waits for that any more: a key that
        // is written late must not replace another one.
        let _lock = lock;
        match read(entry)? {
            Seen::Nothing => {
                entry.set_secret(key.expose())?;
                read(entry)
            }
            seen => Ok(seen),
        }
    })
}

fn read(entry: &Entry) -> Result<Seen, Trouble> {
    let mut bytes = match entry.get_secret() {
        Err(Trouble::NoEntry) => return Ok(Seen::Nothing),
        bytes => bytes?,
    };
    let key = bytes.as_slice().try_into().ok().map(KeyBytes::new);
    wipe(&mut bytes);
    Ok(key.map_or(Seen::Other(bytes.len()), Seen::Key))
}

/// Asks the keyring, and waits for the answer until the deadline.
fn ask(
    place: &KeyringPlace,
    deadline: Deadline,
    question: impl FnOnce(&Entry) -> Result<Seen, Trouble> + Send + 'static,
) -> Result<Seen, StoreError> {
    let (answer, answered) = mpsc::sync_channel(1);
    let (service, account) = (place.service.clone(), place.account.clone());
    let asking = move || {
        let entry = keyring().and_then(|keyring| keyring.build(&service, &account, None));
        let _ = answer.send(entry.and_then(|entry| question(&entry)));
    };
    let started = thread::Builder::new().name("keyfob-keyring".into()).spawn(asking);
    let reason = match started.map(|_| answered.recv_timeout(deadline.remaining())) {
        Ok(Ok(answer)) => return answer.map_err(cannot),
        Ok(Err(mpsc::RecvTimeoutError::Timeout)) => {
            "the keyring of the system did not answer until the time was up, it may be locked or \
             be asking its user"
        }
        Ok(Err(mpsc::RecvTimeoutError::Disconnected)) => "the keyring of the system failed",
        Err(_) => "no thread could be started to ask the keyring of the system",
    };
    Err(StoreError::new(StoreErrorKind::Key, reason))
}

/// Says why the keyring has no answer. What may hold the secret itself is left out.
fn cannot(trouble: Trouble) -> StoreError {
    let reason =
        "the keyring of the system cannot be used, keep the key in a file or in the program";
    let error = StoreError::new(StoreErrorKind::Key, reason);
    match trouble {
        Trouble::NoStorageAccess(cause) | Trouble::PlatformFailure(cause) => error.because(cause),
        Trouble::BadStoreFormat(cause) | Trouble::NotSupportedByStore(cause) => {
            error.because(cause)
        }
        Trouble::Invalid(what, why) => error.because(format!("{what}: {why}")),
        Trouble::Ambiguous(_) => error.because("it has several entries of this name"),
        Trouble::TooLong(what, most) => {
            error.because(format!("{what} may have at most {most} characters"))
        }
        _ => error,
    }
}

/// Returns the keyring of whoever runs the program.
fn keyring() -> Result<Arc<dyn CredentialStoreApi>, Trouble> {
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    return Ok(dbus_secret_service_keyring_store::Store::new()?);
    #[cfg(target_os = "macos")]
    return Ok(apple_native_keyring_store::keychain::Store::new()?);
    #[cfg(windows)]
    return Ok(windows_native_keyring_store::Store::new()?);
    #[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "macos", windows)))]
    return Err(Trouble::NotSupportedByStore("no keyring is known on this system".into()));
}
