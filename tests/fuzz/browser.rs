//! What browsers, other programs on this machine and identity providers send to a sign-in, mutated.
//! Nothing panics, nothing but the state of a sign-in ends its wait, and no error shows a secret.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keyfob::browser::{Endpoints, ProviderTokens, SignIn};
use keyfob::{CancelToken, Error};

use crate::mutate::{fuzz, outcome_of};
use crate::support::net::raw;
use crate::support::provider::{CLIENT, Form, TestProvider, authorization, split};
use crate::{PLANTED, with_tokens};

/// Replaces words that only a running sign-in knows.
fn with_words(input: &[u8], words: &[(&str, &str)]) -> Vec<u8> {
    let mut text = input.to_vec();
    for (word, value) in words {
        let mut rest = std::mem::take(&mut text);
        while let Some(at) = rest.windows(word.len()).position(|part| part == word.as_bytes()) {
            text.extend_from_slice(&rest[..at]);
            text.extend_from_slice(value.as_bytes());
            rest.drain(..at + word.len());
        }
        text.append(&mut rest);
    }
    text
}

/// Checks that the outcome of an input shows no secret, and returns a number that tells outcomes
/// apart.
fn look<T: Debug>(input: &[u8], outcome: &Result<T, Error>) -> u64 {
    // A mutation can move the planted text into the provider's error, which is shown.
    let has_error = String::from_utf8_lossy(input).contains("error");
    if let (false, Err(error)) = (has_error, outcome) {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(PLANTED), "{shown}");
    }
    inspect(outcome)
}

fn inspect<T>(outcome: &Result<T, Error>) -> u64 {
    let Err(error) = outcome else { return 1 };
    let text = error.to_string();
    assert!(!text.contains(char::is_control) && text.len() < 8192, "{text:?}");
    let _ = (error.is_retryable(), error.is_timeout(), error.is_ambiguous());
    match error {
        Error::SignIn(error) => outcome_of(10 + error.kind as u64, &error.reason),
        Error::Cancelled { .. } => 2,
        Error::Config { what, .. } => outcome_of(3, what),
        other => panic!("{other:?}"),
    }
}

/// A sign-in that waits for the browser.
struct Waiting {
    request: Form,
    cancel: CancelToken,
    outcome: JoinHandle<Result<ProviderTokens, Error>>,
}

impl Waiting {
    fn start(endpoints: &Endpoints) -> Self {
        let cancel = CancelToken::new();
        let (shown, urls): (_, Receiver<String>) = mpsc::channel();
        let sign_in = SignIn::with_endpoints(endpoints.clone(), CLIENT)
            .cancel_token(&cancel)
            .open_nothing()
            .deadline(Duration::from_secs(3600))
            .on_url(move |url| shown.send(url.to_owned()).unwrap());
        let outcome = thread::spawn(move || sign_in.loopback());
        let request = authorization(&urls.recv().unwrap());
        Self { request, cancel, outcome }
    }
}

#[test]
fn redirects() {
    let provider = TestProvider::start();
    let issuer = provider.issuer();
    provider.on("/token", |_, _| Some(raw(400, r#"{"error":"invalid_grant"}"#)));
    let endpoints = Endpoints::new(&issuer, "https://a.example", format!("{issuer}/token"));
    let mut waiting = Waiting::start(&endpoints);
    fuzz("redirects", |input| {
        let (host, _) = split(&waiting.request["redirect_uri"]);
        let state = &waiting.request["state"];
        let input = with_words(input, &[("@host@", host), ("@state@", state)]);
        let mut stream = TcpStream::connect(host).unwrap();
        let _ = stream.write_all(&input);
        // Nobody waits for the rest of what is incomplete.
        let _ = stream.shutdown(Shutdown::Write);
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        let response = String::from_utf8_lossy(&response);
        let status = response.get(9..12).unwrap_or("000").to_owned();
        let has_state = String::from_utf8_lossy(&input).contains(state.as_str());
        if response.contains("<h1>") {
            assert!(has_state, "{input:?}");
            let ended = std::mem::replace(&mut waiting, Waiting::start(&endpoints));
            return look(&input, &ended.outcome.join().unwrap());
        }
        assert!(status == "000" || status.starts_with('4'), "{response}");
        assert!(!waiting.outcome.is_finished() || has_state, "{}", input.escape_ascii());
        if waiting.outcome.is_finished() {
            // The connection broke before the page came.
            waiting = Waiting::start(&endpoints);
        }
        outcome_of(4, &response) ^ status.parse::<u64>().unwrap_or(0)
    });
    waiting.cancel.cancel();
    let _ = waiting.outcome.join();
}

/// Signs in with a person who agrees at once, and returns what came of it.
fn signed_in(endpoints: &Endpoints, nonce: &Arc<Mutex<String>>) -> Result<ProviderTokens, Error> {
    let sign_in = SignIn::with_endpoints(endpoints.clone(), CLIENT).open_nothing();
    let (paste, kept) = (Arc::new(Mutex::new(None::<SignIn>)), nonce.clone());
    let own = paste.clone();
    let sign_in = sign_in.on_url(move |url| {
        let request = authorization(url);
        *kept.lock().unwrap() = request["nonce"].clone();
        let answer = format!("code=PLANTED&state={}", request["state"]);
        own.lock().unwrap().as_ref().unwrap().submit_redirect(&answer).unwrap();
    });
    *paste.lock().unwrap() = Some(sign_in.clone());
    let outcome = sign_in.loopback();
    // The two hold each other.
    paste.lock().unwrap().take();
    outcome
}

#[test]
fn token_responses() {
    let provider = TestProvider::start();
    let issuer = provider.issuer();
    let endpoints = Endpoints::new(&issuer, "https://a.example", format!("{issuer}/token"));
    let (nonce, body) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(Vec::new())));
    let (kept, replies) = (nonce.clone(), body.clone());
    provider.on("/token", move |provider, _| {
        let input: Vec<u8> = replies.lock().unwrap().clone();
        let (nonce, issuer) = (kept.lock().unwrap().clone(), provider.issuer());
        let words = [("@nonce@", nonce.as_str()), ("@issuer@", &issuer), ("@client@", CLIENT)];
        let body = with_tokens(&with_words(&input, &words));
        let status = if input.len().is_multiple_of(7) { 400 } else { 200 };
        Some(raw(status, &String::from_utf8_lossy(&body)))
    });
    fuzz("token_responses", |input| {
        *body.lock().unwrap() = input.to_vec();
        let outcome = signed_in(&endpoints, &nonce);
        if let Ok(tokens) = &outcome {
            assert!(!format!("{tokens:?}").contains(PLANTED));
            // What was accepted names this provider, this client and this sign-in.
            let issuer = provider.issuer();
            let text = String::from_utf8_lossy(input);
            assert!(text.contains("@issuer@") || text.contains(&issuer), "{text}");
            assert!(text.contains("@nonce@") && text.contains("@client@"), "{text}");
        }
        look(input, &outcome)
    });
}

#[test]
fn discovery_documents() {
    let provider = TestProvider::start();
    let body = Arc::new(Mutex::new(Vec::new()));
    let replies = body.clone();
    provider.on("/.well-known/openid-configuration", move |provider, _| {
        let input: Vec<u8> = replies.lock().unwrap().clone();
        let body = with_words(&input, &[("@issuer@", &provider.issuer())]);
        Some(raw(200, &String::from_utf8_lossy(&body)))
    });
    fuzz("discovery", |input| {
        *body.lock().unwrap() = input.to_vec();
        let cancel = CancelToken::new();
        let (ends, urls) = (cancel.clone(), Arc::new(Mutex::new(String::new())));
        let shown = urls.clone();
        let sign_in = provider.sign_in().cancel_token(&cancel).open_nothing();
        let sign_in = sign_in.on_url(move |url| {
            *shown.lock().unwrap() = url.to_owned();
            ends.cancel();
        });
        let outcome = sign_in.loopback().map(drop);
        let url = urls.lock().unwrap().clone();
        if !url.is_empty() {
            let is_safe = url.starts_with("https://")
                || ["http://127.", "http://[::", "http://localhost"]
                    .iter()
                    .any(|s| url.starts_with(s));
            assert!(is_safe, "{url}");
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
        }
        look(input, &outcome)
    });
}

#[test]
fn device_codes() {
    let provider = TestProvider::start();
    let issuer = provider.issuer();
    let body = Arc::new(Mutex::new(Vec::new()));
    let replies = body.clone();
    provider.on("/device", move |_, _| {
        Some(raw(200, &String::from_utf8_lossy(&replies.lock().unwrap())))
    });
    let endpoints = Endpoints::new(&issuer, "https://a.example", format!("{issuer}/token"))
        .device_authorization_endpoint(format!("{issuer}/device"));
    fuzz("device_codes", |input| {
        *body.lock().unwrap() = input.to_vec();
        let cancel = CancelToken::new();
        let ends = cancel.clone();
        let sign_in = SignIn::with_endpoints(endpoints.clone(), CLIENT).cancel_token(&cancel);
        let sign_in = sign_in.on_code(move |code| {
            assert!(code.user_code.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{code:?}");
            let uri = code.verification_uri.to_ascii_lowercase();
            assert!(uri.starts_with("http"), "{code:?}");
            assert!(!format!("{code:?}").contains(PLANTED), "{code:?}");
            ends.cancel();
        });
        look(input, &sign_in.device())
    });
}
