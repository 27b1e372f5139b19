//! Fuzzes the server's parsing and handling with mutated requests, without sockets. Checks that
//! there is no panic, no status 500 and no secret in the journal. `tests/fuzz` contains the engine
//! and the corpus.

#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;

use serde_json::Value;

use super::http::{Handler, Outcome, Response, read};
use super::{AuthFunctionAnswer, CustomJwt, JwtKeys, Server, test_provider};
use mutate::{fuzz, outcome_of};

/// A new server replaces the old one after this many requests, because some of them add users.
const LIFE: usize = 4000;

struct Stage {
    server: Server,
    /// Placeholders in the corpus, and the values that this server issued for them.
    words: [(&'static [u8], String); 3],
    left: usize,
}

impl Stage {
    fn new() -> Self {
        let server = Server::builder()
            .app_id("app")
            .built_in_functions()
            .test_identity_provider()
            .custom_jwt(CustomJwt::new(JwtKeys::hs256("0123456789abcdef0123456789abcdef")))
            .auth_function(|payload| match payload["id"].as_str() {
                Some(id) => Ok(AuthFunctionAnswer::new(id).data("seen", payload.clone())),
                None => Err("no id".into()),
            })
            .start()
            .unwrap();
        let mut stage = Self {
            server,
            words: [(b"", String::new()), (b"", String::new()), (b"", String::new())],
            left: LIFE,
        };
        let path = "/api/client/v2.0/app/app/auth/providers/custom-function/login";
        let login = stage.json(&format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n{{\"id\":\"ada\"}}"
        ));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let refresh = text(&login["refresh_token"]);
        let key = stage.json(&format!(
            "POST /api/client/v2.0/auth/api_keys HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {refresh}\r\nContent-Length: 12\r\n\r\n{{\"name\":\"k\"}}",
        ));
        stage.words = [
            (b"@access@", text(&login["access_token"])),
            (b"@refresh@", refresh),
            (b"@key@", text(&key["_id"])),
        ];
        stage
    }

    fn json(&self, request: &str) -> Value {
        let Ok(request) = read(request.as_bytes()) else { panic!("a request") };
        let answer = answer(self.server.service.handle(&request));
        assert!(answer.status < 300, "{}", answer.status);
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Replaces the placeholders of the corpus.
    fn fill(&self, input: &[u8]) -> Vec<u8> {
        let mut filled = Vec::with_capacity(input.len() + 512);
        let mut rest = input;
        while let Some(first) = rest.first() {
            match self.words.iter().find(|(word, _)| rest.starts_with(word)) {
                Some((word, text)) => {
                    filled.extend_from_slice(text.as_bytes());
                    rest = &rest[word.len()..];
                }
                None => {
                    filled.push(*first);
                    rest = &rest[1..];
                }
            }
        }
        filled
    }
}

#[test]
fn requests() {
    let mut stage = Stage::new();
    let mut hashed = 0_u32;
    fuzz("requests", |input| {
        stage.left -= 1;
        if stage.left == 0 {
            stage = Stage::new();
        }
        let request = match read(&stage.fill(input)) {
            Ok(request) => request,
            Err(rejection) => {
                let answer = stage.server.service.reject(&rejection);
                assert!((400..=505).contains(&rejection.status), "{rejection:?}");
                assert_eq!(answer.status, rejection.status);
                return outcome_of(u64::from(rejection.status), &rejection.reason);
            }
        };
        // Hashing a password costs more than a thousand other requests.
        if request.path.contains("userpass") && request.body.len() > 20 {
            hashed += 1;
            if !hashed.is_multiple_of(1000) {
                return 7;
            }
        }
        let answer = answer(stage.server.service.handle(&request));
        if request.path.starts_with(test_provider::PATH) {
            return check_test_provider(&answer);
        }
        check(&answer);
        // The journal is copied as a whole, so it is checked only sometimes.
        let journal = stage.left.is_multiple_of(100).then(|| stage.server.journal());
        if let Some(entry) = journal.as_ref().and_then(|journal| journal.last()) {
            let shown = format!("{entry:?}");
            for (_, secret) in &stage.words[..2] {
                // The journal stores paths, so a token that a client puts into a path is visible
                // there.
                assert!(!shown.contains(secret) || request.path.contains(secret), "{shown}");
            }
        }
        let error: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let words = error["error_code"].as_str().or(error["error"].as_str()).unwrap_or_default();
        outcome_of(u64::from(answer.status), words)
    });
}

fn answer(outcome: Outcome) -> Response {
    match outcome {
        Outcome::Answer(response) => response,
        #[allow(unreachable_patterns, reason = "misbehaviour is on request alone")]
        _ => panic!("no plain answer"),
    }
}

/// Checks that redirects stay on this machine, and that request text does not become HTML or a
/// header field.
fn check_test_provider(answer: &Response) -> u64 {
    assert!((200..=504).contains(&answer.status) && answer.status != 500, "{}", answer.status);
    let header = |name: &str| {
        let header = answer.headers.iter().find(|(other, _)| *other == name);
        header.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    assert!(answer.headers.iter().all(|(_, value)| !value.contains(char::is_control)));
    if let Some(host) = header("Location").split("://").nth(1) {
        let is_local = |name: &str| host.to_ascii_lowercase().starts_with(name);
        assert!(["127.", "localhost", "[::"].into_iter().any(is_local), "{host}");
    }
    let is_html = header("Content-Type").starts_with("text/html");
    let text = String::from_utf8_lossy(&answer.body);
    let scripts = text.matches("<script").count();
    let own = text.matches("<script>document.forms[0].submit()</script>").count();
    assert!(!is_html || scripts == own, "{text}");
    let error: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    outcome_of(u64::from(answer.status), error["error_description"].as_str().unwrap_or_default())
}

fn check(answer: &Response) {
    assert!((200..=504).contains(&answer.status) && answer.status != 500, "{}", answer.status);
    if answer.status >= 400 {
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(body["error"].is_string(), "{body}");
    }
}
