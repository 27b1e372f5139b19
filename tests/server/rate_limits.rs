//! Rate limits: what can be guessed or flooded is refused after a while, and only then.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use keyfob::server::{
    AuthFunctionAnswer, Confirmation, CustomJwt, JwtKeys, MailKind, RateLimit, RateLimits, Reset,
    Server, ServerBuilder, Verdict,
};
use serde_json::{Value, json};

use crate::client::{Answer, Client, ManualClock};

const ADA: &str = "ada@example.org";
const MINUTE: u64 = 60;

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client, ManualClock) {
    let clock = ManualClock::new();
    let server = set(Server::builder().clock(clock.clone())).start().unwrap();
    let client = Client::new(&server);
    (server, client, clock)
}

/// Counts how many requests get through before one is refused with 429, `most` at most.
fn allowed(most: usize, ask: impl Fn(usize) -> Answer) -> usize {
    (0..most).position(|n| ask(n).status == 429).unwrap_or(most)
}

#[track_caller]
fn assert_limited(answer: &Answer, message: &str, retry_after: &str) {
    answer.assert_error(429, "", message);
    assert_eq!(answer.header("retry-after"), Some(retry_after), "{answer:?}");
    assert!(answer.json()["link"].is_string(), "{answer:?}");
}

/// A login function that checks a PIN of four digits.
fn pins(builder: ServerBuilder) -> ServerBuilder {
    builder.auth_function(|payload| match (payload["username"].as_str(), &payload["pin"]) {
        (Some(name), Value::String(pin)) if pin == "7391" => Ok(AuthFunctionAnswer::new(name)),
        (None, Value::String(pin)) if pin == "7391" => Ok(AuthFunctionAnswer::new("nobody")),
        _ => Err("wrong PIN".into()),
    })
}

fn pin(client: &Client, name: &str, pin: usize) -> Answer {
    let body = json!({"username": name, "pin": format!("{pin:04}")});
    client.try_log_in("custom-function", &body.to_string())
}

/// By default, in a test as well: 999 of 10,000 PINs took half a second.
#[test]
fn pin_of_function_login_cannot_be_guessed() {
    let (_server, client, clock) = start(pins);
    assert_eq!(allowed(1000, |n| pin(&client, "ada", n)), 20);
    let answer = pin(&client, "ada", 7391);
    assert_limited(&answer, "too many failed log-in attempts", "900");
    assert_eq!(pin(&client, "bob", 7391).status, 200, "others may");
    clock.advance(15 * MINUTE);
    assert_eq!(pin(&client, "ada", 7391).status, 200);
    assert_eq!(allowed(1000, |n| pin(&client, "ada", n)), 20, "success starts anew");
    // Without a name, or with a new one each time, the address counts.
    let (_server, client, _) = start(pins);
    let anonymous = |n: usize| {
        client.try_log_in("custom-function", &json!({"pin": format!("{n:04}")}).to_string())
    };
    assert_eq!(allowed(1000, anonymous), 100);
    let (_server, client, _) = start(pins);
    assert_eq!(allowed(1000, |n| pin(&client, &n.to_string(), n)), 100);
}

#[test]
fn concurrent_function_logins_get_no_more_guesses() {
    let (_server, client, _) = start(pins);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|thread| {
                let client = &client;
                scope.spawn(move || {
                    (0..4).map(|n| pin(client, "ada", thread * 4 + n).status).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 20, "{statuses:?}");
}

#[test]
fn failed_api_key_and_token_logins_are_limited() {
    let (_server, client, _) = start(|builder| {
        builder.custom_jwt(CustomJwt::new(JwtKeys::hs256("a secret of thirty-two bytes, or more")))
    });
    let key = |_| client.try_log_in("api-key", r#"{"key":"none"}"#);
    assert_eq!(allowed(200, key), 100);
    let token = |_| client.try_log_in("custom-token", r#"{"token":"a.b.c"}"#);
    assert_eq!(allowed(200, token), 100);
    let unsupported = client.try_log_in("oauth2-google", r#"{"id_token":"a.b.c"}"#);
    assert_eq!(unsupported.status, 429, "the same limit for all other providers");
    let user = client.ada();
    let link = client.link(&user.access, "api-key", &json!({"key": "none"}));
    assert_eq!(link.status, 429, "linking is logging in");
    assert_eq!(client.create_key(&user.refresh, "key").status, 201);
}

/// Right keys and tokens are no guesses, however many.
#[test]
fn successful_logins_do_not_count() {
    let mut limits = RateLimits::default();
    limits.api_key_logins.per_address = Some(1);
    limits.function_logins.per_account = Some(1);
    let (_server, client, _) = start(|builder| pins(builder).rate_limits(limits));
    let user = client.ada();
    let key = client.create_key(&user.refresh, "key").json()["key"].clone();
    for _ in 0..5 {
        client.log_in("api-key", &json!({"key": key}));
        assert_eq!(pin(&client, "ada", 7391).status, 200);
    }
    assert_eq!(client.try_log_in("api-key", r#"{"key":"none"}"#).status, 401);
    assert_eq!(client.try_log_in("api-key", &json!({"key": key}).to_string()).status, 429);
}

#[test]
fn mails_per_account_are_limited() {
    let (server, client, clock) = start(|builder| builder.confirmation(Confirmation::Email));
    client.register(ADA, "hunter22");
    let body = json!({"email": ADA});
    let ask = |n: usize| client.email(["reset/send", "confirm/send"][n % 2], &body);
    assert_eq!(allowed(50, ask), 10);
    let message = "too many requests to confirm an address or to reset a password";
    assert_limited(&client.email("confirm/call", &body), message, "3600");
    assert_eq!(server.outbox().len(), 11, "with that of the registration");
    let bob = client.email("reset/send", &json!({"email": "bob"}));
    assert_eq!(bob.status, 404, "others may");
    assert_eq!(allowed(50, |_| client.email("reset/send", &json!({"email": "none"}))), 10);
    clock.advance(60 * MINUTE);
    assert_eq!(client.email("reset/send", &body).status, 200);
}

/// A reset function may ask a security question in its arguments.
#[test]
fn reset_function_calls_are_limited() {
    let (_server, client, _) = start(|builder| {
        let answer = |call: &keyfob::server::ResetCall| match call.arguments.first() {
            Some(answer) if answer == "blue" => Verdict::Success,
            _ => Verdict::Fail,
        };
        builder.reset(Reset::function(answer))
    });
    client.register(ADA, "hunter22");
    let ask = |n: usize| {
        let body = json!({"email": ADA, "password": "hunter23", "arguments": [n.to_string()]});
        client.email("reset/call", &body)
    };
    assert_eq!(allowed(50, ask), 10);
}

#[test]
fn mailed_tokens_cannot_be_guessed() {
    let (server, client, clock) = start(|builder| builder.confirmation(Confirmation::Email));
    client.register(ADA, "hunter22");
    let mail = &server.outbox()[0];
    assert_eq!(mail.kind, MailKind::Confirmation);
    let right = json!({"token": mail.token.expose(), "tokenId": mail.token_id});
    let guess = |n: usize| {
        let token = format!("{n:04}");
        let body = json!({"token": token, "tokenId": mail.token_id, "password": "hunter23"});
        client.email(["confirm", "reset"][n % 2], &body)
    };
    assert_eq!(allowed(100, guess), 20);
    let message = "too many failed attempts to confirm or reset";
    assert_limited(&client.email("confirm", &right), message, "900");
    let unknown = |n: usize| {
        let body = json!({"token": "00", "tokenId": format!("{n:024x}")});
        client.email("confirm", &body)
    };
    assert_eq!(allowed(200, unknown), 80, "the address has used 20 of its 100");
    clock.advance(15 * MINUTE);
    assert_eq!(client.email("confirm", &right).status, 200);
}

#[test]
fn floods_are_limited_on_public_address() {
    let ask =
        |client: &Client, n: usize| client.try_log_in("anon-user", &json!({"n": n}).to_string());
    let (_server, client, clock) = start(|builder| builder.rate_limits(RateLimits::default()));
    assert_eq!(allowed(1000, |n| ask(&client, n)), 500);
    assert_limited(&ask(&client, 0), "too many anonymous log-ins", "900");
    clock.advance(15 * MINUTE);
    assert_eq!(ask(&client, 0).status, 200);

    for exposed in [
        |builder: ServerBuilder| builder.public_url("https://auth.example.org"),
        |builder: ServerBuilder| builder.trusted_proxies([IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))]),
    ] {
        let server = exposed(Server::builder()).start().unwrap();
        let client = Client::at(&server, &format!("http://{}", server.local_addr()));
        assert_eq!(allowed(1000, |n| ask(&client, n)), 500);
    }
    // A test may make thousands.
    let (_server, client, _) = start(|builder| builder);
    assert_eq!(allowed(1000, |n| ask(&client, n)), 1000);
}

#[test]
fn registrations_are_limited() {
    let mut limits = RateLimits::default();
    assert_eq!(limits.registrations.per_address, Some(100));
    limits.registrations.per_address = Some(3);
    limits.registrations.window = Duration::from_secs(3600);
    let (_server, client, clock) = start(|builder| builder.rate_limits(limits));
    let register = |n: usize| client.register(&format!("user-{}", n / 2), "hunter22");
    assert_eq!(register(0).status, 201);
    assert_eq!(register(1).status, 409, "a taken name counts as well");
    client.register("x", "short").assert_error(
        400,
        "InvalidParameter",
        "password must be between 6 and 128 characters",
    );
    assert_eq!(register(2).status, 201);
    assert_limited(&register(4), "too many registrations", "3600");
    assert_eq!(client.try_password("user-0", "hunter22").status, 200);
    clock.advance(3600);
    assert_eq!(register(4).status, 201);
}

#[test]
fn total_limit_stops_many_addresses() {
    let mut limits = RateLimits::off();
    limits.anonymous_logins.total = Some(5);
    let (server, _, _) = start(|builder| {
        builder.rate_limits(limits).trusted_proxies([IpAddr::V4(Ipv4Addr::LOCALHOST)])
    });
    let client = Client::new(&server);
    let ask = |n: usize| client.try_forwarded("anon-user", "{}", &format!("203.0.113.{n}"));
    assert_eq!(allowed(20, ask), 5);
}

#[test]
fn forwarded_address_needs_trusted_proxy() {
    let mut limits = RateLimits::off();
    limits.anonymous_logins.per_address = Some(1);
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99));
    let (server, _, _) =
        start(|builder| builder.rate_limits(limits).trusted_proxies([localhost, other]));
    let client = Client::new(&server);
    let ask = |forwarded: &str| client.try_forwarded("anon-user", "{}", forwarded).status;
    assert_eq!(ask("203.0.113.1"), 200);
    assert_eq!(ask("203.0.113.1"), 429);
    assert_eq!(ask("198.51.100.1, 203.0.113.1, 192.0.2.99"), 429, "what it said before is a lie");
    assert_eq!(ask("203.0.113.1, 203.0.113.2"), 200);
    assert_eq!(ask("2001:db8::1"), 200);
    assert_eq!(ask("2001:db8::2"), 429, "the same /64 network");
    assert_eq!(ask("2001:db8:0:1::2"), 200);
    // What cannot be read counts for the proxy.
    assert_eq!(ask("nonsense"), 200);
    assert_eq!(ask("203.0.113.7, nonsense"), 429);
    assert_eq!(client.try_log_in("anon-user", "{}").status, 429);

    let (server, _, _) = start(|builder| builder.rate_limits(limits).trusted_proxies([other]));
    let client = Client::new(&server);
    let ask = |forwarded: &str| client.try_forwarded("anon-user", "{}", forwarded).status;
    assert_eq!(ask("203.0.113.1"), 200);
    assert_eq!(ask("203.0.113.2"), 429, "not from a trusted proxy");
}

#[test]
fn limits_can_be_switched_off() {
    let (_server, client, _) = start(|builder| pins(builder).rate_limits(RateLimits::off()));
    client.register(ADA, "hunter22");
    assert_eq!(allowed(300, |n| pin(&client, "ada", n)), 300);
    assert_eq!(allowed(50, |_| client.email("reset/send", &json!({"email": ADA}))), 50);
    assert_eq!(allowed(25, |_| client.try_password(ADA, "wrong")), 25);
    assert_eq!(RateLimits::off().mails, RateLimit::NONE);
}
