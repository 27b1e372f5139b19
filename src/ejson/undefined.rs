//! Replaces `{"$undefined":true}`, which backends send for a missing JavaScript value, with `null`.
//!
//! This is done in the text, before it is parsed: a deserializer that has reported an object to a
//! type cannot report `null` any more.

use std::borrow::Cow;

use crate::untrusted_json::find_any;

const NAME: &[u8] = br#""$undefined""#;

/// Returns extended JSON with `null` in place of each `{"$undefined":true}`, with any spacing.
///
/// The text need not be parsed for this: inside a string the quotes of the name are escaped, and a
/// string that ends with a brace is not followed by a name.
pub(crate) fn without_undefined(text: &[u8]) -> Cow<'_, [u8]> {
    let mut kept = Vec::new();
    let (mut rest, mut from) = (text, 0);
    while let Some(at) = find(rest, from) {
        let before = rest[..at].trim_ascii_end();
        match (before.split_last(), after_true(&rest[at + NAME.len()..])) {
            (Some((b'{', before)), Some(after)) => {
                kept.extend_from_slice(before);
                kept.extend_from_slice(b"null");
                (rest, from) = (after, 0);
            }
            _ => from = at + NAME.len(),
        }
    }
    if kept.is_empty() {
        return Cow::Borrowed(rest);
    }
    kept.extend_from_slice(rest);
    Cow::Owned(kept)
}

/// Returns the position of the next name, from `from` on.
fn find(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at = find_any(text, at, |byte| u8::from(byte == b'$'))?;
        match at.checked_sub(1).filter(|quote| text[*quote..].starts_with(NAME)) {
            Some(quote) => return Some(quote),
            None => at += 1,
        }
    }
}

/// Returns the text after `:true}`.
fn after_true(text: &[u8]) -> Option<&[u8]> {
    let text = text.trim_ascii_start().strip_prefix(b":")?;
    let text = text.trim_ascii_start().strip_prefix(b"true")?;
    text.trim_ascii_start().strip_prefix(b"}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        String::from_utf8(without_undefined(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn only_undefined_becomes_null() {
        for (text, expected) in [
            (r#"{"$undefined":true}"#, "null"),
            ("[1,{\r\n\"$undefined\" :\ttrue } , 2]", "[1,null , 2]"),
            (
                r#"{"a":{"$undefined":true},"b":[{"$undefined":true},{"$undefined":true}],"c":"$"}"#,
                r#"{"a":null,"b":[null,null],"c":"$"}"#,
            ),
        ] {
            assert_eq!(read(text), expected);
        }
        let long = format!("{}{{\"$undefined\":true}}{}", "[1],".repeat(200), ",[2]".repeat(100));
        let expected = format!("{}null{}", "[1],".repeat(200), ",[2]".repeat(100));
        assert_eq!(read(&long), expected);
        for text in [
            "",
            "$",
            r#"{"$undefined":false}"#,
            r#"{"$undefined":true,"more":1}"#,
            r#"{"more":1,"$undefined":true}"#,
            r#"{"$undefined":"true"}"#,
            r#"{"a":"{\"$undefined\":true}"}"#,
            r#"{"a":"$undefined","b":"{","$undefined":true}"#,
            r#"["{","$undefined",":true}"]"#,
            r#"{"$undefined":tru"#,
            r#"{"$undefined"#,
            r#""$undefined""#,
            r#"{"$numberInt":"1"}"#,
        ] {
            assert!(
                matches!(without_undefined(text.as_bytes()), Cow::Borrowed(same) if same == text.as_bytes()),
                "{text}"
            );
        }
    }
}
