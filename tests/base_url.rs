//! Base URLs: equivalent spellings are one origin and share one store.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use keyfob::{Error, Session};
use support::*;

/// Logs `ada` in at one spelling of a base URL, and returns who is current at another.
fn current_at(first: &str, other: &str) -> Option<String> {
    let dir = Dir::new();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let open = |url: &str| {
        let builder = Session::builder(APP, url).data_dir(dir.path()).clock(clock.clone());
        builder.transport(script.clone()).open().unwrap_or_else(|error| panic!("{url}: {error}"))
    };
    open(first).log_in(&password()).unwrap();
    open(other).current_user().unwrap().map(|user| user.id().as_str().to_owned())
}

#[test]
fn spellings_of_one_origin_share_store() {
    for (first, other) in [
        ("https://example.org", "https://example.org:443"),
        ("https://example.org", "HTTPS://Example.ORG./"),
        ("https://[2001:db8::1]", "https://[2001:0DB8:0:0::1]:443/"),
        ("http://localhost:80", "http://LOCALHOST"),
        ("https://example.org/%7Eapp/a%2fb", "https://example.org/~app/x/../a%2Fb/"),
    ] {
        assert_eq!(current_at(first, other).as_deref(), Some("ada"), "{first} and {other}");
        assert_eq!(current_at(other, first).as_deref(), Some("ada"), "{other} and {first}");
    }
}

#[test]
fn other_origins_have_other_stores() {
    for (first, other) in [
        ("https://example.org", "https://example.org:8443"),
        ("https://example.org", "https://www.example.org"),
        ("https://example.org/a", "https://example.org/A"),
        ("https://example.org", "https://example.org/a"),
        ("http://127.0.0.1", "http://localhost"),
    ] {
        assert_eq!(current_at(first, other), None, "{first} and {other}");
    }
}

#[test]
fn url_errors_suggest_fix() {
    for (url, hint) in [
        ("https://ada:hunter22@example.org", "user name"),
        ("https://b\u{fc}cher.example", "xn--bcher-kva.example"),
        ("https://example.org/a b", "spaces"),
        ("https://127.1", "no valid host"),
        ("http://example.org", "allow_insecure_http"),
    ] {
        let error = Session::builder(APP, url).open().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(hint) && !text.contains("hunter22"), "{text}");
    }
}
