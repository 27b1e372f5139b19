//! Secrets that a login leaves on disk: the tests search the files for any sixteen consecutive
//! bytes of a token, a password or a key, either unchanged, decoded or encoded again.
//!
//! `KEYFOB_REFRESHES=10000` makes the run longer.

#![cfg(feature = "encryption")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyfob::{Credentials, EncryptionKey, Session};
use serde_json::{Value, json};
use support::*;

const KEY: [u8; 32] = *b"\x9c\x01the key of a test, and no wor\xf3";
const PASSWORD: &str = "correct-horse-battery-staple-22";
const PIECE: usize = 16;

type Pieces = HashSet<[u8; PIECE]>;

/// Adds all pieces of a secret, in every form.
fn add(pieces: &mut Pieces, secret: &[u8]) {
    let mut forms = vec![secret.to_vec()];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    forms.push(hex(secret).into_bytes());
    forms.push(hex(secret).to_uppercase().into_bytes());
    forms.push(secret.iter().rev().copied().collect());
    // Wherever in a longer text it is when that is encoded.
    for shift in 0..3 {
        for engine in [STANDARD, URL_SAFE_NO_PAD] {
            let encoded = engine.encode([&b"xx"[..shift], secret].concat());
            forms.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
        }
    }
    for part in secret.split(|byte| *byte == b'.') {
        forms.extend(URL_SAFE_NO_PAD.decode(part));
    }
    for form in forms {
        pieces.extend(form.windows(PIECE).map(|piece| <[u8; PIECE]>::try_from(piece).unwrap()));
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files with pieces in them, and how many bytes all files have.
fn look(dir: &Path, pieces: &Pieces) -> (HashMap<PathBuf, usize>, usize) {
    let (mut found, mut bytes) = (HashMap::new(), 0);
    for path in files(dir) {
        let content = std::fs::read(&path).unwrap();
        bytes += content.len();
        let hits = content.windows(PIECE).filter(|piece| pieces.contains(*piece)).count();
        if hits > 0 {
            found.insert(path, hits);
        }
    }
    (found, bytes)
}

fn open(script: &Script, dir: &Path, key: Option<EncryptionKey>) -> Session {
    let builder = Session::builder(APP, URL).transport(script.clone()).data_dir(dir);
    let builder = builder.clock(ManualClock::at(START)).deadline(Duration::from_secs(60));
    match key {
        Some(key) => builder.encryption(key).open().unwrap(),
        None => builder.open().unwrap(),
    }
}

/// A mark unlike any other, and long.
fn mark(kind: &str, round: u64) -> String {
    let words = [1, 2, 3].map(|word| (round * 3 + word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    format!("{kind}-{:016x}{:016x}{:016x}", words[0], words[1], words[2])
}

fn tokens(round: u64) -> (String, String) {
    (access(&mark("access", round)), refresh(&mark("refresh", round)))
}

/// Logs in, and refreshes so many times, with new tokens of both kinds each time.
fn live(script: &Script, session: &Session, refreshes: u64, pieces: &mut Pieces) {
    let (first, second) = tokens(0);
    script.accept_login("ada", &first, &second);
    script.reply(LOGOUT, 204, Value::Null);
    let user = session.log_in(&Credentials::email_password("ada@example.org", PASSWORD)).unwrap();
    for round in 0..=refreshes {
        let (access, refresh) = tokens(round);
        if round > 0 {
            let body = json!({"access_token": access, "refresh_token": refresh});
            script.reply(REFRESH, 201, body);
            assert_eq!(user.refresh_custom_data::<Value>().unwrap(), None);
            script.clear();
        }
        // Of very many those from everywhere in between.
        if round % (refreshes / 200).max(1) == 0 {
            add(pieces, access.as_bytes());
            add(pieces, refresh.as_bytes());
        }
    }
}

fn refreshes(usually: u64) -> u64 {
    std::env::var("KEYFOB_REFRESHES").ok().and_then(|text| text.parse().ok()).unwrap_or(usually)
}

#[test]
fn encrypted_directory_contains_no_plaintext() {
    let (dir, script, mut pieces) = (Dir::new(), Script::new(), Pieces::new());
    add(&mut pieces, &KEY);
    add(&mut pieces, PASSWORD.as_bytes());
    let session = open(&script, dir.path(), Some(EncryptionKey::from_bytes(KEY)));
    let count = refreshes(100);
    live(&script, &session, count, &mut pieces);
    let (found, bytes) = look(dir.path(), &pieces);
    assert_eq!(found, HashMap::new(), "while logged in");
    println!("{count} refreshes: {bytes} bytes on disk, {} pieces looked for", pieces.len());
    assert!(bytes < 12 * 1024 * 1024, "{bytes}");
    let user = session.current_user().unwrap().unwrap();
    user.log_out().unwrap();
    assert_eq!(look(dir.path(), &pieces).0, HashMap::new(), "after the log-out");
    session.remove_user(&user).unwrap();
    assert_eq!(look(dir.path(), &pieces).0, HashMap::new(), "after the removal");
}

#[test]
fn encrypting_leaves_no_plaintext() {
    let (dir, script, mut pieces) = (Dir::new(), Script::new(), Pieces::new());
    let session = open(&script, dir.path(), None);
    live(&script, &session, 30, &mut pieces);
    assert_ne!(look(dir.path(), &pieces).0, HashMap::new(), "what is looked for is there");
    add(&mut pieces, &KEY);
    let builder = Session::builder(APP, URL).data_dir(dir.path());
    assert!(builder.encryption(EncryptionKey::from_bytes(KEY)).encrypt_store().unwrap());
    assert_eq!(look(dir.path(), &pieces).0, HashMap::new(), "encrypted");
    // The session without the key adds nothing.
    session.log_in(&Credentials::anonymous()).unwrap_err();
    session.shut_down();
    assert_eq!(look(dir.path(), &pieces).0, HashMap::new(), "after the plaintext session");
    let session = open(&script, dir.path(), Some(EncryptionKey::from_bytes(KEY)));
    assert!(session.current_user().unwrap().is_some());
}

#[test]
fn log_out_leaves_no_plaintext_token() {
    for removes in [false, true] {
        let (dir, script, mut pieces) = (Dir::new(), Script::new(), Pieces::new());
        let session = open(&script, dir.path(), None);
        live(&script, &session, 30, &mut pieces);
        assert_ne!(look(dir.path(), &pieces).0, HashMap::new(), "what is looked for is there");
        // A password is never written.
        let mut password = Pieces::new();
        add(&mut password, PASSWORD.as_bytes());
        assert_eq!(look(dir.path(), &password).0, HashMap::new());
        let user = session.current_user().unwrap().unwrap();
        if removes {
            session.remove_user(&user).unwrap();
            add(&mut pieces, br#""email":"ada@example.org""#);
        } else {
            user.log_out().unwrap();
        }
        assert_eq!(look(dir.path(), &pieces).0, HashMap::new(), "removed: {removes}");
    }
}
