//! A cache of the addresses of hosts, which also remembers which address connected last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::Uri;

/// How long the result of a look-up is used.
const MAX_AGE: Duration = Duration::from_secs(30);

/// The largest number of hosts in the cache: those of the backend and its proxy, and former ones.
const MAX_HOSTS: usize = 64;

/// The addresses of hosts.
#[derive(Debug, Default)]
pub(super) struct AddressBook(Mutex<HashMap<Key, Host>>);

/// A host and a port.
pub(super) type Key = (String, u16);

#[derive(Debug, Default)]
struct Host {
    addresses: Vec<SocketAddr>,
    /// When they were looked up; `None` if they must be looked up again.
    since: Option<Instant>,
    /// The address that connected last. It is tried first, even after the next look-up.
    good: Option<SocketAddr>,
    /// The address where an established connection failed last. It is tried last.
    bad: Option<SocketAddr>,
}

/// Returns the host and port of a URL; `None` if it has no host, or neither a port nor a known
/// scheme.
pub(super) fn key(uri: &Uri) -> Option<Key> {
    let port = match (uri.port_u16(), uri.scheme_str()?) {
        (Some(port), _) => port,
        (None, "http") => 80,
        (None, "https") => 443,
        (None, _) => return None,
    };
    Some((uri.host()?.to_owned(), port))
}

impl AddressBook {
    /// Returns the addresses of a host in the order in which to try them, if they were looked up
    /// recently.
    pub(super) fn get(&self, key: &Key) -> Option<Vec<SocketAddr>> {
        let hosts = self.lock();
        let host = hosts.get(key)?;
        host.since.filter(|since| since.elapsed() < MAX_AGE)?;
        Some(host.in_order())
    }

    /// Stores the result of a look-up, and returns it in the order in which to try it.
    pub(super) fn looked_up(&self, key: Key, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut hosts = self.lock();
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(&key) {
            hosts.clear();
        }
        let host = hosts.entry(key).or_default();
        (host.addresses, host.since) = (interleaved(addresses), Some(Instant::now()));
        host.in_order()
    }

    /// Records that an address connected.
    pub(super) fn connected(&self, key: Option<Key>, address: SocketAddr) {
        self.change(key, |host| {
            host.good = Some(address);
            host.bad = host.bad.filter(|bad| *bad != address);
        });
    }

    /// Records that no usable connection to a host could be made. The host will be looked up again,
    /// and the address that connected last will be tried last.
    pub(super) fn failed(&self, key: Option<Key>) {
        self.change(key, |host| {
            host.since = None;
            host.bad = host.good.take().or(host.bad);
        });
    }

    /// Requires all hosts to be looked up again, because a broken connection may mean that they
    /// have moved.
    pub(super) fn forget_lookups(&self) {
        self.lock().values_mut().for_each(|host| host.since = None);
    }

    fn change(&self, key: Option<Key>, change: impl FnOnce(&mut Host)) {
        if let Some(key) = key
            && let Some(host) = self.lock().get_mut(&key)
        {
            change(host);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn in_order(&self) -> Vec<SocketAddr> {
        let mut addresses = self.addresses.clone();
        let rank = |address: &SocketAddr| (Some(*address) == self.bad, Some(*address) != self.good);
        addresses.sort_by_key(rank);
        addresses
    }
}

/// Interleaves the addresses of both families, starting with the family of the first one.
///
/// Source: RFC 8305, section 4.
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let is_of_first = |address: &&SocketAddr| address.is_ipv6() == first.is_ipv6();
    let mut first = addresses.iter().filter(is_of_first);
    let mut other = addresses.iter().filter(|address| !is_of_first(address));
    let mut turns = Vec::with_capacity(addresses.len());
    while turns.len() < addresses.len() {
        turns.extend(first.next().into_iter().chain(other.next()));
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 443).into()
    }

    fn v6(last: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 443).into()
    }

    #[test]
    fn address_families_are_interleaved() {
        assert_eq!(
            interleaved(&[v6(1), v6(2), v6(3), v4(1), v4(2)]),
            [v6(1), v4(1), v6(2), v4(2), v6(3)]
        );
        assert_eq!(interleaved(&[v4(1), v6(1), v6(2)]), [v4(1), v6(1), v6(2)]);
        assert_eq!(interleaved(&[v4(2), v4(1)]), [v4(2), v4(1)]);
        assert_eq!(interleaved(&[]), []);
    }

    #[test]
    fn last_connected_address_is_first() {
        let (book, key) = (AddressBook::default(), || ("h".to_owned(), 443));
        let looked_up = || book.looked_up(key(), &[v4(1), v4(2), v4(3)]);
        assert_eq!(looked_up(), [v4(1), v4(2), v4(3)]);
        book.connected(Some(key()), v4(3));
        assert_eq!(book.get(&key()).unwrap(), [v4(3), v4(1), v4(2)]);
        book.forget_lookups();
        assert_eq!(book.get(&key()), None);
        assert_eq!(looked_up(), [v4(3), v4(1), v4(2)], "it survives a look-up");
        book.failed(Some(key()));
        assert_eq!(book.get(&key()), None);
        assert_eq!(looked_up(), [v4(1), v4(2), v4(3)]);
        book.connected(Some(key()), v4(1));
        book.failed(Some(key()));
        assert_eq!(looked_up(), [v4(2), v4(3), v4(1)], "what failed is last");
        book.connected(Some(key()), v4(1));
        assert_eq!(looked_up(), [v4(1), v4(2), v4(3)], "it works again");
        book.connected(Some(("other".to_owned(), 443)), v4(1));
        book.failed(None);
        assert_eq!(book.get(&("other".to_owned(), 443)), None);
    }

    #[test]
    fn cache_is_bounded() {
        let book = AddressBook::default();
        for number in 0..MAX_HOSTS * 3 {
            let key = (format!("h{number}"), 443);
            book.looked_up(key.clone(), &[v4(1)]);
            assert!(book.lock().len() <= MAX_HOSTS && book.get(&key).is_some());
        }
    }

    #[test]
    fn key_is_host_and_port() {
        for (url, expected) in [
            ("https://h/x", Some(("h".to_owned(), 443))),
            ("http://h", Some(("h".to_owned(), 80))),
            ("http://h:8080/", Some(("h".to_owned(), 8080))),
            ("https://[::1]:1/", Some(("[::1]".to_owned(), 1))),
            ("socks5://h", None),
            ("/x", None),
        ] {
            assert_eq!(key(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
