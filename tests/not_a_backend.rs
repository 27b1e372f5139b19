//! Base URLs of other services: the first call returns an error that says so and what the response
//! was.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::error::Error as _;
use std::io::Write;

use keyfob::store::MemoryStore;
use keyfob::{Credentials, Error, Result, Session, TransportErrorKind};
use support::net::{read_request, serve};

/// A session at a server that returns one status, content type and body, whatever the request.
fn at(status: u16, kind: &'static str, body: &'static str) -> Session {
    let address = serve(move |mut stream| {
        let Some(_) = read_request(&mut stream) else { return };
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
    });
    let session = Session::builder("my-app", format!("http://{address}"));
    session.store(MemoryStore::new()).open().unwrap()
}

/// Returns the kind of the error and its text, causes included.
#[track_caller]
fn outcome<T>(outcome: Result<T>) -> (TransportErrorKind, String) {
    let error = outcome.map(drop).unwrap_err();
    let Error::Transport(trouble) = &error else { panic!("{error:?}") };
    assert!(!error.needs_login() && error.status().is_none());
    let cause = error.source().map(|cause| format!("; {cause}")).unwrap_or_default();
    (trouble.kind, format!("{error}{cause}"))
}

#[test]
fn unrelated_api_is_named() {
    for (status, kind, body, seen) in [
        (404, "application/json", r#"{"detail":"Not Found"}"#, "status 404 with JSON that is no"),
        (
            404,
            "application/json",
            r#"{"statusCode":404,"error":"Not Found","message":"Cannot POST /api"}"#,
            "status 404 with JSON that is no",
        ),
        (404, "text/plain", "404 page not found", "status 404 with a body that is no"),
        (404, "text/html", "<!doctype html><h1>Not here</h1>", "status 404 with a web page"),
        (405, "text/html", "<html>405 Not Allowed</html>", "status 405 with a web page"),
        (404, "text/plain", "", "status 404 with no body"),
        (401, "application/json", r#"{"detail":"no credentials"}"#, "status 401 with JSON"),
        (400, "application/json", r#"{"errors":[{"code":1}]}"#, "status 400 with JSON"),
    ] {
        let session = at(status, kind, body);
        for outcome in [
            outcome(session.log_in(&Credentials::api_key("key"))),
            outcome(session.email_password().register("ada@example.org", "password")),
        ] {
            let (kind, text) = outcome;
            assert_eq!(kind, TransportErrorKind::NotABackend, "{text}");
            assert!(text.contains("does not look like an App Services backend"), "{text}");
            assert!(text.contains(session.base_url()) && text.contains(seen), "{text}");
        }
    }
}

#[test]
fn api_that_accepts_everything_is_named() {
    for body in [r#"{"ok":true}"#, r#"{"data":[]}"#, "[]", "true", "OK"] {
        let session = at(200, "application/json", body);
        let (kind, text) = outcome(session.log_in(&Credentials::api_key("key")));
        assert_eq!(kind, TransportErrorKind::NotABackend, "{text}");
        assert!(text.contains("has no tokens"), "{text}");
        assert!(session.users().unwrap().is_empty());
    }
}

/// It may be the sign-on page of a network, so that trying again can help.
#[test]
fn web_page_for_everything_is_named() {
    let session = at(200, "text/html", "<!doctype html><div id=app></div>");
    let error = session.log_in(&Credentials::api_key("key")).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let (kind, text) = outcome::<()>(Err(error));
    assert_eq!(kind, TransportErrorKind::Intercepted);
    assert!(text.contains("does not look like an App Services backend"), "{text}");
    assert!(text.contains("a web page"), "{text}");
}

/// Refusals in the words of the protocol, and of proxies, stay what they are.
#[test]
fn refusal_of_backend_keeps_its_status() {
    for (status, body) in [
        (404, r#"{"error":"cannot find app using Client App ID 'my-app'"}"#),
        (404, r#"{"error":"no","error_code":"AuthProviderNotFound"}"#),
        (401, r#"{"error":"no"}"#),
        (400, r#"{"message":"body must have a username","error":"Bad Request"}"#),
        (429, r#"{"detail":"slow down"}"#),
        (403, "denied"),
        (503, "<html>later</html>"),
    ] {
        let session = at(status, "application/json", body);
        let error = session.log_in(&Credentials::api_key("key")).unwrap_err();
        assert_eq!(error.status(), Some(status), "{error:?}");
    }
}
