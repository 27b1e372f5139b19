//! Rate limit settings, and which address a client is counted by.

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

    /// Sets [`RateLimits::password_logins`]: how many failed password log-ins an account may have
    /// within 15 minutes. An address may have ten times as many. Further attempts get status 429
    /// and `Retry-After`, whether the password is correct or not. `None` removes all three limits,
    /// including the total; zero counts as one. Defaults to 20.
    pub fn login_attempts(mut self, attempts: Option<u32>) -> Self {
        self.login_attempts = Some(attempts);
        self
    }

    /// Sets the addresses of reverse proxies in front of this server. None by default.
    ///
    /// For a request from one of them, rate limits count the right-most address in
    /// `X-Forwarded-For` that is not a trusted proxy. If the header is missing, or malformed before
    /// such an address, they count the address of the proxy. The server ignores the header in
    /// requests from all other addresses.
    ///
    /// Name only proxies that append the address they see, as nginx, Caddy and HAProxy can. If a
    /// trusted proxy passes on the header that clients send, a client can evade the limits with
    /// false addresses.
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
