//! The HTML pages. No page loads anything; the only script submits a form to the program.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::plain_response;
use crate::base_url::origin;
use crate::html::escaped;
use crate::server::http::Response;

pub(super) const BAD_NAME: &str =
    "type a name or an e-mail address of at most 100 characters, without control characters";

const SUBMIT: &str = "document.forms[0].submit()";

/// The page on which a person picks or types a name.
pub(super) fn sign_in(
    client_id: &str,
    redirect_uri: &str,
    hint: &str,
    names: &[String],
) -> Response {
    let origin = origin(redirect_uri).unwrap_or_default();
    let body = format!(
        "<h1>Sign in</h1><p>to <b>{}</b>, which listens at {}</p>{}",
        escaped(client_id),
        escaped(&origin),
        choices("", hint, names),
    );
    page(200, "Sign in", &body, "", &format!("'self' {}", form_target(&origin)))
}

/// The page on which a person enters a user code.
pub(super) fn device(user_code: &str, names: &[String]) -> Response {
    let code = format!(
        "<label>Code<input name=\"user_code\" value=\"{}\" required autocomplete=\"off\"></label>",
        escaped(user_code)
    );
    let body = format!("<h1>Sign in on a device</h1>{}", choices(&code, "", names));
    page(200, "Sign in on a device", &body, "", "'self'")
}

/// Redirects the browser to the program.
pub(super) fn redirect(url: String) -> Response {
    let mut response = page(303, "Sign in", "<h1>Return to the program</h1>", "", "'none'");
    response.headers.push(("Location", url));
    response
}

/// Sends a form to the program, either at once or when the person presses the button.
pub(super) fn form_post(redirect_uri: &str, fields: &[(&str, &str)], at_once: bool) -> Response {
    let mut body = format!(
        "<h1>Return to the program</h1><form method=\"post\" action=\"{}\">",
        escaped(redirect_uri)
    );
    for (name, value) in fields {
        let (name, value) = (escaped(name), escaped(value));
        body.push_str(&format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">"));
    }
    body.push_str("<button>Continue</button></form>");
    let target = form_target(&origin(redirect_uri).unwrap_or_default());
    page(200, "Sign in", &body, if at_once { SUBMIT } else { "" }, &target)
}

pub(super) fn failure(reason: &str) -> Response {
    let body = format!("<h1>This does not work</h1><p>{}</p>", escaped(reason));
    page(400, "Sign in", &body, "", "'none'")
}

pub(super) fn done(heading: &str, text: &str) -> Response {
    let body = format!("<h1>{}</h1><p>{}</p>", escaped(heading), escaped(text));
    page(200, heading, &body, "", "'none'")
}

/// Returns a form to type a name, and forms to pick a name. `more` is HTML.
fn choices(more: &str, hint: &str, names: &[String]) -> String {
    let mut html = format!(
        "<form method=\"post\">{more}<label>Name or e-mail address<input name=\"name\" value=\"{}\" \
         maxlength=\"100\" autocomplete=\"off\" autofocus></label><button>Sign in</button></form>",
        escaped(hint)
    );
    // Each name has its own form, because the text field would be submitted with it.
    let mut pick = |name: &str, value: &str, text: &str| {
        html.push_str(&format!(
            "<form method=\"post\">{more}<button class=\"other\" name=\"{name}\" value=\"{}\">{}\
             </button></form>",
            escaped(value),
            escaped(text)
        ));
    };
    for name in names {
        pick("name", name, &format!("Continue as {name}"));
    }
    pick("refuse", "yes", "Refuse");
    html
}

/// Returns the `form-action` source for the target of a form. Browsers apply it to redirects as
/// well, and it cannot name an IPv6 address.
fn form_target(origin: &str) -> String {
    match origin.split_once("://") {
        Some((scheme, host)) if host.starts_with('[') => format!("{scheme}:"),
        _ => origin.to_owned(),
    }
}

fn page(status: u16, title: &str, body: &str, script: &str, form_action: &str) -> Response {
    let element =
        if script.is_empty() { String::new() } else { format!("<script>{script}</script>") };
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title>\
         <style>{STYLE}</style></head><body><main>\
         <p class=\"note\">Test identity provider: no password, for development only</p>\
         {body}</main>{element}</body></html>\n",
        escaped(title)
    );
    let source = |text: &str| match text {
        "" => "'none'".to_owned(),
        text => format!(
            "'sha256-{}'",
            STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
        ),
    };
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; form-action {form_action}; \
         base-uri 'none'; frame-ancestors 'none'",
        source(STYLE),
        source(script)
    );
    let headers = vec![
        ("Content-Type", "text/html; charset=utf-8".to_owned()),
        ("Content-Security-Policy", policy),
        ("X-Frame-Options", "DENY".to_owned()),
        // Not `no-referrer`: with it, browsers would send the form with `Origin: null`.
        ("Referrer-Policy", "same-origin".to_owned()),
    ];
    plain_response(status, headers, html)
}

const STYLE: &str = "\
:root{color-scheme:light dark;font:100%/1.5 system-ui,sans-serif;--back:#f4f5f7;--card:#fff;\
--text:#1c1f24;--soft:#4a4f57;--line:#8a9099;--mark:#3d5a80;--on:#fff}\
@media(prefers-color-scheme:dark){:root{--back:#15171b;--card:#1f2228;--text:#eceef1;\
--soft:#b9bec7;--line:#6f7680;--mark:#8fb3de;--on:#15171b}}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--back);\
color:var(--text)}\
main{box-sizing:border-box;width:min(26rem,100% - 2rem);margin:1rem;padding:2rem;\
background:var(--card);border:1px solid var(--line);border-top:.3rem solid var(--mark);\
border-radius:.5rem;overflow-wrap:anywhere}\
h1{margin:0;font-size:1.5rem;line-height:1.25}p{margin:.25rem 0 1rem}\
.note{margin:0 0 1rem;color:var(--soft);font-size:.875rem}\
form{margin:0 0 .5rem}label{display:block;margin:0 0 .5rem}\
input,button{box-sizing:border-box;width:100%;padding:.6rem .75rem;font:inherit;\
border:1px solid var(--line);border-radius:.375rem;background:var(--card);color:var(--text)}\
button{border-color:var(--mark);background:var(--mark);color:var(--on);cursor:pointer}\
button.other{border-color:var(--line);background:var(--card);color:var(--text);text-align:start}\
:focus-visible{outline:2px solid var(--mark);outline-offset:2px}";

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(response: &Response) -> (String, String) {
        let head = response.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        (head.collect(), String::from_utf8(response.body.clone()).unwrap())
    }

    #[test]
    fn pages_escape_untrusted_text() {
        let evil = "<script>alert(1)</script>\"' &\u{7}";
        let names = [evil.to_owned()];
        for response in [
            sign_in(evil, "http://127.0.0.1:1/", evil, &names),
            device(evil, &names),
            form_post("http://127.0.0.1:1/?a=b&c", &[(evil, evil)], true),
            failure(evil),
            done(evil, evil),
        ] {
            let (_, html) = parts(&response);
            assert!(!html.contains("<script>alert"), "{html}");
            assert!(!html.contains('\u{7}'), "{html}");
            assert!(
                html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39; &amp;"),
                "{html}"
            );
        }
    }

    #[test]
    fn form_targets_are_server_and_client_only() {
        let (head, html) = parts(&sign_in("x", "http://127.0.0.1:4711/callback", "", &[]));
        assert!(head.contains("form-action 'self' http://127.0.0.1:4711;"), "{head}");
        assert!(head.contains("script-src 'none'") && !html.contains("<script"), "{head}");
        let (head, html) = parts(&form_post("http://[::1]:4711/callback", &[("code", "c")], true));
        assert!(head.contains("form-action http:;"), "{head}");
        assert!(html.contains(&format!("<script>{SUBMIT}</script>")), "{html}");
        let (head, _) = parts(&redirect("http://127.0.0.1:1/".to_owned()));
        assert!(head.contains("Location: http://127.0.0.1:1/\n"), "{head}");
    }
}
