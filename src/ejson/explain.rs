//! Messages for a value that does not fit a type: what was expected, what was found, and its path
//! in the document. They never quote the value, which may be a secret.

use serde_json::error::Category;

use super::is_wrapper;

/// Returns why `text` could not be parsed as a type. Leading whitespace does not count as lines.
pub(crate) fn explain(error: &serde_json::Error, text: &[u8]) -> String {
    let path = match error.classify() {
        Category::Data => path_at(text.trim_ascii_start(), error.line(), error.column()),
        _ => None,
    };
    let Some(path) = path else { return reason(error, None) };
    let reason = reason(error, path.entered.as_deref());
    match path.to_text() {
        path if path.is_empty() => reason,
        path => format!("{reason} at `{path}`"),
    }
}

/// Returns the message of an error. `first_key` is that of the object at the error's position.
fn reason(error: &serde_json::Error, first_key: Option<&str>) -> String {
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
        let wrapped = first_key.filter(|_| kind == "map").and_then(wrapper_word);
        let Some(seen) = wrapped.or_else(|| seen_word(kind)) else { return unfit() };
        let seen = match (kind, is_of_another_type) {
            ("floating point", true) if is_integer(expected) => "a floating-point number",
            (_, true) => seen,
            ("integer", false) if is_integer(expected) => "a number out of its range",
            (_, false) => &format!("{seen} that is not one"),
        };
        return format!("expected {}, got {seen}", expected_words(expected));
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

/// Names the value that a wrapper of extended JSON stands for.
fn wrapper_word(first_key: &str) -> Option<&'static str> {
    Some(match first_key {
        "$binary" => "binary data",
        "$code" => "JavaScript code",
        "$date" => "a date",
        "$numberDecimal" => "a decimal number",
        "$numberDouble" | "$numberInt" | "$numberLong" => "a number",
        "$oid" => "an object id",
        "$regularExpression" => "a regular expression",
        "$symbol" => "a symbol",
        "$timestamp" => "a timestamp",
        "$uuid" => "a UUID",
        _ => return None,
    })
}

/// Returns `true` if serde expected an integer type.
fn is_integer(expected: &str) -> bool {
    let bits = expected.strip_prefix(['i', 'u']);
    bits.is_some_and(|bits| ["8", "16", "32", "64", "128"].contains(&bits))
}

/// Translates serde's description of the expected value to JSON's terms.
fn expected_words(expected: &str) -> String {
    match expected {
        "a map" => "an object".to_owned(),
        "a sequence" => "an array".to_owned(),
        "unit" => "null".to_owned(),
        _ if is_integer(expected) => format!("a whole number ({expected})"),
        "f32" | "f64" => format!("a number ({expected})"),
        _ => match expected.strip_prefix("struct ") {
            Some(name) => format!("an object ({name})"),
            None => expected.to_owned(),
        },
    }
}

/// Returns the path of the value at a line and a column, both counted from one. `None` without a
/// position.
fn path_at(text: &[u8], line: usize, column: usize) -> Option<Path> {
    let start = match line.checked_sub(1)? {
        0 => 0,
        breaks => {
            text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(breaks - 1)?.0 + 1
        }
    };
    let end = start.checked_add(column)?.min(text.len());
    let end = end + usize::from(text.get(end) == Some(&b'{'));
    let mut path = Path::default();
    path.walk(text, end);
    Some(path)
}

/// A position in a document.
#[derive(Default)]
struct Path {
    steps: Vec<Step>,
    /// The first key of an object, if the position is at the object's beginning.
    entered: Option<String>,
}

enum Step {
    Index(usize),
    /// `None` until the key has been read.
    Key(Option<String>),
}

impl Path {
    /// Follows a document to its byte `end`. The document is well formed up to there.
    fn walk(&mut self, text: &[u8], end: usize) {
        let mut at = 0;
        // Where the object starts of which at most the first key has been read.
        let mut entered = None;
        while at < end {
            let byte = text[at];
            at += 1;
            entered = match byte {
                b'{' => Some(at),
                b'"' | b' ' | b'\t' | b'\r' | b'\n' => entered,
                _ => None,
            };
            match byte {
                b'{' => self.steps.push(Step::Key(None)),
                b'[' => self.steps.push(Step::Index(0)),
                b'}' | b']' => drop(self.steps.pop()),
                b',' => match self.steps.last_mut() {
                    Some(Step::Index(index)) => *index += 1,
                    Some(Step::Key(key)) => *key = None,
                    None => {}
                },
                b'"' => {
                    let string = string(&text[at - 1..end]);
                    at += string.len() - 1;
                    if let Some(Step::Key(key @ None)) = self.steps.last_mut() {
                        *key = serde_json::from_slice(string).ok();
                    }
                }
                _ => {}
            }
        }
        if let Some(start) = entered {
            self.steps.pop();
            let key = string(text[start..].trim_ascii_start());
            self.entered = serde_json::from_slice(key).ok();
        }
    }

    /// Formats the path, such as `items[3].name`. It is empty for the document itself.
    fn to_text(&self) -> String {
        /// How many characters of a key are shown.
        const LONGEST_KEY: usize = 64;
        let mut text = String::new();
        for step in &self.steps {
            match step {
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                // A wrapper is not part of the path.
                Step::Key(Some(key)) if is_wrapper(key) => {}
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

/// Returns the string at the start of a text, with its quotes.
fn string(text: &[u8]) -> &[u8] {
    let mut at = 1;
    while let Some(byte) = text.get(at).filter(|byte| **byte != b'"') {
        at += if *byte == b'\\' { 2 } else { 1 };
    }
    text.get(..=at).unwrap_or(text)
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
            (r#"{"a":["x",{"$numberInt":"7"}]}"#, "expected a string, got a number at `a[1]`"),
            (r#"{"a":[{"$oid":"secret"}]}"#, "expected a string, got an object id at `a[0]`"),
            (r#"{"a":[{"b":"secret"}]}"#, "expected a string, got an object at `a[0]`"),
            (r#"{"a":{ "$date":"secret"}}"#, "expected an array, got a date at `a`"),
            (r#"{"a":[],"b":{"c":1}}"#, "expected an array, got an object at `b`"),
            ("{\"a\":[],\n \"b\\\"c\":[null]}", "expected a string, got null at `b\"c[0]`"),
            ("[1]", "expected an object, got an array"),
        ] {
            assert_eq!(explained::<BTreeMap<String, Vec<String>>>(text), expected);
        }
        assert_eq!(explained::<u8>("{}"), "expected a whole number (u8), got an object");
        assert_eq!(
            explained::<Vec<u8>>("[1,300]"),
            "expected a whole number (u8), got a number out of its range at `[1]`"
        );
        for text in ["1.5", r#"{"$numberDouble":"1.5"}"#] {
            let message = "expected a whole number (i64), got a floating-point number";
            assert_eq!(explained::<i64>(text), message);
        }
        assert_eq!(explained::<Vec<Named>>("[{}]"), "missing field `name` at `[0]`");
        assert_eq!(explained::<Named>("7"), "expected an object (Named), got a number");
    }

    #[test]
    fn wrapper_is_named_as_its_type() {
        for (text, seen) in [
            (r#"{"$binary":{"base64":"secret","subType":"00"}}"#, "binary data"),
            (r#"{"$date":{"$numberLong":"0"}}"#, "a date"),
            (r#"{"$numberDecimal":"1.5"}"#, "a decimal number"),
            (r#"{"$oid":"507f1f77bcf86cd799439011"}"#, "an object id"),
            (r#"{"$uuid":"secret"}"#, "a UUID"),
            (r#"{"secret":1}"#, "an object"),
            (r#"{"first":1,"$oid":"secret"}"#, "an object"),
            ("{}", "an object"),
        ] {
            assert_eq!(explained::<String>(text), format!("expected a string, got {seen}"));
            assert_eq!(explained::<u8>(text), format!("expected a whole number (u8), got {seen}"));
            assert_eq!(explained::<bool>(text), format!("expected a boolean, got {seen}"));
            let list = format!("[1, {text}]");
            assert_eq!(
                explained::<Vec<f32>>(&list),
                format!("expected a number (f32), got {seen} at `[1]`")
            );
        }
        for text in
            [r#"{"$numberInt":"7"}"#, r#"{"$numberDouble":"7.0"}"#, "\n{\n\"$numberLong\": 7}"]
        {
            assert_eq!(explained::<String>(text), "expected a string, got a number");
            assert_eq!(explained::<Vec<u8>>(text), "expected an array, got a number");
        }
        assert_eq!(
            explained::<u8>(r#"{"$numberInt":"300"}"#),
            "expected a whole number (u8), got a number out of its range"
        );
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
