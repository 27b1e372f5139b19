//! Broken or malicious backends: responses that are too large, too deeply nested or not HTTP,
//! invalid tokens, and ids with a special meaning in paths or terminals.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfob::store::MemoryStore;
use keyfob::transport::{Request, Response};
use keyfob::{
    ApiKeyId, Credentials, Error, Secret, Session, StoreErrorKind, TransportErrorKind, User,
    UserState,
};
use serde_json::{Value, json};
use support::*;

/// A server that reads a request, records it, writes the given bytes, and closes the connection.
#[derive(Clone)]
struct Raw {
    url: String,
    answer: Arc<Mutex<Vec<u8>>>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Raw {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let raw = Self { url, answer: Arc::default(), lines: Arc::default() };
        let shared = raw.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.serve(stream);
            }
        });
        raw
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        if reader.read_line(&mut line).is_err() {
            return;
        }
        self.lines.lock().unwrap().push(line.trim_end().to_owned());
        loop {
            let mut field = String::new();
            match reader.read_line(&mut field) {
                Ok(0) | Err(_) => return,
                Ok(_) if field == "\r\n" => break,
                Ok(_) => {}
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let answer = self.answer.lock().unwrap().clone();
        let mut stream = reader.into_inner();
        // The client may have had enough.
        let _ = stream.write_all(&answer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0]);
    }

    /// A session here, with `ada` logged in and her token fresh.
    fn session(&self) -> (Session, User) {
        let store = MemoryStore::new();
        let (script, clock) = (Script::new(), ManualClock::at(START));
        script.accept_login("ada", &access("a1"), &refresh("r1"));
        builder(&script, &clock).store(store.clone()).open().unwrap().log_in(&password()).unwrap();
        let session = Session::builder(APP, &self.url)
            .clock(clock)
            .store(store)
            .location_lookup(false)
            .deadline(Duration::from_secs(60))
            .open()
            .unwrap();
        let user = session.current_user().unwrap().unwrap();
        (session, user)
    }
}

fn with_head(head: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {head}\r\n\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

#[test]
fn truncated_response_without_length_is_error() {
    for said in ["", "12"] {
        let address = support::net::serve(move |mut stream| {
            // What was sent and not read makes a reset of the end.
            let _ = stream.peek(&mut [0]);
            let _ = stream.write_all(&with_head("200 OK", said.as_bytes()));
        });
        let raw = Raw { url: format!("http://{address}"), ..Raw::start() };
        let (_, user) = raw.session();
        let broke = |error: Error| match error {
            Error::Transport(error) => error.kind == TransportErrorKind::Interrupted,
            _ => false,
        };
        let call = user.functions().call::<Option<i64>>("f", ()).unwrap_err();
        assert!(call.is_ambiguous() && broke(call));
        assert!(broke(user.functions().call_text("f", ()).unwrap_err()));
        let refresh = user.refresh_access_token().unwrap_err();
        assert!(refresh.is_retryable() && broke(refresh), "it was on its way");
    }
    // An object says itself where it ends, however its connection does.
    let refused = r#"{"error":"no","error_code":"FunctionNotFound"}"#;
    let address = support::net::serve(move |mut stream| {
        let _ = stream.peek(&mut [0]);
        let _ = stream.write_all(&with_head("404 No", refused.as_bytes()));
    });
    let raw = Raw { url: format!("http://{address}"), ..Raw::start() };
    let (_, user) = raw.session();
    let error = user.functions().call::<()>("f", ()).unwrap_err();
    assert_eq!(error.status(), Some(404), "{error}");
}

#[test]
fn oversized_responses_are_errors() {
    let raw = Raw::start();
    let (session, user) = raw.session();
    let too_large = TransportErrorKind::BodyTooLarge;
    let spaces = vec![b' '; 17 << 20];
    let mut chunked = Vec::new();
    for chunk in spaces.chunks(64 << 10) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    // Eight megabytes in eight kilobytes, three times.
    let packed = &include_bytes!("wire/spaces.gz").repeat(3)[..];
    let length = |bytes: &[u8]| format!("200 OK\r\nContent-Length: {}", bytes.len());
    for (what, answer) in [
        ("a length", with_head(&length(&spaces), &spaces)),
        ("no length", with_head("200 OK", &spaces)),
        ("chunks", with_head("200 OK\r\nTransfer-Encoding: chunked", &chunked)),
        (
            "a packed body",
            with_head(&format!("{}\r\nContent-Encoding: gzip", length(packed)), packed),
        ),
    ] {
        *raw.answer.lock().unwrap() = answer;
        for outcome in [
            user.refresh_access_token().map(|_| ()),
            user.refresh_profile().map(|_| ()),
            user.api_keys().list().map(|_| ()),
            session.log_in(&password()).map(|_| ()),
        ] {
            let error = outcome.unwrap_err();
            assert!(
                matches!(&error, Error::Transport(error) if error.kind == too_large),
                "{what}: {error:?}"
            );
            assert!(!error.is_retryable(), "{what}");
        }
        assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{what}");
    }
    let wide = format!("200 OK\r\nX-Wide: {}\r\nContent-Length: 2", "x".repeat(1 << 20));
    let many = format!("200 OK\r\n{}Content-Length: 2", "X-Many: x\r\n".repeat(20_000));
    for head in [wide, many] {
        *raw.answer.lock().unwrap() = with_head(&head, b"42");
        let error = user.functions().call::<i64>("f", ()).unwrap_err();
        assert!(matches!(error, Error::Transport(_)), "{error:?}");
        assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    }
}

#[test]
fn non_http_response_is_retryable() {
    let raw = Raw::start();
    let (_, user) = raw.session();
    for answer in [
        &b""[..],
        b"\r\n\r\n",
        b"\0\0\0\0\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"<html>no</html>",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 \r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n42",
        b"HTTP/1.1 99999 OK\r\n\r\n42",
        b"HTTP/9.9 200 OK\r\n\r\n42",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n42",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n42",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n42",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 10\r\n\r\n42",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n42\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n42\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n42",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n42",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\nContent-Length: 2\r\n\r\n42",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        *raw.answer.lock().unwrap() = answer.to_vec();
        let shown = answer.escape_ascii();
        match user.functions().call::<i64>("f", ()) {
            Err(Error::Transport(error)) => {
                let error = Error::Transport(error);
                assert!(error.is_retryable() && error.is_ambiguous(), "{shown}: {error:?}");
            }
            // By a literal reading of the standard this is a response.
            Ok(42) | Err(Error::Decode(_) | Error::Server(_)) => {}
            other => panic!("{shown}: {other:?}"),
        }
        assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{shown}");
    }
    *raw.answer.lock().unwrap() = with_head("200 OK\r\nContent-Length: 2", b"42");
    assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 42);
}

#[test]
fn deep_nesting_is_error_without_overflow() {
    let (script, _, session, user) = logged_in();
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"$numberInt\":", "}")] {
        let deep = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
        for body in [
            deep.clone(),
            format!(r#"{{"access_token":{deep}}}"#),
            format!(r#"{{"error":{deep},"error_code":{deep}}}"#),
            format!(r#"{{"identities":{deep},"data":{deep}}}"#),
            format!(r#"[{{"_id":{deep},"name":"n"}}]"#),
            format!(r#"{{"hostname":{deep}}}"#),
        ] {
            for status in [200, 401] {
                let answer = body.clone();
                for route in [LOGIN, PROFILE, REFRESH, CALL, LOCATION, "GET /auth/api_keys"] {
                    let answer = answer.clone();
                    script.on(route, move |_| Ok(Response::new(status, answer.clone())));
                }
                session.log_in(&password()).unwrap_err();
                user.refresh_profile().unwrap_err();
                user.functions().call::<Value>("f", ()).unwrap_err();
                user.refresh_access_token().unwrap_err();
                user.api_keys().list().unwrap_err();
            }
            // A 401 with an object in it is the backend's word, whatever is in it.
            script.accept_login("ada", &access("a1"), &refresh("r1"));
            session.log_in(&password()).unwrap();
        }
    }
    // Inside a token, where it is read again later.
    let claims = format!(
        r#"{{"iat":{START},"exp":{},"user_data":{}1{}}}"#,
        START + 1800,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    use base64::Engine;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    script.reply(REFRESH, 200, json!({"access_token": format!("e30.{token}.c2ln")}));
    match user.refresh_custom_data::<Value>() {
        Err(Error::Decode(_)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

/// Values within texts within values: serde_json reads each text with a limit of depth of its own,
/// if its field is named so. Of quotes and backslashes only one backslash has to be escaped once
/// more for each, so that sixty kilobytes overflow a stack.
fn texts_within_texts(name: &str) -> String {
    let (open, close) = ("[".repeat(120), "]".repeat(120));
    let mut text = format!("{open}1{close}");
    while text.len() < 60_000 {
        let quoted = text.replace('\\', "\\u005c").replace('"', "\\u0022");
        text = format!("{open}{{\"{name}\":\"{quoted}\"}}{close}");
    }
    text
}

#[test]
fn nested_raw_values_are_error_without_overflow() {
    use base64::Engine;
    let (script, _, session, user) = logged_in();
    for name in ["$serde_json::private::RawValue", "\\u0024serde_json::private::Raw\\u0056alue"] {
        let deep = texts_within_texts(name);
        for body in [
            deep.clone(),
            format!(r#"{{"identities":[],"data":{{"a":{deep}}}}}"#),
            format!(r#"{{"identities":[],"data":{deep}}}"#),
            format!(r#"[{{"_id":{deep},"name":"n"}}]"#),
        ] {
            for route in [PROFILE, CALL, "GET /auth/api_keys"] {
                let answer = body.clone();
                script.on(route, move |_| Ok(Response::new(200, answer.clone())));
            }
            session.log_in(&password()).unwrap_err();
            user.refresh_profile().unwrap_err();
            user.functions().call::<Value>("f", ()).unwrap_err();
            user.api_keys().list().unwrap_err();
        }
        let claims = format!(r#"{{"iat":{START},"exp":{},"user_data":{deep}}}"#, START + 1800);
        let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        script.reply(REFRESH, 200, json!({"access_token": format!("e30.{token}.c2ln")}));
        assert!(matches!(user.refresh_custom_data::<Value>(), Err(Error::Decode(_))));
        script.accept_login("ada", &access("a1"), &refresh("r1"));
        session.log_in(&password()).unwrap();
    }
}

#[test]
fn invalid_tokens_are_never_stored() {
    let (script, _, session, user) = logged_in();
    let good = refresh("r2");
    let claims = |iat: Value, exp: Value| jwt_with("x", json!({"iat": iat, "exp": exp}));
    let mut none = vec![
        String::new(),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        "null".into(),
        "e30.e30.e30".into(),
        format!("{}\r\nX-Injected: 1", access("a2")),
        format!("{} ", access("a2")),
        access("a2").replace('.', "\u{2024}"),
        format!("{}\0", access("a2")),
        format!("{}.x", access("a2")),
    ];
    for (iat, exp) in [
        (json!("1"), json!("2")),
        (json!(null), json!(2)),
        (json!(1), json!(null)),
        (json!(1), json!([2])),
        (json!({"$numberLong": "1"}), json!(2)),
        (json!(1), json!(true)),
    ] {
        none.push(claims(iat, exp));
    }
    for token in none {
        script.reply(REFRESH, 200, json!({"access_token": token}));
        let error = user.refresh_access_token().unwrap_err();
        assert!(matches!(error, Error::Decode(_)), "{token:?}: {error:?}");
        // An empty refresh token in a refresh is none.
        if !token.is_empty() {
            let rotated = json!({"access_token": access("a2"), "refresh_token": token});
            script.reply(REFRESH, 200, rotated);
            user.refresh_access_token().unwrap_err();
        }
        script.reply(LOGIN, 200, login_body("eve", &token, &good));
        session.log_in(&password()).unwrap_err();
        script.reply(LOGIN, 200, login_body("eve", &access("a2"), &token));
        session.log_in(&password()).unwrap_err();
        assert_eq!(user.access_token().unwrap().expose(), access("a1"), "{token:?}");
    }
    assert_eq!(session.users().unwrap().len(), 1);
    // Tokens all right, and yet: over when they come, from another age, for ever. Each call costs
    // one refresh at most, and one replay.
    script.reply(CALL, 200, json!(42));
    for (iat, exp) in [
        (json!(START), json!(START)),
        (json!(START), json!(START - 1)),
        (json!(START + 10), json!(START)),
        (json!(0), json!(0)),
        (json!(0), json!(1)),
        (json!(0), json!(253_402_300_799_i64)),
        (json!(253_402_300_799_i64), json!(253_402_300_799_i64)),
        (json!(253_402_300_799_i64), json!(0)),
        (json!(START + 30_000_000_000), json!(START + 30_000_001_800)),
        (json!(1.5), json!(2)),
        (json!(1), json!(1e300)),
        (json!(1), json!(-2)),
        (json!(-1), json!(2)),
        (json!(1), json!(i64::MAX)),
        (json!(u64::MAX), json!(u64::MAX)),
        (json!(i64::MIN), json!(i64::MAX)),
    ] {
        let claims = json!({"iat": iat, "exp": exp});
        let token = jwt_with("absurd", claims.clone());
        script.reply(LOGIN, 200, login_body("ada", &token, &jwt_with("absurd-r", claims)));
        script.reply(REFRESH, 200, json!({"access_token": token}));
        session.log_in(&password()).unwrap();
        script.clear();
        for _ in 0..20 {
            let _ = user.functions().call::<i64>("f", ());
            let _ = (user.access_token_expires_at(), user.refresh_token_expires_at());
        }
        assert!(script.count(REFRESH) <= 20 && script.count(CALL) <= 40, "{iat} {exp}");
        assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{iat} {exp}");
    }
    let huge = jwt_with("x", json!({"iat": START, "exp": START + 1800, "x": "x".repeat(400_000)}));
    script.reply(REFRESH, 200, json!({"access_token": huge}));
    assert!(matches!(user.refresh_access_token().unwrap_err(), Error::Decode(_)));
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

/// Ids with a meaning in a path, on a terminal or in comparisons.
const IDS: [&str; 26] = [
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\x",
    "a\0b",
    "a\r\nb",
    "\u{1b}[2J",
    "\u{202e}gnp",
    "%2e%2e",
    "a?b#c",
    " ",
    "ä𝄞",
    "con",
    "NUL",
    "aux.txt",
    "com1",
    "Lpt9",
    "a.",
    "a ",
    "a",
    "A",
    "ada~1",
    "c:x",
];

#[test]
fn user_ids_of_any_form_are_stored() {
    let (dir, script, clock) = (Dir::new(), Script::new(), ManualClock::at(START));
    let data = dir.path().join("data");
    let open = || {
        let builder = Session::builder(APP, URL).transport(script.clone()).clock(clock.clone());
        builder.data_dir(&data).open().unwrap()
    };
    script.reply(LOGOUT, 204, Value::Null);
    let long = "x".repeat(1024);
    let session = open();
    let ids = IDS.iter().copied().chain([long.as_str()]);
    for (number, id) in ids.clone().enumerate() {
        // They sit in no path: the tokens say whose request it is.
        script.accept_login(id, &access(&format!("a{number}")), &refresh(&format!("r{number}")));
        let user = session.log_in(&password()).unwrap();
        assert_eq!(user.id().as_str(), id);
        let sync = user.sync_flexible().unwrap();
        let path = sync.path().strip_prefix(&data).unwrap().to_owned();
        let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        assert!(plain && !path.to_string_lossy().contains(char::is_control), "{path:?}");
        std::fs::write(sync.path(), id).unwrap();
    }
    // Each has a file of its own, also where names are compared without their case.
    for id in ids.clone() {
        let user = session.user(&keyfob::UserId::new(id)).unwrap().unwrap();
        let path = user.sync_flexible().unwrap().path().to_owned();
        assert_eq!(std::fs::read_to_string(path).unwrap(), id);
    }
    drop(session);
    let session = open();
    let known: Vec<_> = session.users().unwrap().iter().map(|user| user.id().clone()).collect();
    assert!(known.iter().map(|id| id.as_str()).eq(ids), "{known:?}");
    for user in session.users().unwrap() {
        user.log_out().unwrap();
        let error = user.valid_access_token().unwrap_err().to_string();
        assert!(!error.contains(char::is_control) && !error.contains('\u{202e}'), "{error:?}");
        session.remove_user(&user).unwrap();
        assert_eq!(user.state().unwrap(), UserState::Removed);
    }
    // Too long for any store, and none at all.
    script.accept_login(&"x".repeat(1025), &access("a"), &refresh("r"));
    let error = session.log_in(&password()).unwrap_err();
    assert!(matches!(&error, Error::Store(error) if error.kind == StoreErrorKind::Io), "{error}");
    script.accept_login("", &access("a"), &refresh("r"));
    assert!(matches!(session.log_in(&password()).unwrap_err(), Error::Decode(_)));
    assert_eq!(session.users().unwrap(), []);
    let outside: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(outside.len(), 1, "{outside:?}");
}

#[test]
fn path_arguments_are_one_segment() {
    let raw = Raw::start();
    let (_, user) = raw.session();
    *raw.answer.lock().unwrap() = with_head("404 No\r\nContent-Length: 0", b"");
    let lines = || std::mem::take(&mut *raw.lines.lock().unwrap());
    for id in IDS {
        let key = ApiKeyId::new(id);
        user.api_keys().get(&key).unwrap_err();
        user.api_keys().enable(&key).unwrap_err();
        user.api_keys().delete(&key).unwrap_err();
        let lines = lines();
        let segment = lines[0]
            .strip_prefix("GET /api/client/v2.0/auth/api_keys/")
            .and_then(|rest| rest.strip_suffix(" HTTP/1.1"))
            .unwrap_or_else(|| panic!("{lines:?}"));
        assert!(
            !segment.contains(['/', '\\', '?', '#', ' ', '\0']) && segment.is_ascii(),
            "{segment}"
        );
        assert!(!matches!(segment, "." | "..") && !segment.is_empty(), "{segment}");
        assert_eq!(decoded(segment), id);
        let prefix = "/api/client/v2.0/auth/api_keys";
        assert_eq!(lines[1], format!("PUT {prefix}/{segment}/enable HTTP/1.1"));
        assert_eq!(lines[2], format!("DELETE {prefix}/{segment} HTTP/1.1"));
    }
    // App ids and providers as well.
    for name in IDS.into_iter().filter(|name| !name.trim().is_empty()) {
        let urls = Arc::new(Mutex::new(Vec::new()));
        let log = urls.clone();
        let session = Session::builder(name, URL)
            .store(MemoryStore::new())
            .transport(move |request: &Request| {
                log.lock().unwrap().push(request.url().to_owned());
                Ok(Response::new(404, ""))
            })
            .open();
        let Ok(session) = session else { continue };
        session.log_in(&Credentials::other(name, json!({})).unwrap()).unwrap_err();
        for url in urls.lock().unwrap().iter() {
            let parts: Vec<_> = url.split('/').collect();
            assert_eq!(&parts[3..6], ["api", "client", "v2.0"], "{url}");
            assert_eq!(decoded(parts[7]), name, "{url}");
            let rest: Vec<_> = parts[8..].iter().map(|part| decoded(part)).collect();
            let login = ["auth", "providers", name, "login"];
            assert!(rest == ["location"] || rest == login, "{url}");
            assert!(!url.contains(['?', '#', '\\', ' ']) && url.is_ascii(), "{url}");
        }
    }
}

fn decoded(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(&others[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn errors_escape_control_characters() {
    let evil: String = (0..32_u8)
        .map(char::from)
        .chain(
            "\u{7f}\u{80}\u{9b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}"
                .chars(),
        )
        .collect();
    let clean = |error: &Error| {
        let text = format!("{error} {error:?}");
        let bad = text.chars().find(|c| c.is_control() || evil.contains(*c));
        assert_eq!(bad, None, "{text:?}");
    };
    let (script, _, session, user) = logged_in();
    let body = json!({"error": evil, "error_code": evil, "link": evil});
    for (status, code) in [(400, None), (401, None), (500, None), (401, Some("InvalidSession"))] {
        let mut body = body.clone();
        if let Some(code) = code {
            body["error_code"] = code.into();
        }
        for route in [LOGIN, CALL, REFRESH, PROFILE] {
            script.reply(route, status, body.clone());
        }
        clean(&session.log_in(&password()).unwrap_err());
        clean(&user.functions().call::<i64>("f", ()).unwrap_err());
        clean(&user.refresh_access_token().unwrap_err());
        script.accept_login("ada", &access("a1"), &refresh("r1"));
        session.log_in(&password()).unwrap();
    }
    script.reply(CALL, 200, json!(evil));
    clean(&user.functions().call::<i64>(&evil, ()).unwrap_err());
    clean(&user.functions().call::<Vec<Option<bool>>>(&evil, ()).unwrap_err());
    script.reply(CALL, 200, json!({evil.as_str(): evil}));
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {}
    clean(&user.functions().call::<Strict>("f", ()).unwrap_err());
    let dir = Dir::new();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    clean(&Session::builder(evil.as_str(), URL).data_dir(file.join("x")).open().unwrap_err());
    clean(&Session::builder(APP, format!("http://{evil}")).open().unwrap_err());
    clean(&Session::builder(APP, URL).data_dir(file.join(&evil)).open().unwrap_err());
    let accounts = session.email_password();
    script.reply("POST /auth/providers/local-userpass/confirm", 400, body);
    clean(&accounts.confirm(Secret::new(evil.as_str()), &evil).unwrap_err());
}

#[test]
fn content_type_is_ignored() {
    let (script, _, _, user) = logged_in();
    for content_type in [
        None,
        Some("text/html"),
        Some("application/json; charset=latin1"),
        Some("\u{1f}"),
        Some(""),
    ] {
        script.on(CALL, move |_| {
            let answer = Response::new(200, "42");
            Ok(match content_type {
                Some(content_type) => answer.with_header("Content-Type", content_type),
                None => answer,
            })
        });
        assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 42);
        script.on(CALL, move |_| {
            let answer = Response::new(404, r#"{"error":"x","error_code":"FunctionNotFound"}"#);
            Ok(answer.with_header("Content-Type", content_type.unwrap_or_default()))
        });
        let error = user.functions().call::<i64>("f", ()).unwrap_err();
        assert_eq!(error.server_code().unwrap().as_str(), "FunctionNotFound");
    }
    // Header values that are none.
    for value in ["", "x", "-1", "1e9", "\u{1b}"] {
        script.on(CALL, move |_| {
            Ok(Response::new(503, "").with_header("Retry-After", value).with_header("Date", value))
        });
        let error = user.functions().call::<i64>("f", ()).unwrap_err();
        assert_eq!(error.retry_after(), None, "{value}");
    }
    for value in ["99999999", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        script.on(CALL, move |_| {
            let date = "Sun, 06 Nov 1994 08:49:37 GMT";
            Ok(Response::new(503, "").with_header("Retry-After", value).with_header("Date", date))
        });
        let error = user.functions().call::<i64>("f", ()).unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(366 * 86_400)), "{value}");
    }
}
