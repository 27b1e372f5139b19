//! Limits on the users and sessions that the server keeps.

use super::ServerBuilder;

impl ServerBuilder {
    /// Sets the maximum number of users, and of e-mail accounts. Defaults to 100,000; a user with
    /// an account and a session takes about 2 KiB of memory. Zero counts as one.
    ///
    /// Log-ins and registrations that would exceed the limit get status 403. At most half of all
    /// users may be anonymous, so that anonymous users cannot block registration. At most a tenth
    /// of the accounts may be pending confirmation; beyond that, a registration removes the account
    /// that has been pending longest.
    ///
    /// An anonymous user whose last server session has ended cannot log in again. The server
    /// removes such a user when its access tokens have expired, or earlier to make room.
    ///
    /// An attacker who creates this many users blocks registration until you raise the limit.
    /// [`rate_limits`](Self::rate_limits) only delay that. To prevent it, disable
    /// [registration](Self::disable_registration) or [providers](Self::disable_provider).
    pub fn max_users(mut self, users: usize) -> Self {
        self.max_users = users;
        self
    }

    /// Sets the maximum number of server sessions of a user. Defaults to 1,000. Zero counts as one.
    ///
    /// A log-in beyond that revokes the user's session that has been unused for longest. Its
    /// refresh token then gets status 401 with the code `InvalidSession`, which logs the user out
    /// on that device. Replaced refresh tokens within their [grace period](Self::rotation_grace)
    /// count as sessions and are revoked first.
    ///
    /// In total there may be five times as many sessions as [users](Self::max_users). A log-in
    /// beyond that revokes a session of the user with the most sessions.
    pub fn max_sessions_per_user(mut self, sessions: usize) -> Self {
        self.max_sessions_per_user = sessions;
        self
    }
}
