//! Errors: their messages, the results of their methods, and the absence of secrets.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::error::Error as _;
use std::time::Duration;

use keyfob::store::MemoryStore;
use keyfob::{
    AccessToken, ApiKeyId, Credentials, Deadline, Error, LocalState, Secret, Session, StoreError,
    StoreErrorKind, TransportError, TransportErrorKind, UserId,
};
use serde_json::{Value, json};
use support::*;

#[test]
fn unusable_settings_are_named() {
    let open = |app: &str, url: &str| Session::builder(app, url).store(MemoryStore::new()).open();
    for (app, url, expected) in [
        ("", URL, "the app id cannot be used: it is empty"),
        ("  ", URL, "the app id cannot be used: it is empty"),
        (
            APP,
            "",
            "the base URL cannot be used: it has no scheme, expected something like https://example.org",
        ),
        (
            APP,
            "http://10.0.0.1",
            "the base URL cannot be used: plain http would show tokens to the network",
        ),
        (
            APP,
            "https://ada:pw@example.org",
            "the base URL cannot be used: it has a user name in it",
        ),
    ] {
        let error = open(app, url).unwrap_err();
        assert!(matches!(error, Error::Config { .. }));
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
    assert!(open(APP, "http://[::1]:8080///").is_ok());
}

/// The table of the module `error`, row by row.
#[test]
fn error_predicates_match_documentation() {
    let answers = |error: &Error| {
        (error.is_retryable(), error.needs_login(), error.is_ambiguous(), error.status())
    };
    let (script, _, session, user) = logged_in();
    let nowhere = Session::builder(APP, URL).data_dir("").open().unwrap_err();
    assert!(matches!(nowhere, Error::Config { what: "the data directory", .. }), "{nowhere}");
    let config = Session::builder("", URL).open().unwrap_err();
    assert_eq!(answers(&config), (false, false, false, None));
    script.reply(CALL, 200, json!("x"));
    let decode = user.functions().call::<i32>("f", ()).unwrap_err();
    assert_eq!(answers(&decode), (false, false, false, None));
    for (status, retryable) in [
        (400, false),
        (404, false),
        (408, true),
        (429, true),
        (500, false),
        (502, true),
        (503, true),
        (504, true),
    ] {
        script.reply(CALL, status, json!({"error": "x"}));
        let server = user.functions().call::<()>("f", ()).unwrap_err();
        assert_eq!(answers(&server), (retryable, false, false, Some(status)));
    }
    for (kind, retryable, ambiguous) in [
        (TransportErrorKind::BodyTooLarge, false, true),
        (TransportErrorKind::Connect, true, false),
        (TransportErrorKind::Interrupted, true, true),
        (TransportErrorKind::InvalidUrl, false, false),
        (TransportErrorKind::Protocol, true, true),
        (TransportErrorKind::Proxy, false, false),
        (TransportErrorKind::Resolve, true, false),
        (TransportErrorKind::Timeout, true, true),
        (TransportErrorKind::Tls, false, false),
    ] {
        script.fail(CALL, kind);
        let transport = user.functions().call::<()>("f", ()).unwrap_err();
        assert_eq!(answers(&transport), (retryable, false, ambiguous, None), "{kind:?}");
        assert_eq!(transport.is_timeout(), kind == TransportErrorKind::Timeout);
    }
    let busy = Error::from(StoreError::new(StoreErrorKind::Busy, "x"));
    assert_eq!(answers(&busy), (true, false, false, None));
    let full = Error::from(StoreError::new(StoreErrorKind::Full, "x"));
    assert_eq!(answers(&full), (false, false, false, None));
    script.reply(REFRESH, 401, error_body("InvalidSession", "gone"));
    let ended = user.refresh_access_token().unwrap_err();
    assert!(matches!(ended, Error::LoginEnded(_)));
    assert_eq!(answers(&ended), (false, true, false, Some(401)));
    let local = user.valid_access_token().unwrap_err();
    assert_eq!(answers(&local), (false, true, false, None));
    let nobody = Error::from(LocalState::NoCurrentUser);
    assert_eq!(answers(&nobody), (false, true, false, None));
    session.remove_user(&user).unwrap();
    let unknown = user.profile().unwrap_err();
    assert_eq!(answers(&unknown), (false, false, false, None));
}

#[test]
fn causes_are_in_source_and_not_repeated() {
    let cause = std::io::Error::other("the cause");
    let error = Error::from(TransportError::new(TransportErrorKind::Connect, URL).because(cause));
    assert_eq!(error.to_string(), format!("cannot connect: {URL}"));
    assert_eq!(error.source().unwrap().to_string(), "the cause");
    let cause = std::io::Error::other("the cause");
    let error = StoreError::new(StoreErrorKind::Io, "a test failed").at("/x").because(cause);
    assert_eq!(error.to_string(), "the store cannot be used: a test failed: /x");
    assert_eq!(error.source().unwrap().to_string(), "the cause");
}

#[test]
fn debug_and_display_show_no_secret() {
    const PLANTED: &str = "PLANTEDSECRET";
    let plant = |mark: &str| jwt(&format!("{PLANTED}{mark}"), START, START + 1800);
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &plant("a"), &plant("r"));
    script.reply(LOGOUT, 204, Value::Null);
    let store = MemoryStore::new();
    let builder = builder(&script, &clock).store(store.clone());
    let mut shown = vec![format!("{builder:?}")];
    let session = builder.open().unwrap();
    let secret = Secret::new(PLANTED);
    let credentials = [
        Credentials::email_password("ada@example.org", PLANTED),
        Credentials::api_key(PLANTED),
        Credentials::apple(PLANTED),
        Credentials::facebook(PLANTED),
        Credentials::function(json!({"password": PLANTED})).unwrap(),
        Credentials::google_auth_code(PLANTED),
        Credentials::google_id_token(PLANTED),
        Credentials::jwt(PLANTED),
        Credentials::other("x", json!({"password": PLANTED})).unwrap(),
    ];
    shown.extend(credentials.iter().map(|credentials| format!("{credentials:?}")));
    let mut events = session.events().unwrap();
    let user = session.log_in(&credentials[0]).unwrap();
    let token: AccessToken = user.access_token().unwrap();
    let deadline = Deadline::after(Duration::from_secs(5));
    let record = keyfob::store::Store::user(&store, user.id(), deadline).unwrap().unwrap();
    shown.push(format!("{session:?} {user:?} {token:?} {secret:?} {store:?} {record:?}"));
    shown.push(format!("{:?}", keyfob::store::Change::Put(Box::new((*record).clone()))));
    shown.push(format!(
        "{:?} {:?} {:?}",
        user.functions(),
        user.api_keys(),
        session.email_password()
    ));
    shown.push(format!("{:?} {:?}", events.next(), events));
    shown.push(format!("{:?}", user.profile().unwrap()));
    // Errors about answers that hold what they must not show.
    let note = |shown: &mut Vec<String>, error: Error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            shown.push(format!("{error} {error:?}"));
            cause = error.source();
        }
    };
    for body in [
        json!({"access_token": PLANTED}),
        json!({"access_token": {"x": PLANTED}}),
        json!([PLANTED]),
        json!(PLANTED),
        json!({"access_token": format!("a.{PLANTED}.c")}),
        json!({"access_token": plant("x"), "refresh_token": PLANTED}),
    ] {
        script.reply(REFRESH, 200, body.clone());
        note(&mut shown, user.refresh_access_token().unwrap_err());
        script.reply(LOGIN, 200, body.clone());
        note(&mut shown, session.log_in(&credentials[0]).unwrap_err());
        script.reply(
            "POST /auth/api_keys",
            201,
            json!({"_id": "k", "name": "n", "key": [PLANTED]}),
        );
        note(&mut shown, user.api_keys().create("n").unwrap_err());
    }
    let inner = script.clone();
    let requests = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = requests.clone();
    let session = support::builder(&script, &clock)
        .store(store)
        .transport(move |request: &keyfob::transport::Request| {
            let answer = keyfob::transport::Transport::send(&inner, request);
            seen.lock().unwrap().push(format!("{request:?} {answer:?}"));
            answer
        })
        .open()
        .unwrap();
    script.reply(CALL, 200, json!(PLANTED));
    let user = session.current_user().unwrap().unwrap();
    user.functions().call::<String>("f", ()).unwrap();
    note(&mut shown, user.functions().call::<i32>("f", ()).unwrap_err());
    note(&mut shown, user.functions().call::<std::net::Ipv4Addr>("f", ()).unwrap_err());
    script.reply("GET /auth/api_keys/k", 200, json!({"_id": "k", "name": "n", "key": PLANTED}));
    shown.push(format!("{:?}", user.api_keys().get(&ApiKeyId::new("k")).unwrap()));
    shown.append(&mut requests.lock().unwrap());
    assert!(shown.len() > 40);
    for text in shown {
        assert!(!text.contains(PLANTED), "{text}");
        assert!(!text.contains(&plant("a")) && !text.contains(&plant("r")), "{text}");
        assert!(!text.contains(token.expose()), "{text}");
    }
    assert_eq!(user.id(), &UserId::new("ada"));
}
