//! HTTP itself: framing, connections, methods.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use keyfob::server::{Confirmation, Route, Server};
use serde_json::json;

use crate::client::{Answer, CLIENT, Client, connect, raw, read_answer, read_to_end, statuses};

fn start() -> Server {
    Server::builder().built_in_functions().start().unwrap()
}

const LOGIN: &str = "/api/client/v2.0/app/keyfob-local/auth/providers/anon-user/login";

fn post(fields: &str, body: &str) -> String {
    format!("POST {LOGIN} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{body}")
}

#[test]
fn health_is_ok() {
    let server = start();
    let answer = raw(&server, "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"status\":\"ok\"}"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
}

#[test]
fn connection_serves_several_requests() {
    let server = start();
    let mut stream = connect(&server);
    for _ in 0..5 {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let answer = read_answer(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("Connection:"));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start();
    let text = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n\
                POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /\
                POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                \r\n\
                GET /nope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n\
                GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(statuses(&raw(&server, text)), [200, 405, 405, 404]);
}

#[test]
fn empty_line_after_request_is_ignored() {
    let server = Server::builder().request_timeout(Duration::from_millis(300));
    let server = server.idle_timeout(Duration::from_millis(900)).start().unwrap();
    let mut stream = connect(&server);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n\r\n").unwrap();
    assert_eq!(statuses(&read_to_end(&mut stream)), [200], "and no 408 that nobody asked for");
}

#[test]
fn request_may_arrive_byte_by_byte() {
    let server = start();
    let mut stream = connect(&server);
    stream.set_nodelay(true).unwrap();
    for byte in post("Content-Length: 2\r\n", "{}").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(statuses(&read_to_end(&mut stream)), [200]);
}

#[test]
fn http_1_0_closes_without_keep_alive() {
    let server = start();
    let answer = raw(&server, "GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(statuses(&answer), [200]);
    let mut stream = connect(&server);
    stream.write_all(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).contains("\r\nConnection: keep-alive\r\n"));
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(statuses(&read_to_end(&mut stream)), [200]);
}

#[test]
fn client_may_half_close_before_response() {
    let server = start();
    let mut stream = connect(&server);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&read_to_end(&mut stream)), [200]);
}

#[test]
fn response_survives_data_after_last_request() {
    let server = start();
    for _ in 0..20 {
        let mut stream = connect(&server);
        let ask = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned();
        stream.write_all((ask + &"x".repeat(200_000)).as_bytes()).unwrap();
        assert_eq!(statuses(&read_to_end(&mut stream)), [200]);
    }
}

#[test]
fn head_response_has_no_body() {
    let server = start();
    let mut stream = connect(&server);
    stream.write_all(b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let text = read_to_end(&mut stream);
    assert_eq!(statuses(&text), [200, 200]);
    assert_eq!(text.matches("Content-Length: 15").count(), 2, "{text}");
    assert_eq!(text.matches("{\"status\":\"ok\"}").count(), 1, "{text}");
}

#[test]
fn browsers_get_cors_headers() {
    let server = start();
    let client = Client::new(&server);
    let ask = format!("OPTIONS {LOGIN} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = raw(&server, ask).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 204 "), "{answer}");
    for field in [
        "access-control-allow-origin: *",
        "access-control-allow-headers: authorization, content-type, accept",
        "access-control-allow-methods: delete, get, head, options, post, put",
        "access-control-expose-headers: x-appservices-request-id",
    ] {
        assert!(answer.contains(&format!("\r\n{field}\r\n")), "{field} in {answer}");
    }
    assert_eq!(client.profile("x").header("access-control-allow-origin"), Some("*"));
    assert_eq!(statuses(&raw(&server, "OPTIONS * HTTP/1.0\r\n\r\n")), [204]);
}

#[test]
fn unknown_routes_are_not_found() {
    let server = start();
    let client = Client::new(&server);
    client.send("GET", "/nope", None, "").assert_error(
        404,
        "",
        "no route for /api/client/v2.0/nope",
    );
    for path in ["/", "//", "/health/", "/api/client/v2.0", "/..", "/%00"] {
        let ask = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(statuses(&raw(&server, ask)), [404], "{path}");
    }
}

#[test]
fn wrong_method_lists_allowed_methods() {
    let server = start();
    let client = Client::new(&server);
    for (method, path, allow) in [
        ("POST", client.app("/location"), "GET, HEAD, OPTIONS"),
        ("GET", client.app("/auth/providers/anon-user/login"), "OPTIONS, POST"),
        ("GET", client.app("/functions/call"), "OPTIONS, POST"),
        ("PUT", "/auth/session".to_owned(), "DELETE, OPTIONS, POST"),
        ("PATCH", "/auth/profile".to_owned(), "GET, HEAD, OPTIONS"),
    ] {
        let answer = client.send(method, &path, None, "");
        let message = format!("method {method} is not allowed here");
        answer.assert_error(405, "", &message);
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[test]
fn chunked_bodies_are_decoded() {
    let server = start();
    let chunked = |body: &str| raw(&server, post("Transfer-Encoding: chunked\r\n", body));
    assert_eq!(statuses(&chunked("0\r\n\r\n")), [200]);
    assert_eq!(statuses(&chunked("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")), [200]);
    assert_eq!(statuses(&chunked("2;a=b\r\n{}\r\n00\r\nTrailer: x\r\n\r\n")), [200]);
    assert_eq!(statuses(&chunked("1\r\n{\r\n0\r\n\r\n")), [400], "half a body is not JSON");
}

#[test]
fn malformed_chunks_are_refused() {
    let server = start();
    for body in [
        "x\r\n",
        "-1\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "1\r\n{}\r\n0\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\r\n{}\r\n0\r\n\r\n",
        "2\u{c}\r\n{}\r\n0\r\n\r\n",
        "2;a\r=b\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\r\nTrailer: \0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(2000)),
        &format!("2\r\n{{}}\r\n{}0\r\n\r\n", format!("1;{}\r\n \r\n", "x".repeat(1000)).repeat(20)),
        &format!("0\r\nTrailer: {}\r\n\r\n", "x".repeat(20_000)),
    ] {
        let answer = raw(&server, post("Transfer-Encoding: chunked\r\n", body));
        assert_eq!(statuses(&answer), [400], "{body:.60}");
        assert!(answer.contains("\"error_code\":\"BadRequest\""), "{answer}");
    }
}

#[test]
fn ambiguous_requests_are_rejected() {
    let server = start();
    // Each hides a second request in what may or may not be the body of the first.
    let hidden = "0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    for (status, fields) in [
        (400, "Content-Length: 5\r\nTransfer-Encoding: chunked"),
        (400, "Transfer-Encoding: chunked\r\nContent-Length: 5"),
        (400, "Content-Length: 5\r\nContent-Length: 6"),
        (400, "Content-Length: 5\r\nContent-Length: 5"),
        (400, "Content-Length: 5, 6"),
        (400, "Content-Length: +5"),
        (400, "Content-Length: -5"),
        (400, "Content-Length: 0x5"),
        (400, "Content-Length:"),
        (400, "Content-Length: \u{a0}5"),
        (400, "Content-Length: 5\u{3000}"),
        (400, "Content-Length : 5"),
        (400, "Transfer-Encoding : chunked"),
        (400, "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        (501, "Transfer-Encoding: identity"),
        (501, "Transfer-Encoding: chunked, identity"),
        (501, "Transfer-Encoding: \u{b}chunked"),
        (501, "Transfer-Encoding: \u{a0}chunked"),
        (501, "Transfer-Encoding: chunked\u{85}"),
        (400, " Folded: x"),
        (400, "X: a\nContent-Length: 5"),
        (400, "X: a\rContent-Length: 5"),
    ] {
        let ask = format!("POST {LOGIN} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{hidden}");
        let answer = raw(&server, ask);
        let got = statuses(&answer);
        let plausible = got == [status] || (status == 501 && got == [400]);
        assert!(plausible, "{fields:?}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{fields:?}: {answer}");
    }
    assert_eq!(server.journal().count(Route::Health), 0, "no hidden request got through");
}

#[test]
fn malformed_heads_are_rejected() {
    let server = start();
    for (status, head) in [
        (400, "GET\r\n\r\n"),
        (400, "GET /health\r\n\r\n"),
        (400, "\u{16}\u{3}\u{1}\r\n\r\n"),
        (400, "GET health HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET https://a/health HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /health HTTP/1.1\r\n\r\n"),
        (400, "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, "GET /health HTTP/1.1\nHost: a\n\n"),
        (400, "GET /health HTTP/1.1\r\nHo st: a\r\n\r\n"),
        (505, "GET /health HTTP/3.0\r\nHost: a\r\n\r\n"),
        (417, "GET /health HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n"),
    ] {
        let answer = raw(&server, head);
        assert_eq!(statuses(&answer), [status], "{head:?}");
        assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
    }
}

#[test]
fn absolute_target_is_used_as_path() {
    let server = start();
    let ask = "GET http://elsewhere/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&raw(&server, ask)), [200]);
    let ask =
        "GET http://elsewhere?token=x/secret HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&raw(&server, ask)), [404]);
    assert_eq!(server.journal()[1].path, "/", "what follows the question mark is no path");
}

#[test]
fn expect_continue_gets_100() {
    let server = start();
    let mut stream = connect(&server);
    let fields = "Expect: 100-continue\r\nContent-Length: 2\r\n";
    stream.write_all(post(fields, "").as_bytes()).unwrap();
    let mut leave = [0; 25];
    stream.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").unwrap();
    assert_eq!(statuses(&read_to_end(&mut stream)), [200]);

    let too_large = "Expect: 100-continue\r\nContent-Length: 99999999999\r\n";
    assert_eq!(statuses(&raw(&server, post(too_large, ""))), [413], "and no leave for this");
}

#[test]
fn paths_are_decoded_before_they_are_compared() {
    let server = start();
    let ask = format!("GET {CLIENT}/app/keyfob%2Dlocal/location HTTP/1.0\r\n\r\n");
    assert_eq!(statuses(&raw(&server, ask)), [200]);
}

#[test]
fn interrupted_connection_affects_no_other() {
    let server = start();
    for part in ["", "G", "GET /health HTTP/1.1\r\n", &post("Content-Length: 10\r\n", "{")] {
        let mut stream = connect(&server);
        stream.write_all(part.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = read_to_end(&mut stream);
        assert!(part.is_empty() == answer.is_empty(), "{part:?}: {answer}");
    }
    assert_eq!(statuses(&raw(&server, "GET /health HTTP/1.0\r\n\r\n")), [200]);
}

/// Tokens, keys and people's data are nothing for caches (RFC 6749 section 5.1).
#[test]
fn responses_forbid_caching() {
    let server = Server::builder().built_in_functions().rotate_refresh_tokens(true);
    let server = server.confirmation(Confirmation::Email).start().unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    client.register("ada@example.org", "hunter22");
    let mail = &server.outbox()[0];
    let confirm = json!({"token": mail.token.expose(), "tokenId": mail.token_id});
    let link = json!({"username": "ada@example.org", "password": "hunter22"});
    let answers = [
        client.try_log_in("anon-user", "{}"),
        client.try_log_in("api-key", r#"{"key":"none"}"#),
        client.email("confirm", &confirm),
        client.link(&user.access, "local-userpass", &link),
        client.try_password("ada@example.org", "hunter22"),
        client.profile(&user.access),
        client.call(&user.access, "whoami", &json!([])),
        client.create_key(&user.refresh, "key"),
        client.send("GET", "/auth/api_keys", Some(&user.refresh), ""),
        client.refresh(&user.refresh),
        client.refresh("no.token.x"),
        client.log_out(&user.refresh),
    ];
    for answer in answers {
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    }
    let page = raw(&server, "GET /confirm HTTP/1.0\r\n\r\n");
    assert_eq!(page.matches("Cache-Control: no-store\r\n").count(), 1, "{page}");
}

#[test]
fn error_link_shows_request() {
    let server = start();
    let client = Client::new(&server);
    let link = |answer: &Answer| answer.json()["link"].as_str().unwrap().to_owned();
    let get = |url: &str| {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(url).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    let answer = client.try_log_in("api-key", r#"{"key":"secret-in-body"}"#);
    let (status, text) = get(&link(&answer));
    assert_eq!(status, 200);
    assert!(text.contains("POST") && text.contains("/api-key/login"), "{text}");
    assert!(text.contains("status 401") && !text.contains("secret"), "{text}");

    let other = client.try_log_in("api-key", r#"{"key":"x"}"#);
    assert_ne!(link(&answer), link(&other));
    let (head, id) =
        (link(&answer).rsplit_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()))).unwrap();
    for wrong in [
        format!("{head}={}", "0".repeat(24)),
        format!("{head}="),
        head.clone(),
        format!("{}?co_id={id}", server.base_url().to_owned() + "/groups/g/apps/a/logs"),
    ] {
        assert_eq!(get(&wrong).0, 404, "{wrong}");
    }
    // Through a port mapping, the link has the name that the client used.
    let ask = "GET /nowhere HTTP/1.1\r\nHost: mapped:81\r\nConnection: close\r\n\r\n";
    assert!(raw(&server, ask).contains("\"link\":\"http://mapped:81/groups/"));
}
