//! Client addresses behind proxies: which address a request is counted by.

use std::net::{IpAddr, SocketAddr};

/// The proxies whose `X-Forwarded-For` header is trusted.
#[derive(Debug, Default)]
pub(super) struct TrustedProxies(Vec<IpAddr>);

impl TrustedProxies {
    pub(super) fn new(proxies: Vec<IpAddr>) -> Self {
        Self(proxies.iter().map(IpAddr::to_canonical).collect())
    }

    /// Returns the address of the client. It is the peer's address unless the peer is a trusted
    /// proxy. For a trusted proxy it is the right-most address of `X-Forwarded-For` that is not a
    /// trusted proxy. Each proxy appends the address that it sees, and everything to the left came
    /// from the client.
    ///
    /// If the header is missing, or malformed before such an address, this returns the peer's
    /// address.
    pub(super) fn client(&self, peer: IpAddr, headers: &[(String, String)]) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.0.contains(&peer) {
            return peer;
        }
        let fields = headers.iter().rev().filter(|(name, _)| name == "x-forwarded-for");
        let mut client = peer;
        for entry in fields.flat_map(|(_, value)| value.rsplit(',')) {
            let Some(address) = parse(entry.trim()) else { return peer };
            client = address;
            if !self.0.contains(&client) {
                break;
            }
        }
        client
    }
}

/// Parses an address. Some proxies add the port.
fn parse(text: &str) -> Option<IpAddr> {
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    let address = text.parse().ok().or_else(with_port).or_else(in_brackets)?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.3", "fd00::1"];
        let trusted = TrustedProxies::new(trusted.map(|ip| ip.parse().unwrap()).to_vec());
        let header = |value: &&str| ("x-forwarded-for".to_owned(), (*value).to_owned());
        let headers: Vec<_> = forwarded.iter().map(header).collect();
        trusted.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn untrusted_peer_is_client() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn rightmost_untrusted_address_is_client() {
        for (forwarded, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            (&["203.0.113.9,198.51.100.7 , 10.0.0.2"], "198.51.100.7"),
            (&["203.0.113.9", "198.51.100.7", "10.0.0.2, 10.0.0.3"], "198.51.100.7"),
            (&["garbage, \u{e4}, 198.51.100.7"], "198.51.100.7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["2001:db8::7, fd00::1"], "2001:db8::7"),
            (&["::ffff:198.51.100.7"], "198.51.100.7"),
            (&["10.0.0.2"], "10.0.0.2"),
        ] {
            assert_eq!(client("10.0.0.1", forwarded), expected, "{forwarded:?}");
            assert_eq!(client("::ffff:10.0.0.1", forwarded), expected, "{forwarded:?}");
        }
    }

    #[test]
    fn malformed_header_leaves_peer() {
        for forwarded in [
            &[][..],
            &[""],
            &["unknown"],
            &["198.51.100.7, "],
            &["198.51.100.7, unknown, 10.0.0.2"],
            &["198.51.100.7", "nonsense"],
            &["1.2.3.4.5"],
            &["198.51.100.7:port"],
        ] {
            assert_eq!(client("10.0.0.1", forwarded), "10.0.0.1", "{forwarded:?}");
        }
    }
}
