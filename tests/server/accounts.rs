//! Location, registration and log-in.

use std::sync::{Arc, Mutex};

use serde_json::json;

use keyfob::server::{Confirmation, Reset, Server};

use crate::client::{Client, LogIn, connect, raw, read_answer, statuses};

fn start() -> (Server, Client) {
    let server = Server::builder().app_id("my-app-abcde").start().unwrap();
    let client = Client::new(&server);
    (server, client)
}

#[test]
fn location_has_all_four_fields() {
    let (server, client) = start();
    let answer = client.send("GET", &client.app("/location"), None, "");
    assert_eq!(answer.status, 200);
    let host = server.base_url().strip_prefix("http://").unwrap();
    assert_eq!(
        answer.json(),
        json!({
            "hostname": format!("http://{host}"),
            "ws_hostname": format!("ws://{host}"),
            "deployment_model": "GLOBAL",
            "location": "US-VA",
        })
    );
}

#[test]
fn location_uses_requested_host() {
    let (server, _) = start();
    let ask = |host: &str| {
        let path = "/api/client/v2.0/app/my-app-abcde/location";
        raw(&server, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    assert!(ask("localhost:1234").contains(r#""hostname":"http://localhost:1234""#));
    let own = format!(r#""hostname":"{}""#, server.base_url());
    assert!(ask("evil/path").contains(&own));
}

#[test]
fn location_behind_proxy_is_public_url() {
    let public = |url: &str| Server::builder().public_url(url).confirmation(Confirmation::Email);
    let server = public("https://auth.example.org/").start().unwrap();
    assert_eq!(server.base_url(), "https://auth.example.org");
    let location = "/api/client/v2.0/app/keyfob-local/location";
    let answer = raw(&server, format!("GET {location} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"));
    assert!(answer.contains(r#""hostname":"https://auth.example.org""#), "{answer}");
    assert!(answer.contains(r#""ws_hostname":"wss://auth.example.org""#), "{answer}");
    let (path, body) = ("register", r#"{"email":"ada@example.org","password":"hunter22"}"#);
    let register = format!(
        "POST /api/client/v2.0/app/keyfob-local/auth/providers/local-userpass/{path} HTTP/1.0\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(statuses(&raw(&server, register)), [201]);
    let link = &server.outbox()[0].link;
    assert!(link.expose().starts_with("https://auth.example.org/confirm?token="), "{link:?}");
    for bad in ["", "auth.example.org", "https://", "ftp://a", "https://a?b", "https://a:99999"] {
        let error = public(bad).start().unwrap_err().to_string();
        assert!(error.contains("expected something like https://example.org"), "{error}");
    }
}

#[test]
fn unknown_app_is_not_found() {
    let (_server, client) = start();
    let message = "cannot find app using Client App ID 'no-such-app'";
    for (method, path) in [
        ("GET", "/app/no-such-app/location"),
        ("POST", "/app/no-such-app/auth/providers/anon-user/login"),
        ("POST", "/app/no-such-app/functions/call"),
    ] {
        client.send(method, path, None, "{}").assert_error(404, "", message);
    }
}

#[test]
fn registration_returns_201_without_user() {
    let (server, client) = start();
    let answer = client.register("ada@example.org", "hunter22");
    assert_eq!((answer.status, answer.text.as_str()), (201, r#"{"status":"success"}"#));
    assert!(server.journal().iter().all(|entry| entry.user_id.is_none()));
}

#[test]
fn address_is_registered_once_case_sensitively() {
    let (_server, client) = start();
    client.register("ada@example.org", "hunter22");
    let again = client.register("ada@example.org", "other-password");
    again.assert_error(409, "AccountNameInUse", "name already in use");
    assert_eq!(client.register("Ada@example.org", "hunter22").status, 201);
}

#[test]
fn one_concurrent_registration_succeeds() {
    let (_server, client) = start();
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let register = || client.register("ada@example.org", "hunter22").status;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(register)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
}

#[test]
fn passwords_have_6_to_128_characters() {
    let (_server, client) = start();
    let refused = "password must be between 6 and 128 characters";
    for (email, password) in [("a", "12345"), ("b", ""), ("c", &"x".repeat(129))] {
        client.register(email, password).assert_error(400, "InvalidParameter", refused);
    }
    // Characters, not bytes: this one has 384 of those.
    let long = "\u{20ac}".repeat(128);
    assert_eq!(client.register("long", &long).status, 201);
    assert_eq!(client.try_password("long", &long).status, 200);
    assert_eq!(client.register("short", "123456").status, 201);
}

/// Addresses reach mails, logs and functions as they are.
#[test]
fn address_with_control_characters_is_refused() {
    let mails = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&mails);
    let server = Server::builder()
        .confirmation(Confirmation::Email)
        .on_mail(move |mail| seen.lock().unwrap().push(mail.to.clone()))
        .start()
        .unwrap();
    let client = Client::new(&server);
    let guest = client.anonymous();
    for email in [
        "a@b\r\nBcc: c@d",
        "a@b\n",
        "\ra@b",
        "a\0@b",
        "a\t@b",
        "a@b\u{7f}",
        "a@b\u{85}",
        "a@b\u{9b}",
    ] {
        client.register(email, "hunter22").assert_error(400, "InvalidParameter", "email invalid");
        for operation in ["confirm/send", "confirm/call", "reset/send"] {
            let answer = client.email(operation, &json!({"email": email}));
            answer.assert_error(400, "InvalidParameter", "email invalid");
        }
        let answer = client.try_password(email, "hunter22");
        answer.assert_error(401, "InvalidPassword", "unauthorized");
        let body = json!({"username": email, "password": "hunter22"});
        assert_eq!(client.link(&guest.access, "local-userpass", &body).status, 401);
    }
    assert_eq!(mails.lock().unwrap().len(), 0);
    assert_eq!(client.register("Ann O'Neil+x@\u{4f8b}.example", "hunter22").status, 201);
    assert_eq!(mails.lock().unwrap().len(), 1);
}

#[test]
fn reset_function_gets_no_control_characters() {
    let reset = Reset::function(|call| panic!("called for {:?}", call.username));
    let server = Server::builder().reset(reset).start().unwrap();
    let client = Client::new(&server);
    let body = json!({"email": "a@b\r\n", "password": "hunter22", "arguments": []});
    let answer = client.email("reset/call", &body);
    answer.assert_error(400, "InvalidParameter", "email invalid");
}

#[test]
fn empty_address_is_rejected() {
    let (_server, client) = start();
    client.register("", "hunter22").assert_error(400, "InvalidParameter", "email invalid");
    let path = client.app("/auth/providers/local-userpass/register");
    let answer = client.send("POST", &path, None, r#"{"password":"hunter22"}"#);
    answer.assert_error(400, "InvalidParameter", "email invalid");
    let answer = client.send("POST", &path, None, "");
    answer.assert_error(400, "InvalidParameter", "email invalid");
}

#[test]
fn login_returns_four_text_fields() {
    let (_server, client) = start();
    client.register("ada@example.org", "hunter22");
    let answer = client.try_password("ada@example.org", "hunter22");
    let body = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!(body.as_object().unwrap().len(), 4);
    for name in ["user_id", "device_id"] {
        let id = body[name].as_str().unwrap();
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(id.len() == 24 && id.bytes().all(hex), "{name}: {id}");
    }
    for name in ["access_token", "refresh_token"] {
        assert_eq!(body[name].as_str().unwrap().split('.').count(), 3, "{name}");
    }
}

#[test]
fn repeated_login_returns_same_user() {
    let (_server, client) = start();
    let (first, second) = (client.ada(), client.ada());
    assert_eq!(first.user_id, second.user_id);
    assert_ne!(first.refresh, second.refresh);
    let identities = client.profile(&second.access).json()["identities"].clone();
    assert_eq!(identities.as_array().unwrap().len(), 1);
}

#[test]
fn anonymous_login_creates_new_user() {
    let (_server, client) = start();
    assert_ne!(client.anonymous().user_id, client.anonymous().user_id);
}

#[test]
fn wrong_password_and_unknown_address_look_alike() {
    let (_server, client) = start();
    client.register("ada@example.org", "hunter22");
    let answers = [
        client.try_password("ada@example.org", "hunter23"),
        client.try_password("ada@example.org", ""),
        client.try_password("bob@example.org", "hunter22"),
        client.try_password(&"b".repeat(5000), "hunter22"),
    ];
    for answer in answers {
        answer.assert_error(401, "InvalidPassword", "unauthorized");
    }
}

#[test]
fn login_with_missing_fields_is_rejected() {
    let (_server, client) = start();
    let answer = client.try_log_in("local-userpass", r#"{"email":"a","password":"hunter22"}"#);
    answer.assert_error(400, "MissingParameter", "missing parameter: username");
    let answer = client.try_log_in("local-userpass", r#"{"username":"a"}"#);
    answer.assert_error(400, "MissingParameter", "missing parameter: password");
}

#[test]
fn unknown_fields_and_options_are_ignored() {
    let (_server, client) = start();
    client.register("ada@example.org", "hunter22");
    let body = json!({
        "provider": "something-else", "username": "ada@example.org", "password": "hunter22",
        "options": {"device": {"platform": "Linux", "sdkVersion": "", "appId": 7}},
        "future": [{"a": 1}], "token": 7, "key": null,
    });
    assert_eq!(client.try_log_in("local-userpass", &body.to_string()).status, 200);
    let answer = client.try_log_in("anon-user", r#"{"provider":"anon-user","options":null}"#);
    assert_eq!(answer.status, 200);
}

#[test]
fn login_and_registration_ignore_bearer_token() {
    let (_server, client) = start();
    let path = client.app("/auth/providers/local-userpass/register");
    let body = r#"{"email":"ada@example.org","password":"hunter22"}"#;
    assert_eq!(client.send("POST", &path, Some("garbage"), body).status, 201);
    let path = client.app("/auth/providers/anon-user/login");
    assert_eq!(client.send("POST", &path, Some("garbage"), "{}").status, 200);
}

#[test]
fn anonymous_login_accepts_any_empty_body() {
    let (server, client) = start();
    assert_eq!(client.try_log_in("anon-user", "").status, 200, "empty, called JSON");
    assert_eq!(client.try_log_in("anon-user", " \r\n").status, 200, "blank, called JSON");
    let path = "/api/client/v2.0/app/my-app-abcde/auth/providers/anon-user/login";
    let mut stream = connect(&server);
    let ask = format!("POST {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    std::io::Write::write_all(&mut stream, ask.as_bytes()).unwrap();
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200 "), "no body at all");
}

#[test]
fn device_id_is_stored_unless_zeros() {
    let (_server, client) = start();
    let device_id = |device: serde_json::Value| {
        let body = json!({"options": {"device": {"deviceId": device}}}).to_string();
        client.try_log_in("anon-user", &body).json()["device_id"].as_str().unwrap().to_owned()
    };
    let known = "0123456789abcdef01234567";
    assert_eq!(device_id(json!({"$oid": known})), known);
    assert_eq!(device_id(json!(known)), known);
    let zeros = "0".repeat(24);
    assert_ne!(device_id(json!({"$oid": zeros})), zeros);
    assert_ne!(device_id(json!("not an id")), "not an id");
}

#[test]
fn malformed_bodies_are_rejected_without_quote() {
    let (_server, client) = start();
    for body in [
        r#"{"username":"ada@example.org","password":"top-secret""#,
        r#"{"username":"ada@example.org","password":["top-secret"]}"#,
        r#"{"username":{"top-secret":1},"password":"x"}"#,
        r#"["ada@example.org","top-secret"]"#,
        r#""top-secret""#,
        "top-secret",
        "\u{0}top-secret",
    ] {
        let answer = client.try_log_in("local-userpass", body);
        assert_eq!((answer.status, answer.error().1.as_str()), (400, "BadRequest"), "{body}");
        assert!(!answer.text.contains("top-secret"), "{}", answer.text);
    }
}

/// A disabled user cannot log in.
#[test]
fn enabled_user_logs_in_again_as_before() {
    let (server, client) = start();
    let user = client.ada();
    server.disable_user(&user.user_id).unwrap();
    let answer = client.try_password("ada@example.org", "hunter22");
    answer.assert_error(401, "UserDisabled", "user disabled");
    let answer = client.try_password("ada@example.org", "wrong password");
    answer.assert_error(401, "InvalidPassword", "unauthorized");
    server.enable_user(&user.user_id).unwrap();
    let again = LogIn::read(&client.try_password("ada@example.org", "hunter22"));
    assert_eq!(again.user_id, user.user_id);
}
