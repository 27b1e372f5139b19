//! The memory that JSON takes as a tree of values, estimated before the tree is built.

/// Estimates the memory in bytes that JSON takes as `serde_json::Value`. Errs on the high side.
pub(super) fn memory_as_values(text: &[u8]) -> usize {
    /// An object's node has room for eleven fields.
    const OBJECT: usize = 704;
    /// The name, and its share of further nodes.
    const NAME: usize = 160;
    const ARRAY: usize = 160;
    /// An element, plus the same amount of spare capacity.
    const ELEMENT: usize = 64;
    const STRING: usize = 32;
    let mut total = text.len();
    let mut in_string = false;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                in_string = !in_string;
                total = total.saturating_add(if in_string { STRING } else { 0 });
            }
            b'\\' if in_string => {
                bytes.next();
            }
            _ if in_string => {}
            b'{' => total = total.saturating_add(OBJECT),
            b':' => total = total.saturating_add(NAME),
            b'[' => total = total.saturating_add(ARRAY),
            b',' => total = total.saturating_add(ELEMENT),
            _ => {}
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn memory_is_never_underestimated() {
        assert_eq!(size_of::<Value>(), 32, "the estimate counts on it");
        assert!(memory_as_values(br#"{"a":0},"#) > 800);
        assert!(memory_as_values(b"0,") >= 64);
        let text = format!(r#"{{"a":"{}\"[{{,"}}"#, "{[,:".repeat(1000));
        assert!(memory_as_values(text.as_bytes()) < text.len() + 1000, "texts have no values");
    }
}
