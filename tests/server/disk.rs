//! How records are stored on disk: versions, pieces, damage.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use keyfob::server::Context;
use serde_json::{Value, json};

use crate::client::Client;
use crate::data_dir::{TempDir, builder};

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
    assert_eq!(dir.sled().len(), 34, "users, sessions, the deployment and the head");
}

#[test]
fn records_of_newer_version_are_named() {
    let dir = TempDir::new("version");
    builder(&dir).start().unwrap();
    let db = dir.sled();
    db.insert(b"u/5f0000000000000000000000\xff\0\0", b"\0\x01{\"v\":2}").unwrap();
    drop(db);
    assert_damaged(&dir, "has version 2");
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
