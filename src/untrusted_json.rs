//! JSON from a backend, a person or a file: repairs and checks before it is parsed.
//!
//! - A byte order mark at the start is removed, as RFC 8259 section 8.1 allows.
//! - An unpaired surrogate escape (`"\ud83d"`) becomes U+FFFD. A JavaScript string can hold half of a
//!   pair, such as a part of an emoji after `slice`, and `JSON.stringify` writes it as this escape.
//!   serde_json would reject the whole text.
//! - A field with the name that serde_json uses for `RawValue` is rejected. Where a type accepts any
//!   value, serde_json parses the text in such a field with a new depth limit, so that a few
//!   kilobytes of nested text overflow the stack. No backend sends such a field.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, Error as _};

/// The name of the field, from `serde_json::value::RawValue`.
const NAME: &[u8] = b"$serde_json::private::RawValue";

/// The letter of the name that is rarest in other JSON (all extended JSON has dollars), and its
/// position.
const RAREST: u8 = b'V';
const RAREST_AT: usize = 25;

/// The reason for rejecting a text.
const REASON: &str = "it has a field named as serde_json names the text of a value";

/// The UTF-8 byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The escape of U+FFFD, which is as long as that of a surrogate.
const REPLACEMENT: &[u8; 6] = b"\\ufffd";

/// Parses untrusted JSON.
pub(crate) fn from_slice<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(&repair(text).map_err(serde_json::Error::custom)?)
}

/// Returns a text without a byte order mark, and with U+FFFD for unpaired surrogates. Copies the
/// text only if it has unpaired surrogates.
///
/// # Errors
/// The reason, if the text has the field that serde_json uses for `RawValue`.
pub(crate) fn repair(text: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let text = without_mark(text);
    let (mut repaired, mut may_have_name, mut at) = (Cow::Borrowed(text), false, 0);
    let is_rare = |byte| u8::from(byte == RAREST) | u8::from(byte == b'\\');
    while let Some(found) = find_any(text, at, is_rare) {
        at = found + 1;
        if text[found] == RAREST {
            let begin = found.checked_sub(RAREST_AT);
            may_have_name |= begin.is_some_and(|begin| text[begin..].starts_with(NAME));
            continue;
        }
        let Some(unit) = unicode_escape(text, found) else {
            // An escaped character begins no escape.
            at += 1;
            continue;
        };
        at = found + REPLACEMENT.len();
        let is_pair = || matches!(unicode_escape(text, at), Some(0xdc00..=0xdfff));
        match unit {
            0xd800..=0xdbff if is_pair() => at += REPLACEMENT.len(),
            0xd800..=0xdfff => repaired.to_mut()[found..at].copy_from_slice(REPLACEMENT),
            _ => may_have_name |= u8::try_from(unit).is_ok_and(|unit| NAME.contains(&unit)),
        }
    }
    if may_have_name && has_name(&repaired) { Err(REASON) } else { Ok(repaired) }
}

/// Returns a text without a byte order mark.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Returns the number in an escape such as `\u00e4`, if there is one at a position.
fn unicode_escape(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + REPLACEMENT.len())?.strip_prefix(b"\\u")?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok().filter(|_| is_hex)
}

/// Returns the position of the next byte, from `from` on, for which `is_wanted` is not zero.
pub(crate) fn find_any(text: &[u8], from: usize, is_wanted: impl Fn(u8) -> u8) -> Option<usize> {
    /// Bytes that are compared at once, with vector instructions.
    const CHUNK: usize = 64;
    let rest = text.get(from..)?;
    let none_of =
        |chunk: &&[u8; CHUNK]| chunk.iter().fold(0, |any, byte| any | is_wanted(*byte)) == 0;
    let passed = rest.as_chunks().0.iter().take_while(none_of).count() * CHUNK;
    let found = rest[passed..].iter().position(|byte| is_wanted(*byte) != 0)?;
    Some(from + passed + found)
}

/// Returns `true` if one of the strings is the name, with a colon after it.
fn has_name(text: &[u8]) -> bool {
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

/// Returns the length of the string at the start of a text, including its quotes.
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
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn raw_value_name_is_rejected() {
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
                format!(r#"["\ud800",{{"{name}":"1"}}]"#),
            ] {
                assert_eq!(repair(text.as_bytes()), Err(REASON), "{text}");
                assert!(from_slice::<Value>(text.as_bytes()).unwrap_err().is_data());
            }
        }
    }

    #[test]
    fn other_text_is_returned_unchanged() {
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
            r#"["\ud83d\ude00","\uD83D\uDE00","\\ud83d","\\\\ud83d","\\\ud83d\ude00"]"#.to_owned(),
            r#"["\ud83","\ud+3d","\u d83"]"#.to_owned(),
        ] {
            let same = |text: &str| matches!(repair(text.as_bytes()), Ok(Cow::Borrowed(same)) if same == text.as_bytes());
            assert!(same(&text), "{text}");
        }
    }

    #[test]
    fn unpaired_surrogates_become_replacement_characters() {
        let long = "x".repeat(200);
        for (text, expected) in [
            (r#""Ann \ud83d""#, "Ann \u{fffd}"),
            (r#""\ude00""#, "\u{fffd}"),
            (r#""\uD83D\uD83D\uDE00""#, "\u{fffd}\u{1f600}"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\ud83d\\ude00""#, "\u{fffd}\\ude00"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
        ] {
            assert_eq!(from_slice::<String>(text.as_bytes()).unwrap(), expected, "{text}");
            let nested = format!(r#"{{"{long}":[{{{text}:{text}}}]}}"#);
            let read: Value = from_slice(nested.as_bytes()).unwrap();
            assert_eq!(read, json!({long.as_str(): [{expected: expected}]}), "{text}");
        }
    }

    #[test]
    fn byte_order_mark_is_dropped() {
        assert_eq!(from_slice::<i64>(b"\xef\xbb\xbf 7").unwrap(), 7);
        assert!(from_slice::<i64>(b"\xef\xbb\xbf").unwrap_err().is_eof());
        for text in [&b" \xef\xbb\xbf7"[..], b"\xef\xbb7", b"\xef\xbb\xbf\xef\xbb\xbf7"] {
            assert!(from_slice::<i64>(text).is_err(), "{text:?}");
        }
        // Inside a string it is a character.
        assert_eq!(from_slice::<String>("\"\u{feff}\"".as_bytes()).unwrap(), "\u{feff}");
    }
}
