//! Login: the requests, the stored data, and the state after a failure.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use keyfob::ejson::{Binary, DateTime, Decimal128, Double, ObjectId};
use keyfob::transport::Response;
use keyfob::{Credentials, Error, Provider, ServerErrorCode, TransportErrorKind, UserState};
use serde_json::{Value, json};
use support::*;

/// Tokens, profile, identities and the current user.
#[test]
fn login_stores_user_in_one_commit() {
    let (script, _, session, user) = logged_in();
    assert_eq!(user.id().as_str(), "ada");
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    assert_eq!(session.current_user().unwrap(), Some(user.clone()));
    assert_eq!(user.profile().unwrap().email(), Some("ada@example.org"));
    assert_eq!(user.profile().unwrap().kind(), Some("normal"));
    let identities = user.identities().unwrap();
    assert_eq!(identities[0].id, "i-ada");
    assert_eq!(identities[0].provider, Provider::EmailPassword);
    assert_eq!(user.access_token().unwrap().expose(), access("a1"));
    assert_eq!(user.device_id().unwrap(), None);
    assert_eq!(script.routes(), Vec::<String>::new(), "reading what is known uses no network");
}

#[test]
fn password_is_sent_unchanged() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).open().unwrap();
    let odd = "pä\u{0}ss \"\\\u{1F511}\n";
    session.log_in(&Credentials::email_password("ada@example.org", odd)).unwrap();
    let login = script.sent().into_iter().find(|sent| sent.route == LOGIN).unwrap();
    assert_eq!(login.bearer, None);
    assert_eq!(login.body.unwrap()["password"], odd);
}

#[test]
fn wrong_password_has_own_error_without_refresh() {
    let (script, _, session, user) = logged_in();
    script.reply(LOGIN, 401, error_body("InvalidPassword", "unauthorized"));
    let error = session.log_in(&password()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::InvalidPassword));
    assert_eq!(error.status(), Some(401));
    assert!(!error.needs_login() && !error.is_retryable() && !error.is_ambiguous());
    assert_eq!(
        error.to_string(),
        "the backend refused to log in: unauthorized (status 401, InvalidPassword)"
    );
    assert_eq!(script.routes(), [LOGIN]);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

/// Nothing is stored, and the server session is ended.
#[test]
fn login_without_profile_is_revoked() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(LOGIN, 200, login_body("ada", &access("a1"), &refresh("r1")));
    script.reply(PROFILE, 500, Value::Null).reply(LOGOUT, 204, Value::Null);
    let session = builder(&script, &clock).open().unwrap();
    let error = session.log_in(&password()).unwrap_err();
    assert!(error.to_string().contains("nothing was stored"), "{error}");
    assert_eq!(session.users().unwrap(), []);
    assert_eq!(session.current_user().unwrap(), None);
    assert_eq!(script.routes(), [LOCATION, LOGIN, PROFILE, LOGOUT]);
    assert_eq!(script.sent()[3].bearer, Some(refresh("r1")));
}

/// A refused connection is not ambiguous.
#[test]
fn only_lost_login_response_is_ambiguous() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).open().unwrap();
    script.fail(LOGIN, TransportErrorKind::Interrupted);
    let error = session.log_in(&password()).unwrap_err();
    assert!(error.is_ambiguous() && error.is_retryable());
    assert_eq!(script.count(LOGIN), 1, "a log-in is never sent twice on its own");
    script.fail(LOGIN, TransportErrorKind::Connect);
    let error = session.log_in(&password()).unwrap_err();
    assert!(!error.is_ambiguous() && error.is_retryable());
    assert_eq!(script.count(LOGIN), 3, "nothing was sent, so it is tried once more");
    assert_eq!(session.users().unwrap(), []);
}

#[test]
fn malformed_login_response_stores_nothing() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).open().unwrap();
    let good = login_body("ada", &access("a1"), &refresh("r1"));
    let without = |key: &str| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(key);
        body
    };
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    for body in [
        without("user_id"),
        without("access_token"),
        without("refresh_token"),
        with("user_id", json!(7)),
        with("user_id", json!("")),
        with("access_token", json!("not.a.token")),
        with("refresh_token", json!("x")),
        with("access_token", json!(jwt_with("a", json!({"exp": "soon", "iat": START})))),
    ] {
        script.reply(LOGIN, 200, body.clone());
        let error = session.log_in(&password()).unwrap_err();
        assert!(matches!(error, Error::Decode(_)), "{body}: {error}");
    }
    script.on(LOGIN, |_| Ok(Response::new(200, "\u{feff}\n<html>portal</html>")));
    let error = session.log_in(&password()).unwrap_err();
    assert!(
        matches!(&error, Error::Transport(error) if error.kind == TransportErrorKind::Intercepted),
        "{error}"
    );
    assert!(error.is_retryable() && error.is_ambiguous(), "{error}");
    assert_eq!(session.users().unwrap(), []);
}

#[test]
fn device_id_is_stored_unless_zeros() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let mut body = login_body("ada", &access("a1"), &refresh("r1"));
    body["device_id"] = "5f0000000000000000000001".into();
    script.reply(LOGIN, 200, body).reply(PROFILE, 200, profile_body("ada"));
    script.reply(LOGOUT, 204, Value::Null);
    let session = builder(&script, &clock).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    user.log_out().unwrap();
    assert_eq!(user.device_id().unwrap().unwrap().as_str(), "5f0000000000000000000001");
}

#[test]
fn second_provider_logs_in_same_user() {
    let (script, _, session, user) = logged_in();
    script.accept_login("ada", &access("a2"), &refresh("r2"));
    let again = session.log_in(&password()).unwrap();
    assert_eq!(again, user);
    assert_eq!(session.users().unwrap().len(), 1);
    assert_eq!(user.access_token().unwrap().expose(), access("a2"));
}

#[test]
fn anonymous_login_reuses_user_by_default() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).open().unwrap();
    script.reply(ANONYMOUS, 200, login_body("anon-1", &access("a1"), &refresh("r1")));
    script.reply(PROFILE, 200, anonymous_profile_body("anon-1"));
    let first = session.log_in(&Credentials::anonymous()).unwrap();
    let reused = session.log_in(&Credentials::anonymous()).unwrap();
    assert_eq!(first, reused);
    assert_eq!(script.count(ANONYMOUS), 1);
    script.reply(ANONYMOUS, 200, login_body("anon-2", &access("a2"), &refresh("r2")));
    script.reply(PROFILE, 200, anonymous_profile_body("anon-2"));
    let second = session.log_in(&Credentials::new_anonymous()).unwrap();
    assert_ne!(first, second);
    assert_eq!(session.users().unwrap(), [first, second]);
}

/// The anonymous user is found even if another user is current.
#[test]
fn anonymous_reuse_needs_no_network() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).open().unwrap();
    script.reply(ANONYMOUS, 200, login_body("anon-1", &access("a1"), &refresh("r1")));
    script.reply(PROFILE, 200, anonymous_profile_body("anon-1"));
    let anonymous = session.log_in(&Credentials::anonymous()).unwrap();
    script.accept_login("ada", &access("a2"), &refresh("r2"));
    session.log_in(&password()).unwrap();
    script.clear();
    assert_eq!(session.log_in(&Credentials::anonymous()).unwrap(), anonymous);
    assert_eq!(session.current_user().unwrap(), Some(anonymous));
    assert_eq!(script.routes(), Vec::<String>::new());
}

#[test]
fn login_sends_device_information() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).app_info("notes", "1.2").open().unwrap();
    session.log_in(&password()).unwrap();
    let sent = script.sent().into_iter().find(|sent| sent.route == LOGIN).unwrap();
    let device = sent.body.unwrap()["options"]["device"].take();
    for key in [
        "appId",
        "bundleId",
        "coreVersion",
        "cpuArch",
        "deviceName",
        "deviceVersion",
        "frameworkName",
        "frameworkVersion",
        "platform",
        "platformVersion",
        "sdk",
        "sdkVersion",
    ] {
        assert!(device[key].is_string(), "{key} in {device}");
    }
    assert_eq!((&device["appId"], &device["appVersion"]), (&json!(APP), &json!("1.2")));
}

#[test]
fn providers_send_own_fields_unchanged() {
    let function = Credentials::function(json!({"id": 7, "options": "mine"})).unwrap();
    let other = Credentials::other("oauth2-github", json!({"code": "c"})).unwrap();
    let cases = [
        (Credentials::anonymous(), "anon-user", json!({"provider": "anon-user"})),
        (Credentials::api_key("k"), "api-key", json!({"key": "k", "provider": "api-key"})),
        (
            Credentials::apple("t"),
            "oauth2-apple",
            json!({"id_token": "t", "provider": "oauth2-apple"}),
        ),
        (
            Credentials::facebook("t"),
            "oauth2-facebook",
            json!({"accessToken": "t", "provider": "oauth2-facebook"}),
        ),
        (
            Credentials::google_auth_code("c"),
            "oauth2-google",
            json!({"authCode": "c", "provider": "oauth2-google"}),
        ),
        (
            Credentials::google_id_token("t"),
            "oauth2-google",
            json!({"id_token": "t", "provider": "oauth2-google"}),
        ),
        (Credentials::jwt("t"), "custom-token", json!({"token": "t", "provider": "custom-token"})),
        (function, "custom-function", json!({"id": {"$numberInt": "7"}})),
        (other, "oauth2-github", json!({"code": "c", "provider": "oauth2-github"})),
    ];
    for (credentials, segment, expected) in cases {
        let (script, clock) = (Script::new(), ManualClock::at(START));
        let route = format!("POST /auth/providers/{segment}/login");
        script.reply(&route, 200, login_body("ada", &access("a1"), &refresh("r1")));
        script.reply(PROFILE, 200, profile_body("ada"));
        let session = builder(&script, &clock).open().unwrap();
        session.log_in(&credentials).unwrap();
        let sent = script.sent().into_iter().find(|sent| sent.route == route).unwrap();
        let mut body = sent.body.unwrap();
        let options = body.as_object_mut().unwrap().remove("options").unwrap();
        assert_eq!(body, expected);
        assert!(options["device"].is_object(), "{segment}");
        assert_eq!(credentials.provider().as_str(), segment);
        assert_eq!(Provider::from(segment), credentials.provider());
    }
}

/// As they come from a clipboard or a file.
#[test]
fn pasted_token_is_sent_trimmed() {
    for (make, segment, field) in [
        (Credentials::api_key as fn(&'static str) -> Credentials, "api-key", "key"),
        (Credentials::apple, "oauth2-apple", "id_token"),
        (Credentials::facebook, "oauth2-facebook", "accessToken"),
        (Credentials::google_auth_code, "oauth2-google", "authCode"),
        (Credentials::google_id_token, "oauth2-google", "id_token"),
        (Credentials::jwt, "custom-token", "token"),
    ] {
        for pasted in ["a b\n", "\u{feff}a b\r\n\r\n", " \t\n\u{200b}a b\u{a0}"] {
            let (script, clock) = (Script::new(), ManualClock::at(START));
            let route = format!("POST /auth/providers/{segment}/login");
            script.reply(&route, 200, login_body("ada", &access("a1"), &refresh("r1")));
            script.reply(PROFILE, 200, profile_body("ada"));
            builder(&script, &clock).open().unwrap().log_in(&make(pasted)).unwrap();
            let sent = script.sent().into_iter().find(|sent| sent.route == route).unwrap();
            assert_eq!(sent.body.unwrap()[field], "a b", "{segment} {pasted:?}");
        }
    }
}

/// A function payload must be an object; a value that extended JSON wraps in one is not.
#[test]
fn wrapped_value_is_no_function_payload() {
    let refused = |credentials: Result<Credentials, Error>| {
        let text = "the credentials cannot be read: expected an object: a struct or a map";
        assert_eq!(credentials.unwrap_err().to_string(), text);
    };
    refused(Credentials::function(7));
    refused(Credentials::function("text"));
    refused(Credentials::function(ObjectId::new([1; 12])));
    refused(Credentials::function(DateTime::from_millis(1)));
    refused(Credentials::function(Binary::default()));
    refused(Credentials::function(Decimal128("1".into())));
    refused(Credentials::other("some", Double(f64::NAN)));
    refused(Credentials::function(json!({"$undefined": true})));
    assert!(Credentials::function(json!({"id": ObjectId::new([1; 12]), "$text": 1})).is_ok());
}
