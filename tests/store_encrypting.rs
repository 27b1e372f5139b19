//! Conversion: an unencrypted store is encrypted in one commit.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests too")]
#![cfg(feature = "encryption")]

mod store_support;

use std::thread;
use std::time::Duration;

use keyfob::store::{Change, OnDamage, SledStore, Store, StoredUser};
use keyfob::{Deadline, EncryptionKey, Event, StoreErrorKind};

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
fn in_the_clear() -> Dir {
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

fn seal(dir: &Dir) -> SledStore {
    dir.try_open_with(&key(), OnDamage::Refuse).unwrap()
}

#[test]
fn conversion_keeps_users_and_leaves_no_plaintext() {
    let dir = in_the_clear();
    assert!(!files_with(&dir.data(), "planted").is_empty());
    let long_lived = dir.open();
    assert_eq!(number(&long_lived), USERS + 2);
    let store = seal(&dir);
    is_whole(&store);
    let recent = store.recent(Some(USERS), soon()).unwrap();
    assert_eq!((recent.lagged, recent.events.len()), (false, 1), "events came along");
    for text in ["planted", "e30.", "pppp", "refresh_token"] {
        assert_eq!(files_with(&dir.data(), text), NOWHERE, "{text}");
    }
    assert!(!dir.data().join("db.0").exists());
    is_whole(&seal(&dir));
    // A program without the key gets an error, even if it had the store open.
    for error in [
        dir.try_open_clear(OnDamage::Recover).unwrap_err(),
        long_lived.current(soon()).unwrap_err(),
        long_lived.commit(soon(), &mut |_| Ok(vec![])).unwrap_err(),
        dir.try_open_with(&other_key(), OnDamage::Recover).unwrap_err(),
    ] {
        assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
    }
    is_whole(&seal(&dir));
    assert_eq!(log_in(&store, "ada"), USERS + 3);
}

#[test]
fn replaced_plaintext_store_is_rejected() {
    let (dir, clear) = (Dir::encrypted(), in_the_clear());
    let store = dir.open();
    log_in(&store, "ada");
    take_away(&dir.data());
    copy(&clear.data(), &dir.data());
    let error = store.commit(soon(), &mut |_| Ok(vec![])).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key);
    assert!(error.to_string().contains("unencrypted although a key was given"), "{error}");
    is_whole(&clear.open());
}

#[test]
fn key_for_new_stores_keeps_plaintext_store() {
    let dir = in_the_clear();
    let long_lived = dir.open();
    let open = || dir.try_open_with(&key().for_new_stores(), OnDamage::Refuse).unwrap();
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
    // A key that seals what it finds still does.
    assert_eq!(number(&seal(&dir)), USERS + 4);
    assert!(open().is_encrypted());
}

#[test]
fn key_for_new_stores_creates_no_key_file() {
    let dir = in_the_clear();
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
    std::fs::write(&file, "short").unwrap();
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).unwrap();
    }
    let error = dir.try_open_with(&new, OnDamage::Recover).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key);
    std::fs::remove_file(&file).unwrap();

    let store = dir.try_open_with(&new, OnDamage::Refuse).unwrap();
    assert!(store.is_encrypted());
    log_in(&store, "ada");
    assert_eq!(files_with(&dir.data(), "s3cret"), NOWHERE);
    assert_eq!(dir.try_open_clear(OnDamage::Refuse).unwrap_err().kind, StoreErrorKind::Key);
    // An encrypted store does not become unencrypted when its key is lost.
    std::fs::remove_file(&file).unwrap();
    let error = dir.try_open_with(&new, OnDamage::Recover).unwrap_err();
    assert!(error.to_string().contains("the file with its key is missing"), "{error}");
}

#[test]
fn first_commit_decides_encryption() {
    let dir = Dir::new();
    let new = key().for_new_stores();
    let (clear, encrypted) = (dir.open(), dir.try_open_with(&new, OnDamage::Refuse).unwrap());
    log_in(&clear, "ada");
    let error = encrypted.commit(soon(), &mut |_| Ok(vec![])).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key);
    let again = dir.try_open_with(&new, OnDamage::Refuse).unwrap();
    assert_eq!((names(&again), again.is_encrypted()), (vec!["ada".to_owned()], false));
}

#[test]
fn plaintext_snapshot_after_crash_is_replaced() {
    let dir = in_the_clear();
    let path = dir.data().join("snapshot");
    let old = std::fs::read(&path).unwrap();
    drop(seal(&dir));
    let (count, database) = generation(&dir.data());
    for count in [count, count + 1] {
        for key in [key(), key().for_new_stores()] {
            std::fs::write(&path, &old).unwrap();
            set_generation(&dir.data(), count, database);
            // The snapshot is unencrypted, but the store is encrypted.
            is_whole(&dir.try_open_with(&key, OnDamage::Refuse).unwrap());
            assert_eq!(files_with(&dir.data(), "planted"), NOWHERE);
        }
    }
}

#[test]
fn damaged_plaintext_store_is_not_converted() {
    let dir = in_the_clear();
    std::fs::write(dir.data().join("db.0/db"), "garbage").unwrap();
    for on_damage in [OnDamage::Refuse, OnDamage::Recover] {
        let error = dir.try_open_with(&key(), on_damage).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("damaged"));
    }
    assert!(dir.data().join("db.0/db").exists());
    let store = dir.try_open(OnDamage::Recover).unwrap();
    commit(&store, &[Change::Location(None)]);
    let kept = names(&store);
    assert!(kept.len() > 5);
    assert_eq!(names(&seal(&dir)), kept);
}

#[test]
fn truncated_plaintext_store_is_not_converted() {
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
}

#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    say("begins");
    let data = words[0].as_ref();
    SledStore::open_encrypted(data, APP, &key(), OnDamage::Refuse, soon()).unwrap();
    say("encrypted");
}

#[test]
fn kill_during_conversion_is_atomic() {
    let mut random = Random::from_env();
    let origin = in_the_clear();
    let (mut encrypted, mut clear) = (0, 0);
    for round in 0..30 {
        let dir = origin.copy();
        let mut child = spawn_child(&[dir.data().to_str().unwrap()]);
        assert_eq!(child.hear().as_deref(), Some("begins"));
        thread::sleep(Duration::from_micros(random.below(60_000)));
        child.kill();
        // With the key the store is encrypted now. Without the key it is either of the two.
        if round % 2 == 0 {
            match dir.try_open_clear(OnDamage::Refuse) {
                Ok(store) => {
                    is_whole(&store);
                    clear += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind, StoreErrorKind::Key, "{error}");
                    encrypted += 1;
                }
            }
        }
        is_whole(&seal(&dir));
        assert_eq!(files_with(&dir.data(), "planted"), NOWHERE, "{round}");
    }
    println!("{clear} in the clear, {encrypted} encrypted");
}

#[test]
fn concurrent_conversions_give_one_store() {
    let origin = in_the_clear();
    for _ in 0..5 {
        let dir = origin.copy();
        let data = dir.data().to_str().unwrap().to_owned();
        let mut children: Vec<_> = (0..4).map(|_| spawn_child(&[&data])).collect();
        for child in &mut children {
            assert_eq!(child.hear().as_deref(), Some("begins"));
            assert_eq!(child.hear().as_deref(), Some("encrypted"));
        }
        is_whole(&seal(&dir));
        assert_eq!(generation(&dir.data()).1, 1, "once");
    }
}

#[test]
fn conversion_error_keeps_its_kind() {
    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let lock = std::fs::File::options().write(true).open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    let brief = Deadline::after(Duration::from_millis(50));
    let error = SledStore::open_encrypted(&dir.data(), APP, &key(), OnDamage::Refuse, brief);
    assert_eq!(error.unwrap_err().kind, StoreErrorKind::Busy);
    drop(lock);
    // In the way of the next snapshot; a full disk would be no other case.
    std::fs::create_dir(dir.data().join("snapshot.tmp")).unwrap();
    let error = dir.try_open_with(&key(), OnDamage::Refuse).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Access, "{error}");
}

#[test]
fn plaintext_reader_is_rejected_during_conversion() {
    let dir = Dir::new();
    let clear = dir.open();
    log_in(&clear, "ada");
    assert_eq!(clear.current(soon()).unwrap(), Some(id("ada")));
    let encrypted = dir.try_open_with(&key(), OnDamage::Refuse).unwrap();
    commit(&encrypted, &[Change::Current(None), put(logged_out(user("ada", 1)))]);
    let (count, database) = generation(&dir.data());
    set_generation(&dir.data(), count + 1, database);
    let lock = std::fs::File::options().write(true).open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(clear.current(now()).unwrap_err().kind, StoreErrorKind::Key);
}
