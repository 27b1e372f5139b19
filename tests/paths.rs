//! Data directories with names that are special on some system.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};

use keyfob::{Session, UserState};
use serde_json::Value;
use support::*;

/// Directories below one: a person's name that is not ASCII, blanks, and a path of more than the 260
/// characters that Windows allows without a prefix.
fn unusual(dir: &Path) -> Vec<PathBuf> {
    let deep = (0..6).fold(dir.to_owned(), |path, _| path.join("d".repeat(60)));
    vec![dir.join("Zoë Ωmega 日本 🗝"), dir.join("Program Files (x86)"), dir.join("%TEMP%"), deep]
}

/// Logs in, opens the store again, and logs out, which replaces the database.
fn use_it(data: &Path) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(LOGOUT, 204, Value::Null);
    let open = || {
        let builder = Session::builder(APP, URL).transport(script.clone()).clock(clock.clone());
        builder.data_dir(data).open().unwrap()
    };
    open().log_in(&password()).unwrap();
    let user = open().current_user().unwrap().unwrap();
    let realm = user.sync_flexible().unwrap();
    std::fs::write(realm.path(), "realm").unwrap();
    user.log_out().unwrap();
    assert_eq!(open().users().unwrap()[0].state().unwrap(), UserState::LoggedOut);
}

#[test]
fn store_works_in_unusual_directories() {
    let dir = Dir::new();
    for data in unusual(dir.path()) {
        use_it(&data);
        assert!(data.is_dir(), "{data:?}");
    }
}

#[cfg(feature = "server")]
#[test]
fn server_works_in_unusual_directories() {
    use keyfob::Credentials;
    use keyfob::server::Server;
    use keyfob::store::MemoryStore;

    let dir = Dir::new();
    for data in unusual(dir.path()) {
        let start = || Server::builder().data_dir(&data).start().unwrap();
        let session = |server: &Server| {
            let session = Session::builder(server.app_id(), server.base_url());
            session.store(MemoryStore::new()).open().unwrap()
        };
        let server = start();
        let before = session(&server);
        before.email_password().register("ada@example.org", "pass-word").unwrap();
        drop(server);
        let server = start();
        let ada = Credentials::email_password("ada@example.org", "pass-word");
        session(&server).log_in(&ada).unwrap();
    }
}
