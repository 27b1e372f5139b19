//! JSON that somebody else wrote, and one thing that may not be in it.
//!
//! serde_json knows the text of a value by the name of its field, and where any value is welcome it
//! takes whoever uses that name at its word: it reads the text in there, with a new limit of depth.
//! Text within text within text, in a few kilobytes, takes more stack than a thread has, and ends
//! the process. No backend sends such a field.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::Error as _;

/// The name of the field, which is serde_json's own: `serde_json::value::RawValue`.
const NAME: &[u8] = b"$serde_json::private::RawValue";

/// The letter of it that other JSON has the least of, dollars being in all extended JSON, and its
/// place.
const RAREST: u8 = b'V';
const RAREST_AT: usize = 25;

/// Why a text is refused.
const REASON: &str = "it has a field named as serde_json names the text of a value";

/// Reads a value from JSON that somebody else wrote.
pub(crate) fn from_slice<'de, T: Deserialize<'de>>(text: &'de [u8]) -> serde_json::Result<T> {
    check(text).map_err(serde_json::Error::custom)?;
    serde_json::from_slice(text)
}

/// Refuses a text that has such a field, and says why.
pub(crate) fn check(text: &[u8]) -> Result<(), &'static str> {
    if may_have(text) && has(text) { Err(REASON) } else { Ok(()) }
}

/// Tells whether the name is in the text, or letters of it are written as escapes: hardly ever.
fn may_have(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = find(text, at) {
        at = found + 1;
        if text[found] == RAREST {
            let begin = found.checked_sub(RAREST_AT);
            if begin.is_some_and(|begin| text[begin..].starts_with(NAME)) {
                return true;
            }
        } else {
            let digits =
                text.get(found + 1..found + 6).and_then(|escape| escape.strip_prefix(b"u"));
            let letter = digits.and_then(|digits| std::str::from_utf8(digits).ok());
            let letter = letter.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            if letter.is_some_and(|letter| NAME.contains(&letter)) {
                return true;
            }
            // What is escaped begins nothing.
            at += 1;
        }
    }
    false
}

/// Returns where the next of its rarest letters or backslash is, from some place on.
fn find(text: &[u8], from: usize) -> Option<usize> {
    find_any(text, from, |byte| u8::from(byte == RAREST) | u8::from(byte == b'\\'))
}

/// Returns where the next byte is, from some place on, for which there is anything but zero.
pub(crate) fn find_any(text: &[u8], from: usize, is_wanted: impl Fn(u8) -> u8) -> Option<usize> {
    /// Looked at all at once, which the processor has instructions for.
    const CHUNK: usize = 64;
    let rest = text.get(from..)?;
    let none_of =
        |chunk: &&[u8; CHUNK]| chunk.iter().fold(0, |any, byte| any | is_wanted(*byte)) == 0;
    let passed = rest.as_chunks().0.iter().take_while(none_of).count() * CHUNK;
    let found = rest[passed..].iter().position(|byte| is_wanted(*byte) != 0)?;
    Some(from + passed + found)
}

/// Looks at each string: whether it is the name, and a colon after it makes it the name of a field.
fn has(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(open) = rest.iter().position(|byte| *byte == b'"') {
        let string = &rest[open..];
        let Some(length) = length(string) else { return false };
        let (string, after) = string.split_at(length);
        let is_name = after.trim_ascii_start().starts_with(b":")
            && serde_json::from_slice::<Cow<'_, str>>(string)
                .is_ok_and(|name| name.as_bytes() == NAME);
        if is_name {
            return true;
        }
        rest = after;
    }
    false
}

/// Returns the length of the string that a text begins with, quotes included.
fn length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_name_is_found_however_it_is_written() {
        assert_eq!(NAME[RAREST_AT], RAREST);
        let name = std::str::from_utf8(NAME).unwrap();
        let escaped: String = name.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        let last = name.replace('V', "\\u0056");
        let long = "[1,2],".repeat(100);
        for name in [name, &escaped, &last] {
            for text in [
                format!(r#"{{"{name}":"1"}}"#),
                format!("{{\"a\":[\"\\\"\\\\\",{{\r\n\"{name}\" \t:\"1\"}}]}}"),
                format!(r#"[{long}{{"b":1,"{name}":"1"}}]"#),
            ] {
                assert_eq!(check(text.as_bytes()), Err(REASON), "{text}");
                assert!(from_slice::<Value>(text.as_bytes()).unwrap_err().is_data());
            }
        }
    }

    #[test]
    fn nothing_else_is_refused() {
        let name = std::str::from_utf8(NAME).unwrap();
        for text in [
            String::new(),
            format!(r#"{{"a":"{name}"}}"#),
            format!(r#"["{name}","\u0024"]"#),
            format!(r#"{{"{name}s":1,"x{name}":1,"\\{name}":1}}"#),
            format!(r#"{{"a":"\"{name}\":"}}"#),
            format!(r#"{{"$oid":"5f","\u00e9\n\u0024{}":1}}"#, "serde_json"),
            format!("\"{name}"),
            "\\".to_owned(),
            "\"\\u002".to_owned(),
        ] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
    }
}
