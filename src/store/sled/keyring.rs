//! The encryption key in the keyring of the operating system.
//!
//! A keyring may be locked, ask its user first, or not respond, and has no timeout. So it is called
//! on a thread that is abandoned when the deadline passes.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use keyring_core::api::CredentialStoreApi;
use keyring_core::{Entry, Error as KeyringError};

use super::lock::FileLock;
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind, failed};
use crate::private::create_private_dir;
use crate::secret::wipe;
use crate::store::encryption::random;
use crate::store::encryption::{KEY_BYTES, KeyBytes, KeyringPlace};

/// The entry of the keyring.
enum Seen {
    Key(KeyBytes),
    Nothing,
    /// An entry that is not a key, with its number of bytes.
    Other(usize),
}

/// Returns the key. If it does not exist, this creates it if `may_create` is `true`, and returns
/// `None` otherwise.
pub(super) fn find(
    place: &KeyringPlace,
    dir: &Path,
    may_create: bool,
    deadline: Deadline,
) -> Result<Option<KeyBytes>, StoreError> {
    let seen = match ask(place, deadline, read)? {
        Seen::Nothing if may_create => create(place, dir, deadline)?,
        seen => seen,
    };
    match seen {
        Seen::Key(key) => Ok(Some(key)),
        Seen::Nothing => Ok(None),
        Seen::Other(length) => {
            let reason = format!(
                "the entry of the keyring ({place}) must have {KEY_BYTES} bytes and has {length}, \
                 choose another entry"
            );
            Err(StoreError::new(StoreErrorKind::Key, reason))
        }
    }
}

/// Creates the key, or returns the one that another process created first.
fn create(place: &KeyringPlace, dir: &Path, deadline: Deadline) -> Result<Seen, StoreError> {
    let dir = place.lock_dir.as_deref().unwrap_or(dir);
    create_private_dir(dir).map_err(|error| failed("create the data directory", dir, error))?;
    let path = dir.join("keyring.lock");
    let Some(lock) = FileLock::acquire(&path, deadline)? else {
        let reason = "another process was creating the key until the deadline, try again later";
        return Err(StoreError::new(StoreErrorKind::Busy, reason).at(path));
    };
    let mut bytes = [0; KEY_BYTES];
    random(&mut bytes)?;
    let key = KeyBytes::new(&bytes);
    wipe(&mut bytes);
    ask(place, deadline, move |entry| {
        // Held until the keyring has responded, even after the deadline: a key that is written late
        // must not replace another one.
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

fn read(entry: &Entry) -> Result<Seen, KeyringError> {
    let mut bytes = match entry.get_secret() {
        Err(KeyringError::NoEntry) => return Ok(Seen::Nothing),
        bytes => bytes?,
    };
    let key = bytes.as_slice().try_into().ok().map(KeyBytes::new);
    wipe(&mut bytes);
    Ok(key.map_or(Seen::Other(bytes.len()), Seen::Key))
}

/// Calls the keyring, and waits for its response until the deadline.
fn ask(
    place: &KeyringPlace,
    deadline: Deadline,
    request: impl FnOnce(&Entry) -> Result<Seen, KeyringError> + Send + 'static,
) -> Result<Seen, StoreError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (service, account) = (place.service.clone(), place.account.clone());
    let call = move || {
        let entry = keyring().and_then(|keyring| keyring.build(&service, &account, None));
        let _ = sender.send(entry.and_then(|entry| request(&entry)));
    };
    let started = thread::Builder::new().name("keyfob-keyring".into()).spawn(call);
    let reason = match started.map(|_| receiver.recv_timeout(deadline.remaining())) {
        Ok(Ok(response)) => return response.map_err(cannot),
        Ok(Err(mpsc::RecvTimeoutError::Timeout)) => {
            "the keyring of the system did not respond before the deadline, it may be locked or \
             waiting for its user"
        }
        Ok(Err(mpsc::RecvTimeoutError::Disconnected)) => "the keyring of the system failed",
        Err(_) => "no thread could be started to ask the keyring of the system",
    };
    Err(StoreError::new(StoreErrorKind::Key, reason))
}

/// Converts an error of the keyring, without the parts that may contain the secret.
fn cannot(error: KeyringError) -> StoreError {
    let reason =
        "the keyring of the system cannot be used, keep the key in a file or in the program";
    let store_error = StoreError::new(StoreErrorKind::Key, reason);
    match error {
        KeyringError::NoStorageAccess(cause) | KeyringError::PlatformFailure(cause) => {
            store_error.because(cause)
        }
        KeyringError::BadStoreFormat(cause) | KeyringError::NotSupportedByStore(cause) => {
            store_error.because(cause)
        }
        KeyringError::Invalid(what, why) => store_error.because(format!("{what}: {why}")),
        KeyringError::Ambiguous(_) => store_error.because("it has several entries of this name"),
        KeyringError::TooLong(what, most) => {
            store_error.because(format!("{what} may have at most {most} characters"))
        }
        _ => store_error,
    }
}

/// Returns the keyring of the user who runs the program.
fn keyring() -> Result<Arc<dyn CredentialStoreApi>, KeyringError> {
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    return Ok(dbus_secret_service_keyring_store::Store::new()?);
    #[cfg(target_os = "macos")]
    return Ok(apple_native_keyring_store::keychain::Store::new()?);
    #[cfg(windows)]
    return Ok(windows_native_keyring_store::Store::new()?);
    #[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "macos", windows)))]
    return Err(KeyringError::NotSupportedByStore("no keyring is known on this system".into()));
}
