//! Proxies from the program or the environment. Loopback never uses one, and an unusable one is an
//! error.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use keyfob::store::MemoryStore;
use keyfob::transport::UreqTransport;
use keyfob::{Error, Session, SessionBuilder, TransportErrorKind};
use support::net::{consenting_proxy, proxy, raw, read_request, refusing_backend, serve};
use support::{APP, password};

/// A name that no resolver knows: only a proxy gets anywhere with it.
const BACKEND: &str = "http://backend.invalid";

fn builder(url: &str) -> SessionBuilder {
    Session::builder(APP, url)
        .allow_insecure_http(true)
        .location_lookup(false)
        .store(MemoryStore::new())
        .deadline(Duration::from_secs(20))
}

/// What comes of a log-in, in a word that a child can say: a status, a kind of trouble, or what is
/// wrong with a setting.
fn log_in(builder: SessionBuilder) -> String {
    match builder.open().and_then(|session| session.log_in(&password())) {
        Ok(_) => "in".to_owned(),
        Err(Error::Server(error)) => error.status.to_string(),
        Err(Error::Transport(error)) => format!("{:?}", error.kind),
        Err(error) => error.to_string(),
    }
}

/// Logs in from a process that has this environment and no other proxies in it.
fn with_environment(url: &str, variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["child", "--exact", "--nocapture", "--test-threads=1"]).env("KEYFOB_TEST_URL", url);
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
        child.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (_, outcome) = said.split_once("OUTCOME ").unwrap_or_else(|| panic!("{said}"));
    outcome.lines().next().unwrap().to_owned()
}

#[test]
fn child() {
    let Ok(url) = std::env::var("KEYFOB_TEST_URL") else { return };
    if url == "ureq" {
        let proxy = ureq::Proxy::try_from_env();
        println!("OUTCOME {:?}", proxy.map(|proxy| proxy.uri().to_string()));
        return;
    }
    println!("OUTCOME {}", log_in(builder(&url)));
}

#[test]
fn configured_proxy_receives_password() {
    let (backend, seen) = refusing_backend();
    let (proxy, asked) = proxy(backend);
    let transport =
        UreqTransport::builder().proxy(&format!("http://ada:pr0xy@{proxy}")).build().unwrap();
    assert!(!format!("{transport:?}").contains("pr0xy"));
    assert_eq!(log_in(builder(BACKEND).transport(transport)), "401");
    let asked = asked.all();
    assert!(asked[0].starts_with("CONNECT backend.invalid:80 "), "{asked:?}");
    assert!(asked[0].to_lowercase().contains("proxy-authorization: basic"), "{asked:?}");
    let seen = seen.all();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].to_lowercase().contains("proxy-auth"), "{seen:?}");
}

/// RFC 9110, section 9.3.6: any 2xx, and header fields about a body mean nothing.
#[test]
fn proxy_accepts_with_any_2xx() {
    let (backend, seen) = refusing_backend();
    let responses: [&'static [&'static str]; 7] = [
        &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"],
        &["HTTP/1.1 201 Created\r\n\r\n"],
        &["HTTP/1.0 202 Accepted\r\nVia: 1.0 proxy\r\n\r\n"],
        &["HTTP/1.1 204 No Content\r\n\r\n"],
        &["HTTP/1.1 299 Odd\r\nTransfer-Encoding: chunked\r\n\r\n"],
        &["HTTP/1.1 2", "01 Created\r\n", "A: b\r\n\r", "\n"],
        &["HTTP/1.1 100 Continue\r\nA: b\r\n\r\n", "HTTP/1.1 201 Created\r\n\r\n"],
    ];
    for response in responses {
        let (proxy, _) = consenting_proxy(backend, response);
        let transport = UreqTransport::builder().proxy(&format!("http://{proxy}")).build().unwrap();
        assert_eq!(log_in(builder(BACKEND).transport(transport)), "401", "{response:?}");
    }
    assert_eq!(seen.all().len(), responses.len());
}

#[test]
fn loopback_uses_no_proxy() {
    let (backend, _) = refusing_backend();
    let (proxy, asked) = proxy(backend);
    let proxy = format!("http://{proxy}");
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{}", backend.port());
        let transport = UreqTransport::builder().proxy(&proxy).build().unwrap();
        assert_eq!(log_in(builder(&url).transport(transport)), "401");
        assert_eq!(with_environment(&url, &[("ALL_PROXY", &proxy)]), "401");
        // One that is of no use is of no harm either, where it is not used.
        assert_eq!(with_environment(&url, &[("ALL_PROXY", "socks5://127.0.0.1:1")]), "401");
    }
    assert!(asked.all().is_empty(), "{:?}", asked.all());
}

#[test]
fn environment_names_proxies_and_exceptions() {
    let (backend, _) = refusing_backend();
    let (proxy, asked) = proxy(backend);
    let proxy = &*format!("http://{proxy}");
    let direct = format!("{:?}", TransportErrorKind::Resolve);
    for (variables, expected) in [
        (vec![], &*direct),
        (vec![("HTTP_PROXY", proxy)], "401"),
        (vec![("http_proxy", proxy)], "401"),
        (vec![("ALL_PROXY", proxy)], "401"),
        (vec![("all_proxy", proxy), ("http_proxy", " ")], "401"),
        (vec![("HTTPS_PROXY", proxy)], &*direct),
        (vec![("HTTP_PROXY", proxy), ("REQUEST_METHOD", "GET")], &*direct),
        (vec![("HTTP_PROXY", proxy), ("NO_PROXY", "backend.invalid")], &*direct),
        (vec![("HTTP_PROXY", proxy), ("no_proxy", "example.org,.invalid")], &*direct),
        (vec![("HTTP_PROXY", proxy), ("NO_PROXY", "example.org")], "401"),
    ] {
        let before = asked.all().len();
        assert_eq!(with_environment(BACKEND, &variables), expected, "{variables:?}");
        let through = asked.all().len() > before;
        assert_eq!(through, expected == "401", "{variables:?}");
    }
    let transport = UreqTransport::builder().no_proxy().build().unwrap();
    assert_eq!(log_in(builder(BACKEND).transport(transport)), direct);
}

#[test]
fn unusable_proxy_fails_open() {
    for url in [
        "socks5://u:s3cret@127.0.0.1:1",
        "socks4a://s3cret@p",
        "ftp://s3cret@p",
        "http://s3cret@:1",
    ] {
        for name in ["HTTP_PROXY", "all_proxy"] {
            let said = with_environment(BACKEND, &[(name, url)]);
            let named = format!("the proxy in the environment cannot be used: `{name}` ");
            // On Windows the case of a variable's name means nothing.
            let is_named = said.starts_with(&named)
                || cfg!(windows) && said.to_lowercase().starts_with(&named.to_lowercase());
            assert!(is_named, "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
        let error = UreqTransport::builder().proxy(url).build().unwrap_err();
        assert!(matches!(error, Error::Config { what: "the proxy", .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn proxy_errors_have_sent_nothing() {
    use TransportErrorKind::{Connect, Proxy};
    let mut proxies = vec![("http://127.0.0.1:1".to_owned(), Connect)];
    for (status, kind) in [
        (400, Proxy),
        (401, Proxy),
        (403, Proxy),
        (405, Proxy),
        (407, Proxy),
        (408, Connect),
        (429, Connect),
        (500, Connect),
        (502, Connect),
        (503, Connect),
        (504, Connect),
    ] {
        let address = serve(move |mut stream| {
            let Some((head, _)) = read_request(&mut stream) else { return };
            assert!(head.starts_with("CONNECT "), "{head}");
            let _ = stream.write_all(raw(status, "").as_bytes());
        });
        proxies.push((format!("http://{address}"), kind));
    }
    for (proxy, kind) in proxies {
        let transport = UreqTransport::builder().proxy(&proxy).build().unwrap();
        let session = builder(BACKEND).transport(transport).open().unwrap();
        let error = session.log_in(&password()).unwrap_err();
        let Error::Transport(trouble) = &error else { panic!("{error}") };
        assert_eq!(trouble.kind, kind);
        assert_eq!(error.is_retryable(), kind == Connect);
        assert!(!error.is_ambiguous() && !trouble.may_have_arrived());
    }
}

/// Why keyfob has a rule of its own. If this fails, ureq's may be used.
#[test]
fn ureq_rule_is_unsafe() {
    // A proxy that it cannot use is ignored, so that requests are sent without it.
    assert_eq!(with_environment("ureq", &[("HTTPS_PROXY", "ftp://proxy.invalid")]), "None");
    // One for https is used for http, too.
    let outcome = with_environment("ureq", &[("HTTPS_PROXY", "http://proxy.invalid:1")]);
    assert!(outcome.contains("proxy.invalid"), "{outcome}");
    // In a CGI program any client can choose the proxy.
    let cgi = [("HTTP_PROXY", "http://evil.invalid:1"), ("REQUEST_METHOD", "GET")];
    assert!(with_environment("ureq", &cgi).contains("evil.invalid"));
}
