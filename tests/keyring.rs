//! The encryption key in the keyring of the operating system.
//!
//! With `-- --ignored`, the test starts a real keyring. Linux only.

#![cfg(all(feature = "keyring", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod store_support;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use keyfob::store::{OnDamage, SledStore};
use keyfob::{Deadline, EncryptionKey};
use store_support::*;

fn open(dir: &Path, account: &str, patience: Duration) -> Result<SledStore, keyfob::StoreError> {
    let key = EncryptionKey::keyring("keyfob test", account);
    SledStore::open_encrypted(dir, APP, &key, OnDamage::Refuse, Deadline::after(patience))
}

/// Not a test of its own: what the tests below start, with a bus of their own.
#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let dir = Path::new(&words[1]);
    match &*words[0] {
        "try" => {
            let began = Instant::now();
            let error = open(dir, "ada", Duration::from_millis(500)).unwrap_err();
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
            assert!(!dir.join("generation").exists(), "something was written");
            say(format_args!("{:?}: {error}", error.kind));
        }
        "use" => {
            let patience = Duration::from_secs(20);
            log_in(&open(dir, "ada", patience).unwrap(), "ada");
            let again = open(dir, "ada", patience).unwrap();
            assert_eq!(names(&again), ["ada"]);
            assert_eq!(files_with(dir, "s3cret"), NOWHERE);
            // The entry is the key: no other one opens it, and none is made for an encrypted store.
            let error = open(dir, "eve", patience).unwrap_err();
            say(format_args!("{:?}: {error}", error.kind));
        }
        "race" => {
            let store = open(dir, "joe", Duration::from_secs(60)).unwrap();
            log_in(&store, &words[2]);
            say("done");
        }
        other => panic!("{other}"),
    }
}

/// This test binary as a child that runs [`child_process`] with these words.
fn child(words: &[&str], bus: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["child_process", "--exact", "--nocapture", "--test-threads=1"]);
    child.env("KEYFOB_CHILD", words.join("\n")).env("DBUS_SESSION_BUS_ADDRESS", bus);
    child
}

/// What the child said.
fn said(mut child: Command) -> String {
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().filter_map(|line| line.split_once('>'));
    lines.map(|(_, said)| said).collect::<Vec<_>>().join("\n")
}

#[test]
fn missing_keyring_is_error() {
    let dir = Dir::new();
    let data = dir.data();
    let said = said(child(&["try", data.to_str().unwrap()], "unix:path=/nowhere/at/all"));
    assert!(
        said.starts_with("Key: the store cannot be used: the keyring of the system cannot be used"),
        "{said}"
    );
    assert!(said.contains("keep the key in a file"), "{said}");
}

#[test]
fn unresponsive_keyring_ends_at_deadline() {
    let dir = Dir::new();
    let socket = dir.path().join("bus");
    // It accepts every connection and never responds.
    let _silent = UnixListener::bind(&socket).unwrap();
    let bus = format!("unix:path={}", socket.display());
    let said = said(child(&["try", dir.data().to_str().unwrap()], &bus));
    assert!(
        said.starts_with(
            "Key: the store cannot be used: the keyring of the system did not respond"
        ),
        "{said}"
    );
}

#[test]
#[ignore = "needs `dbus-run-session` and `gnome-keyring-daemon`"]
fn real_keyring_stores_key() {
    let dir = Dir::new();
    let data = dir.data();
    // A bus and a keyring of their own, which end with the script.
    let in_session = |child: &Command| {
        let mut session = Command::new("dbus-run-session");
        let script = "printf \"$PASSWORD\" | gnome-keyring-daemon $HOW --components=secrets \
                      >/dev/null && for each in $NAMES; do \
                      KEYFOB_CHILD=\"$KEYFOB_CHILD\n$each\" \"$@\" & done; wait";
        session.args(["--", "sh", "-ec", script, "sh"]);
        session.arg(child.get_program()).args(child.get_args());
        session.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
        session.env("HOME", dir.path()).env("XDG_DATA_HOME", dir.path().join("keyrings"));
        session.env("HOW", "--unlock").env("PASSWORD", "pass");
        session.env("XDG_RUNTIME_DIR", dir.path()).env_remove("DBUS_SESSION_BUS_ADDRESS");
        session
    };
    let words = ["use", data.to_str().unwrap()];
    let mut alone = in_session(&child(&words, ""));
    alone.env("NAMES", "alone");
    let heard = said(alone);
    assert!(
        heard.starts_with(
            "Key: the store cannot be used: the store is encrypted and its key is missing"
        ),
        "{heard}"
    );
    assert!(heard.contains("service \"keyfob test\", account \"eve\""), "{heard}");

    // Several that begin together agree on one key, and it outlives the keyring's own end.
    let shared = dir.path().join("shared");
    let words = ["race", shared.to_str().unwrap()];
    for names in ["one two three four", "five"] {
        let mut together = in_session(&child(&words, ""));
        together.env("NAMES", names);
        let heard = said(together);
        assert_eq!(heard.lines().count(), names.split(' ').count(), "{heard}");
    }

    // One that is locked, with nobody there to unlock it.
    let untouched = dir.path().join("untouched");
    let mut locked = in_session(&child(&["try", untouched.to_str().unwrap()], ""));
    locked.env("HOW", "--start").env("NAMES", "alone");
    let heard = said(locked);
    assert!(
        heard.starts_with("Key: the store cannot be used: the keyring of the system"),
        "{heard}"
    );
}
