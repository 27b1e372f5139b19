//! Events: changes to users, with their old and new values and their reasons.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::credentials::Provider;
use crate::id::UserId;

/// A change to the users of a session, made in this process or by another process that shares the
/// store. The events of one user come in the order of the commits.
///
/// The manual page [`events`](crate::manual::design::events) lists which operation emits which
/// events. An event serialises to an object with the field `event`.
///
/// # Examples
///
/// ```
/// use keyfob::{Event, LogoutReason};
///
/// fn describe(event: &Event) -> String {
///     match event {
///         Event::LoggedIn { user, provider } => format!("{user} logged in with {provider}"),
///         Event::LoggedOut { user, reason: LogoutReason::Requested } => format!("{user} left"),
///         Event::LoggedOut { user, .. } => format!("{user} has to log in again"),
///         Event::Lagged => "read everything again".to_owned(),
///         other => format!("{other:?}"),
///     }
/// }
/// # assert_eq!(describe(&Event::Lagged), "read everything again");
/// ```
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The current user has changed.
    CurrentUserChanged {
        /// The previous current user, if there was one.
        from: Option<UserId>,
        /// The new current user, if there is one.
        to: Option<UserId>,
    },
    /// An account was attached to a user, or was already attached. Identities and profile are up to
    /// date.
    IdentityLinked {
        /// The user.
        user: UserId,
        /// The account's provider.
        provider: Provider,
    },
    /// Events were lost because the queue or the store cannot hold more. Read the state again.
    Lagged,
    /// A user has logged in. Profile and identities are stored.
    LoggedIn {
        /// The user.
        user: UserId,
        /// The provider of the log-in.
        provider: Provider,
    },
    /// A user no longer has tokens, but is still known here.
    LoggedOut {
        /// The user.
        user: UserId,
        /// The reason.
        reason: LogoutReason,
    },
    /// A user's login will end soon: the refresh token has less than a week left, or less than a
    /// tenth of its lifetime if that is shorter. Only another log-in replaces it. Emitted at most
    /// once a day.
    LoginEnding {
        /// The user.
        user: UserId,
        /// When the login ends, by the backend's clock; serialised as whole seconds since the
        /// epoch.
        #[serde(with = "seconds")]
        ends_at: SystemTime,
    },
    /// A user's profile or identities have changed.
    ProfileChanged {
        /// The user.
        user: UserId,
    },
    /// A user is no longer known here.
    Removed {
        /// The user.
        user: UserId,
        /// The reason.
        reason: RemovalReason,
    },
    /// The database was damaged. The session continues with the users in the snapshot: the most
    /// recently used ones, as of the last commit in the snapshot. Other users may be missing.
    StoreDamaged {
        /// Where the damaged database is kept.
        kept: String,
    },
    /// The store has lost commits that this session had read, because a server returned to an
    /// earlier state. Users and tokens may be older, or missing.
    StoreRolledBack,
    /// A user has a new access token.
    TokenRefreshed {
        /// The user.
        user: UserId,
        /// When the new token expires, by the backend's clock; serialised as whole seconds since
        /// the epoch.
        #[serde(with = "seconds")]
        expires_at: SystemTime,
    },
    /// A user's new tokens could not be stored. This process keeps them in memory and uses them.
    /// Its next successful commit stores them and emits [`TokenRefreshed`](Self::TokenRefreshed).
    ///
    /// Emitted once, when the failure begins, to listeners of this process only. If the process
    /// ends before the tokens are stored and the backend rotates refresh tokens, the user has to
    /// log in again.
    TokensUnpersisted {
        /// The user.
        user: UserId,
        /// The error that prevented storing them.
        reason: String,
    },
}

/// The reason for a log-out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum LogoutReason {
    /// The program requested it.
    Requested,
    /// The backend definitely refused the refresh token: it has expired or was revoked.
    SessionEnded,
    /// The backend has disabled the user.
    UserDisabled,
}

/// The reason for a removal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum RemovalReason {
    /// An anonymous user logged out: it is not possible to log in as the same user again.
    AnonymousLogout,
    /// This program deleted the user on the backend.
    Deleted,
    /// The program requested it.
    Requested,
}

impl Event {
    /// Returns the user that the event is about, or `None` for events about the session.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::CurrentUserChanged { .. }
            | Self::Lagged
            | Self::StoreDamaged { .. }
            | Self::StoreRolledBack => None,
            Self::IdentityLinked { user, .. }
            | Self::LoggedIn { user, .. }
            | Self::LoggedOut { user, .. }
            | Self::LoginEnding { user, .. }
            | Self::ProfileChanged { user }
            | Self::Removed { user, .. }
            | Self::TokenRefreshed { user, .. }
            | Self::TokensUnpersisted { user, .. } => Some(user),
        }
    }
}

/// Times as whole seconds since the epoch.
mod seconds {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let seconds = Duration::from_secs(u64::deserialize(from)?);
        UNIX_EPOCH
            .checked_add(seconds)
            .ok_or_else(|| serde::de::Error::custom("expected a time that can be counted"))
    }
}
