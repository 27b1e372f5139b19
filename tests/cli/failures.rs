//! What fails, with which exit code, and what is said then.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use keyfob::server::{Fault, Route, Server};
use keyfob::{Credentials, Secret, Session, UserState};
use serde_json::{Value, json};

use crate::command::{
    APP_ID, Backend, Dir, EMAIL, LateClock, PASSWORD, Place, assert_error, finish, finish_started,
    keyfob,
};

#[test]
fn backend_refusal_exits_with_1() {
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
        "keyfob: the backend refused to log in: unauthorized (status 401, InvalidPassword); \
         check the e-mail address and the password\n"
    );
}

#[test]
fn usage_error_exits_with_2_and_hint() {
    let dir = Dir::new("usage");
    let usage = |arguments: &[&str]| {
        let run = finish(keyfob(arguments), "");
        assert_eq!((run.code, &*run.stdout), (2, ""), "{arguments:?}: {run:?}");
        run.stderr
    };
    assert!(usage(&[]).contains("keyfob --help"));
    let unknown = usage(&["whoamI"]);
    assert!(unknown.contains("did you mean whoami?") && !unknown.contains("whoamI"), "{unknown}");
    let unknown = usage(&["login", "--anonymus"]);
    assert!(unknown.contains("did you mean --anonymous?"), "{unknown}");
    assert!(usage(&["api-keys", "burn"]).contains("create, list, get"));
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
fn missing_user_exits_with_3() {
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

/// An expired access token is refreshed; a login that the backend ended exits with 3.
#[test]
fn ended_login_exits_with_3() {
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
    assert_eq!(server.journal().count(Route::Refresh), 1);

    server.revoke_sessions(user["user_id"].as_str().unwrap()).unwrap();
    clock.advance();
    let error = at.refused(3, &["call", "sum", "1", "2"]);
    assert_error(&error, "login_ended", json!(401), json!("InvalidSession"));
    assert_error(&at.refused(3, &["whoami"]), "local_state", Value::Null, Value::Null);
    assert_eq!(at.json(&["users"])[0]["state"], "logged-out");
}

#[test]
fn network_failure_exits_with_4_and_keeps_login() {
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

    // The store is encrypted, so the backend is notified later.
    assert_eq!(at.json(&["logout"]), json!({"user_id": ada, "current": guest}));
    assert_eq!(at.json(&["whoami"])["user_id"], guest, "the log-out here stands");
    let error = at.refused(4, &["remove"]);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(guest) && message.contains("removed here"), "{message}");
    assert!(message.contains("backend could not be notified"), "{message}");
    // The token for the pending revocation is removed with the record.
    let error = at.refused(4, &["remove", ada]);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(ada) && message.contains("removed here"), "{message}");
    assert_eq!(at.json(&["users"]), json!([]));
}

#[test]
fn unresponsive_backend_exits_with_4_by_deadline() {
    let dir = Dir::new("silent");
    // Connections are accepted by the machine, and nobody ever reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Place::new(&format!("http://{}", silent.local_addr().unwrap()), dir.0.clone());
    let error = at.refused(4, &["--timeout", "0.3", "login", "--anonymous"]);
    assert_error(&error, "transport", Value::Null, Value::Null);
}

#[test]
fn web_server_is_reported_as_not_backend() {
    for (status, body) in [
        ("404 Not Found", "<html>not here</html>"),
        ("405 Method Not Allowed", ""),
        ("501 Unsupported method", "<html>no</html>"),
        ("200 OK", "{\"ok\":true}"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = Dir::new("web-server");
        let at = Place::new(&format!("http://{}", listener.local_addr().unwrap()), dir.0.clone());
        let length = body.len();
        let response = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        // Ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") && !request.starts_with(b"GET") {
                    let mut part = [0; 4096];
                    let read = stream.read(&mut part).unwrap();
                    request.extend(&part[..read]);
                }
                stream.write_all(response.as_bytes()).unwrap();
            }
        });
        let error = at.refused(4, &["login", "--anonymous"]);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("check --base-url"), "{status}: {message}");
    }
}

#[test]
fn unusable_store_exits_with_5() {
    let dir = Dir::new("no-store");
    let file = dir.0.join("file");
    fs::write(&file, "not a directory").unwrap();
    let at = Place::new("http://127.0.0.1:1", file.clone());
    let error = at.refused(5, &["users"]);
    assert_error(&error, "store", Value::Null, Value::Null);
    assert!(error["message"].as_str().unwrap().contains("file"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
}

/// Logging out and removing a user fail before they change anything.
#[test]
fn busy_store_reports_nothing_was_done() {
    let backend = Backend::start(&[]);
    let at = backend.place("busy-store");
    let user = at.json(&["login", "--anonymous"])["user_id"].clone();
    let lock = fs::File::options().write(true).open(at.data().join("lock")).unwrap();
    lock.lock().unwrap();
    for command in ["logout", "remove"] {
        let error = at.refused(4, &["--timeout", "0.2", command]);
        assert_error(&error, "store", Value::Null, Value::Null);
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("nothing was done: "), "{message}");
    }
    drop(lock);
    assert_eq!(at.json(&["whoami"])["user_id"], user);
    assert_eq!(at.json(&["remove"]), json!({"user_id": user, "current": null}));
}

/// An unencrypted store does not keep the token with which to revoke the session later.
#[test]
fn unencrypted_log_out_reports_unnotified_backend() {
    let mut backend = Backend::start(&[]);
    let at = backend.place("unnotified-store");
    let session = Session::builder(APP_ID, &backend.base_url).data_dir(&at.store).open().unwrap();
    session.email_password().register(EMAIL, Secret::new(PASSWORD)).unwrap();
    let ada = session.log_in(&Credentials::email_password(EMAIL, PASSWORD)).unwrap();
    backend.kill();
    let error = at.refused(4, &["logout"]);
    assert_error(&error, "transport", Value::Null, Value::Null);
    let done = format!(
        "{EMAIL} [{}] is logged out here, but the backend could not be notified: ",
        ada.id()
    );
    assert!(error["message"].as_str().unwrap().starts_with(&done), "{error}");
    assert_eq!(ada.state().unwrap(), UserState::LoggedOut);
}

#[test]
fn ambiguous_request_says_it_may_have_succeeded() {
    let server = Server::builder().app_id(APP_ID).start().unwrap();
    let dir = Dir::new("ambiguous");
    let at = Place::new(server.base_url(), dir.0.clone());
    server.faults().add(Fault::cut_after_commit().on(Route::Register).times(2));
    let suffix = "; the backend may have done it nevertheless";
    let error = at.refused_with(4, PASSWORD, &["register", "--email", EMAIL]);
    assert_error(&error, "transport", Value::Null, Value::Null);
    assert_eq!(error["ambiguous"], true);
    assert!(error["message"].as_str().unwrap().ends_with(suffix), "{error}");
    let plain = at.run_with(PASSWORD, &["register", "--email", "eve@example.org"]);
    assert!(plain.stderr.trim_end().ends_with(suffix), "{plain:?}");
    let error = at.refused_with(1, PASSWORD, &["register", "--email", EMAIL]);
    assert_error(&error, "server", json!(409), json!("AccountNameInUse"));
    assert_eq!(error.get("ambiguous"), None, "{error}");
}

#[test]
fn retry_after_is_shown_to_user() {
    let server = Server::builder().app_id(APP_ID).login_attempts(Some(1)).start().unwrap();
    let dir = Dir::new("throttled");
    let at = Place::new(server.base_url(), dir.0.clone());
    at.refused_with(1, "wrong password", &["login", "--email", EMAIL]);
    let error = at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    assert_error(&error, "server", json!(429), Value::Null);
    let message = error["message"].as_str().unwrap();
    let (_, pause) = message.rsplit_once("; try again in ").unwrap();
    let seconds: u64 = pause.strip_suffix(" s").unwrap().parse().unwrap();
    assert!((800..=900).contains(&seconds), "{message}");
}

#[test]
fn damaged_store_error_suggests_recovery() {
    let backend = Backend::start(&[]);
    let at = backend.place("damaged-store");
    at.json(&["login", "--anonymous"]);
    fs::write(at.data().join("db.0/db"), "garbage").unwrap();
    let data = at.data();
    for _ in 0..2 {
        let error = at.refused(5, &["login", "--anonymous", "--new"]);
        assert_error(&error, "store", Value::Null, Value::Null);
        let message = error["message"].as_str().unwrap();
        assert!(!message.contains("OnDamage"), "{message}");
        assert_eq!(message.matches("cannot be used").count(), 1, "{message}");
        assert!(message.contains("db.0.damaged"), "{message}");
        let advice = format!("or move {} away and log in again", data.display());
        assert!(message.contains("; run `keyfob recover`"), "{message}");
        assert!(message.ends_with(&advice), "{message}");
    }
    fs::rename(&data, at.store.join("elsewhere")).unwrap();
    at.json(&["login", "--anonymous", "--new"]);
}

#[test]
fn recover_continues_with_readable_users() {
    let backend = Backend::start(&[]);
    let at = backend.place("recovered-store");
    let healthy = at.json(&["recover"]);
    assert_eq!(healthy, json!({"recovered": false, "kept": null, "users": []}));
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    let ada = at.json_with(PASSWORD, &["login", "--email", EMAIL])["user_id"].clone();
    // With users, and later without any.
    for users in [json!([ada]), json!([])] {
        let damaged = at.data().join(database(&at.data()));
        fs::write(damaged.join("db"), "garbage").unwrap();
        at.refused(5, &["login", "--anonymous", "--new"]);
        let recovered = at.json(&["recover"]);
        assert_eq!((&recovered["recovered"], &recovered["users"]), (&json!(true), &users));
        let kept = recovered["kept"].as_str().unwrap();
        assert!(fs::exists(kept).unwrap() && kept.ends_with(".damaged"), "{kept}");
        fs::remove_dir_all(kept).unwrap();
        assert_eq!(at.json(&["recover"])["recovered"], false);
        if users == json!([ada]) {
            assert_eq!(at.json(&["call", "sum", "1", "2"]), json!({"$numberInt": "3"}));
            at.json(&["remove"]);
        }
    }
    at.json(&["login", "--anonymous", "--new"]);
}

/// The name of the database in the directory of a store.
fn database(store: &std::path::Path) -> String {
    let entries = fs::read_dir(store).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names = names.filter(|name| name.starts_with("db.") && !name.ends_with(".damaged"));
    names.next().expect("a database")
}

#[test]
fn closed_standard_output_is_no_panic() {
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
fn messages_name_next_step() {
    let backend = Backend::start(&[]);
    let at = backend.place("next-step-store");
    let refusal = |place: &Place, code: i32, arguments: &[&str]| {
        let run = place.run(arguments);
        assert_eq!((run.code, &*run.stdout), (code, ""), "{arguments:?}: {run:?}");
        run.stderr
    };
    for (code, arguments, expected) in [
        (2, &["lgin"][..], "did you mean login or link?"),
        (2, &["login", "anonymous"], "the way to log in is an option, such as --email"),
        (2, &["register", "ada"], "passwords are read from standard input"),
        (2, &["login", "--browser", "gogle", "--client-id", "c"], "--browser needs google, or"),
        (3, &["logout"], "no user is current: name one"),
        (3, &["delete", "--yes"], "no user is current: name one"),
        (3, &["switch", "ada"], "`keyfob users` lists the users"),
    ] {
        let message = refusal(&at, code, arguments);
        assert!(message.contains(expected), "{message}");
    }
    assert!(!refusal(&at, 2, &["whoami", "extra"]).contains("standard input"));

    let elsewhere = Place { app_id: "no-such-app".to_owned(), ..backend.place("no-app") };
    assert!(refusal(&elsewhere, 1, &["login", "--anonymous"]).contains("check --app-id"));
    let url = backend.base_url.replace("http://", "https://");
    let with_tls = Place::new(&url, Dir::new("no-tls").0.clone());
    let message = refusal(&with_tls, 4, &["login", "--anonymous"]);
    assert!(message.contains("the server does not speak TLS on this port"), "{message}");
    let neither = finish(keyfob(&["users"]), "");
    assert!(neither.stderr.contains("--app-id") && neither.stderr.contains("--base-url"));

    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let called = at.run(&["call", "echo", "{\"a\""]);
    assert_eq!((called.code, &*called.stdout), (0, "\"{\\\"a\\\"\"\n"), "{called:?}");
    assert!(called.stderr.contains("argument 1 is not valid JSON, and is sent as a string"));
    at.json(&["logout"]);
    let message = refusal(&at, 3, &["delete", "--yes", EMAIL]);
    assert!(message.contains(EMAIL) && message.contains("log in to delete"), "{message}");
}
