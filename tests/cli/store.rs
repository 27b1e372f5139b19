//! What is on disk, where, and who can read it.

use std::fs;
use std::path::Path;
use std::thread;

use serde_json::json;

use crate::command::{APP_ID, Backend, Dir, EMAIL, PASSWORD, Place, finish, keyfob};

#[test]
fn secrets_come_from_stdin_and_are_hidden() {
    let mut backend = Backend::start(&[]);
    let at = backend.place("secrets-store");
    let mut shown = String::new();
    let mut run = |code: i32, input: &str, arguments: &[&str]| {
        for format in [&[][..], &["--json"]] {
            let run = at.run_with(input, &[format, arguments].concat());
            assert!(run.code == code || code < 0, "{arguments:?}: {run:?}");
            shown.push_str(&run.stdout);
            shown.push_str(&run.stderr);
        }
    };
    run(-1, PASSWORD, &["register", "--email", EMAIL]);
    run(0, &format!("{PASSWORD}\n"), &["login", "--email", EMAIL]);
    run(1, &format!("{PASSWORD}\n\n"), &["login", "--email", EMAIL]);
    run(1, PASSWORD, &["register", "--email", EMAIL]);
    run(2, "", &["login", "--email", EMAIL, PASSWORD]);
    run(2, "", &["login", "--email", EMAIL, "--password", PASSWORD]);
    run(2, "", &["login", "--email", EMAIL, &format!("--password={PASSWORD}")]);
    run(2, "", &["register", "--email", EMAIL, PASSWORD]);
    let long = PASSWORD.repeat(10_000);
    run(2, &long, &["login", "--email", EMAIL]);
    let token = at.json(&["token"])["access_token"].as_str().unwrap().to_owned();
    for command in [&["whoami"][..], &["users"], &["call", "whoami"]] {
        run(0, "", command);
    }
    backend.kill();
    run(4, PASSWORD, &["login", "--email", EMAIL]);
    run(4, PASSWORD, &["register", "--email", EMAIL]);
    run(4, "", &["call", "whoami"]);
    assert!(!shown.contains(PASSWORD), "{shown}");
    assert!(!shown.contains(&token), "{shown}");
    assert!(!shown.contains("eyJ"), "the beginning of every token: {shown}");
}

#[cfg(unix)]
#[test]
fn store_is_private_to_owner() {
    use std::os::unix::fs::PermissionsExt;

    fn check(path: &Path, seen: &mut usize) {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}: {mode:o}", path.display());
        *seen += 1;
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                check(&entry.unwrap().path(), seen);
            }
        }
    }

    let backend = Backend::start(&[]);
    let at = backend.place("modes-store");
    // Made by the command, with all its parents.
    let at = Place { store: at.store.join("a/b"), ..at };
    at.json(&["login", "--anonymous"]);
    at.json(&["call", "sum"]);
    let mut seen = 0;
    check(&at.store, &mut seen);
    assert!(seen > 4, "{seen}");
}

#[test]
fn files_contain_no_readable_user_data() {
    fn holds(path: &Path, text: &str) -> bool {
        if path.is_dir() {
            return fs::read_dir(path).unwrap().any(|entry| holds(&entry.unwrap().path(), text));
        }
        fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    }

    let backend = Backend::start(&[]);
    let at = backend.place("left-over-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let token = at.json(&["token"])["access_token"].as_str().unwrap().to_owned();
    let signature = token.rsplit('.').next().unwrap();
    let id = at.json(&["whoami"])["user_id"].as_str().unwrap().to_owned();
    assert!(holds(&at.store, &id), "not where it is looked for");
    for _ in 0..2 {
        for secret in [signature, "eyJ", EMAIL, PASSWORD] {
            assert!(!holds(&at.store, secret), "{secret}");
        }
        at.json(&["logout", &id]);
    }
}

/// Neither a directory nor a key, and nothing in the user's own directories.
#[test]
fn command_that_only_reads_creates_nothing() {
    let backend = Backend::start(&[]);
    let dir = Dir::new("reading-home");
    for (code, words) in [
        (3, &["whoami"][..]),
        (0, &["users"]),
        (3, &["profile"]),
        (3, &["custom-data", "--refresh"]),
        (3, &["token"]),
        (3, &["call", "sum"]),
        (3, &["api-keys", "list"]),
        (3, &["switch", "nobody"]),
        (3, &["logout"]),
        (3, &["remove", "nobody"]),
        (3, &["delete", "--yes"]),
    ] {
        let here = ["--app-id", APP_ID, "--base-url", &backend.base_url];
        let mut command = keyfob(&[&here[..], words].concat());
        command.env("HOME", &dir.0).env("XDG_DATA_HOME", dir.0.join("data"));
        command.env("LOCALAPPDATA", &dir.0);
        let run = finish(command, "");
        assert_eq!(run.code, code, "{words:?}: {run:?}");
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0, "{words:?}");
    }
}

/// With a user name that is not ASCII in it.
#[cfg(any(target_os = "linux", windows))]
#[test]
fn default_store_is_platform_directory() {
    let backend = Backend::start(&[]);
    let dir = Dir::new("platform-home");
    let here = ["--app-id", APP_ID, "--base-url", &backend.base_url, "login", "--anonymous"];
    let mut command = keyfob(&here);
    let variable = if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_DATA_HOME" };
    command.env(variable, dir.0.join("Zoë 日本"));
    let run = finish(command, "");
    assert_eq!(run.code, 0, "{run:?}");
    let names = fs::read_dir(dir.0.join("Zoë 日本/keyfob")).unwrap();
    let names: Vec<_> =
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name == "key"), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with(APP_ID)), "{names:?}");
}

#[test]
fn environment_supplies_missing_options() {
    let backend = Backend::start(&[]);
    let dir = Dir::new("environment-store");
    let mut command = keyfob(&["--json", "login", "--anonymous"]);
    command.env("KEYFOB_APP_ID", APP_ID).env("KEYFOB_BASE_URL", &backend.base_url);
    command.env("KEYFOB_STORE", &dir.0);
    let user = finish(command, "").json();
    let mut command = keyfob(&["--json", "--app-id", APP_ID, "whoami"]);
    command.env("KEYFOB_APP_ID", "an-option-wins").env("KEYFOB_BASE_URL", &backend.base_url);
    command.env("KEYFOB_STORE", &dir.0);
    assert_eq!(finish(command, "").json()["user_id"], user["user_id"]);
}

#[test]
fn arguments_and_passwords_may_be_unicode() {
    let backend = Backend::start(&[]);
    let at = backend.place("unicode-store");
    let at = Place { store: at.store.join("Ωmega 🗝"), ..at };
    let (email, password) = ("zoë@例え.org", "пароль-密码");
    at.json_with(password, &["register", "--email", email]);
    at.json_with(password, &["login", "--email", email]);
    assert_eq!(at.json(&["profile"])["email"], email);
    assert_eq!(at.json(&["call", "echo", "日本 🗝"]), "日本 🗝");
    assert!(at.store.is_dir());
    assert_eq!(at.refused_with(1, "другой", &["login", "--email", email])["status"], 401);
}

#[test]
fn concurrent_processes_share_store_without_loss() {
    let backend = Backend::start(&[]);
    let at = backend.place("many-store");
    let ids: Vec<_> = thread::scope(|scope| {
        let log_in = || at.json(&["login", "--anonymous", "--new"])["user_id"].clone();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(log_in)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let users = at.json(&["users"]);
    let users = users.as_array().unwrap();
    assert_eq!(users.len(), ids.len());
    for id in &ids {
        assert!(users.iter().any(|user| user["user_id"] == *id), "{id}");
    }
    assert_eq!(users.iter().filter(|user| user["current"] == true).count(), 1);
}

#[test]
fn encrypt_needs_unencrypted_store() {
    let backend = Backend::start(&[]);
    let at = backend.place("encrypted-store");
    let nothing = "there is no unencrypted store; nothing was changed\n";
    assert_eq!(at.run(&["encrypt"]).stdout, nothing);
    assert!(!at.store.exists() || fs::read_dir(&at.store).unwrap().next().is_none());
    at.json(&["login", "--anonymous"]);
    assert_eq!(at.run(&["encrypt"]).stdout, nothing);
    assert_eq!(at.json(&["encrypt"]), json!({"encrypted": false}));
    fs::rename(at.store.join("key"), at.store.join("elsewhere")).unwrap();
    let error = at.refused(5, &["encrypt"]);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("the file with its key is missing"), "{message}");
    assert!(message.contains("away and log in again"), "{message}");
    assert!(message.contains("set KEYFOB_STORE_KEY_FILE"), "{message}");
    assert!(!at.store.join("key").exists());
    let mut command = at.command(&["encrypt"]);
    command.env("KEYFOB_STORE_KEY_FILE", at.store.join("elsewhere"));
    assert_eq!(finish(command, "").stdout, nothing);
    at.refused(2, &["encrypt", "hunter22"]);
    at.refused(2, &["--store", "redis://127.0.0.1:1", "encrypt"]);
}
