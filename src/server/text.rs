//! Text from clients and providers that is kept, shown and mailed.

/// Returns `true` if a text has no characters that break lines, end strings, or change how a
/// terminal or a mail program shows what comes after them: control characters, line and paragraph
/// separators, and bidirectional controls.
pub(super) fn is_plain(text: &str) -> bool {
    !text.chars().any(|character| {
        character.is_control()
            || matches!(
                character,
                '\u{61c}'
                    | '\u{200e}'
                    | '\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2066}'..='\u{2069}'
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found() {
        for good in ["", "Ann O'Neil <ann+x@example.org>", "\u{e4}\u{690d}", "a\u{200d}b"] {
            assert!(is_plain(good), "{good:?}");
        }
        for bad in ["a\r\nb", "a\0", "\u{7f}", "\u{85}", "\u{2028}", "a\u{202e}b", "\u{2066}", "\t"]
        {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
