//! How records lie on disk: versions, pieces, damage.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use keyfob::server::Context;
use serde_json::{Value, json};

use crate::client::Client;
use crate::data_dir::{TempDir, builder};

/// A directory's records, as JSON.
fn records(dir: &TempDir) -> Vec<(sled::IVec, Value)> {
    let db = dir.sled();
    let read = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
        let (key, value) = entry.unwrap();
        (key, serde_json::from_slice(&value).unwrap())
    };
    db.iter().map(read).collect()
}

/// Makes a directory one that an earlier version has left. It had neither heads nor pieces.
fn make_old(dir: &TempDir, records: Vec<(sled::IVec, Value)>) {
    let db = dir.sled();
    db.clear().unwrap();
    for (key, record) in records.into_iter().filter(|(key, _)| *key != "head") {
        db.insert(key, record.to_string().as_bytes()).unwrap();
    }
    db.flush().unwrap();
    fs::write(dir.0.join("lock"), "").unwrap();
}

fn blobs(dir: &TempDir) -> Vec<PathBuf> {
    let blobs = fs::read_dir(dir.0.join("db/blobs")).unwrap();
    blobs.map(|entry| entry.unwrap().path()).collect()
}

/// Puts another log in the place of the one that is there, and of what was made of that.
fn put_log(dir: &TempDir, log: &[u8]) {
    let db = dir.0.join("db");
    for entry in fs::read_dir(&db).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.to_string_lossy().contains("snap.") {
            fs::remove_file(entry).unwrap();
        }
    }
    fs::write(db.join("db"), log).unwrap();
}

#[track_caller]
fn assert_damaged(dir: &TempDir, what: &str) {
    let error = builder(dir).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains(what), "{error}");
}

fn custom_data(size: usize) -> Option<Value> {
    Some(json!({"x": "y".repeat(size)}))
}

#[test]
fn directory_of_earlier_version_is_usable() {
    for version in [1, 2] {
        let dir = TempDir::new(&format!("version-{version}"));
        let server = builder(&dir).start().unwrap();
        let ada = Client::new(&server).ada();
        server.shut_down();
        let mut records = records(&dir);
        assert_eq!(records.len(), 5, "an account, a user, a session, the names and the head");
        for (key, record) in records.iter_mut().filter(|(key, _)| *key != "head") {
            assert_eq!(record["v"], 3);
            record["v"] = json!(version);
            let new = ["pending", "confirm", "reset", "server", "custom_data"];
            assert!(new.iter().all(|name| record.get(name).is_none()), "{record}");
            // Longer than a piece is now.
            if version == 2 && key.starts_with(b"u/") {
                record["custom_data"] = custom_data(20_000).unwrap();
            }
        }
        make_old(&dir, records);
        for key in ["one", "two"] {
            let server = builder(&dir).start().unwrap();
            let client = Client::new(&server);
            assert_eq!(client.refresh(&ada.refresh).status, 201);
            assert_eq!(client.ada().user_id, ada.user_id);
            assert_eq!(client.create_key(&ada.refresh, key).status, 201);
            let email = json!({"email": "ada@example.org"});
            assert_eq!(client.email("reset/send", &email).status, 200);
        }
    }
}

/// sled writes large pages to files of their own, which it never syncs.
#[test]
fn large_records_are_stored_in_log() {
    let dir = TempDir::new("large");
    let start = || {
        let data = |context: &Context, _: &[Value]| {
            Ok(json!(context.custom_data().map_or(0, |data| data["x"].as_str().unwrap().len())))
        };
        builder(&dir).function("size", data).start().unwrap()
    };
    let server = start();
    let client = Client::new(&server);
    let users: Vec<_> = (0..16).map(|_| client.anonymous()).collect();
    server.shut_down();
    for size in [24_000, 3000, 24_000, 9000, 24_500] {
        let server = start();
        for user in &users {
            server.set_custom_data(&user.user_id, custom_data(size)).unwrap();
        }
        server.shut_down();
        assert!(blobs(&dir).is_empty());
        let server = start();
        let client = Client::new(&server);
        for user in &users {
            let access = client.refresh(&user.refresh).json()["access_token"].clone();
            let answer = client.call(access.as_str().unwrap(), "size", &json!([]));
            assert_eq!(answer.json(), json!({"$numberInt": size.to_string()}));
        }
    }
    let server = start();
    for user in &users {
        server.set_custom_data(&user.user_id, None).unwrap();
    }
    server.shut_down();
    assert_eq!(records(&dir).len(), 34, "users, sessions, the names and the head");
}

#[test]
fn records_of_newer_version_are_named() {
    let dir = TempDir::new("version");
    builder(&dir).start().unwrap();
    let db = dir.sled();
    db.insert("u/5f0000000000000000000000", r#"{"v":4}"#).unwrap();
    drop(db);
    assert_damaged(&dir, "has version 4");
}

#[test]
fn damage_is_reported_and_data_is_preserved() {
    let dir = TempDir::new("damage");
    let server = builder(&dir).start().unwrap();
    Client::new(&server).ada();
    server.shut_down();
    builder(&dir).start().unwrap().shut_down();
    fs::write(dir.0.join("db/db"), "garbage").unwrap();
    assert_damaged(&dir, "is damaged");
    assert_eq!(fs::read(dir.0.join("db/db")).unwrap(), b"garbage");
}

/// sled takes some damage for the end of its log, and panics over some.
#[test]
fn garbage_in_log_is_error_or_harmless() {
    let dir = TempDir::new("garbage");
    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    let users: Vec<_> = (0..40).map(|_| client.anonymous().user_id).collect();
    for user in &users {
        server.set_custom_data(user, custom_data(20_000)).unwrap();
    }
    server.shut_down();
    let log = fs::read(dir.0.join("db/db")).unwrap();
    let number = fs::read(dir.0.join("lock")).unwrap();
    let mut errors = 0;
    for at in (0..log.len()).step_by(log.len() / 16) {
        let mut damaged = log.clone();
        let garbage = damaged[at..].iter_mut().zip(b"garbage ".iter().cycle()).take(4000);
        garbage.for_each(|(byte, garbage)| *byte = *garbage);
        put_log(&dir, &damaged);
        fs::write(dir.0.join("lock"), &number).unwrap();
        match builder(&dir).start() {
            Ok(server) => {
                assert!(users.iter().all(|user| server.enable_user(user).is_ok()), "{at}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{at}: {error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 4, "{errors}");
}

#[test]
fn rolled_back_database_is_error() {
    let dir = TempDir::new("back");
    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    client.anonymous();
    server.shut_down();
    let log = fs::read(dir.0.join("db/db")).unwrap();
    let server = builder(&dir).start().unwrap();
    Client::new(&server).anonymous();
    server.shut_down();
    put_log(&dir, &log);
    assert_damaged(&dir, "its newest changes are lost");
    fs::remove_file(dir.0.join("lock")).unwrap();
    builder(&dir).start().unwrap();
}

#[test]
fn damaged_database_is_unchanged() {
    let dir = TempDir::new("kept");
    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    let user = client.ada();
    server.shut_down();
    let path = dir.0.join("db/db");
    let whole = fs::read(&path).unwrap();
    // sled zeroes what comes after it: of a small database all there is.
    let mut harmed = whole.clone();
    harmed[30] ^= 1;
    fs::write(&path, &harmed).unwrap();
    let noted = fs::read_to_string(dir.0.join("lock")).unwrap();
    let noted: u64 = noted.trim().parse().unwrap();
    for _ in 0..2 {
        let error = builder(&dir).start().unwrap_err().to_string();
        assert!(error.contains("everything in it is lost"), "{error}");
        assert!(fs::read(&path).unwrap() == harmed);
        // As if that had been killed half-way: what it began with, and something older.
        fs::rename(dir.0.join("db"), dir.0.join(format!("db.kept.{noted}"))).unwrap();
        for old in ["db", "db.kept.1", "db.tmp"] {
            fs::create_dir(dir.0.join(old)).unwrap();
        }
    }
    let kept = dir.0.join(format!("db.kept.{noted}/db"));
    // Nothing is lost once the damage is repaired.
    fs::write(kept, &whole).unwrap();
    let server = builder(&dir).start().unwrap();
    assert_eq!(Client::new(&server).profile(&user.access).status, 200);
    let names = fs::read_dir(&dir.0).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("db.")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// With earlier versions of keyfob, sled wrote large pages to separate files.
#[test]
fn old_directory_with_missing_files_is_error() {
    let dir = TempDir::new("blobs");
    let server = builder(&dir).start().unwrap();
    Client::new(&server).anonymous();
    server.shut_down();
    let mut records = records(&dir);
    for (key, record) in &mut records {
        record["v"] = json!(2);
        if key.starts_with(b"u/") {
            record["custom_data"] = custom_data(200_000).unwrap();
        }
    }
    make_old(&dir, records);
    let server = builder(&dir).start().unwrap();
    Client::new(&server).anonymous();
    server.shut_down();
    let blobs = blobs(&dir);
    assert!(!blobs.is_empty());
    for blob in blobs {
        fs::remove_file(blob).unwrap();
    }
    assert_damaged(&dir, "is damaged");
}
