//! How much a state may hold, and what gives way when it is full.
//!
//! | what | at most | what happens beyond that |
//! | --- | --- | --- |
//! | users | `users` | an anonymous user without a session is removed, or else the log-in is refused |
//! | anonymous users | half of `users` | likewise |
//! | e-mail accounts | `users` | the oldest one that waits for confirmation is removed, or else the registration is refused |
//! | accounts that wait for confirmation | a tenth of `users` | the oldest one is removed |
//! | sessions of a user | `sessions_per_user` | the one that was unused for longest is revoked |
//! | sessions | five times `users` | likewise, of the user with the most sessions |
//! | identities of a user | [`MAX_IDENTITIES`] | linking is refused |
//! | the profile of a user | [`MAX_PROFILE`] | the log-in or link is refused |
//! | API keys of a user | [`MAX_KEYS`](super::MAX_KEYS) | creating one is refused |
//!
//! What has expired goes with every log-in and rotation.

use serde_json::{Map, Value};

/// Identities that a user can link.
pub(in crate::server) const MAX_IDENTITIES: usize = 100;
/// Bytes that a profile can have as JSON.
pub(in crate::server) const MAX_PROFILE: usize = 64 * 1024;

/// The limits that can be set, and what they follow from.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct StateLimits {
    pub users: usize,
    pub sessions_per_user: usize,
    /// Seconds. An anonymous user stays for as long as there may be an access token.
    pub access_lifetime: i64,
}

impl StateLimits {
    pub(super) fn anonymous_users(&self) -> usize {
        (self.users / 2).max(1)
    }

    pub(super) fn pending_accounts(&self) -> usize {
        (self.users / 10).max(1)
    }

    pub(super) fn sessions(&self) -> usize {
        self.users.saturating_mul(5)
    }
}

/// Returns `true` if a profile is small enough to be kept.
pub(in crate::server) fn profile_fits(data: &Map<String, Value>) -> bool {
    serde_json::to_vec(data).is_ok_and(|text| text.len() <= MAX_PROFILE)
}
