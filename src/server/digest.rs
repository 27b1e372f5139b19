//! Fast hashes, for secrets that are already random.

use aws_lc_rs::{digest, hmac};

use super::random;

/// Returns the SHA-256 of a text, in hexadecimal digits.
pub(super) fn sha256(text: &str) -> String {
    random::hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Returns the HMAC-SHA-256 of a text, in hexadecimal digits.
pub(super) fn hmac_sha256(key: &str, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    random::hex(hmac::sign(&key, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_match_standard_vectors() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256("abc"), abc);
        // RFC 4231, test case 2.
        let mac = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hmac_sha256("Jefe", "what do ya want for nothing?"), mac);
    }
}
