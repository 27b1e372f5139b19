//! E-mail confirmation and password reset: the requests, and the errors for refusals.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use keyfob::{RequestOutcome, Secret, ServerErrorCode};
use serde_json::{Value, json};
use support::*;

const USERPASS: &str = "POST /auth/providers/local-userpass";

#[test]
fn operations_send_own_fields_without_token() {
    let (script, _, session, _) = logged_in();
    for suffix in ["confirm", "confirm/send", "confirm/call", "reset/send", "reset", "reset/call"] {
        script.reply(&format!("{USERPASS}/{suffix}"), 200, json!({}));
    }
    let accounts = session.email_password();
    let secret = Secret::new;
    accounts.confirm(secret("t"), "i").unwrap();
    accounts.resend_confirmation("a@b").unwrap();
    accounts.retry_custom_confirmation("a@b").unwrap();
    accounts.send_reset("a@b").unwrap();
    accounts.complete_reset(secret("new"), secret("t"), "i").unwrap();
    accounts.call_reset_function("a@b", secret("new"), (1, "x")).unwrap();
    accounts.call_reset_function("a@b", secret("new"), ()).unwrap();
    let sent: Vec<_> =
        script.sent().into_iter().map(|sent| (sent.route, sent.body.unwrap())).collect();
    let expected = [
        ("confirm", json!({"token": "t", "tokenId": "i"})),
        ("confirm/send", json!({"email": "a@b"})),
        ("confirm/call", json!({"email": "a@b"})),
        ("reset/send", json!({"email": "a@b"})),
        ("reset", json!({"password": "new", "token": "t", "tokenId": "i"})),
        (
            "reset/call",
            json!({"email": "a@b", "password": "new", "arguments": [{"$numberInt": "1"}, "x"]}),
        ),
        ("reset/call", json!({"email": "a@b", "password": "new", "arguments": []})),
    ];
    for (sent, (suffix, body)) in sent.iter().zip(expected) {
        assert_eq!(*sent, (format!("{USERPASS}/{suffix}"), body));
    }
    assert!(script.sent().iter().all(|sent| sent.bearer.is_none()));
}

#[test]
fn refusals_carry_their_code() {
    let (script, _, session, _) = logged_in();
    for (suffix, status, code) in [
        ("confirm", 400, ServerErrorCode::UserpassTokenInvalid),
        ("confirm/send", 404, ServerErrorCode::UserNotFound),
        ("confirm/call", 400, ServerErrorCode::UserAlreadyConfirmed),
    ] {
        script.reply(&format!("{USERPASS}/{suffix}"), status, error_body(code.as_str(), "no"));
        let accounts = session.email_password();
        let error = match suffix {
            "confirm" => accounts.confirm(Secret::new("t"), "i"),
            "confirm/send" => accounts.resend_confirmation("a@b"),
            _ => accounts.retry_custom_confirmation("a@b"),
        };
        assert_eq!(error.unwrap_err().server_code(), Some(&code));
    }
    // Flowerbase answers a bad token with 500.
    script.reply(
        &format!("{USERPASS}/confirm"),
        500,
        json!({"message": "Not found", "error": "Internal Server Error", "statusCode": 500}),
    );
    let error = session.email_password().confirm(Secret::new("t"), "i").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the backend refused to confirm the address: Not found (status 500)"
    );
    script.reply(&format!("{USERPASS}/reset/send"), 200, Value::Null);
    session.email_password().send_reset("a@b").unwrap();
}

/// App Services answers `{}`, Flowerbase and keyfob's server a status.
#[test]
fn outcome_follows_backend_response() {
    let (script, _, session, _) = logged_in();
    let accounts = session.email_password();
    for (body, expected) in [
        (json!({"status": "success"}), RequestOutcome::Done),
        (json!({"status": "confirmed"}), RequestOutcome::Done),
        (json!({"status": "pending"}), RequestOutcome::Pending),
        (json!({"status": "ok"}), RequestOutcome::Unknown),
        (json!({"status": 7}), RequestOutcome::Unknown),
        (json!({}), RequestOutcome::Unknown),
        (json!(["pending"]), RequestOutcome::Unknown),
        (Value::Null, RequestOutcome::Unknown),
    ] {
        script.reply(&format!("{USERPASS}/reset/call"), 200, body.clone());
        let outcome = accounts.call_reset_function("a@b", "secret1", ()).unwrap();
        assert_eq!(outcome, expected, "{body}");
        script.reply(&format!("{USERPASS}/register"), 201, body.clone());
        assert_eq!(accounts.register_with_outcome("a@b", "secret1").unwrap(), expected, "{body}");
    }
}

/// The field is named `email`, not `username`.
#[test]
fn registration_sends_no_token_and_logs_no_user_in() {
    let (script, _, session, _) = logged_in();
    let route = "POST /auth/providers/local-userpass/register";
    script.reply(route, 201, json!({}));
    session.email_password().register("bob@example.org", Secret::new("secret1")).unwrap();
    let sent = &script.sent()[0];
    assert_eq!((sent.route.as_str(), &sent.bearer), (route, &None));
    assert_eq!(sent.body, Some(json!({"email": "bob@example.org", "password": "secret1"})));
    assert_eq!(session.users().unwrap().len(), 1);
    script.reply(route, 409, error_body("AccountNameInUse", "name already in use"));
    let error = session.email_password().register("bob@example.org", Secret::new("x")).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::AccountNameInUse));
}
