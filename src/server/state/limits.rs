//! Limits on the state, and what is removed or rejected at each limit.
//!
//! | what | at most | what happens beyond that |
//! | --- | --- | --- |
//! | users | `users` | an anonymous user without a session is removed, or else the log-in is rejected |
//! | anonymous users | half of `users` | the same |
//! | e-mail accounts | `users` | the oldest account pending confirmation is removed, or else the registration is rejected |
//! | accounts pending confirmation | a tenth of `users` | the oldest one is removed |
//! | sessions of a user | `sessions_per_user` | the one that has been unused for longest is revoked |
//! | sessions | five times `users` | the same, for the user with the most sessions |
//! | identities of a user | [`MAX_IDENTITIES`] | linking is rejected |
//! | the profile of a user | [`MAX_PROFILE`] | the log-in or link is rejected |
//! | API keys of a user | [`MAX_KEYS`](super::MAX_KEYS) | creating a key is rejected |
//!
//! Each log-in and rotation also removes expired records.

use serde_json::{Map, Value};

/// Maximum number of identities of a user.
pub(in crate::server) const MAX_IDENTITIES: usize = 100;
/// Maximum size of a profile as JSON, in bytes.
pub(in crate::server) const MAX_PROFILE: usize = 64 * 1024;

/// Maximum number of expired sessions, and of abandoned users, that one new session removes.
pub(super) const PRUNED_AT_ONCE: usize = 16;

/// The configurable limits, and the values that they depend on.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct StateLimits {
    pub users: usize,
    pub sessions_per_user: usize,
    /// In seconds. An anonymous user is kept while one of its access tokens may be valid.
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

/// Returns `true` if a profile is small enough to be stored.
pub(in crate::server) fn profile_fits(data: &Map<String, Value>) -> bool {
    serde_json::to_vec(data).is_ok_and(|text| text.len() <= MAX_PROFILE)
}
