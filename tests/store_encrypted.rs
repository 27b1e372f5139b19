//! Encrypted stores: no stored value can be read or moved to another location, and a wrong key
//! changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests too")]
#![cfg(feature = "encryption")]

mod store_support;

use std::path::PathBuf;

use keyfob::store::{Change, OnDamage, SledStore, Store, StoredUser};
use keyfob::{Event, Provider, StoreErrorKind};
use serde_json::json;

use store_support::*;

/// Text that no file of an encrypted store may contain.
const SECRETS: &[&str] = &[
    "hunter22",
    "access-of-",
    "refresh-of-",
    "profile-of-",
    "identity of",
    "device-of-",
    "api-key-of-",
    "e30.",
    "local-userpass",
    "custom-token",
    "refresh_token",
    "pppppppp",
];

/// A user with something of everything in it; `round` changes its tokens.
fn full(name: &str, number: u64, round: u64, padding: usize) -> StoredUser {
    let user = user_with(name, number, &format!("of-{name}-{round}-hunter22"));
    let mut record = serde_json::to_value(padded(user, padding)).unwrap();
    record["profile"]["data"] = json!({"name": format!("profile-of-{name}")});
    record["device_id"] = format!("device-of-{name}").into();
    record["more"] = json!({"key": format!("api-key-of-{name}")});
    serde_json::from_value(record).unwrap()
}

fn linked(name: &str) -> Change {
    let provider = Provider::Other("custom-token".into());
    Change::Emit(Event::IdentityLinked { user: id(name), provider })
}

fn found(dir: &Dir) -> Vec<(&'static str, Vec<PathBuf>)> {
    let found = SECRETS.iter().map(|text| (*text, files_with(&dir.data(), text)));
    found.filter(|(_, files)| !files.is_empty()).collect()
}

fn kind<T>(result: Result<T, keyfob::StoreError>) -> StoreErrorKind {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => {
            let text = format!("{error} {error:?}");
            assert!(SECRETS.iter().all(|secret| !text.contains(secret)), "{text}");
            error.kind
        }
    }
}

/// How many refreshes; `KEYFOB_REFRESHES=10000` for a long look.
fn refreshes() -> u64 {
    std::env::var("KEYFOB_REFRESHES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn encrypted_files_show_no_secret() {
    let plaintext = Dir::new();
    commit(&plaintext.open(), &[put(full("ada", 1, 0, 9_000)), linked("ada")]);
    assert_eq!(found(&plaintext).len(), SECRETS.len(), "the test looks for what is there");

    let dir = Dir::encrypted();
    let store = dir.open();
    for name in ["ada", "eve", "joe"] {
        let user = |number| full(name, number, 0, 9_000);
        commit_numbered(&store, |number| vec![put(user(number)), linked(name)]);
        assert_eq!(found(&dir), []);
    }
    let mut largest = 0;
    for round in 1..=refreshes() {
        let padding = [200, 3_000, 9_000][round as usize % 3];
        commit(&store, &[put(full("ada", 1, round, padding))]);
        if round % (refreshes() / 20).max(50) == 0 {
            assert_eq!(found(&dir), [], "after {round} refreshes");
            let bytes: u64 = files(&dir.data()).iter().map(|f| f.metadata().unwrap().len()).sum();
            largest = largest.max(bytes);
        }
    }
    println!("{} refreshes, at most {largest} bytes", refreshes());
    assert!(largest < 12 * 1024 * 1024, "{largest}");
    let before = generation(&dir.data()).1;
    commit(&store, &[put(logged_out(full("eve", 2, 0, 9_000))), Change::Remove(id("joe"))]);
    assert_eq!(found(&dir), []);
    // No need for another database.
    assert_eq!(generation(&dir.data()).1, before);
    assert_eq!(names(&dir.open()), ["ada", "eve"]);
}

#[test]
fn ciphertext_of_user_always_differs() {
    let (one, other) = (Dir::encrypted(), Dir::encrypted());
    for dir in [&one, &other] {
        commit(&dir.open(), &[put(user("ada", 1))]);
    }
    let body = |dir: &Dir| std::fs::read(dir.data().join("snapshot")).unwrap().split_off(200);
    let (one, other) = (body(&one), body(&other));
    let same = one.windows(8).filter(|part| other.windows(8).any(|o| o == *part)).count();
    assert_eq!(same, 0);
}

#[test]
fn wrong_key_leaves_store_unchanged() {
    let dir = Dir::encrypted();
    log_in(&dir.open(), "ada");
    let before = generation(&dir.data());
    for on_damage in [OnDamage::Refuse, OnDamage::Recover] {
        let error = dir.try_open_with(&other_key(), on_damage).unwrap_err();
        assert!(error.to_string().contains("encrypted with another key"), "{error}");
        assert!(error.to_string().contains(dir.data().to_str().unwrap()), "{error}");
        assert_eq!(kind::<()>(Err(error)), StoreErrorKind::Key);
        let error = dir.try_open_plaintext(on_damage).unwrap_err();
        assert!(
            error.to_string().contains("the store is encrypted, open it with its key"),
            "{error}"
        );
        assert_eq!(kind::<()>(Err(error)), StoreErrorKind::Key);
    }
    assert_eq!(generation(&dir.data()), before);
    assert_eq!(names(&dir.open()), ["ada"]);
    assert_eq!(log_in(&dir.open(), "eve"), 2);
}

#[test]
fn wrong_key_leaves_damaged_store_unchanged() {
    for harm in ["snapshot", "generation", "snapshot generation", "database", "torn"] {
        let dir = Dir::encrypted();
        log_in(&dir.open(), "ada");
        let (count, number) = generation(&dir.data());
        match harm {
            "database" => {
                let kept = dir.path().join("elsewhere");
                std::fs::rename(dir.data().join(format!("db.{number}")), kept).unwrap();
            }
            "torn" => set_generation(&dir.data(), count + 1, number),
            files => {
                files.split(' ').for_each(|f| std::fs::remove_file(dir.data().join(f)).unwrap())
            }
        }
        for on_damage in [OnDamage::Refuse, OnDamage::Recover] {
            let opened = dir.try_open_with(&other_key(), on_damage);
            let done = opened.and_then(|store| store.commit(soon(), &mut |_| Ok(vec![])));
            assert_eq!(kind(done), StoreErrorKind::Key, "{harm}");
            let opened = dir.try_open_plaintext(on_damage);
            let done = opened.and_then(|store| store.commit(soon(), &mut |_| Ok(vec![])));
            assert_eq!(kind(done), StoreErrorKind::Key, "{harm}");
        }
        if harm == "database" {
            let kept = dir.path().join("elsewhere");
            std::fs::rename(kept, dir.data().join(format!("db.{number}"))).unwrap();
        }
        let store = dir.open();
        assert_eq!(names(&store), ["ada"], "{harm}");
        assert_eq!(log_in(&store, "eve"), 2, "{harm}");
    }
}

#[test]
fn damaged_store_recovers_encrypted() {
    let dir = Dir::encrypted();
    commit(&dir.open(), &[put(full("ada", 1, 0, 9_000))]);
    std::fs::remove_dir_all(dir.data().join("db.0")).unwrap();
    let store = dir.try_open(OnDamage::Recover).unwrap();
    commit(&store, &[put(full("eve", 3, 0, 10))]);
    assert_eq!(names(&dir.open()), ["ada", "eve"]);
    assert_eq!(found(&dir), []);
    assert_eq!(kind(dir.try_open_plaintext(OnDamage::Recover)), StoreErrorKind::Key);
}

#[test]
fn first_commit_decides_key() {
    let dir = Dir::encrypted();
    let (first, second) = (dir.open(), dir.try_open_with(&other_key(), OnDamage::Refuse).unwrap());
    let plaintext = dir.try_open_plaintext(OnDamage::Refuse).unwrap();
    assert_eq!(names(&second), names(&plaintext));
    log_in(&first, "ada");
    for other in [&second, &plaintext] {
        assert_eq!(kind(other.current(soon())), StoreErrorKind::Key);
        assert_eq!(kind(other.commit(soon(), &mut |_| Ok(vec![]))), StoreErrorKind::Key);
    }
    assert_eq!(names(&first), ["ada"]);
    assert_eq!(names(&dir.open()), ["ada"]);
}

#[test]
fn unfinished_first_commit_decides_nothing() {
    let dir = Dir::encrypted();
    dir.open().commit(soon(), &mut |_| Ok(vec![])).unwrap();
    // As a writer leaves it that dies before there is a snapshot.
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    set_generation(&dir.data(), 1, 0);
    let store = dir.try_open_with(&other_key(), OnDamage::Refuse).unwrap();
    log_in(&store, "ada");
    assert_eq!(kind(dir.try_open(OnDamage::Refuse)), StoreErrorKind::Key);
    assert_eq!(kind(dir.try_open_plaintext(OnDamage::Refuse)), StoreErrorKind::Key);
    assert_eq!(names(&store), ["ada"]);
}

/// The child of a test: opens the store with the key of the given byte, and commits repeatedly.
#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let key = keyfob::EncryptionKey::from_bytes([words[1].parse().unwrap(); 32]);
    let (data, on_damage) = (words[0].as_ref(), OnDamage::Refuse);
    let done = SledStore::open_encrypted(data, APP, &key, on_damage, soon())
        .and_then(|store| store.commit(soon(), &mut |_| Ok(vec![put(user(&words[1], 1))])));
    match done {
        Ok(number) => say(format!("number {number}")),
        Err(error) => say(format!("{:?}", error.kind)),
    }
}

#[test]
fn second_key_of_two_processes_is_rejected() {
    for _ in 0..8 {
        let dir = Dir::new();
        let data = dir.data().to_str().unwrap().to_owned();
        let mut children = [spawn_child(&[&data, "1"]), spawn_child(&[&data, "2"])];
        let mut heard: Vec<_> = children.iter_mut().map(|child| child.hear().unwrap()).collect();
        heard.sort();
        assert_eq!(heard, ["Key", "number 1"]);
    }
}

fn sled_of(dir: &Dir) -> sled::Db {
    sled_at(dir.data().join(format!("db.{}", generation(&dir.data()).1)))
}

/// An attacker who can write valid sled checksums, but does not have the key.
fn forge(dir: &Dir, forge: impl FnOnce(&sled::Db)) {
    let db = sled_of(dir);
    forge(&db);
    db.flush().unwrap();
}

fn record_key(id: &str) -> Vec<u8> {
    [b"u/", &(id.len() as u16).to_be_bytes()[..], id.as_bytes(), &[0, 0]].concat()
}

/// Checks that a store without a snapshot reports a forgery.
fn is_refused(dir: &Dir, what: &str) {
    let copied = dir.copy();
    std::fs::remove_file(copied.data().join("snapshot")).unwrap();
    let opened = copied.try_open(OnDamage::Refuse);
    let read = opened.and_then(|store| store.users(soon()).map(|_| ()));
    assert_eq!(kind(read), StoreErrorKind::Damaged, "{what}");
    // Nor with a snapshot: what it says is what was there.
    let store = dir.open();
    assert_eq!(names(&store), ["ada", "eve"], "{what}");
    assert_eq!(*get(&store, "ada").unwrap(), user("ada", 1), "{what}");
    let next = store.commit(soon(), &mut |tables| {
        tables.user(&id("ada"))?;
        tables.user(&id("eve"))?;
        Ok(vec![])
    });
    assert_eq!(kind(next), StoreErrorKind::Damaged, "{what}");
    let store = dir.try_open(OnDamage::Recover).unwrap();
    commit(&store, &[Change::Location(None)]);
    assert_eq!(*get(&store, "ada").unwrap(), user("ada", 1), "{what}");
}

fn two_users() -> Dir {
    let dir = Dir::encrypted();
    let store = dir.open();
    commit(&store, &[put(user("ada", 1))]);
    commit(&store, &[put(user("eve", 2))]);
    dir
}

#[test]
fn forged_records_are_damage() {
    let dir = two_users();
    let length = sled_of(&dir).get(record_key("ada")).unwrap().unwrap().len();
    for at in [2, 3, 25, 26, 27, length / 2, length - 17, length - 16, length - 1] {
        let copied = dir.copy();
        forge(&copied, |db| {
            let mut record = db.get(record_key("ada")).unwrap().unwrap().to_vec();
            record[at] ^= 1;
            db.insert(record_key("ada"), record).unwrap();
        });
        is_refused(&copied, &format!("byte {at}"));
    }
    let copied = dir.copy();
    forge(&copied, |db| {
        let [ada, eve] = ["ada", "eve"].map(|name| db.get(record_key(name)).unwrap().unwrap());
        db.insert(record_key("ada"), eve).unwrap();
        db.insert(record_key("eve"), ada).unwrap();
    });
    is_refused(&copied, "exchanged");

    // The same users under the same key.
    let twin = two_users();
    let foreign = sled_of(&twin).get(record_key("ada")).unwrap().unwrap();
    let copied = dir.copy();
    forge(&copied, |db| drop(db.insert(record_key("ada"), foreign).unwrap()));
    is_refused(&copied, "from another store");

    // Unencrypted, as an attacker would like it.
    let copied = dir.copy();
    let plain = br#"{"v":1,"user":{"id":"ada","state":"logged-out","epoch":1}}"#;
    let plain = [&[0, 1], &plain[..]].concat();
    forge(&copied, |db| drop(db.insert(record_key("ada"), plain).unwrap()));
    is_refused(&copied, "unencrypted");
}

#[test]
fn forged_location_is_dropped() {
    const HEAD: &[u8] = b"meta/head\0\0";
    const GOOD: &str = r#"{"hostname":"https://good.example.org"}"#;
    let dir = two_users();
    commit(&dir.open(), &[Change::Location(Some(GOOD.to_owned()))]);
    let location = |dir: &Dir| dir.open().location(soon()).unwrap();
    assert_eq!(location(&dir).as_deref(), Some(GOOD));
    assert_eq!(files_with(&dir.data(), "good.example"), Vec::<PathBuf>::new());
    let kept = |db: &sled::Db| {
        let head = db.get(HEAD).unwrap().unwrap();
        serde_json::from_slice::<serde_json::Value>(&head[2..]).unwrap()
    };
    let other = kept(&sled_of(&two_users()))["location"].clone();
    for forged in [json!(r#"{"hostname":"https://evil.example.org"}"#), json!("AAAA"), other] {
        let copied = dir.copy();
        forge(&copied, |db| {
            let mut head = kept(db);
            head["location"] = forged.clone();
            db.insert(HEAD, [&[0, 1], head.to_string().as_bytes()].concat()).unwrap();
        });
        // With nothing else to go by, and after a commit, which goes by the database.
        let bare = copied.copy();
        std::fs::remove_file(bare.data().join("snapshot")).unwrap();
        assert_eq!(location(&bare), None, "{forged}");
        commit(&copied.open(), &[put(user("ada", 1))]);
        assert_eq!(location(&copied), None, "{forged}");
    }
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    assert_eq!(location(&dir).as_deref(), Some(GOOD), "it is in the database, encrypted");
}

#[test]
fn forged_check_is_key_error() {
    let dir = two_users();
    for removed in [false, true] {
        let copied = dir.copy();
        let mut mine = None;
        let entry = b"meta/check\0\0";
        forge(&copied, |db| {
            let check = db.get(entry).unwrap().unwrap();
            let mut changed = check.to_vec();
            changed[10] ^= 1;
            match removed {
                true => db.remove(entry).unwrap(),
                false => db.insert(entry, changed).unwrap(),
            };
            mine = Some(check);
        });
        let store = copied.open();
        assert_eq!(names(&store), ["ada", "eve"], "the snapshot is whole");
        assert_eq!(kind(store.commit(soon(), &mut |_| Ok(vec![]))), StoreErrorKind::Key);
        forge(&copied, |db| drop(db.insert(entry, mine.unwrap()).unwrap()));
        assert_eq!(log_in(&copied.open(), "joe"), 3);
    }
}

fn body_of(dir: &Dir) -> Vec<u8> {
    let bytes = std::fs::read(dir.data().join("snapshot")).unwrap();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    bytes[end + 1..].to_vec()
}

#[test]
fn forged_snapshot_is_rebuilt() {
    let dir = two_users();
    let body = body_of(&dir);
    let begin = body.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut forgeries: Vec<_> = (begin..body.len())
        .step_by(53)
        .chain(body.len() - 17..body.len())
        .map(|at| {
            let mut forged = body.clone();
            forged[at] ^= 1;
            forged
        })
        .collect();
    forgeries.push(body[..body.len() - 1].to_vec());
    forgeries.push(body[..begin].to_vec());
    // A store with the same state, app and key, and an unencrypted one.
    let twin = two_users();
    log_in(&twin.open(), "mia");
    forgeries.push(body_of(&twin));
    let plaintext = Dir::new();
    for name in ["ada", "eve", "joe", "mia"] {
        log_in(&plaintext.open(), name);
    }
    forgeries.push(body_of(&plaintext));
    for (round, forged) in forgeries.into_iter().enumerate() {
        std::fs::write(dir.data().join("snapshot"), snapshot_file("1", forged.len(), &forged))
            .unwrap();
        let store = dir.open();
        assert_eq!(names(&store), ["ada", "eve"], "{round}");
        assert_eq!(store.current(soon()).unwrap(), None, "{round}");
        assert_eq!(log_in_and_out(&store), 4 + 2 * round as u64, "{round}");
    }
}

/// Commits twice, and leaves everything as it was.
fn log_in_and_out(store: &dyn Store) -> u64 {
    log_in(store, "zoe");
    commit(store, &[Change::Remove(id("zoe")), Change::Current(None)])
}
