//! Random secrets, and the code challenge of a verifier (PKCE, RFC 7636).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, Result};
use crate::secret::{Secret, wipe};

/// Returns 256 random bits, as 43 characters that need no encoding in a URL.
pub(super) fn secret() -> Result<Secret> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::config("the system's random number generator", "it failed"))?;
    let secret = Secret::new(URL_SAFE_NO_PAD.encode(bytes));
    wipe(&mut bytes);
    Ok(secret)
}

/// Returns the S256 code challenge of a verifier.
pub(super) fn challenge(verifier: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.expose().as_bytes()))
}

/// Compares two texts in constant time.
pub(super) fn same(one: &str, other: &str) -> bool {
    let differs = one.bytes().zip(other.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code challenge is the one of the standard's example.
    #[test]
    fn challenge_matches_rfc_7636() {
        // RFC 7636, appendix B.
        let verifier = Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn secrets_differ_and_need_no_encoding() {
        let (one, other) = (secret().unwrap(), secret().unwrap());
        assert_ne!(one, other);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        assert!(one.expose().len() == 43 && one.expose().bytes().all(allowed));
        assert!(same(one.expose(), one.expose()) && !same(one.expose(), other.expose()));
        assert!(!same("a", "ab") && !same("", "a"));
    }
}
