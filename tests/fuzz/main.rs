//! Mutated external input: tokens, responses, error bodies, records, extended JSON. There are no
//! panics, every failure is a typed error without secrets, and no response to an ordinary request
//! changes which users are logged in.
//!
//! `KEYFOB_FUZZ_RUNS` sets the number of runs of each target (a few thousand by default).
//! `KEYFOB_SEED` repeats a run. The targets for the server are in `src/server/fuzz.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[cfg(feature = "browser")]
mod browser;
mod mutate;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfob::ejson::{Binary, DateTime, Decimal128, Double, Int64, ObjectId};
use keyfob::store::{MemoryStore, StoredUser};
use keyfob::transport::{Request, Response};
use keyfob::{
    AccessToken, ApiKeyId, Credentials, Error, RefreshToken, Session, TransportError,
    TransportErrorKind, User, UserState,
};
use mutate::{fuzz, outcome_of};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::{ManualClock, START, URL};

/// In every text of the corpora that is a secret.
const PLANTED: &str = "PLANTED";

/// Replaces what is between `<<` and `>>` by a token with that payload, so that mutations reach
/// inside.
fn with_tokens(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len() * 2);
    let mut rest = input;
    let find = |text: &[u8], mark: &[u8; 2]| text.windows(2).position(|pair| pair == mark);
    while let Some(from) = find(rest, b"<<") {
        out.extend_from_slice(&rest[..from]);
        let inside = &rest[from + 2..];
        let to = find(inside, b">>").unwrap_or(inside.len());
        out.extend_from_slice(b"e30.");
        out.extend_from_slice(URL_SAFE_NO_PAD.encode(&inside[..to]).as_bytes());
        out.extend_from_slice(b".UExBTlRFRA");
        rest = inside.get(to + 2..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// What answers everything but the location.
type Answers = Arc<Mutex<Box<dyn FnMut(&Request) -> Response + Send>>>;

/// A session with `ada` logged in, whose answers are in the hand.
struct Stage {
    answers: Answers,
    store: MemoryStore,
    session: Session,
    user: User,
}

impl Stage {
    fn new() -> Self {
        Self::asking_for_location(false)
    }

    fn asking_for_location(asks: bool) -> Self {
        let answers: Answers = Arc::new(Mutex::new(Box::new(usual)));
        let store = MemoryStore::new();
        let session = open(&answers, &store, asks);
        let user = session.log_in(&support::password()).unwrap();
        Self { answers, store, session, user }
    }

    /// Answers requests to a path with this, and others as usual.
    fn answer(&self, path: &'static str, status: u16, body: Vec<u8>) {
        *self.answers.lock().unwrap() = Box::new(move |request| {
            if request.url().ends_with(path) {
                return Response::new(status, body.clone());
            }
            usual(request)
        });
    }
}

fn open(answers: &Answers, store: &MemoryStore, asks_location: bool) -> Session {
    let answers = answers.clone();
    Session::builder("app", URL)
        .clock(ManualClock::at(START))
        .store(store.clone())
        .location_lookup(asks_location)
        .transport(move |request: &Request| {
            let answer = (answers.lock().unwrap())(request);
            match answer.status() {
                0 => Err(TransportError::new(TransportErrorKind::Interrupted, URL)),
                _ => Ok(answer),
            }
        })
        .open()
        .unwrap()
}

fn usual(request: &Request) -> Response {
    let body = match request.url().rsplit('/').next().unwrap() {
        "profile" => support::profile_body("ada"),
        "session" => json!({"access_token": support::access("a")}),
        "location" => json!({"hostname": URL}),
        _ => support::login_body("ada", &support::access("a"), &support::refresh("r")),
    };
    Response::new(200, body.to_string())
}

/// Looks at an outcome as a program would, and checks what it shows.
fn look<T: Debug>(outcome: &Result<T, Error>) -> u64 {
    match outcome {
        Ok(_) => 1,
        Err(error) => {
            let text = error.to_string();
            let shown = [&*text, &format!("{error:?}")].map(without_path);
            assert!(!shown.concat().contains(PLANTED), "{error:?}");
            let is_page = matches!(error, Error::Transport(error)
                if error.kind == TransportErrorKind::Intercepted);
            assert!(is_page || matches!(error, Error::Decode(_)), "{error:?}");
            assert!(!text.contains(char::is_control), "{text:?}");
            let _ = (error.is_retryable(), error.needs_login(), error.is_ambiguous());
            outcome_of(2, &text)
        }
    }
}

/// Removes the path to a value, which consists of names of fields. A mutation can move the planted
/// text into a name.
fn without_path(text: &str) -> String {
    match (text.find(" at `"), text.rfind('`')) {
        (Some(start), Some(end)) => [&text[..start], &text[end..]].concat(),
        _ => text.to_owned(),
    }
}

/// One that shows what is asked for, where success has a secret in it.
fn look_quietly<T>(outcome: Result<T, Error>) -> u64 {
    look(&outcome.map(|_| ()))
}

#[test]
fn tokens() {
    fuzz("tokens", |input| {
        let text = String::from_utf8_lossy(&with_tokens(input)).into_owned();
        let access = AccessToken::deserialize(deserializer(&text));
        let refresh = RefreshToken::deserialize(deserializer(&text));
        assert_eq!(access.is_ok(), refresh.is_ok());
        match access {
            Ok(token) => {
                assert_eq!(token.expose(), text);
                let _ = (token.expires_at(), token.issued_at(), refresh.unwrap().expires_at());
                assert!(!format!("{token:?}").contains(PLANTED));
                assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
                1
            }
            Err(error) => {
                assert!(!error.to_string().contains(PLANTED), "{error}");
                outcome_of(2, &error.to_string())
            }
        }
    });
}

fn deserializer(text: &str) -> StrDeserializer<'_, serde::de::value::Error> {
    text.into_deserializer()
}

#[test]
fn login_answers() {
    let mut stage = Stage::new();
    let mut count = 0;
    fuzz("login", |input| {
        count += 1;
        if count % 1000 == 0 {
            // Those who logged in so far are enough.
            stage = Stage::new();
        }
        stage.answer("/local-userpass/login", 200, with_tokens(input));
        let outcome = stage.session.log_in(&support::password());
        if let Ok(user) = &outcome {
            assert_eq!(user.state().unwrap(), UserState::LoggedIn);
            assert_eq!(stage.session.current_user().unwrap().as_ref(), Some(user));
            let _ = (user.custom_data::<Value>(), user.device_id().unwrap());
        }
        match outcome {
            // What no store takes.
            Err(Error::Store(_)) => 3,
            outcome => look_quietly(outcome),
        }
    });
}

#[test]
fn profile_answers() {
    let stage = Stage::new();
    fuzz("profile", |input| {
        stage.answer("/profile", 200, input.to_vec());
        let outcome = stage.user.refresh_profile();
        if let Ok(profile) = &outcome {
            assert_eq!(&stage.user.profile().unwrap(), profile);
            let _ = (profile.name(), profile.email(), profile.kind(), profile.picture_url());
        }
        look_quietly(outcome)
    });
}

#[test]
fn refresh_answers() {
    let mut stage = Stage::new();
    fuzz("refresh", |input| {
        stage.answer("/session", 201, with_tokens(input));
        let outcome = stage.user.refresh_access_token();
        assert_eq!(stage.user.state().unwrap(), UserState::LoggedIn);
        if let Ok(token) = &outcome {
            assert_eq!(stage.user.access_token().unwrap(), *token);
            let data = stage.user.custom_data::<Value>();
            let seen = 10 + look_quietly(data);
            stage = Stage::new();
            return seen;
        }
        look_quietly(outcome)
    });
}

#[test]
fn link_answers() {
    let stage = Stage::new();
    fuzz("link", |input| {
        stage.answer("/login?link=true", 200, with_tokens(input));
        let outcome = stage.user.link(&Credentials::api_key("k"));
        assert_eq!(stage.user.state().unwrap(), UserState::LoggedIn);
        assert_eq!(stage.session.users().unwrap().len(), 1);
        look_quietly(outcome)
    });
}

#[test]
fn api_key_answers() {
    let stage = Stage::new();
    let mut turn = 0;
    fuzz("api_keys", |input| {
        turn += 1;
        *stage.answers.lock().unwrap() = {
            let body = input.to_vec();
            Box::new(move |_| Response::new(200, body.clone()))
        };
        let keys = stage.user.api_keys();
        match turn % 3 {
            0 => look(&keys.create("n")),
            1 => look(&keys.list().map(|keys| keys.len())) ^ 16,
            _ => look(&keys.get(&ApiKeyId::new("k")).map(|key| key.is_some())) ^ 32,
        }
    });
}

#[test]
fn location_answers() {
    let stage = Stage::new();
    fuzz("location", |input| {
        // Each in a session that does not know yet.
        let session = open(&stage.answers, &stage.store, true);
        let body = input.to_vec();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        *stage.answers.lock().unwrap() = Box::new(move |request| {
            if request.url().ends_with("/location") {
                return Response::new(200, body.clone());
            }
            log.lock().unwrap().push(request.url().to_owned());
            usual(request)
        });
        session.email_password().resend_confirmation("a@b").unwrap();
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 1);
        let (scheme, rest) = asked[0].split_once("://").unwrap();
        assert!(rest.contains("/api/client/v2.0/"), "{rest}");
        let host = rest.split('/').next().unwrap();
        // Plain http stays on this machine.
        let name = host.split(':').next().unwrap();
        let local = name.starts_with("127.") || ["localhost", "["].contains(&name);
        assert!(scheme == "https" || scheme == "http" && local, "{}", asked[0]);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~[]:".contains(c);
        assert!(!host.is_empty() && host.chars().all(allowed), "{host:?}");
        assert!(
            !rest.contains(['?', '#', '\\', ' ']) && !rest.contains(char::is_control),
            "{rest}"
        );
        outcome_of(3, host)
    });
}

#[test]
fn error_bodies() {
    let mut stage = Stage::new();
    let mut turn = 0_u16;
    fuzz("errors", |input| {
        turn = turn.wrapping_add(1);
        let status = [400, 401, 403, 404, 409, 429, 500, 503][usize::from(turn % 8)];
        let body = input.to_vec();
        *stage.answers.lock().unwrap() = Box::new(move |_| Response::new(status, body.clone()));
        let outcome = stage.user.refresh_access_token();
        let Err(error) = outcome else { panic!("a refusal of {status}") };
        let text = error.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 8192, "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2028}', '\u{2066}']), "{text:?}");
        assert_eq!(error.status(), Some(status));
        let state = stage.user.state().unwrap();
        if matches!(error, Error::LoginEnded(_)) {
            assert_eq!((status, state), (401, UserState::LoggedOut));
            stage = Stage::new();
            return outcome_of(u64::from(status), "ended");
        }
        assert_eq!(state, UserState::LoggedIn);
        let code = error.server_code().map_or("none", |code| code.as_str());
        let _ = (error.link_refusal(), error.retry_after());
        outcome_of(u64::from(status), &code[..code.floor_char_boundary(12)])
    });
}

#[test]
fn stored_records() {
    fuzz("records", |input| match serde_json::from_slice::<StoredUser>(&with_tokens(input)) {
        Ok(record) => {
            let _ = record.is_logged_in();
            assert!(!format!("{record:?}").contains(PLANTED), "{record:?}");
            // What is written is read, unknown fields too.
            let written = serde_json::to_string(&record).unwrap();
            let read: StoredUser = serde_json::from_str(&written).unwrap();
            assert!(read == record, "{record:?}");
            1 + u64::from(record.is_logged_in()) + 4 * u64::from(!record.unknown_fields.is_empty())
        }
        Err(error) => {
            let text = error.to_string();
            outcome_of(2, &text[..text.floor_char_boundary(40)])
        }
    });
}

#[test]
fn function_results() {
    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Order {
        #[serde(rename = "_id")]
        id: ObjectId,
        placed: DateTime,
        total: Int64,
        #[serde(default)]
        weight: Option<Decimal128>,
        #[serde(default)]
        picture: Option<Binary>,
        #[serde(default)]
        lines: Vec<(u8, i32, String)>,
        #[serde(default)]
        notes: BTreeMap<String, Option<u64>>,
        #[serde(default)]
        rest: Value,
    }
    let stage = Stage::new();
    let mut turn = 0;
    fuzz("results", |input| {
        turn += 1;
        let functions = stage.user.functions();
        stage.answer("/functions/call", 200, input.to_vec());
        match turn % 4 {
            0 => look(&functions.call::<Order>("f", ()).map(|order| round(&stage, order))),
            1 => look(&functions.call::<Value>("f", ()).map(|value| round(&stage, value))) ^ 16,
            2 => look(&functions.call::<Vec<(Double, bool)>>("f", ()).map(|_| ())) ^ 32,
            _ => look(&functions.call_text("f", ()).map(|_| ())) ^ 64,
        }
    });
}

#[test]
fn extended_json() {
    let stage = Stage::new();
    let mut turn = 0;
    fuzz("ejson", |input| {
        turn += 1;
        // A float that is not finite is no JSON, and `null` on the way out; `Double` takes any.
        let floats: fn(&Stage) -> u64 = |stage| {
            look(&stage.user.functions().call::<f64>("f", ()))
                ^ look(&stage.user.functions().call::<(u8, i8, f32)>("f", ()))
        };
        let double: fn(&Stage) -> u64 = |stage| {
            let outcome = stage.user.functions().call::<Double>("f", ());
            look(&outcome.map(|Double(number)| match number.is_nan() {
                true => assert!(echo(stage, &Double(number)).unwrap().0.is_nan()),
                false => round(stage, Double(number)),
            }))
        };
        let readers: [fn(&Stage) -> u64; 17] = [
            floats,
            double,
            reads::<Value>,
            reads::<DateTime>,
            reads::<ObjectId>,
            reads::<Int64>,
            reads::<Decimal128>,
            reads::<Binary>,
            reads::<i64>,
            reads::<u64>,
            reads::<i32>,
            reads::<u8>,
            reads::<Option<i64>>,
            reads::<Vec<Value>>,
            reads::<BTreeMap<String, Value>>,
            reads::<Vec<DateTime>>,
            reads::<String>,
        ];
        stage.answer("/functions/call", 200, input.to_vec());
        let at = turn % readers.len();
        readers[at](&stage) ^ (at as u64) << 56
    });
}

fn reads<T: Serialize + DeserializeOwned + PartialEq + Debug>(stage: &Stage) -> u64 {
    let outcome = stage.user.functions().call::<T>("f", ());
    look(&outcome.map(|value| round(stage, value)))
}

/// Sends a value as an argument, and reads it back from what was sent.
fn echo<T: Serialize + DeserializeOwned>(stage: &Stage, value: &T) -> Result<T, Error> {
    *stage.answers.lock().unwrap() = Box::new(|request| {
        let body = request.body().unwrap();
        let arguments = body.strip_prefix(br#"{"arguments":["#).unwrap();
        let end = arguments.len() - br#"],"name":"echo"}"#.len();
        Response::new(200, &arguments[..end])
    });
    stage.user.functions().call::<T>("echo", (value,))
}

fn round<T: Serialize + DeserializeOwned + PartialEq + Debug>(stage: &Stage, value: T) {
    match echo(stage, &value) {
        Ok(read) => assert_eq!(read, value),
        // A whole number that no type of BSON holds cannot be sent; a wrapped number lies one level
        // deeper than it lay bare.
        Err(error) => {
            let text = error.to_string();
            let known =
                ["64-bit integer", "recursion limit"].iter().any(|cause| text.contains(cause));
            // Two keys are serde_json's own, where they come first; in print the keys are sorted.
            let own = format!("{value:?}").contains("$serde_json::private::");
            assert!(known || own, "{value:?}: {error}");
        }
    }
}
