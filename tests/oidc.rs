//! Unmodified tokens of a third-party OpenID provider, verified by the server.
//!
//! Most tests require `-- --ignored`, Node.js on the path and `npm ci` in `.ci/oidc`.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfob::server::{CustomJwt, Google, JwtKeys, MetadataField, Oidc, Server, ServerBuilder};
use keyfob::store::MemoryStore;
use keyfob::{Clock, Credentials, Session, SystemClock};
use serde_json::{Value, json};
use support::oidc::{Oidc as Process, real_client};

const APP: &str = "oidc-abcde";

/// The provider, and the settings of a server that accepts its tokens.
struct Provider(Process);

impl Provider {
    fn text(&self, name: &str) -> &str {
        self.0.text(name)
    }

    fn keys(&self) -> JwtKeys {
        JwtKeys::jwks(self.text("jwks_url"))
    }

    fn jwt(&self) -> CustomJwt {
        CustomJwt::new(self.keys()).issuer(self.text("issuer"))
    }

    fn google(&self) -> Google {
        Google::new(self.text("client_id")).keys(self.keys()).issuer(self.text("issuer"))
    }
}

/// A clock that goes two hours ahead.
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_secs(2 * 3600)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// Asks a server, and returns the status and the body.
fn ask(server: &Server, path: &str, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let mut request = ureq::http::Request::builder()
        .method(if body.is_some() { "POST" } else { "GET" })
        .uri(format!("{}/api/client/v2.0{path}", server.base_url()));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut answer = agent.run(request.body(body).expect("a request")).expect("an answer");
    let text = answer.body_mut().read_to_string().expect("a body");
    (answer.status().as_u16(), serde_json::from_str(&text).expect("JSON"))
}

fn log_in(server: &Server, provider: &str, body: &Value) -> (u16, Value) {
    ask(server, &format!("/app/{APP}/auth/providers/{provider}/login"), None, Some(body))
}

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Server {
    set(Server::builder().app_id(APP)).start().expect("a server")
}

#[track_caller]
fn assert_refused(answer: (u16, Value)) {
    let (status, body) = answer;
    assert_eq!((status, &body["error_code"]), (401, &json!("AuthError")), "{body}");
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn real_provider_tokens_log_in() {
    let provider = Provider(Process::start(APP));
    let token = |name: &str| json!({"token": provider.text(name)});

    let field = MetadataField::new("client_id", "client").required(true);
    let server = start(|builder| builder.custom_jwt(provider.jwt().metadata_field(field)));
    let (status, user) = log_in(&server, "custom-token", &token("access_token"));
    assert_eq!(status, 200, "{user}");
    let (_, profile) = ask(&server, "/auth/profile", user["access_token"].as_str(), None);
    assert_eq!(profile["identities"][0]["id"], "keyfob");
    assert_eq!(profile["data"], json!({"client": "keyfob"}));
    let (status, again) = log_in(&server, "custom-token", &token("access_token_es256"));
    assert_eq!((status, &again["user_id"]), (200, &user["user_id"]), "the other key of the set");

    // Not an algorithm of ours; not for this app.
    assert_refused(log_in(&server, "custom-token", &token("access_token_ps256")));
    assert_refused(log_in(&server, "custom-token", &token("id_token")));
    for jwt in [provider.jwt().audience("other"), provider.jwt().issuer("https://other")] {
        let server = start(|builder| builder.custom_jwt(jwt));
        assert_refused(log_in(&server, "custom-token", &token("access_token")));
    }
    let server = start(|builder| builder.clock(Ahead).custom_jwt(provider.jwt()));
    assert_refused(log_in(&server, "custom-token", &token("access_token")));

    // Its ID tokens and codes, by way of the provider that speaks OpenID Connect.
    let google = provider
        .google()
        .client_secret(provider.text("client_secret"))
        .redirect_uri(provider.text("redirect_uri"))
        .token_url(provider.text("token_url"));
    let server = start(|builder| builder.google(google));
    let id_token = json!({"id_token": provider.text("id_token")});
    let code = json!({"authCode": provider.text("code")});
    let (status, user) = log_in(&server, "oauth2-google", &id_token);
    assert_eq!(status, 200, "{user}");
    let (_, profile) = ask(&server, "/auth/profile", user["access_token"].as_str(), None);
    assert_eq!(
        profile["data"],
        json!({"name": "Ada Lovelace", "first_name": "Ada", "email": "ada@example.org"})
    );
    let (status, by_code) = log_in(&server, "oauth2-google", &code);
    assert_eq!((status, &by_code["user_id"]), (200, &user["user_id"]), "{by_code}");
    assert_refused(log_in(&server, "oauth2-google", &code));
    let server = start(|builder| builder.google(provider.google().issuer("https://other")));
    assert_refused(log_in(&server, "oauth2-google", &id_token));
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn real_provider_id_tokens_log_in_by_discovery() {
    let provider = Provider(Process::start(APP));
    let issuer = provider.text("issuer");
    let oidc = Oidc::new(issuer, "other").client_id(provider.text("client_id"));
    let server = start(|builder| builder.oidc(oidc));
    let token = |name: &str| json!({"token": provider.text(name)});
    let (status, user) = log_in(&server, "custom-token", &token("id_token"));
    assert_eq!(status, 200, "{user}");
    let (_, profile) = ask(&server, "/auth/profile", user["access_token"].as_str(), None);
    assert_eq!(profile["identities"][0]["id"], format!("{issuer}#ada-lovelace"));
    assert_eq!(
        profile["data"],
        json!({"name": "Ada Lovelace", "first_name": "Ada", "email": "ada@example.org"})
    );
    // Its access tokens are for somebody else, even if they name a client of ours.
    for name in ["access_token", "access_token_es256", "access_token_ps256"] {
        assert_refused(log_in(&server, "custom-token", &token(name)));
    }
    let server = start(|builder| builder.oidc(Oidc::new(issuer, APP)));
    assert_refused(log_in(&server, "custom-token", &token("access_token")));
    assert_refused(log_in(&server, "custom-token", &token("id_token")));
    let server = start(|builder| builder.clock(Ahead).oidc(Oidc::new(issuer, "keyfob")));
    assert_refused(log_in(&server, "custom-token", &token("id_token")));
    drop(provider);
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn real_client_signs_in_with_test_provider() {
    let google = Google::new("notes desktop/1");
    let server = start(|builder| builder.google(google).test_identity_provider());
    let issuer = server.test_issuer().expect("it is on");
    let got = real_client(issuer, "notes desktop/1");
    assert_eq!(got["refused"], "access_denied");
    let mut users = Vec::new();
    for way in ["by_redirect", "by_form", "with_secret", "on_device"] {
        let claims = &got[way]["claims"];
        assert_eq!((&claims["iss"], &claims["aud"]), (&json!(issuer), &json!("notes desktop/1")));
        assert_eq!(claims["email"], "ada.lovelace@example.org", "{way}");
        let body = json!({"id_token": got[way]["id_token"]});
        let (status, user) = log_in(&server, "oauth2-google", &body);
        assert_eq!(status, 200, "{way}: {user}");
        users.push(user["user_id"].clone());
    }
    assert!(users.iter().all(|user| *user == users[0]), "{users:?}");
    assert_eq!(got["by_redirect"]["info"]["name"], "Ada Lovelace");
}

#[test]
fn unreachable_issuer_error_is_retryable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let issuer = format!("http://{}", closed.expect("a port"));
    let server = start(|builder| builder.oidc(Oidc::new(&issuer, "notes")));
    let session = Session::builder(APP, server.base_url()).store(MemoryStore::new());
    let session = session.open().expect("a session");
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({"alg": "RS256", "kid": "1"}));
    let claims =
        part(json!({"iss": issuer, "aud": "notes", "sub": "ada", "exp": 9_999_999_999_u64}));
    let error = session.log_in(&Credentials::jwt(format!("{header}.{claims}.AAAA"))).unwrap_err();
    assert_eq!(error.status(), Some(503), "{error}");
    assert!(error.is_retryable() && !error.needs_login(), "{error:?}");
    assert!(error.to_string().contains("it does not respond"), "{error}");
    // Tokens of others are judged all the same.
    let claims = part(json!({"iss": "https://other", "sub": "ada"}));
    let error = session.log_in(&Credentials::jwt(format!("{header}.{claims}.AAAA"))).unwrap_err();
    assert_eq!(error.status(), Some(401), "{error}");
    assert!(!error.is_retryable(), "{error:?}");
}
