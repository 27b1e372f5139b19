//! How many users and sessions the server keeps.

use super::ServerBuilder;

impl ServerBuilder {
    /// Sets how many users there may be, and how many e-mail accounts. Defaults to 100,000; a user
    /// with an account and a session takes about 2 KiB of memory. Zero counts as one.
    ///
    /// Log-ins and registrations that would create one more get status 403. Anonymous users may be
    /// half of all users, so that they cannot keep people from registering. At most a tenth of the
    /// accounts may wait for confirmation: beyond that a registration removes the one that has
    /// waited longest.
    ///
    /// Nobody can log in as an anonymous user whose last server session has ended. The server
    /// removes such a user when its access tokens have expired, or earlier to make room.
    ///
    /// Someone who creates this many users keeps others from registering until you raise the limit.
    /// [`rate_limits`](Self::rate_limits) delay that; only switching off
    /// [registration](Self::disable_registration) or [providers](Self::disable_provider) prevents
    /// it.
    pub fn max_users(mut self, users: usize) -> Self {
        self.max_users = users;
        self
    }

    /// Sets how many server sessions a user may have. Defaults to 1,000. Zero counts as one.
    ///
    /// A log-in beyond that revokes the session of the same user that has been unused for longest:
    /// its refresh token gets status 401 with the code `InvalidSession`, which logs the user out on
    /// that device. Replaced refresh tokens within their [grace period](Self::rotation_grace) count
    /// as sessions and are revoked first.
    ///
    /// In total there may be five times as many sessions as [users](Self::max_users). A log-in
    /// beyond that revokes a session of the user with the most sessions.
    pub fn max_sessions_per_user(mut self, sessions: usize) -> Self {
        self.max_sessions_per_user = sessions;
        self
    }
}
