//! The configuration for a sync engine.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use keyfob::ejson::{Binary, ObjectId};
use keyfob::{Error, LocalState, Session};
use serde_json::{Value, json};
use support::*;

fn on_disk() -> (Dir, Script, Session, keyfob::User) {
    let (dir, script, clock) = (Dir::new(), Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script.reply(LOGOUT, 204, Value::Null);
    let session = Session::builder(APP, URL)
        .transport(script.clone())
        .clock(clock)
        .data_dir(dir.path())
        .open()
        .unwrap();
    let user = session.log_in(&password()).unwrap();
    (dir, script, session, user)
}

#[test]
fn each_partition_has_its_own_file() {
    let (dir, _, _, user) = on_disk();
    let flexible = user.sync_flexible().unwrap();
    assert!(flexible.is_flexible() && flexible.partition().is_none());
    assert!(flexible.path().starts_with(dir.path()));
    assert!(flexible.path().ends_with("realms/ada/flx_sync_default.realm"));
    let name = |value: keyfob::Result<keyfob::SyncConfiguration>| {
        let config = value.unwrap();
        let name = config.path().file_name().unwrap().to_str().unwrap().to_owned();
        (name, config.partition().unwrap().to_owned())
    };
    let named = |name: &str, value: Value| (name.to_owned(), value.to_string());
    assert_eq!(name(user.sync_partition("a/b")), named("s_a%2Fb.realm", json!("a/b")));
    assert_eq!(name(user.sync_partition(7)), named("i_7.realm", json!({"$numberInt": "7"})));
    assert_eq!(name(user.sync_partition(())), named("null.realm", json!(null)));
    let id = ObjectId::new([0xab; 12]);
    assert_eq!(
        name(user.sync_partition(id)),
        named("o_abababababababababababab.realm", json!({"$oid": id.to_string()}))
    );
    let uuid = Binary { subtype: 4, bytes: vec![0; 16] };
    let (file, _) = name(user.sync_partition(uuid));
    assert_eq!(file, "u_00000000-0000-0000-0000-000000000000.realm");
    assert!(matches!(user.sync_partition(1.5).unwrap_err(), Error::Config { .. }));
    assert!(matches!(user.sync_partition([1]).unwrap_err(), Error::Config { .. }));
}

#[test]
fn websocket_url_comes_from_location() {
    for (location, expected) in [
        (
            json!({"hostname": "http://localhost:1", "ws_hostname": "ws://localhost:2"}),
            "ws://localhost:2",
        ),
        (json!({"hostname": "http://localhost:1"}), "ws://localhost:1"),
        (json!({}), "ws://127.0.0.1:9"),
    ] {
        let (script, clock) = (Script::new(), ManualClock::at(START));
        let dir = Dir::new();
        script.reply(LOCATION, 200, location).accept_login("ada", &access("a1"), &refresh("r1"));
        let open = || {
            let builder = Session::builder(APP, URL).transport(script.clone());
            builder.clock(clock.clone()).data_dir(dir.path()).open().unwrap()
        };
        let user = open().log_in(&password()).unwrap();
        let expected = format!("{expected}/api/client/v2.0/app/{APP}/realm-sync");
        assert_eq!(user.sync_flexible().unwrap().websocket_url().unwrap(), expected);
        // Another session knows it from the store.
        script.clear();
        let user = open().current_user().unwrap().unwrap();
        assert_eq!(user.sync_flexible().unwrap().websocket_url().unwrap(), expected);
        assert_eq!(
            user.sync_flexible().unwrap().valid_access_token().unwrap().expose(),
            access("a1")
        );
    }
}

#[test]
fn logged_out_user_can_open_realm() {
    let (_dir, _, session, user) = on_disk();
    let before = user.sync_flexible().unwrap();
    user.log_out().unwrap();
    assert_eq!(user.sync_flexible().unwrap().path(), before.path());
    assert!(before.valid_access_token().unwrap_err().needs_login());
    assert_eq!(session.unused_sync_dirs().unwrap(), Vec::<std::path::PathBuf>::new());
    session.remove_user(&user).unwrap();
    let error = user.sync_flexible().unwrap_err();
    assert!(matches!(error, Error::LocalState(LocalState::UnknownUser(_))), "{error}");
    assert!(before.valid_access_token().is_err());
    assert_eq!(session.unused_sync_dirs().unwrap(), [before.path().parent().unwrap()]);
}

#[test]
fn session_without_files_is_error() {
    let (_, _, _, user) = logged_in();
    assert!(matches!(user.sync_flexible().unwrap_err(), Error::Config { .. }));
}
