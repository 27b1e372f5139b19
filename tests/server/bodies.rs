//! Bodies that are odd: read where their meaning is clear, refused with 400 where it is not.

use keyfob::server::{AuthFunctionAnswer, Server};
use serde_json::{Value, json};

use crate::client::{Answer, Client, LogIn};

fn start() -> (Server, Client) {
    let server = Server::builder()
        .built_in_functions()
        .auth_function(|payload| {
            Ok(AuthFunctionAnswer::new(payload["id"].to_string()).data("sent", payload.clone()))
        })
        .start()
        .unwrap();
    let client = Client::new(&server);
    (server, client)
}

fn call(client: &Client, user: &LogIn, body: &str) -> Answer {
    client.send("POST", &client.app("/functions/call"), Some(&user.access), body)
}

/// As RFC 8259 section 8.1 allows, and as keyfob reads responses.
#[test]
fn byte_order_mark_is_ignored() {
    let (_server, client) = start();
    let marked = |body: &Value| format!("\u{feff} {body}");
    let ada = json!({"email": "ada", "username": "ada", "password": "hunter22"});
    let register = client.app("/auth/providers/local-userpass/register");
    assert_eq!(client.send("POST", &register, None, &marked(&ada)).status, 201);
    let user = LogIn::read(&client.try_log_in("local-userpass", &marked(&ada)));
    LogIn::read(&client.try_log_in("custom-function", &marked(&json!({"id": 1}))));
    let key = client.send(
        "POST",
        "/auth/api_keys",
        Some(&user.refresh),
        &marked(&json!({"name": "key"})),
    );
    assert_eq!(key.status, 201);
    let echo = marked(&json!({"name": "echo", "arguments": ["\u{feff}"]}));
    assert_eq!(call(&client, &user, &echo).json(), "\u{feff}", "in a text it is a character");
    assert_eq!(client.try_log_in("anon-user", "\u{feff}").status, 200, "an empty body");
    for bad in ["\u{feff}\u{feff}{}", " \u{feff}{}", "\u{feff}[]", "\u{feff}{"] {
        assert_eq!(client.try_log_in("anon-user", bad).status, 400, "{bad:?}");
    }
}

/// `JSON.stringify` writes half of a pair like this, and the service reads it as U+FFFD.
#[test]
fn lone_surrogate_becomes_replacement_character() {
    let (_server, client) = start();
    let body = r#"{"email":"ada\ud83d","username":"ada\ud83d","password":"hunter\ude00"}"#;
    let register = client.app("/auth/providers/local-userpass/register");
    assert_eq!(client.send("POST", &register, None, body).status, 201);
    let user = LogIn::read(&client.try_log_in("local-userpass", body));
    assert_eq!(client.profile(&user.access).json()["data"]["email"], "ada\u{fffd}");
    LogIn::read(&client.try_password("ada\u{fffd}", "hunter\u{fffd}"));
    let echo = r#"{"name":"echo","arguments":["\ud83d",{"\udead":"\ud83d\ude00"}]}"#;
    assert_eq!(call(&client, &user, echo).json(), "\u{fffd}");
    let sent = r#"{"id":"\ud83d","x":{"\udead":"\ud83d\ude00"}}"#;
    let user = LogIn::read(&client.try_log_in("custom-function", sent));
    let sent = &client.profile(&user.access).json()["data"]["sent"];
    assert_eq!(*sent, json!({"id": "\u{fffd}", "x": {"\u{fffd}": "\u{1f600}"}}));
}

/// Nobody knows which one counts: a proxy may have looked at the other one.
#[test]
fn duplicate_field_is_rejected() {
    let (_server, client) = start();
    let user = client.ada();
    let send = |path: &str, body: &str| client.send("POST", path, Some(&user.refresh), body);
    let userpass = |operation| client.app(&format!("/auth/providers/local-userpass/{operation}"));
    for (path, body, field) in [
        (userpass("login"), r#"{"username":"ada","username":"bob","password":"x"}"#, "username"),
        (userpass("login"), r#"{"username":"ada","password":"x","password":"y"}"#, "password"),
        (userpass("register"), r#"{"email":"a","email":"b","password":"x"}"#, "email"),
        (userpass("reset"), r#"{"token":"a","token":"b"}"#, "token"),
        ("/auth/api_keys".to_owned(), r#"{"name":"a","name":"b"}"#, "name"),
    ] {
        let (status, code, message) = send(&path, body).error();
        assert_eq!((status, code.as_str()), (400, "BadRequest"), "{path}: {message}");
        assert!(message.starts_with(&format!("duplicate field `{field}` at line 1")), "{message}");
    }
    let twice = r#"{"name":"echo","name":"sum","arguments":[1]}"#;
    call(&client, &user, twice).assert_error(400, "BadRequest", "invalid function call request");
    // What the server does not read is no concern of its own.
    assert_eq!(client.try_log_in("anon-user", r#"{"x":1,"x":2}"#).status, 200);
}

#[test]
fn null_means_no_field() {
    let (_server, client) = start();
    let user = client.ada();
    let missing = |name: &str| format!("missing parameter: {name}");
    for body in ["{}", r#"{"username":null,"password":null}"#] {
        let answer = client.try_log_in("local-userpass", body);
        answer.assert_error(400, "MissingParameter", &missing("username"));
    }
    for body in [json!({}), json!({"email": null, "password": null})] {
        client.email("register", &body).assert_error(400, "InvalidParameter", "email invalid");
    }
    for body in [json!({}), json!({"token": null, "tokenId": null, "password": null})] {
        client.email("reset", &body).assert_error(400, "BadRequest", "invalid token data");
    }
    for body in ["{}", r#"{"name":null}"#] {
        let answer = client.send("POST", "/auth/api_keys", Some(&user.refresh), body);
        answer.assert_error(400, "MissingParameter", &missing("name"));
    }
    let echo = r#"{"name":"echo","arguments":null,"service":null}"#;
    assert_eq!(call(&client, &user, echo).json(), Value::Null);
}

#[test]
fn nesting_is_limited() {
    let (_server, client) = start();
    let user = client.ada();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let echo = |depth| {
        call(&client, &user, &format!(r#"{{"name":"echo","arguments":[{}]}}"#, nested(depth)))
    };
    assert_eq!(echo(100).status, 200);
    echo(200).assert_error(400, "BadRequest", "invalid function call request");
    let login = |depth| {
        client.try_log_in("custom-function", &format!(r#"{{"id":1,"x":{}}}"#, nested(depth)))
    };
    let (status, _, message) = login(200).error();
    assert!(status == 400 && message.starts_with("too deeply nested value at line 1"), "{message}");
    // Where the server reads nothing, depth is no matter.
    let body =
        format!(r#"{{"x":{},"username":"ada@example.org","password":"hunter22"}}"#, nested(20_000));
    assert_eq!(client.try_log_in("local-userpass", &body).status, 200);
}

#[test]
fn numbers_are_parsed_within_double_range() {
    let (_server, client) = start();
    let user = client.ada();
    let echo = |number: &str| {
        call(&client, &user, &format!(r#"{{"name":"echo","arguments":[{number}]}}"#))
    };
    for (sent, read) in [
        ("0", json!({"$numberInt": "0"})),
        ("-0", json!({"$numberDouble": "-0.0"})),
        ("1e2", json!({"$numberDouble": "100.0"})),
        ("9223372036854775807", json!({"$numberLong": "9223372036854775807"})),
        ("1e-999", json!({"$numberDouble": "0.0"})),
    ] {
        assert_eq!(echo(sent).json(), read, "{sent}");
    }
    let large = echo("18446744073709551615").json();
    assert_eq!(large, json!({"$numberDecimal": "18446744073709551615"}));
    assert!(echo(&"9".repeat(300)).json()["$numberDouble"].is_string());
    for sent in ["1e999", "-1e999", "01", "+1", "1.", "0x1", "NaN", "Infinity"] {
        echo(sent).assert_error(400, "BadRequest", "invalid function call request");
    }
    let (status, _, message) = client.try_log_in("custom-function", r#"{"id":1e999}"#).error();
    assert!(status == 400 && message.starts_with("number out of range at line 1"), "{message}");
    for number in ["1", "1e999", "-0.0"] {
        let body = format!(r#"{{"username":"ada","password":{number}}}"#);
        assert_eq!(client.try_log_in("local-userpass", &body).status, 400, "{number}");
        let body = format!(r#"{{"email":{number},"password":"hunter22"}}"#);
        let register = client.app("/auth/providers/local-userpass/register");
        assert_eq!(client.send("POST", &register, None, &body).status, 400, "{number}");
    }
}

/// Bytes of every kind, whole bodies and halves of bodies, to all routes that take a body.
#[test]
fn garbage_is_rejected_without_server_error() {
    let (server, client) = start();
    let user = client.ada();
    let userpass = |operation| client.app(&format!("/auth/providers/local-userpass/{operation}"));
    let mut paths = vec![client.app("/functions/call"), "/auth/api_keys".to_owned()];
    paths.extend(["confirm", "confirm/call", "confirm/send", "register", "reset"].map(userpass));
    paths.extend(["reset/call", "reset/send"].map(userpass));
    for provider in ["anon-user", "api-key", "custom-function", "local-userpass"] {
        paths.push(client.app(&format!("/auth/providers/{provider}/login")));
    }
    let whole = r#"{"name":"echo","arguments":[{"a":"\u00e9\n"}],"email":"a","username":"a","password":"b","token":"0","tokenId":"0","key":"k","id":1}"#;
    let bodies = [
        b"\xff\xfe{\0}\0".to_vec(),
        b"{\"email\":\"\xff\xfe\",\"username\":\"\xc3\",\"name\":\"\xed\xa0\xbd\"}".to_vec(),
        b"{\"email\":\"a\0b\",\"username\":\"\x1f\"}".to_vec(),
        b"\"{}\"".to_vec(),
        b"null".to_vec(),
        b"{\"\\ud800\":\"\\ud800\\u0000\",\"email\":\"\\u0000\",\"username\":\"\\udfff\"}".to_vec(),
        b"{\"email\":{\"$oid\":1},\"username\":[],\"password\":true,\"token\":{},\"key\":[[]]}"
            .to_vec(),
        vec![0; 1000],
        vec![b'{'; 60_000],
    ];
    let halves = (0..whole.len()).step_by(7).map(|end| whole.as_bytes()[..end].to_vec());
    for body in bodies.into_iter().chain(halves) {
        for path in &paths {
            let token = if path.ends_with("api_keys") { &user.refresh } else { &user.access };
            let head = format!(
                "POST /api/client/v2.0{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                 Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let response = crate::client::raw(&server, [head.as_bytes(), &body[..]].concat());
            let status = crate::client::statuses(&response)[0];
            let shown = String::from_utf8_lossy(&body);
            assert!(status < 500, "{path} {shown}: {response}");
        }
    }
}
