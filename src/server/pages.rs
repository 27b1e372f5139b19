//! The default pages that mails link to: `/confirm` and `/reset`.
//!
//! A page takes no action until the user presses the button. Otherwise a program that scans links
//! in mails would use up the token.

/// The purpose of a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Page {
    Confirm,
    Reset,
}

/// Header fields of a page. The page may only run its own script and send requests to its own
/// server. It sends no referrer, because its address contains the token.
pub(super) const HEADERS: [(&str, &str); 3] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
         connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
];

impl Page {
    /// Renders the page. `app_id` contains no characters with a meaning in HTML or JavaScript.
    pub(super) fn html(self, app_id: &str) -> String {
        let (title, operation, field) = match self {
            Self::Confirm => ("Confirm your e-mail address", "confirm", ""),
            Self::Reset => (
                "Choose a new password",
                "reset",
                r#"<p><input type="password" id="password" autocomplete="new-password" autofocus>"#,
            ),
        };
        TEMPLATE
            .replace("{title}", title)
            .replace("{field}", field)
            .replace("{app}", app_id)
            .replace("{operation}", operation)
    }
}

const TEMPLATE: &str = r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body { font-family: sans-serif; margin: 3em auto; max-width: 30em }</style>
<h1>{title}</h1>
<form id="form">{field}<p><button>{title}</button></form>
<p id="result" role="status">
<script>
const query = new URLSearchParams(location.search);
const result = document.getElementById("result");
document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = { token: query.get("token") ?? "", tokenId: query.get("tokenId") ?? "" };
  const password = document.getElementById("password");
  if (password) body.password = password.value;
  try {
    // Beside this page, wherever that is.
    const answer = await fetch(
      "api/client/v2.0/app/{app}/auth/providers/local-userpass/{operation}",
      {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      },
    );
    result.textContent = answer.ok ? "Done." : (await answer.json()).error;
  } catch (error) {
    result.textContent = String(error);
  }
});
</script>
</html>
"#;
