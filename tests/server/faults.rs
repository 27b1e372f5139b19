//! Faults on purpose, the clock to set, and what the journal says of both.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyfob::server::{ActiveFault, Fault, Route, Server};
use keyfob::{Clock, Deadline};
use serde_json::json;

use crate::client::{CLIENT, Client, connect, raw, read_answer, read_to_end, statuses};

fn start() -> (Server, Client) {
    let server = Server::builder().built_in_functions().start().unwrap();
    let client = Client::new(&server);
    (server, client)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
const LAST_HEALTH: &str = "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// A registration, as it is on the wire.
fn registration(server: &Server) -> String {
    let body = r#"{"email":"ada@example.org","password":"hunter22"}"#;
    let app = server.app_id();
    format!(
        "POST {CLIENT}/app/{app}/auth/providers/local-userpass/register HTTP/1.1\r\nHost: h\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn status_fault_replaces_request() {
    let (server, client) = start();
    let fault = Fault::status(429).retry_after(Duration::from_secs(7)).error("Slow", "slow down");
    let fault = server.faults().add(fault.on(Route::Register).times(2));
    for _ in 0..2 {
        let answer = client.register("ada@example.org", "hunter22");
        answer.assert_error(429, "Slow", "slow down");
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(fault.hits(), 2);
    assert_eq!(client.register("ada@example.org", "hunter22").status, 201);
    assert_eq!(fault.hits(), 2);
}

#[test]
fn pages_redirects_and_any_body_are_faults() {
    let (server, client) = start();
    let faults = server.faults();
    faults.add(Fault::html(502));
    faults.add(Fault::redirect(307, "https://example.org/elsewhere"));
    faults.add(Fault::status(200).body("text/plain", "words"));
    let page = client.profile("x");
    assert_eq!(page.status, 502);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text.contains("<h1>502</h1>"), "{page:?}");
    let elsewhere = client.profile("x");
    assert_eq!(elsewhere.status, 307);
    assert_eq!(elsewhere.header("location"), Some("https://example.org/elsewhere"));
    let plain = client.profile("x");
    assert_eq!((plain.status, plain.text.as_str()), (200, "words"));
    assert_eq!(client.profile("x").status, 401);
}

#[test]
fn faults_apply_in_order_until_exhausted() {
    let (server, client) = start();
    let faults = server.faults();
    faults.add(Fault::status(501).on(Route::Profile));
    faults.add(Fault::status(502).on(Route::CallFunction));
    faults.add(Fault::status(503).times(2).after(1));
    let always = faults.add(Fault::status(504).on(Route::Profile).always());
    let text = format!("{faults:?}");
    assert!(text.contains("status 501 on GET /auth/profile"), "{text}");
    let profiles = || client.profile("x").status;
    // The third fault lets one request pass, which meets the fourth.
    assert_eq!([profiles(), profiles(), profiles()], [501, 504, 503]);
    assert_eq!(client.call("x", "echo", &json!([])).status, 502);
    assert_eq!([profiles(), profiles(), profiles()], [503, 504, 504]);
    assert_eq!(always.hits(), 3);
    always.remove();
    assert_eq!(profiles(), 401);
    faults.add(Fault::status(500).always());
    assert_eq!(profiles(), 500);
    faults.clear();
    assert_eq!(profiles(), 401);
}

/// A cut before handling leaves no trace; one after the commit has all effects.
#[test]
fn cut_before_or_after_commit_is_atomic() {
    let (server, client) = start();
    for (fault, status, done) in [
        (Fault::cut_before_handling(), 0, false),
        (Fault::bytes("HTP/2.9 hi"), 0, false),
        (Fault::cut_after_commit(), 201, true),
    ] {
        server.clear_journal();
        let name = format!("{fault}");
        server.faults().add(fault.on(Route::Register));
        let came = raw(&server, registration(&server));
        assert_eq!(came, if name == "bytes" { "HTP/2.9 hi" } else { "" });
        let journal = server.journal();
        assert_eq!((journal[0].status, journal[0].fault), (status, Some(name.as_str())));
        assert_eq!(journal.routes(), [Route::Register]);
        let exists = client.try_password("ada@example.org", "hunter22").status == 200;
        assert_eq!(exists, done, "{name}");
    }
}

#[test]
fn garbage_fault_ends_connection() {
    let (server, _) = start();
    server.faults().add(Fault::garbage());
    let mut stream = connect(&server);
    stream.write_all(HEALTH.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap();
    assert!(bytes.len() > 20 && !bytes.starts_with(b"HTTP"), "{bytes:?}");
    assert_eq!(statuses(&raw(&server, LAST_HEALTH)), [200]);
}

#[test]
fn cut_in_body_sends_less_than_announced() {
    let (server, client) = start();
    server.faults().add(Fault::cut_in_body().on(Route::Register));
    let came = raw(&server, registration(&server));
    let (head, body) = came.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    assert!(body.len() < length.unwrap().parse().unwrap(), "{came}");
    assert_eq!(client.try_password("ada@example.org", "hunter22").status, 200);
}

#[test]
fn hold_fault_delays_one_response_until_release() {
    let (server, client) = start();
    let held = server.faults().add(Fault::hold().on(Route::Health).always());
    let mut waiting = connect(&server);
    waiting.write_all(HEALTH.as_bytes()).unwrap();
    assert!(held.wait(1, soon()));
    assert!(!held.wait(2, Deadline::after(Duration::ZERO)));
    assert_eq!(client.profile("x").status, 401);
    held.release();
    assert!(read_answer(&mut waiting).ends_with(r#"{"status":"ok"}"#));
    // It still counts, and holds nothing back.
    assert_eq!(statuses(&raw(&server, LAST_HEALTH)), [200]);
    assert_eq!(held.hits(), 2);
}

#[test]
fn ending_fault_releases_held_responses() {
    let ways: [fn(&Server, &ActiveFault); 3] =
        [|_, held| held.release(), |_, held| held.remove(), |server, _| server.faults().clear()];
    for end in ways {
        let (server, _) = start();
        let slow = Duration::from_secs(100_000);
        for fault in [Fault::hold(), Fault::delay(slow), Fault::drip(10, slow)] {
            let held = server.faults().add(fault);
            let mut waiting = connect(&server);
            waiting.write_all(LAST_HEALTH.as_bytes()).unwrap();
            assert!(held.wait(1, soon()));
            end(&server, &held);
            assert_eq!(statuses(&read_to_end(&mut waiting)), [200], "{held:?}");
        }
    }
}

#[test]
fn stop_does_not_wait_for_held_responses() {
    for fault in [Fault::hold(), Fault::delay(Duration::MAX), Fault::drip(1, Duration::MAX)] {
        let server = Server::builder().shutdown_timeout(Duration::from_secs(3600)).start().unwrap();
        let held = server.faults().add(fault);
        let mut waiting = connect(&server);
        waiting.write_all(HEALTH.as_bytes()).unwrap();
        assert!(held.wait(1, soon()));
        server.shut_down();
        assert_eq!(statuses(&read_to_end(&mut waiting)), [200], "{held:?}");
    }
}

#[test]
fn delayed_and_dripped_responses_are_complete() {
    let (server, _) = start();
    let short = Duration::from_millis(2);
    for fault in [Fault::delay(short * 20), Fault::drip(7, short)] {
        let began = Instant::now();
        server.faults().add(fault);
        let came = raw(&server, LAST_HEALTH);
        assert!(came.ends_with(r#"{"status":"ok"}"#), "{came}");
        assert!(began.elapsed() >= short * 20);
    }
}

#[test]
fn journal_records_routes_and_faults() {
    let (server, client) = start();
    let user = client.ada();
    client.refresh(&user.refresh);
    server.faults().add(Fault::status(500).on(Route::Refresh));
    client.refresh(&user.refresh);
    client.link(&user.access, "anon-user", &json!({}));
    client.log_out(&user.refresh);
    client.send("PATCH", "/auth/session", None, "");
    let journal = server.journal();
    journal.assert_routes(&[
        Route::Register,
        Route::LogIn,
        Route::Refresh,
        Route::Refresh,
        Route::Link,
        Route::LogOut,
    ]);
    journal.assert_count(Route::Refresh, 2);
    assert_eq!(journal.len(), 7);
    assert_eq!(journal[6].route, None);
    let failed = catch_unwind(AssertUnwindSafe(|| journal.assert_count(Route::Refresh, 1)));
    let message = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(message.starts_with("expected 1 × POST /auth/session, there were 2"), "{message}");
    assert!(message.contains("201 POST /api/client/v2.0/auth/session by "), "{message}");
    assert!(message.contains("500 POST /api/client/v2.0/auth/session [status]"), "{message}");
    for secret in [&*user.access, &*user.refresh, "hunter22", "ada@example.org"] {
        assert!(!message.contains(secret), "{message}");
    }
    server.clear_journal();
    assert!(server.journal().is_empty());
}

#[test]
fn function_panic_is_in_journal() {
    let server = Server::builder().function("panic", |_, _| panic!("on purpose")).start().unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    let held = server.faults().add(Fault::delay(Duration::ZERO).on(Route::CallFunction));
    for fault in [Some("held back"), None] {
        client.call(&user.access, "panic", &json!([])).assert_error(
            500,
            "InternalServerError",
            "internal server error",
        );
        let journal = server.journal();
        let entry = journal.last().unwrap();
        assert_eq!((entry.route, entry.status), (Some(Route::CallFunction), 500));
        assert_eq!(entry.user_id.as_ref().map(|id| id.as_str()), Some(user.user_id.as_str()));
        assert_eq!(entry.fault, fault);
    }
    assert_eq!(held.hits(), 1);
}

#[test]
fn function_panic_can_be_cut_after_commit() {
    let server = Server::builder().auth_function(|_| panic!("on purpose")).start().unwrap();
    server.faults().add(Fault::cut_after_commit().on(Route::LogIn));
    let path = format!("{CLIENT}/app/{}/auth/providers/custom-function/login", server.app_id());
    let ask = format!("POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(raw(&server, &ask), "");
    assert_eq!(statuses(&raw(&server, &ask)), [500]);
    let journal = server.journal();
    journal.assert_routes(&[Route::LogIn, Route::LogIn]);
    assert_eq!((journal[0].fault, journal[1].fault), (Some("cut after commit"), None));
}

#[test]
fn rejected_request_is_in_journal() {
    let server = Server::builder().max_body_size(10).start().unwrap();
    let client = Client::new(&server);
    assert_eq!(client.register("ada@example.org", "hunter22").status, 413);
    let link = format!("{CLIENT}/app/x/auth/providers/x/login?link=true");
    for (status, fields) in [(413, "Content-Length: 11"), (417, "Expect: x")] {
        let ask = format!("POST {link} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        assert_eq!(statuses(&raw(&server, ask)), [status]);
    }
    assert_eq!(statuses(&raw(&server, "GET\r\n\r\n")), [400]);
    let journal = server.journal();
    journal.assert_routes(&[Route::Register, Route::Link, Route::Link]);
    let statuses: Vec<_> = journal.iter().map(|entry| entry.status).collect();
    assert_eq!(statuses, [413, 413, 417, 400]);
    assert_eq!((journal[3].route, journal[3].path.as_str()), (None, "-"));
}

#[test]
fn expiry_follows_server_clock() {
    let (server, client) = start();
    let clock = server.clock();
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let user = client.ada();
    clock.advance(minutes(29));
    assert_eq!(client.profile(&user.access).status, 200);
    clock.advance(minutes(1));
    assert_eq!(client.profile(&user.access).status, 401);
    clock.advance(minutes(60 * 24 * 60 - 31));
    assert_eq!(client.refresh(&user.refresh).status, 201);
    clock.advance(minutes(1));
    assert_eq!(client.refresh(&user.refresh).status, 401);
    // Back again, the tokens are good again.
    let then = clock.now();
    clock.set(then - minutes(60 * 24 * 60));
    assert_eq!(client.profile(&user.access).status, 200);
    for time in [UNIX_EPOCH + minutes(1), then, SystemTime::now()] {
        clock.set(time);
        let user = client.anonymous();
        assert_eq!(client.profile(&user.access).status, 200, "{time:?}");
    }
}
