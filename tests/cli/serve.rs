//! The backend that the command runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use keyfob::server::{Confirmation, Reset, Server, Verdict};
use serde_json::{Value, json};

use crate::command::{
    APP_ID, Backend, Dir, EMAIL, PASSWORD, Place, Running, assert_error, finish, keyfob,
};

#[test]
fn printed_mails_confirm_and_reset() {
    let mut backend = Backend::start(&["--mail"]);
    let at = backend.place("mail-store");
    let mut mail = |kind: &str| {
        let line: Value = serde_json::from_str(&backend.running.stdout.next()).unwrap();
        let mail = &line["mail"];
        assert_eq!((&mail["to"], &mail["kind"]), (&json!(EMAIL), &json!(kind)));
        let text = |key: &str| mail[key].as_str().unwrap().to_owned();
        (text("token"), text("token_id"))
    };
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    let (token, token_id) = mail("confirmation");
    let error = at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    assert_error(&error, "server", json!(401), json!("AuthError"));
    let error = at.refused(1, &["confirm", "--token", "wrong", "--token-id", &token_id]);
    assert_error(&error, "server", json!(400), error["code"].clone());
    assert_eq!(at.json(&["resend-confirmation", "--email", EMAIL]), json!({}));
    let newest = mail("confirmation");
    assert_ne!(newest.0, token);
    let confirm = ["confirm", "--token", &newest.0, "--token-id", &newest.1];
    assert_eq!(at.json(&confirm), json!({}));
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let error = at.refused(1, &["retry-confirmation", "--email", EMAIL]);
    assert_error(&error, "server", json!(400), error["code"].clone());

    assert_eq!(at.json(&["reset-password", "--email", EMAIL]), json!({}));
    let (token, token_id) = mail("password-reset");
    let reset = ["complete-reset", "--token", &token, "--token-id", &token_id];
    assert_eq!(at.json_with("another-password", &reset), json!({}));
    at.refused_with(1, PASSWORD, &["login", "--email", EMAIL]);
    at.json_with("another-password", &["login", "--email", EMAIL]);
    at.refused_with(1, PASSWORD, &["call-reset", "--email", EMAIL, "1"]);
}

#[test]
fn reset_mail_is_printed_without_confirmation() {
    let dir = Dir::new("reset-words");
    let mut served = Running::start(keyfob(&["serve", "--addr", "127.0.0.1:0"]));
    let line = served.stdout.next();
    let url = line.strip_prefix("keyfob: serving app keyfob-local at ").unwrap();
    let at = Place { app_id: "keyfob-local".to_owned(), ..Place::new(url, dir.0.clone()) };
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    at.json(&["reset-password", "--email", EMAIL]);
    let mail = served.stdout.next();
    let link = mail.strip_prefix(&format!("mail to {EMAIL} (password-reset): ")).unwrap();
    let value = |name: &str| {
        let (_, value) = link.split_once(&format!("{name}=")).unwrap();
        value.split('&').next().unwrap().to_owned()
    };
    let (token, token_id) = (value("token"), value("tokenId"));
    let reset = ["complete-reset", "--token", &token, "--token-id", &token_id];
    at.json_with("another-password", &reset);
    at.json_with("another-password", &["login", "--email", EMAIL]);
}

#[test]
fn serve_continues_after_output_closes() {
    let mut serve = keyfob(&["serve", "--addr", "127.0.0.1:0", "--no-rate-limits"]);
    let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // The first line, and then no more; but nobody closes it either.
    let mut stdout = BufReader::with_capacity(1, child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    let url = first.trim_end().strip_prefix("keyfob: serving app keyfob-local at ").unwrap();
    let store = keyfob::store::MemoryStore::new();
    let session = keyfob::Session::builder("keyfob-local", url).store(store).open().unwrap();
    let accounts = session.email_password();
    accounts.register(EMAIL, PASSWORD).unwrap();
    // Far more than fits into a pipe.
    for _ in 0..2000 {
        accounts.send_reset(EMAIL).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdout);
}

#[test]
fn serve_accepts_configured_jwt_issuer() {
    let dir = Dir::new("jwt-secret");
    let (file, secret) = (dir.0.join("secret"), "0123456789abcdef0123456789abcdef");
    fs::write(&file, format!("{secret}\r\n")).unwrap();
    let backend = Backend::start(&["--jwt-secret-file", file.to_str().unwrap()]);
    let at = backend.place("jwt-store");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed = |audience: &str| {
        let claims = json!({"sub": "s-1", "aud": audience, "exp": now + 600});
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let user = at.json_with(&signed(APP_ID), &["login", "--jwt"]);
    assert_eq!(user["provider"], "custom-token");
    assert_eq!(at.json_with(&signed(APP_ID), &["login", "--jwt"]), user);
    let error = at.refused_with(1, &signed("another-app"), &["login", "--jwt"]);
    assert_error(&error, "server", json!(401), json!("AuthError"));
    for how in ["--google-id-token", "--google-auth-code", "--apple", "--facebook"] {
        at.refused_with(1, "x", &["login", how]);
    }
    at.refused(1, &["login", "--function", "{\"id\":1}"]);
}

#[test]
fn serve_stores_users_only_in_data_dir() {
    let data = Dir::new("serve-data");
    let options = ["--data", data.0.to_str().unwrap()];
    let mut backend = Backend::start(&options);
    let at = backend.place("served-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);

    let addr = backend.base_url.strip_prefix("http://").unwrap().to_owned();
    let taken = finish(keyfob(&["--json", "serve", "--addr", &addr]), "");
    assert_eq!((taken.code, &*taken.stdout), (4, ""), "{taken:?}");
    assert_eq!(taken.error()["kind"], "serve");
    assert!(taken.stderr.contains(&format!("cannot listen on {addr}")), "{taken:?}");
    assert!(taken.stderr.contains("choose another address with --addr"), "{taken:?}");
    let in_use = finish(keyfob(&[&["serve", "--addr", "127.0.0.1:0"], &options[..]].concat()), "");
    assert_eq!((in_use.code, &*in_use.stdout), (5, ""), "{in_use:?}");
    assert!(in_use.stderr.contains("(--data)"), "{in_use:?}");

    backend.kill();
    let again = Backend::start(&[&options[..], &["--addr", &addr]].concat());
    assert_eq!(again.base_url, at.base_url);
    // The token that the first backend gave is good with the second one.
    assert_eq!(at.json(&["call", "sum", "1", "2"]), json!({"$numberInt": "3"}));
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
}

#[test]
fn serve_error_names_invalid_option() {
    let dir = Dir::new("serve-refused");
    let path = |name: &str| dir.0.join(name).to_str().unwrap().to_owned();
    let (file, theirs) = (path("file"), path("theirs"));
    fs::write(&file, "short").unwrap();
    drop(Server::builder().app_id("another-app").data_dir(&theirs).start().unwrap());
    for (code, option, arguments) in [
        (2, "--app-id", &["--app-id", "no/id"][..]),
        (2, "--jwt-jwks", &["--jwt-jwks", "nope"]),
        (2, "--jwt-jwks", &["--jwt-jwks", "http://example.org/keys"]),
        (2, "--jwt-secret-file", &["--jwt-secret-file", &file]),
        (2, "--jwt-secret-file", &["--jwt-secret-file", "short-secret"]),
        (2, "--disable", &["--disable", "email"]),
        (2, "--public-url", &["--public-url", "ftp://example.org"]),
        (2, "--trusted-proxy", &["--trusted-proxy", "proxy.example.org"]),
        (5, "--data", &["--data", &file]),
        (5, "--data", &["--data", &theirs]),
    ] {
        let run = finish(keyfob(&[&["serve", "--addr", "127.0.0.1:0"], arguments].concat()), "");
        assert_eq!((run.code, &*run.stdout), (code, ""), "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(option), "{arguments:?}: {run:?}");
        assert!(!run.stderr.contains("short"), "{run:?}");
    }
}

#[test]
fn serve_prints_address_without_json() {
    let dir = Dir::new("serve-words");
    let mut served = Running::start(keyfob(&["serve", "--addr", "127.0.0.1:0"]));
    let line = served.stdout.next();
    let url = line.strip_prefix("keyfob: serving app keyfob-local at ").unwrap();
    let at = Place { app_id: "keyfob-local".to_owned(), ..Place::new(url, dir.0.clone()) };
    at.json(&["login", "--anonymous"]);
}

#[test]
fn serve_disables_providers_and_registration() {
    let backend = Backend::start(&["--disable", "anon-user", "--disable", "api-key"]);
    let at = backend.place("disabled-store");
    let error = at.refused(1, &["login", "--anonymous"]);
    assert_error(&error, "server", json!(404), json!("AuthProviderNotFound"));
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let error = at.refused(1, &["api-keys", "create", "ci"]);
    assert_error(&error, "server", json!(404), json!("AuthProviderNotFound"));
    assert_eq!(at.json(&["api-keys", "list"]), json!([]));

    let backend = Backend::start(&["--no-registration"]);
    let at = backend.place("closed-store");
    let error = at.refused_with(1, PASSWORD, &["register", "--email", EMAIL]);
    assert_error(&error, "server", json!(403), json!(null));
    at.json(&["login", "--anonymous"]);

    let backend = Backend::start(&["--disable", "local-userpass"]);
    let at = backend.place("no-password-store");
    let error = at.refused_with(1, PASSWORD, &["register", "--email", EMAIL]);
    assert_error(&error, "server", json!(404), json!("AuthProviderNotFound"));
}

#[test]
fn serve_limits_mails_per_account() {
    let backend = Backend::start(&[]);
    let at = backend.place("mails-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    for _ in 0..10 {
        at.json(&["reset-password", "--email", EMAIL]);
    }
    let error = at.refused(1, &["reset-password", "--email", EMAIL]);
    assert_error(&error, "server", json!(429), json!(null));
    assert!(error["message"].as_str().unwrap().contains("try again in"), "{error}");
}

/// A proxy that forwards two clients: each has limits of its own, and only the proxy is believed.
#[test]
fn serve_counts_clients_behind_trusted_proxy() {
    let anonymous = |backend: &Backend, forwarded: &str| {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let path = "/api/client/v2.0/app/test-app/auth/providers/api-key/login";
        let request =
            agent.post(format!("{}{path}", backend.base_url)).header("X-Forwarded-For", forwarded);
        request.send(r#"{"key":"none"}"#).unwrap().status().as_u16()
    };
    let trusting = Backend::start(&["--trusted-proxy", "127.0.0.1"]);
    for _ in 0..100 {
        assert_eq!(anonymous(&trusting, "203.0.113.1"), 401);
    }
    assert_eq!(anonymous(&trusting, "203.0.113.1"), 429);
    assert_eq!(anonymous(&trusting, "203.0.113.2, 203.0.113.1"), 429);
    assert_eq!(anonymous(&trusting, "203.0.113.1, 203.0.113.2"), 401);

    let plain = Backend::start(&[]);
    for n in 0..100 {
        assert_eq!(anonymous(&plain, &format!("203.0.113.{n}")), 401);
    }
    assert_eq!(anonymous(&plain, "203.0.113.200"), 429);
}

/// A server in the test's process, with a reset function that leaves the old password in place.
#[test]
fn messages_reflect_backend_response() {
    let server = Server::builder()
        .app_id(APP_ID)
        .confirmation(Confirmation::function(|call| match call.username.as_str() {
            EMAIL => Verdict::Success,
            _ => Verdict::Pending,
        }))
        .reset(Reset::function(|call| match call.arguments.first() {
            Some(_) => Verdict::Success,
            None => Verdict::Pending,
        }))
        .start()
        .unwrap();
    let dir = Dir::new("messages");
    let at = Place::new(server.base_url(), dir.0.clone());
    let words = |arguments: &[&str]| {
        let run = at.run_with(PASSWORD, arguments);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
        run.stdout
    };
    let bob = "bob@example.org";
    assert_eq!(words(&["register", "--email", EMAIL]), format!("registered {EMAIL}\n"));
    assert!(words(&["register", "--email", bob]).contains("is pending"));
    assert!(words(&["retry-confirmation", "--email", bob]).contains("may still be pending"));
    let pending = words(&["call-reset", "--email", EMAIL]);
    assert!(pending.contains("pending") && !pending.contains("was reset"), "{pending}");
    let done = words(&["call-reset", "--email", EMAIL, "1"]);
    assert_eq!(done, format!("the password of {EMAIL} was reset\n"));
    let json = |arguments: &[&str]| at.json_with(PASSWORD, arguments);
    assert_eq!(json(&["call-reset", "--email", EMAIL]), json!({"status": "pending"}));
    assert_eq!(json(&["call-reset", "--email", EMAIL, "1"]), json!({"status": "done"}));
    let eve = json(&["register", "--email", "eve@example.org"]);
    assert_eq!(eve, json!({"status": "pending"}));

    let server = Server::builder().app_id(APP_ID).confirmation(Confirmation::Email);
    let server = server.start().unwrap();
    let at = Place::new(server.base_url(), dir.0.clone());
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    for command in ["resend-confirmation", "reset-password"] {
        let run = at.run(&[command, "--email", EMAIL]);
        assert!(run.stdout.starts_with("the backend accepted the request for"), "{run:?}");
    }
}

/// Without a client id Google is off. With one, a token that is none is refused before its keys are
/// fetched.
#[test]
fn serve_accepts_google_for_client_ids() {
    let backend = Backend::start(&["--google-client-id", "web", "--google-client-id", "desktop"]);
    let at = backend.place("google-store");
    let error = at.refused_with(1, "no token", &["login", "--google-id-token"]);
    assert_error(&error, "server", json!(401), json!("AuthError"));
    let backend = Backend::start(&[]);
    let at = backend.place("no-google-store");
    let error = at.refused_with(1, "no token", &["login", "--google-id-token"]);
    assert_error(&error, "server", json!(404), json!("AuthProviderNotFound"));
}

/// Each client id belongs to the issuer before it. Nothing is fetched for a token that is none.
#[test]
fn serve_accepts_openid_providers() {
    let issuers =
        ["--oidc", "https://a.example", "--oidc-client-id", "x", "--oidc-client-id", "y", "--oidc"];
    let backend =
        Backend::start(&[&issuers[..], &["http://127.0.0.1:1", "--oidc-client-id", "z"]].concat());
    let at = backend.place("oidc-store");
    let error = at.refused_with(1, "no token", &["login", "--jwt"]);
    assert_error(&error, "server", json!(401), json!("AuthError"));
    for (arguments, expected) in [
        (&["--oidc-client-id", "x", "--oidc", "https://a.example"][..], "after the --oidc"),
        (&["--oidc", "https://a.example"], "--oidc-client-id after it"),
        (
            &[
                "--oidc",
                "https://a.example",
                "--oidc",
                "https://b.example",
                "--oidc-client-id",
                "x",
            ],
            "--oidc-client-id after it",
        ),
        (&["--oidc", "http://a.example", "--oidc-client-id", "x"], "--oidc cannot be used: "),
        (&["--oidc", "https://a.example?x", "--oidc-client-id", "x"], "--oidc cannot be used: "),
        (&["--oidc", "https://a.example", "--oidc-client-id", ""], "--oidc cannot be used: "),
    ] {
        let run = finish(keyfob(&[&["serve", "--addr", "127.0.0.1:0"], arguments].concat()), "");
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(expected), "{run:?}");
    }
}

/// From the command's URL through the page of the test provider to a user, without a browser.
#[test]
fn test_provider_of_serve_signs_in() {
    let warning = "WARNING: anyone who can reach this backend can sign in as anyone";
    let serve = ["--json", "serve", "--addr", "127.0.0.1:0", "--test-idp"];
    let mut served = Running::start(keyfob(&serve));
    let ready: Value = serde_json::from_str(&served.stdout.next()).unwrap();
    let (base_url, app_id) =
        (ready["base_url"].as_str().unwrap(), ready["app_id"].as_str().unwrap());
    let issuer = ready["test_issuer"].as_str().unwrap();
    assert!(issuer.starts_with(base_url), "{ready}");
    assert!(served.stderr.next().contains(warning));

    let dir = Dir::new("test-idp");
    let mut login = keyfob(&["--json", "--app-id", app_id, "--base-url", base_url]);
    login.arg("--store").arg(&dir.0);
    login.args(["login", "--no-browser", "--browser", issuer, "--client-id", "notes"]);
    login.stdin(Stdio::null());
    let mut login = Running::start(login);
    let shown: Value = serde_json::from_str(&login.stderr.next()).unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let page = agent.post(shown["url"].as_str().unwrap()).send_form([("name", "Ada")]);
    let page = page.unwrap().body_mut().read_to_string().unwrap();
    assert!(page.contains("You are signed in"), "{page}");
    let user: Value = serde_json::from_str(&login.stdout.next()).unwrap();
    assert_eq!(user["provider"], "custom-token");

    let refused = finish(
        keyfob(&["serve", "--addr", "127.0.0.1:0", "--test-idp", "--public-url", "https://h"]),
        "",
    );
    assert_eq!(refused.code, 2, "{refused:?}");
}
