//! Diagnostics through the log facade. They report what happened, and contain no secrets, including
//! the logs of dependencies.

#![cfg(all(feature = "encryption", feature = "log", feature = "server"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyfob::server::Server;
use keyfob::store::{MemoryStore, Store};
use keyfob::transport::Response;
use keyfob::{Credentials, Deadline, EncryptionKey, Secret, Session, TransportErrorKind, User};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::{Value, json};
use support::web::{HERE, THERE, Web, located, page};
use support::*;

/// Keeps everything that anybody logs in this process, at every level.
struct Captured(Mutex<Vec<String>>);

/// Whether an unencrypted store is in use.
static UNENCRYPTED: AtomicBool = AtomicBool::new(false);

static CAPTURED: Captured = Captured(Mutex::new(Vec::new()));

impl Log for Captured {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // What ureq's parser says at this one level is a dump of all that goes over the wire, and
        // sled shows what it writes; the manual warns of both, page `network`.
        let dumps = record.target() == "ureq_proto::util"
            || record.target().starts_with("sled") && UNENCRYPTED.load(Ordering::SeqCst);
        if dumps && record.level() == Level::Trace {
            return;
        }
        let line = format!("{} {} {}", record.level(), record.target(), record.args());
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

fn capture() {
    let _ = log::set_logger(&CAPTURED);
    log::set_max_level(LevelFilter::Trace);
}

fn lines() -> Vec<String> {
    CAPTURED.0.lock().unwrap().clone()
}

fn said(what: &str) -> bool {
    lines().iter().any(|line| line.contains(" keyfob ") && line.contains(what))
}

/// The forms in which a secret could show: as it is, as the bytes that a `Debug` prints, and in
/// base64 (a proxy's password).
fn forms(secret: &str) -> Vec<String> {
    use base64::Engine;
    let bytes: Vec<_> = secret.bytes().take(24).collect();
    let list = format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let short = secret.get(..40).unwrap_or(secret);
    vec![
        short.to_owned(),
        list,
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(&bytes[..bytes.len() / 3 * 3]),
    ]
}

fn assert_unsaid(secrets: &[String]) {
    for line in lines() {
        for secret in secrets {
            for form in forms(secret) {
                assert!(!line.contains(&form), "{secret:.12}… is in: {line:.300}");
            }
        }
    }
}

fn tokens_of(store: &MemoryStore, user: &User) -> Vec<String> {
    let record = store.user(user.id(), Deadline::after(Duration::from_secs(5))).unwrap().unwrap();
    let record = serde_json::to_value(&*record).unwrap();
    ["access_token", "refresh_token"]
        .iter()
        .filter_map(|name| record[*name].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn log_contains_no_secret() {
    capture();
    let mut secrets = vec![
        "passw0rd-of-ada".to_owned(),
        "passw0rd-of-bob".to_owned(),
        "passw0rd-of-eve".to_owned(),
        "argument-s3cret".to_owned(),
        "result-s3cret".to_owned(),
        "pr0xy-s3cret".to_owned(),
        "words-with-s3cret".to_owned(),
    ];
    let server = Server::builder()
        .function("echo", |_, _| Ok(json!("result-s3cret")))
        .built_in_functions()
        .start()
        .unwrap();
    let store = MemoryStore::new();
    let (encrypted, clear) = (Dir::new(), Dir::new());
    for kind in ["memory", "encrypted", "clear"] {
        UNENCRYPTED.store(kind == "clear", Ordering::SeqCst);
        let builder = Session::builder(server.app_id(), server.base_url());
        let builder = match kind {
            "memory" => builder.store(store.clone()),
            "encrypted" => builder.data_dir(encrypted.path()).encryption(EncryptionKey::key_file()),
            _ => builder.data_dir(clear.path()),
        };
        let session = builder.open().unwrap();
        let (email, password) = match kind {
            "memory" => ("ada@example.org", "passw0rd-of-ada"),
            "encrypted" => ("bob@example.org", "passw0rd-of-bob"),
            _ => ("eve@example.org", "passw0rd-of-eve"),
        };
        let accounts = session.email_password();
        accounts.register(email, Secret::new(password)).unwrap();
        let user = session.log_in(&Credentials::email_password(email, password)).unwrap();
        secrets.push(user.access_token().unwrap().expose().to_owned());
        user.functions().call::<Value>("echo", ("argument-s3cret",)).unwrap();
        user.refresh_access_token().unwrap();
        secrets.push(user.access_token().unwrap().expose().to_owned());
        if kind == "memory" {
            secrets.extend(tokens_of(&store, &user));
        }
        let (_, key) = user.api_keys().create("k").unwrap();
        secrets.push(key.expose().to_owned());
        session.log_in(&Credentials::api_key(key.expose())).unwrap();
        session.log_in(&Credentials::email_password(email, "passw0rd-of-nobody")).unwrap_err();
        secrets.push("passw0rd-of-nobody".to_owned());
        user.log_out().unwrap();
        assert!(said("has logged out"));
    }
    assert!(said("has logged in by EmailPassword") && said("was refreshed"));
    // A backend's words may repeat what it was sent.
    let (script, _, _session, user) = logged_in();
    for route in [CALL, REFRESH, PROFILE] {
        script.reply(route, 503, error_body("words-with-s3cret", "words-with-s3cret"));
    }
    user.refresh_access_token().unwrap_err();
    user.refresh_profile().unwrap_err();
    assert!(said(
        "could not be refreshed: the backend refused to refresh the access token (status 503)"
    ));
    // A proxy's password, on its way to the proxy.
    let transport = keyfob::transport::UreqTransport::builder()
        .proxy(&format!("http://ada:pr0xy-s3cret@{}", support::net::refusing_backend().0))
        .build()
        .unwrap();
    let session = Session::builder(APP, "https://backend.invalid").transport(transport);
    let session = session.store(MemoryStore::new()).open().unwrap();
    session.log_in(&password()).unwrap_err();
    secrets.push("hunter22".to_owned());
    assert!(secrets.len() > 12 && lines().len() > 100, "{} lines", lines().len());
    for source in ["keyfob", "ureq", "sled"] {
        assert!(lines().iter().any(|line| line.contains(source)), "{source} said something");
    }
    assert_unsaid(&secrets);
}

#[test]
fn retries_and_redirects_are_logged() {
    capture();
    let web = Web::new();
    web.answers(|seen| (seen.route == LOCATION).then(|| Ok(located(THERE))));
    let (_, session, user) = web.logged_in(HERE);
    web.answers(|seen| match (&*seen.origin, &*seen.route) {
        (HERE, LOCATION) => Some(Ok(located(HERE))),
        (THERE, _) => Some(Ok(page(404))),
        (_, PROFILE) => Some(Ok(Response::new(307, "").with_header("Location", "/elsewhere"))),
        (_, "GET /elsewhere") => Some(Err(TransportErrorKind::Interrupted)),
        _ => None,
    });
    user.refresh_profile().unwrap_err();
    assert!(said(&format!("the backend is no longer at {THERE} but at {HERE}")));
    assert!(said("following a redirect (307) to give the profile"));
    assert!(said("once more, after Interrupted: give the profile"));
    web.answers(|seen| {
        let gone = json_answer(401, &error_body("InvalidSession", "gone"));
        (seen.route == REFRESH).then_some(Ok(gone))
    });
    user.refresh_access_token().unwrap_err();
    assert!(said("the login of UserId(\"ada\") has ended (status 401)"));
    session.shut_down();
    assert!(said("shutting the session down"));
}

#[cfg(feature = "browser")]
#[test]
fn sign_in_logs_no_secret() {
    use support::provider::{Person, TestProvider, json_reply};

    capture();
    let (provider, person) = (TestProvider::start(), Person::default());
    let mut secrets = vec!["s3cret-of-the-client".to_owned(), "s3cret-in-the-words".to_owned()];
    let sign_in = provider.sign_in().client_secret(secrets[0].as_str());
    let sign_in = person.agrees(&provider, sign_in);
    let tokens = sign_in.loopback().unwrap();
    person.page();
    secrets.push(tokens.id_token().expose().to_owned());
    secrets.push(provider.asked("/token")[0].form["code_verifier"].clone());
    provider.on("/token", |_, asked| {
        let words = json!({"error": "s3cret-in-the-words", "error_description": asked.form});
        Some(json_reply(400, &words))
    });
    sign_in.loopback().unwrap_err();
    person.page();
    secrets.push(provider.asked("/token")[1].form["code_verifier"].clone());
    assert!(said("signed in with") && said("sign-in failed"));
    assert_unsaid(&secrets);
}
