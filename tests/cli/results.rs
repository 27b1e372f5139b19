//! What each command prints, as JSON and in words.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::command::{Backend, Dir, EMAIL, PASSWORD, Running, assert_error, finish, keyfob};

#[test]
fn demo_succeeds_and_cleans_up() {
    let dir = Dir::new("demo");
    let demo = |arguments: &[&str]| {
        let mut command = keyfob(arguments);
        // Where a program finds the directory for temporary files differs.
        for variable in ["TMPDIR", "TMP", "TEMP"] {
            command.env(variable, &dir.0);
        }
        finish(command, "")
    };
    let output = demo(&["demo"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stderr, "");
    assert!(output.stdout.starts_with(" 1. "), "{output:?}");
    let mut lines = output.stdout.lines().rev();
    assert!(lines.next().unwrap().contains("keyfob serve"), "the next step is named last");
    assert_eq!(lines.next(), Some("    Every step succeeded."));
    assert!(output.stdout.contains("InvalidPassword"), "{output:?}");
    assert!(!output.stdout.contains("battery"), "{output:?}");

    let output = demo(&["--json", "demo"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.json()["steps"].as_array().unwrap().len() >= 10, "{output:?}");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn interrupted_demo_cleans_up() {
    use std::os::unix::process::ExitStatusExt;

    use rustix::process::{Pid, Signal, kill_process};

    let dir = Dir::new("demo-interrupted");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let mut command = keyfob(&["demo"]);
        command.env("TMPDIR", &dir.0);
        let mut demo = Running::start(command);
        while !demo.stdout.next().contains("Ada logs in") {}
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
        kill_process(Pid::from_child(&demo.child), signal).unwrap();
        let status = demo.child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }
}

/// What could be made of them: text that runs backwards, a second line, an invisible difference.
#[test]
fn hidden_characters_are_printed_as_escapes() {
    let backend = Backend::start(&[]);
    let at = backend.place("hidden-store");
    let hidden = "\u{202e}\u{2066}\u{200f}\u{61c}\u{200b}\u{feff}\u{2028}\u{9b}\u{ad}\u{e0041}";
    // No address may have control characters.
    let email = format!("a{}z@example.org", hidden.replace('\u{9b}', ""));
    let (run, id) = (|input: &str, arguments: &[&str]| at.run_with(input, arguments), "--email");
    let mut shown = vec![
        run(PASSWORD, &["register", id, &email]),
        run(PASSWORD, &["login", id, &email]),
        run("", &["whoami"]),
        run("", &["--json", "whoami"]),
        run("", &["users"]),
        run("", &["profile"]),
        run("", &["call", "echo", hidden]),
        run("", &["--json", "call", "echo", hidden]),
        run("", &["call", &email]),
        run("", &["--json", "call", &email]),
        run("", &["switch", &email]),
        run(PASSWORD, &["reset-password", id, &email]),
    ];
    shown.push(run(PASSWORD, &["--base-url", &format!("https://{email}"), "whoami"]));
    for run in shown {
        for text in [&run.stdout, &run.stderr] {
            assert!(!hidden.chars().any(|character| text.contains(character)), "{run:?}");
        }
    }
    assert_eq!(at.json(&["call", "echo", hidden]), json!(hidden), "escaped, and not changed");
}

#[test]
fn pasted_key_is_trimmed_and_password_is_not() {
    let backend = Backend::start(&[]);
    let at = backend.place("pasted-store");
    let password = format!(" {PASSWORD} ");
    at.json_with(&password, &["register", "--email", EMAIL]);
    at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    let user =
        at.json_with(&format!("{password}\n"), &["login", "--email", EMAIL])["user_id"].clone();
    let key = at.json(&["api-keys", "create", "ci"])["key"].as_str().unwrap().to_owned();
    for pasted in
        [format!(" {key}\t\n"), format!("\u{feff}{key}\r\n\r\n"), format!("\n\n{key}\u{200b}")]
    {
        assert_eq!(at.json_with(&pasted, &["login", "--api-key"])["user_id"], user, "{pasted:?}");
    }
    let error = at.refused_with(2, " \u{feff}\n\n", &["login", "--api-key"]);
    assert_eq!(error["message"], "the API key, read from standard input, is empty");
}

#[test]
fn every_command_prints_documented_json() {
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
            "email": EMAIL,
            "name": null,
            "providers": ["local-userpass"],
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
        let listed = |(at, (id, state)): (usize, &(&str, &str))| {
            let is_ada = *id == ada_id;
            json!({
                "user_id": id,
                "state": state,
                "current": at == current,
                "email": is_ada.then_some(EMAIL),
                "name": null,
                "providers": [if is_ada { "local-userpass" } else { "anon-user" }],
            })
        };
        users.map(listed).collect()
    };
    let ended = |user: &str, current: Option<&str>| json!({"user_id": user, "current": current});
    let (ada_in, guest_in) = ((&*ada_id, "logged-in"), (&*guest_id, "logged-in"));
    assert_eq!(at.json(&["users"]), listed(2, &[ada_in, guest_in, (&other_id, "logged-in")]));
    assert_eq!(at.json(&["switch", &ada_id]), json!({"user_id": ada_id}));
    assert_eq!(at.json(&["remove", &other_id]), ended(&other_id, Some(&ada_id)));
    assert_eq!(at.json(&["users"]), listed(0, &[ada_in, guest_in]));
    assert_eq!(at.json(&["logout"]), ended(&ada_id, Some(&guest_id)));
    assert_eq!(at.json(&["users"]), listed(1, &[(&ada_id, "logged-out"), guest_in]));
    let again = at.json(&["logout", &ada_id]);
    assert_eq!(again, ended(&ada_id, Some(&guest_id)), "nothing to do");
    assert_eq!(at.json(&["logout", &guest_id]), ended(&guest_id, None));
    assert_eq!(at.json(&["users"]), listed(9, &[(&ada_id, "logged-out")]));
    assert_eq!(at.json(&["remove", &ada_id]), ended(&ada_id, None));
    assert_eq!(at.json(&["users"]), json!([]));
}

/// Links and deletes accounts; API keys log in until they are disabled.
#[test]
fn accounts_and_keys_are_managed() {
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
    assert!(run.stderr.contains(EMAIL), "{run:?}");
    assert_eq!(at.json(&["delete", "--yes"]), json!({"user_id": guest, "current": null}));
    assert_eq!(at.json(&["users"]), json!([]));
    let error = at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    assert_error(&error, "server", json!(401), json!("InvalidPassword"));
}

#[test]
fn plain_results_are_printed_on_standard_output() {
    let backend = Backend::start(&[]);
    let at = backend.place("words-store");
    let words = |input: &str, arguments: &[&str]| {
        let run = at.run_with(input, arguments);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
        run.stdout
    };
    assert_eq!(words(PASSWORD, &["register", "--email", EMAIL]), "registered ada@example.org\n");
    let login = words(PASSWORD, &["login", "--email", EMAIL]);
    let ada = login.strip_prefix("logged in as ").unwrap();
    let ada = ada.strip_suffix(" with local-userpass\n").unwrap();
    let id = ada.strip_prefix("ada@example.org [").unwrap().strip_suffix(']').unwrap();
    let who = words("", &["whoami"]);
    assert!(who.starts_with(&format!("user      {id} (logged-in)\nidentity  local-userpass ")));
    assert!(who.ends_with("\nprofile   email: ada@example.org\n"), "{who}");
    assert_eq!(words("", &["users"]), format!("* {ada} (local-userpass; logged-in)\n"));
    let token = words("", &["token"]);
    assert_eq!(token.trim_end(), at.json(&["token"])["access_token"], "the token alone");
    assert_eq!(words("", &["call", "sum", "1", "2"]), "3\n");
    assert_eq!(words("", &["call", "--canonical", "sum", "1", "2"]), "{\"$numberInt\":\"3\"}\n");
    assert_eq!(words("", &["switch", id]), format!("{ada} is the current user now\n"));
    let guest = words("", &["login", "--anonymous"]);
    let guest = guest.strip_prefix("logged in as ").unwrap();
    let guest = guest.strip_suffix(" with anon-user\n").unwrap();
    assert_eq!(
        words("", &["logout", guest]),
        format!("{guest} is logged out and removed; the current user is {ada}\n")
    );
    assert_eq!(
        words("", &["logout"]),
        format!("{ada} is logged out; nobody is the current user\n")
    );
    assert_eq!(words("", &["users"]), format!("  {ada} (local-userpass; logged-out)\n"));
    assert_eq!(
        words("", &["remove", id]),
        format!("{ada} is removed; nobody is the current user\n")
    );
    let empty = at.run(&["users"]);
    assert_eq!((empty.code, &*empty.stdout), (0, ""), "{empty:?}");
    let note = format!("this store has no users of the app test-app at {}", backend.base_url);
    assert_eq!(empty.stderr, format!("keyfob: {note}\n"));
}

#[test]
fn call_arguments_are_json_or_strings() {
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
        let run = at.run(&["--json", "call", "echo", argument]);
        assert_eq!((run.code, run.stdout.trim_end()), (0, result), "{argument}: {run:?}");
        assert_eq!(at.run(&["call", "--canonical", "echo", argument]).stdout, run.stdout);
    }
    let verbatim = at.run(&["call", "echo", "--", "--json"]);
    assert_eq!(verbatim.stdout, "\"--json\"\n");
    let who = at.json(&["call", "whoami"]);
    assert_eq!(who["user_id"], at.json(&["whoami"])["user_id"]);
}

#[test]
fn watch_reports_other_processes_until_pipe_closes() {
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
        assert!(help.stdout.contains(&format!("Usage: keyfob {command}")), "{help:?}");
        let same = finish(keyfob(&["help", command]), "");
        assert_eq!((same.code, same.stdout, same.stderr), (0, help.stdout, String::new()));
    }
    let version = finish(keyfob(&["--version"]), "");
    assert_eq!(version.stdout, concat!("keyfob ", env!("CARGO_PKG_VERSION"), "\n"));
}
