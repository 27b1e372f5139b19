//! What is written, and where: results to standard output, everything else to standard error.
//!
//! Nothing here panics when the other side has stopped reading.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;

/// Standard output, in the form that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Tells whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes the result, as JSON or in words.
    pub(crate) fn result(&self, json: &impl Serialize, words: impl Display) -> Result<(), Failure> {
        if self.json { self.json_line(json) } else { self.text(&words.to_string()) }
    }

    /// Writes one JSON value on a line of its own.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(io::Error::from);
        self.text(&escaped(&text.map_err(Failure::Output)?))
    }

    /// Writes a text as it is, with a line end after it unless it is empty or has one.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.write_all(end.as_bytes()))
            .and_then(|()| stdout.flush())
            .map_err(Failure::Output)
    }
}

/// Writes a line for people to standard error.
pub(crate) fn note(text: impl Display) {
    // There is nowhere left to say that standard error is gone.
    let _ = writeln!(io::stderr().lock(), "keyfob: {text}");
}

/// Writes a failure to standard error, unless it is only that nobody reads on.
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
        "code": error.and_then(|error| error.server_code()).map(|code| code.as_str()),
    }});
    if error.is_some_and(|error| error.is_ambiguous()) {
        text["error"]["ambiguous"] = true.into();
    }
    let _ = writeln!(io::stderr().lock(), "{}", escaped(&text.to_string()));
}

/// Escapes those control characters that JSON has no escapes for by itself: some terminals take
/// them for commands. In JSON they can be in texts only.
fn escaped(json: &str) -> String {
    json.split_inclusive(is_command).fold(String::new(), |mut text, part| {
        let mut characters = part.chars();
        match characters.next_back() {
            Some(last) if is_command(last) => {
                text += characters.as_str();
                text += &format!("\\u{:04x}", u32::from(last));
            }
            _ => text += part,
        }
        text
    })
}

fn is_command(character: char) -> bool {
    matches!(character, '\u{7f}'..='\u{9f}')
}

/// Escapes control characters, which a backend could have put into a text to play with the
/// terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let plain = (!character.is_control()).then_some(character);
            let escaped = character.is_control().then(|| character.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("né\u{1b}[2J\u{9b}"), "né\\u{1b}[2J\\u{9b}");
        let json = serde_json::to_string("né\u{1b}[2J\u{9b}31m\u{7f}").unwrap();
        assert_eq!(escaped(&json), r#""né\u001b[2J\u009b31m\u007f""#);
        let read: String = serde_json::from_str(&escaped(&json)).unwrap();
        assert_eq!(read, "né\u{1b}[2J\u{9b}31m\u{7f}");
    }
}
