//! Users that are named by e-mail address or by the beginning of the id, and keys from the
//! environment.

use serde_json::{Value, json};

use crate::command::{APP_ID, Backend, Dir, EMAIL, PASSWORD, Place, assert_error, finish, keyfob};

const EVE: &str = "eve@example.org";

fn log_in(at: &Place, email: &str) -> String {
    at.json_with(PASSWORD, &["register", "--email", email]);
    let user = at.json_with(PASSWORD, &["login", "--email", email]);
    user["user_id"].as_str().unwrap().to_owned()
}

#[test]
fn users_are_named_by_address_or_prefix() {
    let backend = Backend::start(&[]);
    let at = backend.place("people-store");
    let (ada, eve) = (log_in(&at, EMAIL), log_in(&at, EVE));
    assert_eq!(at.json(&["switch", "Ada@Example.org"])["user_id"], ada);
    let common = ada.bytes().zip(eve.bytes()).take_while(|(a, b)| a == b).count();
    assert_eq!(at.json(&["switch", &eve[..=common]])["user_id"], eve);
    assert_eq!(at.json(&["logout", EMAIL]), json!({"user_id": ada, "current": eve}));
    assert_eq!(at.json(&["remove", EMAIL]), json!({"user_id": ada, "current": eve}));
    assert_eq!(at.json(&["delete", EVE, "--yes"]), json!({"user_id": eve, "current": null}));
}

#[test]
fn ambiguous_name_lists_candidates() {
    let backend = Backend::start(&[]);
    let at = backend.place("ambiguous-store");
    // One of 16 digits begins two of 17 ids.
    let mut ids = Vec::new();
    for _ in 0..17 {
        let user = at.json(&["login", "--anonymous", "--new"]);
        ids.push(user["user_id"].as_str().unwrap().to_owned());
    }
    let is_shared = |id: &&String| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1;
    let digit = &ids.iter().find(is_shared).unwrap()[..1];
    for command in [&["switch", digit][..], &["logout", digit], &["delete", digit, "--yes"]] {
        let error = at.refused(3, command);
        assert_error(&error, "local_state", Value::Null, Value::Null);
        let message = error["message"].as_str().unwrap();
        for id in ids.iter().filter(|id| id.starts_with(digit)) {
            assert!(message.contains(id), "{message}");
        }
    }
    let error = at.refused(3, &["switch", "hunter22"]);
    assert!(!error["message"].as_str().unwrap().contains("hunter22"), "{error}");
    assert_eq!(at.json(&["users"]).as_array().unwrap().len(), 17);
}

#[test]
fn api_key_acts_and_stores_nothing() {
    let backend = Backend::start(&[]);
    let at = backend.place("key-owner-store");
    let ada = log_in(&at, EMAIL);
    let key = at.json(&["api-keys", "create", "ci"])["key"].as_str().unwrap().to_owned();
    let eve = log_in(&at, EVE);

    let home = Dir::new("key-home");
    let run = |key: &str, arguments: &[&str]| {
        let mut command = keyfob(&[&["--json"], arguments].concat());
        command.env("KEYFOB_APP_ID", APP_ID).env("KEYFOB_BASE_URL", &backend.base_url);
        command.env("KEYFOB_API_KEY", key).env("HOME", &home.0).env("LOCALAPPDATA", &home.0);
        command.env("XDG_DATA_HOME", home.0.join("data"));
        finish(command, "")
    };
    assert_eq!(run(&key, &["whoami"]).json()["user_id"], ada);
    assert_eq!(run(&format!(" {key}\n"), &["call", "whoami"]).json()["user_id"], ada);
    assert_eq!(run(&key, &["profile"]).json(), json!({"email": EMAIL}));
    assert_eq!(run(&key, &["custom-data"]).json(), Value::Null);
    assert_eq!(run(&key, &["api-keys", "list"]).json().as_array().unwrap().len(), 1);
    assert!(run(&key, &["token"]).json()["access_token"].is_string());
    let wrong = run("no-such-key", &["token"]);
    assert_eq!(wrong.code, 1);
    assert!(!wrong.stderr.contains("no-such-key"), "{wrong:?}");
    for command in [
        &["users"][..],
        &["switch", EMAIL],
        &["logout"],
        &["remove"],
        &["delete", "--yes"],
        &["login", "--anonymous"],
        &["link", "--api-key"],
        &["watch"],
        &["recover"],
        &["encrypt"],
        &["--store", "x", "token"],
    ] {
        let refused = run(&key, command);
        assert_eq!((refused.code, &*refused.stdout), (2, ""), "{command:?}: {refused:?}");
        let message = refused.error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("KEYFOB_API_KEY"), "{message}");
        assert!(!message.contains(&key), "{message}");
    }
    assert_eq!(std::fs::read_dir(&home.0).unwrap().count(), 0);
    assert_eq!(run(" ", &["token"]).code, 2);

    // An empty variable counts as not set, and the store says who is the current user.
    let mut command = at.command(&["--json", "whoami"]);
    command.env("KEYFOB_API_KEY", "");
    assert_eq!(finish(command, "").json()["user_id"], eve);
}
