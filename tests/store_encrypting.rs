//! Encryption of an unencrypted store, and stores that are opened in the other mode.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests too")]
#![cfg(feature = "encryption")]

mod store_support;

use std::path::Path;
use std::thread;
use std::time::Duration;

use keyfob::store::{Change, OnDamage, SledStore, Store, StoredUser};
use keyfob::{Deadline, EncryptionKey, Event, StoreError, StoreErrorKind};

use store_support::*;

const USERS: u64 = 60;

fn expected(number: u64) -> StoredUser {
    let name = format!("user {number}");
    let user = padded(user_with(&name, number, &format!("planted-{number}")), 40 * number as usize);
    match number % 7 {
        3 => logged_out(user),
        5 => padded(user, 9_000),
        _ => user,
    }
}

/// An unencrypted store with more users than a snapshot holds, and with traces of earlier tokens.
fn unencrypted() -> Dir {
    let dir = Dir::new();
    let store = dir.open();
    for number in 1..=USERS {
        commit(&store, &[put(expected(number))]);
    }
    let event = Event::CurrentUserChanged { from: None, to: Some(id("user 9")) };
    commit(&store, &[Change::Current(Some(id("user 9"))), Change::Emit(event)]);
    commit(&store, &[Change::Location(Some("https://eu.example.org".into()))]);
    dir
}

fn is_whole(store: &dyn Store) {
    let users = store.users(soon()).unwrap();
    assert_eq!(users.len() as u64, USERS);
    for (number, user) in (1..).zip(users) {
        assert_eq!(*user, expected(number));
    }
    assert_eq!(store.current(soon()).unwrap(), Some(id("user 9")));
    assert_eq!(store.location(soon()).unwrap().as_deref(), Some("https://eu.example.org"));
    assert_eq!(number(store), USERS + 2);
    // The order of use came along.
    let mut last = None;
    let _ = store.commit(soon(), &mut |tables| {
        last = tables.last_used(&|_| true)?.map(|user| user.id.clone());
        Ok(vec![])
    });
    assert_eq!(last, Some(id("user 60")));
}

fn try_encrypt(dir: &Dir) -> Result<bool, StoreError> {
    SledStore::encrypt(&dir.data(), APP, &key(), soon())
}

/// Encrypts the store, and opens it.
fn encrypt(dir: &Dir) -> SledStore {
    try_encrypt(dir).unwrap();
    dir.try_open_with(&key(), OnDamage::Refuse).unwrap()
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, mode).unwrap();
    }
}

fn in_either_mode() -> EncryptionKey {
    key().for_new_stores()
}

#[test]
fn encryption_keeps_users_and_leaves_no_plaintext() {
    let dir = unencrypted();
    assert!(!files_with(&dir.data(), "planted").is_empty());
    let (reader, writer) = (dir.open(), dir.open());
    assert_eq!(number(&reader), USERS + 2);
    assert!(try_encrypt(&dir).unwrap());
    let store = dir.try_open_with(&key(), OnDamage::Refuse).unwrap();
    is_whole(&store);
    let recent = store.recent(Some(USERS), soon()).unwrap();
    assert_eq!((recent.lagged, recent.events.len()), (false, 1), "events came along");
    for text in ["planted", "e30.", "pppp", "refresh_token"] {
        assert_eq!(files_with(&dir.data(), text), NOWHERE, "{text}");
    }
    assert!(!dir.data().join("db.0").exists());
    assert!(!try_encrypt(&dir).unwrap(), "once");
    // A program without the key gets an error, even if it had the store open.
    for error in [
        dir.try_open_plaintext(OnDamage::Recover).unwrap_err(),
        reader.current(soon()).unwrap_err(),
        writer.commit(soon(), &mut |_| Ok(vec![put(user("eve", 1))])).unwrap_err(),
    ] {
        assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
        assert!(error.to_string().contains("`SessionBuilder::encryption`"), "{error}");
    }
    for error in [
        dir.try_open_with(&other_key(), OnDamage::Recover).unwrap_err(),
        SledStore::encrypt(&dir.data(), APP, &other_key(), soon()).unwrap_err(),
    ] {
        assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
        assert!(error.to_string().contains("with another key"), "{error}");
    }
    assert_eq!(generation(&dir.data()).1, 1, "once");
    is_whole(&dir.try_open_with(&key(), OnDamage::Refuse).unwrap());
    assert_eq!(log_in(&store, "ada"), USERS + 3);
}

#[test]
fn plaintext_store_does_not_open_encrypted() {
    let dir = unencrypted();
    let before = generation(&dir.data());
    for key in [key(), EncryptionKey::key_file()] {
        for on_damage in [OnDamage::Refuse, OnDamage::Recover] {
            let error = dir.try_open_with(&key, on_damage).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
            assert!(error.to_string().contains("`SessionBuilder::encrypt_store`"), "{error}");
        }
    }
    assert_eq!(generation(&dir.data()), before);
    assert!(!dir.data().join("key").exists());
    is_whole(&dir.open());
}

#[test]
fn nothing_is_encrypted_without_store() {
    let dir = Dir::new();
    assert!(!try_encrypt(&dir).unwrap());
    assert!(!dir.data().exists());
}

#[test]
fn unusable_key_leaves_plaintext_store() {
    let dir = unencrypted();
    let file = dir.data().join("key");
    std::fs::create_dir(&file).unwrap();
    for key in [EncryptionKey::key_file(), EncryptionKey::key_file().for_new_stores()] {
        let error = SledStore::encrypt(&dir.data(), APP, &key, soon()).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Access, "{error}");
        is_whole(&dir.open());
    }
    std::fs::remove_dir(&file).unwrap();
    write_private(&file, "short");
    for key in [EncryptionKey::key_file(), EncryptionKey::key_file().for_new_stores()] {
        let error = SledStore::encrypt(&dir.data(), APP, &key, soon()).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
        assert!(error.to_string().contains("must have 32 bytes and has 5"), "{error}");
        is_whole(&dir.open());
    }
    std::fs::remove_file(&file).unwrap();
    // Only now the key is created.
    assert!(SledStore::encrypt(&dir.data(), APP, &EncryptionKey::key_file(), soon()).unwrap());
    is_whole(&dir.try_open_with(&EncryptionKey::key_file(), OnDamage::Refuse).unwrap());
}

#[test]
fn replaced_plaintext_store_is_rejected() {
    let (dir, clear) = (Dir::encrypted(), unencrypted());
    let store = dir.open();
    log_in(&store, "ada");
    take_away(&dir.data());
    copy(&clear.data(), &dir.data());
    let error = store.commit(soon(), &mut |_| Ok(vec![])).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key);
    assert!(error.to_string().contains("the store is unencrypted"), "{error}");
    is_whole(&clear.open());
}

#[test]
fn key_for_new_stores_keeps_plaintext_store() {
    let dir = unencrypted();
    let long_lived = dir.open();
    let open = || dir.try_open_with(&in_either_mode(), OnDamage::Refuse).unwrap();
    let store = open();
    assert!(!store.is_encrypted());
    is_whole(&store);
    // Only the database says whether the store is encrypted.
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    let store = open();
    assert!(!store.is_encrypted());
    is_whole(&store);
    assert_eq!(log_in(&store, "ada"), USERS + 3);
    assert_eq!(log_in(&long_lived, "eve"), USERS + 4);
    assert_eq!(number(&dir.open()), USERS + 4);
    // A program that has it open gets an error when it is encrypted.
    assert_eq!(number(&encrypt(&dir)), USERS + 4);
    let error = store.commit(soon(), &mut |_| Ok(vec![put(user("joe", 1))])).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
    assert!(error.to_string().contains("open it again"), "{error}");
    assert!(!store.is_encrypted() && open().is_encrypted());
    assert_eq!(log_in(&open(), "joe"), USERS + 5);
}

#[test]
fn key_for_new_stores_creates_no_key_file() {
    let dir = unencrypted();
    let key = EncryptionKey::key_file().for_new_stores();
    for name in ["generation", "snapshot"] {
        assert!(!dir.try_open_with(&key, OnDamage::Refuse).unwrap().is_encrypted());
        assert!(!dir.data().join("key").exists());
        std::fs::remove_file(dir.data().join(name)).unwrap();
    }
    is_whole(&dir.try_open_with(&key, OnDamage::Refuse).unwrap());
    assert!(!dir.data().join("key").exists());
}

#[test]
fn key_for_new_stores_encrypts_new_store() {
    let dir = Dir::new();
    let new = EncryptionKey::key_file().for_new_stores();
    // Without the key no store is created, above all no unencrypted one.
    std::fs::create_dir_all(dir.data()).unwrap();
    let file = dir.data().join("key");
    write_private(&file, "short");
    let error = dir.try_open_with(&new, OnDamage::Recover).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key);
    std::fs::remove_file(&file).unwrap();

    let store = dir.try_open_with(&new, OnDamage::Refuse).unwrap();
    assert!(store.is_encrypted());
    log_in(&store, "ada");
    assert_eq!(files_with(&dir.data(), "s3cret"), NOWHERE);
    assert_eq!(dir.try_open_plaintext(OnDamage::Refuse).unwrap_err().kind, StoreErrorKind::Key);
    // An encrypted store does not become unencrypted when its key is lost.
    std::fs::remove_file(&file).unwrap();
    let error = dir.try_open_with(&new, OnDamage::Recover).unwrap_err();
    assert!(error.to_string().contains("the file with its key is missing"), "{error}");
}

#[test]
fn key_for_new_stores_rejects_replaced_store() {
    let (dir, clear) = (Dir::new(), unencrypted());
    let store = dir.try_open_with(&in_either_mode(), OnDamage::Refuse).unwrap();
    log_in(&store, "ada");
    take_away(&dir.data());
    copy(&clear.data(), &dir.data());
    let error = store.commit(soon(), &mut |_| Ok(vec![])).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
    assert!(store.is_encrypted());
}

#[test]
fn forged_plaintext_snapshot_opens_no_record() {
    let (dir, clear) = (Dir::new(), Dir::new());
    let open = || dir.try_open_with(&in_either_mode(), OnDamage::Refuse).unwrap();
    log_in(&open(), "ada");
    let location = Some("https://eve.example.org".to_owned());
    commit(&clear.open(), &[put(user("eve", 1)), Change::Location(location.clone())]);
    let path = dir.data().join("snapshot");
    let kept = std::fs::read(&path).unwrap();
    let forged = std::fs::read_to_string(clear.data().join("snapshot")).unwrap();
    let (first, body) = forged.split_once('\n').unwrap();
    let words: Vec<_> = first.split(' ').collect();
    // So that other users are looked for in the database.
    let body = body.replacen("\"complete\":true", "\"complete\":false", 1);
    let head = words[4].parse::<usize>().unwrap() + 1;
    std::fs::write(&path, snapshot_file(words[3], head, body.as_bytes())).unwrap();
    let store = open();
    assert_eq!(store.location(soon()).unwrap(), location);
    let error = store.user(&id("ada"), soon()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
    std::fs::write(&path, kept).unwrap();
    assert_eq!(names(&open()), ["ada"]);
}

#[test]
fn first_commit_decides_encryption() {
    let dir = Dir::new();
    let (clear, either) =
        (dir.open(), dir.try_open_with(&in_either_mode(), OnDamage::Refuse).unwrap());
    assert!(either.is_encrypted());
    log_in(&clear, "ada");
    assert_eq!(log_in(&either, "eve"), 2);
    assert!(!either.is_encrypted());
    assert_eq!(names(&clear), ["ada", "eve"]);
}

#[test]
fn crash_before_first_commit_allows_encryption() {
    let dir = Dir::new();
    let clear = dir.open();
    // Begins the store, and commits nothing.
    let _ = clear.commit(soon(), &mut |_| Ok(vec![]));
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    set_generation(&dir.data(), 1, 0);
    let store = dir.try_open_with(&in_either_mode(), OnDamage::Refuse).unwrap();
    log_in(&store, "ada");
    assert!(store.is_encrypted());
    assert_eq!(files_with(&dir.data(), "s3cret"), NOWHERE);
}

#[test]
fn plaintext_snapshot_after_crash_is_replaced() {
    let dir = unencrypted();
    let path = dir.data().join("snapshot");
    let old = std::fs::read(&path).unwrap();
    drop(encrypt(&dir));
    let (count, database) = generation(&dir.data());
    for count in [count, count + 1] {
        for key in [key(), in_either_mode()] {
            std::fs::write(&path, &old).unwrap();
            set_generation(&dir.data(), count, database);
            // The snapshot is unencrypted, but the store is encrypted.
            is_whole(&dir.try_open_with(&key, OnDamage::Refuse).unwrap());
            assert_eq!(files_with(&dir.data(), "planted"), NOWHERE);
        }
    }
}

#[test]
fn damaged_plaintext_store_is_not_encrypted() {
    let dir = unencrypted();
    std::fs::write(dir.data().join("db.0/db"), "garbage").unwrap();
    for on_damage in [OnDamage::Refuse, OnDamage::Recover] {
        let error = dir.try_open_with(&key(), on_damage).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("damaged"));
    }
    assert!(dir.data().join("db.0/db").exists());
    for _ in 0..2 {
        let error = try_encrypt(&dir).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Damaged, "{error}");
        assert!(dir.data().join("db.0.damaged/db").exists());
    }
    let either = dir.copy();
    for store in [
        dir.try_open(OnDamage::Recover).unwrap(),
        either.try_open_with(&in_either_mode(), OnDamage::Recover).unwrap(),
    ] {
        commit(&store, &[Change::Location(None)]);
        assert!(!store.is_encrypted() && names(&store).len() > 5);
    }
    let kept = names(&dir.open());
    assert_eq!(names(&encrypt(&dir)), kept);
}

#[test]
fn truncated_plaintext_store_is_not_encrypted() {
    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let before = dir.copy();
    log_in(&dir.open(), "eve");
    std::fs::remove_dir_all(dir.data().join("db.0")).unwrap();
    copy(&before.data().join("db.0"), &dir.data().join("db.0"));
    let error = dir.try_open_with(&key(), OnDamage::Recover).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
    assert!(dir.data().join("db.0").exists());
    assert_eq!(names(&dir.open()), ["ada", "eve"]);
    // The snapshot does not hide it.
    let error = try_encrypt(&dir).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Damaged, "{error}");
    assert_eq!(names(&dir.try_open(OnDamage::Recover).unwrap()), ["ada", "eve"]);
}

#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    say("begins");
    let data = words[0].as_ref();
    SledStore::encrypt(data, APP, &key(), soon()).unwrap();
    say("encrypted");
}

#[test]
fn kill_during_encryption_is_atomic() {
    let mut random = Random::from_env();
    let origin = unencrypted();
    let (mut encrypted, mut clear) = (0, 0);
    for round in 0..30 {
        let dir = origin.copy();
        let mut child = spawn_child(&[dir.data().to_str().unwrap()]);
        assert_eq!(child.hear().as_deref(), Some("begins"));
        thread::sleep(Duration::from_micros(random.below(60_000)));
        child.kill();
        // The first process to look decides which of the two it is.
        match round % 3 {
            0 => match dir.try_open_plaintext(OnDamage::Refuse) {
                Ok(store) => {
                    is_whole(&store);
                    clear += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
                    encrypted += 1;
                }
            },
            1 => is_whole(&dir.try_open_with(&in_either_mode(), OnDamage::Refuse).unwrap()),
            _ => {}
        }
        is_whole(&encrypt(&dir));
        assert_eq!(files_with(&dir.data(), "planted"), NOWHERE, "{round}");
    }
    println!("{clear} unencrypted, {encrypted} encrypted");
}

#[test]
fn concurrent_encryptions_give_one_store() {
    let origin = unencrypted();
    for _ in 0..5 {
        let dir = origin.copy();
        let data = dir.data().to_str().unwrap().to_owned();
        let mut children: Vec<_> = (0..4).map(|_| spawn_child(&[&data])).collect();
        for child in &mut children {
            assert_eq!(child.hear().as_deref(), Some("begins"));
            assert_eq!(child.hear().as_deref(), Some("encrypted"));
        }
        is_whole(&encrypt(&dir));
        assert_eq!(generation(&dir.data()).1, 1, "once");
    }
}

#[test]
fn encryption_error_keeps_its_kind() {
    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let lock = std::fs::File::options().write(true).open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    let brief = Deadline::after(Duration::from_millis(50));
    let error = SledStore::encrypt(&dir.data(), APP, &key(), brief);
    assert_eq!(error.unwrap_err().kind, StoreErrorKind::Busy);
    drop(lock);
    // In the way of the next snapshot; a full disk would be no other case.
    std::fs::create_dir(dir.data().join("snapshot.tmp")).unwrap();
    let error = try_encrypt(&dir).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Access, "{error}");
    assert_eq!(names(&dir.open()), ["ada"]);
}

#[test]
fn plaintext_reader_is_rejected_during_encryption() {
    let dir = Dir::new();
    let clear = dir.open();
    log_in(&clear, "ada");
    assert_eq!(clear.current(soon()).unwrap(), Some(id("ada")));
    let encrypted = encrypt(&dir);
    commit(&encrypted, &[Change::Current(None), put(logged_out(user("ada", 1)))]);
    let (count, database) = generation(&dir.data());
    set_generation(&dir.data(), count + 1, database);
    let lock = std::fs::File::options().write(true).open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(clear.current(now()).unwrap_err().kind, StoreErrorKind::Key);
}
