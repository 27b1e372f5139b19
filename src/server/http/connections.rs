//! The open connections: their maximum number, and which one is closed for a new one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, Shutdown};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::limits::Limits;
use super::socket::Socket;

/// Maximum number of connections that were closed to make room and whose threads have not ended
/// yet.
const MAX_CLOSING: usize = 64;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Waiting for a request.
    Idle = 0,
    /// Receiving the head of a request.
    Head = 1,
    /// Receiving the body of a request.
    Body = 2,
    /// Writing a response, or discarding what the client still sends after it.
    Response = 3,
    /// Handling a request.
    Handling = 4,
    /// Closed to make room for another connection.
    Closed = 5,
}

/// The phase of a connection and when it began. It is shared by the connection's thread and the
/// accepting thread.
pub(super) struct Progress {
    epoch: Instant,
    /// Milliseconds since `epoch`, times eight, plus the phase.
    state: AtomicU64,
}

/// All open connections.
pub(super) struct Connections {
    most: usize,
    most_per_client: usize,
    /// Peers that serve many clients.
    proxies: Vec<IpAddr>,
    epoch: Instant,
    table: Mutex<Table>,
    ended: Condvar,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Open>,
    /// Threads that have closed their connection and need only be joined.
    done: Vec<JoinHandle<()>>,
}

struct Open {
    socket: Arc<Socket>,
    client: IpAddr,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

/// Unregisters a connection when its thread ends, even if it panics.
pub(super) struct Registration<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Idle, Self::Head, Self::Body, Self::Response, Self::Handling, Self::Closed];

    /// Returns how long a connection must have been in this phase before it may be closed to make
    /// room. That is longer than a request or response of a well-behaved client takes to transmit.
    /// Returns `None` if the connection may not be closed.
    fn closable_after(self) -> Option<Duration> {
        match self {
            Self::Idle => Some(Duration::ZERO),
            Self::Head => Some(Duration::from_millis(100)),
            Self::Body | Self::Response => Some(Duration::from_secs(1)),
            Self::Handling | Self::Closed => None,
        }
    }
}

impl Progress {
    fn new(epoch: Instant) -> Self {
        let progress = Self { epoch, state: AtomicU64::new(0) };
        progress.enter(Phase::Idle);
        progress
    }

    /// Records that a phase begins. Returns `false` if the connection was closed to make room and
    /// must not be used any more.
    pub(super) fn enter(&self, phase: Phase) -> bool {
        let millis = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX >> 3);
        let next = (millis << 3) | phase as u64;
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                (decode(state).0 != Phase::Closed).then_some(next)
            })
            .is_ok()
    }

    pub(super) fn phase(&self) -> Phase {
        decode(self.state.load(Ordering::SeqCst)).0
    }

    /// Closes the connection, unless its state has changed since it was read.
    fn close(&self, seen: u64) -> bool {
        let closed = Phase::Closed as u64;
        self.state.compare_exchange(seen, closed, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// Splits a state into the phase and the time at which it began.
fn decode(state: u64) -> (Phase, Duration) {
    let phase = usize::try_from(state & 7).unwrap_or_default();
    let phase = Phase::ALL.get(phase).copied().unwrap_or(Phase::Closed);
    (phase, Duration::from_millis(state >> 3))
}

impl Connections {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            most: limits.connections,
            most_per_client: limits.connections_per_client,
            proxies: limits.proxies.iter().map(IpAddr::to_canonical).collect(),
            epoch: Instant::now(),
            table: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Makes room for a connection of this peer, closing another one if necessary. Returns `false`
    /// if there is no room.
    ///
    /// If a client is at its limit, one of its own connections is closed. If the total is at its
    /// limit, a connection of the client with the most connections is closed. In both cases the
    /// phase decides first, in the order of [`Phase`]: idle connections before those that are
    /// receiving or sending. Within a phase, the connection that has been in it for longest is
    /// closed.
    pub(super) fn make_room(&self, peer: IpAddr) -> bool {
        let client = client_of(peer);
        let mut table = self.table();
        let (mut all, mut own) = (0, 0);
        for open in table.open.values().filter(|open| open.progress.phase() != Phase::Closed) {
            all += 1;
            own += usize::from(open.client == client);
        }
        let is_proxy = self.proxies.contains(&peer.to_canonical());
        let has_room = if own >= self.most_per_client && !is_proxy {
            self.close_one(&table, Some(client))
        } else {
            all < self.most || self.close_one(&table, None)
        };
        if !has_room {
            return false;
        }
        // Threads of closed connections end as soon as they are scheduled.
        let deadline = Instant::now() + Duration::from_millis(500);
        while table.open.len() >= self.most.saturating_add(MAX_CLOSING) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.ended.wait_timeout(table, left);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Closes one connection, if any may be closed, when the process is out of file descriptors.
    pub(super) fn close_any(&self) {
        self.close_one(&self.table(), None);
    }

    fn close_one(&self, table: &Table, client: Option<IpAddr>) -> bool {
        // The state of the best candidate may change before it is closed.
        (0..4).any(|_| {
            let Some((open, state)) = self.victim(table, client) else { return false };
            let closed = open.progress.close(state);
            if closed {
                open.socket.shutdown(Shutdown::Both);
            }
            closed
        })
    }

    /// Returns the connection to close, and its state. It belongs to this client, or to the one
    /// with the most connections.
    fn victim<'a>(&self, table: &'a Table, client: Option<IpAddr>) -> Option<(&'a Open, u64)> {
        let now = self.epoch.elapsed();
        let mut counts = HashMap::new();
        for open in table.open.values() {
            *counts.entry(open.client).or_insert(0_usize) += 1;
        }
        let candidates = table.open.values().filter_map(|open| {
            if client.is_some_and(|client| client != open.client) {
                return None;
            }
            let state = open.progress.state.load(Ordering::SeqCst);
            let (phase, since) = decode(state);
            let is_closable = phase.closable_after()? <= now.saturating_sub(since);
            is_closable.then_some((open, state, phase as u64, since))
        });
        let order = |(open, _, phase, since): &(&Open, u64, u64, Duration)| {
            (Reverse(counts.get(&open.client).copied()), *phase, *since)
        };
        candidates.min_by_key(order).map(|(open, state, ..)| (open, state))
    }

    /// Registers a connection and starts its thread. The lock is held during the start, so that the
    /// thread cannot end before its handle is stored.
    pub(super) fn add<F>(&self, socket: Socket, peer: IpAddr, start: F)
    where
        F: FnOnce(u64, Arc<Socket>, Arc<Progress>) -> Option<JoinHandle<()>>,
    {
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        let socket = Arc::new(socket);
        let progress = Arc::new(Progress::new(self.epoch));
        // If no thread could be started, dropping the socket closes the connection.
        if let Some(thread) = start(id, Arc::clone(&socket), Arc::clone(&progress)) {
            let client = client_of(peer);
            table.open.insert(id, Open { socket, client, progress, thread: Some(thread) });
        }
    }

    /// Returns a guard that unregisters the connection with this id.
    pub(super) fn registration(&self, id: u64) -> Registration<'_> {
        Registration { connections: self, id }
    }

    /// Joins the threads that have ended.
    pub(super) fn join_ended(&self) {
        let done = std::mem::take(&mut self.table().done);
        for thread in done {
            let _ = thread.join();
        }
    }

    /// Shuts down reading on connections that have not received a complete head.
    pub(super) fn stop_waiting(&self) {
        for open in self.table().open.values() {
            if matches!(open.progress.phase(), Phase::Idle | Phase::Head) {
                open.socket.shutdown(Shutdown::Read);
            }
        }
    }

    pub(super) fn close_all(&self) {
        for open in self.table().open.values() {
            open.socket.shutdown(Shutdown::Both);
        }
    }

    /// Waits until no connection is open. Returns `true` if that happens within `at_most`.
    pub(super) fn wait_until_none(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut table = self.table();
        while !table.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.ended.wait_timeout(table, left);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        if let Some(open) = table.open.remove(&self.id) {
            table.done.extend(open.thread);
        }
        drop(table);
        self.connections.ended.notify_all();
    }
}

/// Returns the client that an address is counted as: an IPv4 address, even if it is written as
/// IPv6, or the /64 network of an IPv6 address.
fn client_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

    const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

    /// Connections whose threads end when their stream does, and the clients' ends of the streams.
    struct Bed {
        connections: Arc<Connections>,
        listener: TcpListener,
    }

    struct Client {
        stream: TcpStream,
        progress: Arc<Progress>,
    }

    impl Bed {
        fn new(most: usize, most_per_client: usize) -> Self {
            let limits = Limits {
                connections: most,
                connections_per_client: most_per_client,
                proxies: vec![PROXY],
                ..Limits::default()
            };
            let connections = Arc::new(Connections::new(&limits));
            Self { connections, listener: TcpListener::bind("127.0.0.1:0").unwrap() }
        }

        /// Opens a connection that has been in this phase since the server's start.
        fn open(&self, peer: IpAddr, phase: Phase) -> Option<Client> {
            if !self.connections.make_room(peer) {
                return None;
            }
            let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = self.listener.accept().unwrap();
            let mut shared = None;
            let socket = Socket::new(accepted).unwrap();
            self.connections.add(socket, peer, |id, socket, progress| {
                shared = Some(Arc::clone(&progress));
                let connections = Arc::clone(&self.connections);
                let serve = move || {
                    let _registration = connections.registration(id);
                    let _ = socket.read(&mut [0], Duration::from_secs(60));
                };
                thread::Builder::new().spawn(serve).ok()
            });
            let progress = shared.unwrap();
            progress.state.store(phase as u64, Ordering::SeqCst);
            Some(Client { stream, progress })
        }

        fn age(&self, at_least: Duration) {
            while self.connections.epoch.elapsed() < at_least {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    impl Client {
        fn is_closed(&self) -> bool {
            self.progress.phase() == Phase::Closed
        }

        fn end(mut self) {
            self.stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(self.stream.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn client_at_limit_closes_own_oldest_idle() {
        let bed = Bed::new(10, 3);
        bed.age(Duration::from_millis(1100));
        let head = bed.open(A, Phase::Head).unwrap();
        let idle = [(); 2].map(|()| bed.open(A, Phase::Idle).unwrap());
        idle[0].progress.state.store(8 * 1000, Ordering::SeqCst);
        let other = bed.open(B, Phase::Idle).unwrap();
        let newest = bed.open(A, Phase::Handling).unwrap();
        assert_eq!(
            [&head, &idle[0], &idle[1], &other].map(Client::is_closed),
            [false, false, true, false]
        );
        let _second = bed.open(A, Phase::Handling).unwrap();
        assert!(idle[0].is_closed() && !head.is_closed());
        let _third = bed.open(A, Phase::Handling).unwrap();
        assert!(head.is_closed() && !newest.is_closed() && !other.is_closed());
        assert!(bed.open(A, Phase::Idle).is_none(), "requests that are handled are not cut off");
        assert!(bed.open(B, Phase::Idle).is_some());
    }

    #[test]
    fn full_server_closes_connection_of_busiest_client() {
        let bed = Bed::new(4, 4);
        let lone = bed.open(B, Phase::Idle).unwrap();
        let many = [(); 3].map(|()| bed.open(A, Phase::Idle).unwrap());
        let _fifth = bed.open(B, Phase::Handling).unwrap();
        assert_eq!(many.iter().filter(|client| client.is_closed()).count(), 1);
        assert!(!lone.is_closed());
    }

    #[test]
    fn fresh_request_is_not_cut_off() {
        let bed = Bed::new(1, 1);
        let client = bed.open(A, Phase::Idle).unwrap();
        for phase in [Phase::Head, Phase::Body, Phase::Response] {
            assert!(client.progress.enter(phase));
            assert!(bed.open(A, Phase::Idle).is_none(), "{phase:?}");
        }
        assert!(client.progress.enter(Phase::Idle));
        assert!(bed.open(A, Phase::Idle).is_some());
        assert!(!client.progress.enter(Phase::Head), "a request that arrives now is not read");
        client.end();
    }

    #[test]
    fn trusted_proxy_may_have_more_connections() {
        let bed = Bed::new(4, 1);
        let many = [(); 3].map(|()| bed.open(PROXY, Phase::Idle).unwrap());
        assert!(!many.iter().any(Client::is_closed));
    }

    #[test]
    fn addresses_of_one_network_share_limit() {
        let client = |ip: &str| client_of(ip.parse().unwrap());
        assert_eq!(client("::ffff:127.0.0.1"), A);
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:0:0:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("127.0.0.1"), client("127.0.0.2"));
    }
}
