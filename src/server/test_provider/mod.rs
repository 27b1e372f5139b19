//! A test identity provider: an OpenID Connect provider that signs in anyone under any name, for
//! developing and testing a sign-in without the real provider.
//!
//! It is off by default, and accepts only requests from this machine. A developer's browser may
//! have untrusted pages open, so it also guarantees:
//!
//! - No page of another origin can read a response, submit the form or frame the page. Requests
//!   whose `Host` is not this machine are refused (DNS rebinding), and so are requests from a
//!   proxy.
//! - Codes and tokens are sent only to redirect URLs on this machine.
//! - It sends no requests to other servers, regardless of the URLs in a request. Its state is
//!   bounded.
//!
//! `authorize` has the authorization endpoint, `grants` the pending codes, `token` the token
//! endpoint, `device` the device flow, `page` the HTML pages, and `key` the signing key.
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
use super::clock::Time;
use super::http::{Request, Response};
use crate::base_url::{is_loopback, origin};
use crate::form::Parameters;

/// The path of the provider on the server.
pub(super) const PATH: &str = "/test-idp";

/// The lifetime of ID tokens and access tokens, in seconds.
const TOKEN_LIFETIME: i64 = 3600;

/// A test identity provider.
pub(super) struct TestProvider {
    /// `http://127.0.0.1:PORT/test-idp`
    issuer: String,
    key: Arc<SigningKey>,
    grants: Mutex<Grants>,
}

/// An OAuth error: its code, and a description for the developer.
struct OAuthError(&'static str, &'static str);

impl TestProvider {
    /// Creates a provider. `base` is the URL of the server, on this machine.
    pub(super) fn new(base: &str) -> Self {
        Self { issuer: format!("{base}{PATH}"), key: Arc::default(), grants: Mutex::default() }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn key(&self) -> &Arc<SigningKey> {
        &self.key
    }

    /// Responds to a request to a path below [`PATH`]. The response has the headers that concern
    /// its body. They let no other origins read it, except pages of this machine.
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
            // Pages of programs in development may read these responses.
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

/// Returns `true` if a request came from this machine, with a `Host` of this machine, and without a
/// proxy.
fn is_direct(request: &Request) -> bool {
    const PROXIED: [&str; 5] =
        ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
    let is_ours = |host: &str| is_local_origin(&format!("http://{host}"));
    request.peer.to_canonical().is_loopback()
        && request.header("host").is_some_and(is_ours)
        && PROXIED.iter().all(|name| request.header(name).is_none())
}

/// Returns `true` if a text consists only of a scheme, a host of this machine and an optional port.
fn is_local_origin(text: &str) -> bool {
    let rest = text.split_once("://").map(|(_, rest)| rest);
    let has_path = rest.is_none_or(|rest| rest.contains(['/', '?', '#']));
    !has_path && is_local_url(text)
}

/// Returns `true` if a URL is http or https and on this machine.
fn is_local_url(url: &str) -> bool {
    let Some(origin) = origin(url) else { return false };
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    is_loopback(host)
}

/// Parses a form from a program or a page.
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

/// Allows a page of this machine to read a response.
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
