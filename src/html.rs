//! Escaping of text in the HTML pages of the sign-in and of the test identity provider.

/// Escapes a text for an element or a quoted attribute. Joiners and direction marks stay, because
/// texts of the program may need them; in texts of a provider, the error type has already escaped
/// them.
pub(crate) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            control if control.is_control() => html.push(' '),
            other => html.push(other),
        }
    }
    html
}
