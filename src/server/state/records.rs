//! What is kept, as it is kept.

use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An e-mail address and a password that were registered. It becomes an identity of a user with
/// the first log-in.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct Account {
    /// The id of the identity.
    pub id: String,
    /// The address, as registered: it is compared to the letter.
    pub email: String,
    /// The hash, in PHC form.
    pub password: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Whether the address still waits to be confirmed. Such an account cannot be logged in with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pending: bool,
    /// What confirms the address: the newest one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<OneTimeToken>,
    /// What lets the password be replaced: the newest one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<OneTimeToken>,
}

/// A secret that was handed out and can be brought back, once and for a while.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in crate::server) struct OneTimeToken {
    /// The SHA-256 of the secret.
    pub hash: String,
    /// From when on it is worth nothing, in seconds since the epoch.
    pub until: i64,
}

/// An API key of a user.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct ApiKey {
    pub id: String,
    pub user_id: String,
    pub name: String,
    /// The SHA-256 of the key, which is random and needs no slower hash.
    pub hash: String,
    /// Grows from one key of a user to the next.
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

/// One way in which a user logs in.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(in crate::server) struct Identity {
    pub id: String,
    pub provider_type: String,
}

/// What stands behind a refresh token. The token's text follows from it and is not kept.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct Session {
    pub id: String,
    /// The id of the session that the log-in made; its own unless refresh tokens rotate.
    pub login: String,
    pub user_id: String,
    /// The identity that was used.
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

/// When a session was last used, in seconds since the epoch. It is in memory alone: a session that
/// is in use will be used again after a restart.
#[derive(Default)]
pub(in crate::server) struct LastUse(AtomicI64);

/// That a rotated refresh token has a successor.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::server) struct RotatedTo {
    /// The id of the successor's session.
    pub by: String,
    /// Until when the old token is still answered, in seconds since the epoch.
    pub until: i64,
}

/// The names of this deployment, which stay the same for as long as its data directory.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::server) struct Deployment {
    /// The client app id that the directory belongs to.
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
    /// Returns the moment from which it answers nothing any more, in seconds since the epoch.
    pub(in crate::server) fn end(&self) -> i64 {
        let replaced = self.replaced.as_ref();
        replaced.map_or(self.expires_at, |replaced| replaced.until.min(self.expires_at))
    }

    /// Returns when it was last used, or else began, in seconds since the epoch.
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
