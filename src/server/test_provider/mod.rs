//! A test identity provider: an OpenID Connect provider that signs in everybody under the name they
//! pick, for developing and testing a sign-in without the real provider.
//!
//! It is off by default, and on this machine only. What it promises even so, since a developer's
//! browser has pages of strangers open:
//!
//! - No page of another origin can read a response, submit the form or frame the page. Requests
//!   whose `Host` is not this machine are refused (DNS rebinding), and so are requests that came
//!   through a proxy.
//! - Codes and tokens go to redirect URLs on this machine only.
//! - It asks no other server, whatever a request names. What it remembers is bounded.
//!
//! `authorize` has the sign-in, `grants` what it came to, `token` the tokens, `device` the sign-in
//! on another device, `page` what people see, `key` what tokens are signed with.
//!
//! Source: OpenID Connect Core and Discovery 1.0, RFC 7636, RFC 8628, RFC 9207, RFC 9700.

mod authorize;
mod device;
mod grants;
mod key;
mod page;
mod person;
mod token;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use self::grants::Grants;
pub(super) use self::key::SigningKey;
use super::http::{Request, Response};
use super::providers::Time;
use crate::base_url::{is_loopback, origin};
use crate::form::Parameters;

/// Where the provider is, below the server's address.
pub(super) const PATH: &str = "/test-idp";

/// How long an ID token and an access token last, in seconds.
const TOKEN_LIFETIME: i64 = 3600;

/// A test identity provider.
pub(super) struct TestProvider {
    /// `http://127.0.0.1:PORT/test-idp`
    issuer: String,
    key: Arc<SigningKey>,
    grants: Mutex<Grants>,
}

/// An error of OAuth: its code, and what the developer should know.
struct OAuthError(&'static str, &'static str);

impl TestProvider {
    /// `base` is the URL of the server, on this machine.
    pub(super) fn new(base: &str) -> Self {
        Self { issuer: format!("{base}{PATH}"), key: Arc::default(), grants: Mutex::default() }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn key(&self) -> &Arc<SigningKey> {
        &self.key
    }

    /// Answers a request to a path below [`PATH`]. The answer has the fields that concern its body;
    /// none lets other origins read it, except pages of this machine.
    pub(super) fn respond(&self, request: &Request, path: &str, time: Time) -> Response {
        if !is_direct(request) {
            return text(421, "the test identity provider is for this machine only");
        }
        let page_origin = request.header("origin");
        if page_origin.is_some_and(|page| !is_local_origin(page)) {
            return text(403, "pages of other origins cannot use the test identity provider");
        }
        if request.method == "OPTIONS" {
            return with_origin(Response::new(204, preflight(), vec![]), page_origin);
        }
        let method = if request.method == "HEAD" { "GET" } else { &request.method };
        match (path, method) {
            ("/authorize", "GET") => self.authorize(request),
            ("/authorize", "POST") => self.sign_in(request, time),
            ("/device", "GET") => self.device_page(request),
            ("/device", "POST") => self.device_sign_in(request, time),
            ("/authorize" | "/device", _) => not_allowed("GET, HEAD, OPTIONS, POST"),
            // Pages of programs in development may read these.
            _ => with_origin(self.respond_to_program(request, path, method, time), page_origin),
        }
    }

    fn respond_to_program(
        &self,
        request: &Request,
        path: &str,
        method: &str,
        time: Time,
    ) -> Response {
        match (path, method) {
            ("/.well-known/openid-configuration", "GET") => json_response(200, &self.document()),
            ("/jwks", "GET") => match self.key.jwks() {
                Some(keys) => json_response(200, &keys),
                None => oauth_error(500, &NO_KEY),
            },
            ("/token", "POST") => self.token(request, time),
            ("/device_authorization", "POST") => self.device_authorization(request, time),
            ("/userinfo", "GET" | "POST") => self.user_info(request, time),
            ("/.well-known/openid-configuration" | "/jwks", _) => not_allowed("GET, HEAD, OPTIONS"),
            ("/token" | "/device_authorization", _) => not_allowed("OPTIONS, POST"),
            ("/userinfo", _) => not_allowed("GET, HEAD, OPTIONS, POST"),
            _ => text(404, "the test identity provider has no such page"),
        }
    }

    fn document(&self) -> Value {
        let issuer = &self.issuer;
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "device_authorization_endpoint": format!("{issuer}/device_authorization"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "form_post"],
            "grant_types_supported": ["authorization_code", token::DEVICE_GRANT],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile"],
            "claims_supported": person::CLAIMS,
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported":
                ["none", "client_secret_post", "client_secret_basic"],
            "authorization_response_iss_parameter_supported": true,
            "request_parameter_supported": false,
            "request_uri_parameter_supported": false,
        })
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NO_KEY: OAuthError = OAuthError("server_error", "no signing key could be made");

/// Tells whether a request came from this machine, to this machine's name, and through no proxy.
fn is_direct(request: &Request) -> bool {
    const PROXIED: [&str; 5] =
        ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
    let is_ours = |host: &str| is_local_origin(&format!("http://{host}"));
    request.peer.to_canonical().is_loopback()
        && request.header("host").is_some_and(is_ours)
        && PROXIED.iter().all(|name| request.header(name).is_none())
}

/// Tells whether a text is scheme, host and perhaps port of something on this machine, and nothing
/// else.
fn is_local_origin(text: &str) -> bool {
    let rest = text.split_once("://").map(|(_, rest)| rest);
    let has_path = rest.is_none_or(|rest| rest.contains(['/', '?', '#']));
    !has_path && is_local_url(text)
}

/// Tells whether a URL is http or https and on this machine.
fn is_local_url(url: &str) -> bool {
    let Some(origin) = origin(url) else { return false };
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    is_loopback(host)
}

/// Parses a form that a program or a page has sent.
fn body_form(request: &Request) -> Result<Parameters, OAuthError> {
    let media_type = request.header("content-type").unwrap_or_default().split(';').next();
    if !media_type
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    {
        return Err(OAuthError("invalid_request", "the body must be a form"));
    }
    let text = std::str::from_utf8(&request.body)
        .map_err(|_| OAuthError("invalid_request", "the body is not UTF-8"))?;
    Parameters::parse(text).map_err(|reason| OAuthError("invalid_request", reason))
}

fn query(request: &Request) -> Result<Parameters, OAuthError> {
    Parameters::parse(request.query.as_deref().unwrap_or_default())
        .map_err(|reason| OAuthError("invalid_request", reason))
}

fn oauth_error(status: u16, error: &OAuthError) -> Response {
    let OAuthError(code, description) = error;
    json_response(status, &json!({"error": code, "error_description": description}))
}

fn json_response(status: u16, body: &Value) -> Response {
    let headers = vec![("Content-Type", "application/json".to_owned())];
    plain_response(status, headers, body.to_string())
}

fn text(status: u16, reason: &str) -> Response {
    let headers = vec![
        ("Content-Type", "text/plain; charset=utf-8".to_owned()),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'".to_owned()),
    ];
    plain_response(status, headers, format!("{reason}\n"))
}

fn not_allowed(allow: &str) -> Response {
    let mut response = text(405, "this method is not allowed here");
    response.headers.push(("Allow", allow.to_owned()));
    response
}

fn plain_response(status: u16, mut headers: Vec<(&'static str, String)>, body: String) -> Response {
    headers.push(("Cache-Control", "no-store".to_owned()));
    headers.push(("X-Content-Type-Options", "nosniff".to_owned()));
    headers.push(("Cross-Origin-Resource-Policy", "same-origin".to_owned()));
    Response::new(status, headers, body.into_bytes())
}

/// Lets a page of this machine read a response.
fn with_origin(mut response: Response, page: Option<&str>) -> Response {
    response.headers.push(("Vary", "Origin".to_owned()));
    if let Some(page) = page {
        response.headers.retain(|(name, _)| *name != "Cross-Origin-Resource-Policy");
        response.headers.push(("Access-Control-Allow-Origin", page.to_owned()));
    }
    response
}

fn preflight() -> Vec<(&'static str, String)> {
    vec![
        ("Access-Control-Allow-Headers", "authorization, content-type".to_owned()),
        ("Access-Control-Allow-Methods", "GET, POST".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for good in
            ["http://127.0.0.1", "http://localhost:80", "https://[::1]:1", "http://127.8.8.8:1"]
        {
            assert!(is_local_origin(good) && is_local_url(&format!("{good}/a?b#c")), "{good}");
        }
        for bad in [
            "",
            "null",
            "localhost",
            "ftp://localhost",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://evil.example",
            "http://localhost@evil.example",
            "http://evil.example#@localhost",
            "http://evil.example\\@localhost",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://[::]",
            "http://127.0.0.1:1:2",
            "http://local host",
        ] {
            assert!(!is_local_origin(bad) && !is_local_url(bad), "{bad}");
        }
        assert!(!is_local_origin("http://localhost/"), "a path is no part of an origin");
    }
}
