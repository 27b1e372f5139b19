//! How often clients may do what can be guessed or flooded, and who counts as a client.

use std::net::IpAddr;

use super::ServerBuilder;
use crate::server::RateLimits;

impl ServerBuilder {
    /// Sets how often clients may log in, register and ask for mails. Requests over a limit get
    /// status 429 and `Retry-After`.
    ///
    /// Defaults to [`RateLimits::in_process`] for a server on a loopback address without
    /// [`public_url`](Self::public_url) and [`trusted_proxies`](Self::trusted_proxies), and to
    /// [`RateLimits::default`] otherwise. [`RateLimits::off`] switches all of them off.
    pub fn rate_limits(mut self, limits: RateLimits) -> Self {
        self.rate_limits = Some(limits);
        self
    }

    /// Sets the limits of [`RateLimits::password_logins`]: how many failed log-ins with a password
    /// an account may have within 15 minutes, and ten times as many for an address. Further
    /// attempts get status 429 and `Retry-After`, whether the password is right or not. `None` sets
    /// no limit, not even in total; zero counts as one. Defaults to 20.
    pub fn login_attempts(mut self, attempts: Option<u32>) -> Self {
        self.login_attempts = Some(attempts);
        self
    }

    /// Sets the addresses of reverse proxies in front of this server. For a request from one of
    /// them, rate limits count the right-most address in `X-Forwarded-For` that is not a trusted
    /// proxy. If the header is missing or malformed up to there, they count the address of the
    /// proxy. From all other addresses the header is ignored. None by default.
    ///
    /// Name only proxies that append the address they see, as nginx, Caddy and HAProxy can. If a
    /// trusted proxy passes on what clients send, each client can pretend to be many.
    pub fn trusted_proxies(mut self, proxies: impl IntoIterator<Item = IpAddr>) -> Self {
        self.trusted_proxies = proxies.into_iter().collect();
        self
    }

    /// Returns the limits that were set, or the defaults for this server.
    pub(super) fn effective_rate_limits(&self) -> RateLimits {
        let is_in_process = self.addr.ip().to_canonical().is_loopback()
            && self.public_url.is_none()
            && self.trusted_proxies.is_empty();
        let mut limits = self.rate_limits.unwrap_or_else(|| {
            if is_in_process { RateLimits::in_process() } else { RateLimits::default() }
        });
        if let Some(attempts) = self.login_attempts {
            let attempts = attempts.map(|attempts| attempts.max(1));
            let logins = &mut limits.password_logins;
            logins.per_account = attempts;
            logins.per_address = attempts.map(|attempts| attempts.saturating_mul(10));
            logins.total = logins.total.filter(|_| attempts.is_some());
        }
        limits
    }
}
