//! Resolves host names within a deadline. The system's resolver has no timeout, so it runs on a
//! thread, at most one for each name.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::failure::Failure;
use super::limit::Limit;

/// The lookups in progress, by host name.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    lookups: Arc<Mutex<HashMap<String, Arc<Lookup>>>>,
}

#[derive(Debug, Default)]
struct Lookup {
    found: Mutex<Option<Result<Vec<IpAddr>, io::ErrorKind>>>,
    done: Condvar,
}

impl Resolver {
    /// Returns the addresses of a host. Joins a lookup of the same name if one is in progress.
    pub(super) fn resolve(
        &self,
        host: &str,
        port: u16,
        limit: Limit,
    ) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let lookup = self.join(host)?;
        let mut found = lookup.found.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*found {
                Some(Ok(addresses)) => {
                    return Ok(addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
                }
                Some(Err(kind)) => return Err(Failure::Connect(*kind)),
                None => {}
            }
            let wait = limit.wait();
            if wait.is_zero() {
                return Err(Failure::TimedOut);
            }
            let waited = lookup.done.wait_timeout(found, wait);
            found = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn join(&self, host: &str) -> Result<Arc<Lookup>, Failure> {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = lookups.get(host) {
            return Ok(Arc::clone(lookup));
        }
        let lookup = Arc::<Lookup>::default();
        let (name, own, all) = (host.to_owned(), Arc::clone(&lookup), Arc::clone(&self.lookups));
        thread::Builder::new()
            .name("keyfob-redis-dns".to_owned())
            .spawn(move || {
                // `to_socket_addrs` requires a port; it is not used.
                let found = (name.as_str(), 0).to_socket_addrs();
                let found = found.map(|found| found.map(|address| address.ip()).collect());
                all.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                let found = found.map_err(|error: io::Error| error.kind());
                *own.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                own.done.notify_all();
            })
            .map_err(|error| Failure::Connect(error.kind()))?;
        lookups.insert(host.to_owned(), Arc::clone(&lookup));
        Ok(lookup)
    }
}
