//! Limits on connections, requests and responses.

use std::net::IpAddr;
use std::time::Duration;

/// Bodies of up to this many bytes are read without a reservation of memory.
pub(in crate::server) const SMALL_BODY: usize = 64 * 1024;

/// Limits on what clients may use.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Limits {
    /// Maximum number of open connections.
    pub connections: usize,
    /// Maximum number of open connections of one client: an IPv4 address, or a /64 network of IPv6.
    pub connections_per_client: usize,
    /// Proxies, which have no limit per client because they serve many clients.
    pub proxies: Vec<IpAddr>,
    /// Maximum size of a request line and its headers, in bytes.
    pub head: usize,
    /// Maximum memory of all bodies larger than [`SMALL_BODY`], in bytes.
    pub body_memory: usize,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// Time limit for receiving a request, from its first byte to its last.
    pub request: Duration,
    /// Time limit for writing a response.
    pub response: Duration,
    /// How long [`HttpServer::stop`](super::HttpServer::stop) waits for requests in progress.
    pub stop: Duration,
}
