//! Encryption in the public API: the three storage modes, and the sources of the key.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "encryption")]

mod store_support;
mod support;

use std::path::{Path, PathBuf};

use keyfob::store::{MemoryStore, OnDamage, SledStore, Store, StoredUser};
use keyfob::{EncryptionKey, Error, Session, SessionBuilder, StoreError, StoreErrorKind, UserId};
use store_support::{NOWHERE, child_words, files, files_with, say, soon, spawn_child};
use support::*;

const PASSWORD: &str = "hunter22";

fn script() -> Script {
    let script = Script::new();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script
}

fn session(script: &Script) -> SessionBuilder {
    Session::builder(APP, URL).transport(script.clone()).clock(ManualClock::at(START))
}

/// Whether any token, the password or the profile can be read below a directory.
fn is_readable(dir: &Path) -> bool {
    let secrets = [access("a1"), refresh("r1"), PASSWORD.into(), "ada@example.org".into()];
    // The end of a token is enough to know it by.
    secrets
        .iter()
        .any(|secret| files_with(dir, &secret[secret.len().saturating_sub(12)..]) != NOWHERE)
}

fn ada() -> UserId {
    UserId::new("ada")
}

fn current(session: &Session) -> Option<UserId> {
    session.current_user().unwrap().map(|user| user.id().clone())
}

#[test]
fn plaintext_users_stay_plaintext() {
    let (dir, script) = (Dir::new(), script());
    session(&script).data_dir(dir.path()).open().unwrap().log_in(&password()).unwrap();
    assert_eq!(current(&session(&script).data_dir(dir.path()).open().unwrap()), Some(ada()));
    assert!(is_readable(dir.path()));
}

#[test]
fn encrypted_users_cannot_be_read() {
    let (dir, script) = (Dir::new(), script());
    let open = |key| session(&script).data_dir(dir.path()).encryption(key).open();
    let key = || EncryptionKey::from_bytes([5; 32]);
    open(key()).unwrap().log_in(&password()).unwrap();
    assert!(!is_readable(dir.path()));
    let again = open(key()).unwrap();
    assert_eq!(current(&again), Some(ada()));
    let user = again.current_user().unwrap().unwrap();
    assert_eq!(user.access_token().unwrap().expose(), access("a1"));
    // With another key or without one it is an error, and the user is still there.
    let error = open(EncryptionKey::from_bytes([6; 32])).unwrap_err();
    assert!(matches!(&error, Error::Store(error) if error.kind == StoreErrorKind::Key), "{error}");
    assert!(!error.needs_login() && !error.is_retryable());
    let error = session(&script).data_dir(dir.path()).open().unwrap_err();
    assert!(matches!(&error, Error::Store(error) if error.kind == StoreErrorKind::Key), "{error}");
    assert_eq!(current(&open(key()).unwrap()), Some(ada()));
}

#[test]
fn users_in_memory_are_not_written() {
    let (dir, script) = (Dir::new(), script());
    let store = MemoryStore::new();
    let open = || session(&script).data_dir(dir.path()).store(store.clone());
    open().open().unwrap().log_in(&password()).unwrap();
    assert_eq!(current(&open().open().unwrap()), Some(ada()));
    assert!(files(dir.path()).is_empty());
    let error = open().encryption(EncryptionKey::key_file()).open().unwrap_err();
    assert!(matches!(error, Error::Config { what: "the encryption key", .. }), "{error}");
    assert!(error.to_string().contains("remove the store or the key"), "{error}");
}

#[test]
fn enabling_encryption_keeps_logins() {
    let (dir, script) = (Dir::new(), script());
    session(&script).data_dir(dir.path()).open().unwrap().log_in(&password()).unwrap();
    assert!(is_readable(dir.path()));
    let open = || session(&script).data_dir(dir.path()).encryption(EncryptionKey::key_file());
    let error = open().open().unwrap_err();
    assert!(matches!(&error, Error::Store(error) if error.kind == StoreErrorKind::Key), "{error}");
    assert!(
        error.to_string().contains("encrypt it with `SessionBuilder::encrypt_store`"),
        "{error}"
    );
    assert!(is_readable(dir.path()));
    assert!(open().encrypt_store().unwrap());
    assert!(!is_readable(dir.path()));
    assert!(!open().encrypt_store().unwrap(), "it is encrypted");
    assert_eq!(current(&open().open().unwrap()), Some(ada()));
}

#[test]
fn encrypting_needs_key_and_directory() {
    let (dir, script) = (Dir::new(), script());
    let builder = || session(&script).data_dir(dir.path());
    let key = EncryptionKey::key_file();
    for error in [
        builder().encrypt_store().unwrap_err(),
        builder().encryption(key.clone()).store(MemoryStore::new()).encrypt_store().unwrap_err(),
    ] {
        assert!(matches!(error, Error::Config { what: "the encryption key", .. }), "{error}");
    }
    assert!(!builder().encryption(key).encrypt_store().unwrap(), "there is no store");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn apps_share_only_key_file() {
    let (dir, script) = (Dir::new(), script());
    let apps = [URL, "http://localhost:9"].map(|url| {
        let builder = Session::builder(APP, url).transport(script.clone()).data_dir(dir.path());
        builder.clock(ManualClock::at(START)).encryption(EncryptionKey::key_file()).open().unwrap()
    });
    apps[0].log_in(&password()).unwrap();
    assert_eq!(current(&apps[1]), None);
    apps[1].log_in(&password()).unwrap();
    let keys = files(dir.path());
    let keys: Vec<_> = keys.iter().filter(|path| path.ends_with("key")).collect();
    assert_eq!(keys, [&dir.path().join("key")]);
    assert!(!is_readable(dir.path()));
}

fn open_with_file(dir: &Path, key: &Path) -> Result<SledStore, StoreError> {
    let key = EncryptionKey::from_file(key);
    SledStore::open_encrypted(dir, store_support::APP, &key, OnDamage::Refuse, soon())
}

fn log_in(store: &SledStore) {
    store_support::log_in(store, "ada");
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).unwrap();
}

/// Two that were opened before there was a key, and one of them before the other wrote.
#[test]
fn first_commit_creates_key() {
    let dir = Dir::new();
    let (data, key) = (dir.path().join("data"), dir.path().join("key"));
    let open = || open_with_file(&data, &key).unwrap();
    let (store, other) = (open(), open());
    assert_eq!(store.current(soon()).unwrap(), None);
    assert!(store.users_after(None, soon()).unwrap().is_empty());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    log_in(&store);
    assert!(key.exists());
    assert_eq!(other.current(soon()).unwrap(), Some(ada()));
    log_in(&other);
    assert_eq!(open().current(soon()).unwrap(), Some(ada()));
    // Without the key an encrypted store is not treated as an empty one.
    std::fs::remove_file(&key).unwrap();
    let error = open_with_file(&data, &key).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key);
}

#[test]
fn key_file_is_private_and_constant() {
    let dir = Dir::new();
    let (data, key) = (dir.path().join("data"), dir.path().join("deep/er/key"));
    log_in(&open_with_file(&data, &key).unwrap());
    let bytes = std::fs::read(&key).unwrap();
    assert_eq!(bytes.len(), 32);
    assert_ne!(bytes, [0; 32]);
    #[cfg(unix)]
    for (path, expected) in [(key.clone(), 0o600), (dir.path().join("deep"), 0o700)] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, expected, "{path:?}");
    }
    drop(open_with_file(&data, &key).unwrap());
    assert_eq!(std::fs::read(&key).unwrap(), bytes);
    // No part of it is anywhere else.
    for path in files(dir.path()).into_iter().filter(|path| *path != key) {
        let seen = std::fs::read(&path).unwrap();
        assert!(!seen.windows(8).any(|part| bytes.windows(8).any(|b| b == part)), "{path:?}");
    }
}

#[test]
fn unusable_key_file_is_named() {
    let dir = Dir::new();
    let (data, key) = (dir.path().join("data"), dir.path().join("key"));
    log_in(&open_with_file(&data, &key).unwrap());
    let good = std::fs::read(&key).unwrap();
    let refused = |kind, text: &str| {
        let error = open_with_file(&data, &key).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().contains(key.to_str().unwrap()), "{error}");
    };
    for (bytes, seen) in
        [(&good[..0], "0"), (&good[..31], "31"), (&[&good[..], b"\n"].concat(), "more")]
    {
        std::fs::write(&key, bytes).unwrap();
        refused(StoreErrorKind::Key, &format!("must have 32 bytes and has {seen}"));
    }
    std::fs::remove_file(&key).unwrap();
    refused(StoreErrorKind::Key, "the file with its key is missing (");
    assert!(!key.exists(), "a new one would only hide what is wrong");
    std::fs::create_dir(&key).unwrap();
    refused(StoreErrorKind::Access, "the key is not a file");
    std::fs::remove_dir(&key).unwrap();
    std::fs::write(&key, &good).unwrap();
    #[cfg(unix)]
    {
        set_mode(&key, 0o640);
        refused(StoreErrorKind::Access, "(mode 0640), make it private with `chmod 600`");
        set_mode(&key, 0o600);
        // Opening a pipe for reading would wait for its writer.
        std::fs::remove_file(&key).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&key).status().unwrap().success());
        refused(StoreErrorKind::Access, "the key is not a file");
        std::fs::remove_file(&key).unwrap();
        std::fs::write(&key, &good).unwrap();
        set_mode(&key, 0o600);
    }
    let store = open_with_file(&data, &key).unwrap();
    assert_eq!(store_support::names(&store), ["ada"]);
}

#[test]
fn unfinished_key_file_is_ignored() {
    let dir = Dir::new();
    let (data, key) = (dir.path().join("data"), dir.path().join("key"));
    std::fs::write(dir.path().join("key.tmp"), "half a ke").unwrap();
    log_in(&open_with_file(&data, &key).unwrap());
    assert_eq!(std::fs::read(&key).unwrap().len(), 32);
    assert!(!dir.path().join("key.tmp").exists());
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&key.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let words: Vec<PathBuf> = words.iter().map(PathBuf::from).collect();
    match open_with_file(&words[0], &words[1]) {
        Ok(store) => {
            log_in(&store);
            say("encrypted");
        }
        Err(error) => say(error),
    }
}

#[test]
fn concurrent_processes_agree_on_key() {
    for _ in 0..5 {
        let dir = Dir::new();
        let key = dir.path().join("root/key");
        // Each encrypts a store of its own, so that no process finds the key through another store.
        let stores: Vec<_> = (0..8).map(|app| dir.path().join(format!("root/app-{app}"))).collect();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let start = |store: &PathBuf| spawn_child(&[&text(store), &text(&key)]);
        let mut children: Vec<_> = stores.iter().map(start).collect();
        for child in &mut children {
            assert_eq!(child.hear().as_deref(), Some("encrypted"));
        }
        for store in &stores {
            assert_eq!(store_support::names(&open_with_file(store, &key).unwrap()), ["ada"]);
        }
        assert!(!dir.path().join("root/key.tmp").exists());
    }
}

#[test]
fn debug_and_errors_hide_key() {
    let key = EncryptionKey::from_bytes(*b"planted-planted-planted-planted-");
    let builder = Session::builder(APP, URL).encryption(key.clone());
    let dir = Dir::new();
    let store =
        SledStore::open_encrypted(dir.path(), "app", &key, OnDamage::Refuse, soon()).unwrap();
    log_in(&store);
    let user: StoredUser = (*store_support::get(&store, "ada").unwrap()).clone();
    let other = EncryptionKey::from_bytes([1; 32]);
    let error = SledStore::open_encrypted(dir.path(), "app", &other, OnDamage::Refuse, soon());
    let text = format!("{key:?} {builder:?} {store:?} {user:?} {:?}", error.unwrap_err());
    for part in ["planted", "112, 108, 97", "70, 6c, 61"] {
        assert!(!text.contains(part), "{text}");
    }
}
