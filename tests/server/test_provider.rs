//! The test identity provider, as programs use it, and as pages of strangers attack it.

use std::io::ErrorKind;
use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyfob::server::{Google, Oidc, Server, ServerBuilder};
use serde_json::{Value, json};
use ureq::Agent;

use crate::client::{Client, LogIn, ManualClock};

const VERIFIER: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
const CALLBACK: &str = "http://127.0.0.1:9/callback";

/// A response, read to its end.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    text: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(other, _)| other == name);
        header.map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Returns a parameter of the URL that a browser is sent to.
    fn sent_back(&self, name: &str) -> String {
        assert_eq!(self.status, 303, "{self:?}");
        let location = self.header("location").unwrap_or_default();
        let (uri, query) = location.split_once('?').unwrap();
        assert_eq!(uri, CALLBACK);
        let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        value.unwrap_or_default().to_owned()
    }
}

/// A browser without a person: it sends what the test passes to it.
struct Browser {
    agent: Agent,
    issuer: String,
}

impl Browser {
    fn new(server: &Server) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .allow_non_standard_methods(true)
            .proxy(None);
        let issuer = server.test_issuer().unwrap().to_owned();
        Self { agent: config.build().into(), issuer }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.issuer));
        if !body.is_empty() {
            request = request.header("Content-Type", "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let header = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        Reply {
            status: response.status().as_u16(),
            headers: response.headers().iter().map(header).collect(),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }

    fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "")
    }

    /// Signs somebody in, and returns the code.
    fn code(&self, change: &[(&str, &str)], name: &str) -> String {
        self.send("POST", &request(change), &[], &form(&[("name", name)])).sent_back("code")
    }

    fn redeem(&self, change: &[(&str, &str)], code: &str) -> Reply {
        let usual = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
            ("client_id", "notes"),
        ];
        self.send("POST", "/token", &[], &form(&changed(&usual, change)))
    }

    fn id_token(&self, name: &str, client_id: &str) -> String {
        let client = [("client_id", client_id)];
        let tokens = self.redeem(&client, &self.code(&client, name)).json();
        tokens["id_token"].as_str().unwrap().to_owned()
    }
}

/// Replaces parameters; an empty value leaves one out.
fn changed<'a>(
    usual: &[(&'a str, &'a str)],
    change: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let kept = usual.iter().filter(|(name, _)| !change.iter().any(|(other, _)| other == name));
    kept.chain(change).copied().filter(|(_, value)| !value.is_empty()).collect()
}

fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// An authorization request: path and query.
fn request(change: &[(&str, &str)]) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
    let usual = [
        ("response_type", "code"),
        ("client_id", "notes"),
        ("redirect_uri", CALLBACK),
        ("scope", "openid email profile"),
        ("state", "st&te"),
        ("nonce", "n0nce"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    format!("/authorize?{}", form(&changed(&usual, change)))
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Browser, ManualClock) {
    let clock = ManualClock::new();
    let builder = Server::builder().clock(clock.clone()).test_identity_provider();
    let server = set(builder).start().unwrap();
    let browser = Browser::new(&server);
    (server, browser, clock)
}

#[test]
fn provider_is_off_by_default() {
    let server = Server::builder().start().unwrap();
    assert_eq!(server.test_issuer(), None);
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    for path in ["/test-idp", "/test-idp/authorize", "/test-idp/jwks"] {
        let response = agent.get(format!("{}{path}", server.base_url())).call().unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
    let google = Client::new(&server).try_log_in("oauth2-google", r#"{"id_token":"x"}"#);
    assert_eq!(google.status, 404);
}

#[test]
fn provider_starts_on_this_machine_only() {
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    for builder in [
        Server::builder().addr(any).allow_public(),
        Server::builder().addr("[::]:0".parse().unwrap()).allow_public(),
        Server::builder().public_url("https://auth.example.org"),
    ] {
        let error = builder.test_identity_provider().start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("sign in as anyone"), "{error}");
    }
}

#[test]
fn discovery_names_endpoints_that_exist() {
    let (server, browser, _) = start(|builder| builder);
    let document = browser.get("/.well-known/openid-configuration");
    assert_eq!(document.header("content-type"), Some("application/json"));
    let document = document.json();
    let issuer = server.test_issuer().unwrap();
    assert_eq!(document["issuer"], issuer);
    assert_eq!(issuer, format!("{}/test-idp", server.base_url()));
    for (name, status) in [
        ("authorization_endpoint", 400),
        ("token_endpoint", 405),
        ("device_authorization_endpoint", 405),
        ("userinfo_endpoint", 401),
        ("jwks_uri", 200),
    ] {
        let path = document[name].as_str().unwrap().strip_prefix(issuer).unwrap();
        assert_eq!(browser.get(path).status, status, "{name}");
    }
    assert_eq!(browser.get("/other").status, 404);
    assert_eq!(browser.get("").status, 404);
}

#[test]
fn typed_name_becomes_user() {
    let (server, browser, _) = start(|builder| builder.google(Google::new("notes")));
    let client = Client::new(&server);
    let page = browser.get(&request(&[("login_hint", "Eve \"E\"")]));
    assert_eq!(page.status, 200);
    assert!(page.text.contains("<b>notes</b>"), "{}", page.text);
    assert!(page.text.contains("Eve &quot;E&quot;"), "{}", page.text);
    assert!(page.text.contains("Continue as Ada Lovelace"), "{}", page.text);

    let reply = browser.send("POST", &request(&[]), &[], "name=Bob+Example");
    assert_eq!(reply.sent_back("state"), "st%26te");
    assert_eq!(reply.sent_back("iss"), form(&[("", &browser.issuer)])[1..]);
    let reply = browser.redeem(&[], &reply.sent_back("code"));
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    let tokens = reply.json();
    let id = claims(tokens["id_token"].as_str().unwrap());
    assert_eq!(
        (&id["iss"], &id["aud"], &id["nonce"]),
        (&json!(browser.issuer), &json!("notes"), &json!("n0nce"))
    );
    assert_eq!(
        (&id["email"], &id["name"]),
        (&json!("bob.example@example.org"), &json!("Bob Example"))
    );

    let log_in = |token: &Value| client.log_in("oauth2-google", &json!({"id_token": token}));
    let bob = log_in(&tokens["id_token"]);
    let again = log_in(&json!(browser.id_token("bob.example@example.org", "notes")));
    assert_eq!(again.user_id, bob.user_id);
    assert_ne!(log_in(&json!(browser.id_token("Ada", "notes"))).user_id, bob.user_id);
    let profile = client.profile(&bob.access).json();
    assert_eq!(profile["data"]["email"], "bob.example@example.org");
    assert!(profile["identities"][0]["id"].as_str().unwrap().starts_with("test-"));

    // Names that were used are offered.
    let page = browser.get(&request(&[])).text;
    assert!(page.contains("Continue as Bob Example"), "{page}");
    let access = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let info = browser.send("GET", "/userinfo", &[("Authorization", &access)], "").json();
    assert_eq!((&info["sub"], &info["email"]), (&id["sub"], &id["email"]));
    // An access token is no ID token, nor the other way round.
    let body = json!({"id_token": tokens["access_token"]}).to_string();
    client.try_log_in("oauth2-google", &body).assert_error(401, "AuthError", "unauthorized");
    let id_token = format!("Bearer {}", tokens["id_token"].as_str().unwrap());
    assert_eq!(browser.send("GET", "/userinfo", &[("Authorization", &id_token)], "").status, 401);
}

#[test]
fn tokens_are_issued_for_server_clients() {
    let log_in = |set: fn(ServerBuilder) -> ServerBuilder, provider: &str, field: &str| {
        let (server, browser, _) = start(set);
        let status = |client_id: &str| {
            let body = json!({field: browser.id_token("Ada", client_id)}).to_string();
            Client::new(&server).try_log_in(provider, &body).status
        };
        (status("notes"), status("other"))
    };
    let (google, custom) = (("oauth2-google", "id_token"), ("custom-token", "token"));
    let oidc = |builder: ServerBuilder| builder.oidc(Oidc::new("https://id.example.org", "notes"));
    assert_eq!(log_in(|builder| builder, google.0, google.1), (200, 200));
    assert_eq!(log_in(|b| b.google(Google::new("notes")), google.0, google.1), (200, 401));
    assert_eq!(log_in(|builder| builder, custom.0, custom.1), (200, 200));
    assert_eq!(log_in(oidc, custom.0, custom.1), (200, 401));
}

#[test]
fn tokens_expire_and_end_with_server() {
    let (server, browser, clock) = start(|builder| builder);
    let token = browser.id_token("Ada", "notes");
    let (other, _, _) = start(|builder| builder);
    let body = json!({"id_token": token}).to_string();
    let status = |server: &Server| Client::new(server).try_log_in("oauth2-google", &body).status;
    assert_eq!((status(&server), status(&other)), (200, 401));
    clock.advance(3600);
    assert_eq!(status(&server), 401);
    let code = browser.code(&[], "Ada");
    clock.advance(60);
    assert_eq!(browser.redeem(&[], &code).json()["error"], "invalid_grant");
}

#[test]
fn code_is_redeemed_once_by_its_client() {
    let (_server, browser, _) = start(|builder| builder);
    for change in [
        [("code_verifier", "x123456789abcdefghijklmnopqrstuvwxyzABCDEFG")],
        [("code_verifier", "")],
        [("code_verifier", "short")],
        [("client_id", "other")],
        [("redirect_uri", "http://127.0.0.1:10/callback")],
        [("redirect_uri", "")],
    ] {
        let code = browser.code(&[], "Ada");
        let reply = browser.redeem(&change, &code);
        assert_eq!(
            (reply.status, &reply.json()["error"]),
            (400, &json!("invalid_grant")),
            "{change:?}"
        );
        assert_eq!(browser.redeem(&[], &code).status, 400, "it is used up");
    }
    let code = browser.code(&[], "Ada");
    assert_eq!(browser.redeem(&[], &code).status, 200);
    assert_eq!(browser.redeem(&[], &code).json()["error"], "invalid_grant");
    assert_eq!(browser.redeem(&[("client_id", "")], "x").json()["error"], "invalid_client");
    assert_eq!(
        browser.redeem(&[("grant_type", "password")], "x").json()["error"],
        "unsupported_grant_type"
    );

    // A client with a secret, in either way.
    let code = browser.code(&[], "Ada");
    assert_eq!(browser.redeem(&[("client_secret", "s")], &code).status, 200);
    let code = browser.code(&[("client_id", "a b:c")], "Ada");
    let basic = format!("Basic {}", STANDARD.encode("a%20b%3Ac:s"));
    let body = form(&[
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ]);
    assert_eq!(browser.send("POST", "/token", &[("Authorization", &basic)], &body).status, 200);
    let json = [("Content-Type", "application/json")];
    assert_eq!(browser.send("POST", "/token", &json, "").json()["error"], "invalid_request");
}

#[test]
fn errors_are_returned_to_client() {
    let (_server, browser, _) = start(|builder| builder);
    for (change, code) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("response_mode", "fragment"), "invalid_request"),
        (("scope", "email"), "invalid_scope"),
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge", "short"), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("prompt", "none"), "login_required"),
        (("request", "eyJ"), "request_not_supported"),
        (("request_uri", "http://169.254.169.254/"), "request_uri_not_supported"),
    ] {
        let reply = browser.get(&request(&[change]));
        assert_eq!(reply.sent_back("error"), code, "{change:?}");
        assert_eq!(reply.sent_back("state"), "st%26te");
        let reply = browser.send("POST", &request(&[change]), &[], "name=Ada");
        assert_eq!(reply.sent_back("error"), code, "{change:?}");
    }
    let refused = browser.send("POST", &request(&[]), &[], "refuse=yes&name=");
    assert_eq!(refused.sent_back("error"), "access_denied");
    for body in [
        "name=",
        "name=a%00b",
        "name=%FF",
        "name=a&name=b",
        "x=y",
        &form(&[("name", &"x".repeat(101))]),
    ] {
        assert_eq!(browser.send("POST", &request(&[]), &[], body).status, 400, "{body}");
    }
    let post = [("response_mode", "form_post")];
    let page = browser.send("POST", &request(&post), &[], "name=Ada");
    assert_eq!(page.status, 200);
    assert!(page.text.contains(&format!("action=\"{CALLBACK}\"")), "{}", page.text);
    assert!(page.text.contains("name=\"state\" value=\"st&amp;te\""), "{}", page.text);
    assert!(page.text.contains("name=\"code\""), "{}", page.text);
    assert!(page.text.contains("<script>"), "{}", page.text);

    // Before a person has acted, no form is sent: the page of a stranger may have opened this URL.
    let wrong = request(&[post[0], ("scope", "email")]);
    let page = browser.get(&wrong);
    assert!(page.text.contains("value=\"invalid_scope\""), "{}", page.text);
    assert!(!page.text.contains("<script"), "{}", page.text);
    assert!(page.header("content-security-policy").unwrap().contains("script-src 'none'"));
    assert!(browser.send("POST", &wrong, &[], "name=Ada").text.contains("<script>"));
}

#[test]
fn redirects_to_other_addresses_are_rejected() {
    let (_server, browser, _) = start(|builder| builder);
    for uri in [
        "https://evil.example/callback",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://evil.example\\@127.0.0.1/",
        "//evil.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "com.example.app:/callback",
        "http://127.0.0.1/#x",
        "http://127.0.0.1/\r\nSet-Cookie: a=b",
        "http://127.0.0.1/\"><script>alert(1)</script>",
        "",
    ] {
        let change = [("redirect_uri", uri)];
        for reply in [
            browser.get(&request(&change)),
            browser.get(&request(&[change[0], ("response_type", "x")])),
            browser.send("POST", &request(&change), &[], "name=Ada"),
            browser.send("POST", &request(&change), &[], "refuse=yes"),
        ] {
            assert_eq!((reply.status, reply.header("location")), (400, None), "{uri}");
            assert!(!reply.text.contains("evil") && !reply.text.contains("<script"), "{reply:?}");
        }
    }
    let twice = format!("{}&redirect_uri=https%3A%2F%2Fevil.example", request(&[]));
    assert_eq!(browser.get(&twice).status, 400);
}

#[test]
fn other_pages_obtain_nothing() {
    let (server, browser, _) = start(|builder| builder);
    let own = server.base_url();
    let evil = "https://evil.example";
    let other_port = "http://127.0.0.1:1";
    let posted =
        |headers: &[(&str, &str)]| browser.send("POST", &request(&[]), headers, "name=Ada");
    assert_eq!(posted(&[("Origin", own), ("Sec-Fetch-Site", "same-origin")]).status, 303);
    for headers in [
        &[("Origin", evil)][..],
        &[("Origin", "null")],
        &[("Origin", other_port)],
        &[("Origin", &own.replace("http:", "https:"))],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Origin", own), ("Sec-Fetch-Site", "cross-site")],
    ] {
        let reply = posted(headers);
        assert!(matches!(reply.status, 400 | 403), "{headers:?}: {reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), None);
        let device = browser.send("POST", "/device", headers, "name=Ada&user_code=x");
        assert!(matches!(device.status, 400 | 403), "{headers:?}: {device:?}");
    }
    // No page may read the page with the form, or be it.
    let page = browser.send("GET", &request(&[]), &[("Sec-Fetch-Site", "cross-site")], "");
    assert_eq!(page.header("access-control-allow-origin"), None);
    assert_eq!(page.header("cross-origin-resource-policy"), Some("same-origin"));
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"));
    // A page in development on this machine may talk to what programs talk to.
    for path in ["/.well-known/openid-configuration", "/jwks"] {
        let allowed = |origin| {
            let reply = browser.send("GET", path, &[("Origin", origin)], "");
            (reply.status, reply.header("access-control-allow-origin").map(str::to_owned))
        };
        assert_eq!(allowed(other_port), (200, Some(other_port.to_owned())), "{path}");
        assert_eq!(allowed(evil), (403, None), "{path}");
        assert_eq!(allowed("null"), (403, None), "{path}");
    }
    let preflight = [("Origin", evil), ("Access-Control-Request-Method", "POST")];
    assert_eq!(browser.send("OPTIONS", "/token", &preflight, "").status, 403);
}

#[test]
fn other_hosts_and_proxies_are_refused() {
    let (server, browser, _) = start(|builder| builder);
    let port = server.local_addr().port();
    for path in [&request(&[]), "/jwks", "/.well-known/openid-configuration", "/device"] {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let host = format!("{host}:{port}");
            assert_eq!(browser.send("GET", path, &[("Host", &host)], "").status, 200, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "0.0.0.0"]
        {
            for host in [host.to_owned(), format!("{host}:{port}")] {
                assert_eq!(browser.send("GET", path, &[("Host", &host)], "").status, 421, "{host}");
            }
        }
        for field in ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"] {
            let reply = browser.send("GET", path, &[(field, "127.0.0.1")], "");
            assert_eq!(reply.status, 421, "{field}");
        }
    }
}

#[test]
fn device_signs_in_by_its_code() {
    let (server, browser, clock) = start(|builder| builder);
    let begin = || {
        let fields = form(&[("client_id", "tv"), ("scope", "openid email")]);
        let begun = browser.send("POST", "/device_authorization", &[], &fields).json();
        let text = |name: &str| begun[name].as_str().unwrap().to_owned();
        (text("device_code"), text("user_code"))
    };
    let poll = |code: &str, client: &str| {
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        let fields = form(&[("grant_type", grant), ("device_code", code), ("client_id", client)]);
        browser.send("POST", "/token", &[], &fields).json()
    };
    let answer = |code: &str, choice: (&str, &str)| {
        browser.send("POST", "/device", &[], &form(&[("user_code", code), choice])).status
    };
    let (device, user) = begin();
    let page = browser.get(&format!("/device?user_code={user}"));
    assert!(page.text.contains(&format!("value=\"{user}\"")), "{}", page.text);
    assert_eq!(poll(&device, "tv")["error"], "authorization_pending");
    assert_eq!(poll(&device, "other")["error"], "expired_token");
    assert_eq!(answer("AAAA-AAAA", ("name", "Ada")), 400);
    assert_eq!(answer(&user.to_lowercase().replace('-', " "), ("name", "Ada")), 200);
    assert_eq!(answer(&user, ("name", "Eve")), 400, "it is taken");
    let tokens = poll(&device, "tv");
    assert_eq!(claims(tokens["id_token"].as_str().unwrap())["email"], "ada@example.org");
    assert_eq!(poll(&device, "tv")["error"], "expired_token");
    let body = json!({"id_token": tokens["id_token"]}).to_string();
    LogIn::read(&Client::new(&server).try_log_in("oauth2-google", &body));

    let (device, user) = begin();
    assert_eq!(answer(&user, ("refuse", "yes")), 200);
    assert_eq!(poll(&device, "tv")["error"], "access_denied");
    let (device, user) = begin();
    clock.advance(600);
    assert_eq!(answer(&user, ("name", "Ada")), 400);
    assert_eq!(poll(&device, "tv")["error"], "expired_token");
}

#[test]
fn unredeemed_sign_ins_are_bounded() {
    let (_server, browser, _) = start(|builder| builder);
    let (first, second) = (browser.code(&[], "first"), browser.code(&[], "second"));
    for number in 0..255 {
        browser.code(&[], &format!("guest {number}"));
    }
    assert_eq!(browser.redeem(&[], &first).status, 400, "the oldest had to go");
    assert_eq!(browser.redeem(&[], &second).status, 200);
    let page = browser.get(&request(&[])).text;
    assert!(page.matches("Continue as").count() <= 5, "{page}");
    let long = "x".repeat(3000);
    for name in ["client_id", "redirect_uri"] {
        assert_eq!(browser.get(&request(&[(name, &long)])).status, 400, "{name}");
    }
    for name in ["nonce", "scope"] {
        assert_eq!(browser.get(&request(&[(name, &long)])).status, 303, "{name}");
    }
}

#[test]
fn journal_has_no_codes() {
    let (server, browser, _) = start(|builder| builder);
    let code = browser.code(&[], "Ada");
    browser.redeem(&[], &code);
    let journal = format!("{:?}", server.journal());
    assert!(journal.contains("/test-idp/token"), "{journal}");
    assert!(!journal.contains(&code) && !journal.contains("n0nce"), "{journal}");
}
