//! Log-in with the ID tokens of OpenID Connect providers, by discovery.

use std::io::ErrorKind;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keyfob::server::{CustomJwt, JwtKeys, MetadataField, Oidc, Server, ServerBuilder};
use serde_json::{Value, json};

use crate::client::{Answer, Client, LogIn, ManualClock, providers};
use crate::stub::{Key, Stub};

const NOW: i64 = 1_700_000_000;
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// An issuer with one key.
struct Issuer {
    stub: Stub,
    key: Key,
}

impl Issuer {
    fn start(key: Key) -> Self {
        let stub = Stub::start(&json!({"keys": [key.jwk("1")]}));
        let issuer = Self { stub, key };
        issuer.describe(&json!({
            "issuer": issuer.url(), "jwks_uri": format!("{}/keys", issuer.url()),
        }));
        issuer
    }

    fn url(&self) -> &str {
        &self.stub.url
    }

    fn describe(&self, document: &Value) {
        self.stub.set_path(DISCOVERY, 200, document);
    }

    fn oidc(&self) -> Oidc {
        Oidc::new(self.url(), "notes")
    }

    fn claims(&self) -> Value {
        json!({"iss": self.url(), "aud": "notes", "sub": "ada", "iat": NOW, "exp": NOW + 600})
    }

    fn with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[name] = value;
        claims
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({}), claims)
    }

    fn sign_with(&self, more: &Value, claims: &Value) -> String {
        let mut header = json!({"alg": self.key.algorithm(), "typ": "JWT", "kid": "1"});
        for (name, value) in more.as_object().unwrap() {
            header[name] = value.clone();
        }
        self.key.token_with(&header, claims)
    }

    fn asked(&self) -> Vec<String> {
        let line = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
        self.stub.asked().iter().map(|asked| line(&asked.line)).collect()
    }
}

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client, ManualClock) {
    let clock = ManualClock::new();
    let server = set(Server::builder().clock(clock.clone())).start().unwrap();
    let client = Client::new(&server);
    (server, client, clock)
}

fn try_token(client: &Client, token: &str) -> Answer {
    client.try_log_in("custom-token", &json!({"token": token}).to_string())
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    answer.assert_error(401, "AuthError", "unauthorized");
}

#[test]
fn id_tokens_of_each_algorithm_log_in() {
    for key in [Key::rsa(), Key::ec(), Key::ed()] {
        let issuer = Issuer::start(key);
        let field = MetadataField::new("department", "unit");
        let (_server, client, _) = start(|b| b.oidc(issuer.oidc().metadata_field(field)));
        assert!(issuer.asked().is_empty(), "nothing is fetched ahead of time");
        let mut claims = issuer.with("name", json!("Ada L"));
        claims["department"] = json!("analysis");
        let user = LogIn::read(&try_token(&client, &issuer.sign(&claims)));
        let again = LogIn::read(&try_token(&client, &issuer.sign(&issuer.claims())));
        assert_eq!(again.user_id, user.user_id, "{}", issuer.key.algorithm());
        assert_eq!(issuer.asked(), [DISCOVERY, "/keys"]);
        let profile = client.profile(&user.access);
        assert_eq!(providers(&profile), ["custom-token"]);
        let profile = profile.json();
        assert_eq!(profile["identities"][0]["id"], format!("{}#ada", issuer.url()));
        assert_eq!(profile["data"], json!({"name": "Ada L", "unit": "analysis"}));
    }
}

#[test]
fn same_subject_of_two_issuers_is_two_users() {
    let (one, two) = (Issuer::start(Key::ec()), Issuer::start(Key::ec()));
    let own = Key::ec();
    let (_server, client, _) = start(|builder| {
        let jwt = CustomJwt::new(JwtKeys::es256(own.pem())).audience("notes");
        builder.oidc(one.oidc()).oidc(two.oidc()).custom_jwt(jwt)
    });
    let log_in = |token: &str| LogIn::read(&try_token(&client, token)).user_id;
    let ada = log_in(&one.sign(&one.claims()));
    assert_ne!(ada, log_in(&two.sign(&two.claims())));
    assert_ne!(ada, log_in(&own.token(&one.with("iss", json!("https://own")))));
    // Neither issuer speaks for the other, and tokens of one's own for none.
    assert_refused(&try_token(&client, &two.sign(&one.claims())));
    assert_refused(&try_token(&client, &own.token(&one.claims())));
    let mut forged = one.with("iss", json!("https://own"));
    forged["sub"] = json!(format!("{}#ada", one.url()));
    assert_refused(&try_token(&client, &own.token(&forged)));
    forged["sub"] = json!(format!("{}0#ada", one.url()));
    assert_ne!(ada, log_in(&own.token(&forged)), "that is no issuer");
}

#[test]
fn claims_of_id_tokens_are_checked() {
    let issuer = Issuer::start(Key::ec());
    let (_server, client, _) = start(|b| b.oidc(issuer.oidc().client_id("web")));
    let several = |azp: Value| {
        let mut claims = issuer.with("aud", json!(["other", "notes"]));
        claims["azp"] = azp;
        claims
    };
    for good in [
        issuer.with("aud", json!("web")),
        issuer.with("aud", json!(["notes"])),
        several(json!("web")),
        issuer.with("exp", json!(NOW - 59)),
        issuer.with("nbf", json!(NOW + 60)),
        issuer.with("iat", json!(NOW + 60)),
    ] {
        assert_eq!(try_token(&client, &issuer.sign(&good)).status, 200, "{good}");
    }
    for bad in [
        issuer.with("aud", json!("other")),
        issuer.with("aud", json!(null)),
        several(json!("other")),
        several(json!(null)),
        several(json!(["notes"])),
        issuer.with("iss", json!(format!("{}/", issuer.url()))),
        issuer.with("iss", json!("https://other")),
        issuer.with("iss", json!(null)),
        issuer.with("exp", json!(NOW - 60)),
        issuer.with("exp", json!(null)),
        issuer.with("nbf", json!(NOW + 61)),
        issuer.with("iat", json!(NOW + 61)),
        issuer.with("iat", json!(null)),
        issuer.with("iat", json!("now")),
        issuer.with("sub", json!(null)),
        issuer.with("sub", json!("a\0")),
        issuer.with("sub", json!("x".repeat(1024))),
        issuer.with("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}})),
    ] {
        assert_refused(&try_token(&client, &issuer.sign(&bad)));
    }
    for typ in ["at+jwt", "logout+jwt", "application/at+jwt", ""] {
        let token = issuer.sign_with(&json!({"typ": typ}), &issuer.claims());
        assert_refused(&try_token(&client, &token));
    }
    let untyped = issuer.key.token_with(&json!({"alg": "ES256"}), &issuer.claims());
    assert_eq!(try_token(&client, &untyped).status, 200);
}

#[test]
fn algorithms_of_tokens_cannot_be_confused() {
    let issuer = Issuer::start(Key::rsa());
    let (_server, client, _) = start(|b| b.oidc(issuer.oidc()));
    let good = issuer.sign(&issuer.claims());
    assert_eq!(try_token(&client, &good).status, 200);
    // The public key as a shared secret, in the forms in which a checker may have it.
    let modulus = issuer.key.jwk("1")["n"].as_str().unwrap().to_owned();
    for secret in [issuer.key.pem(), issuer.key.jwk("1").to_string(), modulus] {
        let header = json!({"alg": "HS256", "kid": "1"});
        let token = Key::Hs256(secret).token_with(&header, &issuer.claims());
        assert_refused(&try_token(&client, &token));
    }
    for algorithm in ["none", "None", "HS256", "RS384", "PS256", "ES256", "EdDSA", ""] {
        let token = issuer.sign_with(&json!({"alg": algorithm}), &issuer.claims());
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        assert_refused(&try_token(&client, &format!("{unsigned}.")));
        assert_refused(&try_token(&client, &token));
    }
}

#[test]
fn addresses_in_tokens_are_never_requested() {
    let (issuer, evil) = (Issuer::start(Key::rsa()), Issuer::start(Key::rsa()));
    let (_server, client, _) = start(|b| b.oidc(issuer.oidc()));
    let url = evil.url();
    for header in [
        json!({"jku": format!("{url}/keys"), "kid": "evil"}),
        json!({"x5u": format!("{url}/cert")}),
        json!({"jwk": evil.key.jwk("1")}),
        json!({"kid": format!("{url}/keys")}),
        json!({"kid": "../../../../etc/passwd"}),
        json!({"x5c": ["AAAA"]}),
        json!({"crit": ["jku"], "jku": format!("{url}/keys")}),
    ] {
        assert_refused(&try_token(&client, &evil.sign_with(&header, &issuer.claims())));
    }
    for iss in [url.to_owned(), format!("{}@{}", issuer.url(), &url[7..]), format!("{url}#")] {
        assert_refused(&try_token(&client, &evil.sign(&evil.with("iss", json!(iss)))));
    }
    assert!(evil.asked().is_empty(), "{:?}", evil.asked());
}

#[test]
fn unreachable_issuers_are_unavailable() {
    let issuer = Issuer::start(Key::ec());
    let (_server, client, clock) = start(|b| b.oidc(issuer.oidc()));
    let token = issuer.sign(&issuer.claims());
    let url = issuer.url();
    let keys = format!("{url}/keys");
    for (document, reason) in [
        (json!(7), "its discovery document names another issuer"),
        (json!({"jwks_uri": keys}), "its discovery document names another issuer"),
        (
            json!({"issuer": "https://other", "jwks_uri": keys}),
            "its discovery document names another issuer",
        ),
        (
            json!({"issuer": url, "jwks_uri": 7}),
            "its discovery document names no usable URL of keys",
        ),
        (
            json!({"issuer": url, "jwks_uri": "http://192.0.2.1/keys"}),
            "its discovery document names no usable URL of keys",
        ),
        (
            json!({"issuer": url, "jwks_uri": "file:///etc/passwd"}),
            "its discovery document names no usable URL of keys",
        ),
        (
            json!({"issuer": url, "jwks_uri": keys, "x": "x".repeat(300_000)}),
            "its response is too large, or breaks off",
        ),
    ] {
        issuer.describe(&document);
        let message = format!("what 'custom-token' needs could not be fetched: {reason}");
        try_token(&client, &token).assert_error(503, "InternalServerError", &message);
        clock.advance(5);
    }
    issuer.stub.set_path(DISCOVERY, 302, "{}");
    assert_eq!(try_token(&client, &token).status, 503);
    let asked = issuer.asked().len();
    assert_eq!(try_token(&client, &token).status, 503, "not again at once");
    assert_eq!(issuer.asked().len(), asked);
    clock.advance(5);
    issuer.describe(&json!({"issuer": url, "jwks_uri": keys}));
    assert_eq!(try_token(&client, &token).status, 200);
}

#[test]
fn unknown_keys_are_fetched_once_a_minute() {
    let issuer = Issuer::start(Key::ec());
    let (_server, client, clock) = start(|b| b.oidc(issuer.oidc()));
    let second = Key::ec();
    let next = second.token_with(&json!({"alg": "ES256", "kid": "2"}), &issuer.claims());
    for _ in 0..20 {
        assert_refused(&try_token(&client, &next));
        let unknown = issuer.sign_with(&json!({"kid": "3"}), &issuer.claims());
        assert_refused(&try_token(&client, &unknown));
    }
    assert_eq!(issuer.asked().len(), 2);
    clock.advance(60);
    issuer.stub.set(200, json!({"keys": [second.jwk("2")]}));
    assert_eq!(try_token(&client, &next).status, 200);
    assert_eq!(issuer.asked().len(), 4);
    assert_refused(&try_token(&client, &issuer.sign(&issuer.claims())));
}

#[test]
fn slow_issuer_delays_no_known_key() {
    let (issuer, other) = (Issuer::start(Key::ec()), Issuer::start(Key::ec()));
    let (_server, client, clock) = start(|b| b.oidc(issuer.oidc()).oidc(other.oidc()));
    let token = issuer.sign(&issuer.claims());
    assert_eq!(try_token(&client, &token).status, 200);
    clock.advance(60);
    let gate = issuer.stub.gate();
    let closed = gate.lock().unwrap();
    let before = issuer.asked().len();
    let unknown = issuer.sign_with(&json!({"kid": "2"}), &issuer.claims());
    thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..4).map(|_| scope.spawn(|| try_token(&client, &unknown).status)).collect();
        let deadline = Instant::now() + Duration::from_secs(4);
        while issuer.asked().len() == before && Instant::now() < deadline {
            thread::yield_now();
        }
        assert_eq!(try_token(&client, &token).status, 200);
        assert_eq!(try_token(&client, &other.sign(&other.claims())).status, 200);
        assert!(waiting.iter().all(|thread| !thread.is_finished()), "they still wait");
        drop(closed);
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), 401);
        }
    });
    assert_eq!(issuer.asked().len(), before + 2, "they shared one fetch");
}

#[test]
fn waits_for_slow_issuer_are_bounded() {
    let issuer = Issuer::start(Key::ec());
    let (_server, client, _) = start(|b| b.oidc(issuer.oidc()));
    let gate = issuer.stub.gate();
    let closed = gate.lock().unwrap();
    let token = issuer.sign(&issuer.claims());
    thread::scope(|scope| {
        let (done, outcomes) = mpsc::channel();
        for _ in 0..70 {
            let (done, client, token) = (done.clone(), &client, &token);
            scope.spawn(move || done.send(try_token(client, token)));
        }
        // One fetches, and 64 wait for it.
        for _ in 0..5 {
            let answer = outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(answer.text.contains("too many log-ins wait"), "{answer:?}");
        }
        drop(closed);
        for _ in 0..65 {
            let answer = outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
}

#[test]
fn invalid_issuers_prevent_start() {
    for oidc in [
        Oidc::new("", "notes"),
        Oidc::new("id.example.org", "notes"),
        Oidc::new("http://id.example.org", "notes"),
        Oidc::new("https://id.example.org?x", "notes"),
        Oidc::new("https://id.example.org#x", "notes"),
        Oidc::new("https://user@id.example.org", "notes"),
        Oidc::new("https://id.example.org /", "notes"),
        Oidc::new(format!("https://id.example.org/{}", "x".repeat(512)), "notes"),
        Oidc::new("https://id.example.org", ""),
        Oidc::new("https://id.example.org", "a\r\nb"),
    ] {
        let error = Server::builder().oidc(oidc.clone()).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{oidc:?}");
    }
    let twice = Oidc::new("https://id.example.org", "notes");
    let error = Server::builder().oidc(twice.clone()).oidc(twice).start().unwrap_err();
    assert!(error.to_string().contains("added twice"), "{error}");
}
