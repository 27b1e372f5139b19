//! Cached name resolution.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::time::Duration;

use super::addresses::{AddressBook, key};
use super::call::Call;
use crate::deadline::receive;

/// Uses the address book, and otherwise ureq's own resolver, which starts a thread for each look-up
/// with a timeout. An address literal needs no look-up.
#[derive(Debug)]
pub(super) struct CachingResolver<R = DefaultResolver> {
    pub(super) inner: Arc<R>,
    pub(super) book: Arc<AddressBook>,
}

impl<R: Resolver + 'static> Resolver for CachingResolver<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(key) = key(uri) else { return self.inner.resolve(uri, config, timeout) };
        let host = key.0.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(self.list(&[SocketAddr::new(address, key.1)]));
        }
        if let Some(known) = self.book.get(&key) {
            return Ok(self.list(&known));
        }
        let found = self.look_up(uri, config, timeout).map_err(|error| match error {
            // std has no error kind for an unknown host name.
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })?;
        Ok(self.list(&self.book.looked_up(key, &found)))
    }
}

impl<R: Resolver + 'static> CachingResolver<R> {
    /// Asks the resolver, which ureq's own does on a thread. For a call that can be cancelled the
    /// thread is started here, and the wait for it ends with the call.
    fn look_up(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let call @ Some(_) = Call::cancellable() else {
            return self.inner.resolve(uri, config, timeout);
        };
        let (report, found) = mpsc::sync_channel(1);
        let (inner, uri, config) = (Arc::clone(&self.inner), uri.clone(), config.clone());
        thread::Builder::new().name("keyfob-dns".to_owned()).spawn(move || {
            let timeout = NextTimeout { after: Duration::NotHappening, ..timeout };
            // The call may have ended.
            let _ = report.send(inner.resolve(&uri, &config, timeout));
        })?;
        let timed_out = |_| Err(ureq::Error::Timeout(timeout.reason));
        receive(&found, *timeout.after, call).unwrap_or_else(timed_out)
    }

    fn list(&self, addresses: &[SocketAddr]) -> ResolvedSocketAddrs {
        let mut list = self.empty();
        for address in addresses.iter().take(16) {
            list.push(*address);
        }
        list
    }
}
