//! Confirming addresses and replacing passwords.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfob::Deadline;
use keyfob::server::{Confirmation, Mail, MailKind, Reset, Server, ServerBuilder, Verdict};
use serde_json::{Value, json};

use crate::client::{Answer, Client, LogIn, ManualClock};

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client, ManualClock) {
    let clock = ManualClock::new();
    let server = set(Server::builder().clock(clock.clone())).start().unwrap();
    let client = Client::new(&server);
    (server, client, clock)
}

fn by_mail() -> (Server, Client, ManualClock) {
    start(|builder| builder.confirmation(Confirmation::Email))
}

#[track_caller]
fn mail(server: &Server, to: &str, kind: MailKind) -> Mail {
    server.wait_for_mail(to, kind, Deadline::after(Duration::ZERO)).expect("a mail")
}

fn tokens(mail: &Mail) -> Value {
    json!({"token": mail.token.expose(), "tokenId": mail.token_id})
}

fn with_password(mail: &Mail, password: &str) -> Value {
    json!({"token": mail.token.expose(), "tokenId": mail.token_id, "password": password})
}

#[track_caller]
fn assert_ok(answer: &Answer) {
    assert_eq!((answer.status, answer.text.as_str()), (200, "{}"));
}

const ADA: &str = "ada@example.org";
const EXPIRED: &str = "userpass token is expired or invalid";

#[test]
fn mailed_token_confirms_address() {
    let (server, client, _) = by_mail();
    assert_eq!(client.register(ADA, "hunter22").status, 201);
    client.try_password(ADA, "hunter22").assert_error(401, "AuthError", "unauthorized");
    client.try_password(ADA, "hunter23").assert_error(401, "InvalidPassword", "unauthorized");
    let again = client.register(ADA, "hunter22");
    again.assert_error(409, "AccountNameInUse", "name already in use");
    let mail = mail(&server, ADA, MailKind::Confirmation);
    assert!(mail.link.expose().starts_with(&format!("{}/confirm?token=", server.base_url())));
    assert!(mail.link.expose().ends_with(&format!("&tokenId={}", mail.token_id)));
    assert!(server.outbox().is_empty(), "it was taken");
    assert_ok(&client.email("confirm", &tokens(&mail)));
    assert_eq!(client.try_password(ADA, "hunter22").status, 200);
    let answer = client.email("confirm", &tokens(&mail));
    answer.assert_error(400, "UserAlreadyConfirmed", "already confirmed");
}

#[test]
fn malformed_and_unknown_tokens_differ() {
    let (server, client, _) = by_mail();
    client.register(ADA, "hunter22");
    let mail = mail(&server, ADA, MailKind::Confirmation);
    for (token, id) in [("", ""), ("bad", "bad"), ("", &*mail.token_id), ("x", &"5f".repeat(12))] {
        let body = json!({"token": token, "tokenId": id, "password": "hunter22"});
        for operation in ["confirm", "reset"] {
            let answer = client.email(operation, &body);
            answer.assert_error(400, "BadRequest", "invalid token data");
        }
    }
    let body = json!({"token": "00", "tokenId": mail.token_id});
    client.email("confirm", &body).assert_error(400, "UserpassTokenInvalid", EXPIRED);
    let answer = client.email("reset", &with_password(&mail, "hunter23"));
    answer.assert_error(400, "UserpassTokenInvalid", EXPIRED);
    assert_ok(&client.email("confirm", &tokens(&mail)));
}

#[test]
fn newest_token_is_valid_for_half_hour() {
    let (server, client, clock) = by_mail();
    client.register(ADA, "hunter22");
    let first = mail(&server, ADA, MailKind::Confirmation);
    assert_ok(&client.email("confirm/send", &json!({"email": ADA})));
    let second = mail(&server, ADA, MailKind::Confirmation);
    let answer = client.email("confirm", &tokens(&first));
    answer.assert_error(400, "UserpassTokenInvalid", EXPIRED);
    clock.advance(1800);
    let answer = client.email("confirm", &tokens(&second));
    answer.assert_error(400, "UserpassTokenInvalid", EXPIRED);
    assert_ok(&client.email("confirm/send", &json!({"email": ADA})));
    let third = mail(&server, ADA, MailKind::Confirmation);
    clock.advance(1799);
    assert_ok(&client.email("confirm", &tokens(&third)));
}

#[test]
fn operation_of_other_mode_is_rejected() {
    let ada = json!({"email": ADA});
    let (_server, client, _) = start(|builder| builder);
    client.register(ADA, "hunter22");
    client.email("confirm/call", &ada).assert_error(
        400,
        "",
        "cannot run confirmation for ada@example.org: automatic confirmation is enabled",
    );
    let answer = client.email("confirm/send", &ada);
    answer.assert_error(400, "UserAlreadyConfirmed", "already confirmed");
    let call = json!({"email": ADA, "password": "hunter23", "arguments": []});
    let answer = client.email("reset/call", &call);
    let message = "cannot run reset password function: reset by email is enabled";
    answer.assert_error(400, "", message);

    let (_server, client, _) = by_mail();
    client.register(ADA, "hunter22");
    client.email("confirm/call", &ada).assert_error(
        400,
        "",
        "cannot run confirmation for ada@example.org: confirmation by email is enabled",
    );

    let (_server, client, _) = start(|builder| {
        let never = Confirmation::function(|_| Verdict::Pending);
        builder.confirmation(never).reset(Reset::function(|_| Verdict::Fail))
    });
    client.register(ADA, "hunter22");
    client.email("confirm/send", &ada).assert_error(
        400,
        "",
        "cannot send mail to ada@example.org: confirmation is not by email",
    );
    let answer = client.email("reset/send", &ada);
    answer.assert_error(400, "", "please use reset password via function");
}

#[test]
fn unknown_addresses_are_not_found() {
    let bob = json!({"email": "bob", "password": "hunter22", "arguments": []});
    let (_server, client, _) = by_mail();
    for operation in ["confirm/send", "confirm/call", "reset/send"] {
        client.email(operation, &bob).assert_error(404, "UserNotFound", "user not found");
    }
    let (_server, client, _) =
        start(|builder| builder.reset(Reset::function(|_| Verdict::Success)));
    client.email("reset/call", &bob).assert_error(404, "UserNotFound", "user not found");
}

#[test]
fn panicking_confirmation_creates_no_account() {
    let (_server, client, _) =
        start(|builder| builder.confirmation(Confirmation::function(|_| panic!("on purpose"))));
    for _ in 0..2 {
        assert_eq!(client.register("ada", "hunter22").status, 500);
    }
}

#[test]
fn function_confirms_addresses() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let (_server, client, _) = start(move |builder| {
        builder.confirmation(Confirmation::function(move |call| {
            let mut calls = seen.lock().unwrap();
            calls.push(call.clone());
            match call.username.split('@').next() {
                Some("yes") => Verdict::Success,
                Some("no") => Verdict::Fail,
                // At the second time.
                Some("retry") if calls.len() > 1 => Verdict::Success,
                _ => Verdict::Pending,
            }
        }))
    });
    assert_eq!(client.register("retry", "hunter22").status, 201);
    client.try_password("retry", "hunter22").assert_error(401, "AuthError", "unauthorized");
    let retried = client.email("confirm/call", &json!({"email": "retry"}));
    assert_eq!((retried.status, retried.json()), (200, json!({"status": "success"})));
    assert_eq!(client.try_password("retry", "hunter22").status, 200);
    let answer = client.email("confirm/call", &json!({"email": "retry"}));
    answer.assert_error(400, "UserAlreadyConfirmed", "already confirmed");

    assert_eq!(client.register("yes", "hunter22").status, 201);
    assert_eq!(client.try_password("yes", "hunter22").status, 200);
    let no = "failed to confirm user \"no\"";
    client.register("no", "hunter22").assert_error(400, "BadRequest", no);
    client.register("no", "hunter22").assert_error(400, "BadRequest", no);
    client.try_password("no", "hunter22").assert_error(401, "InvalidPassword", "unauthorized");

    assert_eq!(client.register("later", "hunter22").status, 201);
    let call = calls.lock().unwrap().last().unwrap().clone();
    assert_eq!(call.username, "later");
    assert!(!format!("{call:?}").contains(call.token.expose()));
    let body = json!({"token": call.token.expose(), "tokenId": call.token_id});
    assert_ok(&client.email("confirm", &body));
    assert_eq!(client.try_password("later", "hunter22").status, 200);
}

#[test]
fn mailed_token_resets_password_once() {
    let (server, client, clock) = start(|builder| builder.reset_url("http://a/?x"));
    let user = client.ada();
    assert_ok(&client.email("reset/send", &json!({"email": ADA})));
    let first = mail(&server, ADA, MailKind::PasswordReset);
    assert!(first.link.expose().starts_with("http://a/?x&token="), "its own address");
    assert_ok(&client.email("reset/send", &json!({"email": ADA})));
    let second = mail(&server, ADA, MailKind::PasswordReset);
    let answer = client.email("reset", &with_password(&first, "hunter23"));
    answer.assert_error(400, "UserpassTokenInvalid", EXPIRED);
    let answer = client.email("reset", &with_password(&second, "short"));
    let length = "password must be between 6 and 128 characters";
    answer.assert_error(400, "InvalidParameter", length);
    clock.advance(1799);
    assert_ok(&client.email("reset", &with_password(&second, "hunter23")));
    let answer = client.email("reset", &with_password(&second, "hunter24"));
    answer.assert_error(400, "UserpassTokenInvalid", EXPIRED);

    let old = client.try_password(ADA, "hunter22");
    old.assert_error(401, "InvalidPassword", "unauthorized");
    let again = LogIn::read(&client.try_password(ADA, "hunter23"));
    assert_eq!(again.user_id, user.user_id);
    assert_eq!(client.refresh(&user.refresh).error().1, "InvalidSession", "sessions have ended");
    assert_eq!(client.refresh(&again.refresh).status, 201);
}

#[test]
fn reset_token_expires() {
    let (server, client, clock) = start(|builder| builder);
    client.ada();
    client.email("reset/send", &json!({"email": ADA}));
    let mail = mail(&server, ADA, MailKind::PasswordReset);
    clock.advance(1800);
    let answer = client.email("reset", &with_password(&mail, "hunter23"));
    answer.assert_error(400, "UserpassTokenInvalid", EXPIRED);
    assert_eq!(client.try_password(ADA, "hunter22").status, 200);
}

#[test]
fn function_resets_passwords() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let (_server, client, _) = start(move |builder| {
        builder.reset(Reset::function(move |call| {
            seen.lock().unwrap().push(call.clone());
            match call.arguments.first().and_then(Value::as_str) {
                Some("yes") => Verdict::Success,
                Some("later") => Verdict::Pending,
                _ => Verdict::Fail,
            }
        }))
    });
    let user = client.ada();
    let call = |password: &str, arguments: Value| {
        let body = json!({"email": ADA, "password": password, "arguments": arguments});
        client.email("reset/call", &body)
    };
    let failed = "failed to reset password for user \"ada@example.org\"";
    call("hunter23", json!([])).assert_error(400, "BadRequest", failed);
    assert_eq!(call("short", json!(["yes"])).error().1, "InvalidParameter");
    assert_eq!(client.refresh(&user.refresh).status, 201);
    assert_eq!(call("hunter23", json!(["yes"])).json(), json!({"status": "success"}));
    assert_eq!(client.refresh(&user.refresh).status, 401);
    assert_eq!(client.try_password(ADA, "hunter23").status, 200);

    let later = call("hunter24", json!(["later", {"$numberInt": "1"}]));
    assert_eq!((later.status, later.json()), (200, json!({"status": "pending"})));
    assert_eq!(client.try_password(ADA, "hunter23").status, 200);
    let last = calls.lock().unwrap().last().unwrap().clone();
    assert_eq!((last.password.expose(), last.arguments.len()), ("hunter24", 2));
    let body = json!({
        "token": last.token.expose(), "tokenId": last.token_id, "password": "hunter25",
    });
    assert_ok(&client.email("reset", &body));
    assert_eq!(client.try_password(ADA, "hunter25").status, 200);
}

#[test]
fn mail_callback_gets_mails_and_debug_hides_secrets() {
    let notified = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&notified);
    let (server, client, _) = start(move |builder| {
        let builder = builder.confirmation(Confirmation::Email);
        builder.on_mail(move |mail| seen.lock().unwrap().push(mail.clone()))
    });
    client.register(ADA, "hunter22");
    assert_eq!(server.outbox(), *notified.lock().unwrap());
    let mail = server.outbox().remove(0);
    assert_eq!((mail.to.as_str(), mail.kind), (ADA, MailKind::Confirmation));
    assert!(!format!("{mail:?}").contains(mail.token.expose()));
    let late = Deadline::after(Duration::from_millis(20));
    assert_eq!(server.wait_for_mail("nobody", MailKind::Confirmation, late), None);
}

#[test]
fn opening_mailed_link_changes_nothing() {
    let (server, client, _) = by_mail();
    client.register(ADA, "hunter22");
    client.email("reset/send", &json!({"email": ADA}));
    for kind in [MailKind::Confirmation, MailKind::PasswordReset] {
        let mail = mail(&server, ADA, kind);
        let mut page = ureq::get(mail.link.expose()).call().unwrap();
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        assert_eq!(page.headers()["referrer-policy"], "no-referrer");
        let page = page.body_mut().read_to_string().unwrap();
        assert!(page.contains("/app/keyfob-local/auth/providers/local-userpass/"), "{page}");
        assert!(!page.contains("{app}") && !page.contains("{title}"), "{page}");
        assert!(!page.contains(mail.token.expose()));
    }
    client.try_password(ADA, "hunter22").assert_error(401, "AuthError", "unauthorized");
}

#[test]
fn bearer_token_is_ignored() {
    let (_server, client, _) = start(|builder| builder);
    let path = client.app("/auth/providers/local-userpass/reset/send");
    let answer = client.send("POST", &path, Some("not.a.token"), r#"{"email":"x"}"#);
    answer.assert_error(404, "UserNotFound", "user not found");
    let path = client.app("/auth/providers/local-userpass/nope");
    assert_eq!(client.send("POST", &path, None, "{}").status, 404);
}

/// Whether a pair belongs to an account is nobody's business: the service answers an unknown pair
/// like an expired one.
#[test]
fn unknown_token_pair_is_answered_as_expired() {
    let (_server, client, _) = by_mail();
    client.register(ADA, "hunter22");
    let (token, id) = ("0e6340a446e68fe0".repeat(8), "6268f7dd73fafea76b730fc9");
    for id in [id, &*id.to_uppercase()] {
        let body = json!({"token": token, "tokenId": id, "password": "hunter22"});
        for operation in ["confirm", "reset"] {
            let answer = client.email(operation, &body);
            answer.assert_error(400, "UserpassTokenInvalid", EXPIRED);
        }
    }
    let hex = "ab".repeat(513);
    for (token, id) in [("abc", "123"), ("not hex!", id), (&token, "6268f7dd"), (&hex, id)] {
        let body = json!({"token": token, "tokenId": id, "password": "hunter22"});
        for operation in ["confirm", "reset"] {
            let answer = client.email(operation, &body);
            answer.assert_error(400, "BadRequest", "invalid token data");
        }
    }
}

/// Which way of resetting an app has does not matter to an address that nobody registered.
#[test]
fn unknown_address_is_not_found_in_every_mode() {
    let bob = json!({"email": "bob", "password": "hunter22", "arguments": []});
    let confirmations: [fn() -> Confirmation; 3] = [
        || Confirmation::Automatic,
        || Confirmation::Email,
        || Confirmation::function(|_| Verdict::Success),
    ];
    let resets: [fn() -> Reset; 2] = [|| Reset::Email, || Reset::function(|_| Verdict::Success)];
    for confirmation in confirmations {
        for reset in resets {
            let (_server, client, _) =
                start(|builder| builder.confirmation(confirmation()).reset(reset()));
            for operation in ["confirm/send", "confirm/call", "reset/send", "reset/call"] {
                let answer = client.email(operation, &bob);
                answer.assert_error(404, "UserNotFound", "user not found");
            }
        }
    }
}
