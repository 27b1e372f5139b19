//! A small blocking HTTP/1.1 server: one thread per connection, parsing by `httparse`.
//!
//! It owns sockets, threads and time-outs, and knows nothing of what is asked: a [`Handler`] turns
//! each [`Request`] into an [`Outcome`], which the connection's loop carries out. What it promises:
//!
//! - No connection holds a thread for ever: waiting for a request, reading one and writing an
//!   answer each have a limit in time, and head and body one in size.
//! - Framing is read strictly, so that no proxy in front can see other requests than we do: one
//!   `Content-Length` of digits or one `Transfer-Encoding: chunked`, never both, and CRLF only.
//! - [`HttpServer::stop`] is bounded, whatever clients and handlers do.

mod body;
mod connection;
mod connections;
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
#[cfg(test)]
pub(super) use request::read;
pub(super) use request::{Framing, Line, Rejection, Request};
pub(super) use response::{Outcome, Response};

/// Bodies up to this many bytes are read without a reservation of memory.
pub(super) const SMALL_BODY: usize = 64 * 1024;
/// Connections that wait for the response that there is no room for them, at most.
const MAX_REFUSALS: usize = 64;

/// What answers requests.
pub(super) trait Handler: Send + Sync + 'static {
    /// Answers a request. Runs on the connection's own thread, may block, and may panic: the client
    /// is told that something went wrong, and other connections go on.
    fn handle(&self, request: &Request) -> Outcome;

    /// Decides by the head of a request how many bytes its body may have, or answers it at once,
    /// without its body; the connection is closed after that. The request's body is still empty.
    fn admit(&self, request: &Request, framing: Framing) -> Result<usize, Response>;

    /// Words the answer to something that could not be read as a request, or the answer in place
    /// of a handler that panicked. The connection is closed after it.
    fn reject(&self, rejection: &Rejection) -> Response;
}

/// How much one client may use.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Open connections of one client: an IPv4 address, or a /64 network of IPv6.
    pub connections_per_client: usize,
    /// Peers to which that does not apply: proxies, behind which there are many clients.
    pub proxies: Vec<IpAddr>,
    /// Bytes of a request line and its headers.
    pub head: usize,
    /// Bytes of all bodies larger than [`SMALL_BODY`] that are in memory.
    pub body_memory: usize,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// How long a request may take to arrive, from its first byte to its last.
    pub request: Duration,
    /// How long an answer may take to be written.
    pub response: Duration,
    /// How long [`HttpServer::stop`] waits for requests that are being answered.
    pub stop: Duration,
}

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
    /// Starts to accept connections.
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

    /// Stops accepting, closes connections on which no request has arrived, lets the requests in
    /// progress complete within [`Limits::stop`], and joins the threads. A thread whose handler is
    /// stuck beyond that is left behind, without its connection.
    pub(super) fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        let Shared { stopping, connections, limits, .. } = &*self.shared;
        stopping.store(true, Ordering::SeqCst);
        // The acceptor blocks in `accept`; a connection wakes it. Should that fail, because there
        // is no descriptor left for it, the thread ends with the next connection instead.
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

    /// Gives a connection its thread.
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
                    // Closed without a response if too many wait for theirs.
                    let _ = refused.try_send(socket);
                }
            }
            // The client gave up before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Out of file descriptors, most likely.
            Err(_) => {
                shared.connections.close_any();
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Answers the connections for which there is no room, on a thread of its own: a client that does
/// not take its response must not keep others from being accepted.
fn refuse(refused: &Receiver<Socket>, shared: &Shared) {
    for socket in refused {
        if !shared.is_stopping() {
            turn_away(&socket, &*shared.handler);
        }
    }
}

/// Returns the address under which this machine reaches a listener on `address`.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
