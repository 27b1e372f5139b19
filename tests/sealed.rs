//! What a session does with a store that is sealed.

#![cfg(feature = "encryption")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::time::Duration;

use keyfob::{EncryptionKey, Session, TransportErrorKind};
use serde_json::Value;
use support::*;

fn open(script: &Script, dir: &Path, key: Option<EncryptionKey>) -> keyfob::Result<Session> {
    let builder = Session::builder(APP, URL).transport(script.clone()).data_dir(dir);
    let builder = builder.clock(ManualClock::at(START)).deadline(Duration::from_secs(30));
    match key {
        Some(key) => builder.encryption(key).open(),
        None => builder.open(),
    }
}

fn key(byte: u8) -> Option<EncryptionKey> {
    Some(EncryptionKey::from_bytes([byte; 32]))
}

fn script() -> Script {
    let script = Script::new();
    script.lets_in("ada", &access("a1"), &refresh("r1"));
    script.reply(LOGOUT, 204, Value::Null);
    script
}

#[test]
fn a_logout_that_could_not_be_told_is_told_later_from_a_sealed_store() {
    let (dir, script) = (Dir::new(), script());
    let session = open(&script, dir.path(), key(7)).unwrap();
    let user = session.log_in(&password()).unwrap();
    script.fail(LOGOUT, TransportErrorKind::Connect);
    user.log_out().unwrap();
    script.lets_in("ada", &access("a2"), &refresh("r2"));
    script.reply(LOGOUT, 204, Value::Null);
    script.clear();
    let session = open(&script, dir.path(), key(7)).unwrap();
    session.log_in(&password()).unwrap();
    assert_eq!(script.sent().last().unwrap().bearer, Some(refresh("r1")));
    assert_eq!(script.count(LOGOUT), 1);
}
