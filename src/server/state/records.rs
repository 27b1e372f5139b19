//! The stored records.

use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A registered e-mail address and password. The first log-in makes it an identity of a user.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct Account {
    /// The id of the identity.
    pub id: String,
    /// The address as registered. Addresses are compared byte by byte.
    pub email: String,
    /// The password hash, in PHC form.
    pub password: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Whether the address is not confirmed yet. Such an account cannot log in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pending: bool,
    /// The newest token that confirms the address; older ones are invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<OneTimeToken>,
    /// The newest token that allows the password to be replaced; older ones are invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<OneTimeToken>,
}

/// A secret that was sent out, and that can be used once within its lifetime.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in crate::server) struct OneTimeToken {
    /// The SHA-256 of the secret.
    pub hash: String,
    /// When the secret expires, in seconds since the epoch.
    pub until: i64,
}

/// An API key of a user.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct ApiKey {
    pub id: String,
    pub user_id: String,
    pub name: String,
    /// The SHA-256 of the key. The key is random, so it needs no slower hash.
    pub hash: String,
    /// Increases with each key of a user.
    pub number: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub disabled: bool,
}

/// A user.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct User {
    pub id: String,
    /// In the order they were linked.
    pub identities: Vec<Identity>,
    /// The profile.
    pub data: Map<String, Value>,
    #[serde(default)]
    pub disabled: bool,
    /// Whether this is the user of a server API key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server: bool,
    /// The custom user data that was set for this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_data: Option<Map<String, Value>>,
    /// Seconds since the epoch.
    pub created_at: i64,
}

/// An identity with which a user logs in.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(in crate::server) struct Identity {
    pub id: String,
    pub provider_type: String,
}

/// The server session behind a refresh token. The token's text is derived from it and is not
/// stored.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct Session {
    pub id: String,
    /// The id of the session that the log-in created. It is this session's id unless refresh tokens
    /// rotate.
    pub login: String,
    pub user_id: String,
    /// The identity that was used to log in.
    pub identity: Identity,
    pub device_id: String,
    /// Seconds since the epoch.
    pub issued_at: i64,
    /// Seconds since the epoch.
    pub expires_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<RotatedTo>,
    #[serde(skip)]
    pub last_use: LastUse,
}

/// When a session was last used, in seconds since the epoch. It is stored only in memory: a session
/// that is in use will be used again after a restart.
#[derive(Default)]
pub(in crate::server) struct LastUse(AtomicI64);

/// The successor of a rotated refresh token.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct RotatedTo {
    /// The id of the successor's session.
    pub by: String,
    /// Until when the old token is accepted, in seconds since the epoch.
    pub until: i64,
}

/// The ids of this deployment, which are constant for the lifetime of its data directory.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::server) struct Deployment {
    /// The client app id of the directory.
    pub client_app_id: String,
    pub app_id: String,
    pub domain_id: String,
    pub group_id: String,
}

impl User {
    pub(in crate::server) fn is_anonymous(&self) -> bool {
        self.identities.iter().all(|identity| identity.provider_type == ANONYMOUS)
    }
}

impl Session {
    /// Returns when the session ends, in seconds since the epoch.
    pub(in crate::server) fn end(&self) -> i64 {
        let replaced = self.replaced.as_ref();
        replaced.map_or(self.expires_at, |replaced| replaced.until.min(self.expires_at))
    }

    /// Returns when the session was last used, or otherwise when it began, in seconds since the
    /// epoch.
    pub(super) fn last_use(&self) -> i64 {
        self.last_use.0.load(Ordering::Relaxed).max(self.issued_at)
    }
}

impl LastUse {
    pub(super) fn note(&self, now: i64) {
        self.0.fetch_max(now, Ordering::Relaxed);
    }
}

impl Clone for LastUse {
    fn clone(&self) -> Self {
        Self(AtomicI64::new(self.0.load(Ordering::Relaxed)))
    }
}

pub(in crate::server) const ANONYMOUS: &str = "anon-user";
pub(in crate::server) const API_KEY: &str = "api-key";
pub(in crate::server) const EMAIL_PASSWORD: &str = "local-userpass";

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
