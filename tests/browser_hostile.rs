//! Sign-in with malicious or broken local programs, web pages and providers. None of them obtains a
//! token, ends the wait or causes a panic.

#![cfg(feature = "browser")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keyfob::browser::{ProviderTokens, SignIn};
use keyfob::{Error, Secret, SignInErrorKind, TransportErrorKind};
use serde_json::{Value, json};
use support::provider::*;

/// A connection ends after two seconds; the rest is for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// A sign-in that waits for the browser.
struct Waiting {
    provider: TestProvider,
    request: Form,
    outcome: JoinHandle<keyfob::Result<ProviderTokens>>,
}

impl Waiting {
    fn start(set: impl FnOnce(SignIn) -> SignIn) -> Self {
        let provider = TestProvider::start();
        let (shown, urls): (_, Receiver<String>) = mpsc::channel();
        let sign_in = set(provider.sign_in()).deadline(Duration::from_secs(60));
        let sign_in = sign_in.open_nothing().on_url(move |url| shown.send(url.to_owned()).unwrap());
        let outcome = thread::spawn(move || sign_in.loopback());
        let request = authorization(&urls.recv().unwrap());
        Self { provider, request, outcome }
    }

    fn address(&self) -> &str {
        split(&self.request["redirect_uri"]).0
    }

    fn query(&self, code: &str) -> String {
        format!("code={code}&state={}", self.request["state"])
    }

    fn head(&self, line: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {}\r\n", self.address())
    }

    /// Lets the person sign in, which must succeed after all.
    fn succeed(self) {
        assert!(!self.outcome.is_finished(), "the wait has ended");
        self.provider.grant("c0de", self.request.clone());
        let page = get(&self.request["redirect_uri"], &self.query("c0de"));
        assert_eq!(page.status, 200, "{page:?}");
        self.outcome.join().unwrap().unwrap();
        assert_eq!(self.provider.asked("/token").len(), 1);
    }
}

#[test]
fn unrelated_requests_are_rejected_while_waiting() {
    let waiting = Waiting::start(|sign_in| sign_in);
    let address = waiting.address();
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let state = &waiting.request["state"];
    let with_host = |host: &str| {
        format!("GET /callback?{} HTTP/1.1\r\nHost: {host}\r\n\r\n", waiting.query("evil"))
    };
    let bytes: Vec<(&str, Vec<u8>, u16)> = vec![
        ("favicon", waiting.head("GET /favicon.ico").into(), 404),
        ("root", waiting.head("GET /").into(), 404),
        ("no state", waiting.head("GET /callback?code=evil").into(), 400),
        ("wrong state", waiting.head("GET /callback?code=evil&state=x").into(), 400),
        (
            "state twice",
            waiting.head(&format!("GET /callback?code=evil&state=x&state={state}")).into(),
            400,
        ),
        (
            "state in the fragment",
            waiting.head(&format!("GET /callback#state={state}")).into(),
            404,
        ),
        (
            "other method",
            waiting.head(&format!("PUT /callback?{}", waiting.query("evil"))).into(),
            405,
        ),
        ("rebound name", with_host("evil.example").into(), 421),
        ("other port", with_host("127.0.0.1:1").into(), 421),
        ("localhost", with_host(&address.replace("127.0.0.1", "localhost")).into(), 421),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), 400),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        ("zeros", vec![0; 1000], 400),
        (
            "chunked",
            (waiting.head("POST /callback") + form + "Transfer-Encoding: chunked\r\n").into(),
            411,
        ),
        ("long head", (waiting.head("GET /callback") + &"X: y\r\n".repeat(10_000)).into(), 431),
        (
            "large form",
            (waiting.head("POST /callback") + form + "Content-Length: 65537\r\n").into(),
            413,
        ),
        ("JSON", (waiting.head("POST /callback") + "Content-Length: 2\r\n").into(), 415),
    ];
    for (what, mut bytes, status) in bytes {
        if !bytes.ends_with(b"\r\n\r\n") && bytes.starts_with(b"GET") || bytes.ends_with(b"\r\n") {
            bytes.extend_from_slice(b"\r\n");
        }
        let begun = Instant::now();
        let page = send(address, &bytes);
        assert_eq!(page.status, status, "{what}: {page:?}");
        assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", begun.elapsed());
        assert!(!page.html.contains("<"), "{what}: {page:?}");
    }
    waiting.succeed();
}

#[test]
fn guessed_state_is_ignored() {
    let waiting = Waiting::start(|sign_in| sign_in);
    let uri = &waiting.request["redirect_uri"];
    let begun = Instant::now();
    for guess in 0..1000 {
        let page = get(uri, &format!("code=evil&error=access_denied&state={guess:043}"));
        assert_eq!(page.status, 400, "{page:?}");
    }
    println!("1000 guesses took {:?}", begun.elapsed());
    waiting.succeed();
}

#[test]
fn half_open_connections_do_not_block() {
    let waiting = Waiting::start(|sign_in| sign_in);
    let begun = Instant::now();
    // More than are served at a time: some say nothing, some stop in the middle.
    let mut open: Vec<_> = (0..400)
        .map(|number| {
            let mut stream = TcpStream::connect(waiting.address()).unwrap();
            let part = ["", "G", "GET /callback?code=", "POST /callback HTTP/1.1\r\nHost: x\r\n"];
            stream.write_all(part[number % 4].as_bytes()).unwrap();
            stream
        })
        .collect();
    // They do not delay a browser.
    let page = get(&waiting.request["redirect_uri"], "state=x");
    assert_eq!(page.status, 400, "{page:?}");
    for stream in &mut open {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match stream.read(&mut [0; 16]) {
            Ok(0) => {}
            Ok(_) => panic!("a response to half a request"),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    waiting.succeed();
}

#[test]
fn ten_megabyte_request_is_not_read() {
    let waiting = Waiting::start(|sign_in| sign_in);
    let head = waiting.head("POST /callback");
    for head in [
        head.clone()
            + "Content-Length: 10000000\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n",
        head.clone() + "X: ",
        String::new(),
    ] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(waiting.address()).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = head.into_bytes();
        all.resize(10_000_000, b'X');
        // Either everything is sent and discarded, or the connection is closed.
        let sent = stream.write_all(&all);
        let mut response = Vec::new();
        let read = stream.read_to_end(&mut response);
        let text = String::from_utf8_lossy(&response);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
        assert!(begun.elapsed() < PATIENCE, "{:?} {sent:?} {read:?}", begun.elapsed());
    }
    waiting.succeed();
}

#[test]
fn client_that_never_reads_is_closed() {
    let waiting = Waiting::start(|sign_in| sign_in);
    let mut stream = TcpStream::connect(waiting.address()).unwrap();
    stream.write_all(waiting.head("GET /favicon.ico").as_bytes()).unwrap();
    stream.write_all(b"\r\n").unwrap();
    // It stays open on this side, and is gone on the other when the sign-in returns.
    waiting.succeed();
    drop(stream);
}

#[test]
fn fragmented_response_is_parsed() {
    let waiting = Waiting::start(|sign_in| sign_in);
    let query = waiting.query("c0de");
    waiting.provider.grant("c0de", waiting.request.clone());
    let whole = waiting.head(&format!("GET /callback?{query}")) + "Accept: text/html\r\n\r\n";
    let mut stream = TcpStream::connect(waiting.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in whole.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    waiting.outcome.join().unwrap().unwrap();
}

#[test]
fn early_browser_disconnect_is_harmless() {
    let waiting = Waiting::start(|sign_in| sign_in);
    let (query, address) = (waiting.query("c0de"), waiting.address().to_owned());
    waiting.provider.grant("c0de", waiting.request.clone());
    let mut stream = TcpStream::connect(address).unwrap();
    let request = waiting.head(&format!("GET /callback?{query}")) + "\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    drop(stream);
    waiting.outcome.join().unwrap().unwrap();
}

/// Lets a browser come back with a query, and returns the error and the page.
fn error_of(
    set: impl FnOnce(SignIn) -> SignIn,
    prepare: impl FnOnce(&TestProvider),
    query: impl FnOnce(&Waiting) -> String,
) -> (Error, Page, TestProvider) {
    let waiting = Waiting::start(set);
    prepare(&waiting.provider);
    waiting.provider.grant("c0de", waiting.request.clone());
    let page = get(&waiting.request["redirect_uri"], &query(&waiting));
    let error = waiting.outcome.join().unwrap().unwrap_err();
    assert_eq!(page.status, 400, "{page:?}");
    assert!(page.html.contains("You are not signed in"), "{page:?}");
    (error, page, waiting.provider)
}

#[track_caller]
fn assert_kind(error: &Error, kind: SignInErrorKind, part: &str) {
    let Error::SignIn(inner) = error else { panic!("{error:?}") };
    assert_eq!(inner.kind, kind, "{error}");
    assert!(error.to_string().contains(part), "{part}: {error}");
    assert!(!error.is_retryable(), "somebody was asked already: {error}");
}

#[test]
fn malformed_response_with_valid_state_ends_sign_in() {
    let invalid = SignInErrorKind::InvalidResponse;
    for (rest, part) in [
        ("&code=c0de&code=c0de", "repeated"),
        ("&code=c0de&x=1&x=2", "repeated"),
        ("&code=c0de&x=%zz", "percent-encoded"),
        ("", "either a code or an error"),
        ("&code=", "either a code or an error"),
        ("&code=c0de&error=access_denied", "either a code or an error"),
        ("&code=c0de&iss=https%3A%2F%2Fevil.example", "another issuer"),
        ("&error=access_denied&iss=https%3A%2F%2Fevil.example", "another issuer"),
    ] {
        let query = |waiting: &Waiting| format!("state={}{rest}", waiting.request["state"]);
        let (error, _, provider) = error_of(|sign_in| sign_in, |_| {}, query);
        assert_kind(&error, invalid, part);
        assert!(provider.asked("/token").is_empty(), "{rest}");
    }
}

#[test]
fn advertised_issuer_parameter_is_required() {
    let promising = |provider: &TestProvider| {
        provider.describe(|document| {
            document["authorization_response_iss_parameter_supported"] = true.into();
        });
    };
    for (allow, has, succeeds) in
        [(false, true, true), (false, false, false), (true, false, true), (true, true, true)]
    {
        let (provider, person) = (TestProvider::start(), Person::default());
        promising(&provider);
        let granter = provider.clone();
        let sign_in = provider.sign_in().allow_missing_issuer(allow);
        let sign_in = person.at(sign_in, move |request| {
            let (uri, state) = (request["redirect_uri"].clone(), request["state"].clone());
            granter.grant("c0de", request);
            let issuer =
                if has { format!("&iss={}", encoded(&granter.issuer())) } else { String::new() };
            get(&uri, &format!("code=c0de&state={state}{issuer}"))
        });
        let outcome = sign_in.loopback();
        assert_eq!(outcome.is_ok(), succeeds, "{allow} {has}: {outcome:?}");
        person.page();
    }
}

#[test]
fn wrong_id_tokens_are_refused() {
    let wrong: [(&str, Value); 7] = [
        ("iss", json!("https://evil.example")),
        ("aud", json!("another client")),
        ("aud", json!([CLIENT, "another"])),
        ("azp", json!("another client")),
        ("exp", json!(1)),
        ("nonce", json!("another")),
        ("nonce", Value::Null),
    ];
    for (claim, value) in wrong {
        let prepare = move |provider: &TestProvider| {
            let value = value.clone();
            provider.claim(move |claims| claims[claim] = value.clone());
        };
        let (error, ..) = error_of(|sign_in| sign_in, prepare, |waiting| waiting.query("c0de"));
        let named = if claim == "aud" { "`a" } else { claim };
        assert_kind(&error, SignInErrorKind::InvalidResponse, named);
    }
}

#[test]
fn expiry_is_checked_by_provider_clock() {
    // This machine may be hours off; the provider says what time it is.
    let (provider, person) = (TestProvider::start(), Person::default());
    provider.on("/token", |provider, asked| {
        let mut claims = provider.claims(None);
        claims["exp"] = 784_111_777.into();
        claims["nonce"] = provider.nonce_of(asked).unwrap().into();
        let date = "Date: Sun, 06 Nov 1994 08:49:07 GMT\r\nContent-Type";
        let reply = json_reply(200, &json!({"id_token": provider.id_token(&claims)}));
        Some(reply.replacen("Content-Type", date, 1))
    });
    person.agrees(&provider, provider.sign_in()).loopback().unwrap();
    person.page();
}

#[test]
fn lost_token_response_is_not_retried() {
    for reply in [None, Some("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{".to_owned())] {
        let prepare = |provider: &TestProvider| provider.on("/token", move |_, _| reply.clone());
        let (error, page, provider) =
            error_of(|sign_in| sign_in, prepare, |waiting| waiting.query("c0de"));
        assert_kind(&error, SignInErrorKind::ResponseLost, "start the sign-in again");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(provider.asked("/token").len(), 1);
        assert!(page.html.contains("start the sign-in again"), "{page:?}");
    }
}

#[test]
fn unusable_token_responses_are_distinguished() {
    let (invalid, refused) = (SignInErrorKind::InvalidResponse, SignInErrorKind::Refused);
    let elsewhere = "HTTP/1.1 307 X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n".to_owned();
    for (reply, kind, part) in [
        (json_reply(400, &json!({"error": "invalid_grant"})), refused, "invalid_grant"),
        (json_reply(401, &json!({"error": "invalid_client"})), refused, "invalid_client"),
        (json_reply(400, &json!(["error"])), invalid, "status is 400"),
        (json_reply(200, &json!({"access_token": "x"})), invalid, "no ID token"),
        (json_reply(200, &json!({"id_token": "x"})), invalid, "no JWT"),
        (support::net::raw(200, "<html>"), invalid, "not one of OpenID Connect"),
        (support::net::raw(200, &"[".repeat(100_000)), invalid, "not one of OpenID Connect"),
        (elsewhere, invalid, "redirects"),
        (json_reply(503, &json!({})), SignInErrorKind::Unavailable, "status 503"),
        (
            json_reply(500, &json!({"error": "server_error"})),
            SignInErrorKind::Unavailable,
            "server",
        ),
    ] {
        let prepare =
            |provider: &TestProvider| provider.on("/token", move |_, _| Some(reply.clone()));
        let (error, _, provider) =
            error_of(|sign_in| sign_in, prepare, |waiting| waiting.query("c0de"));
        assert_kind(&error, kind, part);
        assert!(provider.asked("/other").is_empty());
    }
}

#[test]
fn oversized_token_response_is_refused() {
    let large = support::net::raw(200, &format!("{{\"x\":\"{}\"}}", "x".repeat(2 << 20)));
    let prepare = |provider: &TestProvider| provider.on("/token", move |_, _| Some(large.clone()));
    let (error, ..) = error_of(|sign_in| sign_in, prepare, |waiting| waiting.query("c0de"));
    assert_kind(&error, SignInErrorKind::ResponseLost, "start the sign-in again");
}

#[test]
fn broken_discovery_fails_before_authorization() {
    let open = |provider: &TestProvider| {
        provider.sign_in().on_url(|url| panic!("nobody may be asked: {url}")).loopback()
    };
    for (reply, part, retryable) in [
        (json_reply(404, &json!({})), "no discovery document", false),
        (json_reply(503, &json!({})), "status 503", true),
        (
            json_reply(200, &json!({"issuer": "https://evil.example"})),
            "https://evil.example",
            false,
        ),
        (json_reply(200, &json!([])), "not one of OpenID Connect", false),
        (
            "HTTP/1.1 301 X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "redirects",
            false,
        ),
    ] {
        let provider = TestProvider::start();
        provider.on("/.well-known/openid-configuration", move |_, _| Some(reply.clone()));
        let error = open(&provider).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.is_retryable(), retryable, "{error}");
        assert!(provider.asked("/x").is_empty());
    }
    for name in ["authorization_endpoint", "token_endpoint", "device_authorization_endpoint"] {
        let provider = TestProvider::start();
        provider.describe(move |document| document[name] = "http://evil.example/".into());
        let error = open(&provider).unwrap_err();
        assert!(error.to_string().contains("plain http"), "{error}");
    }
    let nobody = SignIn::oidc("http://127.0.0.1:9", "client").loopback().unwrap_err();
    let Error::Transport(error) = &nobody else { panic!("{nobody:?}") };
    assert_eq!(error.kind, TransportErrorKind::Connect);
    assert!(nobody.is_retryable());
}

#[test]
fn endless_discovery_ends_at_deadline() {
    let provider = TestProvider::start();
    provider.on("/.well-known/openid-configuration", |_, _| {
        thread::sleep(Duration::from_secs(30));
        None
    });
    let begun = Instant::now();
    let error = provider.sign_in().deadline(Duration::from_millis(300)).loopback().unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn errors_contain_no_secret() {
    // A provider that repeats whatever it was sent.
    let echo = |provider: &TestProvider| {
        provider.on("/token", |_, asked| {
            let secrets: Vec<_> = asked.form.values().cloned().collect();
            let said = format!("{} {}", secrets.join(" "), asked.head);
            Some(json_reply(400, &json!({"error": said, "error_description": said})))
        });
    };
    let set = |sign_in: SignIn| sign_in.client_secret("PLANTED-secret");
    let query = |waiting: &Waiting| waiting.query("PLANTED-code");
    let (error, page, provider) = error_of(set, echo, query);
    assert_kind(&error, SignInErrorKind::Refused, "left out");
    let asked = &provider.asked("/token")[0];
    let shown = format!("{error} {error:?} {error:#?} {page:?}");
    for secret in ["PLANTED", &asked.form["code_verifier"]] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }

    // The response of the authorization endpoint, too.
    let query = |waiting: &Waiting| {
        let (state, nonce) = (&waiting.request["state"], &waiting.request["nonce"]);
        format!("state={state}&error=x{state}&error_description=y{nonce}")
    };
    let (error, page, _) = error_of(|sign_in| sign_in, |_| {}, query);
    let shown = format!("{error} {error:?} {page:?}");
    assert!(shown.contains("left out") && !shown.contains("xx"), "{shown}");
    assert_eq!(shown.matches("left out").count(), shown.matches("it repeats a secret").count());

    let sign_in = SignIn::google("client").client_secret(Secret::new("PLANTED"));
    assert!(!format!("{sign_in:?} {sign_in:#?}").contains("PLANTED"));
}
