//! The discovery document of an OpenID Connect provider, which locates its keys.
//!
//! Source: OpenID Connect Discovery 1.0, sections 3 and 4.

use std::io;

use super::fetch::{Remote, Unreachable};

/// Longer issuers are rejected, because identities store them.
const MAX_ISSUER: usize = 512;

/// Returns an error about the settings of an issuer.
pub(super) fn invalid(issuer: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the issuer {issuer:?} {what}"))
}

/// An issuer. Its discovery document is fetched when it is needed.
pub(super) struct Discovery {
    issuer: String,
    remote: Remote,
}

impl Discovery {
    /// Accepts an issuer as in its tokens: `https`, or `http` to this machine.
    pub(super) fn new(issuer: String) -> io::Result<Self> {
        let is_url_character = |byte: u8| byte.is_ascii_graphic() && !b"?#\\@".contains(&byte);
        if issuer.len() > MAX_ISSUER || !issuer.bytes().all(is_url_character) {
            return Err(invalid(&issuer, "is not a URL without a user name, query and fragment"));
        }
        let base = issuer.strip_suffix('/').unwrap_or(&issuer);
        let remote = Remote::new(format!("{base}/.well-known/openid-configuration"));
        let remote =
            remote.map_err(|error| invalid(&issuer, &format!("cannot be asked: {error}")))?;
        Ok(Self { issuer, remote })
    }

    /// Fetches the document, and returns the location of the keys.
    pub(super) fn jwks(&self) -> Result<Remote, Unreachable> {
        let (status, document) = self.remote.get(&[], None)?;
        if status != 200 {
            return Err(Unreachable("the status of its discovery document is not 200"));
        }
        if document["issuer"].as_str() != Some(&self.issuer) {
            return Err(Unreachable("its discovery document names another issuer"));
        }
        let unusable = Unreachable("its discovery document names no usable URL of keys");
        let url = document["jwks_uri"].as_str().ok_or(unusable)?;
        // A remote provider must not make this server send requests to itself or to its local
        // network.
        if self.issuer.starts_with("https:") && !url.starts_with("https:") {
            return Err(unusable);
        }
        Remote::new(url.to_owned()).map_err(|_| unusable)
    }
}
