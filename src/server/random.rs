//! Unpredictable ids and keys.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hmac;

/// Returns bytes from the operating system's generator.
pub(super) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// Returns an id in the backend's format: 24 lower-case hexadecimal digits.
pub(super) fn id() -> io::Result<String> {
    Ok(hex(&bytes::<12>()?))
}

/// Request ids. They are unique and unpredictable, because an id gives access to the log of its
/// request.
pub(super) struct Ids {
    key: hmac::Key,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> io::Result<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes::<32>()?);
        Ok(Self { key, next: AtomicU64::new(1) })
    }

    pub(super) fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut id = hex(hmac::sign(&self.key, &number).as_ref());
        id.truncate(24);
        id
    }
}

/// Returns random lower-case letters.
pub(super) fn letters(count: usize) -> io::Result<String> {
    let mut text = String::with_capacity(count);
    while text.len() < count {
        for byte in bytes::<16>()? {
            // 234 is the largest multiple of 26 that fits in a byte. Larger bytes would favour some
            // letters.
            if byte < 234 && text.len() < count {
                text.push(char::from(b'a' + byte % 26));
            }
        }
    }
    Ok(text)
}

/// Returns `true` if a text has the form of [`id`].
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_object_ids() {
        let (one, two) = (id().unwrap(), id().unwrap());
        assert!(is_id(&one) && is_id(&two));
        assert_ne!(one, two);
        assert_eq!(hex(&[0, 0x5a, 0xff]), "005aff");
        assert!(!is_id("5f") && !is_id(&"A".repeat(24)));
    }

    #[test]
    fn random_letters_are_alphabetic() {
        let text = letters(40).unwrap();
        assert!(text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_lowercase()));
    }
}
