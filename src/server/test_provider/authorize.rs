//! The authorization endpoint: a page on which a person picks or types a name.
//!
//! It stores nothing before the form is submitted: the form is sent to the URL of the page, which
//! contains the whole request. `Origin` and `Sec-Fetch-Site` protect the form against submission by
//! other origins; every browser sends them with a form, and no page can change them.

use super::grants::CodeGrant;
use super::person::Person;
use super::{OAuthError, TestProvider, body_form, is_local_origin, is_local_url, page, query};
use crate::base_url::origin;
use crate::form::{self, Parameters};
use crate::server::clock::Time;
use crate::server::http::{Request, Response};
use crate::server::text::is_plain;

/// The maximum size of a parameter that is stored with the code, in bytes.
const MAX_PARAMETER: usize = 2048;

const SERVER_ERROR: OAuthError = OAuthError("server_error", "no code could be made");

/// An authorization request with a valid redirect URL.
struct Authorization {
    parameters: Parameters,
    client_id: String,
    redirect_uri: String,
}

/// The validated parameters that a code is issued for.
struct Wanted {
    scope: String,
    nonce: Option<String>,
    challenge: String,
}

impl TestProvider {
    /// `GET /authorize`: shows the page.
    pub(super) fn authorize(&self, request: &Request) -> Response {
        let authorization = match Authorization::parse(request) {
            Ok(authorization) => authorization,
            Err(error) => return page::failure(error.1),
        };
        if let Err(error) = authorization.wanted() {
            // No person has acted yet: an untrusted page must not make this origin send forms to
            // other programs on this machine.
            return self.refuse(&authorization, &error, false);
        }
        let names = self.grants().names();
        let hint = authorization.parameters.get("login_hint").unwrap_or_default();
        page::sign_in(&authorization.client_id, &authorization.redirect_uri, hint, &names)
    }

    /// `POST /authorize`: the person's choice.
    pub(super) fn sign_in(&self, request: &Request, time: Time) -> Response {
        if !is_same_origin(request) {
            return page::failure("the form was sent by another page");
        }
        let (authorization, form) = match (Authorization::parse(request), body_form(request)) {
            (Ok(authorization), Ok(form)) => (authorization, form),
            (Err(error), _) | (_, Err(error)) => return page::failure(error.1),
        };
        let wanted = match authorization.wanted() {
            Ok(wanted) => wanted,
            Err(error) => return self.refuse(&authorization, &error, true),
        };
        if form.get("refuse").is_some() {
            let error = OAuthError("access_denied", "the person refused");
            return self.refuse(&authorization, &error, true);
        }
        let Some(person) = form.get("name").and_then(Person::new) else {
            return page::failure(page::BAD_NAME);
        };
        let grant = CodeGrant {
            person,
            client_id: authorization.client_id.clone(),
            redirect_uri: authorization.redirect_uri.clone(),
            scope: wanted.scope,
            nonce: wanted.nonce,
            challenge: wanted.challenge,
        };
        match self.grants().add_code(grant, time.monotonic) {
            Ok(code) => self.redirect(&authorization, &[("code", &code)], true),
            Err(_) => self.refuse(&authorization, &SERVER_ERROR, true),
        }
    }

    fn refuse(
        &self,
        authorization: &Authorization,
        error: &OAuthError,
        has_acted: bool,
    ) -> Response {
        let fields = [("error", error.0), ("error_description", error.1)];
        self.redirect(authorization, &fields, has_acted)
    }

    /// Redirects the browser to the program. `has_acted` is `true` if a person has made a choice
    /// here.
    fn redirect(
        &self,
        authorization: &Authorization,
        fields: &[(&str, &str)],
        has_acted: bool,
    ) -> Response {
        let state = authorization.parameters.get("state").map(|state| ("state", state));
        let own = [("iss", self.issuer())];
        let fields: Vec<_> = fields.iter().copied().chain(state).chain(own).collect();
        let redirect_uri = &authorization.redirect_uri;
        if authorization.parameters.get("response_mode") == Some("form_post") {
            return page::form_post(redirect_uri, &fields, has_acted);
        }
        let separator = if redirect_uri.contains('?') { '&' } else { '?' };
        page::redirect(format!("{redirect_uri}{separator}{}", form::encode(fields)))
    }
}

impl Authorization {
    /// Parses the request of a program.
    ///
    /// # Errors
    /// Returns an error for the person if the browser must not be redirected.
    fn parse(request: &Request) -> Result<Self, OAuthError> {
        let invalid = |reason| OAuthError("invalid_request", reason);
        let parameters = query(request)?;
        let client_id = parameters.get("client_id").filter(|id| is_kept(id));
        let client_id = client_id.ok_or(invalid("client_id is missing or too long"))?.to_owned();
        let redirect_uri = parameters.get("redirect_uri").filter(|uri| is_kept(uri));
        let redirect_uri = redirect_uri.ok_or(invalid("redirect_uri is missing or too long"))?;
        if !is_redirect_uri(redirect_uri) {
            return Err(invalid(
                "redirect_uri must be on this machine: http or https to 127.0.0.1, [::1] or \
                 localhost",
            ));
        }
        let redirect_uri = redirect_uri.to_owned();
        Ok(Self { parameters, client_id, redirect_uri })
    }

    /// Validates the rest of the request.
    ///
    /// # Errors
    /// Returns an error for the program.
    fn wanted(&self) -> Result<Wanted, OAuthError> {
        let get = |name| self.parameters.get(name);
        let invalid = |reason| Err(OAuthError("invalid_request", reason));
        if get("request").is_some() {
            return Err(OAuthError("request_not_supported", "leave out `request`"));
        }
        if get("request_uri").is_some() {
            return Err(OAuthError("request_uri_not_supported", "leave out `request_uri`"));
        }
        if get("response_type") != Some("code") {
            let reason = "response_type must be `code`";
            return Err(OAuthError("unsupported_response_type", reason));
        }
        if !matches!(get("response_mode"), None | Some("query" | "form_post")) {
            return invalid("response_mode must be `query` or `form_post`");
        }
        let scope = get("scope").unwrap_or_default();
        if !is_kept(scope) || !has_openid(scope) {
            return Err(OAuthError("invalid_scope", "the scope must have `openid`"));
        }
        let nonce = get("nonce");
        if !nonce.is_none_or(is_kept) {
            return invalid("the nonce is too long");
        }
        let is_hash = |text: &&str| {
            let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            text.len() == 43 && text.bytes().all(is_digit)
        };
        let challenge = get("code_challenge").filter(is_hash);
        let (Some(challenge), Some("S256")) = (challenge, get("code_challenge_method")) else {
            return invalid("a code_challenge with the method S256 is required (PKCE)");
        };
        if get("prompt").is_some_and(|prompt| prompt.split(' ').any(|value| value == "none")) {
            return Err(OAuthError("login_required", "nobody is signed in here ahead of time"));
        }
        Ok(Wanted {
            scope: scope.to_owned(),
            nonce: nonce.map(str::to_owned),
            challenge: challenge.to_owned(),
        })
    }
}

/// Returns `true` if a form was sent by a page of this server, or by a program that is not a
/// browser.
pub(super) fn is_same_origin(request: &Request) -> bool {
    let own = request.header("host").and_then(|host| origin(&format!("http://{host}")));
    let is_own = |page: &str| is_local_origin(page) && origin(page) == own;
    request.header("origin").is_none_or(is_own)
        && request.header("sec-fetch-site").is_none_or(|site| site == "same-origin")
}

/// Returns `true` if a scope includes `openid`.
pub(super) fn has_openid(scope: &str) -> bool {
    scope.split(' ').any(|scope| scope == "openid")
}

/// Returns `true` if a parameter can be stored.
pub(super) fn is_kept(text: &str) -> bool {
    text.len() <= MAX_PARAMETER && is_plain(text)
}

/// Returns `true` if a browser may be redirected to this URL. Accepts only URLs that every browser
/// resolves to this machine.
fn is_redirect_uri(uri: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\\#\"<>^`{|}@".contains(&byte);
    uri.bytes().all(is_plain) && is_local_url(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_limited_to_loopback() {
        for good in [
            "http://127.0.0.1:4711/callback",
            "http://127.0.0.1:4711",
            "https://localhost/a/b?c=d",
            "http://[::1]:1/x",
        ] {
            assert!(is_redirect_uri(good), "{good}");
        }
        for bad in [
            "",
            "/callback",
            "//evil.example",
            "com.example.app:/callback",
            "javascript:alert(1)//localhost",
            "data:text/html,x",
            "http://evil.example/?http://localhost",
            "http://localhost:1@evil.example/",
            "http://localhost\\@evil.example/",
            "http://evil.example\\localhost",
            "http://localhost/#fragment",
            "http://localhost/\r\nSet-Cookie: a=b",
            "http://localhost/\"><script>",
            "http:localhost/",
            "http:///localhost",
            "http://0/",
            "http://0177.0.0.1/",
            "http://2130706434/",
        ] {
            assert!(!is_redirect_uri(bad), "{bad}");
        }
    }
}
