//! A small blocking HTTP/1.1 server: one thread per connection, with `httparse` as the parser.
//!
//! It manages sockets, threads and time-outs. It is independent of the protocol above HTTP: a
//! [`Handler`] turns each [`Request`] into an [`Outcome`], which the connection's loop carries out.
//! Guarantees:
//!
//! - No connection holds a thread forever: waiting for a request, reading it and writing a response
//!   each have a time limit, and head and body each have a size limit.
//! - Framing is parsed strictly, so that a proxy in front cannot see different requests: one
//!   `Content-Length` of digits or one `Transfer-Encoding: chunked`, never both, and CRLF only.
//! - [`HttpServer::stop`] takes bounded time, whatever clients and handlers do.

mod body;
mod connection;
mod connections;
mod handler;
mod limits;
mod request;
mod response;
mod socket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::connection::{Connection, turn_away};
use self::connections::Connections;
use self::socket::Socket;
use super::budget::Budget;
pub(super) use handler::Handler;
pub(super) use limits::{Limits, SMALL_BODY};
#[cfg(test)]
pub(super) use request::read;
pub(super) use request::{Framing, Line, Rejection, Request};
pub(super) use response::{Outcome, Response};

/// Maximum number of rejected connections that wait for their error response.
const MAX_REFUSALS: usize = 64;

/// A running server.
pub(super) struct HttpServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Arc<dyn Handler>,
    limits: Limits,
    stopping: AtomicBool,
    connections: Connections,
    bodies: Arc<Budget>,
}

impl HttpServer {
    /// Starts accepting connections.
    pub(super) fn start(
        listener: TcpListener,
        limits: Limits,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let connections = Connections::new(&limits);
        let stopping = AtomicBool::new(false);
        let bodies = Budget::new(limits.body_memory);
        let shared = Arc::new(Shared { handler, limits, stopping, connections, bodies });
        let (queue, refused) = mpsc::sync_channel(MAX_REFUSALS);
        let refuser = thread::Builder::new().name("keyfob-refuse".into()).spawn({
            let shared = Arc::clone(&shared);
            move || refuse(&refused, &shared)
        })?;
        let acceptor = thread::Builder::new().name("keyfob-accept".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                accept(&listener, &shared, &queue);
                drop(queue);
                let _ = refuser.join();
            }
        })?;
        Ok(Self { shared, address, acceptor: Some(acceptor) })
    }

    /// Stops accepting, closes connections on which no request has arrived, lets requests in
    /// progress complete within [`Limits::stop`], and joins the threads. If a handler takes longer
    /// than that, its connection is closed and its thread is not joined.
    pub(super) fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        let Shared { stopping, connections, limits, .. } = &*self.shared;
        stopping.store(true, Ordering::SeqCst);
        // The acceptor blocks in `accept`, and a connection wakes it. If connecting fails, for
        // example for lack of a file descriptor, the thread ends at the next connection.
        if TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1)).is_ok() {
            let _ = acceptor.join();
        }
        connections.stop_waiting();
        if !connections.wait_until_none(limits.stop) {
            connections.close_all();
            connections.wait_until_none(Duration::from_millis(250));
        }
        connections.join_ended();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Starts a thread for a connection.
    fn admit(self: &Arc<Self>, socket: Socket, peer: IpAddr) {
        self.connections.add(socket, peer, |id, socket, progress| {
            let shared = Arc::clone(self);
            let serve = move || {
                let _registration = shared.connections.registration(id);
                let connection = Connection {
                    socket: &socket,
                    peer,
                    progress: &progress,
                    limits: &shared.limits,
                    bodies: &shared.bodies,
                    handler: &*shared.handler,
                    stopping: &|| shared.is_stopping(),
                };
                connection.serve();
            };
            thread::Builder::new().name("keyfob-connection".into()).spawn(serve).ok()
        });
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, refused: &SyncSender<Socket>) {
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            return;
        }
        shared.connections.join_ended();
        match accepted {
            Ok((stream, peer)) => {
                let Ok(socket) = Socket::new(stream) else { continue };
                if shared.connections.make_room(peer.ip()) {
                    shared.admit(socket, peer.ip());
                } else {
                    // Closed without a response if too many others wait for theirs.
                    let _ = refused.try_send(socket);
                }
            }
            // The client closed the connection before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Most likely out of file descriptors.
            Err(_) => {
                shared.connections.close_any();
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Responds to the connections that exceed the limit, on a separate thread: a client that does not
/// read its response must not block accepting.
fn refuse(refused: &Receiver<Socket>, shared: &Shared) {
    for socket in refused {
        if !shared.is_stopping() {
            turn_away(&socket, &*shared.handler);
        }
    }
}

/// Returns an address by which this machine reaches a listener on `address`.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
