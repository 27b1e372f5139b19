//! Text from clients and providers that is stored, displayed and mailed.

/// Returns `true` if a text has no control characters. They break lines of mails and logs, and
/// terminate strings in other programs.
pub(super) fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found() {
        for good in ["", "Ann O'Neil <ann+x@example.org>", "\u{e4}\u{690d}", "a\u{200d}b"] {
            assert!(is_plain(good), "{good:?}");
        }
        for bad in ["a\r\nb", "a\0", "\u{7f}", "\u{85}", "\u{9b}31m", "\t"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
