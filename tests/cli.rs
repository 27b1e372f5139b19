//! The `keyfob` command from outside: what it prints where, its exit codes, and several processes
//! on one store. The backend is another process of the same program.

#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyfob::server::Server;
use keyfob::{Clock, SystemClock};
use serde_json::{Value, json};

const APP_ID: &str = "test-app";
const EMAIL: &str = "ada@example.org";
const PASSWORD: &str = "hunter22-is-secret";

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_demo_holds_and_leaves_nothing_behind() {
    let dir = Dir::new("demo");
    let demo = |arguments: &[&str]| {
        let mut command = keyfob(arguments);
        // Where a program finds the directory for temporary files differs.
        for variable in ["TMPDIR", "TMP", "TEMP"] {
            command.env(variable, &dir.0);
        }
        finish(command, "")
    };
    let told = demo(&["demo"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(told.stderr, "");
    assert!(told.stdout.starts_with(" 1. "), "{told:?}");
    assert_eq!(told.stdout.lines().last(), Some("    Every step held."));
    assert!(told.stdout.contains("InvalidPassword"), "{told:?}");
    assert!(!told.stdout.contains("battery"), "{told:?}");

    let told = demo(&["--json", "demo"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.json()["steps"].as_array().unwrap().len() >= 10, "{told:?}");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn every_command_gives_its_json() {
    let backend = Backend::start(&["--access-ttl", "600"]);
    let at = backend.place("json-store");

    assert_eq!(at.json_with(PASSWORD, &["register", "--email", EMAIL]), json!({}));
    let ada = at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let ada_id = ada["user_id"].as_str().unwrap().to_owned();
    assert_eq!(ada, json!({"user_id": ada_id, "provider": "local-userpass"}));

    let who = at.json(&["whoami"]);
    let identity = who["identities"][0]["id"].as_str().unwrap();
    assert_eq!(
        who,
        json!({
            "user_id": ada_id,
            "state": "logged-in",
            "identities": [{"id": identity, "provider": "local-userpass"}],
            "profile": {"email": EMAIL},
            "custom_data": null,
        })
    );

    let token = at.json(&["token"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let left = token["expires_at"].as_u64().unwrap().checked_sub(now).unwrap();
    assert!((500..=600).contains(&left), "{left}");
    assert_eq!(token["access_token"].as_str().unwrap().split('.').count(), 3);
    assert_eq!(token.as_object().unwrap().len(), 2);

    let guest = at.json(&["login", "--anonymous"]);
    let guest_id = guest["user_id"].as_str().unwrap().to_owned();
    assert_eq!(guest, json!({"user_id": guest_id, "provider": "anon-user"}));
    assert_eq!(at.json(&["login", "--anonymous"]), guest, "an anonymous user is used again");
    let other = at.json(&["login", "--anonymous", "--new"]);
    let other_id = other["user_id"].as_str().unwrap().to_owned();
    assert_ne!(other_id, guest_id);

    let listed = |current: usize, users: &[(&str, &str)]| -> Value {
        let users = users.iter().enumerate();
        users
            .map(|(at, (id, state))| json!({"user_id": id, "state": state, "current": at == current}))
            .collect()
    };
    let (ada_in, guest_in) = ((&*ada_id, "logged-in"), (&*guest_id, "logged-in"));
    assert_eq!(at.json(&["users"]), listed(2, &[ada_in, guest_in, (&other_id, "logged-in")]));
    assert_eq!(at.json(&["switch", &ada_id]), json!({"user_id": ada_id}));
    assert_eq!(at.json(&["remove", &other_id]), json!({"user_id": other_id}));
    assert_eq!(at.json(&["users"]), listed(0, &[ada_in, guest_in]));
    assert_eq!(at.json(&["logout"]), json!({"user_id": ada_id}));
    assert_eq!(at.json(&["users"]), listed(1, &[(&ada_id, "logged-out"), guest_in]));
    assert_eq!(at.json(&["logout", &ada_id]), json!({"user_id": ada_id}), "again: nothing to do");
    assert_eq!(at.json(&["logout", &guest_id]), json!({"user_id": guest_id}));
    assert_eq!(at.json(&["users"]), listed(9, &[(&ada_id, "logged-out")]));
    assert_eq!(at.json(&["remove", &ada_id]), json!({"user_id": ada_id}));
    assert_eq!(at.json(&["users"]), json!([]));
}

#[test]
fn accounts_are_linked_and_deleted_and_keys_log_in_until_they_are_disabled() {
    let backend = Backend::start(&[]);
    let at = backend.place("link-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    let guest = at.json(&["login", "--anonymous"])["user_id"].clone();
    let linked = at.json_with(PASSWORD, &["link", "--email", EMAIL]);
    assert_eq!(linked["user_id"], guest);
    let providers: Vec<_> = linked["identities"].as_array().unwrap().iter().collect();
    assert_eq!(providers.len(), 2);
    assert_eq!(providers[1]["provider"], "local-userpass");
    let error = at.refused_with(1, "wrong-password", &["link", "--email", EMAIL]);
    assert_error(&error, "server", json!(401), json!("InvalidPassword"));

    let key = at.json(&["api-keys", "create", "ci"]);
    let (id, secret) = (key["id"].as_str().unwrap(), key["key"].as_str().unwrap());
    assert_eq!((&key["name"], &key["enabled"]), (&json!("ci"), &json!(true)));
    let listed = json!({"id": id, "name": "ci", "enabled": true});
    assert_eq!(at.json(&["api-keys", "list"]), json!([listed]), "the secret is shown once");
    assert_eq!(at.json(&["api-keys", "get", id]), listed);
    assert_eq!(at.json_with(secret, &["login", "--api-key"])["user_id"], guest);
    assert_eq!(at.json(&["api-keys", "disable", id]), json!({}));
    let error = at.refused_with(1, secret, &["login", "--api-key"]);
    assert_error(&error, "server", json!(401), json!("AuthError"));
    assert_eq!(at.json(&["api-keys", "enable", id]), json!({}));
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    assert_eq!(at.json(&["api-keys", "delete", id]), json!({}));
    assert_eq!(at.json(&["api-keys", "get", id]), json!(null));

    assert_eq!(at.json(&["profile"]), json!({"email": EMAIL}));
    assert_eq!(at.json(&["profile", "--refresh"]), json!({"email": EMAIL}));
    assert_eq!(at.json(&["custom-data"]), json!(null));
    assert_eq!(at.json(&["custom-data", "--refresh"]), json!(null));

    let run = at.run(&["delete"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("--yes"), "{run:?}");
    assert_eq!(at.json(&["delete", "--yes"]), json!({"user_id": guest}));
    assert_eq!(at.json(&["users"]), json!([]));
    let error = at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    assert_error(&error, "server", json!(401), json!("InvalidPassword"));
}

#[test]
fn addresses_are_confirmed_and_passwords_reset_by_the_mails_that_serve_prints() {
    let mut backend = Backend::start(&["--mail"]);
    let at = backend.place("mail-store");
    let mut mail = |kind: &str| {
        let line: Value = serde_json::from_str(&backend.running.stdout.next()).unwrap();
        let mail = &line["mail"];
        assert_eq!((&mail["to"], &mail["kind"]), (&json!(EMAIL), &json!(kind)));
        let text = |key: &str| mail[key].as_str().unwrap().to_owned();
        (text("token"), text("token_id"))
    };
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    let (token, token_id) = mail("confirmation");
    let error = at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    assert_error(&error, "server", json!(401), json!("AuthError"));
    let error = at.refused(1, &["confirm", "--token", "wrong", "--token-id", &token_id]);
    assert_error(&error, "server", json!(400), error["code"].clone());
    assert_eq!(at.json(&["resend-confirmation", "--email", EMAIL]), json!({}));
    let newest = mail("confirmation");
    assert_ne!(newest.0, token);
    let confirm = ["confirm", "--token", &newest.0, "--token-id", &newest.1];
    assert_eq!(at.json(&confirm), json!({}));
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let error = at.refused(1, &["retry-confirmation", "--email", EMAIL]);
    assert_error(&error, "server", json!(400), error["code"].clone());

    assert_eq!(at.json(&["reset-password", "--email", EMAIL]), json!({}));
    let (token, token_id) = mail("password-reset");
    let reset = ["complete-reset", "--token", &token, "--token-id", &token_id];
    assert_eq!(at.json_with("another-password", &reset), json!({}));
    at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    at.json_with("another-password", &["login", "--email", EMAIL]);
    at.refused_with(1, PASSWORD, &["call-reset", "--email", EMAIL, "1"]);
}

#[test]
fn tokens_of_somebody_else_log_in_where_serve_is_told_whose() {
    let dir = Dir::new("jwt-secret");
    let (file, secret) = (dir.0.join("secret"), "0123456789abcdef0123456789abcdef");
    fs::write(&file, format!("{secret}\n")).unwrap();
    let backend = Backend::start(&["--jwt-secret-file", file.to_str().unwrap()]);
    let at = backend.place("jwt-store");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed = |audience: &str| {
        let claims = json!({"sub": "s-1", "aud": audience, "exp": now + 600});
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let user = at.json_with(&signed(APP_ID), &["login", "--jwt"]);
    assert_eq!(user["provider"], "custom-token");
    assert_eq!(at.json_with(&signed(APP_ID), &["login", "--jwt"]), user);
    let error = at.refused_with(1, &signed("another-app"), &["login", "--jwt"]);
    assert_error(&error, "server", json!(401), json!("AuthError"));
    for how in ["--google-id-token", "--google-auth-code", "--apple", "--facebook"] {
        at.refused_with(1, "x", &["login", how]);
    }
    at.refused(1, &["login", "--function", "{\"id\":1}"]);
}

#[test]
fn without_json_results_are_words_on_standard_output() {
    let backend = Backend::start(&[]);
    let at = backend.place("words-store");
    let words = |input: &str, arguments: &[&str]| {
        let run = at.run_with(input, arguments);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
        run.stdout
    };
    assert_eq!(words(PASSWORD, &["register", "--email", EMAIL]), "registered ada@example.org\n");
    let told = words(PASSWORD, &["login", "--email", EMAIL]);
    let id = told.strip_prefix("logged in as ").unwrap();
    let id = id.strip_suffix(" (local-userpass)\n").unwrap();
    let who = words("", &["whoami"]);
    assert!(who.starts_with(&format!("user      {id} (logged-in)\nidentity  local-userpass ")));
    assert!(who.ends_with("\nprofile   email: ada@example.org\n"), "{who}");
    assert_eq!(words("", &["users"]), format!("* {id} (logged-in)\n"));
    let token = words("", &["token"]);
    assert_eq!(token.trim_end(), at.json(&["token"])["access_token"], "the token alone");
    assert_eq!(words("", &["call", "sum", "1", "2"]), "{\"$numberInt\":\"3\"}\n");
    assert_eq!(words("", &["switch", id]), format!("{id} is current now\n"));
    assert_eq!(words("", &["logout"]), format!("{id} is logged out\n"));
    assert_eq!(words("", &["users"]), format!("  {id} (logged-out)\n"));
    assert_eq!(words("", &["remove", id]), format!("{id} is removed\n"));
    assert_eq!(words("", &["users"]), "");
}

#[test]
fn arguments_of_a_call_are_json_or_else_strings_and_its_result_is_what_was_sent() {
    let backend = Backend::start(&[]);
    let at = backend.place("call-store");
    at.json(&["login", "--anonymous"]);
    for (argument, result) in [
        ("7", r#"{"$numberInt":"7"}"#),
        ("-7", r#"{"$numberInt":"-7"}"#),
        ("5000000000", r#"{"$numberLong":"5000000000"}"#),
        ("0.5", r#"{"$numberDouble":"0.5"}"#),
        (r#"{"$oid":"507f1f77bcf86cd799439011"}"#, r#"{"$oid":"507f1f77bcf86cd799439011"}"#),
        ("ada", r#""ada""#),
        (r#""7""#, r#""7""#),
        ("[1", r#""[1""#),
        ("null", "null"),
    ] {
        let run = at.run(&["call", "echo", argument]);
        assert_eq!((run.code, run.stdout.trim_end()), (0, result), "{argument}: {run:?}");
        assert_eq!(at.run(&["--json", "call", "echo", argument]).stdout, run.stdout);
    }
    let verbatim = at.run(&["call", "echo", "--", "--json"]);
    assert_eq!(verbatim.stdout, "\"--json\"\n");
    let who = at.json(&["call", "whoami"]);
    assert_eq!(who["user_id"], at.json(&["whoami"])["user_id"]);
}

#[test]
fn what_the_backend_refuses_exits_with_1() {
    let backend = Backend::start(&[]);
    let at = backend.place("refused-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);

    let error = at.refused_with(1, "wrong password", &["login", "--email", EMAIL]);
    assert_error(&error, "server", json!(401), json!("InvalidPassword"));
    let error = at.refused_with(1, PASSWORD, &["register", "--email", EMAIL]);
    assert_error(&error, "server", json!(409), json!("AccountNameInUse"));
    at.json(&["login", "--anonymous"]);
    let error = at.refused(1, &["call", "no-such-function"]);
    assert_error(&error, "server", json!(404), json!("FunctionNotFound"));
    let error = at.refused(1, &["call", "sum", "one"]);
    assert_error(&error, "server", json!(400), json!("FunctionExecutionError"));

    let elsewhere = Place { app_id: "no-such-app".to_owned(), ..backend.place("refused-app") };
    let error = elsewhere.refused(1, &["login", "--anonymous"]);
    assert_error(&error, "server", json!(404), Value::Null);
    assert!(error["message"].as_str().unwrap().contains("no-such-app"), "{error}");

    let plain = at.run_with("wrong password", &["login", "--email", EMAIL]);
    assert_eq!((plain.code, &*plain.stdout), (1, ""));
    assert_eq!(
        plain.stderr,
        "keyfob: the backend refused to log in: unauthorized (status 401, InvalidPassword)\n"
    );
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_to_do() {
    let dir = Dir::new("usage");
    let usage = |arguments: &[&str]| {
        let run = finish(keyfob(arguments), "");
        assert_eq!((run.code, &*run.stdout), (2, ""), "{arguments:?}: {run:?}");
        run.stderr
    };
    assert!(usage(&[]).contains("keyfob --help"));
    assert!(usage(&["frobnicate"]).contains("frobnicate"));
    assert!(usage(&["login"]).contains("--anonymous"));
    assert!(usage(&["--timeout", "-1", "users"]).contains("--timeout"));
    let no_app = usage(&["users"]);
    assert!(no_app.contains("--app-id") && no_app.contains("KEYFOB_APP_ID"), "{no_app}");
    let no_url = usage(&["--app-id", APP_ID, "users"]);
    assert!(no_url.contains("--base-url") && no_url.contains("KEYFOB_BASE_URL"), "{no_url}");

    let at = Place::new("http://127.0.0.1:1", dir.0.clone());
    let error = at.refused_with(2, "", &["login", "--email", EMAIL]);
    assert_error(&error, "usage", Value::Null, Value::Null);
    let error = at.refused(2, &["users", "surplus"]);
    assert_error(&error, "usage", Value::Null, Value::Null);
    let elsewhere = Place::new("http://example.org", dir.0.clone());
    let error = elsewhere.refused(2, &["users"]);
    assert_error(&error, "config", Value::Null, Value::Null);
}

#[test]
fn being_nobody_exits_with_3() {
    let backend = Backend::start(&[]);
    let at = backend.place("nobody-store");
    for command in [&["whoami"][..], &["token"], &["call", "sum"], &["logout"], &["remove"]] {
        assert_error(&at.refused(3, command), "local_state", Value::Null, Value::Null);
    }
    for command in ["switch", "logout", "remove"] {
        assert_error(&at.refused(3, &[command, "nobody"]), "local_state", Value::Null, Value::Null);
    }
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    let ada = at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    at.json(&["logout"]);
    let error = at.refused(3, &["switch", ada["user_id"].as_str().unwrap()]);
    assert_error(&error, "local_state", Value::Null, Value::Null);
}

#[test]
fn an_expired_token_is_refreshed_and_an_ended_login_exits_with_3() {
    let clock = LateClock::default();
    let server =
        Server::builder().app_id(APP_ID).clock(clock.clone()).built_in_functions().start().unwrap();
    let dir = Dir::new("ended");
    let at = Place::new(server.base_url(), dir.0.clone());
    let user = at.json(&["login", "--anonymous"]);
    let first = at.json(&["token"]);

    clock.advance();
    assert_eq!(at.json(&["call", "sum", "1", "2"]), json!({"$numberInt": "3"}));
    let second = at.json(&["token"]);
    assert_ne!(first["access_token"], second["access_token"]);
    assert_eq!(server.count("POST", "/api/client/v2.0/auth/session"), 1);

    server.revoke_sessions(user["user_id"].as_str().unwrap()).unwrap();
    clock.advance();
    let error = at.refused(3, &["call", "sum", "1", "2"]);
    assert_error(&error, "login_ended", json!(401), json!("InvalidSession"));
    assert_error(&at.refused(3, &["whoami"]), "local_state", Value::Null, Value::Null);
    assert_eq!(at.json(&["users"])[0]["state"], "logged-out");
}

#[test]
fn no_network_exits_with_4_and_takes_nothing_away() {
    let mut backend = Backend::start(&[]);
    let at = backend.place("offline-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    let ada = at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let guest = at.json(&["login", "--anonymous"]);
    let (ada, guest) = (ada["user_id"].as_str().unwrap(), guest["user_id"].as_str().unwrap());
    let token = at.json(&["token"]);
    backend.kill();

    assert_eq!(at.json(&["token"]), token, "a fresh token needs no network");
    at.json(&["switch", ada]);
    assert_eq!(at.json(&["whoami"])["profile"], json!({"email": EMAIL}));
    assert_eq!(at.json(&["users"]).as_array().unwrap().len(), 2);
    let error = at.refused(4, &["call", "sum", "1", "2"]);
    assert_error(&error, "transport", Value::Null, Value::Null);
    assert!(error["message"].as_str().unwrap().contains(&at.base_url), "{error}");
    let error = at.refused_with(4, PASSWORD, &["login", "--email", EMAIL]);
    assert_error(&error, "transport", Value::Null, Value::Null);

    // The store is sealed, so the backend is told of it later.
    assert_eq!(at.json(&["logout"]), json!({"user_id": ada}));
    assert_eq!(at.json(&["whoami"])["user_id"], guest, "the log-out here stands");
    let error = at.refused(4, &["remove"]);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(guest) && message.contains("removed here"), "{message}");
    assert!(message.contains("backend could not be told"), "{message}");
    // With the record goes what was kept to tell the backend of the log-out.
    let error = at.refused(4, &["remove", ada]);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(ada) && message.contains("removed here"), "{message}");
    assert_eq!(at.json(&["users"]), json!([]));
}

#[test]
fn a_backend_that_does_not_answer_exits_with_4_in_time() {
    let dir = Dir::new("silent");
    // Connections are accepted by the machine, and nobody ever reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Place::new(&format!("http://{}", silent.local_addr().unwrap()), dir.0.clone());
    let error = at.refused(4, &["--timeout", "0.3", "login", "--anonymous"]);
    assert_error(&error, "transport", Value::Null, Value::Null);
}

#[test]
fn a_store_that_cannot_be_used_exits_with_5() {
    let dir = Dir::new("no-store");
    let file = dir.0.join("file");
    fs::write(&file, "not a directory").unwrap();
    let at = Place::new("http://127.0.0.1:1", file.clone());
    let error = at.refused(5, &["users"]);
    assert_error(&error, "store", Value::Null, Value::Null);
    assert!(error["message"].as_str().unwrap().contains("file"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
}

#[test]
fn secrets_are_read_from_standard_input_and_shown_nowhere() {
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
fn the_store_is_for_its_owner_alone() {
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
fn neither_tokens_nor_profiles_can_be_read_in_any_file() {
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

#[cfg(target_os = "linux")]
#[test]
fn without_a_store_option_the_platform_says_where() {
    let backend = Backend::start(&[]);
    let dir = Dir::new("platform-home");
    let here = ["--app-id", APP_ID, "--base-url", &backend.base_url, "login", "--anonymous"];
    let mut command = keyfob(&here);
    command.env("XDG_DATA_HOME", &dir.0);
    let run = finish(command, "");
    assert_eq!(run.code, 0, "{run:?}");
    let names = fs::read_dir(dir.0.join("keyfob")).unwrap();
    let names: Vec<_> =
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name == "key"), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with(APP_ID)), "{names:?}");
}

#[test]
fn the_environment_says_what_the_options_do_not() {
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
fn watch_tells_what_other_processes_do_and_ends_when_nobody_reads() {
    let backend = Backend::start(&[]);
    let at = backend.place("watch-store");
    let mut watch = Running::start(at.command(&["watch"]));
    let ready = watch.stderr.next();
    assert!(ready.contains("watching"), "{ready}");

    let user = at.json(&["login", "--anonymous"])["user_id"].clone();
    let event = |watch: &mut Running| serde_json::from_str::<Value>(&watch.stdout.next()).unwrap();
    let logged_in = json!({"event": "logged_in", "user": user, "provider": "anon-user"});
    let current = json!({"event": "current_user_changed", "from": null, "to": user});
    assert_eq!([event(&mut watch), event(&mut watch)], [logged_in, current]);
    at.json(&["remove"]);
    let removed = json!({"event": "removed", "user": user, "reason": "requested"});
    assert_eq!(event(&mut watch), removed);
    drop(watch);

    let (reader, writer) = io::pipe().unwrap();
    let mut command = at.command(&["watch"]);
    command.stdout(writer).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut ready = String::new();
    errors.read_line(&mut ready).unwrap();
    drop(reader);
    at.json(&["login", "--anonymous"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn many_processes_share_one_store_and_lose_nothing() {
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
fn serve_keeps_its_users_in_data_and_nowhere_else() {
    let data = Dir::new("serve-data");
    let options = ["--data", data.0.to_str().unwrap()];
    let mut backend = Backend::start(&options);
    let at = backend.place("served-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);

    let addr = backend.base_url.strip_prefix("http://").unwrap().to_owned();
    let taken = finish(keyfob(&["--json", "serve", "--addr", &addr]), "");
    assert_eq!((taken.code, &*taken.stdout), (1, ""), "{taken:?}");
    assert_eq!(taken.error()["kind"], "serve");
    let in_use = finish(keyfob(&[&["serve", "--addr", "127.0.0.1:0"], &options[..]].concat()), "");
    assert_eq!((in_use.code, &*in_use.stdout), (1, ""), "{in_use:?}");

    backend.kill();
    let again = Backend::start(&[&options[..], &["--addr", &addr]].concat());
    assert_eq!(again.base_url, at.base_url);
    // The token that the first backend gave is good with the second one.
    assert_eq!(at.json(&["call", "sum", "1", "2"]), json!({"$numberInt": "3"}));
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
}

#[test]
fn serve_says_where_it_is_for_people_too() {
    let dir = Dir::new("serve-words");
    let mut served = Running::start(keyfob(&["serve", "--addr", "127.0.0.1:0"]));
    let line = served.stdout.next();
    let url = line.strip_prefix("keyfob: serving app keyfob-local at ").unwrap();
    let at = Place { app_id: "keyfob-local".to_owned(), ..Place::new(url, dir.0.clone()) };
    at.json(&["login", "--anonymous"]);
}

#[test]
fn nobody_reading_is_no_panic() {
    let dir = Dir::new("closed");
    let at = Place::new("http://127.0.0.1:1", dir.0.clone());
    for arguments in [&["--json", "users"][..], &["--help"], &["--version"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = at.command(arguments);
        command.stdout(writer);
        let run = finish_started(command.stderr(Stdio::piped()).spawn().unwrap(), "");
        assert_eq!((run.code, &*run.stderr), (0, ""), "{arguments:?}: {run:?}");
    }
}

#[test]
fn help_and_version_are_results() {
    let help = finish(keyfob(&["--help"]), "");
    assert_eq!((help.code, &*help.stderr), (0, ""));
    for command in [
        "demo", "serve", "register", "login", "whoami", "users", "switch", "logout", "remove",
        "token", "call", "watch",
    ] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}");
        let help = finish(keyfob(&[command, "--help"]), "");
        assert_eq!((help.code, &*help.stderr), (0, ""));
        assert!(help.stdout.contains(&format!("Usage: keyfob [OPTION…] {command}")));
    }
    let version = finish(keyfob(&["--version"]), "");
    assert_eq!(version.stdout, concat!("keyfob ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// A directory for one test, empty at first and gone afterwards.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `keyfob serve` in a process of its own, killed when it is dropped.
struct Backend {
    running: Running,
    base_url: String,
    dirs: std::cell::RefCell<Vec<Dir>>,
}

impl Backend {
    fn start(options: &[&str]) -> Self {
        let serve = ["--json", "--app-id", APP_ID, "serve", "--addr", "127.0.0.1:0"];
        let mut running = Running::start(keyfob(&[&serve[..], options].concat()));
        let first: Value = serde_json::from_str(&running.stdout.next()).unwrap();
        let base_url = first["base_url"].as_str().unwrap().to_owned();
        assert_eq!(first, json!({"base_url": base_url, "app_id": APP_ID}));
        Self { running, base_url, dirs: Vec::new().into() }
    }

    fn place(&self, name: &str) -> Place {
        let dir = Dir::new(name);
        let place = Place::new(&self.base_url, dir.0.clone());
        self.dirs.borrow_mut().push(dir);
        place
    }

    fn kill(&mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }
}

/// An app on a backend, and a store.
struct Place {
    app_id: String,
    base_url: String,
    store: PathBuf,
}

impl Place {
    fn new(base_url: &str, store: PathBuf) -> Self {
        Self { app_id: APP_ID.to_owned(), base_url: base_url.to_owned(), store }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = keyfob(&["--app-id", &self.app_id, "--base-url", &self.base_url]);
        command.arg("--store").arg(&self.store).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.run_with("", arguments)
    }

    fn run_with(&self, input: &str, arguments: &[&str]) -> Run {
        finish(self.command(arguments), input)
    }

    /// Runs a command that must succeed, and returns the one value that it printed.
    fn json(&self, arguments: &[&str]) -> Value {
        self.json_with("", arguments)
    }

    fn json_with(&self, input: &str, arguments: &[&str]) -> Value {
        self.run_with(input, &[&["--json"], arguments].concat()).json()
    }

    /// Runs a command that must fail, and returns its error.
    fn refused(&self, code: i32, arguments: &[&str]) -> Value {
        self.refused_with(code, "", arguments)
    }

    fn refused_with(&self, code: i32, input: &str, arguments: &[&str]) -> Value {
        let run = self.run_with(input, &[&["--json"], arguments].concat());
        assert_eq!((run.code, &*run.stdout), (code, ""), "{arguments:?}: {run:?}");
        run.error()
    }
}

/// What came of a command.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn error(&self) -> Value {
        let mut error: Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(error.as_object().unwrap().len(), 1, "{error}");
        error["error"].take()
    }
}

fn assert_error(error: &Value, kind: &str, status: Value, code: Value) {
    assert_eq!(error.as_object().unwrap().len(), 4, "{error}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    assert_eq!(error["kind"], kind, "{error}");
    assert_eq!((&error["status"], &error["code"]), (&status, &code), "{error}");
}

fn keyfob(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfob"));
    for variable in ["KEYFOB_APP_ID", "KEYFOB_BASE_URL", "KEYFOB_STORE"] {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn finish(mut command: Command, input: &str) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish_started(command.spawn().unwrap(), input)
}

fn finish_started(mut child: Child, input: &str) -> Run {
    if let Some(mut stdin) = child.stdin.take() {
        // A command that needs no input may have ended without reading it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command that goes on, killed when it is dropped.
struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines as they come, none of them later than anybody has patience for.
struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    fn next(&mut self) -> String {
        self.0.recv_timeout(PATIENCE).expect("a line")
    }
}

/// A backend's clock that can be put forward by an hour.
#[derive(Clone, Default)]
struct LateClock(Arc<AtomicU64>);

impl LateClock {
    fn advance(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_secs(3600 * self.0.load(Ordering::SeqCst))
    }
}

impl Clock for LateClock {
    fn now(&self) -> SystemTime {
        SystemClock.now() + self.ahead()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + self.ahead()
    }
}
