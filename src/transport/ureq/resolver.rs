//! Name resolution, without a thread for each request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::addresses::{AddressBook, key};

/// Looks names up with ureq's own resolver, which starts a thread for each look-up that has a
/// timeout, but only if the address book does not know them. An address literal needs no look-up.
#[derive(Debug)]
pub(super) struct CachingResolver<R = DefaultResolver> {
    pub(super) inner: R,
    pub(super) book: Arc<AddressBook>,
}

impl<R: Resolver> Resolver for CachingResolver<R> {
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
        let found = self.inner.resolve(uri, config, timeout).map_err(|error| match error {
            // The system's "name not known" has no kind of its own.
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })?;
        Ok(self.list(&self.book.looked_up(key, &found)))
    }
}

impl<R: Resolver> CachingResolver<R> {
    fn list(&self, addresses: &[SocketAddr]) -> ResolvedSocketAddrs {
        let mut list = self.empty();
        for address in addresses.iter().take(16) {
            list.push(*address);
        }
        list
    }
}
