//! The listener that the browser is redirected to: on this machine only, bounded, without threads.
//!
//! It is polled by the thread that waits, so it ends with the call, whatever ends that: a result, a
//! deadline, a cancellation or a panic. Any local program can connect to it and any web page can
//! send it requests; nothing but the state of the sign-in, which only the browser learns, makes a
//! request count.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Instant;

use super::connection::{Connection, Turn};
use super::page;
use super::request::{Address, Refusal};

/// So many connections are served at a time; a new one replaces the oldest.
const MAX_CONNECTIONS: usize = 128;

/// So many connections are accepted before those that there are get their turn.
const BURST: usize = 64;

/// How often another free port is tried if the one that IPv4 got is in use on IPv6.
const ATTEMPTS: usize = 16;

/// The host of the redirect URL, as it is registered with the provider.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum RedirectHost {
    /// `http://127.0.0.1`, as RFC 8252 recommends. The default.
    #[default]
    Ipv4,
    /// `http://[::1]`.
    Ipv6,
    /// `http://localhost`, for providers that accept nothing else. The listener is on 127.0.0.1 and,
    /// where there is IPv6, on ::1, since a browser may use either.
    Localhost,
}

/// Listens for the browser.
pub(super) struct Listener {
    sockets: Vec<TcpListener>,
    connections: VecDeque<Connection>,
    address: Address,
    redirect_uri: String,
}

/// What a poll came to.
pub(super) enum Poll<T> {
    /// The response to the sign-in, and the connection that brought it.
    Found(T, Connection),
    /// Nothing moved.
    Idle,
    /// Something moved.
    Active,
}

impl Listener {
    /// Listens on the first of these ports that is free; 0 is any.
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
        // A URL without a path is requested as `/`.
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

    /// Serves all connections as far as that needs no waiting. `judge` looks at the parameters of
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
                    // One that was reset before it was accepted says nothing about the next.
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // Out of file descriptors, say: the next poll tries again.
                    Err(_) => break,
                }
            }
        }
        is_active
    }
}

/// Listens on a port, on the addresses that the host has.
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
                    // Another program has it, and browsers that prefer IPv6 would go there.
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {
                        if port != 0 || attempt == ATTEMPTS {
                            return Err(error);
                        }
                        attempt += 1;
                    }
                    // There is no IPv6 here, so `localhost` is IPv4.
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
