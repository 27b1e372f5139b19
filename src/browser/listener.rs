//! The listener that receives the redirect from the browser: on this machine only, with limits, and
//! without threads of its own.
//!
//! The waiting thread polls the listener, so the listener is closed when the call ends: with a
//! result, a deadline, a cancellation or a panic. Any local program can connect to it, and any web
//! page can send requests to it. A request counts only if it carries the state of the sign-in,
//! which only the browser receives.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Instant;

use super::connection::{Connection, Turn};
use super::page;
use super::request::{Address, Refusal};

/// The maximum number of connections; a new one replaces the oldest.
const MAX_CONNECTIONS: usize = 128;

/// How many connections are accepted before the existing ones are served.
const BURST: usize = 64;

/// How many more free ports to try if the port chosen for IPv4 is in use on IPv6.
const ATTEMPTS: usize = 16;

/// The host of the redirect URL, as registered with the provider.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum RedirectHost {
    /// `http://127.0.0.1`, as RFC 8252 recommends. This is the default.
    #[default]
    Ipv4,
    /// `http://[::1]`.
    Ipv6,
    /// `http://localhost`, for providers that accept no address. keyfob listens on 127.0.0.1 and,
    /// if IPv6 is available, on ::1, because a browser may use either.
    Localhost,
}

/// Listens for the redirect.
pub(super) struct Listener {
    sockets: Vec<TcpListener>,
    connections: VecDeque<Connection>,
    address: Address,
    redirect_uri: String,
}

/// The result of one poll.
pub(super) enum Poll<T> {
    /// The response to the sign-in, and its connection.
    Found(T, Connection),
    /// No bytes were transferred.
    Idle,
    /// Connections were accepted or bytes were transferred.
    Active,
}

impl Listener {
    /// Listens on the first free port of these; 0 stands for any free port.
    pub(super) fn bind(host: RedirectHost, ports: &[u16], path: &str) -> io::Result<Self> {
        let mut failure = None;
        for port in ports {
            match sockets(host, *port) {
                Ok((sockets, port)) => return Ok(Self::new(host, sockets, port, path)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| ErrorKind::InvalidInput.into()))
    }

    fn new(host: RedirectHost, sockets: Vec<TcpListener>, port: u16, path: &str) -> Self {
        let name = match host {
            RedirectHost::Ipv4 => "127.0.0.1",
            RedirectHost::Ipv6 => "[::1]",
            RedirectHost::Localhost => "localhost",
        };
        let mut hosts = vec![format!("{name}:{port}")];
        if port == 80 {
            hosts.push(name.to_owned());
        }
        // Browsers request a URL without a path as `/`.
        let wanted = if path.is_empty() { "/" } else { path };
        Self {
            sockets,
            connections: VecDeque::new(),
            address: Address { hosts, path: wanted.to_owned() },
            redirect_uri: format!("http://{name}:{port}{path}"),
        }
    }

    pub(super) fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// Serves all connections as far as possible without blocking. `judge` checks the parameters of
    /// each request to the callback.
    pub(super) fn poll<T>(&mut self, mut judge: impl FnMut(&str) -> Result<T, Refusal>) -> Poll<T> {
        let now = Instant::now();
        let mut is_active = self.accept(now);
        let mut index = 0;
        while let Some(connection) = self.connections.get_mut(index) {
            match connection.turn(&self.address, now) {
                Turn::Idle => index += 1,
                Turn::Active => {
                    is_active = true;
                    index += 1;
                }
                Turn::Over => drop(self.connections.remove(index)),
                Turn::Callback(parameters) => {
                    is_active = true;
                    match judge(&parameters) {
                        Ok(found) => {
                            if let Some(connection) = self.connections.remove(index) {
                                return Poll::Found(found, connection);
                            }
                        }
                        Err(refusal) => connection.respond(page::refusal(refusal)),
                    }
                }
            }
        }
        if is_active { Poll::Active } else { Poll::Idle }
    }

    fn accept(&mut self, now: Instant) -> bool {
        let mut is_active = false;
        for socket in &self.sockets {
            for _ in 0..BURST {
                match socket.accept() {
                    Ok((stream, _)) => {
                        is_active = true;
                        if self.connections.len() == MAX_CONNECTIONS {
                            self.connections.pop_front();
                        }
                        self.connections.extend(Connection::new(stream, now));
                    }
                    // The connection was reset before it was accepted; the next one may be fine.
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // For example, no file descriptors are left: the next poll tries again.
                    Err(_) => break,
                }
            }
        }
        is_active
    }
}

/// Listens on a port, on every address of the host.
fn sockets(host: RedirectHost, port: u16) -> io::Result<(Vec<TcpListener>, u16)> {
    let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    match host {
        RedirectHost::Ipv4 => listen(v4, port).map(|(socket, port)| (vec![socket], port)),
        RedirectHost::Ipv6 => listen(v6, port).map(|(socket, port)| (vec![socket], port)),
        RedirectHost::Localhost => {
            let mut attempt = 1;
            loop {
                let (first, chosen) = listen(v4, port)?;
                match listen(v6, chosen) {
                    Ok((second, _)) => return Ok((vec![first, second], chosen)),
                    // Another program uses this port on IPv6; a browser that prefers IPv6 would
                    // reach that program.
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {
                        if port != 0 || attempt == ATTEMPTS {
                            return Err(error);
                        }
                        attempt += 1;
                    }
                    // IPv6 is not available, so `localhost` is IPv4.
                    Err(_) => return Ok((vec![first], chosen)),
                }
            }
        }
    }
}

fn listen(address: IpAddr, port: u16) -> io::Result<(TcpListener, u16)> {
    let socket = TcpListener::bind(SocketAddr::new(address, port))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}
