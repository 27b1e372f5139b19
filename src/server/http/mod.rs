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
mod date;
mod request;
mod response;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(super) use date::http_date;
#[cfg(test)]
pub(super) use request::read;
pub(super) use request::{Line, Rejection, Request};
pub(super) use response::{Outcome, Response};

/// What answers requests.
pub(super) trait Handler: Send + Sync + 'static {
    /// Answers a request. Runs on the connection's own thread, may block, and may panic: the client
    /// is told that something went wrong, and other connections go on.
    fn handle(&self, request: &Request) -> Outcome;

    /// Words the answer to something that could not be read as a request, or the answer in place
    /// of a handler that panicked. The connection is closed after it.
    fn reject(&self, rejection: &Rejection) -> Response;
}

/// How much one client may use.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Bytes of a request line and its headers.
    pub head: usize,
    /// Bytes of a request body, after chunks are put together.
    pub body: usize,
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
    connections: Mutex<Connections>,
    ended: Condvar,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, (Arc<TcpStream>, Option<JoinHandle<()>>)>,
    /// Threads that have let go of their connection and only need joining.
    done: Vec<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts to accept connections.
    pub(super) fn start(
        listener: TcpListener,
        limits: Limits,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            handler,
            limits,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let acceptor = thread::Builder::new().name("keyfob-accept".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Self { shared, address, acceptor: Some(acceptor) })
    }

    /// Stops accepting, closes idle connections, lets requests that are being answered end within
    /// [`Limits::stop`], and joins the threads. A thread whose handler is stuck beyond that is left
    /// behind, without its connection.
    pub(super) fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The acceptor blocks in `accept`; a connection wakes it. Should that fail, because there
        // is no descriptor left for it, the thread ends with the next connection instead.
        if TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1)).is_ok() {
            let _ = acceptor.join();
        }
        // A reader sees the end of its stream; an answer on its way is still written.
        self.shared.shut(Shutdown::Read);
        if !self.shared.wait_for_connections(self.shared.limits.stop) {
            self.shared.shut(Shutdown::Both);
            self.shared.wait_for_connections(Duration::from_millis(250));
        }
        let done = std::mem::take(&mut self.shared.connections().done);
        for thread in done {
            let _ = thread.join();
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn shut(&self, how: Shutdown) {
        for (stream, _) in self.connections().open.values() {
            let _ = stream.shutdown(how);
        }
    }

    /// Waits until no connection is open, and tells whether that came about in time.
    fn wait_for_connections(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut connections = self.connections();
        while !connections.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            connections = self
                .ended
                .wait_timeout(connections, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Gives a connection its thread. The lock is held over the spawn, so that the thread cannot
    /// end before its handle is where it looks for it.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: IpAddr) {
        let mut connections = self.connections();
        let done = std::mem::take(&mut connections.done);
        if connections.open.len() >= self.limits.connections {
            drop(connections);
            connection::turn_away(&stream, &*self.handler);
        } else {
            let id = connections.next;
            connections.next += 1;
            let stream = Arc::new(stream);
            let thread = thread::Builder::new().name("keyfob-connection".into()).spawn({
                let (shared, stream) = (Arc::clone(self), Arc::clone(&stream));
                move || {
                    // Taken back when the thread ends in whatever way.
                    let _open = OpenConnection { shared: &shared, id };
                    let stopping = || shared.is_stopping();
                    connection::serve(&stream, peer, &shared.limits, &*shared.handler, &stopping);
                }
            });
            // Without a thread to be had the connection is dropped, which closes it.
            if let Ok(thread) = thread {
                connections.open.insert(id, (stream, Some(thread)));
            }
            drop(connections);
        }
        for thread in done {
            let _ = thread.join();
        }
    }
}

/// A connection's entry among the open ones.
struct OpenConnection<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        let mut connections = self.shared.connections();
        if let Some((_, thread)) = connections.open.remove(&self.id) {
            connections.done.extend(thread);
        }
        drop(connections);
        self.shared.ended.notify_all();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => shared.admit(stream, peer.ip()),
            // The client gave up before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Out of descriptors, most likely: some time may bring one back.
            Err(_) => thread::sleep(Duration::from_millis(20)),
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
