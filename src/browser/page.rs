//! The HTTP responses of the listener: a page for the person after the sign-in, and short refusals
//! for all other requests.
//!
//! The page runs no script, loads nothing, sends no referrer and is not cached, because its URL
//! contains a code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;

use super::request::Refusal;
use crate::html::escaped;

/// The texts of the page that the browser shows after the sign-in.
///
/// All texts are plain text; HTML in them is escaped.
///
/// # Examples
///
/// ```
/// use keyfob::browser::{Page, SignIn};
///
/// let page = Page::new("Notes").success("Welcome", "You can go back to Notes now.");
/// let sign_in = SignIn::google("1234.apps.googleusercontent.com").page(page);
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    program: String,
    language: String,
    returned: Text,
    success: Text,
    failure: Text,
}

/// A heading and a body.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Text {
    heading: String,
    body: String,
}

/// The outcome that the page reports.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// The sign-in or the login failed for this reason.
    Failure(&'a str),
    /// The provider's part succeeded; the program continues.
    Returned,
    /// The person is logged in.
    Success,
}

impl Page {
    /// Creates a page with English texts that name the program.
    pub fn new(program: impl Into<String>) -> Self {
        let program = program.into();
        let text = |heading: String, body: &str| Text { heading, body: body.to_owned() };
        let name = if program.is_empty() { "the program" } else { &program };
        Self {
            language: "en".to_owned(),
            returned: text(
                format!("Return to {name}"),
                "Your browser has done its part. You can close this window.",
            ),
            success: text(
                "You are signed in".to_owned(),
                &format!("You can close this window and return to {name}."),
            ),
            failure: text(
                "You are not signed in".to_owned(),
                &format!("Return to {name} and try again."),
            ),
            program,
        }
    }

    /// Sets the language of the texts, such as `de`. Defaults to `en`.
    #[must_use]
    pub fn language(mut self, language: impl Into<String>) -> Self {
        self.language = language.into();
        self
    }

    /// Sets the text for a login that succeeded ([`Session::sign_in`](crate::Session::sign_in),
    /// [`SignIn::loopback_then`](super::SignIn::loopback_then)).
    #[must_use]
    pub fn success(self, heading: impl Into<String>, body: impl Into<String>) -> Self {
        Self { success: Text { heading: heading.into(), body: body.into() }, ..self }
    }

    /// Sets the text for a sign-in or login that failed. The page shows the reason below it.
    #[must_use]
    pub fn failure(self, heading: impl Into<String>, body: impl Into<String>) -> Self {
        Self { failure: Text { heading: heading.into(), body: body.into() }, ..self }
    }

    /// Sets the text for [`SignIn::loopback`](super::SignIn::loopback), when the program continues
    /// with the tokens.
    #[must_use]
    pub fn returned(self, heading: impl Into<String>, body: impl Into<String>) -> Self {
        Self { returned: Text { heading: heading.into(), body: body.into() }, ..self }
    }

    /// Returns the whole HTTP response.
    pub(super) fn response(&self, outcome: Outcome<'_>) -> Vec<u8> {
        let (status, class, text, reason) = match outcome {
            Outcome::Failure(reason) => ("400 Bad Request", "failure", &self.failure, reason),
            Outcome::Returned => ("200 OK", "returned", &self.returned, ""),
            Outcome::Success => ("200 OK", "success", &self.success, ""),
        };
        let mut html = format!(
            "<!doctype html>\n<html lang=\"{}\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{}</title><style>{STYLE}</style></head><body><main dir=\"auto\" class=\"{class}\">",
            escaped(&self.language),
            escaped(&text.heading),
        );
        for (element, content) in [
            ("p class=\"program\"", self.program.as_str()),
            ("h1", &text.heading),
            ("p", &text.body),
            ("p class=\"reason\"", reason),
        ] {
            if !content.is_empty() {
                let name = element.split(' ').next().unwrap_or_default();
                html.push_str(&format!("<{element}>{}</{name}>", escaped(content)));
            }
        }
        html.push_str("</main></body></html>\n");
        let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
        let policy = format!(
            "Content-Security-Policy: default-src 'none'; style-src 'sha256-{hash}'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
        );
        response(status, "text/html", &policy, &html)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new("")
    }
}

/// Returns the HTTP response to a rejected request.
pub(super) fn refusal(refusal: Refusal) -> Vec<u8> {
    let status = match refusal.status {
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        411 => "411 Length Required",
        413 => "413 Content Too Large",
        415 => "415 Unsupported Media Type",
        421 => "421 Misdirected Request",
        431 => "431 Request Header Fields Too Large",
        _ => "400 Bad Request",
    };
    let allow = if refusal.status == 405 { "Allow: GET, POST\r\n" } else { "" };
    let policy = "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n";
    response(status, "text/plain", &[allow, policy].concat(), &format!("{}\n", refusal.reason))
}

fn response(status: &str, media_type: &str, fields: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
         Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n{fields}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The contrast of all colours is at least 7 to 1, in both schemes.
const STYLE: &str = "\
:root{color-scheme:light dark;font:100%/1.5 system-ui,sans-serif;\
--back:#f4f5f7;--card:#fff;--text:#1c1f24;--soft:#4a4f57;--line:#d5d9e0;--mark:#3d5a80}\
@media(prefers-color-scheme:dark){:root{--back:#15171b;--card:#1f2228;--text:#eceef1;\
--soft:#b9bec7;--line:#3a3f48;--mark:#8fb3de}}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--back);\
color:var(--text)}\
main{box-sizing:border-box;width:min(30rem,100% - 2rem);margin:1rem;padding:2rem;\
background:var(--card);border:1px solid var(--line);border-top:.3rem solid var(--mark);\
border-radius:.5rem;overflow-wrap:anywhere}\
main.success{--mark:#1b7f4b}main.failure{--mark:#c0392b}\
@media(prefers-color-scheme:dark){main.success{--mark:#5fcf95}main.failure{--mark:#ff8a7a}}\
h1{margin:0 0 .75rem;font-size:1.5rem;line-height:1.25}\
p{margin:0}.program{margin-bottom:.25rem;color:var(--soft)}\
.reason{margin-top:1rem;padding-top:1rem;border-top:1px solid var(--line);\
color:var(--soft);font-size:.875rem}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_escapes_untrusted_text() {
        let evil = "<script>alert(1)</script>\"' &\u{7}";
        let page = Page::new(evil).language("\"><x>").failure(evil, evil);
        let text = String::from_utf8(page.response(Outcome::Failure(evil))).unwrap();
        let (head, html) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", html.len())), "{head}");
        assert!(!html.contains("<script") && !html.contains("<x>"), "{html}");
        assert!(!html.contains('\u{7}'), "{html}");
        let shown = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39; &amp; ";
        assert_eq!(html.matches(shown).count(), 5, "{html}");
    }

    #[test]
    fn page_has_status_and_policy() {
        let page = Page::new("Notes");
        for (outcome, status, heading) in [
            (Outcome::Returned, "200", "Return to Notes"),
            (Outcome::Success, "200", "You are signed in"),
            (Outcome::Failure("why"), "400", "You are not signed in"),
        ] {
            let text = String::from_utf8(page.response(outcome)).unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
            assert!(text.contains(&format!("<h1>{heading}</h1>")), "{text}");
            for field in [
                "Content-Security-Policy: default-src 'none'; style-src 'sha256-",
                "Cache-Control: no-store\r\n",
                "Referrer-Policy: no-referrer\r\n",
                "Connection: close\r\n",
            ] {
                assert!(text.contains(field), "{field}: {text}");
            }
        }
    }
}
