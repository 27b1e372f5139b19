//! Why a provider could not verify a login.

use super::fetch;

/// Why a provider could not verify a login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::server) enum ProviderError {
    Refused,
    /// An external server did not return a usable response, for this reason.
    Unreachable(&'static str),
}

impl From<fetch::Unreachable> for ProviderError {
    fn from(fetch::Unreachable(reason): fetch::Unreachable) -> Self {
        Self::Unreachable(reason)
    }
}
