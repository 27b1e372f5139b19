//! Flowerbase 1.9.0, replayed from recorded responses: keyfob handles its differences correctly.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use keyfob::transport::Response;
use keyfob::{ApiKeyId, Credentials, Error, Secret, ServerErrorCode, Session, User, UserState};
use serde::Deserialize;
use serde_json::{Value, json};
use support::*;

#[derive(Clone, Deserialize)]
struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

#[derive(Deserialize)]
struct Recording {
    answers: BTreeMap<String, Answer>,
}

/// When the recording was made.
const RECORDED: i64 = 1_795_377_831;

fn recorded(title: &str) -> Answer {
    let text = include_str!("wire/flowerbase.json");
    let recording: Recording = serde_json::from_str(text).unwrap();
    recording.answers.get(title).unwrap_or_else(|| panic!("no recording of {title}")).clone()
}

/// Answers a route as recorded from now on.
fn plays(script: &Script, route: &str, title: &str) {
    let Answer { status, content_type, body } = recorded(title);
    script.on(route, move |sent| {
        // What Flowerbase refuses with 400: an empty body that claims to be JSON.
        assert_ne!(sent.body, Some(Value::Null));
        Ok(Response::new(status, body.clone()).with_header("Content-Type", content_type.clone()))
    });
}

fn logged_in() -> (Script, ManualClock, Session, User) {
    let (script, clock) = (Script::new(), ManualClock::at(RECORDED));
    plays(&script, LOCATION, "location");
    plays(&script, LOGIN, "login, e-mail/password");
    plays(&script, PROFILE, "profile, e-mail user");
    plays(&script, LOGOUT, "logout with refresh token");
    let session = builder(&script, &clock).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    script.clear();
    (script, clock, session, user)
}

#[test]
fn login_has_no_device_and_five_hour_token() {
    let (_, _, session, user) = logged_in();
    assert_eq!(user.id().as_str(), "6b034aa7a4ea2e72d977b76a");
    assert_eq!(user.device_id().unwrap(), None);
    assert_eq!(user.identities().unwrap()[0].provider.as_str(), "local-userpass");
    assert_eq!(user.profile().unwrap().email(), Some("t1795377831411@example.com"));
    let lives = user
        .access_token()
        .unwrap()
        .expires_at()
        .duration_since(user.access_token().unwrap().issued_at());
    assert_eq!(lives.unwrap(), Duration::from_secs(5 * 3600));
    assert_eq!(user.custom_data::<Value>().unwrap(), Some(json!({})));
    assert_eq!(session.current_user().unwrap(), Some(user));
}

/// The other logins that Flowerbase supports work.
#[test]
fn unsupported_logins_are_reported() {
    let (script, _, session, _) = logged_in();
    plays(&script, ANONYMOUS, "anonymous login");
    plays(&script, PROFILE, "profile, anonymous user");
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::Removed);
    const FUNCTION: &str = "POST /auth/providers/custom-function/login";
    plays(&script, FUNCTION, "custom-function login (needs apiKey AND options in the body)");
    plays(&script, PROFILE, "profile, custom-function user");
    let credentials = Credentials::function(json!({"apiKey": "k"})).unwrap();
    session.log_in(&credentials).unwrap();
    plays(&script, FUNCTION, "custom-function login, refused by the function");
    let error = session.log_in(&credentials).unwrap_err();
    assert_eq!((error.status(), error.needs_login()), (Some(401), false));
    plays(&script, "POST /auth/providers/api-key/login", "api-key login (missing)");
    assert_eq!(session.log_in(&Credentials::api_key("k")).unwrap_err().status(), Some(404));
}

#[test]
fn refusals_are_distinguished() {
    let (script, _, session, user) = logged_in();
    let accounts = session.email_password();
    const USERPASS: &str = "POST /auth/providers/local-userpass";
    let register = format!("{USERPASS}/register");
    plays(&script, &register, "register");
    accounts.register("a@b.test", Secret::new("secret123")).unwrap();
    plays(&script, &register, "register, same e-mail");
    let error = accounts.register("a@b.test", Secret::new("secret123")).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::AccountNameInUse));
    plays(&script, &register, "register, short password (min 6)");
    let error = accounts.register("a@b.test", Secret::new("x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the backend refused to register: body/password must NOT have fewer than 6 characters (status 400)"
    );
    plays(&script, LOGIN, "login, wrong password");
    let error = session.log_in(&password()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::InvalidPassword));
    plays(&script, LOGIN, "login over the limit");
    let error = session.log_in(&password()).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("Too many requests"), "{error}");
    plays(&script, &format!("{USERPASS}/confirm/send"), "confirm/send");
    accounts.resend_confirmation("a@b.test").unwrap();
    plays(&script, &format!("{USERPASS}/reset/call"), "reset/call, unknown e-mail");
    accounts.call_reset_function("a@b.test", Secret::new("secret1"), ()).unwrap();
    for (suffix, title) in [("confirm", "confirm, bad token"), ("reset", "reset, bad token")] {
        plays(&script, &format!("{USERPASS}/{suffix}"), title);
    }
    assert_eq!(accounts.confirm(Secret::new("t"), "i").unwrap_err().status(), Some(500));
    let error = accounts.complete_reset(Secret::new("secret1"), Secret::new("t"), "i");
    assert_eq!(error.unwrap_err().status(), Some(500));
    plays(&script, "DELETE /auth/delete", "delete user");
    assert_eq!(session.delete_user(&user).unwrap_err().status(), Some(404));
    plays(&script, "GET /auth/api_keys", "api keys: list");
    assert_eq!(user.api_keys().list().unwrap_err().status(), Some(404));
    plays(&script, "GET /auth/api_keys/k", "api keys: list");
    let error = user.api_keys().get(&ApiKeyId::new("k")).unwrap_err();
    assert_eq!(error.status(), Some(404), "it has no API keys at all");
    assert_eq!(user.state().unwrap(), UserState::LoggedIn, "none of this ends a login");
}

#[test]
fn function_results_and_errors_are_parsed() {
    let (script, _, _, user) = logged_in();
    let functions = user.functions();
    plays(&script, CALL, "sum, canonical EJSON");
    assert_eq!(functions.call::<i64>("sum", (2, 40)).unwrap(), 42);
    plays(&script, CALL, "types returned");
    let types: Value = functions.call("types", ()).unwrap();
    assert_eq!(types["int"], 42);
    plays(&script, CALL, "returns undefined");
    functions.call::<()>("undefined", ()).unwrap();
    plays(&script, CALL, "function returns an Error");
    let returned: Value = functions.call("error", ()).unwrap();
    assert_eq!(returned["message"], "returned");
    plays(&script, CALL, "function throws");
    let error = functions.call::<()>("throws", ()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::FunctionExecutionError));
    for title in ["unknown function", "refresh token"] {
        plays(&script, CALL, title);
        assert_eq!(functions.call::<()>("f", ()).unwrap_err().status(), Some(500), "{title}");
    }
    assert_eq!(script.count(REFRESH), 0);
}

/// A logout of another session has revoked the access token.
#[test]
fn revoked_access_token_is_refreshed_and_call_replayed() {
    let (script, _, _, user) = logged_in();
    plays(&script, REFRESH, "refresh");
    let dead = recorded("expired access token");
    let alive = recorded("sum, canonical EJSON");
    let mut calls = 0;
    script.on(CALL, move |_| {
        calls += 1;
        let answer = if calls == 1 { &dead } else { &alive };
        Ok(Response::new(answer.status, answer.body.clone()))
    });
    assert_eq!(user.functions().call::<i64>("sum", (2, 40)).unwrap(), 42);
    assert_eq!(script.routes(), [CALL, REFRESH, CALL]);
    assert!(script.sent()[1].body.is_none(), "an empty body must not claim to be JSON");
}

#[test]
fn refresh_updates_custom_data_or_ends_login() {
    let (script, _, _, user) = logged_in();
    plays(&script, REFRESH, "refresh puts it in the access token");
    let data: Value = user.refresh_custom_data().unwrap().unwrap();
    assert_eq!(data["colour"], "blue");
    plays(&script, REFRESH, "refresh, JSON content type and empty body");
    assert_eq!(user.refresh_access_token().unwrap_err().status(), Some(400));
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    plays(&script, REFRESH, "refresh, garbage");
    assert!(matches!(user.refresh_access_token().unwrap_err(), Error::LoginEnded(_)));
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
}

#[test]
fn repeated_logout_with_200_body_succeeds() {
    for title in ["logout with refresh token", "logout a second time", "logout, garbage"] {
        let (script, _, _, user) = logged_in();
        plays(&script, LOGOUT, title);
        user.log_out().unwrap();
        assert_eq!(user.state().unwrap(), UserState::LoggedOut);
    }
}

#[test]
fn link_answered_as_other_login_is_revoked() {
    let (script, _, session, ada) = logged_in();
    plays(&script, ANONYMOUS, "anonymous login");
    plays(&script, PROFILE, "profile, anonymous user");
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    script.clear();
    const LINK: &str = "POST /auth/providers/local-userpass/login?link=true";
    plays(&script, LINK, "login with link=true (ignored: logs in as the other user)");
    let error = user.link(&password()).unwrap_err();
    assert!(matches!(error, Error::Decode(_)), "{error}");
    assert_eq!(script.routes(), [LINK, LOGOUT]);
    assert_eq!(user.identities().unwrap().len(), 1);
    assert_eq!(session.users().unwrap(), [ada, user]);
}
