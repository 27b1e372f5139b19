//! Unusual responses of real backends and proxies: no body, a very large body, a content encoding,
//! unpaired surrogates, or `null` for empty values. None of them fails a successful call, and none
//! hides an error.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::net::SocketAddr;

use keyfob::store::MemoryStore;
use keyfob::transport::Response;
use keyfob::{Error, Session, TransportErrorKind, User, UserState};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use support::net::{gzip, read_request, serve};
use support::*;

/// A session with `ada` logged in, whose backend sends these bytes in response to any request.
fn answered(response: impl Into<Vec<u8>>) -> (Session, User) {
    let response = response.into();
    logged_in_at(serve(move |mut stream| {
        if read_request(&mut stream).is_some() {
            // The client may have had enough.
            let _ = stream.write_all(&response);
        }
    }))
}

/// A session with `ada` logged in, whose backend is here.
fn logged_in_at(address: SocketAddr) -> (Session, User) {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(START));
    let script = Script::new();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    builder(&script, &clock).store(store.clone()).open().unwrap().log_in(&password()).unwrap();
    let session = Session::builder(APP, format!("http://{address}"))
        .clock(clock)
        .store(store)
        .location_lookup(false)
        .open()
        .unwrap();
    let user = session.current_user().unwrap().unwrap();
    (session, user)
}

/// A response with a head and a body, after which the connection closes.
fn response(head: &str, body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
    text.extend_from_slice(body);
    text
}

fn with_length(head: &str, body: &[u8]) -> Vec<u8> {
    response(&format!("{head}\r\nContent-Length: {}", body.len()), body)
}

fn call<T: serde::de::DeserializeOwned>(user: &User) -> keyfob::Result<T> {
    user.functions().call("f", ())
}

/// Heads of responses without a body, but for the status, and what is sent after them.
fn bodiless() -> Vec<(String, &'static str)> {
    let mut all = Vec::new();
    for encoding in ["gzip", "x-gzip", "GZIP", "br", "identity", "gzip, gzip", ""] {
        let encoding = format!("Content-Encoding: {encoding}\r\nContent-Type: application/json");
        all.push((format!("{encoding}\r\nContent-Length: 0"), ""));
        all.push((format!("{encoding}\r\nTransfer-Encoding: chunked"), "0\r\n\r\n"));
        all.push((encoding, ""));
    }
    all
}

#[test]
fn empty_body_ignores_headers() {
    for (head, sent) in bodiless() {
        let success = response(&format!("200 OK\r\n{head}"), sent.as_bytes());
        let (session, user) = answered(success);
        assert_eq!(user.functions().call_text("f", ()).unwrap(), "", "{head}");
        assert_eq!(call::<Option<i64>>(&user).unwrap(), None, "{head}");
        session.delete_user(&user).unwrap_or_else(|error| panic!("{head}: {error}"));
        assert_eq!(user.state().unwrap(), UserState::Removed, "{head}");
        let refusal = response(&format!("404 Not Found\r\n{head}"), sent.as_bytes());
        let error = call::<()>(&answered(refusal).1).unwrap_err();
        assert_eq!(error.status(), Some(404), "{head}: {error}");
    }
}

#[test]
fn bodyless_statuses_have_no_body() {
    for (head, _) in bodiless() {
        // They end with their head, whatever it announces.
        let head = head.replace("Content-Length: 0", "Content-Length: 100");
        let (session, user) = answered(response(&format!("204 No\r\n{head}"), b""));
        session.delete_user(&user).unwrap_or_else(|error| panic!("{head}: {error}"));
        assert_eq!(user.state().unwrap(), UserState::Removed, "{head}");
        let error = call::<()>(&answered(response(&format!("304 No\r\n{head}"), b"")).1);
        assert_eq!(error.unwrap_err().status(), Some(304), "{head}");
    }
}

#[test]
fn large_error_keeps_status_and_code() {
    let long = "x".repeat(3 << 20);
    let page = format!("<html>{long}</html>");
    let json = format!(r#"{{"error":"no","error_code":"FunctionNotFound","stack":"{long}"}}"#);
    let late = format!(r#"{{"stack":"{long}","error":"no","error_code":"FunctionNotFound"}}"#);
    for (status, retryable) in [(400, false), (404, false), (429, true), (503, true)] {
        for (body, code) in [(&json, Some("FunctionNotFound")), (&late, None)] {
            let head = format!("{status} No\r\nRetry-After: 7");
            for sent in [
                with_length(&head, body.as_bytes()),
                with_length(&format!("{head}\r\nContent-Encoding: gzip"), &gzip(body.as_bytes())),
                response(&head, body.as_bytes()),
            ] {
                let error = call::<()>(&answered(sent).1).unwrap_err();
                assert!(matches!(error, Error::Server(_)), "{error:?}");
                assert_eq!(error.status(), Some(status));
                assert_eq!(error.server_code().map(|code| code.as_str()), code);
                assert_eq!(error.retry_after().map(|pause| pause.as_secs()), Some(7));
                assert_eq!(error.is_retryable(), retryable, "{status}");
                assert!(error.to_string().len() < 1000);
            }
        }
    }
    let sent = with_length("502 Bad Gateway\r\nContent-Type: text/html", page.as_bytes());
    let error = call::<()>(&answered(sent).1).unwrap_err();
    assert_eq!((error.status(), error.is_ambiguous()), (Some(502), true));
}

#[test]
fn undecodable_error_keeps_status() {
    // Eight megabytes of spaces in eight kilobytes.
    let bomb = include_bytes!("wire/spaces.gz");
    for (head, body) in [
        ("Content-Encoding: gzip", &bomb[..]),
        ("Content-Encoding: x-gzip", bomb),
        ("Content-Encoding: gzip", b"{\"error\":\"no\"}"),
        ("Content-Encoding: gzip", &bomb[..bomb.len() / 2]),
        ("Content-Encoding: br", b"\x0b\x02"),
        ("Content-Encoding: gzip, br", bomb),
    ] {
        let (session, user) = answered(with_length(&format!("401 No\r\n{head}"), body));
        let error = user.refresh_access_token().unwrap_err();
        assert_eq!(error.status(), Some(401), "{head}: {error}");
        assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{head}");
        assert_eq!(session.current_user().unwrap(), Some(user));
    }
}

#[test]
fn encodings_are_decoded_by_all_names() {
    for name in ["gzip", "GZIP", "Gzip", "x-gzip", "X-GZIP", "identity, gzip"] {
        let sent = with_length(&format!("200 OK\r\nContent-Encoding: {name}"), &gzip(b"[1,2]"));
        assert_eq!(call::<Vec<i64>>(&answered(sent).1).unwrap(), [1, 2], "{name}");
    }
    for name in ["identity", "Identity", "", "identity,"] {
        let sent = with_length(&format!("200 OK\r\nContent-Encoding: {name}"), b"[1,2]");
        assert_eq!(call::<Vec<i64>>(&answered(sent).1).unwrap(), [1, 2], "{name:?}");
    }
    for name in ["br", "deflate", "gzip, gzip", "x-gzip, br", "\x01gzip"] {
        let body = gzip(&gzip(b"[1,2]"));
        let sent = with_length(&format!("200 OK\r\nContent-Encoding: {name}"), &body);
        let Err(Error::Transport(error)) = call::<Vec<i64>>(&answered(sent).1) else {
            panic!("{name}");
        };
        assert_eq!(error.kind, TransportErrorKind::Protocol, "{name}");
        assert!(error.ambiguous, "the function has run");
    }
    let cut = gzip(b"[1,2]");
    for name in ["gzip", "x-gzip"] {
        let head = format!("200 OK\r\nContent-Encoding: {name}");
        let sent = with_length(&head, &cut[..cut.len() - 9]);
        assert!(call::<Vec<i64>>(&answered(sent).1).is_err(), "{name}");
    }
}

/// What a text with half an emoji is read as.
const HALF: &str = "Ann \u{fffd}";

#[test]
fn unpaired_surrogates_in_results_are_replaced() {
    let (script, _, _, user) = logged_in();
    let reply = |text: &'static str| {
        script.on(CALL, move |_| Ok(Response::new(200, text)));
    };
    reply(r#""Ann \ud83d""#);
    assert_eq!(call::<String>(&user).unwrap(), HALF);
    assert_eq!(call::<Value>(&user).unwrap(), HALF);
    assert_eq!(call::<Box<RawValue>>(&user).unwrap().get(), r#""Ann \ufffd""#);
    assert_eq!(user.functions().call_text("f", ()).unwrap(), r#""Ann \ufffd""#);
    reply(r#"{"\ude00":[{"a":"\ud83d\ud83d\ude00"}],"b":"\ud83d\ude00"}"#);
    let expected = json!({"\u{fffd}": [{"a": "\u{fffd}\u{1f600}"}], "b": "\u{1f600}"});
    assert_eq!(call::<Value>(&user).unwrap(), expected);
    #[cfg(feature = "bson")]
    {
        let value = user.functions().call_bson("f", &[]).unwrap();
        assert_eq!(value.into_relaxed_extjson(), expected);
    }
}

#[test]
fn unpaired_surrogates_are_tolerated() {
    let (script, _, session, user) = logged_in();
    script.on(PROFILE, |_| {
        let text = r#"{"identities":[{"id":"\ud83d","provider_type":"local-userpass"}],
            "data":{"name":"Ann \ud83d","\ud83d":1}}"#;
        Ok(Response::new(200, text))
    });
    session.log_in(&password()).unwrap();
    assert_eq!(user.profile().unwrap().name(), Some(HALF));
    assert_eq!(user.identities().unwrap()[0].id, "\u{fffd}");
    script.on(CALL, |_| {
        let text = r#"{"error":"Ann \ud83d","error_code":"FunctionExecutionError","\ud83d":1}"#;
        Ok(Response::new(400, text))
    });
    match call::<()>(&user).unwrap_err() {
        Error::Server(error) => {
            assert_eq!(error.message, HALF);
            assert_eq!(error.code.unwrap().as_str(), "FunctionExecutionError");
        }
        other => panic!("{other:?}"),
    }
    script.on("GET /auth/api_keys", |_| {
        Ok(Response::new(200, r#"[{"_id":"k","name":"Ann \ud83d","disabled":false}]"#))
    });
    assert_eq!(user.api_keys().list().unwrap()[0].name, HALF);
    let claims = format!(
        r#"{{"iat":{START},"exp":{},"\ud83d":"\ud83d","user_data":{{"name":"Ann \ud83d"}}}}"#,
        START + 1800
    );
    script.reply(REFRESH, 200, json!({"access_token": token_with(&claims)}));
    let data: Option<Value> = user.refresh_custom_data().unwrap();
    assert_eq!(data.unwrap()["name"], HALF);
}

/// A token with claims in this text.
fn token_with(claims: &str) -> String {
    use base64::Engine;
    format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
}

#[test]
fn byte_order_mark_is_ignored_everywhere() {
    fn marked(status: u16, body: &Value) -> Response {
        Response::new(status, format!("\u{feff}{body}"))
    }
    let (script, _, session, user) = logged_in();
    script.on(LOCATION, |_| Ok(marked(200, &json!({"hostname": URL}))));
    script.on(LOGIN, |_| Ok(marked(200, &login_body("ada", &access("a2"), &refresh("r2")))));
    script.on(PROFILE, |_| Ok(marked(200, &profile_body("ada"))));
    session.log_in(&password()).unwrap();
    script.on(CALL, |_| Ok(marked(200, &json!([1]))));
    assert_eq!(call::<Vec<i64>>(&user).unwrap(), [1]);
    assert_eq!(user.functions().call_text("f", ()).unwrap(), "[1]");
    script.on(CALL, |_| Ok(Response::new(200, "\u{feff}")));
    assert_eq!(call::<Option<i64>>(&user).unwrap(), None);
    script.on("GET /auth/api_keys", |_| Ok(marked(200, &json!([]))));
    assert!(user.api_keys().list().unwrap().is_empty());
    script.on(CALL, |_| Ok(marked(404, &error_body("FunctionNotFound", "no"))));
    assert_eq!(call::<()>(&user).unwrap_err().server_code().unwrap().as_str(), "FunctionNotFound");
    script.on(REFRESH, |_| Ok(marked(401, &error_body("InvalidSession", "no"))));
    assert!(matches!(user.refresh_access_token(), Err(Error::LoginEnded(_))));
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
}

#[test]
fn byte_order_mark_is_allowed_without_length() {
    // Neither a length nor a proper end: the object itself says where it ends.
    let sent = format!("HTTP/1.1 404 No\r\n\r\n\u{feff}{}", error_body("FunctionNotFound", "no"));
    let address = serve(move |mut stream| {
        // What was sent and not read makes a reset of the end.
        let _ = stream.peek(&mut [0]);
        let _ = stream.write_all(sent.as_bytes());
    });
    let (_, user) = logged_in_at(address);
    assert_eq!(call::<()>(&user).unwrap_err().status(), Some(404));
}

#[test]
fn null_is_empty_in_all_responses() {
    let (script, _, session, user) = logged_in();
    for (profile, kept) in [
        (json!({"identities": null, "data": null, "type": null}), 0),
        (json!({"user_id": "ada"}), 0),
        (json!({}), 0),
        (json!({"identities": [{"id": 7, "provider_type": "local-userpass"}], "data": null}), 1),
        (json!({"identities": [{"id": {"$oid": "5f"}}, {"id": null}, null, 7]}), 2),
    ] {
        script.reply(PROFILE, 200, profile.clone());
        let user = session.log_in(&password()).unwrap_or_else(|error| panic!("{profile}: {error}"));
        assert_eq!(user.identities().unwrap().len(), kept, "{profile}");
        assert!(user.profile().unwrap().data().is_empty(), "{profile}");
        user.refresh_profile().unwrap();
    }
    script.reply(PROFILE, 200, json!({"error": "no"}));
    assert!(matches!(session.log_in(&password()), Err(Error::Decode(_))));
    script.reply("GET /auth/api_keys", 200, Value::Null);
    assert!(user.api_keys().list().unwrap().is_empty());
    script.reply(
        "POST /auth/api_keys",
        201,
        json!({"key": "sekret", "name": null, "disabled": null}),
    );
    let (key, secret) = user.api_keys().create("n").unwrap();
    assert_eq!((key.id.as_str(), secret.expose()), ("", "sekret"));
    // An id that is missing names the whole list.
    script.clear();
    let keys = user.api_keys();
    assert!(matches!(keys.delete(&key.id), Err(Error::Config { .. })));
    assert!(matches!(keys.enable(&key.id), Err(Error::Config { .. })));
    assert!(matches!(keys.disable(&key.id), Err(Error::Config { .. })));
    assert!(matches!(keys.get(&key.id), Err(Error::Config { .. })));
    assert_eq!(script.sent().len(), 0);
    let access = access("a2");
    for none in [json!(null), json!("")] {
        script.reply(REFRESH, 200, json!({"access_token": access, "refresh_token": none}));
        user.refresh_access_token().unwrap();
    }
    let none = format!(r#"{{"iat":{START},"exp":{},"user_data":null}}"#, START + 1800);
    script.reply(REFRESH, 200, json!({"access_token": token_with(&none)}));
    assert_eq!(user.refresh_custom_data::<Value>().unwrap(), None);
}

#[test]
fn token_times_are_any_numbers() {
    let (script, clock, session, _) = logged_in();
    for (iat, exp) in [
        (format!("{START}.25"), format!("{}.75", START + 1800)),
        (format!("{START}e0"), "1.8000018E9".to_owned()),
        ("-1".to_owned(), "1e400".to_owned()),
        (START.to_string(), "99999999999999999999999".to_owned()),
    ] {
        let token = token_with(&format!(r#"{{"iat":{iat},"exp":{exp}}}"#));
        script.reply(LOGIN, 200, login_body("ada", &token, &token));
        let user = session.log_in(&password()).unwrap_or_else(|error| panic!("{exp}: {error}"));
        script.clear();
        assert_eq!(user.valid_access_token().unwrap().expose(), token, "{exp}");
        assert_eq!(script.sent().len(), 0, "{exp}");
    }
    assert_eq!(clock.seconds(), START);
}

#[test]
fn large_profile_is_stored() {
    let dir = Dir::new();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let picture = format!("data:image/png;base64,{}", "QUJD".repeat(3 << 20));
    let mut profile = profile_body("ada");
    profile["data"]["picture"] = picture.clone().into();
    let sent = with_length("200 OK", profile.to_string().as_bytes());
    let address = serve(move |mut stream| {
        let Some((head, _)) = read_request(&mut stream) else { return };
        let login = login_body("ada", &access("a1"), &refresh("r1")).to_string();
        let login = with_length("200 OK", login.as_bytes());
        let sent = if head.starts_with("GET") { &sent } else { &login };
        stream.write_all(sent).unwrap();
    });
    let open = || {
        let builder = Session::builder(APP, format!("http://{address}")).clock(clock.clone());
        builder.data_dir(dir.path()).location_lookup(false).open().unwrap()
    };
    let user = open().log_in(&password()).unwrap();
    assert_eq!(user.profile().unwrap().picture_url(), Some(&*picture));
    let user = open().current_user().unwrap().unwrap();
    assert_eq!(user.profile().unwrap().picture_url(), Some(&*picture));
    user.refresh_profile().unwrap();
}

#[test]
fn interim_responses_are_skipped() {
    let rest = String::from_utf8(with_length("200 OK", b"[100]")).unwrap();
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nServer: x\r\nDate: y\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nServer: x\r\n\r\nHTTP/1.1 100 \r\nServer: y\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nServer: x\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\nServer: x\r\n\r\n",
    ] {
        let whole = format!("{interim}{rest}").into_bytes();
        // At once, and cut at every place.
        let (_, user) = answered(whole.clone());
        assert_eq!(call::<Vec<i64>>(&user).unwrap(), [100], "{interim}");
        let address = serve(move |mut stream| {
            let Some((_, body)) = read_request(&mut stream) else { return };
            let at = body.split_once("[\"").unwrap().1.split_once('"').unwrap().0;
            let (now, later) = whole.split_at(at.parse().unwrap());
            stream.set_nodelay(true).unwrap();
            stream.write_all(now).unwrap();
            std::thread::yield_now();
            let _ = stream.write_all(later);
        });
        let (_, user) = logged_in_at(address);
        for at in 0..interim.len() + 20 {
            let read: Vec<i64> = user.functions().call("f", (at.to_string(),)).unwrap();
            assert_eq!(read, [100], "{interim} cut at {at}");
        }
    }
}
