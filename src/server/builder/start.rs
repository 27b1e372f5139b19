//! Checks the settings and starts the server.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::ServerBuilder;
use crate::base_url::BaseUrl;
use crate::server::Server;
use crate::server::budget::Budget;
use crate::server::client_address::TrustedProxies;
use crate::server::clock::ServerClock;
use crate::server::faults::Faults;
use crate::server::http::{HttpServer, reachable};
use crate::server::journal::Recorder;
use crate::server::password::Passwords;
use crate::server::random::Ids;
use crate::server::service::Service;
use crate::server::state::{State, StateLimits};
use crate::server::test_provider::TestProvider;
use crate::server::text::is_plain;
use crate::server::throttle::Throttle;
use crate::server::token::Tokens;

/// Longer time-outs are reduced to this, because sockets and clocks cannot represent every
/// `Duration`.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Longer token lifetimes are reduced to this, because clients support no time after the year 9999.
const LONGEST_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl ServerBuilder {
    /// Opens the data directory, if one was set, and starts the server. The server accepts
    /// connections when this returns.
    ///
    /// # Errors
    /// - `InvalidInput` if the app id has characters that are not allowed or is not the app id of
    ///   the data directory; if a lifetime is shorter than a second; if the path of the data
    ///   directory is empty; if other machines can reach the address and
    ///   [`allow_public`](Self::allow_public) was not called; if a provider's keys or addresses are
    ///   unusable; or if a [test identity provider](Self::test_identity_provider) would be
    ///   reachable from outside this machine.
    /// - `ResourceBusy` if another server has the data directory open; `InvalidData` if its content
    ///   cannot be read, or a part of it is missing.
    /// - The operating system's errors about the address or the directory. The message names it.
    pub fn start(self) -> io::Result<Server> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.app_id.is_empty() || !self.app_id.bytes().all(allowed) {
            let expected = "expected ASCII letters, digits, `-`, `_` and `.`";
            return Err(invalid(format!("the app id {:?} is none: {expected}", self.app_id)));
        }
        if !(self.allow_public || self.addr.ip().to_canonical().is_loopback()) {
            return Err(invalid(format!(
                "{} can be reached from other machines: call `allow_public()` if that is meant",
                self.addr
            )));
        }
        let is_loopback = self.addr.ip().to_canonical().is_loopback();
        if self.test_provider && (!is_loopback || self.public_url.is_some()) {
            return Err(invalid(
                "the test identity provider lets anyone sign in as anyone: it needs a loopback \
                 address and no public URL"
                    .to_owned(),
            ));
        }
        let rate_limits = self.effective_rate_limits();
        let access_lifetime = seconds(self.access_token_lifetime);
        let refresh_lifetime = seconds(self.refresh_token_lifetime);
        if access_lifetime == 0 || refresh_lifetime == 0 {
            return Err(invalid("a token must last for at least a second".to_owned()));
        }
        if self.data_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            return Err(invalid("the path of the data directory is empty".to_owned()));
        }

        for (name, page) in [("confirm", &self.email.confirm_url), ("reset", &self.email.reset_url)]
        {
            let is_url = |url: &str| !url.contains(char::is_whitespace) && is_plain(url);
            if let Some(url) = page.as_deref().filter(|url| !is_url(url)) {
                return Err(invalid(format!(
                    "{name}_url {url:?} has blanks or control characters"
                )));
            }
        }
        let public_url = self.public_url.as_deref().map(url).transpose().map_err(invalid)?;
        let mut limits = self.limits;
        for time in [&mut limits.idle, &mut limits.request, &mut limits.response, &mut limits.stop]
        {
            *time = (*time).clamp(Duration::from_millis(1), LONGEST);
        }
        let for_bodies = self.max_request_memory / 4;
        limits.proxies.clone_from(&self.trusted_proxies);
        // A body of the maximum size must always fit.
        limits.body_memory = for_bodies.max(self.max_body_size);
        let listener = TcpListener::bind(self.addr).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", self.addr))
        })?;
        let local_addr = listener.local_addr()?;
        let base_url = public_url.unwrap_or_else(|| format!("http://{}", reachable(local_addr)));
        let test_provider = self.test_provider.then(|| TestProvider::new(&base_url));
        let providers = self.providers.open(&self.app_id, test_provider.as_ref())?;
        let state_limits = StateLimits {
            users: self.max_users.max(1),
            sessions_per_user: self.max_sessions_per_user.max(1),
            access_lifetime,
        };
        let state = State::open(self.data_dir.as_deref(), &self.app_id, state_limits)?;
        let tokens = Tokens::new(state.signing_key(), state.deployment(), access_lifetime);
        let service = Arc::new(Service {
            app_id: self.app_id,
            argument_memory: Budget::new(self.max_request_memory - for_bodies),
            base_url,
            is_public: self.public_url.is_some(),
            local_addr,
            max_body_size: self.max_body_size,
            clock: ServerClock::new(self.clock),
            custom_data_source: self.custom_data,
            email: self.email,
            faults: Faults::new(),
            functions: self.functions,
            passwords: Passwords::new(),
            providers,
            recorder: Recorder::default(),
            refresh_lifetime,
            request_ids: Ids::new()?,
            rotate_refresh_tokens: self.rotate_refresh_tokens,
            rotation_grace: seconds(self.rotation_grace),
            state,
            test_provider,
            throttle: Throttle::new(rate_limits),
            tokens,
            trusted_proxies: TrustedProxies::new(self.trusted_proxies),
        });
        let http = HttpServer::start(listener, limits, Arc::clone(&service) as _)?;
        Ok(Server { service, http })
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.min(LONGEST_LIFETIME).as_secs()).unwrap_or(i64::MAX)
}

/// Returns the normalized form of a URL that sessions accept, without a trailing slash.
fn url(url: &str) -> Result<String, String> {
    let parsed = BaseUrl::parse(url, true);
    parsed.map(|url| url.to_string()).map_err(|why| format!("the public URL cannot be used: {why}"))
}
