//! Messages for a value that does not fit a type: what was expected, what was found, and its path
//! in the document. They never quote the value, which may be a secret.

use serde_json::error::Category;

/// Returns why `text` could not be parsed as a type.
pub(crate) fn explain(error: &serde_json::Error, text: &[u8]) -> String {
    let reason = reason(error);
    match error.classify() {
        Category::Data => match path_at(text, error.line(), error.column()) {
            Some(path) if path.is_empty() => reason,
            Some(path) => format!("{reason} at `{path}`"),
            None => reason,
        },
        _ => reason,
    }
}

fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(" at line ") {
        Some(end) if error.classify() == Category::Data => &text[..end],
        _ => &text,
    };
    let unfit = || "a value does not fit the type".to_owned();
    if let Some(start) =
        ["invalid type: ", "invalid value: "].iter().find(|start| text.starts_with(*start))
    {
        // For an enum without variants serde adds no expectation: `, expected ` is in the value.
        let seen_and_expected = text[start.len()..].rsplit_once(", expected ");
        let Some((seen, expected)) = seen_and_expected else { return unfit() };
        // The value follows the kind, in quotation marks.
        let kind = seen.split(['`', '"']).next().unwrap_or_default().trim_end();
        let is_of_another_type = start.starts_with("invalid type");
        return match (seen_word(kind), is_of_another_type) {
            (Some(seen), true) => format!("expected {}, got {seen}", expected_words(expected)),
            (Some(seen), false) => {
                format!("expected {}, got {seen} that is not one", expected_words(expected))
            }
            (None, _) => unfit(),
        };
    }
    if text.starts_with("unknown variant ") {
        return match text.rfind(", expected ") {
            Some(to) if !text.contains(", there are no variants") => {
                format!("unknown variant{}", &text[to..])
            }
            _ => unfit(),
        };
    }
    match error.classify() {
        // The message of a type's own `Deserialize` may quote the value.
        Category::Data if !is_about_fields(text) => unfit(),
        _ => text.to_owned(),
    }
}

/// Returns `true` for a message that names a field or a length of the type.
fn is_about_fields(text: &str) -> bool {
    text.starts_with("missing field ") || text.starts_with("invalid length ")
}

/// Translates serde's name for a kind of value to JSON's.
fn seen_word(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "boolean" => "a boolean",
        "character" | "string" => "a string",
        "floating point" | "integer" | "number" => "a number",
        "map" | "newtype struct" => "an object",
        "null" | "Option value" | "unit value" => "null",
        "sequence" => "an array",
        "enum" | "newtype variant" | "struct variant" | "tuple variant" | "unit variant" => {
            "a variant"
        }
        "byte array" => "bytes",
        _ => return None,
    })
}

/// Translates serde's description of the expected value to JSON's terms.
fn expected_words(expected: &str) -> String {
    match expected {
        "a map" => "an object".to_owned(),
        "a sequence" => "an array".to_owned(),
        "unit" => "null".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "u8" | "u16" | "u32" | "u64" | "u128" => {
            format!("a whole number ({expected})")
        }
        "f32" | "f64" => format!("a number ({expected})"),
        _ => match expected.strip_prefix("struct ") {
            Some(name) => format!("an object ({name})"),
            None => expected.to_owned(),
        },
    }
}

/// Returns the path of the value that ends at a line and a column, both counted from one, such as
/// `items[3].name`; empty for the document itself. `None` without a position.
fn path_at(text: &[u8], line: usize, column: usize) -> Option<String> {
    let start = match line.checked_sub(1)? {
        0 => 0,
        breaks => {
            text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(breaks - 1)?.0 + 1
        }
    };
    let end = start.checked_add(column)?.min(text.len());
    let mut path = Path::default();
    path.walk(text.get(..end)?);
    Some(path.to_text())
}

/// A position in a document.
#[derive(Default)]
struct Path(Vec<Step>);

enum Step {
    Index(usize),
    /// `None` until the key has been read.
    Key(Option<String>),
}

impl Path {
    /// Follows the beginning of a document, which is well formed as far as it goes.
    fn walk(&mut self, text: &[u8]) {
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            at += 1;
            match byte {
                b'{' => self.0.push(Step::Key(None)),
                b'[' => self.0.push(Step::Index(0)),
                b'}' | b']' => drop(self.0.pop()),
                b',' => match self.0.last_mut() {
                    Some(Step::Index(index)) => *index += 1,
                    Some(Step::Key(key)) => *key = None,
                    None => {}
                },
                b'"' => {
                    let start = at - 1;
                    while let Some(byte) = text.get(at).filter(|byte| **byte != b'"') {
                        at += if *byte == b'\\' { 2 } else { 1 };
                    }
                    at = (at + 1).min(text.len());
                    if let Some(Step::Key(key @ None)) = self.0.last_mut() {
                        *key = serde_json::from_slice(&text[start..at]).ok();
                    }
                }
                _ => {}
            }
        }
    }

    fn to_text(&self) -> String {
        /// How many characters of a key are shown.
        const LONGEST_KEY: usize = 64;
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                // A number wrapper is not part of the path.
                Step::Key(Some(key)) if key.starts_with("$number") => {}
                Step::Key(Some(key)) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.extend(key.chars().take(LONGEST_KEY));
                }
                Step::Key(None) => {}
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::ejson::from_slice;

    fn explained<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        explain(&from_slice::<T>(text.as_bytes()).unwrap_err(), text.as_bytes())
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "it is never read")]
    enum Colour {
        Red,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "it is never read")]
    struct Named {
        name: Colour,
    }

    #[test]
    fn mismatch_names_expected_seen_and_path() {
        for (text, expected) in [
            (r#"{"a":["x",7]}"#, "expected a string, got a number at `a[1]`"),
            (r#"{"a":["x",{"$numberInt":"7"}]}"#, "expected a string, got an object at `a[1]`"),
            (r#"{"a":[],"b":{"c":1}}"#, "expected an array, got an object at `b`"),
            ("{\"a\":[],\n \"b\\\"c\":[null]}", "expected a string, got null at `b\"c[0]`"),
            ("[1]", "expected an object, got an array"),
        ] {
            assert_eq!(explained::<BTreeMap<String, Vec<String>>>(text), expected);
        }
        assert_eq!(explained::<u8>("{}"), "expected a whole number (u8), got an object");
        assert_eq!(
            explained::<Vec<u8>>("[1,300]"),
            "expected a whole number (u8), got a number that is not one at `[1]`"
        );
        assert_eq!(explained::<Vec<Named>>("[{}]"), "missing field `name` at `[0]`");
        assert_eq!(explained::<Named>("7"), "expected an object (Named), got a number");
    }

    #[test]
    fn explanation_never_quotes_value() {
        assert_eq!(
            explained::<Named>(r#"{"name":"s\"ecret"}"#),
            "unknown variant, expected `Red` at `name`"
        );
        assert!(!explained::<Named>(r#""secret""#).contains("secret"));
        assert!(!explained::<std::net::Ipv4Addr>(r#""secret""#).contains("secret"));
        #[derive(Debug, Deserialize)]
        enum Never {}
        for text in ["secret", "a, expected secret", "a`, there are no variants, expected secret"] {
            assert_eq!(explained::<Never>(&format!("\"{text}\"")), "a value does not fit the type");
        }
    }

    #[test]
    fn syntax_error_keeps_its_position() {
        assert_eq!(explained::<Named>("["), "EOF while parsing a list at line 1 column 1");
    }

    #[test]
    fn path_exists_for_any_position() {
        for text in ["", "\"", "{\"a\\", "]]]", "{{\"a\":[,,\"", "\n\n"] {
            for (line, column) in [(0, 0), (1, 0), (1, 1), (1, 9), (2, 1), (9, 9), (3, 0)] {
                let _ = path_at(text.as_bytes(), line, column);
            }
        }
    }
}
