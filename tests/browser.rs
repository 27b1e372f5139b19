//! Sign-in with an identity provider in the browser: complete flows with a simulated provider and
//! person. `tests/browser_oidc.rs` uses a real provider and a real browser;
//! `tests/browser_hostile.rs` has the attacks.

#![cfg(feature = "browser")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Read;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keyfob::browser::{Page, RedirectHost, SignIn};
use keyfob::store::MemoryStore;
use keyfob::{CancelToken, Credentials, Error, Provider, Session, SignInErrorKind, UserState};
use serde_json::{Value, json};
use support::provider::*;
use support::*;

/// The route of a log-in with a custom token.
const JWT_LOGIN: &str = "POST /auth/providers/custom-token/login";

/// Far above the 50 ms that an end may take, for a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(2);

#[track_caller]
fn kind_of(error: &Error) -> SignInErrorKind {
    match error {
        Error::SignIn(error) => error.kind,
        other => panic!("{other:?}"),
    }
}

/// Asserts that nothing listens on the port of a redirect URI any more.
#[track_caller]
fn assert_closed(redirect_uri: &str) {
    let (address, _) = split(redirect_uri);
    TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
}

#[test]
fn loopback_returns_checked_tokens() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let sign_in = person.agrees(&provider, provider.sign_in().page(Page::new("Notes")));
    let tokens = sign_in.loopback().unwrap();
    assert_eq!(tokens.credentials().provider(), Provider::Jwt);
    assert_eq!(tokens.access_token().unwrap().expose(), "at");
    assert!(tokens.id_token().expose().starts_with("eyJ"));
    assert!(tokens.refresh_token().is_none());
    let page = person.page();
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.html.contains("Return to Notes"), "{}", page.html);
}

#[test]
fn authorization_request_has_required_parameters() {
    let (provider, person) = (TestProvider::start(), Person::default());
    provider.describe(|document| {
        let endpoint = document["authorization_endpoint"].as_str().unwrap().to_owned();
        document["authorization_endpoint"] = format!("{endpoint}?tenant=1").into();
    });
    let (seen, requests) = mpsc::channel();
    let sign_in = provider.sign_in().scopes(["openid", "email"]).parameter("login_hint", "a b&c");
    let sign_in = person.at(sign_in, move |request| {
        seen.send(request.clone()).unwrap();
        get(&request["redirect_uri"], &format!("error=access_denied&state={}", request["state"]))
    });
    for _ in 0..2 {
        sign_in.loopback().unwrap_err();
    }
    let (one, other) = (requests.recv().unwrap(), requests.recv().unwrap());
    for (name, value) in [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", CLIENT),
        ("scope", "openid email"),
        ("code_challenge_method", "S256"),
        ("login_hint", "a b&c"),
    ] {
        assert_eq!(one[name], value, "{name}");
    }
    assert!(!one.contains_key("response_mode"));
    // Everything that must be new is new.
    for name in ["state", "nonce", "code_challenge"] {
        assert!(one[name].len() == 43 && one[name] != other[name], "{name}");
    }
}

#[test]
fn form_post_is_accepted() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let granter = provider.clone();
    let sign_in = person.at(provider.sign_in().form_post(true), move |request| {
        assert_eq!(request["response_mode"], "form_post");
        let (uri, state) = (request["redirect_uri"].clone(), request["state"].clone());
        granter.grant("c0de", request);
        post(&uri, &format!("state={state}&code=c0de"))
    });
    sign_in.loopback().unwrap();
    assert_eq!(person.page().status, 200);

    provider.describe(|document| document["response_modes_supported"] = json!(["query"]));
    let error = sign_in.loopback().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}

#[test]
fn pasted_redirect_url_completes_sign_in() {
    let provider = TestProvider::start();
    let (shown, urls) = mpsc::channel();
    let sign_in = provider.sign_in().open_nothing().on_url(move |url| {
        shown.send(url.to_owned()).unwrap();
    });
    let waiting = sign_in.clone();
    let waits = thread::spawn(move || waiting.loopback());
    let request = authorization(&urls.recv().unwrap());
    let url = format!("{}?code=c0de&state={}", request["redirect_uri"], request["state"]);
    let redirect_uri = request["redirect_uri"].clone();
    provider.grant("c0de", request);
    for wrong in ["", "https://example.org", &url[..url.len() - 1], &format!("{url}&state=x")] {
        let error = sign_in.submit_redirect(wrong).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && !error.to_string().contains("c0de"));
    }
    sign_in.submit_redirect(&format!("  {url}\n")).unwrap();
    waits.join().unwrap().unwrap();
    assert!(sign_in.submit_redirect(&url).is_err(), "nobody waits any more");
    assert_closed(&redirect_uri);
}

#[test]
fn session_logs_in_while_browser_waits() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(JWT_LOGIN, 200, login_body("ada", &access("a"), &refresh("r")));
    script.reply(PROFILE, 200, profile_body("ada"));
    let session = builder(&script, &clock).open().unwrap();
    let page = Page::new("Notes").success("Welcome", "Go back to Notes.");
    let sign_in = person.agrees(&provider, provider.sign_in().page(page));
    let user = session.sign_in(&sign_in).unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    assert_eq!(session.current_user().unwrap(), Some(user));
    let sent = script.sent().into_iter().find(|sent| sent.route == JWT_LOGIN).unwrap();
    let claims = provider.asked("/token").len();
    assert_eq!(claims, 1);
    assert!(sent.body.unwrap()["token"].as_str().unwrap().starts_with("eyJ"));
    let page = person.page();
    assert!(page.status == 200 && page.html.contains("<h1>Welcome</h1>"), "{page:?}");

    // The page says so if the backend refuses.
    script.reply(JWT_LOGIN, 401, error_body("AuthError", "who is <Ada>?"));
    let error = session.sign_in(&sign_in).unwrap_err();
    assert_eq!(error.status(), Some(401));
    let page = person.page();
    assert_eq!(page.status, 400, "{page:?}");
    assert!(page.html.contains("You are not signed in"), "{}", page.html);
    assert!(page.html.contains("who is &lt;Ada&gt;?"), "{}", page.html);
}

/// The ID token becomes Google credentials; the client secret is sent in the body.
#[test]
fn google_sign_in_sends_secret_in_body() {
    let (provider, person) = (TestProvider::start(), Person::default());
    provider.describe(|document| {
        document["token_endpoint_auth_methods_supported"] = json!(["client_secret_post"]);
    });
    let sign_in = SignIn::google(CLIENT).issuer(provider.issuer()).client_secret("s3cr&t");
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let route = "POST /auth/providers/oauth2-google/login";
    script.reply(route, 200, login_body("ada", &access("a"), &refresh("r")));
    script.reply(PROFILE, 200, profile_body("ada"));
    let session = builder(&script, &clock).open().unwrap();
    session.sign_in(&person.agrees(&provider, sign_in)).unwrap();
    let sent = script.sent().into_iter().find(|sent| sent.route == route).unwrap();
    assert!(sent.body.unwrap()["id_token"].is_string());
    let asked = &provider.asked("/token")[0];
    assert_eq!(
        (asked.form["client_id"].as_str(), asked.form["client_secret"].as_str()),
        (CLIENT, "s3cr&t")
    );
    assert!(!asked.head.to_ascii_lowercase().contains("authorization"), "{}", asked.head);
}

#[test]
fn client_secret_follows_discovery() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let sign_in = person.agrees(&provider, provider.sign_in());
    sign_in.loopback().unwrap();
    person.page();
    let sign_in = sign_in.client_secret("s:%");
    sign_in.loopback().unwrap();
    person.page();
    let asked = provider.asked("/token");
    assert_eq!(asked[0].form["client_id"], CLIENT);
    assert!(!asked[0].head.to_ascii_lowercase().contains("authorization"), "{}", asked[0].head);
    // RFC 6749, section 2.3.1: `my%20client%2F1:s%3A%25`.
    let basic = "Basic bXklMjBjbGllbnQlMkYxOnMlM0ElMjU=";
    assert!(asked[1].head.contains(basic), "{}", asked[1].head);
    assert!(
        !asked[1].form.contains_key("client_secret") && !asked[1].form.contains_key("client_id")
    );

    provider.describe(|document| {
        document["token_endpoint_auth_methods_supported"] = json!(["private_key_jwt"]);
    });
    let error = sign_in.loopback().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    person.page();
}

#[test]
fn link_runs_while_browser_waits() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let sign_in = person.agrees(&provider, provider.sign_in());
    let (script, _, _, user) = logged_in();
    let route = "POST /auth/providers/custom-token/login?link=true";
    script.reply(route, 200, json!({"access_token": access("a2")}));
    sign_in.loopback_then(|tokens| user.link(&tokens.credentials())).unwrap();
    assert_eq!(script.count(route), 1);
    assert!(person.page().html.contains("You are signed in"));
}

#[test]
fn refusal_ends_sign_in() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let sign_in = person.at(provider.sign_in(), |request| {
        let state = &request["state"];
        let query =
            format!("error=access_denied&error_description=Ada+said+%3Cno%3E&state={state}");
        get(&request["redirect_uri"], &query)
    });
    let error = sign_in.loopback().unwrap_err();
    let Error::SignIn(refusal) = &error else { panic!("{error:?}") };
    assert_eq!(refusal.kind, SignInErrorKind::Refused);
    assert_eq!(refusal.code.as_deref(), Some("access_denied"));
    assert!(!error.is_retryable() && !error.needs_login() && !error.is_timeout());
    let issuer = provider.issuer();
    assert_eq!(
        error.to_string(),
        format!("{issuer} refused the sign-in: access_denied (Ada said <no>)")
    );
    let page = person.page();
    assert!(page.status == 400 && page.html.contains("(Ada said &lt;no&gt;)"), "{page:?}");
    assert!(provider.asked("/token").is_empty());
}

#[test]
fn cancel_ends_wait_and_frees_port() {
    let provider = TestProvider::start();
    let token = CancelToken::new();
    let (shown, urls) = mpsc::channel();
    let sign_in = provider.sign_in().cancel_token(&token).open_nothing().on_url(move |url| {
        shown.send(url.to_owned()).unwrap();
    });
    let waits = thread::spawn(move || {
        let outcome = sign_in.loopback();
        (outcome, Instant::now())
    });
    let request = authorization(&urls.recv().unwrap());
    let begun = Instant::now();
    token.cancel();
    let (outcome, ended) = waits.join().unwrap();
    assert!(matches!(outcome.unwrap_err(), Error::Cancelled { ambiguous: false }));
    let took = ended.saturating_duration_since(begun);
    println!("cancelled in {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
    assert_closed(&request["redirect_uri"]);
}

#[test]
fn cancel_ends_request_to_provider() {
    let provider = TestProvider::start();
    let token = CancelToken::new();
    let (arrived, arrivals) = mpsc::channel();
    provider.on("/.well-known/openid-configuration", move |_, _| {
        let _ = arrived.send(());
        thread::sleep(Duration::from_secs(10));
        None
    });
    let sign_in = provider.sign_in().cancel_token(&token);
    let waits = thread::spawn(move || sign_in.loopback());
    arrivals.recv().unwrap();
    let begun = Instant::now();
    token.cancel();
    assert!(matches!(waits.join().unwrap().unwrap_err(), Error::Cancelled { .. }));
    assert!(begun.elapsed() < AT_ONCE);
}

#[test]
fn deadline_ends_wait_and_frees_port() {
    let provider = TestProvider::start();
    let (shown, urls) = mpsc::channel();
    let limit = Duration::from_millis(300);
    let sign_in = provider.sign_in().deadline(limit).open_nothing().on_url(move |url| {
        shown.send(url.to_owned()).unwrap();
    });
    let begun = Instant::now();
    let error = sign_in.loopback().unwrap_err();
    let took = begun.elapsed();
    println!("ended {:?} after its time", took.saturating_sub(limit));
    assert!(took >= limit && took < limit + AT_ONCE, "{took:?}");
    assert_eq!(kind_of(&error), SignInErrorKind::TimedOut);
    assert!(error.is_timeout() && !error.is_retryable());
    assert_closed(&authorization(&urls.recv().unwrap())["redirect_uri"]);
}

#[test]
fn shutdown_of_session_ends_sign_in() {
    let provider = TestProvider::start();
    let (_, _, session, _) = logged_in();
    let (shown, urls) = mpsc::channel();
    let sign_in = provider.sign_in().open_nothing().on_url(move |_| shown.send(()).unwrap());
    let waiting = session.clone();
    let waits = thread::spawn(move || waiting.sign_in(&sign_in));
    urls.recv().unwrap();
    let begun = Instant::now();
    session.shut_down();
    assert!(matches!(waits.join().unwrap().unwrap_err(), Error::ShutDown { ambiguous: false }));
    assert!(begun.elapsed() < AT_ONCE);
    let error = session.sign_in(&provider.sign_in()).unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
}

#[test]
fn cancel_ends_login_after_sign_in() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let session = Session::builder(APP, url).store(MemoryStore::new()).location_lookup(false);
    let session = session.deadline(Duration::from_secs(600)).open().unwrap();
    for is_token_of_session in [false, true] {
        let token = CancelToken::new();
        let sign_in = person.agrees(&provider, provider.sign_in());
        let (session, sign_in) = match is_token_of_session {
            true => (session.with_cancel(&token), sign_in),
            false => (session.clone(), sign_in.cancel_token(&token)),
        };
        let waits = thread::spawn(move || session.sign_in(&sign_in));
        // The backend has the log-in and does not answer.
        let (mut connection, _) = listener.accept().unwrap();
        assert!(connection.read(&mut [0; 64]).unwrap() > 0);
        let begun = Instant::now();
        token.cancel();
        let error = waits.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled { ambiguous: true }), "{error:?}");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
}

#[test]
fn cancelled_session_handle_ends_sign_in() {
    let provider = TestProvider::start();
    let (_, _, session, _) = logged_in();
    let (token, (shown, urls)) = (CancelToken::new(), mpsc::channel());
    let sign_in = provider.sign_in().open_nothing().on_url(move |_| shown.send(()).unwrap());
    let cancellable = session.with_cancel(&token);
    let waits = thread::spawn(move || cancellable.sign_in(&sign_in));
    urls.recv().unwrap();
    token.cancel();
    assert!(matches!(waits.join().unwrap().unwrap_err(), Error::Cancelled { ambiguous: false }));
}

#[test]
fn panic_in_callback_frees_port() {
    let provider = TestProvider::start();
    let (shown, urls) = mpsc::channel();
    let sign_in = provider.sign_in().open_nothing().on_url(move |url| {
        shown.send(url.to_owned()).unwrap();
        panic!("a mistake of the program");
    });
    assert!(thread::spawn(move || sign_in.loopback()).join().is_err());
    assert_closed(&authorization(&urls.recv().unwrap())["redirect_uri"]);
}

#[test]
fn panic_in_log_in_still_shows_page() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let sign_in = person.agrees(&provider, provider.sign_in());
    let panics = move || sign_in.loopback_then(|_| -> keyfob::Result<()> { panic!("a mistake") });
    assert!(thread::spawn(panics).join().is_err());
    let page = person.page();
    assert!(page.status == 400 && page.html.contains("You are not signed in"), "{page:?}");
}

#[test]
fn used_port_is_error_or_next_is_tried() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let (first, second) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (taken, free) = (port(&first), port(&second));
    let sign_in = person.agrees(&provider, provider.sign_in());
    let error = sign_in.clone().port(taken).loopback().unwrap_err();
    assert_eq!(kind_of(&error), SignInErrorKind::Listener);
    assert!(error.to_string().contains(&taken.to_string()) && error.is_retryable(), "{error}");

    drop(second);
    sign_in.ports([taken, free]).loopback().unwrap();
    person.page();
    let redirect_uri = &provider.asked("/token")[0].form["redirect_uri"];
    assert_eq!(*redirect_uri, format!("http://127.0.0.1:{free}/callback"));
}

#[test]
fn localhost_listens_on_both_families() {
    let provider = TestProvider::start();
    for address in ["127.0.0.1", "[::1]"] {
        let granter = provider.clone();
        let person = Person::default();
        let sign_in = provider.sign_in().redirect_host(RedirectHost::Localhost);
        let sign_in = person.at(sign_in, move |request| {
            let uri = request["redirect_uri"].clone();
            let port = split(&uri).0.strip_prefix("localhost:").unwrap();
            let query = format!("code=c0de&state={}", request["state"]);
            granter.grant("c0de", request.clone());
            let head = format!("GET /callback?{query} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
            send(&format!("{address}:{port}"), head.as_bytes())
        });
        sign_in.loopback().unwrap();
        assert_eq!(person.page().status, 200, "{address}");
    }
}

#[test]
fn ipv6_and_paths_can_be_chosen() {
    for (host, path, expected) in [
        (RedirectHost::Ipv6, "/a/b-c", "http://[::1]:"),
        (RedirectHost::Ipv4, "/", "http://127.0.0.1:"),
        (RedirectHost::Ipv4, "", "http://127.0.0.1:"),
    ] {
        let (provider, person) = (TestProvider::start(), Person::default());
        let granter = provider.clone();
        let sign_in = provider.sign_in().redirect_host(host).redirect_path(path);
        let sign_in = person.at(sign_in, move |request| {
            let uri = request["redirect_uri"].clone();
            assert!(uri.starts_with(expected) && uri.ends_with(path), "{uri}");
            let query = format!("code=c0de&state={}", request["state"]);
            granter.grant("c0de", request);
            // Browsers ask for `/` where there is no path.
            get(&if path.is_empty() { uri + "/" } else { uri }, &query)
        });
        sign_in.loopback().unwrap();
        assert_eq!(person.page().status, 200, "{path}");
    }
}

#[test]
fn concurrent_sign_ins_are_independent() {
    let provider = TestProvider::start();
    let (shown, urls) = mpsc::channel();
    let sign_in = provider.sign_in().open_nothing().on_url(move |url| {
        shown.send(url.to_owned()).unwrap();
    });
    let waits = [sign_in.clone(), sign_in].map(|one| thread::spawn(move || one.loopback()));
    let requests = [authorization(&urls.recv().unwrap()), authorization(&urls.recv().unwrap())];
    let state = |at: usize| requests[at]["state"].as_str();
    let query = |state: &str| format!("code=c0de&state={state}");
    let stranger = get(&requests[0]["redirect_uri"], &query(state(1)));
    assert_eq!(stranger.status, 400);
    for at in [0, 1] {
        provider.grant("c0de", requests[at].clone());
        let page = get(&requests[at]["redirect_uri"], &query(state(at)));
        assert_eq!(page.status, 200, "{page:?}");
    }
    for wait in waits {
        wait.join().unwrap().unwrap();
    }
}

/// Answers to the device authorization request.
fn device_reply(provider: &TestProvider, interval: u64) -> Value {
    json!({
        "device_code": "PLANTED-device",
        "user_code": "ABCD-EFGH",
        "verification_url": format!("{}/activate", provider.issuer()),
        "expires_in": 600,
        "interval": interval,
    })
}

/// A provider whose token endpoint says these things, one after the other.
fn device_provider(replies: Vec<(u16, Value)>) -> TestProvider {
    let provider = TestProvider::start();
    provider.on("/device", |provider, _| Some(json_reply(200, &device_reply(provider, 1))));
    provider.on("/token", move |provider, _| {
        let (status, body) =
            replies[(provider.asked("/token").len() - 1).min(replies.len() - 1)].clone();
        let body = if body.is_null() {
            json!({"id_token": provider.id_token(&provider.claims(None))})
        } else {
            body
        };
        (status != 0).then(|| json_reply(status, &body))
    });
    provider
}

fn pending() -> (u16, Value) {
    (400, json!({"error": "authorization_pending"}))
}

#[test]
fn device_flow_polls_until_tokens_arrive() {
    // A connection that breaks and a provider that is busy are no reason to give up.
    let provider = device_provider(vec![pending(), (0, Value::Null), (200, Value::Null)]);
    let (shown, codes) = mpsc::channel();
    let sign_in = provider.sign_in().on_code(move |code| shown.send(code.clone()).unwrap());
    let tokens = sign_in.device().unwrap();
    assert_eq!(tokens.credentials().provider(), Provider::Jwt);
    let code = codes.recv().unwrap();
    assert_eq!(code.user_code, "ABCD-EFGH");
    assert_eq!(code.verification_uri, format!("{}/activate", provider.issuer()));
    let asked = provider.asked("/device");
    assert_eq!((asked.len(), asked[0].form["scope"].as_str()), (1, "openid email profile"));
    assert_eq!(asked[0].form["client_id"], CLIENT);
    let asked = provider.asked("/token");
    assert_eq!(asked.len(), 3);
    for asked in asked {
        assert_eq!(asked.form["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
        assert_eq!(asked.form["device_code"], "PLANTED-device");
    }
}

#[test]
fn device_flow_honours_slow_down() {
    let slow = (400, json!({"error": "slow_down"}));
    let provider = device_provider(vec![slow, (200, Value::Null)]);
    let begun = Instant::now();
    provider.sign_in().on_code(|_| {}).device().unwrap();
    // One second, then six.
    assert!(begun.elapsed() >= Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[test]
fn device_flow_ends_when_refused_or_expired() {
    for (code, kind) in [
        ("access_denied", SignInErrorKind::Refused),
        ("invalid_grant", SignInErrorKind::Refused),
        ("expired_token", SignInErrorKind::TimedOut),
    ] {
        let provider = device_provider(vec![(400, json!({"error": code}))]);
        let error = provider.sign_in().on_code(|_| {}).device().unwrap_err();
        assert_eq!(kind_of(&error), kind, "{code}: {error}");
        assert_eq!(provider.asked("/token").len(), 1, "{code}");
    }
    // The code's own time.
    let provider = device_provider(vec![pending()]);
    provider.on("/device", |provider, _| {
        let mut reply = device_reply(provider, 1);
        reply["expires_in"] = 1.into();
        Some(json_reply(200, &reply))
    });
    let error = provider.sign_in().on_code(|_| {}).device().unwrap_err();
    assert_eq!(kind_of(&error), SignInErrorKind::TimedOut, "{error}");
}

#[test]
fn device_flow_is_cancelled_between_requests() {
    let provider = device_provider(vec![pending()]);
    let token = CancelToken::new();
    let (shown, codes) = mpsc::channel();
    provider.on("/device", |provider, _| Some(json_reply(200, &device_reply(provider, 500))));
    let sign_in = provider.sign_in().cancel_token(&token).on_code(move |_| shown.send(()).unwrap());
    let waits = thread::spawn(move || sign_in.device());
    codes.recv().unwrap();
    let begun = Instant::now();
    token.cancel();
    assert!(matches!(waits.join().unwrap().unwrap_err(), Error::Cancelled { .. }));
    assert!(begun.elapsed() < AT_ONCE);
}

#[test]
fn device_flow_needs_endpoint() {
    let provider = TestProvider::start();
    provider.describe(|document| document["device_authorization_endpoint"] = Value::Null);
    let error = provider.sign_in().device().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}

#[test]
fn unusable_settings_are_named() {
    let sign_in = || SignIn::oidc("https://id.example.org", "client");
    for (sign_in, what) in [
        (SignIn::oidc("http://id.example.org", "client"), "the issuer"),
        (SignIn::oidc("id.example.org", "client"), "the issuer"),
        (SignIn::oidc("https://id.example.org", ""), "the client id"),
        (sign_in().scopes(["email"]), "the scopes"),
        (sign_in().scopes(["openid", "e mail"]), "the scopes"),
        (sign_in().scopes(["openid", ""]), "the scopes"),
        (sign_in().ports([]), "the ports"),
        (sign_in().redirect_path("callback"), "the redirect path"),
        (sign_in().redirect_path("/a/../b"), "the redirect path"),
        (sign_in().redirect_path("/a?b"), "the redirect path"),
        (sign_in().redirect_path("//a"), "the redirect path"),
        (sign_in().parameter("state", "x"), "a parameter of the sign-in"),
        (sign_in().parameter("p", "x").parameter("p", "y"), "a parameter of the sign-in"),
        (sign_in().backend_provider(Provider::Facebook), "the backend's provider"),
    ] {
        for outcome in [sign_in.loopback(), sign_in.device()] {
            match outcome.unwrap_err() {
                Error::Config { what: found, .. } => assert_eq!(found, what),
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[test]
fn apple_credentials_are_for_apple() {
    let (provider, person) = (TestProvider::start(), Person::default());
    let sign_in = provider.sign_in().backend_provider(Provider::Apple);
    let tokens = person.agrees(&provider, sign_in).loopback().unwrap();
    assert_eq!(tokens.credentials().provider(), Provider::Apple);
    let _: Credentials = tokens.credentials();
}
