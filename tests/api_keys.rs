//! API keys: create, list, enable, disable and delete. These requests are authenticated with the
//! refresh token.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use keyfob::{ApiKeyId, Error, ServerErrorCode, UserState};
use serde_json::{Value, json};
use support::*;

const KEYS: &str = "/auth/api_keys";

fn key(id: &str, disabled: bool) -> Value {
    json!({"_id": id, "name": "ci", "disabled": disabled})
}

#[test]
fn key_secret_is_returned_by_create_only() {
    let (script, _, _, user) = logged_in();
    let mut body = key("k1", false);
    body["key"] = "sekret".into();
    script.reply("POST /auth/api_keys", 201, body);
    let (made, secret) = user.api_keys().create("ci").unwrap();
    assert_eq!((made.id.as_str(), made.name.as_str(), made.is_enabled), ("k1", "ci", true));
    assert_eq!(secret.expose(), "sekret");
    assert!(!format!("{made:?} {secret:?}").contains("sekret"));
    let sent = &script.sent()[0];
    assert_eq!(sent.bearer, Some(refresh("r1")), "these calls carry the refresh token");
    assert_eq!(sent.body, Some(json!({"name": "ci"})));
}

#[test]
fn missing_key_is_none_and_list_may_be_empty() {
    let (script, _, _, user) = logged_in();
    let id = ApiKeyId::new("k/1");
    script.reply(
        "GET /auth/api_keys/k%2F1",
        200,
        json!({"_id": {"$oid": "k1"}, "name": "ci", "disabled": true}),
    );
    let found = user.api_keys().get(&id).unwrap().unwrap();
    assert_eq!((found.id.as_str(), found.is_enabled), ("k1", false));
    script.reply(
        "GET /auth/api_keys/k%2F1",
        404,
        error_body("APIKeyNotFound", "API key not found"),
    );
    assert_eq!(user.api_keys().get(&id).unwrap(), None);
    script.reply(&format!("GET {KEYS}"), 200, json!([]));
    assert_eq!(user.api_keys().list().unwrap(), []);
    script.reply(&format!("GET {KEYS}"), 200, json!([key("k1", false), key("k2", true)]));
    let enabled: Vec<_> =
        user.api_keys().list().unwrap().iter().map(|key| key.is_enabled).collect();
    assert_eq!(enabled, [true, false]);
}

#[test]
fn enable_disable_and_delete_send_no_body() {
    let (script, _, _, user) = logged_in();
    let id = ApiKeyId::new("k1");
    for route in [
        "PUT /auth/api_keys/k1/enable",
        "PUT /auth/api_keys/k1/disable",
        "DELETE /auth/api_keys/k1",
    ] {
        script.reply(route, 204, Value::Null);
    }
    user.api_keys().enable(&id).unwrap();
    user.api_keys().disable(&id).unwrap();
    user.api_keys().delete(&id).unwrap();
    assert!(script.sent().iter().all(|sent| sent.body.is_none()));
    for route in ["PUT /auth/api_keys/k1/enable", "DELETE /auth/api_keys/k1"] {
        script.reply(route, 404, error_body("APIKeyNotFound", "API key not found"));
    }
    let error = user.api_keys().enable(&id).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::ApiKeyNotFound));
    user.api_keys().delete(&id).unwrap();
}

/// Every API key call needs a login, and reports when the backend has ended it.
#[test]
fn key_calls_detect_ended_login() {
    let (script, _, _, user) = logged_in();
    script.reply(&format!("GET {KEYS}"), 401, json!({"error": "unauthorized"}));
    assert_eq!(user.api_keys().list().unwrap_err().status(), Some(401));
    assert_eq!(user.state().unwrap(), UserState::LoggedIn, "no code, no definite answer");
    script.reply(&format!("GET {KEYS}"), 401, error_body("InvalidSession", "gone"));
    assert!(matches!(user.api_keys().list().unwrap_err(), Error::LoginEnded(_)));
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
    script.clear();
    let id = ApiKeyId::new("k1");
    for error in [
        user.api_keys().create("x").unwrap_err(),
        user.api_keys().list().unwrap_err(),
        user.api_keys().get(&id).unwrap_err(),
        user.api_keys().enable(&id).unwrap_err(),
        user.api_keys().disable(&id).unwrap_err(),
        user.api_keys().delete(&id).unwrap_err(),
    ] {
        assert!(error.needs_login(), "{error}");
    }
    assert_eq!(script.routes(), Vec::<String>::new());
}

#[test]
fn created_key_without_secret_is_error() {
    let (script, _, _, user) = logged_in();
    script.reply("POST /auth/api_keys", 201, key("k1", false));
    assert!(matches!(user.api_keys().create("ci").unwrap_err(), Error::Decode(_)));
}
