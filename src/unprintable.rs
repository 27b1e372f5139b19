//! Invisible characters, which must not be printed to a terminal and which no key or token contains.
//!
//! The library and the command each compile this file, because the command uses only the public API.

/// Removes white space and invisible characters from both ends. A key or token has some when it was
/// pasted or read from a file.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_whitespace() || is_unprintable(character))
}

/// Returns `true` for control characters, line and paragraph separators, characters that change the
/// direction of text, and all other invisible characters.
///
/// Source: Unicode, the general categories Cc, Zl, Zp and Cf without those signs of Arabic, Syriac
/// and Kaithi that are visible; and `Default_Ignorable_Code_Point` without U+FE0E and U+FE0F, which
/// only choose between the two forms of an emoji.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0d}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{13430}'..='\u{13438}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_token_is_trimmed_on_both_sides() {
        for text in ["k", " k\t", "\u{feff}k", "\r\n\r\nk\r\n\r\n", "\u{200b}k\u{a0}\u{2028}"] {
            assert_eq!(trim(text), "k", "{text:?}");
        }
        assert_eq!(trim(" \u{feff}\n"), "");
        assert_eq!(trim("a b"), "a b");
    }
}
