//! Rate limits: how often clients may perform actions that can be used to guess secrets or to flood
//! the server. `throttle` does the counting.

use std::time::Duration;

/// How often one kind of action is allowed; a field of [`RateLimits`].
///
/// Each of the three limits is counted separately, and an action must be within all of them. `None`
/// is no limit; zero counts as one. A client over a limit gets status 429 and `Retry-After`.
/// Rejected requests do not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RateLimit {
    /// The limit for one account, from all addresses.
    pub per_account: Option<u32>,
    /// The limit for one client address. An IPv6 client is counted by its /64 network. For servers
    /// behind a proxy see
    /// [`ServerBuilder::trusted_proxies`](super::ServerBuilder::trusted_proxies).
    pub per_address: Option<u32>,
    /// The limit for all clients together. It stops attacks from many addresses, but such an attack
    /// locks out all other clients until it ends.
    pub total: Option<u32>,
    /// How long an action counts: a sliding window by the server's [clock](super::Server::clock).
    /// The server stores exact times for the newest 64 actions of an account or an address. Beyond
    /// that, times have a resolution of 1/64 of the window.
    pub window: Duration,
}

impl RateLimit {
    /// No limit.
    pub const NONE: Self = Self::new(None, None, None, 15);

    const fn new(
        per_account: Option<u32>,
        per_address: Option<u32>,
        total: Option<u32>,
        minutes: u64,
    ) -> Self {
        let window = Duration::from_secs(minutes * 60);
        Self { per_account, per_address, total, window }
    }
}

/// How often clients may log in, register and ask for mails; set with
/// [`ServerBuilder::rate_limits`](super::ServerBuilder::rate_limits).
///
/// Log-ins with credentials and attempts with mailed tokens count only if they fail, because
/// successful ones are not guesses. A log-in with the correct password clears the account's
/// failures. Linking counts like logging in. All other actions count whether they succeed or fail.
///
/// | | per account | per address | in total | within |
/// | --- | --- | --- | --- | --- |
/// | [`anonymous_logins`](Self::anonymous_logins) | | 500 | 10,000 | 15 min |
/// | [`api_key_logins`](Self::api_key_logins), failed | | 100 | 5,000 | 15 min |
/// | [`function_logins`](Self::function_logins), failed | 20 | 100 | 5,000 | 15 min |
/// | [`mail_tokens`](Self::mail_tokens), failed | 20 | 100 | 5,000 | 15 min |
/// | [`mails`](Self::mails) | 10 | 100 | 1,000 | 60 min |
/// | [`password_logins`](Self::password_logins), failed | 20 | 200 | 5,000 | 15 min |
/// | [`provider_logins`](Self::provider_logins), failed | | 100 | 5,000 | 15 min |
/// | [`registrations`](Self::registrations) | | 100 | 5,000 | 15 min |
///
/// These are the defaults of `keyfob serve` and of a server that other machines can reach. A server
/// in a test handles thousands of log-ins from one address; its defaults are
/// [`RateLimits::in_process`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use keyfob::server::{RateLimits, Server};
///
/// let mut limits = RateLimits::default();
/// limits.registrations.per_address = Some(5);
/// limits.registrations.window = Duration::from_secs(3600);
/// let server = Server::builder().rate_limits(limits).start()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RateLimits {
    /// Anonymous log-ins. Each one creates a user.
    pub anonymous_logins: RateLimit,
    /// Failed log-ins with an API key. They have no account.
    pub api_key_logins: RateLimit,
    /// Failed log-ins with the app's [function](super::ServerBuilder::auth_function). The account
    /// is the first of the payload's fields `username`, `email`, `user`, `name` and `id` that is a
    /// text or a number. Without any of them, only the other two limits apply.
    pub function_logins: RateLimit,
    /// Failed attempts to confirm an address or to set a new password with a mailed token. The
    /// account is the one that the token's id names.
    pub mail_tokens: RateLimit,
    /// Requests for a confirmation or password-reset mail, and calls of the
    /// [functions](super::Confirmation::Function) that an app can use in place of mails.
    pub mails: RateLimit,
    /// Failed log-ins with an e-mail address and a password.
    pub password_logins: RateLimit,
    /// Failed log-ins with credentials from another provider: JWTs, and the tokens and codes of
    /// Google, Apple and Facebook. Attempts that fail because the provider did not respond do not
    /// count.
    pub provider_logins: RateLimit,
    /// Registrations of e-mail addresses, including addresses that are already registered.
    pub registrations: RateLimit,
}

impl RateLimits {
    /// The defaults of a server on a loopback address, such as in a test. Failed attempts, and
    /// mails per account, are limited as by [`default`](Self::default). There is no limit on
    /// anonymous log-ins, registrations or mails per address, and no limit in total.
    pub fn in_process() -> Self {
        let limits = Self::default();
        let without_total = |limit: RateLimit| RateLimit { total: None, ..limit };
        Self {
            anonymous_logins: RateLimit::NONE,
            api_key_logins: without_total(limits.api_key_logins),
            function_logins: without_total(limits.function_logins),
            mail_tokens: without_total(limits.mail_tokens),
            mails: RateLimit { per_address: None, total: None, ..limits.mails },
            password_logins: without_total(limits.password_logins),
            provider_logins: without_total(limits.provider_logins),
            registrations: RateLimit::NONE,
        }
    }

    /// No limits at all, for benchmarks and load tests.
    pub fn off() -> Self {
        Self {
            anonymous_logins: RateLimit::NONE,
            api_key_logins: RateLimit::NONE,
            function_logins: RateLimit::NONE,
            mail_tokens: RateLimit::NONE,
            mails: RateLimit::NONE,
            password_logins: RateLimit::NONE,
            provider_logins: RateLimit::NONE,
            registrations: RateLimit::NONE,
        }
    }
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            anonymous_logins: RateLimit::new(None, Some(500), Some(10_000), 15),
            api_key_logins: RateLimit::new(None, Some(100), Some(5_000), 15),
            function_logins: RateLimit::new(Some(20), Some(100), Some(5_000), 15),
            mail_tokens: RateLimit::new(Some(20), Some(100), Some(5_000), 15),
            mails: RateLimit::new(Some(10), Some(100), Some(1_000), 60),
            password_logins: RateLimit::new(Some(20), Some(200), Some(5_000), 15),
            provider_logins: RateLimit::new(None, Some(100), Some(5_000), 15),
            registrations: RateLimit::new(None, Some(100), Some(5_000), 15),
        }
    }
}
