//! Log-in with tokens, companies and functions.

use std::io::ErrorKind;

use keyfob::server::{
    Apple, AuthFunctionAnswer, CustomJwt, Facebook, Google, JwtKeys, MetadataField, Server,
    ServerBuilder,
};
use serde_json::{Value, json};

use crate::client::{Answer, Client, LogIn, ManualClock, providers};
use crate::stub::{Key, Stub};

/// What the manual clock begins with.
const NOW: i64 = 1_700_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client, ManualClock) {
    let clock = ManualClock::new();
    let server = set(Server::builder().app_id("my-app").clock(clock.clone())).start().unwrap();
    let client = Client::new(&server);
    (server, client, clock)
}

fn claims() -> Value {
    json!({"aud": "my-app", "sub": "ada", "exp": NOW + 600, "iss": "https://issuer"})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn try_jwt(client: &Client, token: &str) -> Answer {
    let body = json!({"provider": "custom-token", "token": token});
    client.try_log_in("custom-token", &body.to_string())
}

fn jwt(keys: JwtKeys) -> impl FnOnce(ServerBuilder) -> ServerBuilder {
    |builder| builder.custom_jwt(CustomJwt::new(keys).issuer("https://issuer"))
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    answer.assert_error(401, "AuthError", "unauthorized");
}

#[test]
fn tokens_of_each_algorithm_log_in() {
    for (key, keys) in [
        (Key::Hs256(SECRET.into()), JwtKeys::hs256(SECRET)),
        {
            let key = Key::rsa();
            let pem = key.pem();
            (key, JwtKeys::rs256(pem))
        },
        {
            let key = Key::ec();
            let pem = key.pem();
            (key, JwtKeys::es256(pem))
        },
    ] {
        let (_server, client, _) = start(jwt(keys));
        let user = LogIn::read(&try_jwt(&client, &key.token(&claims())));
        let again = LogIn::read(&try_jwt(&client, &key.token(&with("exp", json!(NOW + 9)))));
        assert_eq!(again.user_id, user.user_id, "{}", key.algorithm());
        let profile = client.profile(&user.access);
        assert_eq!(providers(&profile), ["custom-token"]);
        assert_eq!(profile.json()["identities"][0]["id"], "ada");
        let other = LogIn::read(&try_jwt(&client, &key.token(&with("sub", json!("bob")))));
        assert_ne!(other.user_id, user.user_id);
        // The same claims under a key that is not the one.
        let forger = match key {
            Key::Hs256(_) => Key::Hs256("x".repeat(32)),
            Key::Rs256(_) => Key::rsa(),
            Key::Es256(_) => Key::ec(),
            Key::Ed25519(_) => Key::ed(),
        };
        assert_refused(&try_jwt(&client, &forger.token(&claims())));
    }
}

/// Audience, issuer and validity period.
#[test]
fn token_claims_are_checked() {
    let key = Key::Hs256(SECRET.into());
    let (_server, client, _) = start(jwt(JwtKeys::hs256(SECRET)));
    for good in [
        with("aud", json!(["other", "my-app"])),
        with("exp", json!(NOW - 59)),
        with("exp", json!(NOW as f64 + 0.5)),
        with("nbf", json!(NOW + 60)),
    ] {
        assert_eq!(try_jwt(&client, &key.token(&good)).status, 200, "{good}");
    }
    for bad in [
        with("aud", json!("other")),
        with("aud", json!(["other"])),
        with("aud", json!(null)),
        with("iss", json!("https://other")),
        with("iss", json!(null)),
        with("exp", json!(NOW - 60)),
        with("exp", json!(null)),
        with("exp", json!("2100")),
        with("nbf", json!(NOW + 61)),
        with("nbf", json!("soon")),
        with("sub", json!(null)),
        with("sub", json!("")),
        with("sub", json!(7)),
        with("sub", json!("x".repeat(1025))),
        with("sub", json!("a\r\nb")),
        with("sub", json!("a\0")),
    ] {
        assert_refused(&try_jwt(&client, &key.token(&bad)));
    }
    for bad in ["", "x", "a.b.c", &"x".repeat(60_000)] {
        assert_refused(&try_jwt(&client, bad));
    }
    let missing = client.try_log_in("custom-token", "{}");
    missing.assert_error(400, "MissingParameter", "missing parameter: token");
}

#[test]
fn token_expiry_follows_server_clock() {
    let key = Key::Hs256(SECRET.into());
    let (_server, client, clock) = start(jwt(JwtKeys::hs256(SECRET)));
    let token = key.token(&claims());
    clock.advance(659);
    assert_eq!(try_jwt(&client, &token).status, 200);
    clock.advance(1);
    assert_refused(&try_jwt(&client, &token));
}

#[test]
fn key_verifies_own_algorithm_only() {
    let rsa = Key::rsa();
    let (_server, client, _) = start(jwt(JwtKeys::rs256(rsa.pem())));
    // The public key as a secret, in the forms in which a checker may have it at hand.
    for secret in [rsa.pem(), rsa.pem().trim().to_owned()] {
        assert_refused(&try_jwt(&client, &Key::Hs256(secret).token(&claims())));
    }
    let signed = rsa.token(&claims());
    let parts: Vec<_> = signed.split('.').collect();
    for algorithm in ["none", "None", "HS256", "ES256", "RS512", "PS256", ""] {
        let other = rsa.token_with(&json!({"alg": algorithm}), &claims());
        assert_refused(&try_jwt(&client, &other));
        let (text, _) = other.rsplit_once('.').unwrap();
        assert_refused(&try_jwt(&client, &format!("{text}.")));
    }
    assert_refused(&try_jwt(&client, &format!("{}.{}.", parts[0], parts[1])));
}

#[test]
fn metadata_fields_are_copied_at_login() {
    let key = Key::Hs256(SECRET.into());
    let (_server, client, _) = start(|builder| {
        let jwt = CustomJwt::new(JwtKeys::hs256(SECRET))
            .metadata_field(MetadataField::new("user.name.first", "firstName").required(true))
            .metadata_field(MetadataField::new("email", "email"));
        builder.custom_jwt(jwt)
    });
    let claims = |user: Value, email: Value| {
        let mut claims = with("user", user);
        claims["email"] = email;
        claims
    };
    let data = |user: &LogIn| client.profile(&user.access).json()["data"].clone();
    let token = key.token(&claims(json!({"name": {"first": "Ada"}}), json!("a@b")));
    let user = LogIn::read(&try_jwt(&client, &token));
    assert_eq!(data(&user), json!({"firstName": "Ada", "email": "a@b"}));
    let token = key.token(&claims(json!({"name": {"first": "Eda"}}), json!(null)));
    let user = LogIn::read(&try_jwt(&client, &token));
    assert_eq!(data(&user), json!({"firstName": "Eda", "email": "a@b"}));
    let token = key.token(&claims(json!({"name": "Ada"}), json!("a@b")));
    assert_refused(&try_jwt(&client, &token));
}

#[test]
fn unknown_key_refetches_key_set() {
    let (first, second, curve) = (Key::rsa(), Key::rsa(), Key::ec());
    let stub = Stub::start(&json!({"keys": [
        first.jwk("1"), curve.jwk("c"), {"kty": "future"}, 7, Key::Hs256(SECRET.into()).jwk("s"),
    ]}));
    let (_server, client, clock) = start(jwt(JwtKeys::jwks(format!("{}/keys", stub.url))));
    let token = |key: &Key, id: &str| {
        key.token_with(&json!({"alg": key.algorithm(), "kid": id}), &claims())
    };
    assert!(stub.asked().is_empty());
    for good in [token(&first, "1"), token(&curve, "c"), first.token(&claims())] {
        assert_eq!(try_jwt(&client, &good).status, 200);
    }
    assert_eq!(stub.asked().len(), 1);
    assert!(stub.asked()[0].line.starts_with("GET /keys HTTP/1.1"));
    for bad in [token(&first, "2"), token(&second, "1"), token(&second, "2")] {
        assert_refused(&try_jwt(&client, &bad));
    }
    assert_refused(&try_jwt(&client, &token(&Key::Hs256(SECRET.into()), "s")));
    stub.set(200, json!({"keys": [second.jwk("2")]}));
    assert_refused(&try_jwt(&client, &token(&second, "2")));
    assert_eq!(stub.asked().len(), 1, "not within a minute");
    clock.advance(60);
    assert_eq!(try_jwt(&client, &token(&second, "2")).status, 200);
    assert_refused(&try_jwt(&client, &token(&first, "1")));
    assert_eq!(stub.asked().len(), 2);
}

#[test]
fn unavailable_key_set_is_server_error() {
    let key = Key::rsa();
    let stub = Stub::start(&json!({}));
    let (_server, client, clock) = start(jwt(JwtKeys::jwks(&stub.url)));
    let token = key.token_with(&json!({"alg": "RS256", "kid": "1"}), &claims());
    for (status, answer, reason) in [
        (200, json!({}), "its keys are no key set"),
        (500, json!({"keys": [key.jwk("1")]}), "the status of its keys is not 200"),
        (302, json!({"keys": [key.jwk("1")]}), "the status of its keys is not 200"),
        (
            200,
            json!({"keys": [key.jwk("1")], "x": "x".repeat(300_000)}),
            "its response is too large, or breaks off",
        ),
    ] {
        stub.set(status, answer);
        let message = format!("what 'custom-token' needs could not be fetched: {reason}");
        try_jwt(&client, &token).assert_error(503, "InternalServerError", &message);
        clock.advance(5);
    }
    stub.set(200, json!({"keys": [key.jwk("1")]}));
    assert_eq!(try_jwt(&client, &token).status, 200);
    stub.set(500, "");
    let later = |exp: i64| {
        let header = json!({"alg": "RS256", "kid": "1"});
        key.token_with(&header, &with("exp", json!(NOW + exp)))
    };
    clock.advance(2 * 3600);
    assert_eq!(try_jwt(&client, &later(3 * 3600)).status, 200, "it is kept for a day");
    clock.advance(24 * 3600);
    assert_eq!(try_jwt(&client, &later(48 * 3600)).status, 503);
}

#[test]
fn invalid_keys_prevent_start() {
    let ec = Key::ec().pem();
    for keys in [
        JwtKeys::hs256("short"),
        JwtKeys::rs256("no key"),
        JwtKeys::rs256(&*ec),
        JwtKeys::es256(Key::rsa().pem()),
        JwtKeys::rs256("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
        JwtKeys::jwks("http://example.org/keys"),
    ] {
        let builder = Server::builder().custom_jwt(CustomJwt::new(keys.clone()));
        assert_eq!(builder.start().unwrap_err().kind(), ErrorKind::InvalidInput, "{keys:?}");
    }
    assert!(!format!("{:?}", JwtKeys::hs256(SECRET)).contains(SECRET));
}

#[test]
fn unconfigured_providers_are_not_found() {
    let (_server, client, _) = start(|builder| builder);
    for provider in [
        "custom-token",
        "custom-function",
        "oauth2-google",
        "oauth2-apple",
        "oauth2-facebook",
        "oauth1-x",
    ] {
        let message = format!("authentication via '{provider}' is unsupported");
        let answer = client.try_log_in(provider, r#"{"token":"x"}"#);
        answer.assert_error(404, "AuthProviderNotFound", &message);
    }
}

#[test]
fn google_and_apple_tokens_log_in() {
    let key = Key::rsa();
    let stub = Stub::start(&json!({"keys": [key.jwk("1")]}));
    let (_server, client, _) = start(|builder| {
        builder
            .google(Google::new("web").client_id("ios").keys(JwtKeys::jwks(&stub.url)))
            .apple(Apple::new("bundle").keys(JwtKeys::jwks(&stub.url)))
    });
    let token = |issuer: &str, audience: &str| {
        key.token(&json!({
            "iss": issuer, "aud": audience, "sub": "42", "exp": NOW + 600, "name": "Ada L",
            "email": "ada@example.org", "picture": "http://p", "given_name": "Ada",
            "family_name": "L", "email_verified": true,
        }))
    };
    let google = "https://accounts.google.com";
    let user = client.log_in("oauth2-google", &json!({"id_token": token(google, "ios")}));
    let profile = client.profile(&user.access).json();
    assert_eq!(profile["identities"][0]["id"], "42");
    assert_eq!(
        profile["data"],
        json!({
            "name": "Ada L", "email": "ada@example.org", "picture": "http://p",
            "first_name": "Ada", "last_name": "L",
        })
    );
    let apple = "https://appleid.apple.com";
    let by_apple = client.log_in("oauth2-apple", &json!({"id_token": token(apple, "bundle")}));
    assert_ne!(by_apple.user_id, user.user_id, "the same id at another provider");
    for (provider, issuer, audience) in [
        ("oauth2-google", google, "other"),
        ("oauth2-google", apple, "ios"),
        ("oauth2-apple", google, "bundle"),
        ("oauth2-apple", apple, "web"),
    ] {
        let body = json!({"id_token": token(issuer, audience)}).to_string();
        assert_refused(&client.try_log_in(provider, &body));
    }
    let code = client.try_log_in("oauth2-google", r#"{"authCode":"code"}"#);
    assert_refused(&code);
    let missing = client.try_log_in("oauth2-apple", "{}");
    missing.assert_error(400, "MissingParameter", "missing parameter: id_token");
}

#[test]
fn google_code_is_exchanged_for_token() {
    let key = Key::ec();
    let token = key.token(&json!({"iss": "me", "aud": "web", "sub": "42", "exp": NOW + 600}));
    let stub = Stub::start(&json!({"id_token": token, "access_token": "x"}));
    let (_server, client, _) = start(|builder| {
        let google = Google::new("web").keys(JwtKeys::es256(key.pem())).issuer("me");
        builder.google(google.client_secret("s&cret").token_url(format!("{}/token", stub.url)))
    });
    let user = client.log_in("oauth2-google", &json!({"authCode": "4/co+de"}));
    assert_eq!(client.profile(&user.access).json()["identities"][0]["id"], "42");
    let asked = &stub.asked()[0];
    assert!(asked.line.starts_with("POST /token "), "{asked:?}");
    for part in [
        "grant_type=authorization_code",
        "code=4%2Fco%2Bde",
        "client_secret=s%26cret",
        "client_id=web",
    ] {
        assert!(asked.body.contains(part), "{asked:?}");
    }
    let body = r#"{"authCode":"used"}"#;
    stub.set(400, json!({"error": "invalid_grant"}));
    assert_refused(&client.try_log_in("oauth2-google", body));
    stub.set(500, "");
    assert_eq!(client.try_log_in("oauth2-google", body).status, 503);
}

#[test]
fn facebook_token_is_checked_with_facebook() {
    let stub = Stub::start(&json!({
        "id": "1000", "name": "Ada L", "email": "ada@example.org",
        "picture": {"data": {"url": "http://p"}},
    }));
    let (_server, client, _) = start(|builder| {
        builder.facebook(Facebook::new().graph_url(&stub.url).app_secret("app secret"))
    });
    let user = client.log_in("oauth2-facebook", &json!({"accessToken": "EAAB"}));
    let profile = client.profile(&user.access).json();
    assert_eq!(profile["identities"][0]["id"], "1000");
    let data = json!({"name": "Ada L", "email": "ada@example.org", "picture": "http://p"});
    assert_eq!(profile["data"], data);
    let asked = &stub.asked()[0];
    assert!(asked.line.starts_with("GET /me?fields=id"), "{asked:?}");
    assert!(asked.line.contains("appsecret_proof="), "{asked:?}");
    assert_eq!(asked.authorization, "Bearer EAAB");
    stub.set(400, json!({"error": {"code": 190}}));
    let try_token = |token: &str| {
        client.try_log_in("oauth2-facebook", &json!({"accessToken": token}).to_string())
    };
    assert_refused(&try_token("EAAB"));
    assert_refused(&try_token("a\r\nX: b"));
    stub.set(200, json!({"name": "nobody"}));
    assert_eq!(try_token("EAAB").status, 503);
}

#[test]
fn function_login_returns_identity() {
    let (_server, client, _) = start(|builder| {
        builder.auth_function(|payload| match payload["secret"].as_str() {
            Some("sesame") => {
                let id = payload["id"].as_str().unwrap_or_default();
                Ok(AuthFunctionAnswer::new(id).data("seen", payload.clone()))
            }
            _ => Err("say the word".into()),
        })
    });
    let body = json!({
        "secret": "sesame", "id": "ada", "n": {"$numberInt": "1"},
        "options": {"device": {"sdk": "x"}},
    });
    let user = client.log_in("custom-function", &body);
    let profile = client.profile(&user.access);
    assert_eq!(providers(&profile), ["custom-function"]);
    let profile = profile.json();
    assert_eq!(profile["identities"][0]["id"], "ada");
    let seen = json!({"secret": "sesame", "id": "ada", "n": {"$numberInt": "1"}});
    assert_eq!(profile["data"], json!({"seen": seen}));
    assert_eq!(client.log_in("custom-function", &body).user_id, user.user_id);
    let wrong = client.try_log_in("custom-function", "{}");
    wrong.assert_error(401, "AuthError", "say the word");
    let nobody = client.try_log_in("custom-function", r#"{"secret":"sesame"}"#);
    nobody.assert_error(401, "AuthError", "the function returned no id");
    let lines = json!({"secret": "sesame", "id": "a\r\nb"}).to_string();
    let lines = client.try_log_in("custom-function", &lines);
    lines.assert_error(401, "AuthError", "the function returned no id");
}

#[test]
fn disabled_user_cannot_log_in_by_any_provider() {
    let key = Key::Hs256(SECRET.into());
    let (server, client, _) = start(jwt(JwtKeys::hs256(SECRET)));
    let user = LogIn::read(&try_jwt(&client, &key.token(&claims())));
    let created = client.create_key(&user.refresh, "key").json()["key"].clone();
    server.disable_user(&user.user_id).unwrap();
    let by_key = client.try_log_in("api-key", &json!({"key": created}).to_string());
    by_key.assert_error(401, "UserDisabled", "user disabled");
    try_jwt(&client, &key.token(&claims())).assert_error(401, "UserDisabled", "user disabled");
}

#[test]
fn settings_show_no_secret() {
    let google = Google::new("web").client_secret("planted-secret");
    let facebook = Facebook::new().app_secret("planted-secret");
    let jwt = CustomJwt::new(JwtKeys::hs256("planted-secret-planted-secret-32"));
    let shown = format!("{google:?} {facebook:?} {jwt:?}");
    let builder = Server::builder()
        .google(google)
        .facebook(facebook)
        .custom_jwt(jwt)
        .server_api_key("cron", "planted-secret-planted-secret");
    let shown = format!("{shown} {builder:?}");
    assert!(!shown.contains("planted"), "{shown}");
}

#[test]
fn tokens_with_critical_extensions_are_refused() {
    let key = Key::Hs256(SECRET.into());
    let (_server, client, _) = start(jwt(JwtKeys::hs256(SECRET)));
    let header = json!({"alg": "HS256", "crit": ["x"], "x": 1});
    assert_refused(&try_jwt(&client, &key.token_with(&header, &claims())));
}
