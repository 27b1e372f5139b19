//! What a client cannot do: use more than its share of time, memory or attempts; keep the server
//! from stopping.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfob::server::{CustomJwt, JwtKeys, Route, Server, ServerBuilder};
use serde_json::{Value, json};

use crate::client::{Client, ManualClock, connect, raw, read_answer, read_to_end, statuses};

const LOGIN: &str = "/api/client/v2.0/app/keyfob-local/auth/providers/anon-user/login";
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";

fn function_call(token: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /api/client/v2.0/app/keyfob-local/functions/call HTTP/1.1\r\nHost: a\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn head_size_is_limited() {
    let server = Server::builder().start().unwrap();
    let head = |field: usize| format!("GET /health HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(field));
    assert_eq!(statuses(&raw(&server, head(60_000))), [200]);
    assert_eq!(statuses(&raw(&server, head(70_000))), [431]);
    let fields = "X: y\r\n".repeat(101);
    assert_eq!(statuses(&raw(&server, format!("GET / HTTP/1.0\r\n{fields}\r\n"))), [431]);
    assert_eq!(statuses(&raw(&server, "x".repeat(200_000))), [431], "a line without end");
}

#[test]
fn body_size_is_limited() {
    let server = Server::builder().max_body_size(1000).start().unwrap();
    let client = Client::new(&server);
    let body = |size: usize| format!("{{{}}}", " ".repeat(size - 2));
    assert_eq!(client.try_log_in("anon-user", &body(1000)).status, 200);
    let answer = client.try_log_in("anon-user", &body(1001));
    let message = "the request body is too large: at most 1000 bytes are allowed here";
    answer.assert_error(413, "ReadSizeLimitExceeded", message);
    // More than fits into the sockets' buffers: the answer must survive that it is never read.
    let answer = client.try_log_in("anon-user", &body(500_000));
    assert_eq!(answer.status, 413);
    let chunks = "100\r\n".to_owned() + &" ".repeat(256) + "\r\n";
    let ask = "POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    assert_eq!(statuses(&raw(&server, ask + &chunks.repeat(4))), [413]);
}

/// Large bodies are for function calls, and only with a valid token.
#[test]
fn body_limit_depends_on_route_and_token() {
    let server = Server::builder().built_in_functions().start().unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    let body = |size: usize| format!("{{{}}}", " ".repeat(size - 2));
    assert_eq!(client.try_log_in("anon-user", &body(64 * 1024)).status, 200);
    let large = body(64 * 1024 + 1);
    let message = "the request body is too large: at most 65536 bytes are allowed here";
    let too_large = |answer: crate::client::Answer| {
        answer.assert_error(413, "ReadSizeLimitExceeded", message);
    };
    too_large(client.try_log_in("anon-user", &large));
    too_large(client.send("POST", "/auth/api_keys", Some(&user.refresh), &large));
    too_large(client.send("POST", "/auth/session", Some(&user.refresh), &large));
    let call = |token| client.send("POST", &client.app("/functions/call"), token, &large);
    assert_eq!(call(Some(&user.access)).status, 400, "arrived, and names no function");
    let refused = call(Some(&user.refresh));
    refused.assert_error(401, "InvalidSession", "invalid access token: incorrect token type");
    assert_eq!(call(None).error().1, "MissingAuthReq");
    assert_eq!(server.journal().last().unwrap().status, 401);
}

/// Nothing of it was sent, so the server cannot have waited for it.
#[test]
fn large_body_is_refused_before_it_is_read() {
    let server = Server::builder().start().unwrap();
    for (path, status) in [(LOGIN, 413), ("/api/client/v2.0/app/keyfob-local/functions/call", 401)]
    {
        for fields in ["", "Expect: 100-continue\r\n"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 10000000\r\n\r\n"
            );
            let mut stream = connect(&server);
            stream.write_all(head.as_bytes()).unwrap();
            let answer = read_to_end(&mut stream);
            assert_eq!(statuses(&answer), [status]);
            assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        }
    }
}

#[test]
fn compressed_body_is_refused() {
    let server = Server::builder().start().unwrap();
    let head = format!("POST {LOGIN} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
    for (status, fields) in [
        (415, "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
        (415, "Content-Encoding: GZIP\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        (200, "Content-Encoding: gzip\r\n\r\n"),
        (200, "Content-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}"),
    ] {
        assert_eq!(statuses(&raw(&server, format!("{head}{fields}"))), [status], "{fields}");
    }
}

/// Empty lines begin no request, so they do not keep a connection open.
#[test]
fn empty_lines_keep_idle_timeout() {
    let server = Server::builder().idle_timeout(Duration::from_millis(300)).start().unwrap();
    let mut stream = connect(&server);
    let started = Instant::now();
    while stream.write_all(b"\r\n").is_ok() {
        assert!(started.elapsed() < Duration::from_secs(9), "it is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn large_body_within_limit_is_accepted() {
    let server = Server::builder().built_in_functions().start().unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    let text = "x".repeat(4 << 20);
    assert_eq!(client.call(&user.access, "echo", &json!([text])).json(), json!(text));
}

#[test]
fn deep_nesting_is_rejected_without_recursion() {
    let server = Server::builder().built_in_functions().start().unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    let nested = "[".repeat(100_000);
    let body = format!(r#"{{"name":"echo","arguments":{nested}"#);
    let answer = client.send("POST", &client.app("/functions/call"), Some(&user.access), &body);
    assert_eq!(answer.status, 400);
    let body = format!(r#"{{"unknown":{}"#, &nested[..60_000]);
    assert_eq!(client.try_log_in("anon-user", &body).status, 400);
}

#[test]
fn slow_request_times_out() {
    let server = Server::builder().request_timeout(Duration::from_millis(300)).start().unwrap();
    let started = Instant::now();
    for part in
        ["GET /health HTTP/1.1\r\nX: ", "POST /health HTTP/1.0\r\nContent-Length: 999\r\n\r\n"]
    {
        let mut stream = connect(&server);
        stream.write_all(part.as_bytes()).unwrap();
        // Each byte on its own would be in time.
        while started.elapsed() < Duration::from_secs(9) {
            if stream.write_all(b"x").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let mut stream = connect(&server);
    stream.write_all(b"GET /hea").unwrap();
    assert_eq!(statuses(&read_to_end(&mut stream)), [408]);
}

#[test]
fn idle_connection_is_closed_without_response() {
    let server = Server::builder().idle_timeout(Duration::from_millis(100)).start().unwrap();
    assert_eq!(read_to_end(&mut connect(&server)), "");
    let mut stream = connect(&server);
    stream.write_all(HEALTH).unwrap();
    read_answer(&mut stream);
    assert_eq!(read_to_end(&mut stream), "");
}

#[test]
fn unread_response_times_out() {
    let server = Server::builder()
        .function("large", |_, _| Ok(Value::from("x".repeat(16 << 20))))
        .request_timeout(Duration::from_millis(300))
        .shutdown_timeout(Duration::from_secs(60))
        .start()
        .unwrap();
    let client = Client::new(&server);
    let token = client.anonymous().access;
    let mut stream = connect(&server);
    stream.write_all(function_call(&token, r#"{"name":"large"}"#).as_bytes()).unwrap();
    while server.journal().count(Route::CallFunction) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = Instant::now();
    drop(client);
    server.shut_down();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Calls a function that blocks, on a connection of its own. Asks again while the connection gets 503:
/// a closed connection counts until the server has seen its end.
fn hold(server: &Server, ask: &str, entered: &mpsc::Receiver<()>) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut stream = connect(server);
        stream.write_all(ask.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.peek(&mut [0]).is_err() {
            assert!(Instant::now() < deadline, "the function was not called");
            if entered.recv_timeout(Duration::from_millis(1)).is_ok() {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
        }
    }
}

#[test]
fn connection_beyond_limit_gets_503() {
    let (entered, wait) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = Server::builder()
        .function("hold", move |_, _| {
            entered.send(()).unwrap();
            let _ = held.lock().unwrap().recv();
            Ok(Value::Null)
        })
        .max_connections(2)
        .start()
        .unwrap();
    let token = Client::new(&server).anonymous().access;
    let ask = function_call(&token, r#"{"name":"hold"}"#);
    let mut held: Vec<_> = (0..2).map(|_| hold(&server, &ask, &wait)).collect();
    let answer = raw(&server, HEALTH);
    assert_eq!(statuses(&answer), [503]);
    assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    drop(release);
    for stream in &mut held {
        assert_eq!(statuses(&read_answer(stream)), [200], "they were not cut off");
    }
    assert_eq!(statuses(&raw(&server, "GET /health HTTP/1.0\r\n\r\n")), [200]);
}

/// Asks on new connections until one is answered: a connection counts as idle only a moment after
/// its response has arrived.
fn ask_until_there_is_room(server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while statuses(&raw(server, "GET /health HTTP/1.0\r\n\r\n")) != [200] {
        assert!(Instant::now() < deadline, "an idle connection makes no room");
    }
}

#[test]
fn idle_connection_is_closed_for_new_one() {
    let server = Server::builder().max_connections(2).start().unwrap();
    let mut idle: Vec<_> = (0..2).map(|_| connect(&server)).collect();
    for stream in &mut idle {
        stream.write_all(HEALTH).unwrap();
        assert_eq!(statuses(&read_answer(stream)), [200]);
    }
    ask_until_there_is_room(&server);
    let is_open = |mut stream: TcpStream| {
        let last = "GET /health HTTP/1.0\r\n\r\n";
        stream.write_all(last.as_bytes()).is_ok() && !read_to_end(&mut stream).is_empty()
    };
    assert_eq!(idle.into_iter().map(is_open).filter(|is_open| *is_open).count(), 1);
}

#[test]
fn connections_per_address_are_limited() {
    let server = Server::builder().max_connections_per_address(1).start().unwrap();
    let mut first = connect(&server);
    first.write_all(HEALTH).unwrap();
    assert_eq!(statuses(&read_answer(&mut first)), [200]);
    ask_until_there_is_room(&server);
    assert_eq!(read_to_end(&mut first), "");
}

#[test]
fn stop_does_not_wait_for_idle_clients() {
    let server = Server::builder().shutdown_timeout(Duration::from_secs(120)).start().unwrap();
    let mut idle: Vec<_> = (0..20).map(|_| connect(&server)).collect();
    for stream in idle.iter_mut().take(10) {
        stream.write_all(HEALTH).unwrap();
        read_answer(stream);
    }
    idle[15].write_all(b"GET /hea").unwrap();
    let address = server.local_addr();
    let started = Instant::now();
    server.shut_down();
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    for stream in &mut idle {
        read_to_end(stream);
    }
    let refused = TcpStream::connect(address).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn stop_completes_request_in_progress() {
    let (started, wait) = mpsc::channel();
    let address = Arc::new(OnceLock::<SocketAddr>::new());
    let listens = Arc::clone(&address);
    let server = Server::builder()
        .function("slow", move |_, _| {
            started.send(()).unwrap();
            // Until the server takes no more calls: it is being stopped.
            while TcpStream::connect(listens.wait()).is_ok() {
                std::thread::yield_now();
            }
            Ok(json!("done"))
        })
        .start()
        .unwrap();
    address.set(server.local_addr()).unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.call(&user.access, "slow", &json!([])));
        wait.recv().unwrap();
        server.shut_down();
        let answer = call.join().unwrap();
        assert_eq!(answer.json(), json!("done"));
        assert_eq!(answer.header("connection"), Some("close"));
    });
}

#[test]
fn waiting_connections_do_not_delay_stop() {
    let timeout = Duration::from_secs(30);
    let server = Server::builder().shutdown_timeout(timeout).start().unwrap();
    let [mut idle, mut midway] = [(); 2].map(|()| connect(&server));
    for stream in [&mut idle, &mut midway] {
        stream.write_all(HEALTH).unwrap();
        assert_eq!(statuses(&read_answer(stream)), [200]);
    }
    midway.write_all(&HEALTH[..10]).unwrap();
    let begin = Instant::now();
    server.shut_down();
    assert!(begin.elapsed() < timeout / 3, "{:?}", begin.elapsed());
    assert_eq!(read_to_end(&mut idle), "");
}

#[test]
fn stop_gives_up_on_stuck_function() {
    let (release, stuck) = mpsc::channel::<()>();
    let (entered, wait) = mpsc::channel();
    let stuck = std::sync::Mutex::new(stuck);
    let server = Server::builder()
        .function("stuck", move |_, _| {
            entered.send(()).unwrap();
            let _ = stuck.lock().unwrap().recv();
            Ok(Value::Null)
        })
        .shutdown_timeout(Duration::from_millis(200))
        .start()
        .unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    let mut stream = connect(&server);
    stream.write_all(function_call(&user.access, r#"{"name":"stuck"}"#).as_bytes()).unwrap();
    wait.recv().unwrap();
    // Ends, or the test never does.
    drop(server);
    assert_eq!(read_to_end(&mut stream), "", "its connection is gone");
    drop(release);
}

/// As serde_json reads it, this is text within text, each with a limit of depth of its own.
fn texts_within_texts(most: usize) -> String {
    let (open, close) = ("[".repeat(120), "]".repeat(120));
    let mut text = format!("{open}1{close}");
    while text.len() < most {
        let quoted = text.replace('\\', "\\u005c").replace('"', "\\u0022");
        text = format!("{open}{{\"$serde_json::private::RawValue\":\"{quoted}\"}}{close}");
    }
    text
}

#[test]
fn nested_texts_are_rejected_without_overflow() {
    let server = Server::builder()
        .built_in_functions()
        .auth_function(|_| Err("nobody".into()))
        .custom_jwt(CustomJwt::new(JwtKeys::hs256("a secret of thirty-two bytes, or more")))
        .start()
        .unwrap();
    let client = Client::new(&server);
    let user = client.ada();
    let deep = texts_within_texts(400_000);
    let body = format!(r#"{{"username":"a","password":"b","options":{deep}}}"#);
    for provider in ["local-userpass", "anon-user", "custom-function", "oauth2-google"] {
        assert!((400..500).contains(&client.try_log_in(provider, &body).status), "{provider}");
    }
    let call = format!(r#"{{"name":"echo","arguments":[{deep}]}}"#);
    let answer = client.send("POST", &client.app("/functions/call"), Some(&user.access), &call);
    assert_eq!(answer.status, 400);
    // Before anybody knows who signed it, the header of a token is read.
    let header = format!(r#"{{"alg":"HS256","x":{}}}"#, texts_within_texts(20_000));
    let token = format!("{}.e30.c2ln", BASE64_URL_SAFE_NO_PAD.encode(header));
    assert!(token.len() < 60_000, "{}", token.len());
    assert_eq!(client.profile(&token).status, 401);
    assert_eq!(client.refresh(&token).status, 401);
    let body = json!({"token": token}).to_string();
    assert_eq!(client.try_log_in("custom-token", &body).status, 401);
}

#[test]
fn garbage_affects_no_other_client() {
    let server = Server::builder().request_timeout(Duration::from_millis(200)).start().unwrap();
    // Any generator will do, so long as a failure can be repeated.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let parts = [
        "GET ",
        "POST ",
        "/health",
        " HTTP/1.1",
        "\r\n",
        "\n",
        "\r",
        "Host: a",
        "Content-Length: ",
        "Transfer-Encoding: chunked",
        "7",
        "0",
        "{}",
        ":",
        " ",
        "%",
        "\0",
        "Expect: 100-continue",
    ];
    for round in 0..300 {
        let bytes: Vec<u8> = (0..random() % 40)
            .flat_map(|_| match random() % 4 {
                0 => random().to_le_bytes()[..3].to_vec(),
                _ => parts[random() as usize % parts.len()].as_bytes().to_vec(),
            })
            .collect();
        let mut stream = connect(&server);
        // Refused while it is still being sent, perhaps.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        for status in statuses(&read_to_end(&mut stream)) {
            assert!(status < 500 || status == 501 || status == 505, "round {round}: {bytes:?}");
        }
    }
    assert_eq!(statuses(&raw(&server, "GET /health HTTP/1.0\r\n\r\n")), [200]);
}

#[test]
fn public_address_needs_permission() {
    let public: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let refused = Server::builder().addr(public).start().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(refused.to_string().contains("allow_public()"), "{refused}");
    let server = Server::builder().addr(public).allow_public().start().unwrap();
    assert!(server.base_url().starts_with("http://127.0.0.1:"), "{}", server.base_url());
    assert_eq!(statuses(&raw(&server, "GET /health HTTP/1.0\r\n\r\n")), [200]);
    let loopback: SocketAddr = "[::ffff:127.0.0.1]:0".parse().unwrap();
    let server = Server::builder().addr(loopback).start().unwrap();
    assert!(server.base_url().starts_with("http://127.0.0.1:"), "{}", server.base_url());
    assert_eq!(statuses(&raw(&server, "GET /health HTTP/1.0\r\n\r\n")), [200]);
}

#[test]
fn used_address_is_named_in_error() {
    let server = Server::builder().start().unwrap();
    let address = server.local_addr();
    let error = Server::builder().addr(address).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
}

#[test]
fn invalid_settings_are_rejected() {
    let kind = |builder: ServerBuilder| builder.start().unwrap_err().kind();
    for app_id in ["", "a/b", "a b", "\u{e4}"] {
        assert_eq!(kind(Server::builder().app_id(app_id)), ErrorKind::InvalidInput, "{app_id:?}");
    }
    let none = Duration::from_millis(999);
    assert_eq!(kind(Server::builder().access_token_lifetime(none)), ErrorKind::InvalidInput);
    assert_eq!(kind(Server::builder().refresh_token_lifetime(none)), ErrorKind::InvalidInput);
    assert_eq!(kind(Server::builder().data_dir("")), ErrorKind::InvalidInput);
    for url in ["http://a/\r\nBcc: c@d", "http://a/ b", "http://a/\0"] {
        assert_eq!(kind(Server::builder().confirm_url(url)), ErrorKind::InvalidInput, "{url:?}");
        assert_eq!(kind(Server::builder().reset_url(url)), ErrorKind::InvalidInput, "{url:?}");
    }
    let server = Server::builder()
        .access_token_lifetime(Duration::MAX)
        .refresh_token_lifetime(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .request_timeout(Duration::MAX)
        .shutdown_timeout(Duration::MAX)
        .start()
        .unwrap();
    let client = Client::new(&server);
    assert_eq!(
        client.profile(&client.anonymous().access).status,
        200,
        "but no lifetime is too long"
    );
    let store = keyfob::store::MemoryStore::new();
    let session = keyfob::Session::builder(server.app_id(), server.base_url()).store(store);
    session.open().unwrap().log_in(&keyfob::Credentials::anonymous()).expect("nor for a session");
}

#[test]
fn password_guessing_is_limited() {
    let clock = ManualClock::new();
    let server = Server::builder().clock(clock.clone()).login_attempts(Some(3)).start().unwrap();
    let client = Client::new(&server);
    client.register("ada@example.org", "hunter22");
    client.register("bob@example.org", "hunter22");
    for _ in 0..3 {
        assert_eq!(client.try_password("ada@example.org", "wrong").status, 401);
        clock.advance(10);
    }
    let answer = client.try_password("ada@example.org", "hunter22");
    answer.assert_error(429, "", "too many failed log-in attempts");
    assert_eq!(answer.header("retry-after"), Some("870"));
    assert_eq!(client.try_password("bob@example.org", "hunter22").status, 200, "others may");
    assert_eq!(client.try_log_in("anon-user", "").status, 200);
    clock.advance(869);
    assert_eq!(client.try_password("ada@example.org", "hunter22").status, 429);
    clock.advance(1);
    assert_eq!(client.try_password("ada@example.org", "hunter22").status, 200);
    for _ in 0..3 {
        assert_eq!(client.try_password("ada@example.org", "wrong").status, 401, "starts anew");
    }
}

#[test]
fn name_guessing_is_limited_like_passwords() {
    let clock = ManualClock::new();
    let server = Server::builder().clock(clock.clone()).login_attempts(Some(2)).start().unwrap();
    let client = Client::new(&server);
    for _ in 0..2 {
        assert_eq!(client.try_password("nobody", "wrong").status, 401);
    }
    assert_eq!(client.try_password("nobody", "wrong").status, 429);
    for number in 0..18 {
        assert_eq!(client.try_password(&format!("nobody {number}"), "wrong").status, 401);
    }
    assert_eq!(client.try_password("somebody else", "wrong").status, 429, "the address is known");
}

/// Tries a password for `ada@example.org` with many threads at a time, and returns the statuses.
fn many_at_a_time(client: &Client, password: &str) -> Vec<u16> {
    std::thread::scope(|scope| {
        let guess = || client.try_password("ada@example.org", password).status;
        let threads: Vec<_> = (0..32).map(|_| scope.spawn(guess)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn concurrent_guesses_get_no_more_attempts() {
    for limit in [1, 3] {
        let server = Server::builder().login_attempts(Some(limit)).start().unwrap();
        let client = Client::new(&server);
        client.register("ada@example.org", "hunter22");
        let statuses = many_at_a_time(&client, "wrong");
        let attempts = statuses.iter().filter(|status| **status == 401).count();
        assert_eq!(attempts, limit as usize, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 32 - attempts);
    }
}

#[test]
fn concurrent_correct_passwords_are_not_limited() {
    let server = Server::builder().login_attempts(Some(1)).start().unwrap();
    let client = Client::new(&server);
    client.register("ada@example.org", "hunter22");
    assert_eq!(many_at_a_time(&client, "hunter22"), [200; 32]);
}

#[test]
fn guess_limit_can_be_disabled() {
    let server = Server::builder().login_attempts(None).start().unwrap();
    let client = Client::new(&server);
    for _ in 0..ServerBuilder::DEFAULT_LOGIN_ATTEMPTS + 5 {
        assert_eq!(client.try_password("nobody", "wrong").status, 401);
    }
}
