//! Looking names up, without a thread for each request.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long a looked-up address serves.
const ADDRESS_LIFE: Duration = Duration::from_secs(30);

/// Looks names up with ureq's own resolver, which starts a thread for each look-up that has a
/// time-out, but only on a miss: an address literal needs no look-up, and a name's addresses serve
/// for 30 s.
#[derive(Debug, Default)]
pub(super) struct CachingResolver {
    inner: DefaultResolver,
    known: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (Some(host), Some(scheme)) = (uri.host(), uri.scheme_str()) else {
            return self.inner.resolve(uri, config, timeout);
        };
        let port = match (uri.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, "http") => 80,
            (None, "https") => 443,
            // A proxy's scheme.
            (None, _) => return self.inner.resolve(uri, config, timeout),
        };
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(self.list(&[SocketAddr::new(address, port)]));
        }
        let key = format!("{host}:{port}");
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, addresses)) = known.get(&key)
            && since.elapsed() < ADDRESS_LIFE
        {
            return Ok(self.list(addresses));
        }
        drop(known);
        let found = self.inner.resolve(uri, config, timeout).map_err(|error| match error {
            // The system's "name not known" has no kind of its own.
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, (Instant::now(), found.to_vec()));
        Ok(found)
    }
}

impl CachingResolver {
    fn list(&self, addresses: &[SocketAddr]) -> ResolvedSocketAddrs {
        let mut list = self.empty();
        for address in addresses.iter().take(16) {
            list.push(*address);
        }
        list
    }
}
