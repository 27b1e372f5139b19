//! Tests of the transport on ureq.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::*;
use crate::cancel::CancelToken;
use crate::deadline::Deadline;

/// Resolves every host to the addresses that the function returns for the time limit. `None` is
/// a timeout.
struct StubResolver<F>(F);

impl<F> fmt::Debug for StubResolver<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StubResolver")
    }
}

impl<F> Resolver for StubResolver<F>
where
    F: Fn(Duration) -> Option<Vec<SocketAddr>> + Send + Sync + 'static,
{
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = self.0(*timeout.after).ok_or(ureq::Error::Timeout(timeout.reason))?;
        let mut found = self.empty();
        addresses.into_iter().for_each(|address| found.push(address));
        Ok(found)
    }
}

/// Never connects.
struct Fails(fn() -> ureq::Error);

impl fmt::Debug for Fails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fails")
    }
}

impl Connector for Fails {
    type Out = Box<dyn wire::Transport>;

    fn connect(
        &self,
        _: &wire::ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Err(self.0())
    }
}

/// A transport with another connector and resolver.
fn transport(connector: impl Connector, resolver: impl Resolver) -> UreqTransport {
    let mut transport = UreqTransport::builder().no_proxy().build().unwrap();
    let config = transport.agent.config().clone();
    transport.agent = Agent::with_parts(config, connector, resolver);
    transport
}

fn request() -> Request {
    let deadline = Deadline::after(Duration::from_secs(10));
    let url = "http://backend.invalid/".to_owned();
    Request { fresh: true, ..Request::new(Method::Post, url, deadline, 1) }
}

/// Sends a request with another connector and resolver, which fails.
fn failure(connector: impl Connector, resolver: impl Resolver) -> TransportError {
    transport(connector, resolver).send(&request()).unwrap_err()
}

/// A transport for a host with these addresses, and its address book.
fn at(addresses: &[SocketAddr]) -> (UreqTransport, Arc<AddressBook>) {
    let book = Arc::<AddressBook>::default();
    let addresses = addresses.to_vec();
    let inner = Arc::new(StubResolver(move |_| Some(addresses.clone())));
    let resolver = CachingResolver { inner, book: book.clone() };
    let mut transport = transport(connector(book.clone()), resolver);
    transport.addresses = book.clone();
    (transport, book)
}

/// A server that returns 204 on each connection until the flag is cleared.
fn server() -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, is_there) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
    let serves = is_there.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(std::io::Result::ok) {
            if !serves.load(Ordering::SeqCst) {
                break;
            }
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n");
        }
    });
    (address, is_there)
}

/// An address where nothing responds, because its queue of connections is full, for as long as
/// the other values exist.
#[cfg(any(target_os = "linux", windows))]
fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Duration::from_millis(200);
    let queue: Vec<_> =
        (0..10_000).map_while(|_| TcpStream::connect_timeout(&address, patience).ok()).collect();
    (address, listener, queue)
}

#[test]
#[cfg(any(target_os = "linux", windows))]
fn dead_first_address_delays_first_call_only() {
    let (dead, _listener, _queue) = black_hole();
    let (alive, _) = server();
    let (transport, book) = at(&[dead, alive]);
    let host = ("backend.invalid".to_owned(), 80);
    let begin = std::time::Instant::now();
    transport.send(&request()).unwrap();
    let first = begin.elapsed();
    assert!(first >= Duration::from_millis(250) && first < Duration::from_secs(3), "{first:?}");
    assert_eq!(book.get(&host).unwrap(), [alive, dead]);
    let begin = std::time::Instant::now();
    for _ in 0..20 {
        transport.send(&request()).unwrap();
        // The book remembers which address works even after another look-up.
        book.forget_lookups();
    }
    assert!(begin.elapsed() < Duration::from_millis(250) * 20, "{:?}", begin.elapsed());
}

#[test]
#[cfg(any(target_os = "linux", windows))]
fn silent_addresses_end_at_deadline() {
    let (dead, _listener, _queue) = black_hole();
    let (transport, _) = at(&[dead, dead, dead]);
    let deadline = Deadline::after(Duration::from_secs(1));
    let begin = std::time::Instant::now();
    let error = transport.send(&Request { deadline, ..request() }).unwrap_err();
    assert_eq!((error.kind, error.may_have_arrived()), (Kind::Timeout, false));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// Sends a request on a thread of its own, and cancels it there.
fn cancelled(transport: UreqTransport) -> TransportError {
    let token = CancelToken::new();
    let deadline = Deadline::after(Duration::from_secs(3600)).with_cancel(&token);
    let caller =
        std::thread::spawn(move || transport.send(&Request { deadline, ..request() }).unwrap_err());
    (0..1000).for_each(|_| std::thread::yield_now());
    let begin = std::time::Instant::now();
    token.cancel();
    let error = caller.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    error
}

#[test]
#[cfg(target_os = "linux")]
fn cancelled_call_stops_connecting() {
    let (dead, _listener, _queue) = black_hole();
    for addresses in [&[dead][..], &[dead, dead, dead]] {
        let error = cancelled(at(addresses).0);
        assert_eq!((error.kind, error.may_have_arrived()), (Kind::Timeout, false));
    }
}

#[test]
fn cancelled_call_stops_looking_up() {
    let (_lookup, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let book = Arc::<AddressBook>::default();
    let inner = Arc::new(StubResolver(move |_| {
        let _ = wait.lock().unwrap().recv();
        None
    }));
    let resolver = CachingResolver { inner, book: book.clone() };
    let error = cancelled(transport(connector(book), resolver));
    assert_eq!((error.kind, error.may_have_arrived()), (Kind::Timeout, false));
}

#[test]
fn failed_connection_forgets_address() {
    let (first, is_there) = server();
    let (second, _) = server();
    let (transport, book) = at(&[first, second]);
    let host = ("backend.invalid".to_owned(), 80);
    transport.send(&request()).unwrap();
    assert_eq!(book.get(&host).unwrap(), [first, second]);
    // Wait until it refuses connections.
    is_there.store(false, Ordering::SeqCst);
    drop(TcpStream::connect(first));
    while TcpStream::connect(first).is_ok() {
        std::thread::yield_now();
    }
    transport.send(&request()).unwrap();
    assert_eq!(book.get(&host).unwrap(), [second, first]);
    let (transport, book) = at(&[first]);
    let error = transport.send(&request()).unwrap_err();
    assert_eq!((error.kind, error.may_have_arrived()), (Kind::Connect, false));
    assert_eq!(book.get(&host), None);
}

#[test]
fn broken_connection_repeats_look_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let (transport, book) = at(&[address]);
    let error = transport.send(&request()).unwrap_err();
    assert_eq!((error.kind, error.may_have_arrived()), (Kind::Interrupted, true));
    assert_eq!(book.get(&("backend.invalid".to_owned(), 80)), None);
}

#[test]
fn look_up_timeout_has_sent_nothing() {
    let error = failure(
        connector(Arc::default()),
        StubResolver(|limit| {
            assert!(limit < Duration::from_secs(8), "the look-up has a time limit");
            None
        }),
    );
    assert_eq!(error.kind, Kind::Timeout);
    assert!(!error.may_have_arrived());
}

#[test]
fn connect_errors_have_sent_nothing() {
    let failures: [(fn() -> ureq::Error, Kind); 5] = [
        (|| ureq::Error::Timeout(ureq::Timeout::Connect), Kind::Timeout),
        // After a slow look-up the call's own timeout is the shorter one.
        (|| ureq::Error::Timeout(ureq::Timeout::Global), Kind::Timeout),
        // The session was shut down.
        (|| io::Error::from(io::ErrorKind::NotConnected).into(), Kind::Connect),
        (|| io::Error::from(io::ErrorKind::UnexpectedEof).into(), Kind::Connect),
        (|| io::Error::from(io::ErrorKind::InvalidData).into(), Kind::Tls),
    ];
    for (cause, kind) in failures {
        let book = Arc::<AddressBook>::default();
        let inner = TagConnectErrors { inner: Fails(cause), book: book.clone() };
        let found = StubResolver(|_| Some(vec![([127, 0, 0, 1], 9).into()]));
        let error = failure(TagConnectErrors { inner, book }, found);
        assert_eq!(error.kind, kind);
        assert!(!error.may_have_arrived(), "{kind:?}");
    }
}

#[test]
fn network_error_after_sending_is_interrupted() {
    for cause in [
        io::ErrorKind::AddrNotAvailable,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::InvalidData,
        io::ErrorKind::NetworkDown,
        io::ErrorKind::NetworkUnreachable,
    ] {
        let error = ureq::Error::Io(cause.into());
        assert_eq!(
            (kind(&error, false), kind(&error, true) == Kind::Interrupted),
            (Kind::Interrupted, false)
        );
    }
}

#[test]
fn error_names_only_origin() {
    for (url, expected) in [
        ("https://example.org:8443/api?secret=1", "https://example.org:8443"),
        ("http://[::1]:80/", "http://[::1]:80"),
        ("http://h?x", "http://h"),
        ("nonsense", "nonsense"),
    ] {
        assert_eq!(origin(url), expected);
    }
}
