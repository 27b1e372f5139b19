//! Redacted text: passwords, tokens, API keys.
//!
//! The type redacts itself, so that callers need not. It overwrites its text when it is dropped. It
//! cannot overwrite copies that the allocator or the compiler made earlier; someone who can read the
//! memory of the process may find them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A secret text: a password, a token, the value of an API key. Clones share one copy of it, which
/// is overwritten when the last clone is dropped, as far as safe Rust allows.
///
/// `Debug` prints `Secret(..)`, and there is no `Display`: only [`Secret::expose`] returns the
/// text, so a search for that word finds every place where a program uses it.
///
/// # Examples
///
/// ```
/// use keyfob::Secret;
///
/// let password = Secret::new("correct horse");
/// assert_eq!(password.expose(), "correct horse");
/// assert_eq!(format!("{password:?}"), "Secret(..)");
/// ```
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Secret(Arc<Text>);

/// The text, overwritten with the last of its clones.
#[derive(Eq, Hash, PartialEq)]
struct Text(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Text(text.into())))
    }

    /// Returns the text itself. Keep it out of logs, errors and command lines.
    pub fn expose(&self) -> &str {
        &self.0.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<&Secret> for Secret {
    fn from(secret: &Secret) -> Self {
        secret.clone()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_bytes());
    }
}

/// The body of a request or a response, which is overwritten when it is dropped because it may contain
/// a password or tokens. A large body is not overwritten: bodies with secrets are small.
#[derive(Clone, Default)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    /// The largest body that is overwritten.
    const SMALL: usize = 64 * 1024;

    /// Returns the bytes, which are then not overwritten.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.0.len() <= Self::SMALL {
            wipe(&mut self.0);
        }
    }
}

/// Overwrites a secret.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Otherwise the optimiser may remove the writes above as dead stores.
    std::hint::black_box(bytes);
}
