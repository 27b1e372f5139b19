//! Output: results on standard output, everything else on standard error.
//!
//! These functions do not panic if the reader has closed the output.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::unprintable::is_unprintable;

/// Standard output, in the requested format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Returns `true` if JSON was requested.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes the result, either as JSON or as text.
    pub(crate) fn result(&self, json: &impl Serialize, words: impl Display) -> Result<(), Failure> {
        if self.json { self.json_line(json) } else { self.text(&words.to_string()) }
    }

    /// Writes one JSON value on a line of its own.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(io::Error::from);
        self.text(&printable_json(&text.map_err(Failure::Output)?))
    }

    /// Writes a text, and a line end unless the text is empty or ends with one. Line ends in the
    /// text are kept; other control characters are escaped.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let text = printable_lines(text);
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.write_all(end.as_bytes()))
            .and_then(|()| stdout.flush())
            .map_err(Failure::Output)
    }
}

/// Writes a message to standard error.
pub(crate) fn note(text: impl Display) {
    // If standard error is closed, there is no other place to report that.
    let _ = writeln!(io::stderr().lock(), "keyfob: {}", printable_lines(&text.to_string()));
}

/// Writes one JSON value on a line of its own to standard error.
pub(crate) fn note_json(value: &Value) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_json(&value.to_string()));
}

/// Writes a failure to standard error, unless the only failure is that the output was closed.
pub(crate) fn report(failure: &Failure, json: bool) {
    if failure.exit_code() == 0 {
        return;
    }
    let message = failure.message();
    if !json {
        return note(printable(&message));
    }
    let error = failure.error();
    let mut text = json!({"error": {
        "kind": failure.kind(),
        "message": message,
        "status": error.and_then(|error| error.status()),
        "code": failure.code(),
    }});
    if error.is_some_and(|error| error.is_ambiguous()) {
        text["error"]["ambiguous"] = true.into();
    }
    let _ = writeln!(io::stderr().lock(), "{}", printable_json(&text.to_string()));
}

/// Escapes characters with which a backend could manipulate the terminal or mislead the reader.
pub(crate) fn printable(text: &str) -> String {
    escape(text, |character| {
        is_unprintable(character).then(|| character.escape_unicode().to_string())
    })
}

/// Like [`printable`], but keeps line ends.
fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Escapes the same characters as JSON escapes. Control characters that are still unescaped can
/// only be blanks between values.
fn printable_json(json: &str) -> String {
    escape(json, |character| match character {
        '\t' | '\n' | '\r' => Some(" ".to_owned()),
        character if is_unprintable(character) => {
            let mut units = [0; 2];
            let units = character.encode_utf16(&mut units).iter();
            Some(units.map(|unit| format!("\\u{unit:04x}")).collect())
        }
        _ => None,
    })
}

/// Replaces the characters that have a replacement.
fn escape(text: &str, replacement: impl Fn(char) -> Option<String>) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, character| {
        match replacement(character) {
            Some(replacement) => escaped.push_str(&replacement),
            None => escaped.push(character),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("né\u{1b}[2J\u{9b}"), "né\\u{1b}[2J\\u{9b}");
        let json = serde_json::to_string("né\u{1b}[2J\u{9b}31m\u{7f}").unwrap();
        assert_eq!(printable_json(&json), r#""né\u001b[2J\u009b31m\u007f""#);
        let read: String = serde_json::from_str(&printable_json(&json)).unwrap();
        assert_eq!(read, "né\u{1b}[2J\u{9b}31m\u{7f}");
    }

    #[test]
    fn hidden_characters_are_escaped() {
        let hidden = [
            0x7f, 0x85, 0xad, 0x34f, 0x61c, 0x180e, 0x200b, 0x200c, 0x200d, 0x200e, 0x200f, 0x2028,
            0x2029, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2060, 0x2066, 0x2067, 0x2068, 0x2069,
            0x3164, 0xfe00, 0xfeff, 0xfff9, 0xe0001, 0xe0041, 0xe0100,
        ];
        for code in hidden {
            let text: String = ['a', char::from_u32(code).unwrap(), 'b'].iter().collect();
            assert_eq!(printable(&text), format!("a\\u{{{code:x}}}b"));
            let json = printable_json(&serde_json::to_string(&text).unwrap());
            assert!(json.is_ascii(), "{json}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
        let visible = "Zoë Ångström, Ωmega, שלום, ابن\u{600}, 日本語, 👍🏽, ❤\u{fe0f}";
        assert_eq!(printable(visible), visible);
        assert_eq!(printable_json(visible), visible);
    }

    #[test]
    fn json_whitespace_stays_on_one_line() {
        assert_eq!(printable_json("{\r\n\t\"a\": 1}"), "{   \"a\": 1}");
    }
}
