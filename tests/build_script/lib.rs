//! Knows what the build script was told.

/// The answer, as text.
pub const ANSWER: &str = env!("ANSWER");

const _: () = assert!(ANSWER.len() == 2 && ANSWER.as_bytes()[0] == b'4' && ANSWER.as_bytes()[1] == b'2');
