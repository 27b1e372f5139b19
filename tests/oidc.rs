//! An OpenID provider we did not write: its tokens, unchanged, against the server.
//!
//! Runs with `-- --ignored`, Node.js on the path and `npm ci` done in `.ci/oidc`.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use keyfob::server::{CustomJwt, Google, JwtKeys, MetadataField, Server, ServerBuilder};
use keyfob::{Clock, SystemClock};
use serde_json::{Value, json};

const APP: &str = "oidc-abcde";

/// The provider's process, and what it said of itself.
struct Provider {
    process: Child,
    said: Value,
}

impl Provider {
    fn start(dir: &Path) -> Self {
        let mut process = Command::new("node")
            .arg("provider.mjs")
            .current_dir(dir)
            .env("AUDIENCE", APP)
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("node cannot be run: {error}"));
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        // The package has notices of its own to print first.
        let mut lines = output.lines().map(|line| line.expect("text"));
        let line = lines.find(|line| line.starts_with('{')).expect("provider.mjs did not start");
        let said = serde_json::from_str(&line).expect("JSON");
        Self { process, said }
    }

    fn text(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", self.said))
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

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
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
fn tokens_of_a_real_openid_provider_log_in() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/oidc");
    assert!(
        dir.join("node_modules/oidc-provider").is_dir(),
        "oidc-provider is not installed: run `npm ci` in .ci/oidc"
    );
    let provider = Provider::start(&dir);
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
