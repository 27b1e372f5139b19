//! Sign-in with a third-party OpenID provider, in third-party browsers or in a minimal client that
//! follows redirects and submits forms. The login ends at the local backend.
//!
//! Requires `-- --ignored`, Node.js and Chromium on the path, and `npm ci` in `.ci/oidc`.

#![cfg(all(feature = "browser", feature = "server"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keyfob::browser::{Endpoints, Page, RedirectHost, SignIn};
use keyfob::server::{Google, Server};
use keyfob::store::MemoryStore;
use keyfob::{Credentials, Error, Provider, Session, SignInErrorKind};
use serde_json::Value;
use support::Dir;
use support::net::{raw, read_request, serve};
use support::oidc::{Oidc, browse, chromium, chromium_acts};

/// The pages on which the scripted browser ended.
#[derive(Clone, Default)]
struct Browser(Arc<Mutex<Vec<JoinHandle<Value>>>>);

impl Browser {
    /// Opens the URLs of a sign-in, each changed in some way.
    fn opens(
        &self,
        sign_in: SignIn,
        change: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> SignIn {
        let pages = self.0.clone();
        sign_in.on_url(|_| {}).open_with(move |url| {
            let url = change(url);
            pages.lock().unwrap().push(thread::spawn(move || browse(&url, &[])));
        })
    }

    fn page(&self) -> Value {
        let page = self.0.lock().unwrap().pop().expect("a page was opened");
        page.join().unwrap()
    }
}

fn native(provider: &Oidc) -> SignIn {
    SignIn::oidc(provider.text("issuer"), "native").deadline(Duration::from_secs(60))
}

/// Whom the backend knows as Ada.
fn ada(provider: &Oidc) -> String {
    format!("{}#ada-lovelace", provider.text("issuer"))
}

/// A backend that accepts the provider's ID tokens, and a session on it.
fn backend(provider: &Oidc) -> (Server, Session) {
    let accepted = keyfob::server::Oidc::new(provider.text("issuer"), "native");
    let server = Server::builder().oidc(accepted).start().unwrap();
    let session = Session::builder(server.app_id(), server.base_url())
        .store(MemoryStore::new())
        .open()
        .unwrap();
    (server, session)
}

#[track_caller]
fn assert_kind(error: &Error, kind: SignInErrorKind) {
    assert!(matches!(error, Error::SignIn(error) if error.kind == kind), "{error:?}");
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn real_provider_signs_in_by_redirect_and_form() {
    let (provider, browser) = (Oidc::start("x"), Browser::default());
    let (_server, session) = backend(&provider);
    let secret = provider.text("native_secret");
    let with_secret = SignIn::oidc(provider.text("issuer"), "native-secret").client_secret(secret);
    for (what, sign_in) in [
        ("redirect", native(&provider)),
        ("form_post", native(&provider).form_post(true)),
        ("a login form", native(&provider).parameter("login_hint", "form")),
        ("client secret", with_secret),
        ("localhost", native(&provider).redirect_host(RedirectHost::Localhost)),
        ("IPv6", native(&provider).redirect_host(RedirectHost::Ipv6)),
    ] {
        let sign_in = browser.opens(sign_in, str::to_owned);
        let tokens = sign_in.loopback().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(tokens.access_token().is_some(), "{what}");
        let page = browser.page();
        assert_eq!(page["status"], 200, "{what}: {page}");
        assert!(page["text"].as_str().unwrap().contains("Return to"), "{what}: {page}");
    }

    let sign_in = browser.opens(native(&provider).page(Page::new("Notes")), str::to_owned);
    let user = session.sign_in(&sign_in).unwrap();
    assert_eq!(session.current_user().unwrap().as_ref(), Some(&user));
    let identity = &user.identities().unwrap()[0];
    assert_eq!((&identity.provider, &identity.id), (&Provider::Jwt, &ada(&provider)));
    let page = browser.page();
    assert!(page["text"].as_str().unwrap().contains("You are signed in"), "{page}");

    // The same account cannot be linked to somebody else, and the page says so.
    let other = session.log_in(&Credentials::new_anonymous()).unwrap();
    let error = sign_in.loopback_then(|tokens| other.link(&tokens.credentials())).unwrap_err();
    assert!(error.link_refusal().is_some(), "{error}");
    let page = browser.page();
    assert!(page["text"].as_str().unwrap().contains("You are not signed in"), "{page}");
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn real_provider_signs_in_on_another_device() {
    let provider = Oidc::start("x");
    let (_server, session) = backend(&provider);
    let pages = Arc::new(Mutex::new(Vec::new()));
    let opened = pages.clone();
    let sign_in = native(&provider).on_code(move |code| {
        let (url, user_code) = (code.verification_uri.clone(), code.user_code.clone());
        assert!(code.verification_uri_complete.is_some());
        opened.lock().unwrap().push(thread::spawn(move || browse(&url, &[&user_code])));
    });
    let tokens = sign_in.device().unwrap();
    let user = session.log_in(&tokens.credentials()).unwrap();
    assert_eq!(user.identities().unwrap()[0].id, ada(&provider));
    let page = pages.lock().unwrap().pop().unwrap().join().unwrap();
    assert!(page["text"].as_str().unwrap().contains("Sign-in Success"), "{page}");

    // Somebody who refuses there ends it here.
    let refuses = sign_in.on_code(move |code| {
        let (url, user_code) = (code.verification_uri.clone(), code.user_code.clone());
        thread::spawn(move || browse(&url, &[&user_code, "abort"]));
    });
    let error = refuses.device().unwrap_err();
    assert_kind(&error, SignInErrorKind::Refused);
    assert!(error.to_string().contains("access_denied"), "{error}");
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn real_provider_refusals_are_errors() {
    let (provider, browser) = (Oidc::start("x"), Browser::default());

    let refuse = native(&provider).parameter("login_hint", "refuse");
    let error = browser.opens(refuse, str::to_owned).loopback().unwrap_err();
    assert_kind(&error, SignInErrorKind::Refused);
    assert!(error.to_string().ends_with("access_denied (Ada said no)"), "{error}");
    assert_eq!(browser.page()["status"], 400);

    let other_name = provider.text("issuer").replace("127.0.0.1", "localhost");
    let error = SignIn::oidc(other_name, "native").loopback().unwrap_err();
    assert_kind(&error, SignInErrorKind::InvalidResponse);
    assert!(error.to_string().contains("use this name"), "{error}");

    let nonce = |url: &str| url.replace("&nonce=", "&nonce=x");
    let error = browser.opens(native(&provider), nonce).loopback().unwrap_err();
    assert_kind(&error, SignInErrorKind::InvalidResponse);
    assert!(error.to_string().contains("`nonce`"), "{error}");
    browser.page();

    // Without the right challenge, the code is worthless.
    let challenge = |url: &str| url.replace("&code_challenge=", "&code_challenge=x");
    let cut = move |url: &str| {
        let url = challenge(url);
        let at = url.find("code_challenge=x").unwrap() + "code_challenge=x".len() + 42;
        [&url[..at], &url[at + 1..]].concat()
    };
    let error = browser.opens(native(&provider), cut).loopback().unwrap_err();
    assert_kind(&error, SignInErrorKind::Refused);
    assert!(error.to_string().contains("invalid_grant"), "{error}");
    browser.page();
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn code_of_another_sign_in_is_refused() {
    let (provider, browser) = (Oidc::start("x"), Browser::default());
    browser.opens(native(&provider), str::to_owned).loopback().unwrap();
    let page = browser.page();
    let (_, used) = page["url"].as_str().unwrap().split_once('?').unwrap();
    let old_state = used.split('&').find(|pair| pair.starts_with("state=")).unwrap().to_owned();

    let (sign_in, used) = (native(&provider).open_nothing(), used.to_owned());
    let waiting = Arc::new(Mutex::new(None::<SignIn>));
    let paste = waiting.clone();
    let sign_in = sign_in.on_url(move |url| {
        let state = url.split('&').find(|pair| pair.starts_with("state=")).unwrap();
        let sign_in = paste.lock().unwrap().take().unwrap();
        assert!(sign_in.submit_redirect(&format!("http://127.0.0.1/callback?{used}")).is_err());
        sign_in.submit_redirect(&used.replace(&old_state, state)).unwrap();
    });
    *waiting.lock().unwrap() = Some(sign_in.clone());
    let error = sign_in.loopback().unwrap_err();
    assert_kind(&error, SignInErrorKind::Refused);
    assert!(error.to_string().contains("invalid_grant"), "{error}");
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/oidc"]
fn lost_response_of_real_provider_is_typed() {
    let (provider, browser) = (Oidc::start("x"), Browser::default());
    let issuer = provider.text("issuer").to_owned();
    let host = issuer.strip_prefix("http://").unwrap().to_owned();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    // Passes the request on, and loses the response.
    let loses = serve(move |mut stream| {
        let Some((head, body)) = read_request(&mut stream) else { return };
        let mut upstream = TcpStream::connect(&host).unwrap();
        write!(upstream, "{}Connection: close\r\n\r\n{body}", head.replace("HTTP/1.1", "HTTP/1.0"))
            .unwrap();
        let mut response = String::new();
        upstream.read_to_string(&mut response).unwrap();
        noted.lock().unwrap().push((body, response));
        let _ = stream.write_all(&raw(200, "{}").as_bytes()[..10]);
    });
    let endpoints =
        Endpoints::new(&issuer, format!("{issuer}/auth"), format!("http://{loses}/token"));
    let sign_in = SignIn::with_endpoints(endpoints, "native");
    let error = browser.opens(sign_in, str::to_owned).loopback().unwrap_err();
    assert_kind(&error, SignInErrorKind::ResponseLost);
    let page = browser.page();
    assert!(page["text"].as_str().unwrap().contains("start the sign-in again"), "{page}");
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "the code is sent once");
    assert!(asked[0].1.contains("id_token"), "{}", asked[0].1);
}

#[test]
#[ignore = "needs Node.js, Chromium, and `npm ci` in .ci/oidc"]
fn chromium_signs_in_by_redirect_and_form() {
    let (provider, dir) = (Oidc::start("x"), Dir::new());
    let (_server, session) = backend(&provider);
    for form_post in [false, true] {
        let page = Arc::new(Mutex::new(None));
        let (opened, profile) = (page.clone(), dir.path().join(form_post.to_string()));
        let sign_in = native(&provider).form_post(form_post).page(Page::new("Notes"));
        let sign_in = sign_in.on_url(|_| {}).open_with(move |url| {
            let (url, profile) = (url.to_owned(), profile.clone());
            *opened.lock().unwrap() = Some(thread::spawn(move || chromium(&url, &profile)));
        });
        let user = session.sign_in(&sign_in).unwrap();
        assert_eq!(user.identities().unwrap()[0].id, ada(&provider));
        let page = page.lock().unwrap().take().unwrap().join().unwrap();
        assert!(page.contains("You are signed in") && page.contains("Notes"), "{page}");
    }
}

/// A test identity provider in place of Google, the sign-in of a program with it, and the session.
fn in_place_of_google() -> (Server, SignIn, Session) {
    let google = Google::new("1234.apps.googleusercontent.com");
    let server = Server::builder().google(google).test_identity_provider().start().unwrap();
    let sign_in = SignIn::google("1234.apps.googleusercontent.com")
        .client_secret("GOCSPX-x")
        .issuer(server.test_issuer().unwrap())
        .deadline(Duration::from_secs(60))
        .page(Page::new("Notes"))
        .on_url(|_| {});
    let session = Session::builder(server.app_id(), server.base_url())
        .store(MemoryStore::new())
        .open()
        .unwrap();
    (server, sign_in, session)
}

#[test]
#[ignore = "needs Node.js, Chromium, and `npm ci` in .ci/oidc"]
fn chromium_selects_name_at_test_provider() {
    let (_server, sign_in, session) = in_place_of_google();
    let dir = Dir::new();
    let pick = "[...document.querySelectorAll('button')]
        .find((button) => button.textContent.includes('Grace Hopper')).click()";
    let typed = "const field = document.querySelector('input[name=name]');
        field.value = '<b>Eve</b>'; field.form.querySelector('button').click()";
    let refuse = "document.querySelector('button[name=refuse]').click()";
    for (number, (script, form_post, host, name)) in [
        (pick, false, RedirectHost::Ipv4, Some("Grace Hopper")),
        (pick, true, RedirectHost::Ipv4, Some("Grace Hopper")),
        (typed, false, RedirectHost::Localhost, Some("<b>Eve</b>")),
        (typed, true, RedirectHost::Ipv6, Some("<b>Eve</b>")),
        (pick, false, RedirectHost::Ipv6, Some("Grace Hopper")),
        (refuse, false, RedirectHost::Ipv4, None),
        (refuse, true, RedirectHost::Ipv4, None),
    ]
    .into_iter()
    .enumerate()
    {
        let ended = Arc::new(Mutex::new(None));
        let (opened, profile) = (ended.clone(), dir.path().join(number.to_string()));
        let sign_in =
            sign_in.clone().form_post(form_post).redirect_host(host).open_with(move |url| {
                let (url, profile) = (url.to_owned(), profile.clone());
                let browse = move || chromium_acts(&url, &profile, script);
                *opened.lock().unwrap() = Some(thread::spawn(browse));
            });
        let outcome = session.sign_in(&sign_in);
        let page = ended.lock().unwrap().take().unwrap().join().unwrap();
        match (outcome, name) {
            (Ok(user), Some(name)) => {
                assert_eq!(user.identities().unwrap()[0].provider, Provider::Google);
                assert_eq!(user.profile().unwrap().name(), Some(name));
                assert!(page.contains("You are signed in"), "{number}: {page}");
            }
            (Err(error), None) => {
                assert_kind(&error, SignInErrorKind::Refused);
                assert!(page.contains("You are not signed in"), "{number}: {page}");
            }
            (outcome, _) => panic!("{number}: {outcome:?} {page}"),
        }
    }
}

/// A page of a stranger, open in the browser of a developer, tries to sign in by itself. Its own
/// server is on this machine, so the provider would send it a code.
#[test]
#[ignore = "needs Node.js, Chromium, and `npm ci` in .ci/oidc"]
fn other_page_cannot_sign_in_chromium() {
    let (server, _, _) = in_place_of_google();
    let issuer = server.test_issuer().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let stranger = serve(move |mut stream| {
        let Some((head, body)) = read_request(&mut stream) else { return };
        log.lock().unwrap().push(format!("{} {body}", head.lines().next().unwrap()));
        let page = "<!doctype html><title>x</title><p>a page</p>";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
        let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{page}", page.len());
    });
    let port = stranger.port();
    for (number, host) in ["localhost", "127.0.0.1"].into_iter().enumerate() {
        let script = format!(
            r#"
            const url = (mode) => "{issuer}/authorize?" + new URLSearchParams({{
                response_type: "code", client_id: "x", scope: "openid", response_mode: mode,
                redirect_uri: "http://{host}:{port}/stolen", code_challenge_method: "S256",
                code_challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" }});
            const field = '<input name="name" value="Ada">';
            const frame = (html, sandbox) => {{
                const frame = document.createElement("iframe");
                if (sandbox) frame.sandbox = sandbox;
                frame.srcdoc = html + "<script>document.forms[0].submit()<\/script>";
                document.body.append(frame);
            }};
            for (const mode of ["query", "form_post"]) {{
                const target = url(mode).replaceAll("&", "&amp;");
                const post = (rest) => '<form method="post" action="' + target + '"' + rest + ">" + field + "</form>";
                frame(post(""));
                frame(post(' rel="noreferrer"'));
                frame('<meta name="referrer" content="no-referrer">' + post(""));
                frame(post(""), "allow-forms allow-scripts");
                const body = new URLSearchParams({{ name: "Ada" }});
                for (const more of [{{}}, {{ mode: "no-cors" }}, {{ referrerPolicy: "no-referrer", mode: "no-cors" }}]) {{
                    fetch(url(mode), {{ method: "POST", body, ...more }}).catch(() => 0);
                }}
                navigator.sendBeacon(url(mode), body);
                fetch(url(mode)).then((page) => page.text()).then((text) => fetch("/read?" + text.length)).catch(() => 0);
                const shown = document.createElement("iframe");
                shown.src = url(mode);
                document.body.append(shown);
                const failing = document.createElement("iframe");
                failing.src = url(mode).replace("scope=openid", "scope=x");
                document.body.append(failing);
            }}
            const other = "{host}" === "localhost" ? "127.0.0.1" : "localhost";
            setTimeout(() => {{ location = "http://" + other + ":{port}/end"; }}, 3000);
            "#
        );
        server.clear_journal();
        let dir = Dir::new();
        let url = format!("http://{host}:{port}/start");
        chromium_acts(&url, &dir.path().join(number.to_string()), &script);
        let posts: Vec<_> =
            server.journal().iter().filter(|asked| asked.method == "POST").cloned().collect();
        assert!(posts.len() >= 12, "{host}: {posts:?}");
        assert!(posts.iter().all(|post| matches!(post.status, 400 | 403)), "{host}: {posts:?}");
    }
    let seen = seen.lock().unwrap();
    assert!(seen.iter().filter(|line| line.contains("/end")).count() == 2, "{seen:?}");
    let got = |what: &str| seen.iter().any(|line| line.contains(what));
    assert!(!got("code="), "{seen:?}");
    assert!(!got("/read"), "{seen:?}");
    assert!(!seen.iter().any(|line| line.starts_with("POST /stolen")), "{seen:?}");
}
